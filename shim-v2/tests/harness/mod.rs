//! A fake containerd: starts the shim as containerd does, speaks raw ttrpc, records events, holds FIFOs.
#![allow(dead_code, unused_imports, reason = "each test program uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

mod client;
mod events;

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

pub use client::{Client, Refusal, exec_request, read_frame};
use containerd_shim_protos::api as pb;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension};
use containerd_shim_protos::shim::oci::Options;
pub use davit_tests::write_program as install;
pub use events::{Events, Mood};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};

thread_local! {
    /// Longest wait for anything in this test. Only a failing test waits so long.
    static PATIENCE: Cell<Duration> = const { Cell::new(Duration::from_secs(60)) };
}

pub fn patience() -> Duration {
    PATIENCE.get()
}

thread_local! {
    /// The shim of this test serves task v3 only.
    static V3_ONLY: Cell<bool> = const { Cell::new(false) };
}

/// Fits the current test to Go's shim of containerd 2.1: it serves v3 only, and is not waited for long where it is
/// expected to fail.
pub fn talk_to_go(expected_to_fail: bool) {
    if expected_to_fail {
        PATIENCE.set(Duration::from_secs(12));
    }
    V3_ONLY.set(true);
}

/// Whether the current test is about Go's shim.
pub fn is_go() -> bool {
    V3_ONLY.get()
}

/// The service to name instead of `service`.
pub fn served(service: &str) -> &str {
    if is_go() && service == V2 { V3 } else { service }
}

pub const V2: &str = "containerd.task.v2.Task";
pub const V3: &str = "containerd.task.v3.Task";

/// Which shim is under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shim {
    Davit,
    /// containerd-shim-runc-v2 of Debian unstable, in this folder beside its runc.
    Go(PathBuf),
}

impl Shim {
    pub fn is_davit(&self) -> bool {
        *self == Shim::Davit
    }
}

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
    let deadline = Instant::now() + patience();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A process that is no container's. It ends with the test, however that goes.
pub struct Stranger(std::process::Child);

