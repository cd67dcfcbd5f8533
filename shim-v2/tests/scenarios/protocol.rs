//! Frames, services, connections.

use crate::prelude::*;

pub fn unknown_calls_and_malformed_frames(daemon: &Daemon) {
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

/// A task that one generation of containerd made and the next one asks for.
pub fn made_by_v2_and_asked_by_v3(daemon: &Daemon) {
    let mut client = daemon.created("c", "exit 6", &Io::none());
    let state = pb::StateRequest { id: "c".into(), ..Default::default() };
    for service in [V3, V2] {
        let call = client.send(service, "State", &state);
        assert_eq!(client.receive::<pb::StateResponse>(call).unwrap().status.unwrap(), Status::CREATED);
    }
    let call = client.send(V3, "Start", &pb::StartRequest { id: "c".into(), ..Default::default() });
    client.receive::<pb::StartResponse>(call).unwrap();
    let call = client.send(V3, "Wait", &pb::WaitRequest { id: "c".into(), ..Default::default() });
    assert_eq!(client.receive::<pb::WaitResponse>(call).unwrap().exit_status, 6);
    let call = client.send(V3, "Delete", &pb::DeleteRequest { id: "c".into(), ..Default::default() });
    assert_eq!(client.receive::<pb::DeleteResponse>(call).unwrap().exit_status, 6);
}

/// loadShimTask falls back from v3 to v2 on this code only.
pub fn unknown_service_and_method_are_unimplemented(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    for (service, method) in [
        (V2, "Frobnicate"),
        ("containerd.task.v9.Task", "State"),
        ("containerd.runtime.sandbox.v1.Sandbox", "Platform"),
    ] {
        let id = client.send(service, method, &pb::Empty::new());
        assert_eq!(client.receive::<pb::Empty>(id).unwrap_err().code, 12, "{service}/{method}");
    }
}

fn frame(id: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes().to_vec();
    out.extend(id.to_be_bytes());
    out.extend([kind, 0]);
    out.extend(payload);
    out
}

fn code_of_the_answer(client: &mut Client) -> i32 {
    let (_, payload) = read_frame(&mut client.stream).expect("an answer");
    ttrpc::proto::Response::parse_from_bytes(&payload).unwrap().status().code.value()
}

/// More than 4 MiB: an error, and the connection goes on.
pub fn a_frame_above_the_limit(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let address = daemon.start_shim("c");
    let mut client = Client::connect(&address);
    let (mut stream, bytes) = (client.stream.try_clone().unwrap(), frame(1, 1, &vec![0; (4 << 20) + 1]));
    let writer = std::thread::spawn(move || stream.write_all(&bytes).is_ok());
    assert_eq!(code_of_the_answer(&mut client), 8);
    writer.join().unwrap();
    let request =
        ttrpc::proto::Request { service: served(V2).into(), method: "Connect".into(), ..Default::default() };
    client.stream.write_all(&frame(3, 1, &request.write_to_bytes().unwrap())).unwrap();
    assert_eq!(code_of_the_answer(&mut client), 0);
}

pub fn stream_ids_are_odd_and_rise(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let request =
        ttrpc::proto::Request { service: served(V2).into(), method: "Connect".into(), ..Default::default() };
    let bytes = request.write_to_bytes().unwrap();
    for (id, code) in [(2, 3), (5, 0), (5, 3), (7, 0)] {
        client.stream.write_all(&frame(id, 1, &bytes)).unwrap();
        assert_eq!(code_of_the_answer(&mut client), code, "stream {id}");
    }
}

pub fn a_payload_that_is_no_message(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let address = daemon.start_shim("c");
    let mut client = Client::connect(&address);
    client.stream.write_all(&frame(1, 1, &[0xff; 40])).unwrap();
    let mut other = Client::connect(&address);
    assert!(other.shim_pid() > 0, "whatever becomes of that connection, the shim lives");
}

/// A peer that speaks something else, or breaks off in the middle.
pub fn bytes_of_another_protocol(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let address = daemon.start_shim("c");
    for bytes in
        [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 64], &[0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 1, 2]]
    {
        let mut bad = Client::connect(&address);
        bad.stream.write_all(bytes).unwrap();
        bad.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        bad.stream.read_to_end(&mut rest).unwrap();
    }
    assert!(Client::connect(&address).shim_pid() > 0);
}

