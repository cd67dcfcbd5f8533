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
        /// Images that Start restores it from; empty for none.
        checkpoint: String,
        /// Pid of init, 0 of one that is to be restored.
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

/// Topic, type name and encoded message of an event.
type Encoded = (&'static str, &'static str, Vec<u8>);

fn encoded<M: Message>(topic: &'static str, name: &'static str, message: &M) -> Encoded {
    (topic, name, message.write_to_bytes().unwrap_or_default())
}

fn create(id: &str, bundle: &str, rootfs: &[Mount], stdio: &Stdio, checkpoint: &str, pid: u32) -> Encoded {
    let io = tp::TaskIO {
        stdin: stdio.stdin.clone(),
        stdout: stdio.stdout.clone(),
        stderr: stdio.stderr.clone(),
        terminal: stdio.terminal,
        ..Default::default()
    };
    let message = tp::TaskCreate {
        container_id: id.to_owned(),
        bundle: bundle.to_owned(),
        rootfs: rootfs.iter().map(pb_mount).collect(),
        io: MessageField::some(io),
        checkpoint: checkpoint.to_owned(),
        pid,
        ..Default::default()
    };
    encoded("/tasks/create", "containerd.events.TaskCreate", &message)
}

fn delete(id: &str, exit: ExitInfo) -> Encoded {
    let message = tp::TaskDelete {
        container_id: id.to_owned(),
        pid: exit.pid,
        exit_status: exit.status,
        exited_at: stamp(exit.at),
        ..Default::default()
    };
    encoded("/tasks/delete", "containerd.events.TaskDelete", &message)
}

fn exit(id: &str, process: &str, exit: ExitInfo) -> Encoded {
    let message = tp::TaskExit {
        container_id: id.to_owned(),
        id: process.to_owned(),
        pid: exit.pid,
        exit_status: exit.status,
        exited_at: stamp(exit.at),
        ..Default::default()
    };
    encoded("/tasks/exit", "containerd.events.TaskExit", &message)
}

fn exec_started(id: &str, exec: &str, pid: u32) -> Encoded {
    let message = tp::TaskExecStarted {
        container_id: id.to_owned(),
        exec_id: exec.to_owned(),
        pid,
        ..Default::default()
    };
    encoded("/tasks/exec-started", "containerd.events.TaskExecStarted", &message)
}

impl Event {
    fn encode(&self) -> Encoded {
        let d = || Default::default();
        match self {
            Event::Create { id, bundle, rootfs, stdio, checkpoint, pid } => {
                create(id, bundle, rootfs, stdio, checkpoint, *pid)
            }
            Event::Start { id, pid } => {
                let message = tp::TaskStart { container_id: id.clone(), pid: *pid, special_fields: d() };
                encoded("/tasks/start", "containerd.events.TaskStart", &message)
            }
            Event::Delete { id, exit } => delete(id, *exit),
            Event::Exit { id, process, exit: end } => exit(id, process, *end),
            Event::Oom { id } => {
                let message = tp::TaskOOM { container_id: id.clone(), special_fields: d() };
                encoded("/tasks/oom", "containerd.events.TaskOOM", &message)
            }
            Event::ExecAdded { id, exec } => {
                let message = tp::TaskExecAdded {
                    container_id: id.clone(),
                    exec_id: exec.clone(),
                    special_fields: d(),
                };
                encoded("/tasks/exec-added", "containerd.events.TaskExecAdded", &message)
            }
            Event::ExecStarted { id, exec, pid } => exec_started(id, exec, *pid),
            Event::Paused { id } => {
                let message = tp::TaskPaused { container_id: id.clone(), special_fields: d() };
                encoded("/tasks/paused", "containerd.events.TaskPaused", &message)
            }
            Event::Resumed { id } => {
                let message = tp::TaskResumed { container_id: id.clone(), special_fields: d() };
                encoded("/tasks/resumed", "containerd.events.TaskResumed", &message)
            }
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
