//! The task service over its socket, with real containers: davit inside the shim, and runc outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first surprise"
)]

mod harness;

use std::fs;
use std::io::Write;
use std::path::Path;

use containerd_shim_protos::api as pb;
use containerd_shim_protos::types::task::Status;
use harness::{Client, Daemon, Io, Runtime, V2, alive, can_run, until};
use protobuf::Message;

/// Makes one test of each scenario per runtime.
macro_rules! with_both_runtimes {
    ($($scenario:ident),* $(,)?) => {
        mod davit {
            $(#[test] fn $scenario() {
                if super::can_run(concat!("davit::", stringify!($scenario)), super::Runtime::Davit) {
                    super::$scenario(&super::Daemon::new(super::Runtime::Davit));
                }
            })*
        }
        mod runc {
            $(#[test] fn $scenario() {
                if super::can_run(concat!("runc::", stringify!($scenario)), super::Runtime::Runc) {
                    super::$scenario(&super::Daemon::new(super::Runtime::Runc));
                }
            })*
        }
    };
}

with_both_runtimes!(
    life_of_a_container,
    exec_exits_come_before_inits,
    a_megabyte_of_output_and_its_end,
    stdin_ends_with_close_io,
    terminal_has_the_size_that_came_before_start,
    missing_executable_is_create_s_error,
    exit_code_outlives_a_killed_shim,
    running_container_of_a_killed_shim_is_removed,
    pause_and_resume,
    failed_exec_leaves_the_rest_alone,
    delete_of_a_created_container,
    host_pid_namespace_leaves_nothing_behind,
    grandchild_that_holds_the_output_does_not_hold_delete,
    oom_comes_before_exit,
    statistics_of_the_cgroup,
    execs_leave_nothing_behind_in_the_shim,
    exec_has_a_session_of_its_own,
    nothing_of_the_shim_reaches_the_container,
    create_is_finished_for_a_client_that_went_away,
    a_reader_that_comes_back_misses_nothing,
    output_without_a_reader_waits_for_one,
    update_changes_limits,
    many_execs_at_once,
    a_reader_that_sleeps_does_not_hold_delete,
);

fn life_of_a_container(daemon: &Daemon) {
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

fn exec_exits_come_before_inits(daemon: &Daemon) {
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

fn a_megabyte_of_output_and_its_end(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let (stdout, stderr) = (io.read(1), io.read(2));
    let script = "head -c 1048577 /proc/self/exe | tee /tmp/copy; head -c 1048577 /proc/self/exe >&2";
    let mut client = daemon.created("c", script, &io);
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 0);
    let expected = &fs::read("/bin/busybox").unwrap()[..1_048_577];
    assert!(stdout.join().unwrap() == expected, "stdout is complete and ends");
    assert!(stderr.join().unwrap() == expected, "stderr is complete and ends");
    client.delete("c", "").unwrap();
}

fn stdin_ends_with_close_io(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let (stdout, _stderr) = (io.read(1), io.read(2));
    let mut client = daemon.created("c", "cat; exit 3", &io);
    client.start("c", "").unwrap();
    let mut stdin = io.stdin();
    stdin.write_all(b"hello").unwrap();
    drop(stdin);
    // The client's end alone is not the end: another client may attach.
    let waiting = client.send_wait("c", "");
    io.stdin().write_all(b" again").unwrap();
    assert!(!client.has_answer(waiting));
    let request = pb::CloseIORequest { id: "c".into(), stdin: true, ..Default::default() };
    client.call::<pb::Empty>("CloseIO", &request).unwrap();
    assert_eq!(client.receive::<pb::WaitResponse>(waiting).unwrap().exit_status, 3);
    assert_eq!(stdout.join().unwrap(), b"hello again");
    client.delete("c", "").unwrap();
}

fn terminal_has_the_size_that_came_before_start(daemon: &Daemon) {
    let io = daemon.io("c", true);
    let stdout = io.read(1);
    daemon.make_bundle("c", "stty size; exit 4", |config| config["process"]["terminal"] = true.into());
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &io).unwrap();
    let request = pb::ResizePtyRequest { id: "c".into(), width: 77, height: 33, ..Default::default() };
    client.call::<pb::Empty>("ResizePty", &request).unwrap();
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 4);
    assert_eq!(String::from_utf8(stdout.join().unwrap()).unwrap(), "33 77\r\n");
    client.delete("c", "").unwrap();
}

fn missing_executable_is_create_s_error(daemon: &Daemon) {
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

fn kill_shim(client: &mut Client) {
    let shim = client.connect_task("").shim_pid;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim as i32), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    until("the end of the shim", || (!alive(shim)).then_some(()));
}

