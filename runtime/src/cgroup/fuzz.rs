//! Targets of `crate::fuzz` among the cgroup code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};

use super::devices::fuzz::device_rules;
use super::layout::{Layout, parse_proc_cgroup};
use super::{Cgroup, OnDenied, report, systemd, v1, v2};
use crate::fuzz::sentence;

/// The keys of state.json's cgroup_paths.
const V1: [&str; 9] = ["cpuset", "memory", "cpu", "cpuacct", "pids", "blkio", "hugetlb", "rdma", "devices"];

fn cgroups(dir: &Path) -> [Option<Cgroup>; 2] {
    let of = |keys: &[&str]| {
        let paths: BTreeMap<String, PathBuf> =
            keys.iter().map(|key| ((*key).to_owned(), dir.to_owned())).collect();
        Cgroup::open(&paths).ok()
    };
    [of(&V1), of(&[""])]
}

/// Control files: `@NAME` on a line of its own, then the file's text.
pub(crate) fn files(data: &[u8], scratch: &Path) {
    let dir = scratch.join("cgroup");
    let _ = fs::create_dir_all(&dir);
    let text = String::from_utf8_lossy(data);
    let mut made = Vec::new();
    for section in text.split('@').take(40) {
        let (name, content) = section.split_once('\n').unwrap_or((section, ""));
        let plain = !name.is_empty()
            && name.len() < 64
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte));
        if plain && fs::write(dir.join(name), content).is_ok() {
            made.push(dir.join(name));
        }
    }
    for cgroup in cgroups(&dir).into_iter().flatten() {
        drop((v1::stats::read(&cgroup), v2::stats::read(&cgroup), cgroup.stats()));
        drop((report::report(&cgroup, None), cgroup.oom_kills(), cgroup.pids(), cgroup.exists()));
    }
    device_rules(&text);
    let numbers = report::cpu_list(&text);
    assert!(numbers.len() <= 8192, "a list of more than the kernel's processors");
    made.iter().for_each(|file| drop(fs::remove_file(file)));
}

/// linux.resources of `update --resources`, written to the control files of a container of each version.
pub(crate) fn resources(data: &[u8], scratch: &Path) {
    let Ok(resources) = serde_json::from_slice::<LinuxResources>(data) else { return };
    let dir = scratch.join("limits");
    let _ = fs::create_dir_all(&dir);
    for file in CONTROL_FILES {
        let _ = fs::write(dir.join(file), "0\n");
    }
    for cgroup in cgroups(&dir).into_iter().flatten() {
        if let Err(error) = cgroup.apply_limits(&resources) {
            sentence(&error);
        }
    }
    super::devices::fuzz::device_list(resources.devices().as_deref().unwrap_or_default());
    let names = fs::read_dir(&dir).into_iter().flatten().flatten().count();
    assert_eq!(names, CONTROL_FILES.len(), "files were made in a cgroup");
    let _ = fs::remove_file(scratch.join("cgroup.procs"));
}

const CONTROL_FILES: &[&str] = &[
    "cpuset.cpus",
    "cpuset.mems",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "memory.kmem.limit_in_bytes",
    "memory.swappiness",
    "memory.oom_control",
    "memory.use_hierarchy",
    "memory.usage_in_bytes",
    "cpu.shares",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpu.cfs_burst_us",
    "cpu.rt_runtime_us",
    "cpu.rt_period_us",
    "cpu.idle",
    "pids.max",
    "blkio.weight",
    "blkio.leaf_weight",
    "blkio.weight_device",
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
    "hugetlb.2MB.limit_in_bytes",
    "hugetlb.2MB.max",
    "net_cls.classid",
    "net_prio.ifpriomap",
    "rdma.max",
    "cgroup.controllers",
    "cgroup.subtree_control",
    "memory.max",
    "memory.swap.max",
    "memory.low",
    "memory.current",
    "cpu.weight",
    "cpu.max",
    "cpu.max.burst",
    "io.max",
    "io.weight",
    "io.bfq.weight",
];

/// Where a config's cgroup is: never outside of the hierarchy.
pub(crate) fn place(spec: &Spec, scratch: &Path) {
    let Some(linux) = spec.linux() else { return };
    let layout = Layout::pure_v2(scratch);
    let cgroup = match Cgroup::resolve(&layout, "fuzz", linux.cgroups_path().as_deref(), OnDenied::Fail) {
        Ok(cgroup) => cgroup,
        Err(error) => return sentence(&error),
    };
    for path in cgroup.paths().into_values() {
        let below = path.strip_prefix(scratch).map(|below| below.components().all(normal));
        assert_eq!(below, Ok(true), "a cgroup outside of its hierarchy: {}", path.display());
    }
}

fn normal(component: std::path::Component<'_>) -> bool {
    matches!(component, std::path::Component::Normal(_))
}

/// `KEY=VALUE` lines: annotations that become properties of a systemd unit, and a cgroupsPath.
pub(crate) fn annotations(data: &[u8], _: &Path) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.lines().take(50) {
        let (key, value) = line.split_once('=').unwrap_or(("org.systemd.property.CPUWeight", line));
        systemd::fuzz::annotation(key, value);
        systemd::fuzz::unit(line);
    }
}

/// Replies of a bus.
pub(crate) fn dbus(data: &[u8], _: &Path) {
    systemd::fuzz::message(data);
}

/// /proc/PID/mountinfo, then `@`, then /proc/PID/cgroup.
pub(crate) fn proc_files(data: &[u8], _: &Path) {
    let text = String::from_utf8_lossy(data);
    let (mountinfo, cgroup) = text.split_once('@').unwrap_or((&text, ""));
    for line in parse_proc_cgroup(cgroup) {
        assert!(!line.path.contains('\n'));
    }
    let Ok(layout) = Layout::parse(mountinfo, cgroup) else { return };
    for hierarchy in layout.hierarchies() {
        let own = hierarchy.own_dir();
        assert!(own.is_ok_and(|dir| dir.starts_with(&hierarchy.mountpoint)), "outside of its mount");
    }
    if let Ok(cgroup) = Cgroup::resolve(&layout, "fuzz", None, OnDenied::Ignore) {
        drop(cgroup.paths());
    }
}
