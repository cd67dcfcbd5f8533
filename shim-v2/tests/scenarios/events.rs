//! Events: order, delivery, one exit per process.

use crate::prelude::*;

pub fn exec_exits_come_before_inits(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    let execs: Vec<String> = (0..10).map(|n| format!("e{n}")).collect();
    for exec in &execs {
        client.exec("c", exec, "sleep 1000", &Io::none()).unwrap();
        client.start("c", exec).unwrap();
    }
    let rows = client.pids("c").unwrap();
    assert_eq!(rows.iter().filter(|row| row.info.is_some()).count(), execs.len());
    client.kill("c", "", 9).unwrap();
    assert_eq!(client.wait("c", ""), 137);
    daemon.events().wait("/tasks/exit", "c");
    let exits: Vec<_> = daemon.events().order().into_iter().filter(|(topic, _)| topic == "exit").collect();
    assert_eq!(exits.len(), execs.len() + 1, "one exit per process");
    assert_eq!(exits.last().unwrap().1, "c");
    client.exec("c", "late", "true", &Io::none()).unwrap_err();
    client.delete("c", "").unwrap();
}

pub fn oom_comes_before_exit(daemon: &Daemon) {
    if !Path::new("/sys/fs/cgroup/memory").exists() {
        eprintln!("SKIPPED oom_comes_before_exit: needs the memory controller on cgroup v1");
        return;
    }
    // dd's buffer is larger than the limit.
    daemon.make_bundle("c", "exec dd if=/dev/zero of=/dev/null bs=200M count=1", |config| {
        config["linux"]["resources"] =
            serde_json::json!({"memory": {"limit": 20_000_000, "swap": 20_000_000}});
    });
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 137);
    daemon.events().wait("/tasks/exit", "c");
    let order: Vec<_> = daemon.events().order().into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(order, ["create", "start", "oom", "exit"]);
    // CRI asks for the kills when it sees 137, and systemd may have taken the cgroup away by then.
    let state: serde_json::Value =
        serde_json::from_slice(&fs::read(daemon.state_dir("c").join("state.json")).unwrap()).unwrap();
    for dir in state["cgroup_paths"].as_object().unwrap().values() {
        until("an empty cgroup", || fs::remove_dir(dir.as_str().unwrap()).ok());
    }
    let stats = client.stats("c").unwrap();
    let metrics = containerd_shim_protos::cgroups::metrics::Metrics::parse_from_bytes(&stats.value).unwrap();
    assert_eq!(metrics.memory_oom_control.oom_kill, 1);
    assert_eq!(metrics.memory.usage.limit, 19_996_672, "whole pages");
    client.delete("c", "").unwrap();
}

/// systemd removes a scope's cgroup as soon as it is empty: here at a moment at which the shim could not look.
pub fn metrics_outlive_a_scope_that_systemd_removes(daemon: &Daemon) {
    if !Path::new("/sys/fs/cgroup/memory").exists() {
        eprintln!(
            "SKIPPED metrics_outlive_a_scope_that_systemd_removes: needs the memory controller on cgroup v1"
        );
        return;
    }
    let hog = "until test -e /go; do sleep .1; done; exec dd if=/dev/zero of=/dev/null bs=200M count=1";
    daemon.make_bundle("c", hog, |config| {
        let path = config["linux"]["cgroupsPath"].as_str().unwrap().to_owned() + ".scope";
        config["linux"]["cgroupsPath"] = path.into();
        config["linux"]["resources"] =
            serde_json::json!({"memory": {"limit": 20_000_000, "swap": 20_000_000}});
    });
    let mut client = Client::connect(&daemon.start_shim("c"));
    let pid = daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    client.stats("c").unwrap();
    let shim = client.shim_pid();
    signal(shim, Signal::SIGSTOP);
    fs::write(daemon.bundle("c").join("rootfs/go"), "").unwrap();
    until("its end", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") Z").map(drop)
    });
    for dir in daemon.cgroups("c.scope") {
        until("an empty cgroup", || fs::remove_dir(&dir).ok());
    }
    // cgroup v1 tells of the removal in the same way as of the kill, a little later.
    until("both notices", || {
        let mut infos = fs::read_dir(format!("/proc/{shim}/fdinfo")).unwrap().flatten();
        let both = |info: fs::DirEntry| {
            let text = fs::read_to_string(info.path()).unwrap_or_default();
            let count = text.lines().find_map(|line| line.strip_prefix("eventfd-count:"));
            count.is_some_and(|count| u64::from_str_radix(count.trim(), 16).unwrap() >= 2)
        };
        infos.any(both).then_some(())
    });
    signal(shim, Signal::SIGCONT);
    assert_eq!(client.wait("c", ""), 137);
    daemon.events().wait("/tasks/exit", "c");
    assert_eq!(daemon.events().topics("c"), ["create", "start", "oom", "exit"]);
    let stats = client.stats("c").unwrap();
    let metrics = containerd_shim_protos::cgroups::metrics::Metrics::parse_from_bytes(&stats.value).unwrap();
    assert_eq!(metrics.memory_oom_control.oom_kill, 1, "known since the last look");
    assert_eq!(metrics.memory.usage.limit, 19_996_672, "of the last look");
    client.delete("c", "").unwrap();
}