fn exit_code_outlives_a_killed_shim(daemon: &Daemon) {
    let mut client = daemon.created("c", "exit 3", &Io::none());
    let pid = client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 3);
    kill_shim(&mut client);
    let deleted = daemon.delete_command("c");
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 3));
    assert!(!daemon.is_mounted("c") && !daemon.state_dir("c").exists());
}

fn running_container_of_a_killed_shim_is_removed(daemon: &Daemon) {
    let address = {
        daemon.make_bundle("c", "sleep 1000", |_| ());
        daemon.start_shim("c")
    };
    let mut client = Client::connect(&address);
    let pid = daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    kill_shim(&mut client);
    assert_eq!(daemon.delete_command("c").exit_status, 137);
    until("the end of the container", || (!alive(pid)).then_some(()));
    assert!(!daemon.is_mounted("c") && !daemon.state_dir("c").exists());
    assert!(!Path::new(address.strip_prefix("unix://").unwrap()).exists(), "dead socket left behind");
    assert_eq!(daemon.delete_command("c").pid, pid, "on a clean bundle it is quiet");
}

fn pause_and_resume(daemon: &Daemon) {
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
    let topics: Vec<_> = daemon.events().order().into_iter().map(|(topic, _)| topic).collect();
    assert!(topics.iter().any(|t| t == "paused") && topics.iter().any(|t| t == "resumed"), "{topics:?}");
}

