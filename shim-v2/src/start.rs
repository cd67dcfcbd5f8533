//! `start`: makes the daemon of a container's shim, or finds the one of its group, and prints the address.
//!
//! containerd reads stdout and stderr together until both are closed, so nothing is printed on success but the
//! reply, and the daemon gets /dev/null as its stdio.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use davit::sys::fs::{CloseRange, adopt, close_range, dup_onto};
use davit::sys::prctl::set_thp_disable;
use davit::sys::process::{Fork, exec_fd, exit_now, fork};
use davit::sys::signal::create_core_schedule;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid, pipe2, setpgid};

use crate::api::Any;
use crate::config;
use crate::flags::Flags;
use crate::living;
use crate::serve::{EXE_FD, LISTEN_FD};
use crate::sha256;
use crate::wire::{bootstrap, options};

/// Directory of the sockets where containerd does not say otherwise.
const SOCKET_DIR: &str = "/run/containerd/s";
/// sun_path without its NUL and the scheme that containerd's own check counts.
const SOCKET_PATH_LIMIT: usize = 106;
/// Longest stdin of `start`.
const STDIN_LIMIT: u64 = 10 << 20;
/// Highest oom_score_adj.
const OOM_SCORE_ADJ_MAX: i32 = 1000;

/// Runs `start` in the bundle's directory and returns the bytes to print.
///
/// # Errors
/// One line that containerd shows to its user.
pub fn run(flags: &Flags) -> Result<Vec<u8>> {
    let mut stdin = Vec::new();
    io::stdin().take(STDIN_LIMIT).read_to_end(&mut stdin).context("read stdin")?;
    let version = std::env::var("MAX_SHIM_VERSION").ok();
    let boot = bootstrap::detect(&stdin, &flags.id, &flags.namespace, version.as_deref());
    let flags = &Flags { debug: flags.debug || boot.debug, ..flags.clone() };
    let shim_cgroup = shim_cgroup(boot.options.as_ref())?;
    let group = config::group(Path::new(".")).map_err(|text| anyhow!(text))?;
    let name = group.as_deref().unwrap_or(&flags.id);
    let dir = PathBuf::from(boot.socket_dir.as_deref().unwrap_or(SOCKET_DIR));
    let path = socket_path(&dir, &flags.address, &flags.namespace, name);
    if path.as_os_str().len() > SOCKET_PATH_LIMIT {
        bail!("socket path {} is longer than {SOCKET_PATH_LIMIT} bytes", path.display());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("create {}", dir.display()))?;
    let address = format!("unix://{}", path.display());
    // Two `start`s for one group at once: one makes the shim, the other finds it.
    let lock = File::open(&dir).with_context(|| format!("open {}", dir.display()))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, e)| e)
        .with_context(|| format!("lock {}", dir.display()))?;
    // Before the daemon is there: containerd up to 1.7 reads it when it reloads (#5195).
    fs::write("address", &address).context("write the file address")?;
    if let Some(listener) = listen(&path)? {
        let ttrpc = boot.ttrpc_address.as_deref();
        if let Err(error) = spawn(flags, listener, &shim_cgroup, ttrpc) {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
    }
    Ok(bootstrap::reply(boot.generation, &address))
}

fn shim_cgroup(any: Option<&Any>) -> Result<String> {
    match any {
        Some(any) => Ok(options::decode(any)?.shim_cgroup),
        None => Ok(String::new()),
    }
}

/// `<dir>/<sha256 of containerd's address, namespace and name joined as a path>`.
fn socket_path(dir: &Path, containerd: &str, namespace: &str, name: &str) -> PathBuf {
    let joined = clean(&format!("{containerd}/{namespace}/{name}"));
    dir.join(sha256::hex(joined.as_bytes()))
}

/// Go's filepath.Clean for a joined path.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let absolute = path.starts_with('/');
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            other => parts.push(other),
        }
    }
    let body = parts.join("/");
    if absolute { format!("/{body}") } else { body }
}

