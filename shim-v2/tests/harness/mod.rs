//! A fake containerd: starts the shim as containerd does, speaks raw ttrpc, records events, holds FIFOs.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test ends at the first surprise"
)]

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{self as pb, ForwardRequest};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension};
use containerd_shim_protos::events::task as events;
use containerd_shim_protos::shim::oci::Options;
use protobuf::well_known_types::any::Any;
use protobuf::{EnumOrUnknown, Message, MessageField};
use ttrpc::proto::{Request, Response, Status};

/// Longest wait for anything. Only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const V2: &str = "containerd.task.v2.Task";
pub const V3: &str = "containerd.task.v3.Task";
const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-davit-v2");

/// Which runtime the containers of a test have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    Davit,
    Runc,
}

/// Whether the test can run here; prints why not.
pub fn can_run(test: &str, runtime: Runtime) -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED {test}: needs root to make containers");
        return false;
    }
    if !Path::new("/bin/busybox").exists() {
        eprintln!("SKIPPED {test}: needs /bin/busybox (busybox-static)");
        return false;
    }
    let runc = Command::new("runc").arg("--version").stdout(Stdio::null()).status();
    if runtime == Runtime::Runc && !runc.is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED {test}: needs runc in PATH");
        return false;
    }
    true
}

/// Polls until `check` gives something.
pub fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// An event as the daemon sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub topic: String,
    /// Exec id or container id of an exit; exec id of exec events; container id of the others.
    pub process: String,
    pub status: u32,
}

/// The recording event server.
#[derive(Clone)]
pub struct Events(Arc<Mutex<Vec<Seen>>>);

impl Events {
    pub fn listen(path: &Path) -> Events {
        let _ = fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let events = Events(Arc::default());
        let record = events.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let record = record.clone();
                thread::spawn(move || record.serve(stream.unwrap()));
            }
        });
        events
    }

    fn serve(&self, mut stream: UnixStream) {
        while let Some((id, payload)) = read_frame(&mut stream) {
            let request = Request::parse_from_bytes(&payload).unwrap();
            let forward = ForwardRequest::parse_from_bytes(&request.payload).unwrap();
            assert!(forward.envelope.timestamp.seconds > 0 && !forward.envelope.namespace.is_empty());
            self.0.lock().unwrap().push(seen(&forward.envelope.topic, &forward.envelope.event));
            let mut reply = Response::new();
            reply.set_status(Status { code: EnumOrUnknown::from_i32(0), ..Default::default() });
            write_frame(&mut stream, id, 2, &reply.write_to_bytes().unwrap());
        }
    }

    pub fn all(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for an event of `topic` for `process`.
    pub fn wait(&self, topic: &str, process: &str) -> Seen {
        until(&format!("{topic} of {process}; have {:?}", self.all()), || {
            self.all().into_iter().find(|e| e.topic == topic && e.process == process)
        })
    }

    /// Topics and processes in the order of arrival.
    pub fn order(&self) -> Vec<(String, String)> {
        self.all()
            .into_iter()
            .map(|e| (e.topic.trim_start_matches("/tasks/").to_owned(), e.process))
            .collect()
    }
}

fn seen(topic: &str, any: &Any) -> Seen {
    let value = &any.value;
    let (process, status) = match any.type_url.as_str() {
        "containerd.events.TaskExit" => {
            let e = events::TaskExit::parse_from_bytes(value).unwrap();
            (e.id, e.exit_status)
        }
        "containerd.events.TaskDelete" => {
            let e = events::TaskDelete::parse_from_bytes(value).unwrap();
            (e.container_id, e.exit_status)
        }
        "containerd.events.TaskExecAdded" => {
            (events::TaskExecAdded::parse_from_bytes(value).unwrap().exec_id, 0)
        }
        "containerd.events.TaskExecStarted" => {
            (events::TaskExecStarted::parse_from_bytes(value).unwrap().exec_id, 0)
        }
        // The others have the container's id in field 1.
        _ => (events::TaskPaused::parse_from_bytes(value).unwrap().container_id, 0),
    };
    Seen { topic: topic.to_owned(), process, status }
}

fn read_frame(stream: &mut UnixStream) -> Option<(u32, Vec<u8>)> {
    let mut header = [0_u8; 10];
    stream.read_exact(&mut header).ok()?;
    let length = u32::from_be_bytes(header[..4].try_into().unwrap());
    let id = u32::from_be_bytes(header[4..8].try_into().unwrap());
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).ok()?;
    Some((id, payload))
}

