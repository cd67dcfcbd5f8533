//! The shim itself: its replies, sockets, groups, workers and stdio kinds.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends at the first surprise")]

mod harness;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use containerd_shim_protos::api as pb;
use containerd_shim_protos::types::task::Status;
use harness::{Client, Daemon, Events, Io, Runtime, V2, V3, can_run, until};
use protobuf::Message;

#[test]
fn output_goes_to_a_file_or_a_logging_program() {
    if !can_run("output_goes_to_a_file_or_a_logging_program", Runtime::Davit) {
        return;
    }
    let daemon = Daemon::new(Runtime::Davit);
    daemon.make_bundle("c", "echo out; echo err >&2; exit 2", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut run = |stdout: &str| {
        let mut request = daemon.create_request("c", &Io::none());
        request.stdout = stdout.to_owned();
        client.call::<pb::CreateTaskResponse>("Create", &request)?;
        client.start("c", "").unwrap();
        assert_eq!(client.wait("c", ""), 2);
        client.delete("c", "").map(drop)
    };
    let file = daemon.dir.path().join("logs/c.log");
    run(&format!("file://{}", file.display())).unwrap();
    let mut lines: Vec<String> = fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);

    let (program, log) = (daemon.dir.path().join("logger"), daemon.dir.path().join("log"));
    let script = |ready: &str| {
        format!("#!/bin/sh\n{ready}\nexec 5>&-\n(echo $CONTAINER_ID $1 $2; cat <&3; cat <&4; echo end) >$2\n")
    };
    let install = |text: String| {
        fs::write(&program, text).unwrap();
        assert!(Command::new("chmod").arg("755").arg(&program).status().unwrap().success());
    };
    let uri = |scheme: &str| format!("{scheme}://{}?to={}", program.display(), log.display());
    let expected = format!("c to {}\nout\nerr\nend\n", log.display());
    for (scheme, ready) in [("binary", ""), ("binary-v2", "printf r >&5")] {
        let _ = fs::remove_file(&log);
        install(script(ready));
        run(&uri(scheme)).unwrap();
        until("the whole log", || (fs::read_to_string(&log).ok()? == expected).then_some(()));
    }
    install("#!/bin/sh\nexit 1\n".to_owned());
    let refusal = run(&uri("binary-v2")).unwrap_err();
    assert!(refusal.text.contains("ended before it was ready"), "{}", refusal.text);
    let refusal = run("kafka://topic").unwrap_err();
    assert!(refusal.text.contains("unknown STDIO scheme \"kafka\""), "{}", refusal.text);
}

#[test]
fn shim_joins_the_cgroup_of_its_option() {
    if !can_run("shim_joins_the_cgroup_of_its_option", Runtime::Davit) {
        return;
    }
    let daemon = Daemon::new(Runtime::Davit);
    daemon.make_bundle("c", "true", |_| ());
    let cgroup = format!("/{}/shim", daemon.namespace);
    let options =
        containerd_shim_protos::shim::oci::Options { shim_cgroup: cgroup.clone(), ..Default::default() };
    let any = protobuf::well_known_types::any::Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: options.write_to_bytes().unwrap(),
        ..Default::default()
    };
    let stdin = any.write_to_bytes().unwrap();
    let refused = daemon.shim("c", "start", &stdin, &[]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && text.contains(&format!("failed to load cgroup {cgroup}")), "{text}");
    assert_eq!(refused.stdout, b"");
    let base = Path::new("/sys/fs/cgroup");
    let memory = if base.join("memory").exists() { base.join("memory") } else { base.to_owned() };
    fs::create_dir_all(memory.join(&cgroup[1..])).unwrap();
    let output = daemon.shim("c", "start", &stdin, &[]);
    let address = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{address} {}", String::from_utf8_lossy(&output.stderr));
    let mut client = Client::connect(&address);
    let shim = client.connect_task("").shim_pid;
    let groups = fs::read_to_string(format!("/proc/{shim}/cgroup")).unwrap();
    assert_eq!(groups.lines().filter(|line| line.ends_with(&cgroup)).count(), 1, "{groups}");
    let score = |pid: u32| -> i32 {
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
    };
    assert_eq!(score(shim), (score(std::process::id()) + 1).min(1000));
    client.shutdown();
    daemon.assert_gone(shim, &address);
}

