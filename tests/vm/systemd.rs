//! The systemd cgroup driver with a real systemd.

use std::path::Path;
use std::process::{Child, Command};

use davit_tests::{RUNC, World, host, unique, wait_until};
use serde_json::json;

use crate::cgroup_of;
use crate::unit::{Unit, assert_gone, load_state, properties_as_under_runc, show, systemd};

#[test]
fn properties_are_those_that_runc_sets() {
    let Some(world) = World::enter_with_runc("vm::systemd::properties_are_those_that_runc_sets") else {
        return;
    };
    let resources = json!({
        "devices": [{"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            {"allow": true, "type": "b", "major": 7, "access": "r"}],
        "memory": {"limit": 67_108_864, "reservation": 33_554_432, "swap": 100_663_296},
        "cpu": {"shares": 512, "quota": 33_333, "period": 100_000, "cpus": "0-1", "mems": "0"},
        "pids": {"limit": 77},
        "unified": {"memory.high": "50331648"},
    });
    let annotations = json!({"org.systemd.property.TimeoutStopSec": "uint64 7",
        "org.systemd.property.Documentation": "['man:davit(8)']"});
    let davit = properties_as_under_runc(&world, &resources, &annotations);
    assert_eq!(davit["Slice"], "system.slice");
    assert_eq!(davit["MemoryMax"], "67108864");
    assert_eq!(davit["CPUQuotaPerSecUSec"], "340ms");
    assert_eq!(davit["TimeoutStopUSec"], "7s");
    assert_eq!(davit["Documentation"], "\"man:davit(8)\"");
}

#[test]
fn a_life_in_a_scope() {
    let Some(world) = World::enter("vm::systemd::a_life_in_a_scope") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let unit = Unit::new(&world, &mut bundle, "vm");
    unit.create();
    let pid = unit.container.pid();
    let scope = Path::new("/sys/fs/cgroup/system.slice").join(&unit.name);
    assert_eq!(cgroup_of(pid), scope);
    assert_eq!(systemd("systemctl", &["is-active", &unit.name]).trim(), "active");
    unit.davit(&["start", &unit.container.id]).ok();
    // Without the flag too: state.json knows the driver.
    assert_eq!(unit.container.sh("cat /proc/self/cgroup"), format!("0::/system.slice/{}", unit.name));
    assert!(unit.container.simple("ps").ok().stdout.contains("sleep"));
    unit.container.simple("pause").ok();
    assert_eq!(unit.container.status(), "paused");
    unit.container.simple("resume").ok();
    unit.container.stop();
    unit.finish();
}

#[test]
fn a_run_leaves_nothing() {
    let Some(world) = World::enter("vm::systemd::a_run_leaves_nothing") else { return };
    let mut bundle = world.bundle();
    bundle.script("cat /proc/self/cgroup; exit 3");
    let unit = Unit::new(&world, &mut bundle, "vm");
    let output = unit.davit(&["run", &unit.container.id]).exits(3);
    assert_eq!(output.stdout.trim(), format!("0::/system.slice/{}", unit.name));
    assert_gone(&unit.name);
    unit.container.assert_nothing_left();
}

#[test]
fn nested_slices_are_expanded() {
    let Some(world) = World::enter("vm::systemd::nested_slices_are_expanded") else { return };
    let mut bundle = world.bundle();
    let id = unique("vm");
    bundle.set("/linux/cgroupsPath", json!(format!("davitvm-inner.slice:p:{id}")));
    let container = world.container(&bundle);
    let call = |words: &[&str]| world.call(&[&["--systemd-cgroup"], words].concat()).dir(bundle.dir()).run();
    call(&["create", &container.id]).ok();
    let expected = format!("/sys/fs/cgroup/davitvm.slice/davitvm-inner.slice/p-{id}.scope");
    assert_eq!(cgroup_of(container.pid()), Path::new(&expected));
    call(&["delete", "--force", &container.id]).ok();
    assert_gone(&format!("p-{id}.scope"));
    systemd("systemctl", &["stop", "davitvm.slice"]);
    container.assert_nothing_left();
}

#[test]
fn without_a_path_the_scope_is_named_after_the_container() {
    let test = "vm::systemd::without_a_path_the_scope_is_named_after_the_container";
    let Some(world) = World::enter(test) else { return };
    let bundle = world.bundle();
    let container = world.container(&bundle);
    let call = |words: &[&str]| world.call(&[&["--systemd-cgroup"], words].concat()).dir(bundle.dir()).run();
    call(&["create", &container.id]).ok();
    let expected = format!("/sys/fs/cgroup/system.slice/davit-{}.scope", container.id);
    assert_eq!(cgroup_of(container.pid()), Path::new(&expected));
    let unit = format!("davit-{}.scope", container.id);
    container.finish();
    assert_gone(&unit);
}

#[test]
fn a_failed_start_leaves_no_unit() {
    let Some(world) = World::enter("vm::systemd::a_failed_start_leaves_no_unit") else { return };
    for (pointer, value) in [
        ("/process/args", json!(["/no/such/program"])),
        ("/process/cwd", json!("/proc/cpuinfo")),
        ("/linux/resources/unified", json!({"memory.nonsense": "1"})),
    ] {
        let mut bundle = world.bundle();
        bundle.set(pointer, value);
        let unit = Unit::new(&world, &mut bundle, "vm");
        unit.davit(&["create", &unit.container.id]).exits(1);
        assert_gone(&unit.name);
        unit.container.assert_nothing_left();
    }
}

#[test]
fn properties_that_systemd_refuses_leave_nothing() {
    let test = "vm::systemd::properties_that_systemd_refuses_leave_nothing";
    let Some(world) = World::enter(test) else { return };
    let mut bundle = world.bundle();
    bundle.set("/annotations", json!({"org.systemd.property.NoSuchProperty": "true"}));
    let unit = Unit::new(&world, &mut bundle, "vm");
    let output = unit.davit(&["create", &unit.container.id]).exits(1);
    assert!(
        output.error().contains("NoSuchProperty") && output.error().contains(&unit.name),
        "{}",
        output.error()
    );
    assert_gone(&unit.name);
    unit.container.assert_nothing_left();
}

/// A scope of somebody else's.
fn foreign_scope(name: &str, properties: &[&str]) -> Child {
    let mut command = Command::new("systemd-run");
    command.args(["--scope", "--quiet", "--unit", name]);
    for property in properties {
        command.args(["-p", property]);
    }
    let child = command.args(["sleep", "1000"]).spawn().unwrap();
    wait_until("a foreign scope", || load_state(name) == "loaded");
    child
}

#[test]
fn a_unit_of_somebody_else_is_not_touched() {
    let Some(world) = World::enter("vm::systemd::a_unit_of_somebody_else_is_not_touched") else { return };
    let mut bundle = world.bundle();
    let unit = Unit::new(&world, &mut bundle, "vm");
    let mut other = foreign_scope(&unit.name, &[]);
    let output = unit.davit(&["create", &unit.container.id]).exits(1);
    assert!(output.error().contains("container's cgroup is not empty"), "{}", output.error());
    assert_eq!(systemd("systemctl", &["is-active", &unit.name]).trim(), "active");
    assert!(host::is_alive(i32::try_from(other.id()).unwrap()));
    other.kill().unwrap();
    other.wait().unwrap();
    wait_until("the foreign scope's end", || load_state(&unit.name) == "not-found");
    unit.container.assert_nothing_left();
}

#[test]
fn a_stale_failed_unit_is_replaced() {
    let Some(world) = World::enter("vm::systemd::a_stale_failed_unit_is_replaced") else { return };
    let mut bundle = world.bundle();
    let unit = Unit::new(&world, &mut bundle, "vm");
    let mut other = foreign_scope(&unit.name, &["RuntimeMaxSec=1"]);
    other.wait().unwrap();
    wait_until("the scope has failed", || show(&unit.name)["ActiveState"] == "failed");
    unit.create();
    assert_eq!(systemd("systemctl", &["is-active", &unit.name]).trim(), "active");
    unit.finish();
}

#[test]
fn a_reload_takes_no_device_away() {
    let Some(world) = World::enter("vm::systemd::a_reload_takes_no_device_away") else { return };
    let mut bundle = world.bundle();
    // fuse, and loop-control, which is refused whatever happens.
    let node = |path: &str, minor: u32| json!({"path": path, "type": "c", "major": 10, "minor": minor});
    bundle
        .set(
            "/linux/resources",
            json!({"devices": [{"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]}),
        )
        .set("/linux/devices", json!([node("/dev/allowed", 229), node("/dev/refused", 237)]))
        .args(&["sleep", "1000"]);
    let unit = Unit::new(&world, &mut bundle, "vm");
    unit.create();
    unit.davit(&["start", &unit.container.id]).ok();
    let open = |name: &str| {
        let script = format!("(: </dev/{name}) 2>&1 && echo opened; true");
        unit.container.sh(&script)
    };
    let check = |when: &str| {
        assert_eq!(open("allowed"), "opened", "{when}");
        let refused = open("refused");
        assert!(refused.ends_with("Operation not permitted"), "{when}: {refused}");
        unit.container.sh("echo >/dev/null && head -c1 /dev/zero >/dev/null");
    };
    check("at first");
    systemd("systemctl", &["daemon-reload"]);
    check("after a reload");
    unit.finish();
}

#[test]
fn each_runtime_deletes_the_others_units() {
    let Some(world) = World::enter_with_runc("vm::systemd::each_runtime_deletes_the_others_units") else {
        return;
    };
    let (davit, runc) = (world.runtime(), Path::new(RUNC));
    for (maker, remover) in [(davit, runc), (runc, davit)] {
        let mut bundle = world.bundle();
        bundle.args(&["sleep", "1000"]);
        let unit = Unit::new(&world, &mut bundle, "vm");
        unit.call(maker, &["create", &unit.container.id]).ok();
        unit.call(remover, &["start", &unit.container.id]).ok();
        assert_eq!(unit.call(remover, &["state", &unit.container.id]).ok().json()["status"], "running");
        unit.call(remover, &["delete", "--force", &unit.container.id]).ok();
        assert_gone(&unit.name);
        unit.container.assert_nothing_left();
    }
}

#[test]
fn update_tells_systemd() {
    let Some(world) = World::enter("vm::systemd::update_tells_systemd") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let unit = Unit::new(&world, &mut bundle, "vm");
    unit.create();
    unit.davit(&["update", "--memory", "50331648", "--pids-limit", "33", &unit.container.id]).ok();
    let properties = show(&unit.name);
    assert_eq!((properties["MemoryMax"].as_str(), properties["TasksMax"].as_str()), ("50331648", "33"));
    let scope = cgroup_of(unit.container.pid());
    // A reload writes what systemd knows.
    systemd("systemctl", &["daemon-reload"]);
    assert_eq!(std::fs::read_to_string(scope.join("memory.max")).unwrap().trim(), "50331648");
    assert_eq!(std::fs::read_to_string(scope.join("pids.max")).unwrap().trim(), "33");
    unit.finish();
}

#[test]
fn no_bus_is_told_by_name() {
    let Some(world) = World::enter("vm::systemd::no_bus_is_told_by_name") else { return };
    let bundle = world.bundle();
    let container = world.container(&bundle);
    let hide = "mount -t tmpfs none /run/dbus && mount --bind /dev/null /run/systemd/private && exec \"$@\"";
    let output = world
        .call(&["--systemd-cgroup", "create", &container.id])
        .wrapper(&["unshare", "-m", "sh", "-c", hide, "sh"])
        .dir(bundle.dir())
        .run()
        .exits(1);
    for bus in ["/run/systemd/private", "/run/dbus/system_bus_socket"] {
        assert!(output.error().contains(bus), "{bus}: {}", output.error());
    }
    container.assert_nothing_left();
}

#[test]
fn the_system_bus_does_where_the_private_socket_is_closed() {
    let test = "vm::systemd::the_system_bus_does_where_the_private_socket_is_closed";
    let Some(world) = World::enter(test) else { return };
    let mut bundle = world.bundle();
    bundle.script("exit 4");
    let unit = Unit::new(&world, &mut bundle, "vm");
    let hide = "mount --bind /dev/null /run/systemd/private && exec \"$@\"";
    world
        .call(&["--systemd-cgroup", "run", &unit.container.id])
        .wrapper(&["unshare", "-m", "sh", "-c", hide, "sh"])
        .dir(unit.bundle)
        .run()
        .exits(4);
    assert_gone(&unit.name);
    unit.container.assert_nothing_left();
}

#[test]
fn two_hundred_containers_eight_at_a_time() {
    let Some(world) = World::enter("vm::systemd::two_hundred_containers_eight_at_a_time") else { return };
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // One bundle for each worker: its root filesystem is copied.
                let mut bundle = world.bundle();
                bundle.args(&["true"]);
                while next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 200 {
                    let unit = Unit::new(&world, &mut bundle, "vmmany");
                    unit.davit(&["run", &unit.container.id]).ok();
                }
            });
        }
    });
    let left = systemd("systemctl", &["list-units", "--all", "--no-legend", "vmmany-*"]);
    assert_eq!(left.trim(), "", "units are left");
    assert!(host::cgroups_named("vmmany-").is_empty());
}
