//! Life of a cgroup on the host's own v1 or hybrid layout.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use davit::cgroup::{Cgroup, Error, Layout, Mode, OnDenied, Stats};

use crate::common::{Scratch, Shell, openable, resolve, resources, skip_unless_v1, until};

#[test]
fn create_attach_kill_remove() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::new();
    assert!(!scratch.exists());
    scratch.create().unwrap();
    assert!(scratch.exists());
    assert!(scratch.clone_target().is_none());
    let shell = Shell::waiting("sleep 100");
    scratch.attach(shell.pid()).unwrap();
    assert_eq!(scratch.pids().unwrap(), [shell.pid()]);
    let proc_cgroup = fs::read_to_string(format!("/proc/{}/cgroup", shell.pid())).unwrap();
    for (controller, dir) in scratch.paths() {
        let (_, rest) = dir.to_str().unwrap().split_once("/davit-test").unwrap();
        let line = if controller.is_empty() { "0::".to_owned() } else { format!(":{controller}:") };
        assert!(proc_cgroup.contains(&format!("{line}/davit-test{rest}\n")), "{controller}: {proc_cgroup}");
    }
    scratch.kill(libc::SIGKILL).unwrap();
    assert_eq!(shell.killed_by(), Some(libc::SIGKILL));
    scratch.remove().unwrap();
    assert!(scratch.paths().values().all(|dir| !dir.exists()));
    scratch.remove().unwrap();
    assert!(scratch.pids().unwrap().is_empty());
}

#[test]
fn an_existing_cgroup_must_be_empty_and_thawed() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    scratch.again().create().unwrap();
    scratch.freeze().unwrap();
    assert_eq!(scratch.again().create().unwrap_err().to_string(), "container's cgroup unexpectedly frozen");
    scratch.thaw().unwrap();
    // In a sub-cgroup, in one hierarchy only.
    let sub = scratch.dir("pids").join("sub");
    fs::create_dir(&sub).unwrap();
    let shell = Shell::waiting("sleep 100");
    fs::write(sub.join("cgroup.procs"), shell.pid().to_string()).unwrap();
    let error = scratch.again().create().unwrap_err();
    assert_eq!(error.to_string(), "container's cgroup is not empty: 1 process(es) found");
    // Nothing of it is removed by the one that was refused.
    let refused = scratch.again();
    assert!(refused.create().is_err());
    refused.remove().unwrap();
    assert!(sub.exists());
}

#[test]
fn a_failed_create_leaves_nothing() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    let pids = scratch.dir("pids");
    let shell = Shell::waiting("sleep 100");
    fs::write(pids.join("cgroup.procs"), shell.pid().to_string()).unwrap();
    for (controller, dir) in scratch.paths() {
        if controller != "pids" {
            fs::remove_dir(dir).unwrap();
        }
    }
    let again = scratch.again();
    assert!(matches!(again.create(), Err(Error::NotEmpty(1))));
    let left: Vec<_> = again.paths().into_values().filter(|dir| dir.exists()).collect();
    assert_eq!(left, [pids]);
}

#[test]
fn freeze_signal_thaw() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    let mut shell = Shell::waiting("trap 'echo term; exit' TERM; echo ready; while :; do sleep 0.01; done");
    scratch.attach(shell.pid()).unwrap();
    shell.go();
    assert!(!scratch.is_frozen().unwrap());
    scratch.freeze().unwrap();
    assert!(scratch.again().is_frozen().unwrap());
    // A paused container stays paused under other signals…
    scratch.kill(libc::SIGUSR2).unwrap();
    assert!(scratch.is_frozen().unwrap());
    // …and dies of SIGKILL.
    scratch.kill(libc::SIGKILL).unwrap();
    assert!(shell.killed_by().is_some());
    assert!(!scratch.is_frozen().unwrap());
}

#[test]
fn a_signal_reaches_every_process() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    let mut shell = Shell::waiting("for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; wait");
    scratch.attach(shell.pid()).unwrap();
    shell.go();
    until("9 processes", || scratch.pids().unwrap().len() == 9);
    scratch.kill(libc::SIGTERM).unwrap();
    assert_eq!(shell.killed_by(), Some(libc::SIGTERM));
    until("none left", || scratch.pids().unwrap().is_empty());
}

#[test]
fn processes_that_fork_fast_are_killed() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    scratch.apply_json(r#"{"pids":{"limit":500}}"#).unwrap();
    let mut shell =
        Shell::waiting("for i in 1 2 3 4 5 6 7 8; do (while :; do /bin/true & /bin/true; done) & done; wait");
    scratch.attach(shell.pid()).unwrap();
    shell.go();
    until("many processes", || scratch.pids().unwrap().len() > 12);
    scratch.kill(libc::SIGKILL).unwrap();
    assert!(shell.killed_by().is_some());
    scratch.remove().unwrap();
    assert!(scratch.paths().values().all(|dir| !dir.exists()));
}