#[test]
fn a_killed_worker_leaves_nothing_behind() {
    if !can_run("a_killed_worker_leaves_nothing_behind", Runtime::Runc) {
        return;
    }
    let daemon = Daemon::new(Runtime::Runc);
    daemon.make_bundle("c", "exit 0", |_| ());
    let address = daemon.start_shim("c");
    let mut client = Client::connect(&address);
    let shim = client.connect_task("c").shim_pid;
    // A runtime that never comes to its end.
    let script = daemon.dir.path().join("stuck-runtime");
    fs::write(&script, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    assert!(Command::new("chmod").arg("755").arg(&script).status().unwrap().success());
    let mut request = daemon.create_request("c", &Io::none());
    request.options = protobuf::MessageField::some(daemon.options_with(&script.display().to_string()));
    let create = client.send(V2, "Create", &request);
    let children = |pid: u32| -> Vec<u32> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().map(|word| word.parse().unwrap()).collect()
    };
    let worker = until("the worker", || children(shim).first().copied());
    let runtime = until("the runtime", || children(worker).first().copied());
    let kill = |pid: u32| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
    };
    kill(worker);
    let refusal = client.receive::<pb::CreateTaskResponse>(create).unwrap_err();
    assert!(refusal.text.contains("the worker was killed by signal 9"), "{}", refusal.text);
    assert!(!daemon.is_mounted("c"));
    kill(runtime);
    until("the orphan's end", || children(shim).is_empty().then_some(()));
    client.shutdown();
    daemon.assert_gone(shim, &address);
}

#[test]
fn unknown_calls_and_malformed_frames() {
    if !can_run("unknown_calls_and_malformed_frames", Runtime::Davit) {
        return;
    }
    let daemon = Daemon::new(Runtime::Davit);
    daemon.make_bundle("c", "true", |_| ());
    let address = daemon.start_shim("c");
    let mut client = Client::connect(&address);
    let empty = pb::Empty::new();
    for (service, method) in [
        (V2, "Frobnicate"),
        (V3, "Frobnicate"),
        ("containerd.task.v9.Task", "State"),
        ("containerd.runtime.sandbox.v1.Sandbox", "Platform"),
    ] {
        let id = client.send(service, method, &empty);
        assert_eq!(client.receive::<pb::Empty>(id).unwrap_err().code, 12, "{service}/{method}");
    }
    for service in [V2, V3] {
        let id = client.send(service, "Connect", &pb::ConnectRequest::new());
        assert!(client.receive::<pb::ConnectResponse>(id).unwrap().shim_pid > 0);
    }
    let mut bad = Client::connect(&address);
    bad.stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut bad.stream, &mut rest).unwrap();
    assert_eq!(rest, b"", "the connection is closed without an answer");
    assert_eq!(client.state("c", "").unwrap_err().text, "container not created");
    let shim = client.connect_task("").shim_pid;
    client.shutdown();
    daemon.assert_gone(shim, &address);
}

#[test]
fn reply_follows_the_daemon_s_generation() {
    if !can_run("reply_follows_the_daemon_s_generation", Runtime::Davit) {
        return;
    }
    let daemon = Daemon::new(Runtime::Davit);
    daemon.make_bundle("c", "true", |_| ());
    let any = daemon.options_with("").write_to_bytes().unwrap();
    let plain = daemon.shim("c", "start", &any, &[]);
    let address = String::from_utf8(plain.stdout).unwrap();
    assert!(address.starts_with("unix:///run/containerd/s/"), "{address}");
    assert_eq!(fs::read_to_string(daemon.bundle("c").join("address")).unwrap(), address);
    // The shim is there: the next start finds it.
    let json = daemon.shim("c", "start", &any, &[("MAX_SHIM_VERSION", "2")]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value, serde_json::json!({"version": 2, "address": address, "protocol": "ttrpc"}));
    let mut client = Client::connect(&address);
    let shim = client.connect_task("").shim_pid;
    assert_eq!(fs::read_dir(format!("/proc/{shim}/task")).unwrap().count(), 1, "one thread");
    let null = Path::new("/dev/null");
    assert!((0..3).all(|fd| fs::read_link(format!("/proc/{shim}/fd/{fd}")).unwrap() == null));
    client.shutdown();
    daemon.assert_gone(shim, &address);
    let proto = daemon.start_shim("c");
    assert!(proto.contains(&daemon.dir.path().display().to_string()), "socket_dir is honoured: {proto}");
}

