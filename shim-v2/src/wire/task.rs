//! Messages of the task service to and from the types of `api`.

use containerd_shim_protos::api as pb;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::types::task::Status as PbStatus;
use protobuf::well_known_types::any::Any as PbAny;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{EnumOrUnknown, Message, MessageField};
use ttrpc::proto::{Code as TtrpcCode, Request as Envelope, Response as Reply, Status as RpcStatus};

use crate::api::{
    Any, ApiError, Checkpoint, Code, Create, Exec, ExitInfo, Mount, Request, Response, Stamp, StateInfo,
    Status, Stdio, Target,
};

/// Both names lead to the same messages: the .proto files differ in the package line only.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

fn parse<M: Message>(bytes: &[u8]) -> Result<M, ApiError> {
    M::parse_from_bytes(bytes)
        .map_err(|e| ApiError::new(Code::InvalidArgument, format!("malformed {} message: {e}", M::NAME)))
}

/// Decodes a request frame's payload into a call.
///
/// # Errors
/// InvalidArgument for bytes that are no message; Unimplemented for an unknown service or method, as
/// containerd's v3 to v2 fallback needs it (Go ttrpc `services.handle`).
pub fn decode(payload: &[u8]) -> Result<Request, ApiError> {
    let envelope: Envelope = parse(payload)?;
    if !SERVICES.contains(&envelope.service.as_str()) {
        return Err(ApiError::new(Code::Unimplemented, format!("service {}", envelope.service)));
    }
    let body = envelope.payload.as_slice();
    Ok(match envelope.method.as_str() {
        "State" => parse::<pb::StateRequest>(body).map(|m| Request::State(target(m.id, m.exec_id)))?,
        "Create" => Request::Create(Box::new(create(parse(body)?))),
        "Start" => parse::<pb::StartRequest>(body).map(|m| Request::Start(target(m.id, m.exec_id)))?,
        "Delete" => parse::<pb::DeleteRequest>(body).map(|m| Request::Delete(target(m.id, m.exec_id)))?,
        "Pids" => Request::Pids(parse::<pb::PidsRequest>(body)?.id),
        "Pause" => Request::Pause(parse::<pb::PauseRequest>(body)?.id),
        "Resume" => Request::Resume(parse::<pb::ResumeRequest>(body)?.id),
        "Checkpoint" => Request::Checkpoint(Box::new(checkpoint(parse(body)?)?)),
        "Kill" => parse::<pb::KillRequest>(body).map(|m| Request::Kill {
            target: target(m.id, m.exec_id),
            signal: m.signal,
            all: m.all,
        })?,
        "Exec" => Request::Exec(Box::new(exec(parse(body)?))),
        "ResizePty" => parse::<pb::ResizePtyRequest>(body).map(|m| Request::ResizePty {
            target: target(m.id, m.exec_id),
            width: m.width,
            height: m.height,
        })?,
        "CloseIO" => parse::<pb::CloseIORequest>(body)
            .map(|m| Request::CloseIo { target: target(m.id, m.exec_id), stdin: m.stdin })?,
        "Update" => parse::<pb::UpdateTaskRequest>(body).map(|m| Request::Update {
            id: m.id,
            resources: m.resources.into_option().unwrap_or_default().value,
        })?,
        "Wait" => parse::<pb::WaitRequest>(body).map(|m| Request::Wait(target(m.id, m.exec_id)))?,
        "Stats" => Request::Stats(parse::<pb::StatsRequest>(body)?.id),
        "Connect" => Request::Connect(parse::<pb::ConnectRequest>(body)?.id),
        "Shutdown" => parse::<pb::ShutdownRequest>(body).map(|_| Request::Shutdown)?,
        other => return Err(ApiError::new(Code::Unimplemented, format!("method {other}"))),
    })
}

fn target(id: String, exec: String) -> Target {
    Target { id, exec }
}

fn create(m: pb::CreateTaskRequest) -> Create {
    Create {
        id: m.id,
        bundle: m.bundle,
        rootfs: m.rootfs.into_iter().map(mount).collect(),
        stdio: Stdio { stdin: m.stdin, stdout: m.stdout, stderr: m.stderr, terminal: m.terminal },
        checkpoint: m.checkpoint,
        options: m.options.into_option().map(any),
    }
}

