//! One state directory, two runtimes: a live node can switch to davit and back.

use std::path::Path;

use davit_tests::{Bundle, Container, RUNC, World, host, newest_runc, skip, wait_until};
use serde_json::{Value, json};

fn sleeping(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]).set("/annotations", json!({"k": "v"}));
    bundle
}

/// Runs a test with Debian 12's runc as the other runtime, then with the newest.
fn with_each_runc(test: &str, body: impl Fn(&World, &Path)) {
    let Some(world) = World::enter(test) else { return };
    if world.is_runc() {
        return skip(test, "needs davit and runc").unwrap_or_default();
    }
    if Path::new(RUNC).exists() {
        body(&world, Path::new(RUNC));
    } else {
        skip::<()>(test, "no runc: apt-get install runc");
    }
    match newest_runc() {
        Ok(runc) => body(&world, &runc),
        Err(reason) => drop(skip::<()>(test, &reason)),
    }
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
    with_each_runc("interop::runc_manages_davits_containers", |world, runc| {
        let bundle = sleeping(world);
        let c = world.container(&bundle);
        c.create(&[]).ok();
        assert_eq!(without_version(state_by(&c, runc)), without_version(c.state()));
        assert_eq!(c.status(), "created");
        let list = world.call(&["list", "-f", "json"]).with(runc).run().ok().json();
        assert_eq!(list[0]["id"], c.id);
        assert_eq!(list[0]["owner"], "root");

        c.call("start", &[], &[]).with(runc).run().ok();
        assert_eq!(without_version(state_by(&c, runc)), without_version(c.state()));
        assert_eq!(c.status(), "running");
        wait_until("the program", || c.simple("ps").ok().stdout.contains("sleep 1000"));

        assert_eq!(c.call("exec", &[], &["echo", "by runc"]).with(runc).run().ok().stdout, "by runc\n");
        let ps = c.call("ps", &["-f", "json"], &[]).with(runc).run().ok().json();
        assert_eq!(ps, json!([c.pid()]));
        c.call("pause", &[], &[]).with(runc).run().ok();
        assert_eq!(c.status(), "paused");
        c.call("resume", &[], &[]).with(runc).run().ok();
        assert_eq!(c.status(), "running");

        c.call("kill", &[], &["KILL"]).with(runc).run().ok();
        c.wait_for("stopped");
        assert_eq!(without_version(state_by(&c, runc)), without_version(c.state()));
        c.call("delete", &[], &[]).with(runc).run().ok();
        c.assert_nothing_left();
    });
}

#[test]
fn davit_manages_runcs_containers() {
    with_each_runc("interop::davit_manages_runcs_containers", |world, runc| {
        let bundle = sleeping(world);
        let c = world.container(&bundle);
        c.call("create", &[], &[]).dir(bundle.dir()).with(runc).run().ok();
        assert_eq!(without_version(state_by(&c, runc)), without_version(c.state()));
        assert_eq!(c.status(), "created");
        let list = world.call(&["list", "-f", "json"]).run().ok().json();
        assert_eq!(list[0]["id"], c.id);

        c.simple("start").ok();
        // At once: runc's init has said that it goes on, and may not have executed its program yet.
        assert_eq!(c.status(), "running");
        c.exec(&[], &["true"]).ok();
        assert_eq!(without_version(state_by(&c, runc)), without_version(c.state()));
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
        assert_eq!(state_by(&c, runc)["status"], "paused");
        c.simple("resume").ok();
        assert_eq!(state_by(&c, runc)["status"], "running");

        c.stop();
        c.simple("delete").ok();
        c.assert_nothing_left();
    });
}

#[test]
fn each_deletes_the_others_running_containers_by_force() {
    with_each_runc("interop::each_deletes_the_others_running_containers_by_force", |world, runc| {
        let bundle = sleeping(world);
        let davits = world.container(&bundle).started();
        davits.call("delete", &["--force"], &[]).with(runc).run().ok();
        davits.assert_nothing_left();

        let runcs = world.container(&bundle);
        runcs.call("run", &["--detach"], &[]).dir(bundle.dir()).with(runc).run().ok();
        let pid = runcs.pid();
        runcs.finish();
        assert!(!host::is_alive(pid));
    });
}

#[test]
fn each_sees_the_others_ids() {
    with_each_runc("interop::each_sees_the_others_ids", |world, runc| {
        let bundle = sleeping(world);
        let c = world.container(&bundle);
        c.create(&[]).ok();
        let again = c.call("create", &[], &[]).dir(bundle.dir()).with(runc).run();
        again.fails(1, "container with given ID already exists");
        c.finish();
        let c = world.container(&bundle);
        c.call("create", &[], &[]).dir(bundle.dir()).with(runc).run().ok();
        c.create(&[]).fails(1, "container with given ID already exists");
        c.finish();
    });
}

#[test]
fn hooks_and_limits_survive_the_switch() {
    with_each_runc("interop::hooks_and_limits_survive_the_switch", |world, runc| {
        let marker = world.path("poststop");
        let mut bundle = sleeping(world);
        let hook = |n: &str| {
            let script = format!("echo {n} >> {}", marker.display());
            json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]})
        };
        bundle.set("/hooks/poststop", json!([hook("one"), hook("two")]));
        for (creator, deleter) in [(world.runtime(), runc), (runc, world.runtime())] {
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
    });
}