fn write_frame(stream: &mut UnixStream, id: u32, kind: u8, payload: &[u8]) {
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
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, next: 1, early: HashMap::new() }
    }

    /// Sends a call and returns its id.
    pub fn send(&mut self, service: &str, method: &str, message: &impl Message) -> u32 {
        let request = Request {
            service: service.into(),
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
        while !self.early.contains_key(&id) {
            let (other, payload) = read_frame(&mut self.stream).expect("the shim closed the connection");
            self.early.insert(other, payload);
        }
        let reply = Response::parse_from_bytes(&self.early.remove(&id).unwrap()).unwrap();
        match reply.status().code.value() {
            0 => Ok(M::parse_from_bytes(&reply.payload).unwrap()),
            code => Err(Refusal { code, text: reply.status().message.clone() }),
        }
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

    pub fn shutdown(&mut self) {
        self.call::<pb::Empty>("Shutdown", &pb::ShutdownRequest::new()).unwrap();
    }

    /// Records an exec of `sh -c script`.
    pub fn exec(&mut self, id: &str, exec: &str, script: &str, io: &Io) -> Result<(), Refusal> {
        let spec = serde_json::json!({
            "args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
        });
        let any = Any { type_url: "spec".into(), value: spec.to_string().into_bytes(), ..Default::default() };
        let request = pb::ExecProcessRequest {
            id: id.into(),
            exec_id: exec.into(),
            terminal: io.terminal,
            stdin: io.name(0),
            stdout: io.name(1),
            stderr: io.name(2),
            spec: MessageField::some(any),
            ..Default::default()
        };
        self.call::<pb::Empty>("Exec", &request).map(drop)
    }
}

/// Stdio of a process: FIFOs as containerd makes them.
#[derive(Default)]
pub struct Io {
    names: [Option<PathBuf>; 3],
    pub terminal: bool,
}

impl Io {
    /// No stdio.
    pub fn none() -> Io {
        Io::default()
    }

    fn name(&self, index: usize) -> String {
        self.names[index].as_ref().map_or_else(String::new, |p| p.display().to_string())
    }

    /// A FIFO's path.
    pub fn path(&self, index: usize) -> PathBuf {
        self.names[index].clone().unwrap()
    }

    /// Reads an output FIFO to its end, in the background.
    pub fn read(&self, index: usize) -> thread::JoinHandle<Vec<u8>> {
        let path = self.names[index].clone().unwrap();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        })
    }

    /// Opens the stdin FIFO for writing; the shim's read end must be there.
    pub fn stdin(&self) -> File {
        let path = self.names[0].clone().unwrap();
        until("the reader of stdin", || {
            OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path).ok()
        })
    }
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A containerd with its directories. Everything it made goes when it is dropped.
pub struct Daemon {
    pub dir: tempfile::TempDir,
    pub namespace: String,
    pub runtime: Runtime,
    pub events: Option<Events>,
    rootfs: PathBuf,
    shims: Mutex<Vec<String>>,
}