fn checkpoint(m: pb::CheckpointTaskRequest) -> Result<Checkpoint, ApiError> {
    let options = m.options.into_option().map(any).unwrap_or_default();
    Ok(Checkpoint { id: m.id, path: m.path, options: super::options::decode_checkpoint(&options)? })
}

fn exec(m: pb::ExecProcessRequest) -> Exec {
    Exec {
        target: target(m.id, m.exec_id),
        stdio: Stdio { stdin: m.stdin, stdout: m.stdout, stderr: m.stderr, terminal: m.terminal },
        spec: m.spec.into_option().unwrap_or_default().value,
    }
}

fn mount(m: pb::Mount) -> Mount {
    Mount { kind: m.type_, source: m.source, target: m.target, options: m.options }
}

/// The protobuf form of a mount, for the create event.
pub(super) fn pb_mount(m: &Mount) -> pb::Mount {
    pb::Mount {
        type_: m.kind.clone(),
        source: m.source.clone(),
        target: m.target.clone(),
        options: m.options.clone(),
        ..Default::default()
    }
}

/// An Any's two fields.
pub(super) fn any(m: PbAny) -> Any {
    Any { url: m.type_url, value: m.value }
}

/// A timestamp field.
pub(super) fn stamp(at: Stamp) -> MessageField<Timestamp> {
    MessageField::some(Timestamp { seconds: at.seconds, nanos: at.nanos, ..Default::default() })
}

/// A message inside an Any field, under its full name.
pub(super) fn pack(url: &str, value: Vec<u8>) -> MessageField<PbAny> {
    MessageField::some(PbAny { type_url: url.to_owned(), value, ..Default::default() })
}

fn bytes<M: Message>(message: &M) -> Vec<u8> {
    // Writing to memory fails only above 2 GiB; an empty payload is then the honest remainder.
    message.write_to_bytes().unwrap_or_default()
}

/// Encodes the payload of a response frame.
#[must_use]
pub fn encode(result: &Result<Response, ApiError>) -> Vec<u8> {
    let mut reply = Reply::new();
    match result {
        Ok(response) => {
            // Go's client takes an absent status for an error, so OK is sent in full.
            reply.set_status(RpcStatus { code: EnumOrUnknown::new(TtrpcCode::OK), ..Default::default() });
            reply.payload = body(response);
        }
        Err(error) => reply.set_status(RpcStatus {
            code: EnumOrUnknown::from_i32(error.code as i32),
            message: error.text.clone(),
            ..Default::default()
        }),
    }
    bytes(&reply)
}

fn body(response: &Response) -> Vec<u8> {
    match response {
        Response::Empty => Vec::new(),
        Response::State(info) => bytes(&state(info)),
        Response::Pid(pid) => bytes(&pb::CreateTaskResponse { pid: *pid, ..Default::default() }),
        Response::Deleted(exit) => deleted(*exit),
        Response::Waited(exit) => bytes(&pb::WaitResponse {
            exit_status: exit.status,
            exited_at: stamp(exit.at),
            ..Default::default()
        }),
        Response::Pids(rows) => {
            let processes = rows
                .iter()
                .map(|row| pb::ProcessInfo {
                    pid: row.pid,
                    info: row.exec.as_ref().map_or_else(MessageField::none, |exec| {
                        let details = ProcessDetails { exec_id: exec.clone(), ..Default::default() };
                        pack("containerd.runc.v1.ProcessDetails", bytes(&details))
                    }),
                    ..Default::default()
                })
                .collect();
            bytes(&pb::PidsResponse { processes, ..Default::default() })
        }
        Response::Stats(any) => {
            let stats = pack(&any.url, any.value.clone());
            bytes(&pb::StatsResponse { stats, ..Default::default() })
        }
        Response::Connected { shim, task } => {
            bytes(&pb::ConnectResponse { shim_pid: *shim, task_pid: *task, ..Default::default() })
        }
    }
}

