//! Cgroups: where the container is, what it sees of them, and its limits.

use davit_tests::View;
use serde_json::json;

use crate::setup::{Case, Setup};

/// Options of the cgroup mount.
fn cgroup_mount(s: &mut Setup<'_>, options: serde_json::Value) {
    let mounts = s.bundle.config["mounts"].as_array_mut().unwrap();
    let mount = mounts.iter_mut().find(|mount| mount["type"] == "cgroup").unwrap();
    mount["options"] = options;
    s.look("for d in /sys/fs/cgroup /sys/fs/cgroup/*; do stat -c '%n %a %u %g %N' $d; done");
}

pub const CASES: &[Case] = &[
    ("pure v2", |s| {
        s.view = View::PureV2;
    }),
    ("pure v2 with a cgroup namespace", |s| {
        s.view = View::PureV2;
        s.bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    }),
    ("pure v2, writable", |s| {
        s.view = View::PureV2;
        s.bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
        cgroup_mount(s, json!(["nosuid", "noexec", "nodev", "relatime", "rw"]));
    }),
    ("pure v2 with a user namespace", |s| {
        s.view = View::PureV2;
        s.user_namespace(100_000, 200_000);
        s.bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    }),
    ("absolute cgroupsPath", |s| {
        let parent = s.cgroup_parent();
        s.set("/linux/cgroupsPath", json!(format!("/{parent}/a")));
    }),
    ("relative cgroupsPath", |s| {
        let parent = s.cgroup_parent();
        s.set("/linux/cgroupsPath", json!(format!("{parent}/r")));
    }),
    ("cgroup mount, writable", |s| cgroup_mount(s, json!(["nosuid", "noexec", "nodev"]))),
    ("cgroup mount in a cgroup namespace", |s| {
        s.bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
        cgroup_mount(s, json!(["nosuid", "noexec", "nodev", "relatime", "ro"]));
    }),
    ("writable cgroup mount in a cgroup namespace", |s| {
        s.bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
        cgroup_mount(s, json!(["nosuid", "noexec", "nodev", "rw"]));
    }),
    ("no cgroup mount", |s| {
        s.bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "cgroup");
    }),
    ("no resources", |s| {
        s.bundle.remove("/linux/resources");
    }),
    ("memory limits", |s| {
        s.set("/linux/resources/memory", json!({"limit": 64 << 20, "reservation": 32 << 20}));
    }),
    ("cpu limits", |s| {
        s.set("/linux/resources/cpu", json!({"shares": 512, "quota": 50000, "period": 100_000}));
    }),
    ("cpuset", |s| {
        s.set("/linux/resources/cpu", json!({"cpus": "0", "mems": "0"}));
    }),
    ("pids limit", |s| {
        s.set("/linux/resources/pids", json!({"limit": 50}));
    }),
    ("unlimited pids", |s| {
        s.set("/linux/resources/pids", json!({"limit": -1}));
    }),
    ("device rules", |s| {
        s.set(
            "/linux/resources/devices",
            json!([
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
                {"allow": true, "type": "b", "access": "r"},
                {"allow": true, "type": "c", "major": 4, "access": "rwm"}
            ]),
        );
    }),
    ("every device allowed", |s| {
        s.set("/linux/resources/devices", json!([{"allow": true, "access": "rwm"}]));
    }),
];
