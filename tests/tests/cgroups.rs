//! cgroups: membership, limits and removal, on the host's hierarchies and on cgroup v2 alone.

use std::fs;
use std::path::{Path, PathBuf};

use davit_tests::{Bundle, Container, View, World, host, skip, unique, wait_until};
use serde_json::{Value, json};

/// The world of a test of v1 hierarchies.
fn enter_v1(test: &str) -> Option<World> {
    let world = World::enter(test)?;
    if host::has_v1() { Some(world) } else { skip(test, "no cgroup v1 hierarchies") }
}

fn sleeping(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    bundle
}

/// The container's directory in a v1 hierarchy.
fn v1_dir(c: &Container<'_>, controller: &str) -> PathBuf {
    let path = host::v1_path(&c.pid().to_string(), controller).unwrap();
    Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/'))
}

fn read(dir: &Path, file: &str) -> String {
    let path = dir.join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim_end().to_owned()
}

const V1: [&str; 7] = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "pids"];

#[test]
fn the_container_is_in_each_hierarchy() {
    let Some(world) = enter_v1("the_container_is_in_each_hierarchy") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    for controller in V1 {
        let path = host::v1_path(&c.pid().to_string(), controller).unwrap();
        let own = host::v1_path("self", controller).unwrap();
        // Below the caller's own, under the id.
        assert_eq!(path, format!("{}/{}", own.trim_end_matches('/'), c.id), "{controller}");
        let procs = read(&v1_dir(&c, controller), "cgroup.procs");
        assert_eq!(procs, c.pid().to_string(), "{controller}");
    }
    c.finish();
}

#[test]
fn a_configured_path_is_used() {
    let Some(world) = enter_v1("a_configured_path_is_used") else { return };
    let parent = unique("davit-test-parent");
    let mut bundle = sleeping(&world);
    bundle.set("/linux/cgroupsPath", json!(format!("/{parent}/inner")));
    let c = world.container(&bundle).started();
    for controller in V1 {
        let path = host::v1_path(&c.pid().to_string(), controller).unwrap();
        assert_eq!(path, format!("/{parent}/inner"), "{controller}");
    }
    c.finish();
    // The runtime removes what is the container's; its parent is the caller's.
    for dir in host::cgroups_named(&parent) {
        assert!(!dir.join("inner").exists(), "{}", dir.display());
        host::remove_when_empty(&dir);
        assert!(!dir.exists(), "{}", dir.display());
    }
}

