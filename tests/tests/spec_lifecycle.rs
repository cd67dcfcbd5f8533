//! runtime.md of the runtime-spec, section by section: what a container's life must look like from outside.

use std::fs;
use std::path::Path;

use davit_tests::{Bundle, Container, World, host, wait_until};
use serde_json::{Value, json};

fn sleeping(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    bundle
}

/// A hook on the host that appends a word to a file.
fn hook(file: &Path, word: &str) -> Value {
    let script = format!("cat > /dev/null; echo {word} >> {}", file.display());
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
}

/// "Scope of a Container": a container is known to its runtime by its id, not beyond the state directory.
#[test]
fn scope_of_a_container() {
    let Some(world) = World::enter("spec_lifecycle::scope_of_a_container") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    let other = world.path("other");
    fs::create_dir(&other).unwrap();
    let root = other.to_str().unwrap();
    let elsewhere =
        std::process::Command::new(world.runtime()).args(["--root", root, "state", &c.id]).output().unwrap();
    assert!(!elsewhere.status.success());
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("does not exist"));
    assert_eq!(c.status(), "running");
    c.finish();
}

/// "State": the properties that MUST be there, in each status.
#[test]
fn state() {
    let Some(world) = World::enter("spec_lifecycle::state") else { return };
    let mut bundle = sleeping(&world);
    bundle.set("/annotations", json!({"org.example.key": "value"}));
    let c = world.container(&bundle);
    let check = |status: &str| {
        let state = c.state();
        assert!(state["ociVersion"].as_str().unwrap().starts_with("1."), "{state}");
        assert_eq!(state["id"], c.id);
        assert_eq!(state["status"], status);
        assert_eq!(state["bundle"], bundle.dir().to_str().unwrap(), "absolute");
        assert_eq!(state["annotations"], json!({"org.example.key": "value"}));
        let pid = i32::try_from(state["pid"].as_i64().unwrap()).unwrap();
        // "REQUIRED when status is created or running": as seen by the runtime.
        assert_eq!(pid > 0 && host::is_alive(pid), status != "stopped", "{state}");
    };
    c.create(&[]).ok();
    check("created");
    c.simple("start").ok();
    check("running");
    c.stop();
    check("stopped");
    // "annotations … MAY be omitted or empty".
    c.finish();
    bundle.remove("/annotations");
    let c = world.container(&bundle);
    c.create(&[]).ok();
    assert!(c.state().get("annotations").is_none_or(|all| *all == json!({})));
    c.finish();
}

/// "Lifecycle", steps 1 to 13: each hook at its place, the program between its neighbours.
#[test]
fn lifecycle() {
    let Some(world) = World::enter("spec_lifecycle::lifecycle") else { return };
    if world.is_runc() {
        // runc before 1.5 runs poststart before the program.
        return;
    }
    let file = world.path("order");
    let mut bundle = world.bundle();
    let dir = world.path("").to_str().unwrap().to_owned();
    bundle.mount(&dir, "bind", &dir, &["bind"]);
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        bundle.set(&format!("/hooks/{kind}"), hook(&file, kind));
    }
    bundle.script(&format!("echo program >> {}; exec sleep 1000", file.display()));
    let c = world.container(&bundle);
    let order =
        || fs::read_to_string(&file).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    c.create(&[]).ok();
    assert_eq!(
        order(),
        ["prestart", "createRuntime", "createContainer"],
        "2 to 5: create returns before start"
    );
    c.simple("start").ok();
    wait_until("the program", || order().contains(&"program".to_owned()));
    let mut after = order().split_off(3);
    assert_eq!(after.remove(0), "startContainer", "7: before the program");
    after.sort();
    assert_eq!(after, ["poststart", "program"], "8 and 9: by the end of start");
    c.stop();
    assert_eq!(order().len(), 6, "11: the end of the program runs no hook");
    c.simple("delete").ok();
    assert_eq!(order()[6..], ["poststop"], "13: after the container is deleted");
    c.assert_nothing_left();
}

/// "Lifecycle": a failed prestart, createRuntime or createContainer hook generates an error, stops the container
/// and goes on with step 12; so does startContainer's at start.
#[test]
fn lifecycle_of_failing_hooks() {
    let Some(world) = World::enter("spec_lifecycle::lifecycle_of_failing_hooks") else { return };
    let file = world.path("order");
    let fail = json!([{"path": "/bin/false", "args": ["false"]}]);
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = sleeping(&world);
        bundle.set(&format!("/hooks/{kind}"), fail.clone()).set("/hooks/poststop", hook(&file, "poststop"));
        let c = world.container(&bundle);
        c.create(&[]).fails(1, "hook");
        assert_eq!(fs::read_to_string(&file).unwrap_or_default(), "poststop\n", "{kind}");
        fs::remove_file(&file).unwrap();
        c.assert_nothing_left();
    }
    let mut bundle = sleeping(&world);
    bundle.set("/hooks/startContainer", fail);
    let c = world.container(&bundle);
    c.create(&[]).ok();
    let start = c.simple("start");
    if !world.is_runc() {
        // runc has let go of init by then.
        start.fails(1, "startContainer");
    }
    c.wait_for("stopped");
    c.simple("delete").ok();
    c.assert_nothing_left();
}

