//! Time namespaces: new with and without offsets, with a user namespace, joined by path.

use std::fs;
use std::path::Path;

use davit_tests::{Bundle, World, skip};
use serde_json::json;

/// Sets both ends of the day: whole seconds since boot, and the offsets of the process's own namespace.
const CLOCKS: &str = "cut -d. -f1 /proc/uptime; tr -s ' ' </proc/self/timens_offsets";

fn enter(test: &str) -> Option<World> {
    let world = World::enter(test)?;
    if !Path::new("/proc/self/timens_offsets").exists() {
        return skip(test, "a kernel without time namespaces");
    }
    let old = world.is_runc() && world.call(&["--version"]).run().stdout.contains("spec: 1.0");
    if old { skip(test, "runc 1.1 has no time namespaces") } else { Some(world) }
}

fn uptime() -> u64 {
    fs::read_to_string("/proc/uptime").unwrap().split('.').next().unwrap().parse().unwrap()
}

fn with_time(world: &World, script: &str) -> Bundle {
    let mut bundle = world.bundle();
    bundle.push("/linux/namespaces", json!({"type": "time"})).script(script);
    fs::remove_file(bundle.rootfs("bin/cut")).ok();
    std::os::unix::fs::symlink("busybox", bundle.rootfs("bin/cut")).unwrap();
    bundle
}

#[track_caller]
fn assert_clocks(stdout: &str, before: u64, offset: u64) {
    let mut lines = stdout.lines();
    let seconds: u64 = lines.next().unwrap().parse().unwrap();
    assert!((before + offset..=uptime() + offset).contains(&seconds), "{stdout}");
    assert_eq!(lines.collect::<Vec<_>>(), ["monotonic -20 0", "boottime 1000000 5"], "{stdout}");
}

#[test]
fn offsets_are_seen_inside_and_in_exec() {
    let Some(world) = enter("offsets_are_seen_inside_and_in_exec") else { return };
    let mut bundle = with_time(&world, "");
    let offsets = json!({"boottime": {"secs": 1_000_000, "nanosecs": 5}, "monotonic": {"secs": -20}});
    bundle.args(&["sleep", "1000"]).set("/linux/timeOffsets", offsets.clone());
    let before = uptime();
    let c = world.container(&bundle).started();
    assert_clocks(&c.sh(CLOCKS), before, 1_000_000);
    let ours = fs::read_link("/proc/self/ns/time").unwrap();
    let pid = c.pid();
    let inits = fs::read_link(format!("/proc/{pid}/ns/time")).unwrap();
    assert_ne!(inits, ours);
    assert_eq!(inits, fs::read_link(format!("/proc/{pid}/ns/time_for_children")).unwrap());

    // A second container in the same namespace, by path.
    let mut second = world.bundle();
    second.push("/linux/namespaces", json!({"type": "time", "path": format!("/proc/{pid}/ns/time")}));
    std::os::unix::fs::symlink("busybox", second.rootfs("bin/cut")).unwrap();
    second.script(CLOCKS);
    let second = world.container(&second);
    assert_clocks(&second.run(&[]).ok().stdout, before, 1_000_000);
    second.assert_nothing_left();
    c.finish();
}

#[test]
fn a_new_namespace_without_offsets() {
    let Some(world) = enter("a_new_namespace_without_offsets") else { return };
    let bundle = with_time(&world, "readlink /proc/self/ns/time; tr -s ' ' </proc/self/timens_offsets");
    let c = world.container(&bundle);
    let stdout = c.run(&[]).ok().stdout;
    let mut lines = stdout.lines();
    assert_ne!(lines.next().unwrap(), fs::read_link("/proc/self/ns/time").unwrap().to_str().unwrap());
    assert_eq!(lines.collect::<Vec<_>>(), ["monotonic 0 0", "boottime 0 0"]);
    c.assert_nothing_left();
}

#[test]
fn offsets_with_a_user_namespace() {
    let Some(world) = enter("offsets_with_a_user_namespace") else { return };
    let mut bundle = with_time(&world, "");
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle
        .args(&["sleep", "1000"])
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
        .set(
            "/linux/timeOffsets",
            json!({"boottime": {"secs": 1_000_000, "nanosecs": 5}, "monotonic": {"secs": -20}}),
        );
    bundle.for_user_namespace(100_000);
    let before = uptime();
    let c = world.container(&bundle).started();
    assert_clocks(&c.sh(CLOCKS), before, 1_000_000);
    assert_eq!(c.sh("id -u; tr -s ' ' </proc/self/uid_map"), "0\n 0 100000 65536");
    c.finish();
}

#[test]
fn wrong_offsets_are_named() {
    let Some(world) = enter("wrong_offsets_are_named") else { return };
    for (offsets, words) in [
        (json!({"realtime": {"secs": 1}}), "linux.timeOffsets: \"realtime\" is not a clock with an offset"),
        (
            json!({"monotonic": {"nanosecs": 1_000_000_000}}),
            "linux.timeOffsets.monotonic.nanosecs must be below",
        ),
        (
            json!({"boottime": {"secs": -1_000_000_000}}),
            "set linux.timeOffsets (write \"boottime -1000000000 0\"",
        ),
        (json!({"boottime": {"secs": "1"}}), "expected i64"),
    ] {
        let mut bundle = with_time(&world, "true");
        bundle.set("/linux/timeOffsets", offsets);
        let c = world.container(&bundle);
        let create = c.create(&[]);
        if world.is_runc() {
            assert_eq!(create.code, 1);
        } else {
            create.fails(1, words);
        }
        c.assert_nothing_left();
    }
    let mut bundle = world.bundle();
    bundle.set("/linux/timeOffsets", json!({"boottime": {"secs": 1}}));
    let c = world.container(&bundle);
    c.create(&[])
        .fails(1, "time namespace offsets specified, but time namespace isn't enabled in the config");
    c.assert_nothing_left();
    if world.is_runc() {
        return;
    }
    let mut bundle = world.bundle();
    bundle
        .push("/linux/namespaces", json!({"type": "time", "path": "/proc/self/ns/time"}))
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 1}}));
    let c = world.container(&bundle);
    c.create(&[]).fails(1, "linux.timeOffsets: a time namespace that is joined by path keeps its offsets");
    c.assert_nothing_left();
}
