//! Create to Delete of a container.

use crate::prelude::*;

pub fn life_of_a_container(daemon: &Daemon) {
    let address = {
        daemon.make_bundle("c", "sleep 1000", |_| ());
        daemon.start_shim("c")
    };
    let mut client = Client::connect(&address);
    let pid = daemon.create(&mut client, "c", &Io::none()).unwrap();
    assert_eq!(daemon.create(&mut client, "c", &Io::none()).unwrap_err().code, 6);
    let state = client.state("c", "").unwrap();
    assert_eq!((state.pid, state.status.unwrap()), (pid, Status::CREATED));
    assert_eq!(state.exited_at.seconds, -62_135_596_800);
    // Two waits before the start, on two connections.
    let mut other = Client::connect(&address);
    let (first, second) = (client.send_wait("c", ""), other.send_wait("c", ""));
    assert_eq!(client.start("c", ""), Ok(pid));
    assert_eq!(client.start("c", "").unwrap_err().text, "cannot start a running process");
    assert_eq!(client.delete("c", "").unwrap_err().text, "cannot delete a running process");
    assert_eq!(client.state("c", "").unwrap().status.unwrap(), Status::RUNNING);

    client.exec("c", "e", "exit 7", &Io::none()).unwrap();
    assert_eq!(client.exec("c", "e", "exit 7", &Io::none()).unwrap_err().code, 6);
    assert_eq!(client.state("c", "e").unwrap().status.unwrap(), Status::CREATED);
    assert_eq!(client.kill("c", "e", 9).unwrap_err().code, 9);
    let exec_pid = client.start("c", "e").unwrap();
    assert_eq!(client.wait("c", "e"), 7);
    assert_eq!(client.kill("c", "e", 9).unwrap_err().code, 5);
    let deleted = client.delete("c", "e").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (exec_pid, 7));
    assert_eq!(client.delete("c", "e").unwrap(), deleted, "a second Delete has the same answer");
    assert_eq!(client.state("c", "nope").unwrap_err().text, "process does not exist nope");

    assert_eq!(client.connect_task("c").task_pid, pid);
    client.shutdown();
    client.kill("c", "", 9).unwrap();
    assert_eq!(client.receive::<pb::WaitResponse>(first).unwrap().exit_status, 137);
    assert_eq!(other.receive::<pb::WaitResponse>(second).unwrap().exit_status, 137);
    assert_eq!(client.kill("c", "", 9).unwrap_err().code, 5);
    assert_eq!(client.state("c", "").unwrap().status.unwrap(), Status::STOPPED);
    assert_eq!(client.pids("c").unwrap().iter().map(|p| p.pid).collect::<Vec<_>>(), [pid]);
    let deleted = client.delete("c", "").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    assert_eq!(other.delete("c", "").unwrap(), deleted);
    assert_eq!(other.state("c", "").unwrap().exit_status, 137);
    assert_eq!(client.pids("c").unwrap_err().text, "container not created");
    daemon.events().wait("/tasks/delete", "c");
    let expected = [
        ("create", "c"),
        ("start", "c"),
        ("exec-added", "e"),
        ("exec-started", "e"),
        ("exit", "e"),
        ("exit", "c"),
        ("delete", "c"),
    ];
    assert_eq!(daemon.events().order(), expected.map(|(t, p)| (t.to_owned(), p.to_owned())));
    assert!(!daemon.is_mounted("c") && !daemon.state_dir("c").exists());
    let shim = client.connect_task("").shim_pid;
    client.shutdown();
    daemon.assert_gone(shim, &address);
}

