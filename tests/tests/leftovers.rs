//! What `delete` does with each state on disk that a killed runtime, or a dead container, can leave.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use davit_tests::{Bundle, Container, World, host, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn sleeping(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    bundle
}

fn state_file(world: &World, c: &Container<'_>) -> PathBuf {
    world.root().join(&c.id).join("state.json")
}

fn change_state(world: &World, c: &Container<'_>, change: impl FnOnce(&mut Value)) {
    let file = state_file(world, c);
    let mut state = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut state);
    fs::write(&file, state.to_string()).unwrap();
}

/// Kills init as the kernel would: no runtime is told.
fn kill_init(c: &Container<'_>) {
    let pid = c.pid();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_until("the end of init", || !host::is_alive(pid));
}

#[test]
fn a_directory_without_a_state_goes() {
    let Some(world) = World::enter("leftovers::a_directory_without_a_state_goes") else { return };
    let bundle = sleeping(&world);
    for files in [&[][..], &["exec.fifo"], &[".state.json", "exec.fifo"]] {
        for flags in [&[][..], &["--force"]] {
            let c = world.container(&bundle);
            let dir = world.root().join(&c.id);
            fs::create_dir(&dir).unwrap();
            for file in files {
                fs::write(dir.join(file), "{\"id\":").unwrap();
            }
            assert_eq!(world.call(&["list", "-q"]).run().ok().stdout, "");
            c.simple("state").fails(1, "does not exist");
            c.create(&[]).fails(1, "container with given ID already exists");
            let delete = c.call("delete", flags, &[]).run();
            match flags {
                [] => delete.fails(1, "does not exist"),
                _ => delete.ok(),
            };
            assert!(!dir.exists(), "{files:?} {flags:?}");
            // The id is free again.
            c.create(&[]).ok();
            c.finish();
        }
    }
}

#[test]
fn a_killed_create_goes_by_force() {
    let Some(world) = World::enter("leftovers::a_killed_create_goes_by_force") else { return };
    if world.is_runc() {
        // runc writes no state that early.
        return;
    }
    let bundle = sleeping(&world);
    let c = world.container(&bundle);
    c.create(&[]).ok();
    kill_init(&c);
    change_state(&world, &c, |state| state["init_process_pid"] = json!(0));
    assert_eq!(c.status(), "creating");
    assert!(!host::cgroups_named(&c.id).is_empty(), "its cgroups are there");
    c.simple("start").fails(1, "still being created");
    c.exec(&[], &["true"]).fails(255, "still being created");
    c.call("kill", &[], &["KILL"]).run().fails(1, "container not running");
    c.simple("delete").fails(1, "that is not stopped: creating");
    c.finish();
}

#[test]
fn a_killed_create_does_not_take_what_runs_in_its_cgroup() {
    let Some(world) = World::enter("leftovers::a_killed_create_does_not_take_what_runs_in_its_cgroup") else {
        return;
    };
    if world.is_runc() || !host::has_v1() {
        return;
    }
    let mut bundle = sleeping(&world);
    bundle.without_namespace("pid");
    let c = world.container(&bundle);
    c.create(&[]).ok();
    kill_init(&c);
    change_state(&world, &c, |state| state["init_process_pid"] = json!(0));
    let cgroup =
        host::cgroups_named(&c.id).into_iter().find(|dir| dir.to_str().unwrap().contains("pids")).unwrap();
    let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(cgroup.join("cgroup.procs"), other.id().to_string()).unwrap();
    let pid = i32::try_from(other.id()).unwrap();
    // The survivor is named, and lives.
    c.call("delete", &["--force"], &[]).run().fails(1, &pid.to_string());
    assert!(host::is_alive(pid));
    other.kill().unwrap();
    other.wait().unwrap();
    c.finish();
}

#[test]
fn a_dead_init_is_a_stopped_container() {
    let Some(world) = World::enter("leftovers::a_dead_init_is_a_stopped_container") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    kill_init(&c);
    assert_eq!(c.status(), "stopped");
    assert_eq!(c.pid(), 0);
    c.simple("delete").ok();
    c.assert_nothing_left();
    // Before its start: the FIFO is there still.
    let c = world.container(&bundle);
    c.create(&[]).ok();
    kill_init(&c);
    assert_eq!(c.status(), "stopped");
    assert_eq!(c.simple("start").code, 1);
    c.simple("delete").ok();
    c.assert_nothing_left();
}