/// Binds the socket, mode 0600. `None` when a living shim listens there already.
fn listen(path: &Path) -> Result<Option<UnixListener>> {
    let bind = || UnixListener::bind(path);
    let listener = match bind() {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            if living::answers(path) {
                return Ok(None);
            }
            match fs::remove_file(path) {
                // A shim that ends removes its own.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other.with_context(|| format!("remove the dead socket {}", path.display()))?,
            }
            bind()
        }
        other => other,
    }
    .with_context(|| format!("listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("set the mode of {}", path.display()))?;
    Ok(Some(listener))
}

/// Starts the daemon. Returns once the new process is there: a client that connects waits in the backlog.
fn spawn(flags: &Flags, listener: UnixListener, cgroup: &str, ttrpc: Option<&str>) -> Result<()> {
    if std::env::var_os("SCHED_CORE").is_some_and(|v| !v.is_empty()) {
        create_core_schedule().context("enable core scheduling")?;
    }
    let exe = if config::wants_own_copy(Path::new(".")) {
        davit::selfexe::own_copy()
    } else {
        davit::selfexe::protected()
    };
    let exe = exe.context("protect the shim's binary")?;
    let log = OpenOptions::new().read(true).write(true).open("/dev/null").context("open /dev/null")?;
    let score = oom_score_adj(getppid());
    let (args, env) = (arguments(flags)?, environment(flags, ttrpc)?);
    // An error before exec comes back over this pipe; exec closes it.
    let (status, report) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
    let (mut status, report) = (File::from(status), File::from(report));
    match fork().context("fork the daemon")? {
        Fork::Parent { pid, .. } => {
            drop(report);
            // The daemon is to close the last one (see serve::run).
            drop(exe);
            let mut error = String::new();
            status.read_to_string(&mut error).context("wait for the daemon")?;
            if error.is_empty() { still_alive(Pid::from_raw(pid)) } else { Err(anyhow!(error)) }
        }
        Fork::Child => {
            let error = become_daemon(&listener.into(), &log.into(), &exe, cgroup, score, &args, &env);
            // The parent reads what there is; nothing else is left to do here.
            let _ = (&report).write_all(format!("start the daemon: {error:#}").as_bytes());
            exit_now(1)
        }
    }
}

/// A daemon that was killed before its exec has said nothing, and containerd would dial its socket for 100 s.
fn still_alive(daemon: Pid) -> Result<()> {
    match waitpid(daemon, Some(WaitPidFlag::WNOHANG)).context("wait for the daemon")? {
        WaitStatus::StillAlive => Ok(()),
        ended => bail!("start the daemon: it ended at once: {ended:?}"),
    }
}

fn become_daemon(
    listener: &OwnedFd,
    null: &OwnedFd,
    exe: &OwnedFd,
    cgroup: &str,
    score: Option<i32>,
    args: &[CString],
    env: &[CString],
) -> anyhow::Error {
    let prepare = || -> Result<OwnedFd> {
        setpgid(Pid::from_raw(0), Pid::from_raw(0)).context("setpgid")?;
        if let Some(score) = score {
            fs::write("/proc/self/oom_score_adj", score.to_string()).context("set oom_score_adj")?;
        }
        if !cgroup.is_empty() {
            join_cgroup(cgroup)?;
        }
        // A 2 MB page for a process of 1 MB is waste.
        set_thp_disable(true).context("disable huge pages")?;
        // Both may have been opened as a descriptor that is about to be replaced.
        let (exe, listener) = (above_ours(exe)?, above_ours(listener)?);
        for fd in 0..=2 {
            dup_onto(null.as_fd(), fd).context("redirect stdio")?;
        }
        dup_onto(listener.as_fd(), LISTEN_FD).context("hand over the socket")?;
        dup_onto(exe.as_fd(), EXE_FD).context("hand over the program")?;
        // containerd's parent may have left descriptors open in it. ENOSYS before kernel 5.9, EINVAL before 5.11.
        let _ = close_range(EXE_FD as u32 + 1, CloseRange::CloseOnExec);
        Ok(exe)
    };
    match prepare() {
        Ok(exe) => {
            let args: Vec<_> = args.iter().map(CString::as_c_str).collect();
            let env: Vec<_> = env.iter().map(CString::as_c_str).collect();
            anyhow::Error::from(exec_fd(exe.as_fd(), &args, &env)).context("execute the shim")
        }
        Err(error) => error,
    }
}

/// The daemon's command line: no action word.
fn arguments(flags: &Flags) -> Result<Vec<CString>> {
    let own = std::env::args_os().next().unwrap_or_default();
    let mut words: Vec<&OsStr> = vec![own.as_os_str()];
    let pairs = [("-namespace", &flags.namespace), ("-id", &flags.id), ("-address", &flags.address)];
    for (flag, value) in pairs {
        words.extend([OsStr::new(flag), OsStr::new(value)]);
    }
    if flags.debug {
        words.push(OsStr::new("-debug"));
    }
    words.into_iter().map(|w| CString::new(w.as_bytes()).context("argument with a NUL")).collect()
}

fn environment(flags: &Flags, ttrpc: Option<&str>) -> Result<Vec<CString>> {
    let mut variables: Vec<(std::ffi::OsString, std::ffi::OsString)> = std::env::vars_os().collect();
    if let Some(address) = ttrpc {
        variables.retain(|(key, _)| key != "TTRPC_ADDRESS");
        variables.push(("TTRPC_ADDRESS".into(), address.into()));
    }
    variables.push(("OTEL_SERVICE_NAME".into(), format!("containerd-shim-{}", flags.id).into()));
    variables
        .into_iter()
        .map(|(key, value)| {
            let entry = [key.as_bytes(), b"=", value.as_bytes()].concat();
            CString::new(entry).context("environment with a NUL")
        })
        .collect()
}

/// A copy of a descriptor above those that the daemon gets.
fn above_ours(fd: &OwnedFd) -> Result<OwnedFd> {
    Ok(adopt(fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(EXE_FD + 1))?)?)
}