pub fn missing_executable_is_create_s_error(daemon: &Daemon) {
    daemon.make_bundle("c", "", |config| config["process"]["args"] = serde_json::json!(["nothing-here"]));
    let address = daemon.start_shim("c");
    let mut client = Client::connect(&address);
    let refusal = daemon.create(&mut client, "c", &Io::none()).unwrap_err();
    let words = ["davit", "runc"].map(|name| format!("OCI runtime create failed: {name} create failed: "));
    assert!(words.iter().any(|words| refusal.text.starts_with(words)), "{}", refusal.text);
    assert!(refusal.text.contains("executable file not found in $PATH"), "{}", refusal.text);
    let log = fs::read_to_string(daemon.bundle("c").join("log.json")).unwrap();
    assert!(log.contains("executable file not found"), "{log}");
    assert_eq!(client.delete("c", "").unwrap_err().code, 5);
    assert!(!daemon.is_mounted("c") && !daemon.state_dir("c").exists());
    assert_eq!(daemon.events().all(), [], "no event of a container that never was");
    let shim = client.connect_task("").shim_pid;
    client.shutdown();
    daemon.assert_gone(shim, &address);
}

pub fn pause_and_resume(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    let pause = pb::PauseRequest { id: "c".into(), ..Default::default() };
    let resume = pb::ResumeRequest { id: "c".into(), ..Default::default() };
    let text = client.call::<pb::Empty>("Pause", &pause).unwrap_err().text;
    assert_eq!(text, "cannot pause task in created state");
    client.start("c", "").unwrap();
    client.exec("c", "e", "true", &Io::none()).unwrap();
    client.call::<pb::Empty>("Pause", &pause).unwrap();
    assert_eq!(client.state("c", "").unwrap().status.unwrap(), Status::PAUSED);
    assert_eq!(client.start("c", "e").unwrap_err().text, "cannot exec in a paused state");
    assert_eq!(client.delete("c", "").unwrap_err().text, "cannot delete a paused process");
    client.call::<pb::Empty>("Resume", &resume).unwrap();
    assert_eq!(client.state("c", "").unwrap().status.unwrap(), Status::RUNNING);
    client.start("c", "e").unwrap();
    assert_eq!(client.wait("c", "e"), 0);
    // Death while frozen.
    client.call::<pb::Empty>("Pause", &pause).unwrap();
    client.kill("c", "", 9).unwrap();
    if daemon.runtime == Runtime::Runc {
        // runc 1.1 does not thaw a cgroup v1 for SIGKILL.
        let _ = client.call::<pb::Empty>("Resume", &resume);
    }
    assert_eq!(client.wait("c", ""), 137);
    client.delete("c", "").unwrap();
    for topic in ["/tasks/paused", "/tasks/resumed", "/tasks/delete"] {
        daemon.events().wait(topic, "c");
    }
}

pub fn delete_of_a_created_container(daemon: &Daemon) {
    daemon.make_bundle("c", "sleep 1000", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let pid = daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.delete("c", "").unwrap();
    until("the end of init", || (!alive(pid)).then_some(()));
    assert!(!daemon.is_mounted("c") && !daemon.state_dir("c").exists());
    // The id is free again.
    daemon.make_bundle("c", "exit 5", |_| ());
    daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 5);
    client.delete("c", "").unwrap();
}

