//! Fields of `process` that the kernel takes as numbers: scheduling, I/O priority, CPU affinity, limits, and
//! `linux.memoryPolicy` and `linux.personality` beside them. Each is read back from the container's process.

use std::fs;
use std::path::Path;

use davit_tests::{Bundle, Container, World, skip};
use serde_json::{Value, json};

/// Nice value and policy of a process: fields 19 and 41 of proc_pid_stat(5).
const SCHEDULING: &str = "awk '{print $19, $41}' /proc/self/stat; true";
const CPUS: &str = "grep Cpus_allowed_list /proc/self/status | tr -d '\\t' | cut -d: -f2";

/// The world of a test of fields that runc 1.1, of spec 1.0, does not know.
fn enter(test: &str) -> Option<World> {
    let world = World::enter(test)?;
    let old = world.is_runc() && world.call(&["--version"]).run().stdout.contains("spec: 1.0");
    if old { skip(test, "runc of spec 1.0 does not know the field") } else { Some(world) }
}

/// Whether the host has this CPU.
fn has_cpu(number: usize) -> bool {
    Path::new(&format!("/sys/devices/system/cpu/cpu{number}")).exists()
}

/// A running container with this change of its configuration.
fn sleeping<'w>(world: &'w World, change: impl FnOnce(&mut Bundle)) -> Container<'w> {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    change(&mut bundle);
    world.container(&bundle).started()
}

/// Runs a script with a process.json of its own.
fn exec_process(world: &World, c: &Container<'_>, change: Value, script: &str) -> davit_tests::Output {
    let mut process = json!({"cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"],
        "args": ["sh", "-c", script]});
    process.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let file = world.path(&davit_tests::unique("process.json"));
    fs::write(&file, process.to_string()).unwrap();
    c.exec(&["--process", file.to_str().unwrap()], &[])
}

#[track_caller]
fn runs(world: &World, change: impl FnOnce(&mut Bundle), script: &str, expected: &str) {
    let mut bundle = world.bundle();
    bundle.script(script);
    change(&mut bundle);
    let c = world.container(&bundle);
    assert_eq!(c.run(&[]).ok().stdout.trim_end(), expected);
    c.assert_nothing_left();
}

#[test]
fn scheduler_policies() {
    let Some(world) = enter("scheduler_policies") else { return };
    for (scheduler, expected) in [
        (json!({"policy": "SCHED_OTHER", "nice": 5}), "5 0"),
        (json!({"policy": "SCHED_BATCH", "nice": 19}), "19 3"),
        (json!({"policy": "SCHED_IDLE"}), "0 5"),
        (json!({"policy": "SCHED_OTHER", "nice": 4, "flags": ["SCHED_FLAG_KEEP_POLICY"]}), "4 0"),
        // awk is a child, which does not inherit what raises it.
        (json!({"policy": "SCHED_OTHER", "nice": -5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}), "0 0"),
        (json!({"policy": "SCHED_OTHER", "nice": -5}), "-5 0"),
    ] {
        runs(&world, |b| _ = b.set("/process/scheduler", scheduler.clone()), SCHEDULING, expected);
    }
}

#[test]
fn a_deadline_scheduler() {
    let Some(world) = enter("a_deadline_scheduler") else { return };
    let scheduler = json!({"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"],
        "runtime": 10_000_000, "deadline": 20_000_000, "period": 30_000_000});
    let mut bundle = world.bundle();
    bundle.set("/process/scheduler", scheduler).args(&["sleep", "1000"]);
    let c = world.container(&bundle);
    let create = c.create(&[]);
    if create.error().contains("set process.scheduler SCHED_DEADLINE") {
        // CAP_SYS_NICE, or a group of the runtime's cgroup without bandwidth.
        skip::<()>("a_deadline_scheduler", &create.error());
        return;
    }
    create.ok();
    c.simple("start").ok();
    let stat = fs::read_to_string(format!("/proc/{}/stat", c.pid())).unwrap();
    let policy = stat.rsplit_once(") ").unwrap().1.split(' ').nth(38).unwrap();
    assert_eq!(policy, "6", "{stat}");
    c.finish();
}

