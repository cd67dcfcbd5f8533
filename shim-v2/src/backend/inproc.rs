//! davit as a library: the worker itself is the runtime.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use davit::container::{
    self, Activation, CgroupsMode, CheckpointOptions, Console, CreateOptions, ExecOptions, KillTarget,
    RestoreOptions, RootSwitch, Runtime,
};

use crate::options::Options;

use super::checkpoint::{CheckpointArgs, RestoreArgs};
use super::{CreateArgs, ExecArgs, Force, Outcome};

/// Signal init only.
pub const INIT: KillTarget = KillTarget::Init;
/// Signal every process of the container.
pub const ALL: KillTarget = KillTarget::All;

fn console(socket: Option<OwnedFd>) -> Console {
    socket.map_or(Console::Inherit, Console::Connected)
}

fn create_options(id: &str, bundle: &Path, options: &Options, socket: Option<OwnedFd>) -> CreateOptions {
    CreateOptions {
        id: id.to_owned(),
        bundle: bundle.to_owned(),
        config: None,
        console: console(socket),
        pid_file: Some(bundle.join("init.pid")),
        pidfd_socket: None,
        root_switch: if options.no_pivot_root { RootSwitch::Move } else { RootSwitch::Pivot },
        new_keyring: !options.no_new_keyring,
        preserve_fds: 0,
        // Those of containerd's own unit are not the container's.
        activation: Activation::default(),
    }
}

/// [`container::create`] with the worker's descriptors 0 to 2.
///
/// # Errors
/// The error's text, also written to log.json.
pub fn create(runtime: &Runtime, args: &CreateArgs, socket: Option<OwnedFd>) -> Outcome<i32> {
    let log = args.bundle.join("log.json");
    let _ = std::fs::remove_file(&log);
    let options = create_options(&args.id, &args.bundle, &args.options, socket);
    logged(&log, container::CREATE_FAILED, container::create(runtime, options)).map(|started| started.pid)
}

/// [`container::start`].
///
/// # Errors
/// The error's text, also written to log.json.
pub fn start(runtime: &Runtime, id: &str, bundle: &Path) -> Outcome<()> {
    logged(&bundle.join("log.json"), "", container::start(runtime, id))
}

/// [`container::exec`] with the worker's descriptors 0 to 2.
///
/// # Errors
/// The error's text, also written to log.json.
pub fn exec(runtime: &Runtime, args: &ExecArgs, socket: Option<OwnedFd>) -> Outcome<i32> {
    let mut process: oci_spec::runtime::Process =
        davit::spec::parse(&args.spec).map_err(|e| format!("exec's process spec: {e}"))?;
    process.set_terminal(Some(args.terminal));
    if let Some(size) = args.size {
        let built = oci_spec::runtime::BoxBuilder::default().width(size.cols).height(size.rows).build();
        process.set_console_size(Some(built.map_err(|e| format!("size of the terminal: {e}"))?));
    }
    let options = ExecOptions {
        process,
        console: console(socket),
        pid_file: None,
        pidfd_socket: None,
        preserve_fds: 0,
        ignore_paused: false,
        cgroup: Vec::new(),
    };
    let result = container::exec(runtime, &args.id, options);
    logged(&args.bundle.join("log.json"), container::EXEC_FAILED, result).map(|started| started.pid)
}

/// [`container::kill`].
///
/// # Errors
/// The error's text.
pub fn kill(runtime: &Runtime, id: &str, signal: i32, target: KillTarget) -> Outcome<()> {
    container::kill(runtime, id, signal, target).map_err(|e| e.to_string())
}

/// [`container::pause`].
///
/// # Errors
/// The error's text.
pub fn pause(runtime: &Runtime, id: &str) -> Outcome<()> {
    container::pause(runtime, id).map_err(|e| e.to_string())
}

/// [`container::resume`].
///
/// # Errors
/// The error's text.
pub fn resume(runtime: &Runtime, id: &str) -> Outcome<()> {
    container::resume(runtime, id).map_err(|e| e.to_string())
}

/// [`container::delete`].
///
/// # Errors
/// The error's text.
pub fn delete(runtime: &Runtime, id: &str, force: Force) -> Outcome<()> {
    container::delete(runtime, id, force == Force::Yes).map_err(|e| e.to_string())
}

/// Kills all that is in the container's cgroup; false when there is none.
#[must_use]
pub fn kill_cgroup(state_dir: &Path) -> bool {
    crate::stats::open(state_dir).is_some_and(|cgroup| cgroup.kill(libc::SIGKILL).is_ok())
}

/// [`container::update`], which tells systemd too where that has made the cgroup.
///
/// # Errors
/// The error's text.
pub fn update(runtime: &Runtime, id: &str, resources: &[u8]) -> Outcome<()> {
    let resources: oci_spec::runtime::LinuxResources =
        serde_json::from_slice(resources).map_err(|e| format!("resources: {e}"))?;
    container::update(runtime, id, &resources, None).map_err(|e| e.to_string())
}

/// Turns an error into the text that the command would print, and appends it to the log as runc would: people
/// and tests read that file.
fn logged<T>(log: &Path, failure: &str, result: container::Result<T>) -> Outcome<T> {
    result.map_err(|error| {
        let text = format!("{failure}{error}");
        let line = serde_json::json!({"level": "error", "msg": text, "time": now()}).to_string();
        let mut options = std::fs::OpenOptions::new();
        let file = options.append(true).create(true).custom_flags(libc::O_NOFOLLOW).open(log);
        // The error itself goes to the caller; a log that can't be written must not hide it.
        let _ = file.and_then(|mut f| f.write_all(format!("{line}\n").as_bytes()));
        text
    })
}

fn now() -> String {
    davit::time::rfc3339(crate::api::Stamp::now().seconds)
}

/// [`container::checkpoint`].
///
/// # Errors
/// The error's text, also written to log.json.
pub fn checkpoint(runtime: &Runtime, args: &CheckpointArgs, work: &Path) -> Outcome<()> {
    let asked = &args.options;
    // That of the network is always left empty: its devices are whose who set them up.
    if let Some(other) = asked.empty_namespaces.iter().find(|name| *name != "network") {
        return Err(format!("namespace {other} can't be left empty, only network can"));
    }
    let options = CheckpointOptions {
        image_path: args.images.clone(),
        work_path: Some(work.to_owned()),
        leave_running: !asked.exit,
        tcp_established: asked.open_tcp,
        ext_unix_sk: asked.external_unix_sockets,
        shell_job: asked.terminal,
        file_locks: asked.file_locks,
        cgroups: CgroupsMode::named(&asked.cgroups_mode)
            .ok_or_else(|| format!("invalid manage-cgroups-mode value {:?}", asked.cgroups_mode))?,
        ..CheckpointOptions::default()
    };
    logged(&args.bundle.join("log.json"), "", container::checkpoint(runtime, &args.id, &options))
}

/// [`container::restore`] with the worker's descriptors 0 to 2.
///
/// # Errors
/// The error's text, also written to log.json.
pub fn restore(runtime: &Runtime, args: &RestoreArgs, socket: Option<OwnedFd>) -> Outcome<i32> {
    let log = args.bundle.join("log.json");
    let _ = std::fs::remove_file(&log);
    let options = RestoreOptions {
        image_path: args.images.clone(),
        work_path: Some(args.work.clone()),
        ..RestoreOptions::default()
    };
    let create = create_options(&args.id, &args.bundle, &args.runtime_options, socket);
    let restored = container::restore(runtime, &create, &options);
    logged(&log, "", restored).map(|started| started.pid)
}
