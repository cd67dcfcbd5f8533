//! `pause`, `resume`, `kill` and `delete` when a container's processes make it hard: many of them, ones that fork as
//! fast as they can, in cgroups of the container's own making, frozen by somebody else, in uninterruptible sleep.
//! Every call has an end (`davit_tests::DEADLINE`), and nothing is left.

use std::fs;
use std::path::PathBuf;

use davit_tests::fuse::Silent;
use davit_tests::{Bundle, Container, View, World, host, skip, unique, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const VIEWS: [View; 2] = [View::Host, View::PureV2];

fn container<'w>(world: &'w World, bundle: &Bundle, view: View) -> Container<'w> {
    let mut c = world.container(bundle);
    c.view = view;
    c
}

/// The directory whose freezer the runtime uses in this view.
fn freezer(c: &Container<'_>) -> PathBuf {
    let name = if c.view == View::Host && host::has_v1() { "freezer" } else { "unified" };
    let dirs = host::cgroups_of(c.pid());
    dirs.into_iter().find(|(hierarchy, _)| hierarchy == name).expect("a freezer").1
}

/// Freezes or thaws a cgroup behind the runtime's back.
fn set_frozen(dir: &std::path::Path, frozen: bool) {
    let v1 = dir.join("freezer.state");
    if v1.exists() {
        fs::write(v1, if frozen { "FROZEN" } else { "THAWED" }).expect("freezer.state");
    } else {
        fs::write(dir.join("cgroup.freeze"), if frozen { "1" } else { "0" }).expect("cgroup.freeze");
    }
}

/// pause, resume, pause, kill, delete.
fn whole_life(c: Container<'_>, shared_pids: bool) {
    c.simple("pause").ok();
    assert_eq!(c.status(), "paused");
    c.simple("resume").ok();
    assert_eq!(c.status(), "running");
    c.simple("pause").ok();
    c.call("kill", &[], &["KILL"]).run().ok();
    c.wait_for("stopped");
    if shared_pids {
        wait_until("the end of all", || host::processes_in_cgroup(&c.id).is_empty());
    }
    c.simple("delete").ok();
    c.assert_nothing_left();
}

#[test]
fn five_hundred_processes() {
    let Some(world) = World::enter("crowd::five_hundred_processes") else { return };
    for view in VIEWS {
        for shared_pids in [false, true] {
            let mut bundle = world.bundle();
            bundle.script("i=0; while [ $i -lt 500 ]; do sleep 1000 & i=$((i+1)); done; wait");
            if shared_pids {
                bundle.without_namespace("pid");
            }
            let c = container(&world, &bundle, view).started();
            wait_until("500 processes", || host::processes_in_cgroup(&c.id).len() == 501);
            if !world.is_runc() {
                let ps = c.call("ps", &["-f", "json"], &[]).run().ok().json();
                assert_eq!(ps.as_array().unwrap().len(), 501);
            }
            whole_life(c, shared_pids);
        }
    }
}

/// Twenty chains of processes that each fork the next one and end: no list of pids is ever right. Init waits for a
/// child of its own, and so reaps those of the chains: else they would use up the host's pids.
#[test]
fn processes_that_fork_as_fast_as_they_can() {
    let Some(world) = World::enter("crowd::processes_that_fork_as_fast_as_they_can") else { return };
    if world.is_runc() {
        return;
    }
    for view in VIEWS {
        for shared_pids in [false, true] {
            let mut bundle = world.bundle();
            bundle.script(
                "f() { f & }; i=0; while [ $i -lt 20 ]; do f; i=$((i+1)); done; while :; do sleep 1000; done",
            );
            if shared_pids {
                bundle.without_namespace("pid");
            }
            let c = container(&world, &bundle, view).started();
            // By the kernel's list: each has ended before it could be looked at in /proc.
            let list = freezer(&c).join("cgroup.procs");
            wait_until("chains", || fs::read_to_string(&list).is_ok_and(|pids| pids.lines().count() > 10));
            whole_life(c, shared_pids);
        }
    }
}

/// A container that may write its cgroup puts processes below it, and freezes them there.
#[test]
fn a_sub_cgroup_that_the_container_froze() {
    let Some(world) = World::enter("crowd::a_sub_cgroup_that_the_container_froze") else { return };
    if world.is_runc() {
        return;
    }
    for view in VIEWS {
        for shared_pids in [false, true] {
            let mut bundle = world.bundle();
            bundle.push("/linux/namespaces", json!({"type": "cgroup"})).script(
                "cd /sys/fs/cgroup; [ ! -d freezer ] || cd freezer; mkdir -p sub/deeper; sleep 1000 & \
                 echo $! >sub/deeper/cgroup.procs; echo FROZEN >sub/freezer.state; echo 1 >sub/cgroup.freeze; \
                 sleep 1000",
            );
            let mounts = bundle.config["mounts"].as_array_mut().unwrap();
            let mount = mounts.iter_mut().find(|mount| mount["type"] == "cgroup").unwrap();
            mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
            if shared_pids {
                bundle.without_namespace("pid");
            }
            let c = container(&world, &bundle, view).started();
            let deeper = freezer(&c).join("sub/deeper");
            let frozen = || {
                let v1 = fs::read_to_string(deeper.join("freezer.state")).is_ok_and(|t| t.trim() == "FROZEN");
                v1 || fs::read_to_string(deeper.join("cgroup.events")).is_ok_and(|t| t.contains("frozen 1"))
            };
            wait_until("a frozen process", || {
                frozen() && fs::read_to_string(deeper.join("cgroup.procs")).is_ok_and(|t| !t.is_empty())
            });
            whole_life(c, shared_pids);
        }
    }
}