/// "Errors": leave the environment as if the operation had never been tried.
#[test]
fn errors() {
    let Some(world) = World::enter("spec_lifecycle::errors") else { return };
    let mut bundle = sleeping(&world);
    bundle.mount("/nosuch", "bind", "/nosuch/source", &["bind"]);
    let c = world.container(&bundle);
    let pid_file = world.path("pid");
    c.create(&["--pid-file", pid_file.to_str().unwrap()]).fails(1, "/nosuch/source");
    assert!(!pid_file.exists());
    c.assert_nothing_left();
    c.simple("state").fails(1, "does not exist");
}

/// "Warnings": logged, and the operation goes on.
#[test]
fn warnings() {
    let Some(world) = World::enter("spec_lifecycle::warnings") else { return };
    let mut bundle = sleeping(&world);
    bundle.push("/process/capabilities/bounding", json!("CAP_NO_SUCH"));
    let c = world.container(&bundle);
    let create = c.create(&[]).ok();
    assert!(create.log.contains("\"warning\"") && create.log.contains("CAP_NO_SUCH"), "{}", create.log);
    c.finish();
}

/// "Query State": an error for an id that is none; all properties otherwise (see `state`).
#[test]
fn query_state() {
    let Some(world) = World::enter("spec_lifecycle::query_state") else { return };
    world.call(&["state", "nosuch"]).run().fails(1, "does not exist");
    world.call(&["state"]).run().exits(1);
}

/// "Create": an error unless the id is unique and the bundle is there; the program does not run; changes of
/// config.json afterwards have no effect.
#[test]
fn create() {
    let Some(world) = World::enter("spec_lifecycle::create") else { return };
    let mut bundle = world.bundle();
    bundle.set("/root/readonly", json!(false)).script("touch /tmp/ran; exec sleep 1000");
    let c = world.container(&bundle);
    let pid_file = world.path("pid");
    c.create(&["--pid-file", pid_file.to_str().unwrap()]).ok();
    assert_eq!(c.status(), "created");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), c.pid().to_string());
    assert!(!bundle.rootfs("tmp/ran").exists());
    // "This operation MUST generate an error if … not unique": and the first is not touched.
    let pid = c.pid();
    c.create(&[]).fails(1, "container with given ID already exists");
    c.run(&[]).fails(1, "container with given ID already exists");
    assert_eq!((c.status().as_str(), c.pid()), ("created", pid));
    // "Any updates to config.json after this step will not affect the container".
    bundle.args(&["sh", "-c", "touch /tmp/other; exec sleep 1000"]).set("/hostname", json!("other"));
    bundle.write();
    c.simple("start").ok();
    wait_until("the program", || bundle.rootfs("tmp/ran").exists());
    assert!(!bundle.rootfs("tmp/other").exists());
    assert_ne!(c.sh("hostname"), "other");
    c.finish();

    world.call(&["create", "--bundle", "/nosuch", "x"]).run().fails(1, "/nosuch");
    let empty = world.path("empty");
    fs::create_dir(&empty).unwrap();
    world.call(&["create", "--bundle", empty.to_str().unwrap(), "x"]).run().fails(1, "config.json");
    // "create <container-id> <path-to-bundle>": both are needed.
    world.call(&["create"]).run().exits(1);
}

/// "Create": ids that can't be names of directories are none.
#[test]
fn create_with_wrong_ids() {
    let Some(world) = World::enter("spec_lifecycle::create_with_wrong_ids") else { return };
    let bundle = sleeping(&world);
    bundle.write();
    for id in ["..", ".", "a/b", "../x", "a b", "ä", "a\nb"] {
        world.call(&["create", id]).dir(bundle.dir()).run().fails(1, "invalid container ID format");
    }
    world.call(&["create", ""]).dir(bundle.dir()).run().fails(1, "container id cannot be empty");
    assert_eq!(world.call(&["list", "-q"]).run().ok().stdout, "");
}

/// "Start": an error without a container, or with one that is not created; the program runs as configured.
#[test]
fn start() {
    let Some(world) = World::enter("spec_lifecycle::start") else { return };
    let bundle = sleeping(&world);
    world.call(&["start"]).run().exits(1);
    world.call(&["start", "nosuch"]).run().fails(1, "does not exist");
    let c = world.container(&bundle).started();
    let pid = c.pid();
    c.simple("start").fails(1, "cannot start an already running container");
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid), "no effect on the container");
    c.stop();
    c.simple("start").fails(1, "cannot start a container that has stopped");
    assert_eq!(c.status(), "stopped");
    c.finish();
}