pub fn events_wait_for_an_absent_daemon(daemon: &Daemon) {
    fs::remove_file(daemon.ttrpc()).unwrap();
    let mut client = daemon.created("c", "exit 9", &Io::none());
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 9);
    assert_eq!(daemon.events().all(), []);
    let events = Events::listen(&daemon.ttrpc());
    assert_eq!(events.wait("/tasks/exit", "c").status, 9);
    assert_eq!(events.order(), ["create", "start", "exit"].map(|t| (t.to_owned(), "c".to_owned())));
    client.delete("c", "").unwrap();
}

/// #8557, #8598, #8617: a process that ends before Start has answered.
pub fn exit_before_start_has_answered(daemon: &Daemon) {
    daemon.make_bundle("c0", "exit 0", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c0"));
    for round in 0..15 {
        let id = format!("c{round}");
        daemon.make_bundle(&id, "", |config| config["process"]["args"] = serde_json::json!(["/bin/true"]));
        daemon.create(&mut client, &id, &Io::none()).unwrap();
        client.start(&id, "").unwrap();
        assert_eq!(client.wait(&id, ""), 0);
        client.delete(&id, "").unwrap();
        daemon.events().wait("/tasks/delete", &id);
        assert_eq!(daemon.events().topics(&id), ["create", "start", "exit", "delete"]);
    }
}

/// #9719, #9828 in the host's pid namespace: 50 execs, then init is killed.
pub fn fifty_execs_in_the_host_s_pid_namespace(daemon: &Daemon) {
    daemon.make_bundle("c", "sleep 1000", |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    });
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    for n in 0..50 {
        let exec = format!("e{n}");
        client.exec_args("c", &exec, &serde_json::json!(["/bin/sleep", "1000"]), &Io::none()).unwrap();
        client.start("c", &exec).unwrap();
    }
    client.kill("c", "", 9).unwrap();
    assert_eq!(client.wait("c", ""), 137);
    daemon.events().wait("/tasks/exit", "c");
    let exits: Vec<_> = daemon.events().order().into_iter().filter(|(topic, _)| topic == "exit").collect();
    assert_eq!((exits.len(), exits.last().unwrap().1.as_str()), (51, "c"));
    client.delete("c", "").unwrap();
}

/// #12678: the shim gets no time while 100 children end.
pub fn a_shim_that_was_stopped_misses_no_exit(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    let count = 100;
    let mut pids = Vec::new();
    for n in 0..count {
        let exec = format!("e{n}");
        client.exec_args("c", &exec, &serde_json::json!(["/bin/sleep", "1000"]), &Io::none()).unwrap();
        pids.push(client.start("c", &exec).unwrap());
    }
    let shim = client.shim_pid();
    signal(shim, Signal::SIGSTOP);
    for pid in pids {
        signal(pid, Signal::SIGTERM);
    }
    std::thread::sleep(Duration::from_millis(500));
    signal(shim, Signal::SIGCONT);
    for n in 0..count {
        assert_eq!(client.wait("c", &format!("e{n}")), 143);
    }
    client.finish("c");
    daemon.events().wait("/tasks/delete", "c");
    let exits = daemon.events().all().into_iter().filter(|e| e.topic == "/tasks/exit").count();
    assert_eq!(exits, count + 1);
}