#[test]
fn limits_are_written() {
    let Some(world) = enter_v1("limits_are_written") else { return };
    let mut bundle = sleeping(&world);
    bundle
        .set("/linux/resources/memory", json!({"limit": 64 << 20, "reservation": 32 << 20, "swappiness": 10}))
        .set(
            "/linux/resources/cpu",
            json!({"shares": 512, "quota": 20_000, "period": 50_000, "cpus": "0", "mems": "0"}),
        )
        .set("/linux/resources/pids", json!({"limit": 33}));
    let c = world.container(&bundle).started();
    for (controller, file, value) in [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("memory", "memory.swappiness", "10"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "20000"),
        ("cpu", "cpu.cfs_period_us", "50000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("cpuset", "cpuset.mems", "0"),
        ("pids", "pids.max", "33"),
    ] {
        assert_eq!(read(&v1_dir(&c, controller), file), value, "{file}");
    }
    assert_eq!(
        c.sh("cat /sys/fs/cgroup/pids/pids.max; grep Cpus_allowed_list /proc/self/status | tr -d '\\t'"),
        "33\nCpus_allowed_list:0"
    );
    c.finish();
}

#[test]
fn no_limit_is_written_as_such() {
    let Some(world) = enter_v1("no_limit_is_written_as_such") else { return };
    let mut bundle = sleeping(&world);
    bundle
        .set("/linux/resources/memory", json!({"limit": -1}))
        .set("/linux/resources/pids", json!({"limit": -1}));
    let c = world.container(&bundle).started();
    assert_eq!(read(&v1_dir(&c, "pids"), "pids.max"), "max");
    assert!(read(&v1_dir(&c, "memory"), "memory.limit_in_bytes").parse::<u64>().unwrap() > 1 << 60);
    c.finish();
}

#[test]
fn the_pids_limit_holds() {
    let Some(world) = enter_v1("the_pids_limit_holds") else { return };
    let mut bundle = world.bundle();
    bundle
        .set("/linux/resources/pids", json!({"limit": 3}))
        .script("sleep 1000 & sleep 1000 & (true) 2>/dev/null; echo not reached");
    let c = world.container(&bundle);
    let run = c.run(&[]);
    assert_ne!(run.code, 0);
    assert!(!run.stdout.contains("not reached"), "{}", run.stdout);
    assert!(run.stderr.contains("fork"), "{}", run.stderr);
    c.assert_nothing_left();
}

#[test]
fn the_memory_limit_holds() {
    let Some(world) = enter_v1("the_memory_limit_holds") else { return };
    let mut bundle = world.bundle();
    bundle
        .set("/linux/resources/memory", json!({"limit": 16 << 20, "swap": 16 << 20}))
        .script("echo started; exec dd if=/dev/zero of=/dev/null bs=64M count=1");
    if !Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists() {
        bundle.set("/linux/resources/memory", json!({"limit": 16 << 20}));
    }
    let c = world.container(&bundle);
    let run = c.run(&[]);
    assert_eq!((run.code, run.stdout.as_str()), (128 + 9, "started\n"), "{}", run.stderr);
    c.assert_nothing_left();
}

#[test]
fn a_limit_too_low_to_start_is_told() {
    let Some(world) = enter_v1("a_limit_too_low_to_start_is_told") else { return };
    let mut bundle = sleeping(&world);
    bundle.set("/linux/resources/memory", json!({"limit": 4096}));
    let c = world.container(&bundle);
    let run = c.run(&["--detach"]);
    assert_ne!(run.code, 0, "4 KiB start nothing");
    if !world.is_runc() {
        let error = run.error();
        assert!(error.contains("memory") || error.contains("OOM"), "the limit is named: {error}");
    }
    c.assert_nothing_left();
}

#[test]
fn sub_cgroups_are_removed_too() {
    let Some(world) = enter_v1("sub_cgroups_are_removed_too") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    for controller in V1 {
        fs::create_dir_all(v1_dir(&c, controller).join("a/b")).unwrap();
    }
    // A process in one of them ends with the container.
    c.exec(&["--detach", "--cgroup", "pids:a/b"], &["sleep", "1001"]).ok();
    wait_until("the process in a/b", || !read(&v1_dir(&c, "pids"), "a/b/cgroup.procs").is_empty());
    let json = c.call("ps", &["-f", "json"], &[]).run().ok().json();
    assert_eq!(json.as_array().unwrap().len(), 2, "ps counts sub-cgroups: {json}");
    c.finish();
}

#[test]
fn pause_freezes() {
    let Some(world) = enter_v1("pause_freezes") else { return };
    let mut bundle = world.bundle();
    bundle
        .set("/root/readonly", json!(false))
        .script("while true; do echo x >> /tmp/ticks; sleep 0.001; done");
    let c = world.container(&bundle).started();
    let ticks = || fs::metadata(bundle.rootfs("tmp/ticks")).map_or(0, |m| m.len());
    wait_until("it runs", || ticks() > 0);
    c.simple("pause").ok();
    assert_eq!(read(&v1_dir(&c, "freezer"), "freezer.state"), "FROZEN");
    let frozen = ticks();
    // Whatever else happens meanwhile, it makes no progress.
    assert_eq!(c.status(), "paused");
    assert_eq!(ticks(), frozen);
    c.simple("resume").ok();
    wait_until("it runs again", || ticks() > frozen);
    c.simple("pause").ok();
    // A frozen container can be deleted by force.
    c.finish();
}

#[test]
fn a_cgroup_in_use_is_refused() {
    let Some(world) = enter_v1("a_cgroup_in_use_is_refused") else { return };
    let bundle = sleeping(&world);
    let first = world.container(&bundle).started();
    let path = host::v1_path(&first.pid().to_string(), "pids").unwrap();
    let mut other = sleeping(&world);
    other.set("/linux/cgroupsPath", json!(path));
    let second = world.container(&other);
    let create = second.create(&[]);
    if world.is_runc() {
        // runc 1.1 only warns.
        return;
    }
    assert_ne!(create.code, 0, "two containers in one cgroup would kill each other");
    assert!(create.error().contains("cgroup"), "{}", create.error());
    assert_eq!(first.status(), "running");
    assert!(!world.root().join(&second.id).exists());
    first.finish();
}

fn pure_v2<'w>(world: &'w World, bundle: &Bundle) -> Container<'w> {
    let mut c = world.container(bundle);
    c.view = View::PureV2;
    c
}

/// Path of a process in the v2 hierarchy.
fn v2_path(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
}

fn v2_root() -> PathBuf {
    let unified = PathBuf::from("/sys/fs/cgroup/unified");
    if unified.exists() { unified } else { PathBuf::from("/sys/fs/cgroup") }
}

#[test]
fn v2_membership_and_view() {
    let Some(world) = World::enter("v2_membership_and_view") else { return };
    let mut bundle = sleeping(&world);
    bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    let c = pure_v2(&world, &bundle).started();
    let path = v2_path(c.pid());
    assert!(path.ends_with(&c.id), "{path}");
    let dir = v2_root().join(path.trim_start_matches('/'));
    assert_eq!(read(&dir, "cgroup.procs"), c.pid().to_string());
    // In its namespace it is the root, read-only.
    assert_eq!(c.sh("grep -c ^0::/$ /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs | head -1"), "1\n1");
    assert_eq!(c.sh("mkdir /sys/fs/cgroup/x 2>/dev/null; echo $?"), "1");
    let ps = c.call("ps", &["-f", "json"], &[]).run().ok().json();
    assert_eq!(ps, json!([c.pid()]));
    c.finish();
}

