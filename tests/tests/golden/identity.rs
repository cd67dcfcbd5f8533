//! Users, groups, capabilities.

use serde_json::json;

use crate::setup::Case;

/// What Docker gives.
pub const DOCKERS: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

pub const CASES: &[Case] = &[
    ("default", |_| {}),
    ("user by number", |s| {
        s.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    }),
    ("user without an entry in passwd", |s| {
        s.set("/process/user", json!({"uid": 4242, "gid": 4343}));
    }),
    ("group of another user", |s| {
        s.set("/process/user", json!({"uid": 1000, "gid": 0}));
    }),
    ("additional groups", |s| {
        s.set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 6, 1000, 6, 70000]}));
    }),
    ("additional groups of root", |s| {
        s.set("/process/user", json!({"uid": 0, "gid": 0, "additionalGids": [10, 4]}));
    }),
    ("umask", |s| {
        s.set("/process/user/umask", json!(0o077));
        s.look("touch /dev/shm/made; stat -c '%a' /dev/shm/made");
    }),
    ("umask of zero", |s| {
        s.set("/process/user/umask", json!(0));
    }),
    ("Docker's capabilities", |s| {
        s.set(
            "/process/capabilities",
            json!({"bounding": DOCKERS, "effective": DOCKERS, "permitted": DOCKERS}),
        );
        s.set("/process/noNewPrivileges", json!(false));
    }),
    ("capabilities of another user", |s| {
        s.set(
            "/process/capabilities",
            json!({"bounding": DOCKERS, "effective": DOCKERS, "permitted": DOCKERS}),
        );
        s.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    }),
    ("no capabilities field", |s| {
        s.bundle.remove("/process/capabilities");
    }),
    ("empty capability sets", |s| {
        s.set(
            "/process/capabilities",
            json!({"bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []}),
        );
    }),
    ("bounding set alone", |s| {
        s.set("/process/capabilities", json!({"bounding": DOCKERS}));
    }),
    ("inheritable capabilities", |s| {
        let caps = json!(["CAP_NET_RAW", "CAP_KILL"]);
        s.set(
            "/process/capabilities",
            json!({"bounding": caps, "effective": caps, "permitted": caps, "inheritable": caps}),
        );
    }),
    ("ambient capabilities", |s| {
        let caps = json!(["CAP_NET_RAW", "CAP_KILL"]);
        s.set("/process/capabilities", json!({"bounding": caps, "effective": caps, "permitted": caps, "inheritable": caps, "ambient": ["CAP_KILL"]}));
        s.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    }),
    ("ambient capabilities of root", |s| {
        let caps = json!(["CAP_NET_RAW", "CAP_KILL"]);
        s.set("/process/capabilities", json!({"bounding": caps, "effective": caps, "permitted": caps, "inheritable": caps, "ambient": caps}));
    }),
    ("effective capabilities are fewer than permitted", |s| {
        s.set(
            "/process/capabilities",
            json!({"bounding": DOCKERS, "effective": ["CAP_KILL"], "permitted": DOCKERS}),
        );
        s.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    }),
    ("unknown capability", |s| {
        let caps = json!(["CAP_KILL", "CAP_OF_THE_FUTURE"]);
        s.set("/process/capabilities", json!({"bounding": caps, "effective": caps, "permitted": caps}));
    }),
    ("new privileges allowed", |s| {
        s.set("/process/noNewPrivileges", json!(false));
    }),
    ("no noNewPrivileges field", |s| {
        s.bundle.remove("/process/noNewPrivileges");
    }),
];
