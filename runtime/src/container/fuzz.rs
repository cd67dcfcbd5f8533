//! Targets of `crate::fuzz` among the container code.

use std::path::Path;

use oci_spec::runtime::Spec;

use super::brief::Brief;
use super::dir::{merge, validate_id};
use super::idmap;
use super::process_stat::ProcessStat;
use super::rootless::{parse_ranges, user_name};
use super::runc_config::RuncConfig;
use super::state::State;
use super::{CgroupManager, RootSwitch, Runtime};
use crate::spec;

/// state.json, another runtime's too.
pub(crate) fn state(data: &[u8], _: &Path) {
    if let Ok(id) = std::str::from_utf8(data) {
        if validate_id(id).is_ok() {
            assert_eq!(Path::new("/root").join(id).parent(), Some(Path::new("/root")), "one component");
        }
    }
    if let Ok(brief) = Brief::from_text(data) {
        drop((brief.bundle(), brief.annotations(), brief.freezer().map(|freezer| freezer.paths())));
    }
    let Ok(state) = serde_json::from_slice::<State>(data) else { return };
    if let Ok(text) = Brief::with(&state) {
        let (brief, whole) = (Brief::from_text(&text).ok(), serde_json::from_slice::<State>(&text).ok());
        assert_eq!(brief, whole.as_ref().map(Brief::of), "the head is not what the whole says");
    }
    for kind in ["prestart", "poststart", "poststop"] {
        drop(state.hooks(kind));
    }
    let Ok(mut value) = serde_json::to_value(&state) else { return };
    // As a rewrite does, then another reads it.
    if let Ok(mut whole) = serde_json::from_slice::<serde_json::Value>(data) {
        merge(&mut whole, value.clone());
        assert!(serde_json::from_value::<State>(whole).is_ok(), "not read back after a rewrite");
    }
    let old = value.clone();
    merge(&mut value, old.clone());
    assert_eq!(value, old);
}

/// What create writes for a config is read back by the commands that follow.
pub(crate) fn state_of(config: &Spec, rootfs: &Path) {
    let runtime = Runtime { root: "/run/davit".into(), cgroups: CgroupManager::Cgroupfs, rootless: false };
    let bundle = Path::new("/bundle");
    let mut state = State::new(&runtime, "fuzz", bundle, config, rootfs, true);
    state.config.rest = RuncConfig::new(config, bundle, RootSwitch::Pivot).ok();
    let text = serde_json::to_vec(&state).unwrap_or_default();
    let read = serde_json::from_slice::<State>(&text);
    assert!(read.is_ok_and(|read| read.id == state.id), "create's own state.json is not read");
}

/// Maps of /proc/PID/uid_map, of subuid(5), and /proc/PID/stat.
pub(crate) fn id_maps(data: &[u8], _: &Path) {
    if let Some(stat) = ProcessStat::parse(data) {
        let _ = stat.start;
    }
    let text = String::from_utf8_lossy(data);
    let map = idmap::parse(&text);
    for range in &map {
        for id in [0, 1, range.container_id(), range.container_id().wrapping_add(range.size()), u32::MAX] {
            let _ = spec::host_id(&map, id);
        }
    }
    let name = user_name(&text, 1000);
    for (first, count) in parse_ranges(&text, 1000, name.as_deref()) {
        assert!(count > 0 && first.checked_add(count).is_some());
    }
}