pub fn host_pid_namespace_leaves_nothing_behind(daemon: &Daemon) {
    daemon.make_bundle("c", "for i in $(seq 20); do sleep 1000 & done; cat", |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|n| n["type"] != "pid");
    });
    let io = daemon.io("c", false);
    let _readers = (io.read(1), io.read(2));
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &io).unwrap();
    client.start("c", "").unwrap();
    let pids = until("all children", || {
        let pids: Vec<u32> = client.pids("c").unwrap().iter().map(|p| p.pid).collect();
        (pids.len() > 20).then_some(pids)
    });
    client.exec("c", "e", "sleep 1000", &Io::none()).unwrap();
    client.start("c", "e").unwrap();
    client.kill("c", "", 9).unwrap();
    assert_eq!(client.wait("c", ""), 137);
    daemon.events().wait("/tasks/exit", "c");
    let exits: Vec<_> = daemon.events().order().into_iter().filter(|(topic, _)| topic == "exit").collect();
    assert_eq!(exits.first().map(|(_, process)| process.as_str()), Some("e"));
    until("the end of all", || {
        pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    client.delete("c", "").unwrap();
}

pub fn statistics_of_the_cgroup(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    let request = pb::StatsRequest { id: "c".into(), ..Default::default() };
    let stats = client.call::<pb::StatsResponse>("Stats", &request).unwrap().stats;
    let pids = match stats.type_url.as_str() {
        "io.containerd.cgroups.v1.Metrics" => {
            let metrics =
                containerd_shim_protos::cgroups::metrics::Metrics::parse_from_bytes(&stats.value).unwrap();
            assert!(metrics.memory.usage.usage > 0);
            metrics.pids.current
        }
        "io.containerd.cgroups.v2.Metrics" => {
            let metrics =
                containerd_shim_protos::cgroups_v2::metrics::Metrics::parse_from_bytes(&stats.value);
            metrics.unwrap().pids.current
        }
        other => panic!("unknown type {other}"),
    };
    assert!(pids >= 1, "the shell, and sleep where the shell does not become it");
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    client.call::<pb::StatsResponse>("Stats", &request).expect("the last numbers of a stopped container");
    client.delete("c", "").unwrap();
    assert_eq!(client.call::<pb::StatsResponse>("Stats", &request).unwrap_err().code, 5);
}

pub fn update_changes_limits(daemon: &Daemon) {
    let file = Path::new("/sys/fs/cgroup/memory").join(&daemon.namespace).join("c/memory.limit_in_bytes");
    if !Path::new("/sys/fs/cgroup/memory").exists() {
        eprintln!("SKIPPED update_changes_limits: needs the memory controller on cgroup v1");
        return;
    }
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    let json = serde_json::json!({"memory": {"limit": 50 << 20}}).to_string();
    let any = protobuf::well_known_types::any::Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
        value: json.into_bytes(),
        ..Default::default()
    };
    let resources = protobuf::MessageField::some(any);
    let request = pb::UpdateTaskRequest { id: "c".into(), resources, ..Default::default() };
    client.call::<pb::Empty>("Update", &request).unwrap();
    assert_eq!(fs::read_to_string(file).unwrap().trim(), (50 << 20).to_string());
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    let refusal = client.call::<pb::Empty>("Update", &request).unwrap_err();
    assert_eq!(refusal.text, "cannot update a stopped container");
    client.delete("c", "").unwrap();
}

pub fn create_is_finished_for_a_client_that_went_away(daemon: &Daemon) {
    daemon.make_bundle("c", "exit 6", |_| ());
    let address = daemon.start_shim("c");
    let mut gone = Client::connect(&address);
    gone.send(V2, "Create", &daemon.create_request("c", &Io::none()));
    drop(gone);
    daemon.events().wait("/tasks/create", "c");
    // containerd comes back: Connect, Pids, and the task is whole.
    let mut client = Client::connect(&address);
    assert!(client.connect_task("c").task_pid > 0);
    assert_eq!(client.pids("c").unwrap().len(), 1);
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 6);
    client.delete("c", "").unwrap();
}

pub fn nothing_of_the_shim_reaches_the_container(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let (stdout, _stderr) = (io.read(1), io.read(2));
    let script = "cat /proc/self/status; for fd in /proc/self/fd/*; do echo fd $fd; done";
    let mut client = daemon.created("c", script, &io);
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 0);
    let text = String::from_utf8(stdout.join().unwrap()).unwrap();
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    assert_eq!(field("SigBlk:"), Some("0000000000000000"));
    // glibc's posix_spawn, by which this test starts the shim, ignores its two internal signals 32 and 33.
    let ignored = u64::from_str_radix(field("SigIgn:").unwrap(), 16).unwrap();
    assert_eq!(ignored & 0x7fff_ffff, 0, "SIGPIPE among them");
    // The kernel shows it from 5.0 on.
    assert!(matches!(field("THP_enabled:"), Some("1") | None), "{:?}", field("THP_enabled:"));
    let numbers: Vec<u32> =
        text.lines().filter_map(|l| l.strip_prefix("fd /proc/self/fd/")?.parse().ok()).collect();
    // The shell's directory handle while it expands the pattern may be one more.
    assert!(numbers.starts_with(&[0, 1, 2]) && numbers.len() <= 4, "{numbers:?}");
    client.delete("c", "").unwrap();
}