/// The bytes of a DeleteResponse: the answer to Delete, and what the `delete` command prints.
#[must_use]
pub fn deleted(exit: ExitInfo) -> Vec<u8> {
    bytes(&pb::DeleteResponse {
        pid: exit.pid,
        exit_status: exit.status,
        exited_at: stamp(exit.at),
        ..Default::default()
    })
}

fn state(info: &StateInfo) -> pb::StateResponse {
    let status = match info.status {
        Status::Created => PbStatus::CREATED,
        Status::Running => PbStatus::RUNNING,
        Status::Stopped => PbStatus::STOPPED,
        Status::Paused => PbStatus::PAUSED,
        Status::Pausing => PbStatus::PAUSING,
    };
    pb::StateResponse {
        id: info.id.clone(),
        bundle: info.bundle.clone(),
        pid: info.pid,
        status: EnumOrUnknown::new(status),
        stdin: info.stdio.stdin.clone(),
        stdout: info.stdio.stdout.clone(),
        stderr: info.stdio.stderr.clone(),
        terminal: info.stdio.terminal,
        exit_status: info.exit_status,
        exited_at: stamp(info.exited_at),
        exec_id: info.exec.clone(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(service: &str, method: &str, payload: Vec<u8>) -> Result<Request, ApiError> {
        let envelope =
            Envelope { service: service.into(), method: method.into(), payload, ..Default::default() };
        decode(&envelope.write_to_bytes().unwrap())
    }

    #[test]
    fn both_services_and_every_method() {
        for service in SERVICES {
            for method in [
                "State",
                "Create",
                "Start",
                "Delete",
                "Pids",
                "Pause",
                "Resume",
                "Checkpoint",
                "Kill",
                "Exec",
                "ResizePty",
                "CloseIO",
                "Update",
                "Wait",
                "Stats",
                "Connect",
                "Shutdown",
            ] {
                assert!(call(service, method, Vec::new()).is_ok(), "{service}/{method}");
            }
        }
    }

    #[test]
    fn unknown_service_and_method_are_unimplemented() {
        let code = |r: Result<Request, ApiError>| r.err().map(|e| e.code);
        assert_eq!(code(call("containerd.task.v4.Task", "State", Vec::new())), Some(Code::Unimplemented));
        assert_eq!(code(call(SERVICES[0], "Frobnicate", Vec::new())), Some(Code::Unimplemented));
        let sandbox = "containerd.runtime.sandbox.v1.Sandbox";
        assert_eq!(code(call(sandbox, "Platform", Vec::new())), Some(Code::Unimplemented));
    }

    #[test]
    fn garbage_is_an_invalid_argument() {
        assert_eq!(decode(&[0xff; 40]).err().map(|e| e.code), Some(Code::InvalidArgument));
        assert_eq!(
            call(SERVICES[0], "Kill", vec![0x0a, 0x7f]).err().map(|e| e.code),
            Some(Code::InvalidArgument)
        );
    }

    #[test]
    fn kill_fields() {
        let message = pb::KillRequest {
            id: "c".into(),
            exec_id: "e".into(),
            signal: 9,
            all: true,
            ..Default::default()
        };
        let request = call(SERVICES[1], "Kill", message.write_to_bytes().unwrap()).unwrap();
        let Request::Kill { target, signal, all } = request else { panic!("not Kill") };
        assert_eq!((target.id.as_str(), target.exec.as_str(), signal, all), ("c", "e", 9, true));
    }

    #[test]
    fn error_reply_carries_code_and_text() {
        let payload = encode(&Err(ApiError::new(Code::NotFound, "container not created")));
        let reply = Reply::parse_from_bytes(&payload).unwrap();
        assert_eq!(reply.status().code.value(), 5);
        assert_eq!(reply.status().message, "container not created");
    }

    #[test]
    fn running_process_has_gos_zero_time() {
        let exit = ExitInfo { pid: 1, status: 0, at: Stamp::ZERO };
        let message = pb::DeleteResponse::parse_from_bytes(&deleted(exit)).unwrap();
        assert_eq!(message.exited_at.seconds, -62_135_596_800);
    }
}