#[test]
fn v2_pause_kill_and_delete() {
    let Some(world) = World::enter("v2_pause_kill_and_delete") else { return };
    let mut bundle = world.bundle();
    bundle.script("sleep 1000 & sleep 1000 & wait").without_namespace("pid");
    let c = pure_v2(&world, &bundle).started();
    wait_until("three processes", || host::processes_in_cgroup(&c.id).len() == 3);
    let dir = v2_root().join(v2_path(c.pid()).trim_start_matches('/'));
    c.simple("pause").ok();
    assert_eq!(c.status(), "paused");
    assert_eq!(read(&dir, "cgroup.freeze"), "1");
    assert!(read(&dir, "cgroup.events").contains("frozen 1"));
    c.exec(&[], &["true"]).fails(255, "cannot exec in a paused container");
    c.simple("resume").ok();
    assert_eq!(read(&dir, "cgroup.freeze"), "0");
    fs::create_dir(dir.join("sub")).unwrap();
    // SIGKILL means all of them, as the pid namespace is shared (runc since 1.2).
    let flags: &[&str] = if world.is_runc() { &["--all"] } else { &[] };
    c.call("kill", flags, &["KILL"]).run().ok();
    wait_until("their end", || host::processes_in_cgroup(&c.id).is_empty());
    c.wait_for("stopped");
    c.simple("delete").ok();
    c.assert_nothing_left();
}

#[test]
fn v2_exec_joins_the_cgroup() {
    let Some(world) = World::enter("v2_exec_joins_the_cgroup") else { return };
    let bundle = sleeping(&world);
    let c = pure_v2(&world, &bundle).started();
    let path = v2_path(c.pid());
    fs::create_dir(v2_root().join(path.trim_start_matches('/')).join("sub")).unwrap();
    let of = |flags: &[&str]| {
        let text = c.exec(flags, &["cat", "/proc/self/cgroup"]).ok().stdout;
        text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
    };
    assert_eq!(of(&[]), path);
    assert_eq!(of(&["--cgroup", "/sub"]), format!("{path}/sub"));
    assert_eq!(c.exec(&["--cgroup", "nosuch"], &["true"]).code, 255);
    assert_eq!(c.exec(&["--cgroup", "../.."], &["true"]).code, 255);
    c.finish();
}

#[test]
fn v2_limits_of_hugetlb() {
    let Some(world) = World::enter("v2_limits_of_hugetlb") else { return };
    let controllers = read(&v2_root(), "cgroup.controllers");
    if !controllers.split(' ').any(|c| c == "hugetlb") {
        skip::<()>("v2_limits_of_hugetlb", "the v2 hierarchy has no hugetlb controller");
        return;
    }
    let mut bundle = sleeping(&world);
    bundle.set("/linux/resources/hugepageLimits", json!([{"pageSize": "2MB", "limit": 4 << 20}]));
    let c = pure_v2(&world, &bundle).started();
    let dir = v2_root().join(v2_path(c.pid()).trim_start_matches('/'));
    assert_eq!(read(&dir, "hugetlb.2MB.max"), "4194304");
    c.finish();
    let mut bundle = sleeping(&world);
    bundle.set("/linux/resources/unified", json!({"hugetlb.2MB.max": "6291456"}));
    let c = pure_v2(&world, &bundle).started();
    let dir = v2_root().join(v2_path(c.pid()).trim_start_matches('/'));
    assert_eq!(read(&dir, "hugetlb.2MB.max"), "6291456");
    c.finish();
}

#[test]
fn v2_limits_without_their_controller_are_refused() {
    let Some(world) = World::enter("v2_limits_without_their_controller_are_refused") else { return };
    let controllers = read(&v2_root(), "cgroup.controllers");
    let limits: [(&str, &str, Value); 3] = [
        ("memory", "/linux/resources/memory", json!({"limit": 64 << 20})),
        ("pids", "/linux/resources/pids", json!({"limit": 10})),
        ("memory", "/linux/resources/unified", json!({"memory.high": "1000000"})),
    ];
    for (controller, pointer, value) in limits {
        if controllers.split(' ').any(|c| c == controller) {
            continue;
        }
        let mut bundle = sleeping(&world);
        bundle.set(pointer, value);
        let c = pure_v2(&world, &bundle);
        let create = c.create(&[]);
        // A limit that is not enforced must not look as if it were.
        assert_ne!(create.code, 0, "{pointer}");
        assert!(create.error().contains(controller), "{pointer}: {}", create.error());
        c.assert_nothing_left();
    }
}

#[test]
fn v2_device_rules_hold() {
    let Some(world) = World::enter("v2_device_rules_hold") else { return };
    let mut bundle = world.bundle();
    let caps = json!(["CAP_MKNOD", "CAP_DAC_OVERRIDE"]);
    bundle
        .set("/process/capabilities", json!({"bounding": caps, "effective": caps, "permitted": caps}))
        .set("/root/readonly", json!(false))
        .args(&["sleep", "1000"]);
    let c = pure_v2(&world, &bundle).started();
    let script =
        "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg 2>&1 | tail -c 24; head -c 2 /dev/zero | wc -c";
    assert_eq!(c.sh(script), "Operation not permitted\n2");
    c.finish();
}