/// #11392: after a Delete whose answer was lost, State says how it ended, and the id can be used again.
pub fn state_after_delete_and_the_id_again(daemon: &Daemon) {
    let mut client = daemon.created("c", "exit 4", &Io::none());
    client.start("c", "").unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
    let state = client.state("c", "").unwrap();
    assert_eq!((state.status.unwrap(), state.exit_status), (Status::STOPPED, 4));
    daemon.make_bundle("c", "exit 5", |_| ());
    daemon.create(&mut client, "c", &Io::none()).unwrap();
    assert_eq!(status(&mut client, "c", ""), Status::CREATED);
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 5);
    client.delete("c", "").unwrap();
}

/// #8981, #9309: the client gives up on Delete at any moment and tries again.
pub fn delete_that_is_given_up_and_tried_again(daemon: &Daemon) {
    for round in 0..8_u64 {
        let id = format!("c{round}");
        daemon.make_bundle(&id, "exit 3", |_| ());
        let address = daemon.start_shim(&id);
        let mut client = Client::connect(&address);
        daemon.create(&mut client, &id, &Io::none()).unwrap();
        client.start(&id, "").unwrap();
        assert_eq!(client.wait(&id, ""), 3);
        let mut hasty = Client::connect(&address);
        hasty.send(V2, "Delete", &pb::DeleteRequest { id: id.clone(), ..Default::default() });
        std::thread::sleep(Duration::from_micros(400 * round));
        drop(hasty);
        assert_eq!(client.delete(&id, "").unwrap().exit_status, 3);
        let shim = client.shim_pid();
        client.shutdown();
        daemon.assert_gone(shim, &address);
    }
}

/// #12344: two connections delete one container at once.
pub fn two_deletes_at_once_have_one_answer(daemon: &Daemon) {
    daemon.make_bundle("c", "exit 3", |_| ());
    let address = daemon.start_shim("c");
    let (mut one, mut other) = (Client::connect(&address), Client::connect(&address));
    daemon.create(&mut one, "c", &Io::none()).unwrap();
    one.start("c", "").unwrap();
    one.wait("c", "");
    let request = pb::DeleteRequest { id: "c".into(), ..Default::default() };
    let (first, second) = (one.send(V2, "Delete", &request), other.send(V2, "Delete", &request));
    let answers = [one.receive::<pb::DeleteResponse>(first).unwrap(), other.receive(second).unwrap()];
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0].exit_status, 3);
    daemon.events().wait("/tasks/delete", "c");
    assert_eq!(daemon.events().topics("c"), ["create", "start", "exit", "delete"]);
}

/// #13784: a container that moves its processes into a cgroup of its own below is not taken for an empty one.
pub fn pids_of_sub_cgroups(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    let pid = client.start("c", "").unwrap();
    let dirs = daemon.cgroups("c");
    assert!(!dirs.is_empty());
    for dir in &dirs {
        let sub = dir.join("sub");
        fs::create_dir(&sub).unwrap();
        if sub.join("cpuset.cpus").exists() {
            for name in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(sub.join(name), fs::read(dir.join(name)).unwrap()).unwrap();
            }
        }
        fs::write(sub.join("cgroup.procs"), pid.to_string()).unwrap();
    }
    let pids: Vec<u32> = client.pids("c").unwrap().iter().map(|p| p.pid).collect();
    assert!(pids.contains(&pid), "{pids:?}");
    client.finish("c");
    assert!(dirs.iter().all(|dir| !dir.exists()), "the cgroup and the one below it are removed");
}