#[test]
fn containers_of_a_group_share_a_shim() {
    if !can_run("containers_of_a_group_share_a_shim", Runtime::Davit) {
        return;
    }
    let daemon = Daemon::new(Runtime::Davit);
    for id in ["pod", "app"] {
        daemon.make_bundle(id, "sleep 1000", |config| {
            config["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": "pod"});
        });
    }
    let address = daemon.start_shim("pod");
    assert_eq!(daemon.start_shim("app"), address);
    let (mut pod, mut app) = (Client::connect(&address), Client::connect(&address));
    daemon.create(&mut pod, "pod", &Io::none()).unwrap();
    daemon.create(&mut app, "app", &Io::none()).unwrap();
    pod.start("pod", "").unwrap();
    app.start("app", "").unwrap();
    app.kill("app", "", 9).unwrap();
    assert_eq!(app.wait("app", ""), 137);
    app.delete("app", "").unwrap();
    app.shutdown();
    assert_eq!(pod.state("pod", "").unwrap().status.unwrap(), Status::RUNNING, "the shim stays for the pod");
    // containerd runs `delete` for the app when its connection closes: the living socket must stay.
    daemon.delete_command("app");
    pod.kill("pod", "", 9).unwrap();
    pod.wait("pod", "");
    pod.delete("pod", "").unwrap();
    let shim = pod.connect_task("").shim_pid;
    pod.shutdown();
    daemon.assert_gone(shim, &address);
}

#[test]
fn events_wait_for_an_absent_daemon() {
    if !can_run("events_wait_for_an_absent_daemon", Runtime::Davit) {
        return;
    }
    let daemon = Daemon::new(Runtime::Davit);
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

#[test]
fn state_answers_while_create_is_slow() {
    if !can_run("state_answers_while_create_is_slow", Runtime::Runc) {
        return;
    }
    let daemon = Daemon::new(Runtime::Runc);
    daemon.make_bundle("c", "exit 0", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    // A runtime that waits for our word.
    let gate = daemon.dir.path().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = daemon.dir.path().join("slow-runtime");
    fs::write(&script, format!("#!/bin/sh\nread x < {}\nexec runc \"$@\"\n", gate.display())).unwrap();
    assert!(Command::new("chmod").arg("755").arg(&script).status().unwrap().success());
    let mut request = daemon.create_request("c", &Io::none());
    request.options = protobuf::MessageField::some(daemon.options_with(&script.display().to_string()));
    let create = client.send(V2, "Create", &request);
    assert_eq!(client.state("c", "").unwrap_err().code, 5);
    assert_eq!(client.connect_task("c").task_pid, 0);
    assert!(!client.has_answer(create), "State and Connect did not wait for Create");
    fs::write(&gate, "go\n").unwrap();
    client.receive::<pb::CreateTaskResponse>(create).unwrap();
    assert_eq!(client.state("c", "").unwrap().status.unwrap(), Status::CREATED);
    // The gate is for every call of the runtime.
    let delete = client.send(V2, "Delete", &pb::DeleteRequest { id: "c".into(), ..Default::default() });
    fs::write(&gate, "go\n").unwrap();
    client.receive::<pb::DeleteResponse>(delete).unwrap();
}

#[test]
fn missing_runtime_is_named() {
    if !can_run("missing_runtime_is_named", Runtime::Davit) {
        return;
    }
    let daemon = Daemon::new(Runtime::Davit);
    daemon.make_bundle("c", "exit 0", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut request = daemon.create_request("c", &Io::none());
    request.options = protobuf::MessageField::some(daemon.options_with("no-runc"));
    let refusal = client.call::<pb::CreateTaskResponse>("Create", &request).unwrap_err();
    assert!(refusal.text.contains("\"no-runc\": executable file not found in $PATH"), "{}", refusal.text);
}