fn failed_exec_leaves_the_rest_alone(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    let spec = serde_json::json!({"args": ["/nothing"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    let any =
        protobuf::well_known_types::any::Any { value: spec.to_string().into_bytes(), ..Default::default() };
    let request = pb::ExecProcessRequest {
        id: "c".into(),
        exec_id: "e".into(),
        spec: protobuf::MessageField::some(any),
        ..Default::default()
    };
    client.call::<pb::Empty>("Exec", &request).unwrap();
    let waiting = client.send_wait("c", "e");
    let refusal = client.start("c", "e").unwrap_err();
    assert!(refusal.text.starts_with("OCI runtime exec failed: exec failed: "), "{}", refusal.text);
    assert!(refusal.text.contains("no such file or directory"), "{}", refusal.text);
    assert_eq!(client.receive::<pb::WaitResponse>(waiting).unwrap().exit_status, 0);
    client.delete("c", "e").unwrap();
    client.kill("c", "", 9).unwrap();
    assert_eq!(client.wait("c", ""), 137, "init's exit does not wait for an exec that never was");
    client.delete("c", "").unwrap();
}

fn delete_of_a_created_container(daemon: &Daemon) {
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

fn host_pid_namespace_leaves_nothing_behind(daemon: &Daemon) {
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
    let exits: Vec<_> = daemon.events().order().into_iter().filter(|(topic, _)| topic == "exit").collect();
    assert_eq!(exits.first().map(|(_, process)| process.as_str()), Some("e"));
    until("the end of all", || {
        pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    client.delete("c", "").unwrap();
}

fn grandchild_that_holds_the_output_does_not_hold_delete(daemon: &Daemon) {
    let io = daemon.io("e", false);
    let (stdout, _stderr) = (io.read(1), io.read(2));
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    client.exec("c", "e", "echo said; sleep 1000 &", &io).unwrap();
    client.start("c", "e").unwrap();
    assert_eq!(client.wait("c", "e"), 0);
    client.delete("c", "e").unwrap();
    assert_eq!(stdout.join().unwrap(), b"said\n", "Delete ends the reader's FIFO");
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
}

fn oom_comes_before_exit(daemon: &Daemon) {
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
    let request = pb::StatsRequest { id: "c".into(), ..Default::default() };
    let stats = client.call::<pb::StatsResponse>("Stats", &request).unwrap().stats;
    let metrics = containerd_shim_protos::cgroups::metrics::Metrics::parse_from_bytes(&stats.value).unwrap();
    assert_eq!(metrics.memory_oom_control.oom_kill, 1);
    assert_eq!(metrics.memory.usage.limit, 19_996_672, "whole pages");
    client.delete("c", "").unwrap();
}

fn statistics_of_the_cgroup(daemon: &Daemon) {
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

fn execs_leave_nothing_behind_in_the_shim(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    let shim = client.connect_task("").shim_pid;
    let open_files = || fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    let children = || fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    // The event connection is made by the first event; it stays.
    daemon.events().wait("/tasks/start", "c");
    let (files, alone) = (open_files(), children());
    for n in 0..30 {
        let (io, exec) = (daemon.io(&format!("e{n}"), n % 2 == 0), format!("e{n}"));
        let stdout = io.read(1);
        let stderr = (n % 2 != 0).then(|| io.read(2));
        client.exec("c", &exec, "echo said; sleep 0 & exit 3", &io).unwrap();
        client.start("c", &exec).unwrap();
        assert_eq!(client.wait("c", &exec), 3);
        client.delete("c", &exec).unwrap();
        assert!(stdout.join().unwrap().starts_with(b"said"));
        stderr.map(|reader| reader.join().unwrap());
    }
    until("the orphans' end", || (children() == alone).then_some(()));
    assert_eq!(open_files(), files, "descriptors of the shim");
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
}

fn exec_has_a_session_of_its_own(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    client.exec("c", "e", "sleep 1000", &Io::none()).unwrap();
    let pid = client.start("c", "e").unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // After the name: state, ppid, pgrp, session.
    assert_eq!((fields[2], fields[3]), (pid.to_string().as_str(), pid.to_string().as_str()));
    client.kill("c", "e", 15).unwrap();
    assert_eq!(client.wait("c", "e"), 143);
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
}

fn nothing_of_the_shim_reaches_the_container(daemon: &Daemon) {
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

fn create_is_finished_for_a_client_that_went_away(daemon: &Daemon) {
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

fn a_reader_that_comes_back_misses_nothing(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let _stderr = io.read(2);
    let script = "echo first; cat >/dev/null; seq 100000; exit 0";
    let path = io.path(1);
    let first = std::thread::spawn(move || {
        let mut line = [0; 6];
        std::io::Read::read_exact(&mut fs::File::open(path).unwrap(), &mut line).unwrap();
        line
    });
    let mut client = daemon.created("c", script, &io);
    client.start("c", "").unwrap();
    assert_eq!(&first.join().unwrap(), b"first\n");
    // Nobody reads now, and the process goes on: its output is more than a pipe and a FIFO hold.
    let request = pb::CloseIORequest { id: "c".into(), stdin: true, ..Default::default() };
    client.call::<pb::Empty>("CloseIO", &request).unwrap();
    let waiting = client.send_wait("c", "");
    assert_eq!(client.state("c", "").unwrap().status.unwrap(), Status::RUNNING);
    let rest = io.read(1);
    assert_eq!(client.receive::<pb::WaitResponse>(waiting).unwrap().exit_status, 0, "no SIGPIPE");
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(rest.join().unwrap() == expected.as_bytes());
    client.delete("c", "").unwrap();
}

fn output_without_a_reader_waits_for_one(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let mut client = daemon.created("c", "echo late; echo bad >&2", &io);
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 0, "nothing waits for the FIFO's reader");
    let (stdout, stderr) = (io.read(1), io.read(2));
    assert_eq!((stdout.join().unwrap(), stderr.join().unwrap()), (b"late\n".to_vec(), b"bad\n".to_vec()));
    client.delete("c", "").unwrap();
}

fn a_reader_that_sleeps_does_not_hold_delete(daemon: &Daemon) {
    let io = daemon.io("c", false);
    // Open, and not read until the end.
    let open = |index| {
        let path = io.path(index);
        std::thread::spawn(move || fs::File::open(path).unwrap())
    };
    let (stdout, stderr) = (open(1), open(2));
    let mut client = daemon.created("c", "for i in $(seq 200); do echo line $i; sleep 0; done", &io);
    client.start("c", "").unwrap();
    let (mut stdout, _stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    assert_eq!(client.wait("c", ""), 0);
    client.delete("c", "").unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut text).unwrap();
    let expected: String = (1..=200).map(|n| format!("line {n}\n")).collect();
    assert_eq!(text, expected, "the FIFO has kept every line");
}

fn update_changes_limits(daemon: &Daemon) {
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

fn many_execs_at_once(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    let execs: Vec<String> = (0..20).map(|n| format!("e{n}")).collect();
    for (status, exec) in execs.iter().enumerate() {
        client.exec("c", exec, &format!("exit {status}"), &Io::none()).unwrap();
    }
    let start =
        |exec: &String| pb::StartRequest { id: "c".into(), exec_id: exec.clone(), ..Default::default() };
    let starts: Vec<u32> = execs.iter().map(|exec| client.send(V2, "Start", &start(exec))).collect();
    let waits: Vec<u32> = execs.iter().map(|exec| client.send_wait("c", exec)).collect();
    for (status, (start, wait)) in starts.into_iter().zip(waits).enumerate() {
        let pid = client.receive::<pb::StartResponse>(start).unwrap().pid;
        assert!(pid > 0);
        assert_eq!(client.receive::<pb::WaitResponse>(wait).unwrap().exit_status, status as u32);
    }
    for exec in &execs {
        client.delete("c", exec).unwrap();
        daemon.events().wait("/tasks/exit", exec);
        let of_exec: Vec<_> =
            daemon.events().order().into_iter().filter(|(_, p)| p == exec).map(|(t, _)| t).collect();
        assert_eq!(of_exec, ["exec-added", "exec-started", "exit"]);
    }
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
}
