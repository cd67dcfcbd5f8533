//! The systemd cgroup driver with a real systemd.

use std::path::Path;
use std::process::{Child, Command};

use davit_tests::{Bundle, RUNC, World, host, unique, wait_until};
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
            {"allow": true, "type": "b", "major": 259, "access": "r"}],
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

#[test]
fn a_job_that_fails_is_told() {
    let Some(world) = World::enter("vm::systemd::a_job_that_fails_is_told") else { return };
    let mut bundle = world.bundle();
    // systemd takes the job, and it fails: the scope must not start without a service that is not running.
    let other = "['systemd-rfkill.service', 'emergency.service']";
    bundle.set(
        "/annotations",
        json!({"org.systemd.property.Requisite": other, "org.systemd.property.After": other}),
    );
    let unit = Unit::new(&world, &mut bundle, "vm");
    let error = unit.davit(&["create", &unit.container.id]).exits(1).error();
    assert!(error.contains("job result is \"dependency\"") && error.contains(&unit.name), "{error}");
    assert_gone(&unit.name);
    unit.container.assert_nothing_left();
}

#[test]
fn a_container_limits_its_own_sub_cgroups() {
    let test = "vm::systemd::a_container_limits_its_own_sub_cgroups";
    let Some(world) = World::enter(test) else { return };
    let mut bundle = world.bundle();
    bundle
        .push("/linux/namespaces", json!({"type": "cgroup"}))
        .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw", "nosuid", "noexec", "nodev"])
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        // Controllers can be given to sub-cgroups when no process is left beside them.
        .script(
            "cd /sys/fs/cgroup && mkdir own && echo 1 >own/cgroup.procs &&
             echo +memory +pids >cgroup.subtree_control && mkdir limited && echo 7 >limited/pids.max && echo made
             exec sleep 1000",
        );
    let unit = Unit::new(&world, &mut bundle, "vm");
    let create = unit.davit(&["create", &unit.container.id]).ok();
    unit.davit(&["start", &unit.container.id]).ok();
    wait_until("sub-cgroups", || create.stdout_now().contains("made"));
    let scope = Path::new("/sys/fs/cgroup/system.slice").join(&unit.name);
    systemd("systemctl", &["daemon-reload"]);
    let limit = || std::fs::read_to_string(scope.join("limited/pids.max")).unwrap();
    assert_eq!(limit(), "7\n", "systemd leaves it alone");
    // The scope itself takes no process any more: exec goes where init is.
    assert_eq!(unit.container.sh("cat /proc/self/cgroup"), "0::/own");
    unit.davit(&["update", "--pids-limit", "44", &unit.container.id]).ok();
    assert_eq!(std::fs::read_to_string(scope.join("pids.max")).unwrap(), "44\n");
    unit.finish();
}

/// A scope of somebody else's.
fn foreign_scope(name: &str, properties: &[&str]) -> Child {
    let mut command = Command::new("systemd-run");
    command.args(["--scope", "--quiet", "--unit", name]);
    for property in properties {
        command.args(["-p", property]);
    }
    let child = command.args(["sleep", "1000"]).spawn().unwrap();
    // Loaded it is before its process is in it.
    wait_until("a foreign scope", || {
        let state = show(name).remove("ActiveState").unwrap_or_default();
        !["", "inactive", "activating"].contains(&state.as_str())
    });
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

/// A running container that may open one of two devices: fuse (10:229), or loop-control (10:237).
struct Devices<'w> {
    unit: Unit<'w>,
    allowed: &'static str,
    refused: &'static str,
}

impl<'w> Devices<'w> {
    fn new(world: &'w World, bundle: &'w mut Bundle, minor: u32) -> Devices<'w> {
        let node = |path: &str, minor: u32| json!({"path": path, "type": "c", "major": 10, "minor": minor});
        bundle
            .set("/linux/resources", json!({"devices": rules(minor)}))
            .set("/linux/devices", json!([node("/dev/fuse", 229), node("/dev/loop-control", 237)]))
            .args(&["sleep", "1000"]);
        let unit = Unit::new(world, bundle, "vm");
        unit.create();
        unit.davit(&["start", &unit.container.id]).ok();
        let (allowed, refused) =
            if minor == 229 { ("fuse", "loop-control") } else { ("loop-control", "fuse") };
        Devices { unit, allowed, refused }
    }

    #[track_caller]
    fn check(&self, when: &str) {
        let open =
            |name: &str| self.unit.container.sh(&format!("(: </dev/{name}) 2>&1 && echo opened; true"));
        assert_eq!(open(self.allowed), "opened", "{when}");
        let refused = open(self.refused);
        assert!(refused.ends_with("Operation not permitted"), "{when}: {refused}");
        self.unit.container.sh("echo >/dev/null && head -c1 /dev/zero >/dev/null");
    }
}

fn rules(minor: u32) -> serde_json::Value {
    json!([{"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": minor, "access": "rw"}])
}

#[test]
fn updates_and_reloads_change_no_device_rule_of_any_container() {
    let test = "vm::systemd::updates_and_reloads_change_no_device_rule_of_any_container";
    let Some(world) = World::enter(test) else { return };
    let mut bundles = (world.bundle(), world.bundle());
    let mut one = Devices::new(&world, &mut bundles.0, 229);
    let two = Devices::new(&world, &mut bundles.1, 237);
    let check = |one: &Devices<'_>, when: &str| {
        one.check(when);
        two.check(when);
    };
    check(&one, "at first");
    systemd("systemctl", &["daemon-reload"]);
    check(&one, "after a reload");
    let update = |flags: &[&str], input: &[u8]| {
        let words = [&["update"], flags, &[&one.unit.container.id]].concat();
        world.call(&words).stdin(input).run().ok();
    };
    update(&["--pids-limit", "55", "--memory", "67108864"], b"");
    check(&one, "after an update");
    systemd("systemctl", &["daemon-reload"]);
    check(&one, "after an update and a reload");
    // The device rules themselves.
    update(&["--resources", "-"], json!({"devices": rules(237)}).to_string().as_bytes());
    std::mem::swap(&mut one.allowed, &mut one.refused);
    check(&one, "after other rules");
    systemd("systemctl", &["daemon-reload"]);
    check(&one, "after other rules and a reload");
    one.unit.finish();
    two.check("with the other one gone");
    two.unit.finish();
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
    // One of the pair alone: the other stays, for systemd too.
    unit.davit(&["update", "--cpu-quota", "20000", "--cpu-period", "50000", &unit.container.id]).ok();
    unit.davit(&["update", "--cpu-period", "40000", &unit.container.id]).ok();
    assert_eq!(show(&unit.name)["CPUQuotaPerSecUSec"], "500ms");
    unit.davit(&["update", "--cpu-quota", "10000", &unit.container.id]).ok();
    assert_eq!(show(&unit.name)["CPUQuotaPerSecUSec"], "250ms");
    let read = |file: &str| std::fs::read_to_string(scope.join(file)).unwrap().trim().to_owned();
    assert_eq!(read("cpu.max"), "10000 40000");
    // A reload writes what systemd knows.
    systemd("systemctl", &["daemon-reload"]);
    assert_eq!([read("memory.max"), read("pids.max"), read("cpu.max")], ["50331648", "33", "10000 40000"]);
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