/// #6771: a task that has ended and is not deleted has a pid still, or containerd drops it when it restarts.
pub fn pids_of_a_stopped_task(daemon: &Daemon) {
    let mut client = daemon.created("c", "exit 7", &Io::none());
    let pid = client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 7);
    assert_eq!(client.pids("c").unwrap().iter().map(|p| p.pid).collect::<Vec<_>>(), [pid]);
    assert_eq!(client.state("c", "").unwrap().exit_status, 7);
    client.delete("c", "").unwrap();
}

/// #6860, #5015: containerd dies during Create, comes back and finds nothing or a whole task.
pub fn daemon_that_dies_during_create(daemon: &Daemon) {
    for round in 0..8_u64 {
        let id = format!("c{round}");
        daemon.make_bundle(&id, "exit 6", |_| ());
        let address = daemon.start_shim(&id);
        let mut gone = Client::connect(&address);
        gone.send(V2, "Create", &daemon.create_request(&id, &Io::none()));
        std::thread::sleep(Duration::from_millis(2 * round));
        drop(gone);
        let mut client = Client::connect(&address);
        // What containerd does when it loads a shim: with pids it keeps the task, without it deletes it.
        let shim = client.connect_task(&id).shim_pid;
        match client.pids(&id) {
            Ok(pids) => {
                assert!(!pids.is_empty());
                client.start(&id, "").unwrap();
                assert_eq!(client.wait(&id, ""), 6);
                client.delete(&id, "").unwrap();
            }
            Err(refusal) => {
                assert_eq!(refusal.code, 5);
                // Create is finished all the same. A Shutdown right behind its end would find a container.
                until("the end of Create", || client.pids(&id).ok());
                client.delete(&id, "").unwrap();
            }
        }
        client.shutdown();
        daemon.assert_gone(shim, &address);
        daemon.delete_command(&id);
        assert!(!daemon.is_mounted(&id) && !daemon.state_dir(&id).exists());
    }
}

/// #6860: containerd 1.6 that was killed between the shim's start and Create connects again and never uses it.
pub fn a_shim_that_is_never_used_ends(daemon: &Daemon) {
    daemon.make_bundle("c", "exit 6", |_| ());
    let address = daemon.start_shim("c");
    let mut client = Client::connect(&address);
    let shim = client.connect_task("c").shim_pid;
    drop(client);
    let mut client = Client::connect(&address);
    assert_eq!(client.pids("c").unwrap_err().code, 5);
    let late = Instant::now() + Duration::from_secs(240);
    while alive(shim) && Instant::now() < late {
        std::thread::sleep(Duration::from_millis(100));
    }
    daemon.assert_gone(shim, &address);
}

/// #4538: a Create that fails late leaves no process and no cgroup.
pub fn failed_create_leaves_nothing(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |config| config["process"]["cwd"] = "/nowhere/at/all".into());
    fs::remove_dir(daemon.rootfs.join("nowhere")).ok();
    let hook = serde_json::json!([{"path": "/bin/false"}]);
    daemon.make_bundle("c", "true", |config| config["hooks"] = serde_json::json!({"createRuntime": hook}));
    let mut client = Client::connect(&daemon.start_shim("c"));
    let refusal = daemon.create(&mut client, "c", &Io::none()).unwrap_err();
    assert!(refusal.text.contains("hook"), "{}", refusal.text);
    assert!(daemon.cgroups("c").is_empty() && !daemon.is_mounted("c") && !daemon.state_dir("c").exists());
    let shim = client.shim_pid();
    until("the end of all children", || children(shim).is_empty().then_some(()));
    assert_eq!(client.state("c", "").unwrap_err().code, 5);
}

pub fn create_of_an_id_that_exists(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    assert_eq!(daemon.create(&mut client, "c", &Io::none()).unwrap_err().code, 6);
    client.start("c", "").unwrap();
    assert_eq!(status(&mut client, "c", ""), Status::RUNNING);
    client.finish("c");
}

