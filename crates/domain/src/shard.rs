//! Which of several queues carries a message, where one is not enough.

use std::num::NonZeroU16;

use uuid::Uuid;

/// Into how many shards work is divided: one at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shards(NonZeroU16);

/// One of the shards, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u16);

impl Default for Shards {
    fn default() -> Self {
        Self::ONE
    }
}

impl Shards {
    /// Work that is not divided.
    pub const ONE: Self = Self(NonZeroU16::MIN);

    /// So many; none counts as one.
    pub fn new(count: u16) -> Self {
        NonZeroU16::new(count).map_or(Self::ONE, Self)
    }

    /// How many there are.
    pub const fn count(self) -> u16 {
        self.0.get()
    }

    /// All of them.
    pub fn all(self) -> impl Iterator<Item = Shard> {
        (0..self.count()).map(Shard)
    }

    /// The shard of what has this id: the same in every process and version. Ids are spread evenly, and one more shard
    /// takes its part from all others and moves nothing between them (Lamping and Veach, *A Fast, Minimal Memory,
    /// Consistent Hash Algorithm*, 2014).
    pub fn of(self, id: Uuid) -> Shard {
        let count = u64::from(self.count());
        let (mut shard, mut next, mut key) = (0, 0, mixed(id));
        while next < count {
            shard = next;
            key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
            // The paper's quotient of floating point numbers, in whole ones: `next` has 16 bits at most.
            next = ((shard + 1) << 31) / ((key >> 33) + 1);
        }
        Shard(u16::try_from(shard).unwrap_or(0))
    }
}

impl Shard {
    /// The one that there always is.
    pub const FIRST: Self = Self(0);

    /// Its number, from 0.
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// An id as 64 bits that look like random ones, however near to each other ids are: `SplitMix64` (Steele, Lea and Flood,
/// 2014) over its halves.
fn mixed(id: Uuid) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |bits: u64| {
        let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    };
    let (high, low) = id.as_u64_pair();
    mix(mix(high.wrapping_add(STEP)) ^ low)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDS: u128 = 20_000;

    /// Ids of one millisecond that differ in their last bits only, and ids that differ in their time only.
    fn similar_ids() -> impl Iterator<Item = Uuid> {
        let millisecond = 0x0193_6f00_0000_7000_8000_0000_0000_0000;
        let same_time = (0..IDS / 2).map(move |n| Uuid::from_u128(millisecond + n));
        same_time.chain((0..IDS / 2).map(move |n| Uuid::from_u128(millisecond + (n << 80))))
    }

    #[test]
    fn ids_are_spread_evenly_however_near_to_each_other_they_are() {
        for count in [2, 3, 4, 7, 16, 64] {
            let mut ids_of = vec![0_u32; count.into()];
            for id in similar_ids() {
                ids_of[usize::from(Shards::new(count).of(id).number())] += 1;
            }
            let even = f64::from(u32::try_from(IDS).unwrap()) / f64::from(count);
            // Five standard deviations.
            let off = 5.0 * even.sqrt();
            for ids in ids_of {
                assert!((f64::from(ids) - even).abs() < off, "{ids} ids instead of {even} in one of {count}");
            }
        }
    }

    #[test]
    fn one_more_shard_takes_its_part_and_moves_nothing_between_the_others() {
        for count in [1, 2, 3, 4, 9, 63] {
            let (before, after) = (Shards::new(count), Shards::new(count + 1));
            let mut moved = 0_u32;
            for id in similar_ids().filter(|id| before.of(*id) != after.of(*id)) {
                assert_eq!(after.of(id).number(), count, "it moved to a shard that there was");
                moved += 1;
            }
            let part = f64::from(u32::try_from(IDS).unwrap()) / f64::from(count + 1);
            assert!((f64::from(moved) - part).abs() < 5.0 * part.sqrt(), "{moved} moved instead of {part}");
        }
    }

    #[test]
    fn where_an_id_belongs_never_changes() {
        // Other processes, and messages that wait, go by it.
        let ids = (0..16).map(|n| Uuid::from_u128(0x0193_6f00_0000_7000_8000_0000_0000_0000 + n));
        let shards: Vec<_> = ids.map(|id| Shards::new(4).of(id).number()).collect();
        assert_eq!(shards, [2, 2, 2, 3, 1, 3, 3, 0, 2, 3, 2, 2, 0, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn every_id_has_a_shard_that_there_is(id: u128, count in 1_u16..=64) {
            let (id, shards) = (Uuid::from_u128(id), Shards::new(count));
            prop_assert!(shards.all().any(|shard| shard == shards.of(id)));
            prop_assert_eq!(Shards::ONE.of(id), Shard::FIRST);
        }

        #[test]
        fn fewer_shards_move_only_what_was_in_those_that_are_gone(id: u128, count in 1_u16..=63, more in 1_u16..=64) {
            let (id, few, many) = (Uuid::from_u128(id), Shards::new(count), Shards::new(count.saturating_add(more)));
            let (before, after) = (many.of(id), few.of(id));
            prop_assert!(before == after || before.number() >= count);
        }
    }
}
