//! Namespaces: the host's, new ones, joined ones; user namespaces with their mappings.

use serde_json::json;

use crate::setup::Case;

pub const CASES: &[Case] = &[
    ("host network", |s| {
        s.bundle.without_namespace("network");
    }),
    ("host network with a bind of sysfs", |s| {
        s.bundle.without_namespace("network");
        s.mount("/mnt", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]);
        s.without = vec!["mountinfo"];
    }),
    ("host ipc", |s| {
        s.bundle.without_namespace("ipc");
    }),
    ("host uts", |s| {
        s.bundle.without_namespace("uts").remove("/hostname");
    }),
    ("host pid", |s| {
        s.bundle.without_namespace("pid");
    }),
    ("all that can be the host's", |s| {
        s.bundle
            .without_namespace("network")
            .without_namespace("ipc")
            .without_namespace("uts")
            .remove("/hostname");
        s.bundle.without_namespace("pid");
    }),
    ("own cgroup namespace", |s| {
        s.bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    }),
    ("own time namespace", |s| {
        s.bundle.push("/linux/namespaces", json!({"type": "time"}));
    }),
    ("time namespace with offsets", |s| {
        s.bundle.push("/linux/namespaces", json!({"type": "time"}));
        s.set(
            "/linux/timeOffsets",
            json!({"monotonic": {"secs": 1000, "nanosecs": 5}, "boottime": {"secs": 2000}}),
        );
    }),
    ("joined network namespace", |s| {
        let path = s.namespace("net", &["--net"]);
        s.join("network", &path);
    }),
    ("joined ipc namespace", |s| {
        let path = s.namespace("ipc", &["--ipc"]);
        s.join("ipc", &path);
    }),
    ("joined uts namespace", |s| {
        let path = s.namespace("uts", &["--uts"]);
        s.join("uts", &path);
    }),
    ("joined cgroup namespace", |s| {
        let path = s.namespace("cgroup", &["--cgroup"]);
        s.join("cgroup", &path);
    }),
    ("joined pid namespace", |s| {
        let path = s.namespace("pid_for_children", &["--pid", "--fork", "--kill-child"]);
        s.join("pid", &path);
    }),
    ("joined time namespace", |s| {
        let path = s.namespace("time", &["--time", "--boottime", "100", "--fork", "--kill-child"]);
        s.join("time", &path.replace("/ns/time", "/ns/time_for_children"));
    }),
    ("all of a pod's namespaces joined", |s| {
        for (kind, file, flag) in
            [("network", "net", "--net"), ("ipc", "ipc", "--ipc"), ("uts", "uts", "--uts")]
        {
            let path = s.namespace(file, &[flag]);
            s.join(kind, &path);
        }
        s.bundle.remove("/hostname");
    }),
    ("namespaces in another order", |s| {
        let list = s.bundle.config.pointer_mut("/linux/namespaces").unwrap();
        list.as_array_mut().unwrap().reverse();
    }),
    ("hostname and domainname", |s| {
        s.set("/hostname", json!("some-host")).set("/domainname", json!("some.domain"));
    }),
    ("no hostname", |s| {
        s.bundle.remove("/hostname");
    }),
    ("user namespace", |s| {
        s.user_namespace(100_000, 200_000);
    }),
    ("user namespace with several ranges", |s| {
        s.user_namespace(100_000, 200_000);
        s.set(
            "/linux/uidMappings",
            json!([
                {"containerID": 0, "hostID": 100_000, "size": 1000},
                {"containerID": 1000, "hostID": 0, "size": 1},
                {"containerID": 2000, "hostID": 300_000, "size": 10}
            ]),
        );
    }),
    ("user namespace, another user", |s| {
        s.user_namespace(100_000, 200_000);
        s.set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [5]}));
    }),
    ("user namespace that maps root to itself", |s| {
        s.user_namespace(0, 0);
    }),
    ("user namespace on the host's network", |s| {
        s.user_namespace(100_000, 200_000);
        s.bundle.without_namespace("network");
        let list = s.bundle.config["mounts"].as_array_mut().unwrap();
        list.retain(|mount| mount["type"] != "sysfs" && mount["type"] != "cgroup");
    }),
    ("user namespace with a cgroup namespace", |s| {
        s.user_namespace(100_000, 200_000);
        s.bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    }),
    ("user namespace with a terminal", |s| {
        s.user_namespace(100_000, 200_000);
        s.set("/process/terminal", json!(true));
        s.look("stat -c '%a %u %g' $(tty)");
    }),
    ("joined user namespace", |s| {
        let path = s.mapped_user_namespace(100_000, 200_000);
        s.bundle.push("/linux/namespaces", json!({"type": "user", "path": path}));
        s.chown_rootfs(100_000, 200_000);
    }),
];