#[test]
fn frozen_by_somebody_else() {
    let Some(world) = World::enter("crowd::frozen_by_somebody_else") else { return };
    if world.is_runc() {
        return;
    }
    for view in VIEWS {
        let mut bundle = world.bundle();
        bundle.args(&["sleep", "1000"]);
        let c = container(&world, &bundle, view).started();
        set_frozen(&freezer(&c), true);
        wait_until("paused", || c.status() == "paused");
        c.exec(&[], &["true"]).fails(255, "cannot exec in a paused container");
        c.simple("resume").ok();
        assert_eq!(c.exec(&[], &["true"]).code, 0);
        set_frozen(&freezer(&c), true);
        c.call("kill", &[], &["KILL"]).run().ok();
        c.wait_for("stopped");
        c.finish();
        let c = container(&world, &bundle, view).started();
        set_frozen(&freezer(&c), true);
        c.finish();
    }
}

/// What a frozen cgroup above a container's means: it can't start there, and one that is there already ends by force
/// or says why not.
#[test]
fn below_a_frozen_cgroup() {
    let Some(world) = World::enter("crowd::below_a_frozen_cgroup") else { return };
    if world.is_runc() {
        return;
    }
    for view in VIEWS {
        let parent = unique("davit-test-frozen");
        let mut bundle = world.bundle();
        bundle.args(&["sleep", "1000"]).set("/linux/cgroupsPath", json!(format!("/{parent}/c")));
        let c = container(&world, &bundle, view).started();
        let above = freezer(&c).parent().unwrap().to_owned();
        assert!(above.ends_with(&parent));
        set_frozen(&above, true);
        bundle.set("/linux/cgroupsPath", json!(format!("/{parent}/d")));
        let second = container(&world, &bundle, view);
        second.create(&[]).fails(1, "frozen");
        second.assert_nothing_left();
        let killed = c.call("kill", &[], &["KILL"]).run();
        assert_eq!(killed.code, 0, "{}", killed.stderr);
        if above.join("freezer.state").exists() {
            // v1: nobody dies before the cgroup above is thawed.
            let deleted = c.call("delete", &["--force"], &[]).run();
            assert_ne!(deleted.code, 0);
            println!("{}", deleted.stderr);
            assert!(deleted.error().contains("frozen"), "{}", deleted.stderr);
            set_frozen(&above, false);
        }
        c.wait_for("stopped");
        c.finish();
        for dir in host::cgroups_named(&parent) {
            host::remove_when_empty(&dir);
            assert!(!dir.exists(), "{}", dir.display());
        }
    }
}

#[test]
fn a_process_in_uninterruptible_sleep() {
    let test = "crowd::a_process_in_uninterruptible_sleep";
    let Some(world) = World::enter(test) else { return };
    if world.is_runc() {
        return;
    }
    for view in VIEWS {
        let dir = world.path(&unique("silent"));
        let mut silent = match Silent::mount(&dir) {
            Ok(silent) => silent,
            Err(reason) => return skip(test, &reason).unwrap_or_default(),
        };
        let mut bundle = world.bundle();
        bundle.args(&["sleep", "1000"]).mount("/mnt", "bind", dir.to_str().unwrap(), &["rbind"]);
        let c = container(&world, &bundle, view).started();
        c.exec(&["--detach"], &["stat", "/mnt/x"]).ok();
        let stuck = || {
            let state = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            host::processes_in_cgroup(&c.id).into_iter().find(|pid| state(pid).contains(") D "))
        };
        // The first signal makes the kernel tell the file system, which does not care.
        let client = || {
            let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            host::processes_in_cgroup(&c.id).into_iter().find(|pid| name(pid).trim() == "stat")
        };
        let wchan = |pid: i32| fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        // And read by the file system: one that is not is taken back at the signal.
        let sent = || client().is_some_and(|pid| wchan(pid) == "request_wait_answer");
        wait_until("a request", || sent() && silent.asked() > 0);
        kill(Pid::from_raw(client().unwrap()), Signal::SIGTERM).unwrap();
        wait_until("a sleeping process", || stuck().is_some());
        let pid = stuck().unwrap().to_string();
        let paused = c.simple("pause");
        println!("{view:?} pause: {} {}", paused.code, paused.stderr);
        if paused.code == 0 {
            c.simple("resume").ok();
        } else {
            assert!(paused.error().contains(&pid), "{}", paused.stderr);
        }
        assert_eq!(c.status(), "running", "thawed after a pause that failed");
        assert_eq!(c.exec(&[], &["true"]).code, 0, "and goes on");
        c.call("kill", &[], &["KILL"]).run().ok();
        let deleted = c.call("delete", &["--force"], &[]).run();
        println!("{view:?} delete: {} {}", deleted.code, deleted.stderr);
        assert_ne!(deleted.code, 0, "it can't be gone");
        assert!(deleted.error().contains(&pid), "{}", deleted.stderr);
        silent.abort();
        c.wait_for("stopped");
        c.finish();
    }
}
