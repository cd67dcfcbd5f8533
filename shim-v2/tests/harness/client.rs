//! A raw ttrpc client of the task service.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use containerd_shim_protos::api as pb;
use containerd_shim_protos::shim::oci::CheckpointOptions;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use ttrpc::proto::{Request, Response};

use super::{Io, V2, patience, served};

pub fn read_frame(stream: &mut UnixStream) -> Option<(u32, Vec<u8>)> {
    let mut header = [0_u8; 10];
    stream.read_exact(&mut header).ok()?;
    let length = u32::from_be_bytes(header[..4].try_into().unwrap());
    let id = u32::from_be_bytes(header[4..8].try_into().unwrap());
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).ok()?;
    Some((id, payload))
}

pub fn write_frame(stream: &mut UnixStream, id: u32, kind: u8, payload: &[u8]) {
    let mut out = (payload.len() as u32).to_be_bytes().to_vec();
    out.extend(id.to_be_bytes());
    out.extend([kind, 0]);
    out.extend(payload);
    // A daemon that dies in the middle is part of some tests.
    let _ = stream.write_all(&out);
}

/// A refused call.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: i32,
    pub text: String,
}

/// A client connection.
pub struct Client {
    pub stream: UnixStream,
    next: u32,
    early: HashMap<u32, Vec<u8>>,
}

impl Client {
    pub fn connect(address: &str) -> Client {
        let stream = UnixStream::connect(address.strip_prefix("unix://").unwrap()).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        Client { stream, next: 1, early: HashMap::new() }
    }

    /// Sends a call and returns its id.
    pub fn send(&mut self, service: &str, method: &str, message: &impl Message) -> u32 {
        let request = Request {
            service: served(service).into(),
            method: method.into(),
            payload: message.write_to_bytes().unwrap(),
            ..Default::default()
        };
        let id = self.next;
        self.next += 2;
        write_frame(&mut self.stream, id, 1, &request.write_to_bytes().unwrap());
        id
    }

    /// Waits for the answer to a call; answers to others are kept.
    pub fn receive<M: Message>(&mut self, id: u32) -> Result<M, Refusal> {
        let begun = Instant::now();
        while !self.early.contains_key(&id) {
            let Some((other, payload)) = read_frame(&mut self.stream) else {
                panic!("no answer after {:?}: the shim closed the connection, or is silent", begun.elapsed());
            };
            self.early.insert(other, payload);
        }
        let reply = Response::parse_from_bytes(&self.early.remove(&id).unwrap()).unwrap();
        match reply.status().code.value() {
            0 => Ok(M::parse_from_bytes(&reply.payload).unwrap()),
            code => Err(Refusal { code, text: reply.status().message.clone() }),
        }
    }

    /// As [`Client::receive`] from a shim that may be gone; a refusal is none either.
    pub fn try_receive<M: Message>(&mut self, id: u32) -> Option<M> {
        while !self.early.contains_key(&id) {
            let (other, payload) = read_frame(&mut self.stream)?;
            self.early.insert(other, payload);
        }
        self.receive(id).ok()
    }

