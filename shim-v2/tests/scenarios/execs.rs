//! Further processes.

use crate::prelude::*;

pub fn failed_exec_leaves_the_rest_alone(daemon: &Daemon) {
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

pub fn execs_leave_nothing_behind_in_the_shim(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    let shim = client.connect_task("").shim_pid;
    let children = || fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    // The event connection is made by the first event; it stays.
    daemon.events().wait("/tasks/start", "c");
    // What Start had begun is over: init is the only child, and the shim has come to the next request.
    until("the end of start's worker", || (children().split_whitespace().count() == 1).then_some(()));
    client.state("c", "").unwrap();
    let (files, alone) = (open_files(shim), children());
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
    // The count before may have one more: the shim gives its code back when the start's event is answered.
    until("the descriptors' end", || (open_files(shim) <= files).then_some(()));
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
}

pub fn exec_has_a_session_of_its_own(daemon: &Daemon) {
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

pub fn many_execs_at_once(daemon: &Daemon) {
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

/// Leftovers of an exec as containerd's contract has it: they live on, and keep nobody.
pub fn leftovers_of_an_exec_live_until_the_container_ends(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    assert_eq!(client.run_exec("c", "e", "sleep 1000 & exit 3"), 3);
    client.delete("c", "e").unwrap();
    assert!(client.pids("c").unwrap().len() > 1);
    assert_eq!(client.finish("c").exit_status, 137);
}

fn annotated(daemon: &Daemon) -> Client {
    daemon.make_bundle("c", "sleep 1000", |config| {
        config["annotations"] = serde_json::json!({"io.containerd.davit.v2.exec-kill": "group"});
    });
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    client
}

pub fn kill_of_a_group_by_annotation(daemon: &Daemon) {
    let mut client = annotated(daemon);
    let alone = client.pids("c").unwrap().len();
    client.exec("c", "e", "sleep 1000 & sleep 1000 & wait", &Io::none()).unwrap();
    client.start("c", "e").unwrap();
    until("the exec's children", || (client.pids("c").unwrap().len() == alone + 3).then_some(()));
    client.kill("c", "e", 15).unwrap();
    assert_eq!(client.wait("c", "e"), 143);
    until("the end of the group", || (client.pids("c").unwrap().len() == alone).then_some(()));
    client.delete("c", "e").unwrap();
    client.finish("c");
}

/// With the option the output of a probe that times out ends at once, and its Delete does not wait.
pub fn leftovers_go_with_their_exec_by_annotation(daemon: &Daemon) {
    let mut client = annotated(daemon);
    let alone = client.pids("c").unwrap().len();
    let io = daemon.io("e", false);
    let (stdout, _stderr) = (io.read(1), io.read(2));
    client.exec("c", "e", "echo said; sleep 1000 & exit 3", &io).unwrap();
    client.start("c", "e").unwrap();
    assert_eq!(client.wait("c", "e"), 3);
    assert_eq!(stdout.join().unwrap(), b"said\n", "nobody holds the pipe");
    until("the end of the leftovers", || (client.pids("c").unwrap().len() == alone).then_some(()));
    client.delete("c", "e").unwrap();
    client.finish("c");
}

pub fn kill_of_a_group_by_runtime_option(daemon: &Daemon) {
    daemon.make_bundle("c", "sleep 1000", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut request = daemon.create_request("c", &Io::none());
    request.options = MessageField::some(daemon.toml("ExecKillGroup = true\n"));
    client.call::<pb::CreateTaskResponse>("Create", &request).unwrap();
    client.start("c", "").unwrap();
    let alone = client.pids("c").unwrap().len();
    assert_eq!(client.run_exec("c", "e", "sleep 1000 & exit 0"), 0);
    until("the end of the leftovers", || (client.pids("c").unwrap().len() == alone).then_some(()));
    client.delete("c", "e").unwrap();
    client.finish("c");
}

/// The group of one exec is not that of another, nor of init.
pub fn kill_of_one_exec_leaves_the_others(daemon: &Daemon) {
    let mut client = annotated(daemon);
    for exec in ["a", "b"] {
        client.exec("c", exec, "sleep 1000 & wait", &Io::none()).unwrap();
        client.start("c", exec).unwrap();
    }
    client.kill("c", "a", 9).unwrap();
    assert_eq!(client.wait("c", "a"), 137);
    assert_eq!(status(&mut client, "c", "b"), Status::RUNNING);
    assert_eq!(status(&mut client, "c", ""), Status::RUNNING);
    client.finish("c");
}

pub fn exec_in_a_created_container(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    assert_eq!(client.run_exec("c", "e", "exit 8"), 8);
    client.delete("c", "e").unwrap();
    client.start("c", "").unwrap();
    client.finish("c");
}

pub fn exec_after_init_s_end_is_refused(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    client.exec("c", "e", "true", &Io::none()).unwrap();
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    let refusal = client.start("c", "e").unwrap_err();
    assert!(refusal.text.contains("container c init process is not running"), "{}", refusal.text);
    assert_eq!(refusal.code, 9);
    assert!(client.exec("c", "late", "true", &Io::none()).is_err());
    client.delete("c", "").unwrap();
}

/// #13814's kind: execs come while init goes.
pub fn execs_during_init_s_end(daemon: &Daemon) {
    for round in 0..6_u64 {
        let id = format!("c{round}");
        let mut client = daemon.created(&id, "sleep 1000", &Io::none());
        client.start(&id, "").unwrap();
        let execs: Vec<String> = (0..8).map(|n| format!("e{round}-{n}")).collect();
        for exec in &execs {
            client.exec(&id, exec, "sleep 1000", &Io::none()).unwrap();
        }
        let start =
            |exec: &String| pb::StartRequest { id: id.clone(), exec_id: exec.clone(), ..Default::default() };
        let starts: Vec<u32> = execs.iter().map(|exec| client.send(V2, "Start", &start(exec))).collect();
        std::thread::sleep(Duration::from_millis(round * 4));
        client.kill(&id, "", 9).unwrap();
        let started = starts.into_iter().filter(|s| client.receive::<pb::StartResponse>(*s).is_ok()).count();
        assert_eq!(client.wait(&id, ""), 137);
        daemon.events().wait("/tasks/exit", &id);
        let order = daemon.events().order();
        let of = |topic: &str| order.iter().filter(|(t, p)| t == topic && execs.contains(p)).count();
        assert_eq!(
            (of("exec-started"), of("exit")),
            (started, started),
            "an exit for each start, before init's"
        );
        client.delete(&id, "").unwrap();
    }
}

pub fn kill_of_an_exec_that_was_not_started(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    client.exec("c", "e", "true", &Io::none()).unwrap();
    assert_eq!(client.kill("c", "e", 9).unwrap_err().code, 9);
    let state = client.state("c", "e").unwrap();
    assert_eq!((state.pid, state.status.unwrap()), (0, Status::CREATED));
    client.delete("c", "e").unwrap();
    client.finish("c");
}

pub fn delete_of_a_running_exec_is_refused(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    client.exec("c", "e", "sleep 1000", &Io::none()).unwrap();
    client.start("c", "e").unwrap();
    assert_eq!(client.delete("c", "e").unwrap_err().text, "cannot delete a running process");
    client.finish("c");
}

/// Its id becomes part of a file name in the bundle.
pub fn exec_id_that_is_a_path_is_refused(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    assert_eq!(client.exec("c", "../../x", "true", &Io::none()).unwrap_err().code, 3);
    client.finish("c");
}

pub fn exec_id_that_is_taken(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    client.exec("c", "e", "true", &Io::none()).unwrap();
    assert_eq!(client.exec("c", "e", "true", &Io::none()).unwrap_err().code, 6);
    client.finish("c");
}

/// An exec's Delete is no TaskDelete event (a defect of another Rust shim).
pub fn delete_of_an_exec_has_no_event(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    assert_eq!(client.run_exec("c", "e", "exit 1"), 1);
    client.delete("c", "e").unwrap();
    client.finish("c");
    daemon.events().wait("/tasks/delete", "c");
    assert_eq!(daemon.events().topics("e"), ["exec-added", "exec-started", "exit"]);
}

/// #8981 for execs: a Delete that is tried again has the same answer.
pub fn second_delete_of_an_exec(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    assert_eq!(client.run_exec("c", "e", "exit 9"), 9);
    let first = client.delete("c", "e").unwrap();
    assert_eq!(client.delete("c", "e").unwrap(), first);
    client.finish("c");
}

/// Kubelet's time-out of a probe whose child is in an uninterruptible mood: Kill, Wait, Delete.
pub fn probe_that_times_out(daemon: &Daemon) {
    let io = daemon.io("e", false);
    let (stdout, _stderr) = (io.read(1), io.read(2));
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    client.exec("c", "e", "trap '' TERM; echo begun; sleep 1000 & sleep 1000", &io).unwrap();
    client.start("c", "e").unwrap();
    client.kill("c", "e", 9).unwrap();
    assert_eq!(client.wait("c", "e"), 137);
    let begun = Instant::now();
    client.delete("c", "e").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(9), "CRI gives up after 10 s");
    stdout.join().unwrap();
    client.finish("c");
}

/// #9103: many short execs at once; nobody gets another's exit code.
pub fn storm_of_short_execs(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    for round in 0..4 {
        let execs: Vec<String> = (0..25).map(|n| format!("e{round}-{n}")).collect();
        let mut calls = Vec::new();
        for (n, exec) in execs.iter().enumerate() {
            client.exec("c", exec, &format!("exit {}", n + 1), &Io::none()).unwrap();
            let start = pb::StartRequest { id: "c".into(), exec_id: exec.clone(), ..Default::default() };
            calls.push((client.send(V2, "Start", &start), client.send_wait("c", exec)));
        }
        for (n, (start, wait)) in calls.into_iter().enumerate() {
            client.receive::<pb::StartResponse>(start).unwrap();
            assert_eq!(client.receive::<pb::WaitResponse>(wait).unwrap().exit_status, n as u32 + 1);
        }
        for exec in &execs {
            client.delete("c", exec).unwrap();
        }
    }
    client.finish("c");
}

pub fn exec_with_a_terminal(daemon: &Daemon) {
    let io = daemon.io("e", true);
    let stdout = io.read(1);
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    client.exec("c", "e", "stty size; exit 4", &io).unwrap();
    client.resize("c", "e", 99, 44).unwrap();
    client.start("c", "e").unwrap();
    assert_eq!(client.wait("c", "e"), 4);
    client.delete("c", "e").unwrap();
    assert_eq!(String::from_utf8(stdout.join().unwrap()).unwrap(), "44 99\r\n");
    client.finish("c");
}
