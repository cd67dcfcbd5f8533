//! Making sorted maps.

/// Collects pairs into a `BTreeMap` or a JSON object. `collect()` sorts the pairs first, by a stable sort that is compiled
/// anew for each place that does it: 4 KB of the program each, for maps of a few entries.
pub(crate) fn map_of<M: Default + Extend<T>, T>(pairs: impl IntoIterator<Item = T>) -> M {
    let mut map = M::default();
    map.extend(pairs);
    map
}
