//! Cutting a list where it gets too large.

/// Cuts a list into runs of at most `max_items` and, beyond the first item of each, at most `max_bytes`.
pub(crate) fn chunks<T>(
    items: &[T],
    max_items: usize,
    max_bytes: usize,
    bytes_of: impl Fn(&T) -> usize,
) -> Vec<&[T]> {
    let mut chunks = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, item) in items.iter().enumerate() {
        let size = bytes_of(item);
        let is_full = index - start >= max_items || bytes + size > max_bytes;
        if is_full && index > start {
            chunks.push(&items[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    if start < items.len() {
        chunks.push(&items[start..]);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_by_number_and_by_bytes_and_nothing_is_lost() {
        let cut = |items: &[usize], max_items, max_bytes| -> Vec<Vec<usize>> {
            chunks(items, max_items, max_bytes, |size| *size).into_iter().map(<[usize]>::to_vec).collect()
        };
        assert_eq!(cut(&[], 2, 10), Vec::<Vec<usize>>::new());
        assert_eq!(cut(&[1, 1, 1, 1, 1], 2, 10), [vec![1, 1], vec![1, 1], vec![1]]);
        assert_eq!(cut(&[6, 4, 1, 9, 2], 9, 10), [vec![6, 4], vec![1, 9], vec![2]]);
        assert_eq!(cut(&[50, 1, 50], 9, 10), [vec![50], vec![1], vec![50]], "one item may be too large");
        assert_eq!(cut(&[0, 0], 0, 0), [vec![0], vec![0]], "always at least one");
    }
}
