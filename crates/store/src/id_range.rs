//! The span of time that a batch of ids covers.

use uuid::Uuid;

/// The smallest and the largest id of the milliseconds that a batch covers, for `id BETWEEN …` beside the ids themselves.
/// PostgreSQL then looks into the partitions of the batch's days alone: it cannot tell them from the array of ids
/// when the statement is planned once for all executions. An event and its deliveries have the same millisecond, so
/// one range serves both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdRange {
    pub(crate) first: Uuid,
    pub(crate) last: Uuid,
}

/// Bytes of a UUIDv7 that hold the milliseconds (RFC 9562 §5.7).
const TIME_BYTES: usize = 6;

impl IdRange {
    /// The range of these ids; of none, a range that holds none.
    pub(crate) fn of(ids: impl IntoIterator<Item = Uuid>) -> Self {
        let none = Self { first: Uuid::max(), last: Uuid::nil() };
        let range = ids
            .into_iter()
            .fold(none, |range, id| Self { first: range.first.min(id), last: range.last.max(id) });
        if range == none {
            return none;
        }
        let filled = |id: Uuid, byte: u8| {
            let mut bytes = id.into_bytes();
            bytes[TIME_BYTES..].fill(byte);
            Uuid::from_bytes(bytes)
        };
        Self { first: filled(range.first, 0), last: filled(range.last, u8::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_covers_the_milliseconds_of_its_ids_and_no_more() {
        let id = |time: u64, rest: u64| Uuid::from_u64_pair(time << 16 | 0x7123, rest);
        let range = IdRange::of([id(20, 5), id(10, 9), id(15, 1)]);
        assert_eq!(range.first, Uuid::from_u64_pair(10 << 16, 0));
        assert_eq!(range.last, Uuid::from_u64_pair(20 << 16 | 0xffff, u64::MAX));
        assert!(id(9, u64::MAX) < range.first && range.last < id(21, 0));
    }

    #[test]
    fn no_ids_are_in_no_range() {
        let range = IdRange::of([]);
        assert!(range.last < range.first);
    }
}