#[test]
fn survivors_are_named() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    let shell = Shell::waiting("sleep 100");
    scratch.attach(shell.pid()).unwrap();
    match scratch.remove() {
        Err(Error::Survivors { pids, .. }) => assert_eq!(pids, [shell.pid()]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sub_cgroups_are_removed_however_deep() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    fs::create_dir_all(scratch.dir("memory").join("a/b/c")).unwrap();
    fs::create_dir_all(scratch.dir("memory").join("a/d")).unwrap();
    // Deeper than PATH_MAX, made as a container would: one level at a time.
    let script = "cd \"$0\" && n=$(printf 'x%.0s' $(seq 200)) && for i in $(seq 40); do mkdir $n && cd -P ./$n || exit 1; done";
    let status = std::process::Command::new("/bin/bash")
        .args(["-c", script])
        .arg(scratch.dir("pids"))
        .status()
        .unwrap();
    assert!(status.success());
    scratch.remove().unwrap();
    assert!(scratch.paths().values().all(|dir| !dir.exists()));
}

#[test]
fn sub_for_exec() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    assert!(scratch.sub("../x").is_err());
    let shell = Shell::waiting("sleep 100");
    let error = scratch.sub("sub").unwrap().attach(shell.pid()).unwrap_err();
    assert!(error.is_gone(), "{error}");
    fs::create_dir(scratch.dir("pids").join("sub")).unwrap();
    scratch.sub_of(&["pids"], "/sub").unwrap().attach(shell.pid()).unwrap();
    let proc_cgroup = fs::read_to_string(format!("/proc/{}/cgroup", shell.pid())).unwrap();
    let inside: Vec<&str> = proc_cgroup.lines().filter(|line| line.ends_with("/c/sub")).collect();
    assert_eq!(inside.len(), 1, "{proc_cgroup}");
    assert!(inside[0].contains(":pids:"));
    assert!(matches!(scratch.sub_of(&["nothing"], "sub"), Err(Error::InvalidName { .. })));
}

#[test]
fn opened_from_state() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    let opened = Cgroup::open(&scratch.paths()).unwrap();
    assert_eq!(opened.paths(), scratch.paths());
    assert_eq!(opened.mode(), Layout::detect().unwrap().mode());
    let shell = Shell::waiting("sleep 100");
    opened.attach(shell.pid()).unwrap();
    assert_eq!(opened.pids().unwrap(), [shell.pid()]);
    for bad in ["/", "/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/a/../..", "relative"] {
        let paths = BTreeMap::from([("memory".to_owned(), bad.into())]);
        assert!(Cgroup::open(&paths).is_err(), "{bad}");
    }
    let none = Cgroup::open(&BTreeMap::new()).unwrap();
    assert!(!none.exists() && none.pids().unwrap().is_empty() && !none.is_frozen().unwrap());
    none.kill(libc::SIGKILL).unwrap();
    none.remove().unwrap();
}

#[test]
fn membership_is_verified() {
    if skip_unless_v1() {
        return;
    }
    // state.json names the freezer's directory as the one of pids: the write succeeds, the membership is wrong.
    let scratch = Scratch::created();
    let mut paths = BTreeMap::new();
    paths.insert("pids".to_owned(), scratch.dir("freezer"));
    let shell = Shell::waiting("sleep 100");
    let error = Cgroup::open(&paths).unwrap().attach(shell.pid()).unwrap_err();
    assert!(matches!(error, Error::NotMoved { .. }), "{error}");
}