impl Daemon {
    pub fn new(runtime: Runtime) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("image");
        for sub in ["bin", "proc", "dev", "tmp"] {
            fs::create_dir_all(rootfs.join(sub)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for applet in [
            "sh",
            "sleep",
            "cat",
            "true",
            "echo",
            "head",
            "stty",
            "kill",
            "seq",
            "sha256sum",
            "mkdir",
            "tee",
            "dd",
        ] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("davit-shim-test-{}-{serial}", std::process::id());
        let mut daemon =
            Daemon { dir, namespace, runtime, events: None, rootfs, shims: Mutex::new(Vec::new()) };
        daemon.events = Some(Events::listen(&daemon.ttrpc()));
        daemon
    }

    pub fn ttrpc(&self) -> PathBuf {
        self.dir.path().join("c.sock.ttrpc")
    }

    pub fn events(&self) -> &Events {
        self.events.as_ref().unwrap()
    }

    pub fn bundle(&self, id: &str) -> PathBuf {
        self.dir.path().join("bundles").join(id)
    }

    /// State directory of the runtime.
    pub fn state_dir(&self, id: &str) -> PathBuf {
        self.dir.path().join("state").join(&self.namespace).join(id)
    }

    /// Makes a bundle whose container runs `sh -c script`; `change` edits config.json.
    pub fn make_bundle(&self, id: &str, script: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let bundle = self.bundle(id);
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        let mut config = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/bin"], "cwd": "/",
            },
            "root": {"path": "rootfs"},
            "hostname": "test",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
                // Absolute: outside of the cgroup that the tests run in.
                "cgroupsPath": format!("/{}/{id}", self.namespace),
            },
        });
        change(&mut config);
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    }

    /// FIFOs for a process.
    pub fn io(&self, name: &str, terminal: bool) -> Io {
        let dir = self.dir.path().join("fifo");
        fs::create_dir_all(&dir).unwrap();
        let make = |suffix: &str| {
            let path = dir.join(format!("{name}-{suffix}"));
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            Some(path)
        };
        let stderr = if terminal { None } else { make("stderr") };
        Io { names: [make("stdin"), make("stdout"), stderr], terminal }
    }

    fn options(&self) -> Any {
        let binary = if self.runtime == Runtime::Runc { "runc" } else { "" };
        self.options_with(binary)
    }

    pub fn options_with(&self, binary: &str) -> Any {
        let options = Options {
            binary_name: binary.into(),
            root: self.dir.path().join("state").display().to_string(),
            ..Default::default()
        };
        let url = "containerd.runc.v1.Options".to_owned();
        Any { type_url: url, value: options.write_to_bytes().unwrap(), ..Default::default() }
    }

    /// Runs the shim's binary as containerd does, in a container's bundle.
    pub fn shim(&self, id: &str, action: &str, stdin: &[u8], env: &[(&str, &str)]) -> Output {
        let mut command = Command::new(SHIM);
        command.args(["-namespace", &self.namespace, "-address"]).arg(self.dir.path().join("c.sock"));
        command.args(["-publish-binary", "/bin/true", "-id", id]);
        if action == "delete" {
            command.arg("-bundle").arg(self.bundle(id));
        }
        command.arg(action).current_dir(self.bundle(id)).env_remove("MAX_SHIM_VERSION");
        command.env("TTRPC_ADDRESS", self.ttrpc()).envs(env.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }

    /// `delete`, which must be quiet; containerd's event socket may not be there.
    pub fn delete_command(&self, id: &str) -> pb::DeleteResponse {
        let output = self.shim(id, "delete", b"", &[("TTRPC_ADDRESS", "")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        pb::DeleteResponse::parse_from_bytes(&output.stdout).unwrap()
    }

    /// What containerd 2.3 and later writes to `start`.
    pub fn params(&self, id: &str) -> Vec<u8> {
        BootstrapParams {
            instance_id: id.into(),
            namespace: self.namespace.clone(),
            socket_dir: Some(self.dir.path().join("s").display().to_string()),
            containerd_ttrpc_address: self.ttrpc().display().to_string(),
            extensions: vec![Extension { value: MessageField::some(self.options()), ..Default::default() }],
            ..Default::default()
        }
        .write_to_bytes()
        .unwrap()
    }

    /// `start`; the answer is the address.
    pub fn start_shim(&self, id: &str) -> String {
        let output = self.shim(id, "start", &self.params(id), &[]);
        assert!(output.status.success(), "start failed: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stderr, b"", "stderr of start corrupts the reply");
        let reply = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!(reply.protocol, "ttrpc");
        self.shims.lock().unwrap().push(reply.address.clone());
        reply.address
    }

    pub fn create_request(&self, id: &str, io: &Io) -> pb::CreateTaskRequest {
        let mount = pb::Mount {
            type_: "bind".into(),
            source: self.rootfs.display().to_string(),
            options: vec!["rbind".into(), "rw".into()],
            ..Default::default()
        };
        pb::CreateTaskRequest {
            id: id.into(),
            bundle: self.bundle(id).display().to_string(),
            rootfs: vec![mount],
            terminal: io.terminal,
            stdin: io.name(0),
            stdout: io.name(1),
            stderr: io.name(2),
            options: MessageField::some(self.options()),
            ..Default::default()
        }
    }

    pub fn create(&self, client: &mut Client, id: &str, io: &Io) -> Result<u32, Refusal> {
        client.call::<pb::CreateTaskResponse>("Create", &self.create_request(id, io)).map(|r| r.pid)
    }

    /// A bundle, its shim and a created container.
    pub fn created(&self, id: &str, script: &str, io: &Io) -> Client {
        self.make_bundle(id, script, |_| ());
        let mut client = Client::connect(&self.start_shim(id));
        self.create(&mut client, id, io).unwrap();
        client
    }

    /// Whether something is still mounted on a bundle's rootfs.
    pub fn is_mounted(&self, id: &str) -> bool {
        let rootfs = self.bundle(id).join("rootfs").display().to_string();
        fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&rootfs)
    }

    /// Checks that a shim ends and takes its socket with it.
    pub fn assert_gone(&self, pid: u32, address: &str) {
        until("the end of the shim", || (!alive(pid)).then_some(()));
        assert!(!Path::new(address.strip_prefix("unix://").unwrap()).exists(), "socket left behind");
    }
}

/// Whether a process is there and no zombie.
pub fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for address in self.shims.get_mut().unwrap().drain(..) {
            if UnixStream::connect(address.strip_prefix("unix://").unwrap()).is_ok() {
                let pid = Client::connect(&address).connect_task("").shim_pid;
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid as i32),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        for bundle in fs::read_dir(self.dir.path().join("bundles")).into_iter().flatten().flatten() {
            let id = bundle.file_name().into_string().unwrap();
            if bundle.path().exists() {
                self.shim(&id, "delete", b"", &[]);
            }
        }
        remove_cgroups(&self.namespace);
    }
}

fn remove_cgroups(name: &str) {
    let base = Path::new("/sys/fs/cgroup");
    for hierarchy in fs::read_dir(base).into_iter().flatten().flatten() {
        let dir = hierarchy.path().join(name);
        for inner in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(inner.path());
        }
        let _ = fs::remove_dir(dir);
    }
    let _ = fs::remove_dir(base.join(name));
}