pub fn unknown_ids_are_not_found(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    let refusal = client.state("nope", "").unwrap_err();
    assert_eq!((refusal.code, refusal.text.contains("container not created")), (5, true), "{}", refusal.text);
    assert_eq!(client.kill("nope", "", 9).unwrap_err().code, 5);
    assert_eq!(client.delete("nope", "").unwrap_err().code, 5);
    assert_eq!(client.pids("nope").unwrap_err().code, 5);
    assert_eq!(client.stats("nope").unwrap_err().code, 5);
    assert_eq!(client.pause("nope").unwrap_err().code, 5);
    assert_eq!(client.resize("nope", "", 1, 1).unwrap_err().code, 5);
    assert_eq!(client.close_stdin("nope", "").unwrap_err().code, 5);
    assert_eq!(client.start("c", "nope").unwrap_err().code, 5);
    assert_eq!(client.kill("c", "nope", 9).unwrap_err().code, 5);
    assert_eq!(client.connect_task("nope").task_pid, 0, "Connect is never an error");
    client.delete("c", "").unwrap();
}

pub fn words_of_what_a_state_forbids(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    assert_eq!(client.resume("c").unwrap_err().text, "cannot resume task in created state");
    client.start("c", "").unwrap();
    assert_eq!(client.start("c", "").unwrap_err().text, "cannot start a running process");
    assert_eq!(client.resume("c").unwrap_err().text, "cannot resume a running process");
    assert_eq!(client.delete("c", "").unwrap_err().text, "cannot delete a running process");
    client.pause("c").unwrap();
    assert_eq!(client.pause("c").unwrap_err().text, "cannot pause a paused container");
    client.resume("c").unwrap();
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    assert_eq!(client.start("c", "").unwrap_err().text, "cannot start a stopped process");
    assert_eq!(client.pause("c").unwrap_err().text, "cannot pause a stopped container");
    assert_eq!(client.resume("c").unwrap_err().text, "cannot resume a stopped container");
    client.delete("c", "").unwrap();
}

pub fn kill_of_an_ended_container_is_not_found(daemon: &Daemon) {
    let mut client = daemon.created("c", "exit 0", &Io::none());
    client.start("c", "").unwrap();
    client.wait("c", "");
    assert_eq!(client.kill("c", "", 15).unwrap_err().code, 5);
    client.delete("c", "").unwrap();
}

/// Somebody removed the container with the runtime's own command.
pub fn container_that_was_removed_behind_the_shim(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    let root = daemon.state_dir("c").parent().unwrap().to_owned();
    let runc = match &daemon.shim {
        Shim::Go(dir) => dir.join("runc"),
        Shim::Davit => PathBuf::from("runc"),
    };
    let removed =
        Command::new(runc).arg("--root").arg(root).args(["delete", "--force", "c"]).output().unwrap();
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    assert_eq!(client.wait("c", ""), 137);
    assert_eq!(client.kill("c", "", 9).unwrap_err().code, 5);
    assert_eq!(client.delete("c", "").unwrap().exit_status, 137);
    assert!(!daemon.is_mounted("c"));
}

pub fn signal_that_there_is_not(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    assert!(client.kill("c", "", 4000).is_err());
    assert_eq!(status(&mut client, "c", ""), Status::RUNNING);
    client.finish("c");
}

pub fn exit_codes_of_codes_and_signals(daemon: &Daemon) {
    let mut client = Client::connect(&{
        daemon.make_bundle("c", "exit 0", |_| ());
        daemon.start_shim("c")
    });
    for (script, code) in
        [("exit 0", 0), ("exit 255", 255), ("kill -TERM $$; sleep 1000", 0), ("exit 77", 77)]
    {
        daemon.make_bundle("c", script, |_| ());
        daemon.create(&mut client, "c", &Io::none()).unwrap();
        client.start("c", "").unwrap();
        if script.starts_with("kill") {
            // A pid namespace's init is deaf to its own signals.
            client.kill("c", "", 9).unwrap();
            assert_eq!(client.wait("c", ""), 137);
        } else {
            assert_eq!(client.wait("c", ""), code, "{script}");
        }
        client.delete("c", "").unwrap();
    }
}

