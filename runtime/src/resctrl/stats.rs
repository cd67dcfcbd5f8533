//! What a group of resctrl may use and does use, as runc's `events` prints it (its `types/events.go`).

use std::fs;
use std::path::{Path, PathBuf};

use crate::sorted::{list_of, map_of};
use serde_json::{Map, Value};

/// `intel_rdt` of a stats event: the host's limits, the shares of the root and of the group, and what the kernel counts
/// for each L3 cache. What the host does not have is left out, and so is a count that is `Unavailable` or `Error`
/// (resctrl.rst) at the moment.
#[must_use]
pub fn stats(root: &Path, group: &Path, monitoring: Option<&Path>) -> Value {
    let mut all = Map::new();
    for (resource, [info, of_root, of_group], numbers) in [
        (
            "L3",
            ["l3_cache_info", "l3_cache_schema_root", "l3_cache_schema"],
            &["min_cbm_bits", "num_closids"][..],
        ),
        (
            "MB",
            ["mem_bw_info", "mem_bw_schema_root", "mem_bw_schema"],
            &["bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids"],
        ),
    ] {
        let dir = root.join("info").join(resource);
        if dir.is_dir() {
            let mut limits = Map::new();
            limits.extend(read(&dir.join("cbm_mask")).map(|mask| ("cbm_mask".to_owned(), mask.into())));
            limits.extend(counts(&dir, numbers).into_iter().filter(|(_, number)| *number != 0));
            all.insert(info.to_owned(), Value::Object(limits));
            for (key, dir) in [(of_root, root), (of_group, group)] {
                all.extend(schema(dir, resource).map(|line| (key.to_owned(), line.into())));
            }
        }
    }
    let caches = caches(monitoring.unwrap_or(group));
    for (key, files) in
        [("mbm_stats", &["mbm_total_bytes", "mbm_local_bytes"][..]), ("cmt_stats", &["llc_occupancy"])]
    {
        let counted = caches.iter().map(|dir| Value::Object(counts(dir, files)));
        // In the order of the caches: one without a count keeps its place.
        let counted: Vec<Value> = counted.collect();
        if counted.iter().any(|of| of.as_object().is_some_and(|of| !of.is_empty())) {
            all.insert(key.to_owned(), counted.into());
        }
    }
    Value::Object(all)
}

fn read(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_owned())
}

/// The files of a directory that hold a number.
fn counts(dir: &Path, files: &[&str]) -> Map<String, Value> {
    let count = |file: &&str| Some(((*file).to_owned(), read(&dir.join(file))?.parse::<u64>().ok()?.into()));
    map_of(files.iter().filter_map(count))
}

/// A group's line for a resource; with code and data apart (`L3CODE`, `L3DATA`) the last, as in runc.
fn schema(group: &Path, resource: &str) -> Option<String> {
    let text = read(&group.join("schemata"))?;
    let line = text.lines().map(str::trim).rfind(|line| line.starts_with(resource));
    line.map(str::to_owned)
}

/// What is counted for each L3 cache, in the caches' order.
fn caches(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group.join("mon_data")).into_iter().flatten().flatten();
    let of_l3 = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("mon_L3_");
    list_of(entries.filter(|entry| of_l3(&entry.file_name())).map(|entry| entry.path()))
}

#[cfg(test)]
mod tests {
    //! On a fake tree with the kernel's files, since machines with resctrl are few.

    use serde_json::json;

    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (file, text) in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn all_that_runc_prints() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("info/L3/cbm_mask", "fffff\n"),
                ("info/L3/min_cbm_bits", "1\n"),
                ("info/L3/num_closids", "16\n"),
                ("info/MB/bandwidth_gran", "10\n"),
                ("info/MB/delay_linear", "0\n"),
                ("info/MB/min_bandwidth", "10\n"),
                ("info/MB/num_closids", "8\n"),
                ("info/L3_MON/mon_features", "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n"),
                ("schemata", "    MB:0=100;1=100\n    L3:0=fffff;1=fffff\n"),
                ("c1/schemata", "    MB:0= 20;1= 70\n    L3:0=7f0;1=1f\n"),
                ("c1/mon_data/mon_L3_01/llc_occupancy", "123456\n"),
                ("c1/mon_data/mon_L3_01/mbm_total_bytes", "7000\n"),
                ("c1/mon_data/mon_L3_01/mbm_local_bytes", "6000\n"),
                ("c1/mon_data/mon_L3_00/llc_occupancy", "0\n"),
                ("c1/mon_data/mon_L3_00/mbm_total_bytes", "Unavailable\n"),
                ("c1/mon_data/mon_L3_00/mbm_local_bytes", "5\n"),
                ("c1/mon_data/mon_PERF_PKG_00/core_energy", "1.5\n"),
            ],
        );
        assert_eq!(
            stats(root.path(), &root.path().join("c1"), None),
            json!({
                "l3_cache_info": {"cbm_mask": "fffff", "min_cbm_bits": 1, "num_closids": 16},
                "l3_cache_schema_root": "L3:0=fffff;1=fffff",
                "l3_cache_schema": "L3:0=7f0;1=1f",
                "mem_bw_info": {"bandwidth_gran": 10, "min_bandwidth": 10, "num_closids": 8},
                "mem_bw_schema_root": "MB:0=100;1=100",
                "mem_bw_schema": "MB:0= 20;1= 70",
                "mbm_stats": [
                    {"mbm_local_bytes": 5},
                    {"mbm_total_bytes": 7000, "mbm_local_bytes": 6000}
                ],
                "cmt_stats": [{"llc_occupancy": 0}, {"llc_occupancy": 123_456}]
            })
        );
    }

    #[test]
    fn the_containers_own_monitoring_group_counts() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("gold/mon_data/mon_L3_00/llc_occupancy", "999\n"),
                ("gold/mon_groups/c1/mon_data/mon_L3_00/llc_occupancy", "44\n"),
            ],
        );
        let group = root.path().join("gold");
        let own = group.join("mon_groups/c1");
        assert_eq!(stats(root.path(), &group, Some(&own)), json!({"cmt_stats": [{"llc_occupancy": 44}]}));
        // A host that has no monitoring, or a group that is gone.
        assert_eq!(stats(root.path(), &root.path().join("none"), None), json!({}));
    }
}
