//! A node goes on while davit is replaced: another binary takes over containers of the one before, and reads
//! states of older and newer ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use davit_tests::{Bundle, Call, Container, World, copy_program, host, wait_until};
use serde_json::{Value, json};

fn sleeping(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    bundle
}

fn enter(test: &str) -> Option<World> {
    let world = World::enter(test)?;
    if world.is_runc() { davit_tests::skip(test, "davit's own states") } else { Some(world) }
}

/// Puts another build in the place of the installed binary, as a package manager does: a new file, renamed.
fn install(world: &World, build: &str) -> PathBuf {
    let (installed, new) = (world.path("davit"), world.path("davit.new"));
    copy_program(world.runtime(), &new);
    // What follows an ELF's sections is not loaded. By another process too, as it is to be executed.
    let append = Command::new("sh").args(["-c", "printf %s \"$1\" >>\"$0\""]).arg(&new).arg(build).status();
    assert!(append.unwrap().success());
    fs::rename(&new, &installed).unwrap();
    installed
}

fn by<'w>(c: &Container<'w>, program: &Path, command: &str, flags: &[&str], rest: &[&str]) -> Call<'w> {
    c.call(command, flags, rest).with(program)
}

#[test]
fn the_binary_is_replaced_under_containers() {
    let Some(world) = enter("rolling::the_binary_is_replaced_under_containers") else { return };
    let bundle = sleeping(&world);
    let first = install(&world, "first");
    let (created, running, paused) =
        (world.container(&bundle), world.container(&bundle), world.container(&bundle));
    by(&created, &first, "create", &[], &[]).dir(bundle.dir()).run().ok();
    for c in [&running, &paused] {
        by(c, &first, "run", &["--detach"], &[]).dir(bundle.dir()).run().ok();
    }
    by(&paused, &first, "pause", &[], &[]).run().ok();
    // A command that has begun goes on with the binary that it began with.
    let exec = by(&running, &first, "exec", &[], &["sh", "-c", "read x; echo got $x"]).stdin(b"it\n").spawn();

    let second = install(&world, "second");
    assert_eq!(first, second);
    exec.wait().ok();
    by(&created, &second, "start", &[], &[]).run().ok();
    wait_until("running", || created.status() == "running");
    by(&paused, &second, "resume", &[], &[]).run().ok();
    for c in [&created, &running, &paused] {
        let exec = by(c, &second, "exec", &[], &["echo", "hi"]).run().ok();
        assert_eq!(exec.stdout, "hi\n");
        by(c, &second, "ps", &[], &[]).run().ok();
    }
    assert_eq!(world.call(&["list", "-q"]).with(&second).run().ok().stdout.lines().count(), 3);
    by(&created, &second, "kill", &[], &["KILL"]).run().ok();
    created.wait_for("stopped");
    by(&created, &second, "delete", &[], &[]).run().ok();
    created.assert_nothing_left();
    // No binary at all keeps nothing from ending.
    fs::remove_file(&second).unwrap();
    let pid = running.pid();
    running.finish();
    assert!(!host::is_alive(pid));
    paused.finish();
}

fn change_state(world: &World, c: &Container<'_>, change: impl Fn(&mut Value)) {
    let file = world.root().join(&c.id).join("state.json");
    let mut state = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut state);
    fs::write(&file, state.to_string()).unwrap();
}

fn works(c: &Container<'_>) {
    assert_eq!(c.status(), "created");
    c.simple("start").ok();
    assert_eq!(c.sh("echo hi"), "hi");
    c.simple("pause").ok();
    c.simple("resume").ok();
    c.stop();
    c.simple("delete").ok();
    c.assert_nothing_left();
}

/// What a davit of before wrote: only the keys without which there is no container.
#[test]
fn an_older_state_is_enough() {
    let Some(world) = enter("rolling::an_older_state_is_enough") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle);
    c.create(&[]).ok();
    change_state(&world, &c, |state| {
        let keep = |value: &Value, keys: &[&str]| {
            let kept = keys.iter().filter_map(|key| Some(((*key).to_owned(), value.get(*key)?.clone())));
            Value::Object(kept.collect())
        };
        let config = keep(&state["config"], &["rootfs", "namespaces", "labels"]);
        *state = keep(state, &["id", "init_process_pid", "init_process_start", "created", "cgroup_paths"]);
        state["config"] = config;
    });
    works(&c);
}

/// What a davit of later may write: keys that this one does not know.
#[test]
fn a_newer_state_is_no_error() {
    let Some(world) = enter("rolling::a_newer_state_is_no_error") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle);
    c.create(&[]).ok();
    change_state(&world, &c, |state| {
        state["later"] = json!({"a": [1]});
        state["config"]["later"] = json!("x");
        state["config"]["namespaces"][0]["later"] = json!(1);
        state["config"]["cgroups"]["later"] = json!(null);
    });
    works(&c);
}