/// #13290, #9404: one thread, and no system call while nothing happens.
pub fn a_shim_at_rest_is_one_thread_that_sleeps(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    daemon.events().wait("/tasks/start", "c");
    let shim = client.shim_pid();
    assert_eq!(fs::read_dir(format!("/proc/{shim}/task")).unwrap().count(), 1);
    let switches = || {
        let text = fs::read_to_string(format!("/proc/{shim}/status")).unwrap();
        let count = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
        (count("voluntary_ctxt_switches:"), count("nonvoluntary_ctxt_switches:"))
    };
    let mapped_kb = || {
        let text = fs::read_to_string(format!("/proc/{shim}/status")).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("RssFile:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    // Once the start event is told it lets go of its program's pages. An unoptimised one has mapped 9 MB by then,
    // and keeps 1.4 MB; a call as the one for its pid brings back 2 MB.
    until("a shim of few pages", || (mapped_kb() < 6000).then_some(()));
    // What the calls and the event have begun comes to its end first, whenever that is on a busy machine.
    until("three seconds of rest", || {
        let before = switches();
        std::thread::sleep(Duration::from_secs(3));
        (switches() == before).then_some(())
    });
    client.finish("c");
}

/// #13483's kind: a hook that hangs in Start does not keep Kill out.
pub fn kill_while_start_hangs_in_a_hook(daemon: &Daemon) {
    let gate = daemon.dir.path().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let hook = daemon.dir.path().join("hook");
    install(&hook, &format!("#!/bin/sh\nread x < {}\n", gate.display()));
    let hooks = serde_json::json!({"poststart": [{"path": hook, "args": ["hook"]}]});
    daemon.make_bundle("c", "sleep 1000", |config| config["hooks"] = hooks);
    let mut client = Client::connect(&daemon.start_shim("c"));
    let pid = daemon.create(&mut client, "c", &Io::none()).unwrap();
    let start = client.send(V2, "Start", &pb::StartRequest { id: "c".into(), ..Default::default() });
    until("the program", || {
        fs::read_to_string(format!("/proc/{pid}/comm")).ok().filter(|c| c == "sh\n" || c == "sleep\n")
    });
    let killed = client.kill("c", "", 9);
    // No `until`: the hook is let go whatever comes.
    let late = Instant::now() + patience();
    while alive(pid) && Instant::now() < late {
        std::thread::sleep(Duration::from_millis(5));
    }
    let dead = !alive(pid);
    fs::write(&gate, "go\n").unwrap();
    let _ = client.receive::<pb::StartResponse>(start);
    killed.unwrap();
    assert!(dead, "Kill waited for Start");
    client.wait("c", "");
    client.delete("c", "").unwrap();
}

pub fn shutdown_with_a_container_is_nothing(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    client.shutdown();
    assert_eq!(status(&mut client, "c", ""), Status::RUNNING);
    client.finish("c");
}

/// #4020: something of the host is in the rootfs when it is unmounted.
pub fn delete_of_a_busy_rootfs(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    let held = fs::File::open(daemon.bundle("c").join("rootfs/bin/busybox")).unwrap();
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
    assert!(!daemon.is_mounted("c"));
    drop(held);
}

/// k8s#81042: orphans of a container without a pid namespace of its own come to the shim and are reaped.
pub fn orphans_are_reaped(daemon: &Daemon) {
    let script = "for i in $(seq 100); do (sleep 0 &); done; sleep 1000";
    daemon.make_bundle("c", script, |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    });
    let mut client = Client::connect(&daemon.start_shim("c"));
    let pid = daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    let shim = client.shim_pid();
    until("the last sleep", || {
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok().filter(|c| !c.trim().is_empty())
    });
    until("no child of the shim but init", || (children(shim) == [pid]).then_some(()));
    client.finish("c");
}