/// #12714, #7102: OOM kills right after the start, again and again.
pub fn quick_oom_kills_come_before_their_exits(daemon: &Daemon) {
    if !Path::new("/sys/fs/cgroup/memory").exists() {
        eprintln!(
            "SKIPPED quick_oom_kills_come_before_their_exits: needs the memory controller on cgroup v1"
        );
        return;
    }
    daemon.make_bundle("c0", "", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c0"));
    for round in 0..6 {
        let id = format!("c{round}");
        daemon.make_bundle(&id, "exec dd if=/dev/zero of=/dev/null bs=200M count=1", |config| {
            config["linux"]["resources"] =
                serde_json::json!({"memory": {"limit": 20_000_000, "swap": 20_000_000}});
        });
        daemon.create(&mut client, &id, &Io::none()).unwrap();
        client.start(&id, "").unwrap();
        assert_eq!(client.wait(&id, ""), 137);
        daemon.events().wait("/tasks/exit", &id);
        assert_eq!(daemon.events().topics(&id), ["create", "start", "oom", "exit"]);
        client.delete(&id, "").unwrap();
    }
}

/// The notification comes before the victim is counted, and none comes after that.
pub fn oom_kills_of_children_are_told_while_init_runs(daemon: &Daemon) {
    if !Path::new("/sys/fs/cgroup/memory").exists() {
        eprintln!(
            "SKIPPED oom_kills_of_children_are_told_while_init_runs: needs the memory controller on cgroup v1"
        );
        return;
    }
    daemon.make_bundle("c", "sleep 1000", |config| {
        config["linux"]["resources"] =
            serde_json::json!({"memory": {"limit": 20_000_000, "swap": 20_000_000}});
    });
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    for round in 1..=4 {
        let exec = format!("e{round}");
        assert_eq!(client.run_exec("c", &exec, "exec dd if=/dev/zero of=/dev/null bs=200M count=1"), 137);
        let told = || daemon.events().topics("c").iter().filter(|topic| *topic == "oom").count();
        until("the OOM event", || (told() >= round).then_some(()));
        assert_eq!(told(), round, "one event of one kill");
    }
    client.finish("c");
}

/// moby#43022: containerd reads events and never answers.
pub fn a_stalled_event_service_holds_nobody(daemon: &Daemon) {
    daemon.events().set_mood(Mood::Stalled);
    // Four events, and a shim that waited for their answers would take 5 s for each.
    let begun = Instant::now();
    let mut client = daemon.created("c", "exit 9", &Io::none());
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 9);
    client.state("c", "").unwrap();
    client.delete("c", "").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    daemon.events().set_mood(Mood::Well);
    daemon.events().wait("/tasks/delete", "c");
    let mut topics = daemon.events().topics("c");
    topics.dedup();
    assert_eq!(topics, ["create", "start", "exit", "delete"]);
}

/// containerd refuses for a while: an exit is tried again, in its place.
pub fn refused_exits_are_tried_again(daemon: &Daemon) {
    let mut client = daemon.created("c", "exit 9", &Io::none());
    daemon.events().wait("/tasks/create", "c");
    daemon.events().set_mood(Mood::Refusing(14));
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 9);
    std::thread::sleep(Duration::from_millis(300));
    daemon.events().set_mood(Mood::Well);
    daemon.events().wait("/tasks/exit", "c");
    assert_eq!(daemon.events().topics("c").last().unwrap(), "exit");
    client.delete("c", "").unwrap();
}

