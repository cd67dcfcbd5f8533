//! Task events as containerd's Forward call carries them.

use containerd_shim_protos::api as pb;
use containerd_shim_protos::events::task as tp;
use containerd_shim_protos::shim::event::Envelope;
use protobuf::{Message, MessageField};
use ttrpc::proto::{Request, Response};

use super::task::{pack, pb_mount, stamp};
use crate::api::{ApiError, Code, ExitInfo, Mount, Stamp, Stdio};

/// Something that happened to a task.
#[derive(Clone, Debug)]
pub enum Event {
    /// The container was made.
    Create {
        /// Container id.
        id: String,
        /// Its bundle.
        bundle: String,
        /// Its mounts.
        rootfs: Vec<Mount>,
        /// Stdio of init.
        stdio: Stdio,
        /// Pid of init.
        pid: u32,
    },
    /// Init runs the user's program.
    Start {
        /// Container id.
        id: String,
        /// Pid of init.
        pid: u32,
    },
    /// The container is gone.
    Delete {
        /// Container id.
        id: String,
        /// How init ended.
        exit: ExitInfo,
    },
    /// A process ended; `process` is the exec id, or the container id for init.
    Exit {
        /// Container id.
        id: String,
        /// Which process.
        process: String,
        /// How it ended.
        exit: ExitInfo,
    },
    /// The kernel killed a process for want of memory.
    Oom {
        /// Container id.
        id: String,
    },
    /// An exec was recorded.
    ExecAdded {
        /// Container id.
        id: String,
        /// Exec id.
        exec: String,
    },
    /// An exec runs.
    ExecStarted {
        /// Container id.
        id: String,
        /// Exec id.
        exec: String,
        /// Its pid.
        pid: u32,
    },
    /// Frozen.
    Paused {
        /// Container id.
        id: String,
    },
    /// Thawed.
    Resumed {
        /// Container id.
        id: String,
    },
}

impl Event {
    /// Topic, type name and encoded message.
    fn encode(&self) -> (&'static str, &'static str, Vec<u8>) {
        fn of<M: Message>(
            topic: &'static str,
            name: &'static str,
            m: &M,
        ) -> (&'static str, &'static str, Vec<u8>) {
            (topic, name, m.write_to_bytes().unwrap_or_default())
        }
        match self.clone() {
            Event::Create { id, bundle, rootfs, stdio, pid } => {
                let io = tp::TaskIO {
                    stdin: stdio.stdin,
                    stdout: stdio.stdout,
                    stderr: stdio.stderr,
                    terminal: stdio.terminal,
                    ..Default::default()
                };
                let message = tp::TaskCreate {
                    container_id: id,
                    bundle,
                    rootfs: rootfs.iter().map(pb_mount).collect(),
                    io: MessageField::some(io),
                    pid,
                    ..Default::default()
                };
                of("/tasks/create", "containerd.events.TaskCreate", &message)
            }
            Event::Start { id, pid } => of(
                "/tasks/start",
                "containerd.events.TaskStart",
                &tp::TaskStart { container_id: id, pid, ..Default::default() },
            ),
            Event::Delete { id, exit } => {
                let message = tp::TaskDelete {
                    container_id: id,
                    pid: exit.pid,
                    exit_status: exit.status,
                    exited_at: stamp(exit.at),
                    ..Default::default()
                };
                of("/tasks/delete", "containerd.events.TaskDelete", &message)
            }
            Event::Exit { id, process, exit } => {
                let message = tp::TaskExit {
                    container_id: id,
                    id: process,
                    pid: exit.pid,
                    exit_status: exit.status,
                    exited_at: stamp(exit.at),
                    ..Default::default()
                };
                of("/tasks/exit", "containerd.events.TaskExit", &message)
            }
            Event::Oom { id } => of(
                "/tasks/oom",
                "containerd.events.TaskOOM",
                &tp::TaskOOM { container_id: id, ..Default::default() },
            ),
            Event::ExecAdded { id, exec } => {
                let message = tp::TaskExecAdded { container_id: id, exec_id: exec, ..Default::default() };
                of("/tasks/exec-added", "containerd.events.TaskExecAdded", &message)
            }
            Event::ExecStarted { id, exec, pid } => {
                let message =
                    tp::TaskExecStarted { container_id: id, exec_id: exec, pid, ..Default::default() };
                of("/tasks/exec-started", "containerd.events.TaskExecStarted", &message)
            }
            Event::Paused { id } => of(
                "/tasks/paused",
                "containerd.events.TaskPaused",
                &tp::TaskPaused { container_id: id, ..Default::default() },
            ),
            Event::Resumed { id } => of(
                "/tasks/resumed",
                "containerd.events.TaskResumed",
                &tp::TaskResumed { container_id: id, ..Default::default() },
            ),
        }
    }

    /// Whether losing it would leave containerd with a wrong picture for ever.
    #[must_use]
    pub fn must_arrive(&self) -> bool {
        matches!(self, Event::Exit { .. } | Event::Delete { .. } | Event::Create { .. } | Event::Start { .. })
    }
}

/// The payload of a Forward request.
#[must_use]
pub fn forward(event: &Event, at: Stamp, namespace: &str) -> Vec<u8> {
    let (topic, name, value) = event.encode();
    let envelope = Envelope {
        timestamp: stamp(at),
        namespace: namespace.to_owned(),
        topic: topic.to_owned(),
        event: pack(name, value),
        ..Default::default()
    };
    let body = pb::ForwardRequest { envelope: MessageField::some(envelope), ..Default::default() };
    Request {
        service: "containerd.services.events.ttrpc.v1.Events".to_owned(),
        method: "Forward".to_owned(),
        payload: body.write_to_bytes().unwrap_or_default(),
        ..Default::default()
    }
    .write_to_bytes()
    .unwrap_or_default()
}

/// What containerd answered to Forward.
///
/// # Errors
/// Its status, with [`Code::Unknown`] for codes that have no meaning here.
pub fn forwarded(payload: &[u8]) -> Result<(), ApiError> {
    let reply = Response::parse_from_bytes(payload)
        .map_err(|e| ApiError::new(Code::InvalidArgument, format!("malformed reply: {e}")))?;
    let code = match reply.status().code.value() {
        0 => return Ok(()),
        3 => Code::InvalidArgument,
        12 => Code::Unimplemented,
        _ => Code::Unknown,
    };
    Err(ApiError::new(code, reply.status().message.clone()))
}
