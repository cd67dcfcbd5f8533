//! An ordinary user with a systemd of their own: its driver, and the cgroupfs driver in a delegated scope.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use davit_tests::user::{Ranges, UID, map_to_user};
use davit_tests::{Bundle, Container, Output, World, wait_until};
use serde_json::json;

use crate::cgroup_of;

const LIMIT: i64 = 48 << 20;

/// Directory of the user's sockets, which logind makes.
fn runtime_dir() -> String {
    format!("/run/user/{UID}")
}

/// The cgroup of the user's systemd.
fn manager_cgroup() -> PathBuf {
    format!("/sys/fs/cgroup/user.slice/user-{UID}.slice/user@{UID}.service").into()
}

#[track_caller]
fn ok(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The world of a user who is logged in, so to speak: systemd runs for them. `words` come before each call.
fn enter(test: &str, words: &[&str]) -> Option<World> {
    static MANAGER: Once = Once::new();
    let mut world = World::enter_as_user(test, Ranges::None)?;
    MANAGER.call_once(|| {
        let id = UID.to_string();
        ok("groupadd", &["--gid", &id, "tester"]);
        ok("useradd", &["--uid", &id, "--gid", &id, "--no-create-home", "tester"]);
        ok("loginctl", &["enable-linger", "tester"]);
        wait_until("the user's systemd", || {
            ["systemd/private", "bus"].iter().all(|name| Path::new(&runtime_dir()).join(name).exists())
        });
    });
    world.through(words);
    Some(world)
}

/// As [`enter`], with the environment of a login.
fn logged_in(test: &str) -> Option<World> {
    enter(test, &["env", &format!("XDG_RUNTIME_DIR={}", runtime_dir())])
}

/// `systemctl --user`, by the user.
#[track_caller]
fn systemctl(args: &[&str]) -> String {
    let id = UID.to_string();
    let runtime = format!("XDG_RUNTIME_DIR={}", runtime_dir());
    let all = ["--reuid", &id, "--regid", &id, "--clear-groups", "env", &runtime, "systemctl", "--user"];
    ok("setpriv", &[&all[..], args].concat())
}

#[track_caller]
fn assert_gone(unit: &str) {
    assert_eq!(
        systemctl(&["show", "-p", "LoadState", "--value", unit]).trim(),
        "not-found",
        "{unit} is left"
    );
}

fn with_limits(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    map_to_user(&mut bundle);
    bundle
        .push("/linux/namespaces", json!({"type": "cgroup"}))
        .set(
            "/linux/resources",
            json!({"memory": {"limit": LIMIT}, "pids": {"limit": 40}, "cpu": {"shares": 512}}),
        )
        .args(&["sleep", "1000"]);
    bundle
}

fn call(world: &World, container: &Container<'_>, words: &[&str]) -> Output {
    world.call(&[&["--systemd-cgroup"], words].concat()).dir(container.bundle()).run()
}

fn read(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file)).unwrap_or_else(|e| panic!("{file}: {e}")).trim_end().to_owned()
}

#[test]
fn the_users_systemd_makes_the_scope() {
    let Some(world) = logged_in("vm::user::the_users_systemd_makes_the_scope") else { return };
    let bundle = with_limits(&world);
    let container = world.container(&bundle);
    let unit = format!("davit-{}.scope", container.id);
    call(&world, &container, &["create", &container.id]).ok();
    let scope = cgroup_of(container.pid());
    assert_eq!(scope, manager_cgroup().join("user.slice").join(&unit));
    assert_eq!(systemctl(&["is-active", &unit]).trim(), "active");
    // What is delegated to users by default: memory, pids, cpu.
    let expected = [LIMIT.to_string(), "40".to_owned(), "59".to_owned()];
    assert_eq!(["memory.max", "pids.max", "cpu.weight"].map(|file| read(&scope, file)), expected);
    container.simple("start").ok();
    // Exec moves its process there by the user's systemd: the caller is in a cgroup of the system's.
    assert_eq!(container.sh("cat /proc/self/cgroup"), "0::/");
    assert!(container.simple("ps").ok().stdout.contains("sleep"));
    container.call("update", &["--memory", "50331648", "--pids-limit", "33"], &[]).run().ok();
    let show = |name: &str| systemctl(&["show", "-p", name, "--value", &unit]).trim().to_owned();
    assert_eq!([show("MemoryMax"), show("TasksMax")], ["50331648", "33"]);
    assert_eq!(["memory.max", "pids.max"].map(|file| read(&scope, file)), ["50331648", "33"]);
    container.simple("pause").ok();
    assert_eq!(container.status(), "paused");
    container.simple("resume").ok();
    container.stop();
    container.simple("delete").ok();
    assert_gone(&unit);
    container.assert_nothing_left();
}