/// Connections come and go, and nothing of them stays.
pub fn a_hundred_connections(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let address = daemon.start_shim("c");
    let mut client = Client::connect(&address);
    let shim = client.shim_pid();
    let before = open_files(shim);
    let mut all: Vec<Client> = (0..100).map(|_| Client::connect(&address)).collect();
    for other in &mut all {
        other.shim_pid();
    }
    drop(all);
    until("the connections' end", || (open_files(shim) <= before).then_some(()));
}

/// Many calls in one write, some that wait: each has its answer.
pub fn calls_that_overtake_each_other(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    let waits: Vec<u32> = (0..50).map(|_| client.send_wait("c", "")).collect();
    let connects: Vec<u32> = (0..50)
        .map(|_| client.send(V2, "Connect", &pb::ConnectRequest { id: "c".into(), ..Default::default() }))
        .collect();
    for call in connects {
        assert!(client.receive::<pb::ConnectResponse>(call).unwrap().task_pid > 0);
    }
    client.kill("c", "", 9).unwrap();
    for call in waits {
        assert_eq!(client.receive::<pb::WaitResponse>(call).unwrap().exit_status, 137);
    }
    client.delete("c", "").unwrap();
}

/// A client that reads no answers is no other client's business.
pub fn a_client_that_reads_nothing(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    let mut deaf = Client::connect(&daemon.address());
    deaf.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let request = ttrpc::proto::Request {
        service: served(V2).into(),
        method: "State".into(),
        payload: pb::StateRequest { id: "c".into(), ..Default::default() }.write_to_bytes().unwrap(),
        ..Default::default()
    };
    let bytes = request.write_to_bytes().unwrap();
    for n in 0..30_000_u32 {
        if deaf.stream.write_all(&frame(n * 2 + 1, 1, &bytes)).is_err() {
            break;
        }
    }
    let begun = Instant::now();
    assert_eq!(status(&mut client, "c", ""), Status::RUNNING);
    assert!(begun.elapsed() < Duration::from_secs(10));
    client.finish("c");
}

/// Invariant 4, #13483: State, Connect, Pids and Wait while a Create hangs.
pub fn looking_is_quick_while_others_hang(daemon: &Daemon) {
    let gate = daemon.dir.path().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let hook = daemon.dir.path().join("hook");
    install(&hook, &format!("#!/bin/sh\nread x < {}\n", gate.display()));
    for id in ["pod", "slow"] {
        daemon.make_bundle(id, "sleep 1000", |config| {
            config["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": "pod"});
            if id == "slow" {
                config["hooks"] = serde_json::json!({"createRuntime": [{"path": hook, "args": ["hook"]}]});
            }
        });
    }
    let address = daemon.start_shim("pod");
    let mut client = Client::connect(&address);
    daemon.create(&mut client, "pod", &Io::none()).unwrap();
    client.start("pod", "").unwrap();
    let create = client.send(V2, "Create", &daemon.create_request("slow", &Io::none()));
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    for _ in 0..100 {
        client.state("pod", "").unwrap();
        client.pids("pod").unwrap();
        client.connect_task("slow");
        assert_eq!(client.state("slow", "").unwrap_err().code, 5);
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?} for 400 calls", begun.elapsed());
    assert_eq!(client.run_exec("pod", "e", "exit 3"), 3);
    fs::write(&gate, "go\n").unwrap();
    client.receive::<pb::CreateTaskResponse>(create).unwrap();
    client.delete("slow", "").unwrap();
    client.finish("pod");
}