impl Stranger {
    pub fn new() -> Stranger {
        Stranger(Command::new("sleep").arg("100000").spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
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

    pub fn name(&self, index: usize) -> String {
        self.names[index].as_ref().map_or_else(String::new, |p| p.display().to_string())
    }

    /// A FIFO's path.
    pub fn path(&self, index: usize) -> PathBuf {
        self.names[index].clone().unwrap()
    }

    /// Reads an output FIFO to its end, in the background.
    pub fn read(&self, index: usize) -> Reader {
        // Open from here on: a reader that comes to its open when the writer has been and gone waits for ever.
        let mut fifo = self.open(index);
        let (sender, whole) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // Before there is a writer a read says the end; poll waits for the first one.
            poll(&mut [PollFd::new(fifo.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
            fcntl(&fifo, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
            fifo.read_to_end(&mut bytes).unwrap();
            // The test may have ended.
            let _ = sender.send(bytes);
        });
        Reader(whole)
    }

    /// The reading end of an output FIFO, non-blocking, whether or not there is a writer.
    pub fn open(&self, index: usize) -> File {
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(self.path(index)).unwrap()
    }

    /// Opens the stdin FIFO for writing; the shim's read end must be there.
    pub fn stdin(&self) -> File {
        let path = self.names[0].clone().unwrap();
        until("the reader of stdin", || {
            OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path).ok()
        })
    }
}

/// An output that is being read to its end.
#[derive(Debug)]
pub struct Reader(mpsc::Receiver<Vec<u8>>);

impl Reader {
    /// Waits for the end.
    ///
    /// # Errors
    /// It does not come.
    pub fn join(self) -> Result<Vec<u8>, mpsc::RecvTimeoutError> {
        self.0.recv_timeout(patience())
    }
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A containerd with its directories. Everything it made goes when it is dropped.
pub struct Daemon {
    pub dir: tempfile::TempDir,
    pub namespace: String,
    pub runtime: Runtime,
    pub shim: Shim,
    pub events: Option<Events>,
    pub rootfs: PathBuf,
    /// With `-debug`.
    pub debug: std::sync::atomic::AtomicBool,
    /// Words before the shim's: how it sees the machine.
    pub through: Vec<String>,
    /// A folder whose programs the shim finds first.
    pub programs: OnceLock<PathBuf>,
    shims: Mutex<Vec<String>>,
    /// The log FIFOs, as containerd holds them.
    logs: Mutex<Vec<File>>,
}

impl Daemon {
    pub fn new(runtime: Runtime) -> Daemon {
        Daemon::with(Shim::Davit, runtime)
    }

    pub fn with(shim: Shim, runtime: Runtime) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("image");
        for sub in ["bin", "proc", "dev", "tmp"] {
            fs::create_dir_all(rootfs.join(sub)).unwrap();
        }
        davit_tests::copy_program(Path::new("/bin/busybox"), &rootfs.join("bin/busybox"));
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
            "stat",
            "yes",
            "setsid",
            "wc",
            "ls",
            "rm",
            "mkfifo",
        ] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("davit-shim-test-{}-{serial}", std::process::id());
        let mut daemon = Daemon {
            dir,
            namespace,
            runtime,
            shim,
            events: None,
            rootfs,
            through: Vec::new(),
            programs: OnceLock::new(),
            debug: std::sync::atomic::AtomicBool::new(false),
            shims: Mutex::default(),
            logs: Mutex::default(),
        };
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

    /// The cgroup directories of a container, one per hierarchy.
    pub fn cgroups(&self, id: &str) -> Vec<PathBuf> {
        let base = Path::new("/sys/fs/cgroup");
        let below = format!("{}/{id}", self.namespace);
        let inner = fs::read_dir(base).unwrap().flatten().map(|e| e.path()).filter(|p| !p.is_symlink());
        inner.chain([base.to_owned()]).map(|dir| dir.join(&below)).filter(|dir| dir.is_dir()).collect()
    }

    /// Makes a bundle whose container runs `sh -c script`; `change` edits config.json.
    pub fn make_bundle(&self, id: &str, script: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let bundle = self.bundle(id);
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        // Of containerd a link to a folder that outlives a reboot.
        fs::create_dir_all(bundle.join("work")).unwrap();
        let log = bundle.join("log");
        if !log.exists() {
            nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
            let held = OpenOptions::new().read(true).write(true).open(&log).unwrap();
            self.logs.lock().unwrap().push(held);
        }
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
        let binary = if self.runtime == Runtime::Runc && self.shim.is_davit() { "runc" } else { "" };
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

    /// The shim's binary.
    pub fn command(&self) -> Command {
        let binary = match &self.shim {
            Shim::Davit => PathBuf::from(env!("CARGO_BIN_EXE_containerd-shim-davit-v2")),
            Shim::Go(dir) => dir.join("containerd-shim-runc-v2"),
        };
        let mut words = self.through.iter().map(PathBuf::from).chain([binary]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        let go = if let Shim::Go(dir) = &self.shim { Some(dir.clone()) } else { None };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let first = self.programs.get().cloned().into_iter().chain(go);
        command.env("PATH", std::env::join_paths(first.chain(std::env::split_paths(&path))).unwrap());
        command
    }

    /// Runs the shim's binary as containerd does, in a container's bundle.
    pub fn shim(&self, id: &str, action: &str, stdin: &[u8], env: &[(&str, &str)]) -> Output {
        let mut command = self.command();
        command.args(["-namespace", &self.namespace, "-address"]).arg(self.dir.path().join("c.sock"));
        command.args(["-publish-binary", "/bin/true", "-id", id]);
        if self.debug.load(Ordering::Relaxed) {
            command.arg("-debug");
        }
        if action == "delete" {
            command.arg("-bundle").arg(self.bundle(id));
        }
        command.arg(action).current_dir(self.bundle(id)).env_remove("MAX_SHIM_VERSION");
        command.env("TTRPC_ADDRESS", self.ttrpc()).envs(env.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A shim that ends without reading has the answer in its exit code.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        child.wait_with_output().unwrap()
    }

    /// `delete`, which must be quiet; containerd's event socket may not be there.
    pub fn delete_command(&self, id: &str) -> pb::DeleteResponse {
        let output = self.shim(id, "delete", b"", &[("TTRPC_ADDRESS", "")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        pb::DeleteResponse::parse_from_bytes(&output.stdout).unwrap()
    }

    /// The options as TOML, as containerd writes them for a runtime type of its own.
    pub fn toml(&self, more: &str) -> Any {
        // runtimeoptions.v1.Options{3 config_body}: a message of one bytes field.
        let text = format!("Root = \"{}\"\n{more}", self.dir.path().join("state").display());
        let mut value = vec![0x1a, text.len() as u8];
        assert!(text.len() < 128, "one byte of length");
        value.extend(text.into_bytes());
        Any { type_url: "runtimeoptions.v1.Options".into(), value, ..Default::default() }
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
        let output = match &self.shim {
            Shim::Davit => self.shim(id, "start", &self.params(id), &[]),
            // The Go shim of containerd 2.1 knows no BootstrapParams.
            Shim::Go(_) => self.shim(
                id,
                "start",
                &self.options().write_to_bytes().unwrap(),
                &[("MAX_SHIM_VERSION", "2")],
            ),
        };
        assert!(output.status.success(), "start failed: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stderr, b"", "stderr of start corrupts the reply");
        let address = if self.shim.is_davit() {
            let reply = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
            assert_eq!(reply.protocol, "ttrpc");
            reply.address
        } else {
            let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            reply["address"].as_str().unwrap().to_owned()
        };
        self.shims.lock().unwrap().push(address.clone());
        address
    }

    /// The address of the shim that was started last.
    pub fn address(&self) -> String {
        self.shims.lock().unwrap().last().unwrap().clone()
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

    /// Mount points of CRIU's below the test's directory: a killed one leaves the cgroup hierarchies mounted.
    pub fn mounts_of_criu(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        let is_criu_s = |point: &PathBuf| {
            point.starts_with(self.dir.path()) && point.to_string_lossy().contains("/.criu.cgyard.")
        };
        points.filter(is_criu_s).collect()
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
    let state = stat.rsplit(')').next().unwrap_or_default();
    !stat.is_empty() && ![" Z", " X"].iter().any(|ended| state.starts_with(ended))
}

/// The folder of Debian unstable's containerd-shim-runc-v2, runc and crun.
///
/// # Errors
/// Why they can't be had.
pub fn go_dir() -> Result<PathBuf, String> {
    let runc = davit_tests::newest_runc()?;
    Ok(runc.parent().unwrap().to_owned())
}

/// Random numbers that a seed repeats (xorshift64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.max(1))
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Sends a signal to a process of this test.
pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

/// Open descriptors of a process.
pub fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Children of a single-threaded process; for a process with threads, of all of them.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    texts.flat_map(|t| t.split_whitespace().map(|w| w.parse().unwrap()).collect::<Vec<u32>>()).collect()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Every shim of this namespace, also one whose socket is gone.
        let mark = format!("\0-namespace\0{}\0", self.namespace);
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&mark) {
                let pid: i32 = process.file_name().to_string_lossy().parse().unwrap_or(0);
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        for bundle in fs::read_dir(self.dir.path().join("bundles")).into_iter().flatten().flatten() {
            let id = bundle.file_name().into_string().unwrap();
            self.shim(&id, "delete", b"", &[]);
        }
        for address in self.shims.get_mut().unwrap().drain(..) {
            let path = PathBuf::from(address.strip_prefix("unix://").unwrap());
            if UnixStream::connect(&path).is_err() {
                let _ = fs::remove_file(path);
            }
        }
        for point in self.mounts_of_criu().iter().rev() {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
        remove_cgroups(&self.namespace);
    }
}

fn remove_cgroups(name: &str) {
    let base = Path::new("/sys/fs/cgroup");
    let deadline = Instant::now() + Duration::from_secs(10);
    // EBUSY: what the test has started is still in there. A `delete` that fails, as Go's may, has not ended it.
    let remove = |cgroup: &Path| {
        let is_busy = || fs::remove_dir(cgroup).is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY));
        while is_busy() && Instant::now() < deadline {
            let inside = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            for pid in inside.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 1) {
                // One that has just ended is gone.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(5));
        }
    };
    for hierarchy in fs::read_dir(base).into_iter().flatten().flatten() {
        let dir = hierarchy.path().join(name);
        for inner in fs::read_dir(&dir).into_iter().flatten().flatten() {
            remove(&inner.path());
        }
        remove(&dir);
    }
    remove(&base.join(name));
}
