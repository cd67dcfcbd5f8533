//! One state directory, two runtimes: a live node can switch to davit and back.

use std::path::Path;

use davit_tests::{Bundle, Container, RUNC, World, host, skip, wait_until};
use serde_json::{Value, json};

fn sleeping(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]).set("/annotations", json!({"k": "v"}));
    bundle
}

/// The world, unless runc is the runtime under test.
fn enter(test: &str) -> Option<World> {
    let world = World::enter_with_runc(test)?;
    if world.is_runc() { skip(test, "needs davit and runc") } else { Some(world) }
}

fn runc() -> &'static Path {
    Path::new(RUNC)
}

fn state_by(c: &Container<'_>, program: &Path) -> Value {
    c.call("state", &[], &[]).with(program).run().ok().json()
}

/// The two differ in ociVersion, which is each one's own.
fn without_version(mut state: Value) -> Value {
    state.as_object_mut().unwrap().remove("ociVersion");
    state
}

#[test]
fn runc_manages_davits_containers() {
    let Some(world) = enter("runc_manages_davits_containers") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle);
    c.create(&[]).ok();
    assert_eq!(without_version(state_by(&c, runc())), without_version(c.state()));
    assert_eq!(c.status(), "created");
    let list = world.call(&["list", "-f", "json"]).with(runc()).run().ok().json();
    assert_eq!(list[0]["id"], c.id);
    assert_eq!(list[0]["owner"], "root");

    c.call("start", &[], &[]).with(runc()).run().ok();
    assert_eq!(without_version(state_by(&c, runc())), without_version(c.state()));
    assert_eq!(c.status(), "running");
    wait_until("the program", || c.simple("ps").ok().stdout.contains("sleep 1000"));

    assert_eq!(c.call("exec", &[], &["echo", "by runc"]).with(runc()).run().ok().stdout, "by runc\n");
    let ps = c.call("ps", &["-f", "json"], &[]).with(runc()).run().ok().json();
    assert_eq!(ps, json!([c.pid()]));
    c.call("pause", &[], &[]).with(runc()).run().ok();
    assert_eq!(c.status(), "paused");
    c.call("resume", &[], &[]).with(runc()).run().ok();
    assert_eq!(c.status(), "running");

    c.call("kill", &[], &["KILL"]).with(runc()).run().ok();
    c.wait_for("stopped");
    assert_eq!(without_version(state_by(&c, runc())), without_version(c.state()));
    c.call("delete", &[], &[]).with(runc()).run().ok();
    c.assert_nothing_left();
}

#[test]
fn davit_manages_runcs_containers() {
    let Some(world) = enter("davit_manages_runcs_containers") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle);
    c.call("create", &[], &[]).dir(bundle.dir()).with(runc()).run().ok();
    assert_eq!(without_version(state_by(&c, runc())), without_version(c.state()));
    assert_eq!(c.status(), "created");
    let list = world.call(&["list", "-f", "json"]).run().ok().json();
    assert_eq!(list[0]["id"], c.id);

    c.simple("start").ok();
    assert_eq!(c.status(), "running");
    assert_eq!(without_version(state_by(&c, runc())), without_version(c.state()));
    wait_until("the program", || c.simple("ps").ok().stdout.contains("sleep 1000"));

    // In the container's namespaces and cgroups.
    assert_eq!(c.sh("echo by davit; cat /proc/1/cmdline | tr '\\0' ' '"), "by davit\nsleep 1000");
    assert_eq!(c.sh("cat /proc/self/cgroup"), c.sh("cat /proc/1/cgroup"));
    for kind in ["pid", "net", "ipc", "uts", "mnt"] {
        let inside = c.sh(&format!("readlink /proc/self/ns/{kind}"));
        let init = std::fs::read_link(format!("/proc/{}/ns/{kind}", c.pid())).unwrap();
        assert_eq!(Path::new(&inside), init, "{kind}");
    }
    c.simple("pause").ok();
    assert_eq!(state_by(&c, runc())["status"], "paused");
    c.simple("resume").ok();
    assert_eq!(state_by(&c, runc())["status"], "running");

    c.stop();
    c.simple("delete").ok();
    c.assert_nothing_left();
}

#[test]
fn each_deletes_the_others_running_containers_by_force() {
    let Some(world) = enter("each_deletes_the_others_running_containers_by_force") else { return };
    let bundle = sleeping(&world);
    let davits = world.container(&bundle).started();
    davits.call("delete", &["--force"], &[]).with(runc()).run().ok();
    davits.assert_nothing_left();

    let runcs = world.container(&bundle);
    runcs.call("run", &["--detach"], &[]).dir(bundle.dir()).with(runc()).run().ok();
    let pid = runcs.pid();
    runcs.finish();
    assert!(!host::is_alive(pid));
}

#[test]
fn each_sees_the_others_ids() {
    let Some(world) = enter("each_sees_the_others_ids") else { return };
    let bundle = sleeping(&world);
    let c = world.container(&bundle);
    c.create(&[]).ok();
    let again = c.call("create", &[], &[]).dir(bundle.dir()).with(runc()).run();
    again.fails(1, "container with given ID already exists");
    c.finish();
    let c = world.container(&bundle);
    c.call("create", &[], &[]).dir(bundle.dir()).with(runc()).run().ok();
    c.create(&[]).fails(1, "container with given ID already exists");
    c.finish();
}

#[test]
fn hooks_and_limits_survive_the_switch() {
    let Some(world) = enter("hooks_and_limits_survive_the_switch") else { return };
    let marker = world.path("poststop");
    let mut bundle = sleeping(&world);
    let hook = |n: &str| {
        let script = format!("echo {n} >> {}", marker.display());
        json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]})
    };
    bundle.set("/hooks/poststop", json!([hook("one"), hook("two")]));
    for (creator, deleter) in [(world.runtime(), runc()), (runc(), world.runtime())] {
        let c = world.container(&bundle);
        c.call("run", &["--detach"], &[]).dir(bundle.dir()).with(creator).run().ok();
        c.call("delete", &["--force"], &[]).with(deleter).run().ok();
        assert_eq!(
            std::fs::read_to_string(&marker).unwrap(),
            "one\ntwo\n",
            "deleted by {}",
            deleter.display()
        );
        std::fs::remove_file(&marker).unwrap();
        c.assert_nothing_left();
    }
}

/// davit's state has no filter that runc could load: its exec must fail, not run without one.
#[test]
fn runc_does_not_exec_without_the_seccomp_filter() {
    let Some(world) = enter("runc_does_not_exec_without_the_seccomp_filter") else { return };
    let mut bundle = sleeping(&world);
    let rule = json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"});
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
    let c = world.container(&bundle).started();
    let output = c.call("exec", &[], &["true"]).with(runc()).run();
    assert_ne!(output.code, 0);
    assert!(output.error().contains("seccomp"), "{}", output.error());
    // davit compiles the profile of config.json again.
    assert!(c.sh("grep Seccomp: /proc/self/status").trim_end().ends_with("\t2"));
    c.exec(&[], &["mkdir", "/dev/shm/x"]).exits(1);
    c.finish();
}