/// One more than containerd's own: under memory pressure the shim goes before the daemon.
fn oom_score_adj(containerd: Pid) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{containerd}/oom_score_adj")).ok()?;
    let score: i32 = text.trim().parse().ok()?;
    Some((score + 1).min(OOM_SCORE_ADJ_MAX))
}

/// Joins the cgroup of option ShimCgroup: on v1 in every hierarchy where it exists, as Go's shim does.
fn join_cgroup(path: &str) -> Result<()> {
    let below = path.trim_start_matches('/');
    if Path::new(below).components().any(|c| c == std::path::Component::ParentDir) {
        bail!("ShimCgroup {path} leads outside of the hierarchy");
    }
    let base = Path::new("/sys/fs/cgroup");
    if base.join("cgroup.procs").exists() {
        return join_one(&base.join(below));
    }
    let mut joined = false;
    for entry in fs::read_dir(base).context("list /sys/fs/cgroup")? {
        let hierarchy = entry?;
        // cpu -> cpu,cpuacct is the same hierarchy; `unified` is no place for processes of v1.
        if hierarchy.file_type()?.is_symlink() || hierarchy.file_name() == "unified" {
            continue;
        }
        let dir = hierarchy.path().join(below);
        if dir.join("cgroup.procs").exists() {
            join_one(&dir)?;
            joined = true;
        }
    }
    if joined { Ok(()) } else { bail!("failed to load cgroup {path}: it does not exist in any hierarchy") }
}

fn join_one(dir: &Path) -> Result<()> {
    fs::write(dir.join("cgroup.procs"), "0").with_context(|| format!("join {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_was_killed_is_none() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        still_alive(pid).unwrap();
        child.kill().unwrap();
        let error = std::iter::repeat_with(|| still_alive(pid)).find_map(Result::err).unwrap();
        assert!(error.to_string().contains("SIGKILL"), "{error}");
        // Reaped already.
        let _ = child.wait();
    }

    #[test]
    fn socket_name_is_the_hash_of_the_joined_path() {
        let path = socket_path(Path::new("/run/containerd/s"), "/run/containerd/containerd.sock", "ns", "c1");
        let hash = sha256::hex(b"/run/containerd/containerd.sock/ns/c1");
        assert_eq!(path, Path::new("/run/containerd/s").join(&hash));
        assert_eq!(
            socket_path(Path::new("/s"), "/run//containerd/x/../containerd.sock", "ns", "c1").file_name(),
            path.file_name()
        );
    }

    #[test]
    fn clean_is_gos() {
        for (path, expected) in
            [("/a/../../b", "/b"), ("a/../../b", "../b"), ("//a/./b/", "/a/b"), ("/", "/")]
        {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = listen(&path).unwrap().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let served = living::tests::answer_once(first);
        assert!(listen(&path).unwrap().is_none());
        drop(served.join().unwrap());
        assert!(listen(&path).unwrap().is_some());
    }
}