#[test]
fn device_rules() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    scratch.apply_json("{}").unwrap();
    let list = scratch.read("devices", "devices.list");
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_unstable();
    let default = "b *:* m,c *:* m,c 10:200 rwm,c 136:* rwm,c 1:3 rwm,c 1:5 rwm,c 1:7 rwm,c 1:8 rwm,c 1:9 rwm,\
                   c 5:0 rwm,c 5:2 rwm";
    assert_eq!(lines.join(","), default);
    let nodes = ["/dev/null", "/dev/urandom", "/dev/kmsg"];
    assert_eq!(openable(&scratch, &nodes), [true, true, false]);
    // An update without device rules leaves them alone, one with rules changes what differs.
    scratch.update_json(r#"{"pids":{"limit":100}}"#).unwrap();
    assert_eq!(openable(&scratch, &nodes), [true, true, false]);
    let kmsg = r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#;
    scratch.update_json(kmsg).unwrap();
    assert_eq!(openable(&scratch, &nodes), [true, true, true]);
    scratch.update_json(r#"{"devices":[]}"#).unwrap();
    assert_eq!(openable(&scratch, &nodes), [true, true, false]);
    scratch.update_json(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#).unwrap();
    assert_eq!(scratch.read("devices", "devices.list"), "a *:* rwm");
    assert_eq!(openable(&scratch, &nodes), [true, true, true]);
    let deny = r#"{"devices":[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":11,"access":"rw"}]}"#;
    scratch.update_json(deny).unwrap();
    assert_eq!(openable(&scratch, &nodes), [true, true, false]);
}

#[test]
fn statistics() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    scratch.apply_json(r#"{"pids":{"limit":50},"memory":{"limit":67108864}}"#).unwrap();
    let mut shell = Shell::waiting("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; sleep 100");
    scratch.attach(shell.pid()).unwrap();
    shell.go();
    until("some CPU time", || match scratch.stats().unwrap() {
        Stats::V1(metrics) => metrics.cpu.as_ref().is_some_and(|cpu| cpu.usage_total > 1_000_000),
        Stats::V2(_) => panic!("v2"),
    });
    let Stats::V1(metrics) = Cgroup::open(&scratch.paths()).unwrap().stats().unwrap() else { panic!("v2") };
    let pids = metrics.pids.unwrap();
    assert!(pids.limit == 50 && pids.current >= 1, "{pids:?}");
    let memory = metrics.memory.unwrap();
    assert!(
        memory.usage.usage > 0 && memory.usage.limit == 67_108_864 && memory.usage.max >= memory.usage.usage
    );
    assert_eq!(memory.hierarchical_memory_limit, 67_108_864);
    assert!(!metrics.cpu.unwrap().per_cpu.is_empty());
    assert_eq!(metrics.memory_oom_control.unwrap().oom_kill, 0);
    scratch.kill(libc::SIGKILL).unwrap();
    scratch.remove().unwrap();
    assert!(scratch.again().stats().unwrap_err().is_gone());
}

#[test]
fn without_permission() {
    if skip_unless_v1() {
        return;
    }
    let resolve_as = |path: Option<&str>, denied| {
        Cgroup::resolve(&Layout::detect().unwrap(), "davit-test-denied", path.map(Path::new), denied).unwrap()
    };
    // The raw system call changes this thread's uid only.
    let rootless = move || {
        davit::sys::process::set_uid(65_534).unwrap();
        let cgroup = resolve_as(None, OnDenied::Ignore);
        cgroup.create().unwrap();
        assert!(cgroup.paths().is_empty());
        cgroup.attach(std::process::id() as i32).unwrap();
        cgroup.apply(&resources(r#"{"memory":{"disableOOMKiller":false}}"#)).unwrap();
        let error = cgroup.apply(&resources(r#"{"memory":{"limit":1000000}}"#)).unwrap_err();
        assert_eq!(error.to_string(), "cannot set memory limit: container could not join or create cgroup");
        cgroup.remove().unwrap();
        // An explicit path, or a caller that did not allow it: the refusal is an error.
        assert!(resolve_as(None, OnDenied::Fail).create().unwrap_err().is_denied());
        assert!(resolve_as(Some("/davit-test-denied"), OnDenied::Ignore).create().unwrap_err().is_denied());
    };
    if let Err(panic) = std::thread::spawn(rootless).join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn layout_of_this_host() {
    if skip_unless_v1() {
        return;
    }
    let layout = Layout::detect().unwrap();
    let unified = Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists();
    assert_eq!(layout.mode(), if unified { Mode::Hybrid } else { Mode::V1 });
    for hierarchy in layout.hierarchies() {
        assert!(hierarchy.mountpoint.join("cgroup.procs").exists(), "{hierarchy:?}");
        assert!(hierarchy.own_dir().unwrap().join("cgroup.procs").exists(), "{hierarchy:?}");
    }
    let cgroup = resolve("/davit-test-nothing");
    assert!(!cgroup.exists());
    assert_eq!(cgroup.paths().contains_key(""), unified);
}

/// Without the cgroup2 mount the same host is v1: no cgroup.kill, so SIGKILL goes by the freezer. In a process of its
/// own, since /proc/self/mountinfo is that of the process.
#[test]
fn on_v1_alone() {
    if skip_unless_v1() {
        return;
    }
    if Layout::detect().unwrap().mode() == Mode::V1 {
        println!("skipped: the host is v1, the other tests are this one");
        return;
    }
    let tests = [
        "host::create_attach_kill_remove",
        "host::freeze_signal_thaw",
        "host::layout_of_this_host",
        "host::opened_from_state",
        "host::processes_that_fork_fast_are_killed",
        "host::sub_cgroups_are_removed_however_deep",
        "host_limits::each_field_reads_back",
    ];
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", "umount /sys/fs/cgroup/unified && exec \"$0\" --exact \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(tests)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("{} passed", tests.len())), "{text}");
}
