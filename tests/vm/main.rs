//! What a build machine's own kernel and init cannot show: limits of cgroup v2 with all controllers, AppArmor,
//! systemd as PID 1. Runs as root in the virtual machine of `hack/vm`; `hack/test vm` builds it and takes it there.

use std::fs;
use std::path::{Path, PathBuf};

mod apparmor;
mod checkpoint;
mod hierarchy;
mod kubelet;
mod legacy;
mod limits;
mod memory;
mod systemd;
mod unit;
mod user;

/// The cgroup v2 directory of a process.
fn cgroup_of(pid: i32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup of a live process");
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("a line of cgroup v2");
    Path::new("/sys/fs/cgroup").join(path)
}

#[test]
fn the_machine_is_what_the_tests_need() {
    assert_eq!(fs::read_to_string("/proc/1/comm").unwrap().trim(), "systemd");
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    for controller in ["cpu", "cpuset", "hugetlb", "io", "memory", "pids", "rdma"] {
        assert!(controllers.split_whitespace().any(|c| c == controller), "{controller}: {controllers}");
    }
    assert_eq!(fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap().trim(), "Y");
}