/// A realtime policy needs bandwidth of the cgroup, which the test machine's groups have not: then the
/// kernel's refusal names the field.
#[test]
fn a_realtime_scheduler_is_set_or_refused_by_name() {
    let Some(world) = enter("a_realtime_scheduler_is_set_or_refused_by_name") else { return };
    let mut bundle = world.bundle();
    bundle.set("/process/scheduler", json!({"policy": "SCHED_FIFO", "priority": 5})).script(SCHEDULING);
    let c = world.container(&bundle);
    let run = c.run(&[]);
    if run.code == 0 {
        assert_eq!(run.stdout.trim_end(), "0 1");
    } else if !world.is_runc() {
        run.fails(1, "set process.scheduler SCHED_FIFO: operation not permitted");
    }
    c.assert_nothing_left();
}

#[test]
fn wrong_schedulers_name_the_field() {
    let Some(world) = enter("wrong_schedulers_name_the_field") else { return };
    for (field, value, words) in [
        ("scheduler", json!({"policy": "SCHED_OTHER", "nice": 20}), "invalid scheduler.nice: 20"),
        ("scheduler", json!({"policy": "SCHED_OTHER", "priority": 1}), "scheduler.priority can only"),
        ("scheduler", json!({"policy": "SCHED_RR", "priority": 100}), "scheduler"),
        ("scheduler", json!({"policy": "SCHED_OTHER", "runtime": 1}), "scheduler runtime/deadline/period"),
        ("scheduler", json!({"policy": "SCHED_BOGUS"}), "SCHED_BOGUS"),
        ("scheduler", json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_BOGUS"]}), "SCHED_FLAG_BOGUS"),
        ("scheduler", json!({}), "policy"),
        ("ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8}), "invalid ioPriority.Priority: 8"),
        ("ioPriority", json!({"class": "IOPRIO_CLASS_X", "priority": 0}), "IOPRIO_CLASS_X"),
        ("oomScoreAdj", json!(1001), "process.oomScoreAdj 1001 is out of range"),
    ] {
        if world.is_runc() && field == "oomScoreAdj" {
            // Its message has no word of it.
            continue;
        }
        let mut bundle = world.bundle();
        bundle.set(&format!("/process/{field}"), value);
        let c = world.container(&bundle);
        let create = c.create(&[]);
        assert!(create.error().to_lowercase().contains(&words.to_lowercase()), "{words}: {}", create.error());
        create.exits(1);
        c.assert_nothing_left();
    }
}

#[test]
fn io_priorities() {
    let Some(world) = enter("io_priorities") else { return };
    for (class, level, expected) in [
        ("IOPRIO_CLASS_BE", 4, "best-effort: prio 4"),
        ("IOPRIO_CLASS_RT", 1, "realtime: prio 1"),
        ("IOPRIO_CLASS_IDLE", 0, "idle"),
    ] {
        let priority = json!({"class": class, "priority": level});
        runs(&world, |b| _ = b.set("/process/ioPriority", priority), "busybox ionice", expected);
    }
}

#[test]
fn exec_is_scheduled_as_the_container_or_as_it_says() {
    let Some(world) = enter("exec_is_scheduled_as_the_container_or_as_it_says") else { return };
    let c = sleeping(&world, |b| {
        b.set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 7}))
            .set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 2}))
            .set("/process/oomScoreAdj", json!(300))
            .set("/linux/personality", json!({"domain": "LINUX32"}));
    });
    let script = format!("{SCHEDULING}; busybox ionice; cat /proc/self/oom_score_adj /proc/self/personality");
    let container = "7 3\nbest-effort: prio 2\n300\n00000008";
    assert_eq!(c.sh(&script), container);
    let plain = exec_process(&world, &c, json!({}), &script).ok();
    assert_eq!(plain.stdout.trim_end(), container, "a process.json that says nothing");
    // runc takes the container's oomScoreAdj even then.
    let adj = if world.is_runc() { 300 } else { 400 };
    let own = json!({"scheduler": {"policy": "SCHED_IDLE"}, "oomScoreAdj": adj,
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}});
    let own = exec_process(&world, &c, own, &script).ok();
    assert_eq!(own.stdout.trim_end(), format!("0 5\nidle\n{adj}\n00000008"));
    if world.is_runc() {
        // It checks nothing of this in exec.
        c.finish();
        return;
    }
    exec_process(&world, &c, json!({"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}), "true")
        .fails(255, "invalid scheduler.nice: 20");
    let twice = json!({"rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]});
    exec_process(&world, &c, twice, "true").fails(255, "process.rlimits: RLIMIT_CORE is given twice");
    c.finish();
}

#[test]
fn cpu_affinity_of_exec() {
    let Some(world) = enter("cpu_affinity_of_exec") else { return };
    if !has_cpu(1) {
        skip::<()>("cpu_affinity_of_exec", "one CPU");
        return;
    }
    let c =
        sleeping(&world, |b| _ = b.set("/process/execCPUAffinity", json!({"initial": "0", "final": "1"})));
    // The field is for exec only.
    let status = fs::read_to_string(format!("/proc/{}/status", c.pid())).unwrap();
    assert!(!status.contains("Cpus_allowed_list:\t1\n"), "{status}");
    assert_eq!(c.sh(CPUS), "1", "the container's");
    for (affinity, expected) in [
        (json!({"initial": "0"}), "0"),
        (json!({"final": " 1 "}), "1"),
        (json!({"initial": "1", "final": "0"}), "0"),
        (json!({"initial": "", "final": "0,,1"}), "0-1"),
        // CPUs that the machine has not are left out, beyond 1024 too.
        (json!({"final": "0,1500,8191"}), "0"),
        (json!({"initial": ""}), "1"),
    ] {
        if world.is_runc() && affinity.to_string().contains("8191") {
            // Since runc 1.4 only.
            continue;
        }
        let process = json!({"execCPUAffinity": affinity});
        assert_eq!(exec_process(&world, &c, process, CPUS).ok().stdout.trim_end(), expected, "{affinity}");
    }
    for (affinity, words) in [
        // From here on davit's words: runc's do not name the field in full.
        (json!({"initial": "8000"}), "set process.execCPUAffinity.initial"),
        (json!({"final": "8000"}), "set process.execCPUAffinity.final"),
        (json!({"final": "8192"}), "process.execCPUAffinity.final: 8192 is larger than 8191"),
        (json!({"initial": "1-0"}), "process.execCPUAffinity.initial: invalid range 1-0"),
        (json!({"initial": "a"}), "execCPUAffinity"),
    ] {
        let words = if world.is_runc() { "CPU" } else { words };
        exec_process(&world, &c, json!({"execCPUAffinity": affinity}), "true").fails(255, words);
    }
    c.finish();
}

/// runc #4041: a runtime that was started on some CPUs does not keep its containers there.
#[test]
fn the_cpus_of_the_runtime_are_not_the_containers() {
    let Some(world) = enter("the_cpus_of_the_runtime_are_not_the_containers") else { return };
    if world.is_runc() || !has_cpu(1) {
        skip::<()>(
            "the_cpus_of_the_runtime_are_not_the_containers",
            "one CPU, or runc 1.1, which keeps them",
        );
        return;
    }
    let mut bundle = world.bundle();
    bundle.script(&format!("{CPUS}; exec sleep 1000"));
    let c = world.container(&bundle);
    let run = c.call("run", &["--detach"], &[]).dir(bundle.dir()).wrapper(&["taskset", "1"]).run().ok();
    davit_tests::wait_until("output", || run.stdout_now().ends_with('\n'));
    assert_eq!(run.stdout_now(), "0-1\n");
    let exec = c.call("exec", &[], &["sh", "-c", CPUS]).wrapper(&["taskset", "1"]).run().ok();
    assert_eq!(exec.stdout, "0-1\n");
    c.finish();
}

#[test]
fn memory_policies() {
    let Some(world) = World::enter("memory_policies") else { return };
    if world.is_runc() || !Path::new("/proc/self/numa_maps").exists() {
        skip::<()>(
            "memory_policies",
            "a kernel without NUMA, or a runc before 1.4, which does not know the field",
        );
        return;
    }
    // A policy of the process shows on its private mappings (numa_maps of proc(5)).
    let script = "grep -m1 -w stack /proc/self/numa_maps | cut -d' ' -f2";
    let policy = |value: Value| move |b: &mut Bundle| _ = b.set("/linux/memoryPolicy", value);
    runs(&world, policy(json!({"mode": "MPOL_BIND", "nodes": "0"})), script, "bind:0");
    runs(&world, policy(json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"})), script, "interleave:0");
    runs(&world, policy(json!({"mode": "MPOL_LOCAL"})), script, "local");
    runs(&world, policy(json!({"mode": "MPOL_DEFAULT"})), script, "default");
    let flags = json!({"mode": "MPOL_PREFERRED", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    runs(&world, policy(flags), script, "prefer=static:0");

    let c = sleeping(&world, policy(json!({"mode": "MPOL_BIND", "nodes": "0"})));
    assert_eq!(c.sh(script), "bind:0", "exec");
    c.finish();

    for (value, words) in [
        (
            json!({"mode": "MPOL_BIND", "nodes": "1023"}),
            "set linux.memoryPolicy MPOL_BIND with nodes 1023: invalid",
        ),
        (json!({"mode": "MPOL_BIND"}), "linux.memoryPolicy.nodes: mode MPOL_BIND needs at least one node"),
        (json!({"mode": "MPOL_BIND", "nodes": "0-"}), "linux.memoryPolicy.nodes: \"\" is not a number"),
        (
            json!({"mode": "MPOL_LOCAL", "nodes": "0"}),
            "linux.memoryPolicy.nodes: mode MPOL_LOCAL takes no nodes",
        ),
        (json!({"mode": "MPOL_BOGUS"}), "MPOL_BOGUS"),
        (json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_BOGUS"]}), "MPOL_F_BOGUS"),
    ] {
        let mut bundle = world.bundle();
        policy(value)(&mut bundle);
        let c = world.container(&bundle);
        c.create(&[]).fails(1, words);
        c.assert_nothing_left();
    }
}

#[test]
fn environment_and_home() {
    let Some(world) = World::enter("environment_and_home") else { return };
    // The last of a name wins and order stays; a line feed is part of a value; an empty HOME counts as none, and
    // the image's passwd says where that is, not the host's.
    let env = json!(["PATH=/bin", "A=1", "B=two\nlines", "HOME=", "A=3"]);
    let mut bundle = world.bundle();
    bundle.script("tr '\\0' ';' </proc/self/environ; true").set("/process/env", env.clone());
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let c = world.container(&bundle);
    let stdout = c.run(&[]).ok().stdout;
    assert!(stdout.starts_with("PATH=/bin;"), "{stdout}");
    let mut all: Vec<_> = stdout.split_terminator(';').collect();
    all.sort_unstable();
    assert_eq!(all, ["A=3", "B=two\nlines", "HOME=/home/user", "PATH=/bin"]);
    c.assert_nothing_left();

    let c = sleeping(&world, |_| {});
    let inside =
        exec_process(&world, &c, json!({"env": env}), "tr '\\0' ';' </proc/self/environ; true").ok().stdout;
    assert!(inside.contains("HOME=/root;") && inside.contains("B=two\nlines;A=3;"), "{inside}");
    c.finish();
}

#[test]
fn umask_and_groups() {
    let Some(world) = World::enter("umask_and_groups") else { return };
    let user = json!({"uid": 7, "gid": 8, "additionalGids": [9, 100_000], "umask": 0o027});
    let script = "umask; grep ^Groups /proc/self/status | tr -s '\\t ' ' '";
    runs(&world, |b| _ = b.set("/process/user", user.clone()), script, "0027\nGroups: 9 100000");
    runs(&world, |_| {}, "umask", "0022");
    if world.is_runc() {
        // Its exec takes the container's umask.
        return;
    }
    let c = sleeping(&world, |_| {});
    let exec = exec_process(&world, &c, json!({"user": user}), script).ok();
    assert_eq!(exec.stdout.trim_end(), "0027\nGroups: 9 100000");
    c.finish();
}

/// In a user namespace only the runtime may raise a hard limit, and only the program gets the soft one: with
/// few descriptors init could not mount.
#[test]
fn limits_in_a_user_namespace() {
    let Some(world) = World::enter("limits_in_a_user_namespace") else { return };
    let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 65536}]);
    let script = "ulimit -n; ulimit -Hn";
    // runc sets them before it is done with its own descriptors.
    let soft = if world.is_runc() { 40 } else { 4 };
    let expected = format!("{soft}\n9000\n");
    let mut bundle = world.bundle();
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", map(100_000))
        .set("/linux/gidMappings", map(100_000))
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": soft, "hard": 9000}]))
        .script(script);
    bundle.for_user_namespace(100_000);
    let c = world.container(&bundle);
    // The runtime's own limit is lower.
    let run = c.call("run", &[], &[]).dir(bundle.dir()).wrapper(&["prlimit", "--nofile=1000:8000"]);
    let run = run.run();
    if run.error().contains("operation not permitted") {
        // Without CAP_SYS_RESOURCE nobody may: the limit is named.
        assert!(run.error().contains("RLIMIT_NOFILE") || world.is_runc(), "{}", run.error());
        c.assert_nothing_left();
        bundle.set("/process/rlimits/0/hard", json!(9000));
        let c = world.container(&bundle);
        assert_eq!(c.run(&[]).ok().stdout, expected);
        c.assert_nothing_left();
        return;
    }
    assert_eq!(run.ok().stdout, expected);
    c.assert_nothing_left();
}