/// A process that needs more memory than it may have; 137 is what becomes of it.
const HOG: &str = "dd if=/dev/zero of=/dev/null bs=128M count=1";

#[test]
fn limits_of_the_users_systemd_apply() {
    let Some(world) = logged_in("vm::user::limits_of_the_users_systemd_apply") else { return };
    let mut bundle = with_limits(&world);
    bundle.set("/linux/resources/memory/swap", json!(LIMIT)).args(&["sh", "-c", &format!("exec {HOG}")]);
    let container = world.container(&bundle);
    call(&world, &container, &["run", &container.id]).exits(137);
    assert_gone(&format!("davit-{}.scope", container.id));
    container.assert_nothing_left();
}

#[test]
fn the_session_bus_does_as_well() {
    let bus = format!("DBUS_SESSION_BUS_ADDRESS=unix:path={}/bus", runtime_dir());
    let words = ["env", "--unset=XDG_RUNTIME_DIR", bus.as_str()];
    let Some(world) = enter("vm::user::the_session_bus_does_as_well", &words) else { return };
    let mut bundle = with_limits(&world);
    bundle.set("/linux/cgroupsPath", json!("davitvm.slice:made:by-a-user")).script("exit 5");
    let container = world.container(&bundle);
    call(&world, &container, &["run", &container.id]).exits(5);
    assert_gone("made-by-a-user.scope");
    container.assert_nothing_left();
}

#[test]
fn a_failed_start_leaves_no_unit_of_the_user() {
    let Some(world) = logged_in("vm::user::a_failed_start_leaves_no_unit_of_the_user") else { return };
    let mut bundle = with_limits(&world);
    bundle.args(&["/no/such/program"]);
    let container = world.container(&bundle);
    call(&world, &container, &["create", &container.id]).exits(1);
    assert_gone(&format!("davit-{}.scope", container.id));
    container.assert_nothing_left();
}

#[test]
fn a_missing_bus_of_the_user_is_told_by_name() {
    let test = "vm::user::a_missing_bus_of_the_user_is_told_by_name";
    let nowhere = ["env", "--unset=DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR=/run/user/nobody"];
    let Some(world) = enter(test, &nowhere) else { return };
    let container = world.container(&with_limits(&world));
    let error = call(&world, &container, &["create", &container.id]).exits(1).error();
    for bus in ["/run/user/nobody/systemd/private", "/run/user/nobody/bus"] {
        assert!(error.contains(bus), "{bus}: {error}");
    }
    container.assert_nothing_left();

    let without = ["env", "--unset=DBUS_SESSION_BUS_ADDRESS", "--unset=XDG_RUNTIME_DIR"];
    let Some(world) = enter(test, &without) else { return };
    let container = world.container(&with_limits(&world));
    let error = call(&world, &container, &["create", &container.id]).exits(1).error();
    assert!(error.contains("neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS is set"), "{error}");
    container.assert_nothing_left();
}

#[test]
fn limits_apply_in_a_delegated_scope() {
    let runtime = format!("XDG_RUNTIME_DIR={}", runtime_dir());
    let scope = ["systemd-run", "--user", "--scope", "--quiet", "-p", "Delegate=yes"];
    let words = [&["env", runtime.as_str()][..], &scope].concat();
    let Some(world) = enter("vm::user::limits_apply_in_a_delegated_scope", &words) else { return };
    let mut bundle = with_limits(&world);
    bundle.set("/linux/resources/memory/swap", json!(LIMIT)).args(&["sh", "-c", &format!("exec {HOG}")]);
    let container = world.container(&bundle);
    // In the foreground: the scope is there as long as the call.
    container.run(&[]).exits(137);
    container.assert_nothing_left();

    // The inner shell forks until it may not any more, and ends then.
    bundle.script("(i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i + 1)); done); exec sleep 1000");
    let container = world.container(&bundle);
    let running = container.call("run", &[], &[]).dir(container.bundle()).spawn();
    wait_until("the container", || {
        let state = container.simple("state");
        state.code == 0 && state.json()["status"] == "running"
    });
    let dir = cgroup_of(container.pid());
    assert!(dir.starts_with(manager_cgroup()), "{dir:?}");
    assert_eq!(["memory.max", "pids.max"].map(|file| read(&dir, file)), [LIMIT.to_string(), "40".to_owned()]);
    let refused = |events: &str| events.lines().any(|line| line.starts_with("max ") && line != "max 0");
    wait_until("a fork is refused", || refused(&read(&dir, "pids.events")));
    container.call("kill", &[], &["KILL"]).run().ok();
    running.wait().exits(137);
    container.assert_nothing_left();
}
