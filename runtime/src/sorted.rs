//! Sorted maps and lists of a few entries. The standard library's sort is compiled anew for each type and comparison: 3 to
//! 4 KB of the program each.

/// Collects pairs into a `BTreeMap` or a JSON object. `collect()` would sort the pairs first.
pub(crate) fn map_of<M: Default + Extend<T>, T>(pairs: impl IntoIterator<Item = T>) -> M {
    let mut map = M::default();
    map.extend(pairs);
    map
}

/// Collects items into a sorted list.
pub(crate) fn list_of<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let items: Vec<T> = items.into_iter().collect();
    let order = order(items.len(), &|a, b| items.get(a).cmp(&items.get(b)));
    let mut items: Vec<_> = items.into_iter().map(Some).collect();
    order.into_iter().filter_map(|place| items.get_mut(place)?.take()).collect()
}

/// The places of a list's items in their order: the one sort that all types share.
fn order(length: usize, compare: &dyn Fn(usize, usize) -> std::cmp::Ordering) -> Vec<usize> {
    let mut places: Vec<usize> = (0..length).collect();
    places.sort_by(|a, b| compare(*a, *b));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_sorted_and_keeps_all_items() {
        assert_eq!(list_of([3, 1, 2, 1]), [1, 1, 2, 3]);
        assert_eq!(list_of(["b".to_owned(), "a".to_owned()]), ["a", "b"]);
        assert_eq!(list_of((0..100).rev()), (0..100).collect::<Vec<_>>());
        assert!(list_of(Vec::<u8>::new()).is_empty());
    }
}