/// #6771, invariant 3: nobody listens for longer than Go's shim tries (5 times, about 15 s), and all arrives in
/// order. The pauses are at most 2 s, whether it is for twenty seconds or ten minutes.
pub fn events_survive_twenty_seconds_without_a_daemon(daemon: &Daemon) {
    let mut client = daemon.created("c", "read x </tmp/gate; exit 9", &Io::none());
    nix::unistd::mkfifo(&daemon.rootfs.join("tmp/gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    client.start("c", "").unwrap();
    daemon.events().wait("/tasks/start", "c");
    daemon.events().stop();
    assert_eq!(client.run_exec("c", "e", "exit 2"), 2);
    fs::write(daemon.rootfs.join("tmp/gate"), "go\n").unwrap();
    assert_eq!(client.wait("c", ""), 9);
    std::thread::sleep(Duration::from_secs(20));
    daemon.events().start();
    daemon.events().wait("/tasks/exit", "c");
    let expected = [
        ("create", "c"),
        ("start", "c"),
        ("exec-added", "e"),
        ("exec-started", "e"),
        ("exit", "e"),
        ("exit", "c"),
    ];
    assert_eq!(daemon.events().order(), expected.map(|(t, p)| (t.to_owned(), p.to_owned())));
    client.delete("c", "").unwrap();
}

/// The end of a worker and that of the connection to containerd, which the shim finds at once: what it could not send for
/// the one must not be forgotten for the other.
pub fn an_event_in_the_moment_the_daemon_goes(daemon: &Daemon) {
    let gate = daemon.dir.path().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (hook, began) = (daemon.dir.path().join("hook"), daemon.dir.path().join("began"));
    install(&hook, &format!("#!/bin/sh\n: >{}\nread x < {}\n", began.display(), gate.display()));
    for id in ["pod", "slow"] {
        daemon.make_bundle(id, "sleep 1000", |config| {
            config["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": "pod"});
            if id == "slow" {
                config["hooks"] = serde_json::json!({"createRuntime": [{"path": hook, "args": ["hook"]}]});
            }
        });
    }
    let mut client = Client::connect(&daemon.start_shim("pod"));
    daemon.create(&mut client, "pod", &Io::none()).unwrap();
    client.start("pod", "").unwrap();
    daemon.events().wait("/tasks/start", "pod");
    let shim = client.shim_pid();
    let create = client.send(V2, "Create", &daemon.create_request("slow", &Io::none()));
    until("the hook", || began.exists().then_some(()));
    // Its command line is the shim's, as that of the container's process is, which has a name of its own.
    let is_worker = |pid: &u32| {
        let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        of("cmdline").contains(&daemon.namespace) && !of("comm").starts_with("davit:")
    };
    let worker = children(shim).into_iter().find(is_worker);
    signal(shim, Signal::SIGSTOP);
    fs::write(&gate, "go\n").unwrap();
    until("the worker's end", || worker.is_none_or(|pid| !alive(pid)).then_some(()));
    daemon.events().stop();
    daemon.events().start();
    signal(shim, Signal::SIGCONT);
    client.receive::<pb::CreateTaskResponse>(create).unwrap();
    daemon.events().wait("/tasks/create", "slow");
    client.delete("slow", "").unwrap();
    client.finish("pod");
}

/// containerd restarts several times while a container lives and ends.
pub fn daemon_that_restarts_again_and_again(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    daemon.events().wait("/tasks/start", "c");
    for round in 0..4 {
        daemon.events().stop();
        assert_eq!(client.run_exec("c", &format!("e{round}"), "exit 2"), 2);
        daemon.events().start();
    }
    client.finish("c");
    daemon.events().wait("/tasks/delete", "c");
    for round in 0..4 {
        let topics = daemon.events().topics(&format!("e{round}"));
        assert_eq!(topics, ["exec-added", "exec-started", "exit"]);
    }
    assert_eq!(daemon.events().topics("c"), ["create", "start", "exit", "delete"]);
}

/// kata's LogForwarder case: no address of an event service.
pub fn without_an_event_service_all_works(daemon: &Daemon) {
    daemon.make_bundle("c", "exit 3", |_| ());
    let output = daemon.shim("c", "start", b"", &[("TTRPC_ADDRESS", "")]);
    let address = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && address.starts_with("unix://"), "{address}");
    let mut client = Client::connect(&address);
    daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 3);
    client.delete("c", "").unwrap();
    let shim = client.shim_pid();
    client.shutdown();
    daemon.assert_gone(shim, &address);
}

/// Events that are queued when Shutdown comes are still delivered.
pub fn shutdown_delivers_what_is_queued(daemon: &Daemon) {
    let mut client = daemon.created("c", "exit 3", &Io::none());
    client.start("c", "").unwrap();
    daemon.events().wait("/tasks/start", "c");
    daemon.events().stop();
    assert_eq!(client.wait("c", ""), 3);
    client.delete("c", "").unwrap();
    client.shutdown();
    // It waits 5 s from here on, and tries every 2 s at least.
    let socket = PathBuf::from(daemon.address().strip_prefix("unix://").unwrap());
    until("the beginning of its end", || (!socket.exists()).then_some(()));
    daemon.events().start();
    daemon.events().wait("/tasks/delete", "c");
}

pub fn pause_and_resume_have_events(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    client.pause("c").unwrap();
    client.resume("c").unwrap();
    client.finish("c");
    daemon.events().wait("/tasks/delete", "c");
    assert_eq!(daemon.events().topics("c"), ["create", "start", "paused", "resumed", "exit", "delete"]);
}