/// runc finds its form of the profile in davit's state.
#[test]
fn runc_execs_under_the_profile() {
    with_each_runc("interop::runc_execs_under_the_profile", |world, runc| {
        let mut bundle = sleeping(world);
        let arg = json!({"index": 1, "value": 10, "valueTwo": 0, "op": "SCMP_CMP_EQ"});
        bundle.set(
            "/linux/seccomp",
            json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
                "syscalls": [
                    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
                    {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [arg]}
                ]
            }),
        );
        let c = world.container(&bundle).started();
        let script = "grep Seccomp: /proc/self/status; mkdir /dev/shm/x 2>&1; kill -USR1 1 2>&1; kill -0 1 && echo yes";
        let by_runc = c.call("exec", &[], &["sh", "-c", script]).with(runc).run().ok();
        let expected = "Seccomp:\t2\nmkdir: can't create directory '/dev/shm/x': No space left on device\n\
                        sh: can't kill pid 1: Operation not permitted\nyes\n";
        assert_eq!(by_runc.stdout, expected);
        assert_eq!(c.exec(&[], &["sh", "-c", script]).ok().stdout, expected);
        c.finish();
    });
}

/// A bundle with a user namespace that maps root to a plain id of the host.
fn mapped(world: &World) -> Bundle {
    let mut bundle = sleeping(world);
    let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", ids.clone()).set("/linux/gidMappings", ids);
    bundle
}

#[test]
fn user_namespaces_and_filters_of_the_other() {
    with_each_runc("interop::user_namespaces_and_filters_of_the_other", |world, runc| {
        let mut bundle = mapped(world);
        let rule = json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"});
        bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
        let c = world.container(&bundle);
        c.call("run", &["--detach"], &[]).dir(bundle.dir()).with(runc).run().ok();
        assert_eq!(c.sh("id -u; cat /proc/self/uid_map | tr -s ' '"), "0\n 0 100000 65536");
        let namespace = std::fs::read_link(format!("/proc/{}/ns/user", c.pid())).unwrap();
        assert_eq!(Path::new(&c.sh("readlink /proc/self/ns/user")), namespace);
        assert!(c.sh("grep Seccomp: /proc/self/status").ends_with("\t2"));
        c.exec(&[], &["mkdir", "/dev/shm/x"]).exits(1);
        c.finish();
    });
}

#[test]
fn runc_enters_davits_user_namespace() {
    with_each_runc("interop::runc_enters_davits_user_namespace", |world, runc| {
        let c = world.container(&mapped(world)).started();
        let exec =
            c.call("exec", &[], &["sh", "-c", "id -u; readlink /proc/self/ns/user"]).with(runc).run().ok();
        let namespace = std::fs::read_link(format!("/proc/{}/ns/user", c.pid())).unwrap();
        assert_eq!(exec.stdout, format!("0\n{}\n", namespace.display()));
        c.call("delete", &["--force"], &[]).with(runc).run().ok();
        c.assert_nothing_left();
    });
}

#[test]
fn paused_by_one_and_ended_by_the_other() {
    with_each_runc("interop::paused_by_one_and_ended_by_the_other", |world, runc| {
        let bundle = sleeping(world);
        for (creator, ender) in [(world.runtime(), runc), (runc, world.runtime())] {
            for command in [&["delete", "--force"][..], &["kill"]] {
                let c = world.container(&bundle);
                c.call("run", &["--detach"], &[]).dir(bundle.dir()).with(creator).run().ok();
                c.call("pause", &[], &[]).with(creator).run().ok();
                assert_eq!(state_by(&c, ender)["status"], "paused");
                match command {
                    ["kill"] => {
                        c.call("kill", &[], &["KILL"]).with(ender).run().ok();
                        // runc 1.1 leaves it frozen: its end comes with the thaw.
                        c.call("resume", &[], &[]).with(ender).run();
                        c.wait_for("stopped");
                        c.call("delete", &[], &[]).with(ender).run().ok();
                    }
                    _ => drop(c.call("delete", &["--force"], &[]).with(ender).run().ok()),
                }
                c.assert_nothing_left();
            }
        }
    });
}

#[test]
fn processes_without_a_pid_namespace_end_with_either() {
    with_each_runc("interop::processes_without_a_pid_namespace_end_with_either", |world, runc| {
        let mut bundle = sleeping(world);
        bundle.without_namespace("pid").script("sleep 1000 & sleep 1000 & wait");
        for (creator, ender) in [(world.runtime(), runc), (runc, world.runtime())] {
            let c = world.container(&bundle);
            c.call("run", &["--detach"], &[]).dir(bundle.dir()).with(creator).run().ok();
            wait_until("three processes", || host::processes_in_cgroup(&c.id).len() == 3);
            if ender == runc {
                // runc's delete gives the killed processes a sixth of a second to be gone, and fails then.
                let flags: &[&str] = if runc == Path::new(RUNC) { &["--all"] } else { &[] };
                c.call("kill", flags, &["KILL"]).with(runc).run().ok();
                wait_until("their end", || host::processes_in_cgroup(&c.id).is_empty());
            }
            c.call("delete", &["--force"], &[]).with(ender).run().ok();
            c.assert_nothing_left();
        }
    });
}