/// "Start": a program that can't be run is an error of create or start, and leaves a container to delete.
#[test]
fn start_without_a_program() {
    let Some(world) = World::enter("spec_lifecycle::start_without_a_program") else { return };
    let mut bundle = sleeping(&world);
    bundle.args(&["/nosuch"]);
    let c = world.container(&bundle);
    c.create(&[]).fails(1, "/nosuch");
    c.assert_nothing_left();
    // There at create, gone at start.
    davit_tests::copy_program(&bundle.rootfs("bin/busybox"), &bundle.rootfs("bin/sleeper"));
    bundle.args(&["/bin/sleeper"]);
    let c = world.container(&bundle);
    c.create(&[]).ok();
    fs::remove_file(bundle.rootfs("bin/sleeper")).unwrap();
    let start = c.simple("start");
    if !world.is_runc() {
        start.fails(1, "/bin/sleeper");
    }
    c.wait_for("stopped");
    c.simple("delete").ok();
    c.assert_nothing_left();
}

/// "Kill": an error without an id or with an unknown one, and unless the container is created or running.
#[test]
fn kill() {
    let Some(world) = World::enter("spec_lifecycle::kill") else { return };
    let mut bundle = sleeping(&world);
    bundle.script("trap 'exit 7' TERM; touch /dev/shm/ready; while true; do sleep 0.01; done");
    world.call(&["kill"]).run().exits(1);
    world.call(&["kill", "nosuch", "KILL"]).run().fails(1, "does not exist");
    let c = world.container(&bundle).started();
    wait_until("the trap", || c.exec(&[], &["test", "-e", "/dev/shm/ready"]).code == 0);
    c.call("kill", &[], &["TERM"]).run().ok();
    c.wait_for("stopped");
    c.call("kill", &[], &["TERM"]).run().fails(1, "container not running");
    assert_eq!(c.status(), "stopped");
    c.finish();
}

/// "Delete": an error without an id, with an unknown one, and unless stopped; what create made goes, what it did
/// not make stays, and the id is free again.
#[test]
fn delete() {
    let Some(world) = World::enter("spec_lifecycle::delete") else { return };
    let mut bundle = sleeping(&world);
    let data = world.path("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "kept").unwrap();
    fs::create_dir_all(bundle.rootfs("data")).unwrap();
    bundle.mount("/data", "bind", data.to_str().unwrap(), &["bind"]);
    world.call(&["delete"]).run().exits(1);
    world.call(&["delete", "nosuch"]).run().fails(1, "does not exist");
    let c = world.container(&bundle).started();
    let pid = c.pid();
    c.simple("delete").fails(1, "that is not stopped: running");
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid), "no effect on the container");
    c.simple("pause").ok();
    c.simple("delete").fails(1, "that is not stopped: paused");
    c.simple("resume").ok();
    c.stop();
    c.simple("delete").ok();
    c.assert_nothing_left();
    c.simple("state").fails(1, "does not exist");
    c.simple("delete").fails(1, "does not exist");
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "kept");
    assert!(bundle.rootfs("bin/busybox").exists());
    c.create(&[]).ok();
    c.finish();
}

/// Wrong states of the operations that runc adds: pause, resume, exec, ps.
#[test]
fn operations_beyond_the_specification() {
    let Some(world) = World::enter("spec_lifecycle::operations_beyond_the_specification") else { return };
    let bundle = sleeping(&world);
    let c: Container<'_> = world.container(&bundle).started();
    c.simple("resume").fails(1, "container not paused");
    c.simple("pause").ok();
    assert_eq!(c.status(), "paused");
    c.exec(&[], &["true"]).fails(255, "cannot exec in a paused container");
    c.simple("start").fails(1, if world.is_runc() { "cannot start a" } else { "already running" });
    if !world.is_runc() {
        c.simple("pause").fails(1, "container not running");
    }
    assert!(c.simple("ps").ok().stdout.contains("sleep 1000"));
    c.simple("resume").ok();
    assert_eq!(c.status(), "running");
    c.stop();
    c.simple("pause").fails(1, "container not running");
    c.simple("resume").fails(1, "container not paused");
    c.exec(&[], &["true"]).fails(255, "cannot exec in a stopped container");
    c.finish();
}

/// runtime.md "State": running is a container that "has executed the user-specified program".
#[test]
fn a_run_is_not_running_before_its_program_is() {
    let Some(world) = World::enter("a_run_is_not_running_before_its_program_is") else { return };
    let mut bundle = world.bundle();
    let seen = world.path("seen");
    bundle.args(&["true"]);
    let c = world.container(&bundle);
    let ask = format!(
        "{} --root {} state {} > {}",
        world.runtime().display(),
        world.root().display(),
        c.id,
        seen.display()
    );
    bundle.set("/hooks/createRuntime", json!([{"path": "/bin/sh", "args": ["sh", "-c", ask]}]));
    bundle.write();
    c.run(&[]).ok();
    let state: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(seen).unwrap()).unwrap();
    // runc has an exec.fifo here too, and says created.
    let expected = if world.is_runc() { "created" } else { "creating" };
    assert_eq!(state["status"], expected);
    c.assert_nothing_left();
}