    /// Whether the answer to a call is already here; does not wait.
    pub fn has_answer(&mut self, id: u32) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let mut byte = [0; 1];
        let ready = nix::sys::socket::recv(
            std::os::fd::AsRawFd::as_raw_fd(&self.stream),
            &mut byte,
            nix::sys::socket::MsgFlags::MSG_PEEK,
        )
        .is_ok();
        self.stream.set_nonblocking(false).unwrap();
        if ready {
            let (other, payload) = read_frame(&mut self.stream).unwrap();
            self.early.insert(other, payload);
        }
        self.early.contains_key(&id)
    }

    pub fn call<M: Message>(&mut self, method: &str, message: &impl Message) -> Result<M, Refusal> {
        let id = self.send(V2, method, message);
        self.receive(id)
    }

    pub fn start(&mut self, id: &str, exec: &str) -> Result<u32, Refusal> {
        let request = pb::StartRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.call::<pb::StartResponse>("Start", &request).map(|r| r.pid)
    }

    pub fn state(&mut self, id: &str, exec: &str) -> Result<pb::StateResponse, Refusal> {
        self.call("State", &pb::StateRequest { id: id.into(), exec_id: exec.into(), ..Default::default() })
    }

    pub fn send_wait(&mut self, id: &str, exec: &str) -> u32 {
        let request = pb::WaitRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.send(V2, "Wait", &request)
    }

    pub fn wait(&mut self, id: &str, exec: &str) -> u32 {
        let call = self.send_wait(id, exec);
        self.receive::<pb::WaitResponse>(call).unwrap().exit_status
    }

    pub fn kill(&mut self, id: &str, exec: &str, signal: u32) -> Result<(), Refusal> {
        let request = pb::KillRequest { id: id.into(), exec_id: exec.into(), signal, ..Default::default() };
        self.call::<pb::Empty>("Kill", &request).map(drop)
    }

    pub fn delete(&mut self, id: &str, exec: &str) -> Result<pb::DeleteResponse, Refusal> {
        self.call("Delete", &pb::DeleteRequest { id: id.into(), exec_id: exec.into(), ..Default::default() })
    }

    pub fn pids(&mut self, id: &str) -> Result<Vec<pb::ProcessInfo>, Refusal> {
        let request = pb::PidsRequest { id: id.into(), ..Default::default() };
        self.call::<pb::PidsResponse>("Pids", &request).map(|r| r.processes)
    }

    pub fn connect_task(&mut self, id: &str) -> pb::ConnectResponse {
        self.call("Connect", &pb::ConnectRequest { id: id.into(), ..Default::default() }).unwrap()
    }

    /// Go's shim may be gone before it has answered, which containerd takes for success. davit's answers.
    pub fn shutdown(&mut self) {
        let id = self.send(V2, "Shutdown", &pb::ShutdownRequest::new());
        match self.try_receive::<pb::Empty>(id) {
            Some(_) => {}
            None => assert!(super::is_go(), "the answer to Shutdown"),
        }
    }

    /// A call on a container as a whole.
    pub fn pause(&mut self, id: &str) -> Result<(), Refusal> {
        let request = pb::PauseRequest { id: id.into(), ..Default::default() };
        self.call::<pb::Empty>("Pause", &request).map(drop)
    }

    pub fn resume(&mut self, id: &str) -> Result<(), Refusal> {
        let request = pb::ResumeRequest { id: id.into(), ..Default::default() };
        self.call::<pb::Empty>("Resume", &request).map(drop)
    }

    pub fn checkpoint(&mut self, id: &str, path: &Path, options: CheckpointOptions) -> Result<(), Refusal> {
        let any = Any {
            type_url: "containerd.runc.v1.CheckpointOptions".into(),
            value: options.write_to_bytes().unwrap(),
            ..Default::default()
        };
        let request = pb::CheckpointTaskRequest {
            id: id.into(),
            path: path.display().to_string(),
            options: MessageField::some(any),
            ..Default::default()
        };
        self.call::<pb::Empty>("Checkpoint", &request).map(drop)
    }

    pub fn resize(&mut self, id: &str, exec: &str, width: u32, height: u32) -> Result<(), Refusal> {
        let target = (id.into(), exec.into());
        let request =
            pb::ResizePtyRequest { id: target.0, exec_id: target.1, width, height, ..Default::default() };
        self.call::<pb::Empty>("ResizePty", &request).map(drop)
    }

    pub fn close_stdin(&mut self, id: &str, exec: &str) -> Result<(), Refusal> {
        let request =
            pb::CloseIORequest { id: id.into(), exec_id: exec.into(), stdin: true, ..Default::default() };
        self.call::<pb::Empty>("CloseIO", &request).map(drop)
    }

    pub fn stats(&mut self, id: &str) -> Result<Any, Refusal> {
        let request = pb::StatsRequest { id: id.into(), ..Default::default() };
        self.call::<pb::StatsResponse>("Stats", &request).map(|r| r.stats.unwrap())
    }

    /// Pid of the shim itself.
    pub fn shim_pid(&mut self) -> u32 {
        self.connect_task("").shim_pid
    }

    /// An exec from its record to its end; the answer is its exit code.
    pub fn run_exec(&mut self, id: &str, exec: &str, script: &str) -> u32 {
        self.exec(id, exec, script, &Io::none()).unwrap();
        self.start(id, exec).unwrap();
        self.wait(id, exec)
    }

    /// The end of a container that runs or is made.
    pub fn finish(&mut self, id: &str) -> pb::DeleteResponse {
        // It may have ended.
        let _ = self.kill(id, "", 9);
        self.wait(id, "");
        self.delete(id, "").unwrap()
    }

    /// Records an exec of `sh -c script`.
    pub fn exec(&mut self, id: &str, exec: &str, script: &str, io: &Io) -> Result<(), Refusal> {
        let args = serde_json::json!(["/bin/sh", "-c", script]);
        self.exec_args(id, exec, &args, io)
    }

    /// Records an exec of these words.
    pub fn exec_args(
        &mut self,
        id: &str,
        exec: &str,
        args: &serde_json::Value,
        io: &Io,
    ) -> Result<(), Refusal> {
        self.call::<pb::Empty>("Exec", &exec_args_request(id, exec, args, io)).map(drop)
    }
}

/// The request for an exec of `sh -c script`.
pub fn exec_request(id: &str, exec: &str, script: &str, io: &Io) -> pb::ExecProcessRequest {
    exec_args_request(id, exec, &serde_json::json!(["/bin/sh", "-c", script]), io)
}

fn exec_args_request(id: &str, exec: &str, args: &serde_json::Value, io: &Io) -> pb::ExecProcessRequest {
    let spec = serde_json::json!({
        "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
    });
    let any = Any { type_url: "spec".into(), value: spec.to_string().into_bytes(), ..Default::default() };
    pb::ExecProcessRequest {
        id: id.into(),
        exec_id: exec.into(),
        terminal: io.terminal,
        stdin: io.name(0),
        stdout: io.name(1),
        stderr: io.name(2),
        spec: MessageField::some(any),
        ..Default::default()
    }
}
