//! Device rules as a program in the container feels them: which nodes it can make and open, in which way.

use std::process::Command;

use serde_json::{Value, json};

use crate::Bundle;

/// Nodes that are tried: type, major, minor. None does harm when it is opened.
const NODES: [(char, u32, u32); 13] = [
    ('c', 1, 3),
    ('c', 1, 5),
    ('c', 1, 7),
    ('c', 1, 9),
    ('c', 1, 11),
    ('c', 5, 0),
    ('c', 5, 2),
    ('c', 10, 200),
    ('c', 10, 229),
    ('c', 10, 237),
    ('b', 1, 11),
    ('b', 7, 7),
    ('b', 10, 229),
];

/// Prints `node: mknod open-for-reading open-for-writing open-for-both` for each node, `y` for what is allowed.
/// A device that is not there fails with another error than EPERM.
const PROBE: &str = r#"
try() { case $("$@" 2>&1) in *'not permitted'*) printf ' n' ;; *) printf ' y' ;; esac; }
read_it() { : <"$1"; }
write_it() { : >"$1"; }
both() { : <>"$1"; }
for node in /nodes/*; do
    name=${node#/nodes/}; rest=${name#?-}
    printf '%s:' "$name"
    try mknod "/made-$$-$name" "${name%%-*}" "${rest%-*}" "${rest#*-}"
    try read_it "$node"
    try write_it "$node"
    try both "$node"
    echo
done
"#;

/// Prepares a bundle: the nodes, and the right to make others. Returns the script that tries them.
///
/// # Panics
/// When the nodes can't be made.
pub fn prepare(bundle: &mut Bundle) -> &'static str {
    std::fs::create_dir(bundle.rootfs("nodes")).expect("nodes");
    for (kind, major, minor) in NODES {
        let path = bundle.rootfs(&format!("nodes/{kind}-{major}-{minor}"));
        let (major, minor) = (major.to_string(), minor.to_string());
        let made = Command::new("mknod").arg(path).args([&kind.to_string(), &major, &minor]).status();
        assert!(made.expect("mknod").success());
    }
    // The last one to read the kernel's log, where dmesg_restrict is on.
    let caps = json!(["CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_SYSLOG"]);
    bundle
        .set("/process/capabilities", json!({"bounding": caps, "effective": caps, "permitted": caps}))
        .set("/root/readonly", json!(false));
    PROBE
}

fn rule(allow: bool, kind: &str, major: Option<i64>, minor: Option<i64>, access: &str) -> Value {
    let mut rule = json!({"allow": allow, "access": access});
    if !kind.is_empty() {
        rule["type"] = json!(kind);
    }
    for (key, number) in [("major", major), ("minor", minor)] {
        if let Some(number) = number {
            rule[key] = json!(number);
        }
    }
    rule
}

/// The lists, by name.
#[must_use]
pub fn lists() -> Vec<(&'static str, Value)> {
    let deny = || rule(false, "", None, None, "rwm");
    let open = || rule(true, "", None, None, "rwm");
    let fuse = |allow: bool, access: &str| rule(allow, "c", Some(10), Some(229), access);
    let kmsg = |allow: bool, access: &str| rule(allow, "c", Some(1), Some(11), access);
    vec![
        ("none", json!([])),
        ("deny all", json!([deny()])),
        ("one device", json!([deny(), fuse(true, "rw")])),
        ("one device, reading", json!([deny(), fuse(true, "r")])),
        ("one device, writing", json!([deny(), fuse(true, "w")])),
        ("one device, making", json!([deny(), fuse(true, "m")])),
        ("any minor", json!([deny(), rule(true, "c", Some(10), None, "rwm")])),
        ("any major", json!([deny(), rule(true, "c", None, Some(229), "rw")])),
        ("minus one", json!([deny(), rule(true, "c", Some(10), Some(-1), "rw")])),
        ("blocks, reading", json!([deny(), rule(true, "b", None, None, "r")])),
        ("one block device", json!([deny(), rule(true, "b", Some(7), Some(7), "rw")])),
        (
            "both kinds of a number",
            json!([deny(), fuse(true, "r"), rule(true, "b", Some(10), Some(229), "w")]),
        ),
        ("allow all", json!([open()])),
        ("allow type a", json!([deny(), rule(true, "a", None, None, "rwm")])),
        ("all but one", json!([open(), kmsg(false, "rwm")])),
        ("all but writing one", json!([open(), kmsg(false, "w")])),
        ("all but a major", json!([open(), rule(false, "c", Some(10), None, "rw")])),
        ("all but blocks", json!([open(), rule(false, "b", None, None, "rwm")])),
        ("allowed and denied", json!([deny(), fuse(true, "rw"), fuse(false, "w")])),
        ("access in two rules", json!([deny(), kmsg(true, "r"), kmsg(true, "w")])),
        ("the last word", json!([deny(), open(), deny(), kmsg(true, "rwm")])),
        ("a default device denied", json!([deny(), rule(false, "c", Some(1), Some(5), "rwm")])),
        ("all but a default device", json!([open(), rule(false, "c", Some(1), Some(5), "rwm")])),
        ("without access", json!([deny(), {"allow": true, "type": "c", "major": 1, "minor": 11}])),
        ("numbers without a type", json!([deny(), rule(true, "", Some(1), Some(11), "r")])),
        ("a denial of nothing", json!([fuse(false, "rwm")])),
        (
            "a denial below a wildcard",
            json!([deny(), rule(true, "c", Some(10), None, "rw"), fuse(false, "rw")]),
        ),
        ("wrong type", json!([deny(), rule(true, "x", Some(1), Some(11), "r")])),
        ("wrong access", json!([deny(), kmsg(true, "rx")])),
    ]
}