#[test]
fn missing_pieces_are_not_missed() {
    let Some(world) = World::enter("leftovers::missing_pieces_are_not_missed") else { return };
    let bundle = sleeping(&world);
    // No FIFO: as while `run` is at work. runc takes that for a program that runs.
    let c = world.container(&bundle);
    c.create(&[]).ok();
    fs::remove_file(world.root().join(&c.id).join("exec.fifo")).unwrap();
    assert_eq!(c.status(), if world.is_runc() { "running" } else { "creating" });
    c.finish();
    // No cgroup.
    let c = world.container(&bundle).started();
    kill_init(&c);
    for dir in host::cgroups_named(&c.id) {
        host::remove_when_empty(&dir);
        assert!(!dir.exists(), "{}", dir.display());
    }
    assert_eq!(c.status(), "stopped");
    c.simple("delete").ok();
    c.assert_nothing_left();
    // No bundle.
    let c = world.container(&bundle).started();
    fs::rename(bundle.dir().join("config.json"), bundle.dir().join("moved.json")).unwrap();
    assert_eq!(c.status(), "running");
    c.finish();
    // A half-written state beside the good one, and files that davit knows nothing of.
    let c = world.container(&bundle).started();
    let dir = world.root().join(&c.id);
    fs::write(dir.join(".state.json"), "{\"id").unwrap();
    fs::create_dir(dir.join("more")).unwrap();
    fs::write(dir.join("more/file"), "").unwrap();
    c.finish();
}

#[test]
fn another_process_with_inits_pid_is_left_alone() {
    let Some(world) = World::enter("leftovers::another_process_with_inits_pid_is_left_alone") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    kill_init(&c);
    // The kernel tells start times in hundredths of a second: in the same one it would be the same process.
    std::thread::sleep(Duration::from_millis(20));
    let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = i32::try_from(other.id()).unwrap();
    change_state(&world, &c, |state| state["init_process_pid"] = json!(pid));
    assert_eq!(c.status(), "stopped");
    c.call("kill", &[], &["KILL"]).run().fails(1, "container not running");
    c.finish();
    assert!(host::is_alive(pid));
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_state_that_is_not_ours_is_refused() {
    let Some(world) = World::enter("leftovers::a_state_that_is_not_ours_is_refused") else { return };
    if world.is_runc() {
        // runc follows the link and believes any owner.
        return;
    }
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    let (file, moved) = (state_file(&world, &c), world.path("moved.json"));
    fs::rename(&file, &moved).unwrap();
    symlink(&moved, &file).unwrap();
    c.simple("state").fails(1, "too many symbolic links");
    c.call("kill", &[], &["KILL"]).run().fails(1, "too many symbolic links");
    fs::remove_file(&file).unwrap();
    fs::rename(&moved, &file).unwrap();
    chown(&file, Some(1000), None).unwrap();
    c.simple("state").fails(1, "is owned by uid 1000: refused");
    c.call("delete", &["--force"], &[]).run().fails(1, "is owned by uid 1000: refused");
    // Others are listed all the same.
    let d = world.container(&bundle).started();
    let list = world.call(&["list", "-q"]).run().ok();
    assert_eq!(list.stdout, format!("{}\n", d.id));
    assert!(list.log.contains(&format!("container {}", c.id)), "{}", list.log);
    chown(&file, Some(0), None).unwrap();
    d.finish();
    c.finish();
}

#[test]
fn unknown_ids() {
    let Some(world) = World::enter("leftovers::unknown_ids") else { return };
    world.call(&["delete", "nosuch"]).run().fails(1, "does not exist");
    world.call(&["delete", "--force", "nosuch"]).run().ok();
    for command in ["state", "start", "pause", "resume", "kill", "ps"] {
        world.call(&[command, "nosuch"]).run().fails(1, "does not exist");
    }
    world.call(&["exec", "nosuch", "true"]).run().fails(255, "does not exist");
    for command in ["state", "delete", "kill"] {
        world.call(&[command, "../x"]).run().fails(1, "invalid container ID format");
    }
}
