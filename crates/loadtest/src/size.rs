//! How much of everything a run does.

/// The size of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// A minute for all: what guards ratios in CI.
    Short,
    /// Ten minutes: what figures are told of.
    Normal,
    /// What takes longer and says more about what is flat.
    All,
}

impl Size {
    /// Events of a burst, of what there are of them normally.
    pub(crate) fn events(self, normal: usize) -> usize {
        match self {
            Self::Short => normal / 10,
            Self::Normal | Self::All => normal,
        }
    }

    /// Seconds at a steady rate, of what there are of them normally.
    pub(crate) fn seconds(self, normal: u32) -> u32 {
        match self {
            Self::Short => (normal / 5).max(3),
            Self::Normal => normal,
            Self::All => normal * 2,
        }
    }
}
