//! Everything after create: state, start, signals, pause, delete.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::{LinuxIntelRdt, LinuxResources};

use super::dir::{Dir, validate_id};
use super::process_stat::ProcessStat;
use super::state::{IntelRdt, Maker, State};
use super::{ContainerState, Error, KillTarget, Result, Runtime, Status};
use crate::cgroup::Cgroup;
use crate::init::{Failure, HookState, run_host_hooks};
use crate::resctrl;
use crate::sorted::list_of;
use crate::sys::process::{pidfd_open, pidfd_send_signal};

/// A container as it is on disk and in the kernel.
pub(super) struct Loaded {
    pub(super) dir: Dir,
    pub(super) state: State,
    pub(super) cgroup: Cgroup,
    pub(super) status: Status,
}

pub(super) fn load(runtime: &Runtime, id: &str) -> Result<Loaded> {
    let dir = Dir::of(runtime, id)?;
    let state = dir.read()?;
    let cgroup = state.cgroup()?;
    let status = status(&dir, &state, &cgroup)?;
    Ok(Loaded { dir, state, cgroup, status })
}

/// Status as runc finds it: init's liveness, the FIFO, the freezer.
pub(super) fn status(dir: &Dir, state: &State, cgroup: &Cgroup) -> Result<Status> {
    match state.init_process_pid {
        0 => Ok(Status::Creating),
        _ => status_of(dir, state.live_init()?, state.maker(), || Ok(cgroup.is_frozen()?)),
    }
}

fn status_of(
    dir: &Dir,
    init: Option<ProcessStat>,
    maker: Maker,
    is_frozen: impl FnOnce() -> Result<bool>,
) -> Result<Status> {
    let Some(init) = init else { return Ok(Status::Stopped) };
    if is_frozen()? {
        return Ok(Status::Paused);
    }
    Ok(match init.executed {
        _ if dir.fifo().exists() => Status::Created,
        // `run` has no FIFO: its init is still at work. runc always has one; its init closes it a moment before it
        // executes the program (since 1.1.12, CVE-2024-21626), and is running for runc from then on.
        false if maker == Maker::Davit => Status::Creating,
        _ => Status::Running,
    })
}

/// A pidfd of init, `None` when it is gone. Start time is compared after opening, so that the descriptor
/// can't be that of a later process with the same pid (rule: no signal to a pid not proven ours).
pub(super) fn open_init(state: &State) -> Result<Option<OwnedFd>> {
    let pid = state.init_process_pid;
    if pid <= 0 {
        return Ok(None);
    }
    match pidfd_open(pid) {
        Ok(pidfd) => {
            let stat = ProcessStat::read(pid)?;
            Ok(stat.is_some_and(|stat| stat.start == state.init_process_start).then_some(pidfd))
        }
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(e) => Err(Error::Runtime(Failure::new("open pidfd of", pid.to_string(), &e))),
    }
}

pub(super) fn start(runtime: &Runtime, id: &str) -> Result<()> {
    let container = load(runtime, id)?;
    match container.status {
        Status::Created => {}
        Status::Creating => return Err(Error::StillCreating),
        Status::Stopped => return Err(Error::StartStopped),
        // A paused container that was created only is started by runc too, and blocks: say so instead.
        Status::Paused | Status::Running => return Err(Error::AlreadyRunning),
    }
    let init = open_init(&container.state)?.ok_or(Error::StartStopped)?;
    open_gate(&container.dir, &init)?;
    let hooks = container.state.hooks("poststart");
    if hooks.is_empty() {
        return Ok(());
    }
    let state = hook_state(&container.state, "running", container.state.init_process_pid);
    run_host_hooks("poststart", &hooks, &state, None).map_err(|failure| {
        // runtime.md "Lifecycle": a failed poststart hook stops the container.
        let _ = pidfd_send_signal(init.as_fd(), libc::SIGKILL);
        Error::Runtime(failure)
    })
}

/// Reads exec.fifo, which lets init go on; init keeps it open until execve, so its end means that the
/// program runs, and what follows the first byte is why it does not.
fn open_gate(dir: &Dir, init: &OwnedFd) -> Result<()> {
    let path = dir.fifo();
    let open =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(&path);
    let mut fifo = match open {
        // Another `start` was faster.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(Error::AlreadyRunning),
        other => other.map_err(|e| Error::io("open", &path, e))?,
    };
    let mut said = Vec::new();
    wait_for_gate(&mut fifo, init, &mut said).map_err(|e| Error::io("read", &path, e))?;
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &path, e)),
        _ => {}
    }
    match said.split_first() {
        None => Err(Error::AlreadyDead),
        Some((_, [])) => Ok(()),
        Some((_, failure)) => Err(Error::Init(Failure::decode(failure))),
    }
}

fn wait_for_gate(fifo: &mut File, init: &OwnedFd, said: &mut Vec<u8>) -> std::io::Result<()> {
    let mut buffer = [0u8; 4096];
    loop {
        let mut fds =
            [PollFd::new(fifo.as_fd(), PollFlags::POLLIN), PollFd::new(init.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [_, init_fd] = &fds;
        let dead = init_fd.any().unwrap_or(false);
        match fifo.read(&mut buffer) {
            // End of file also stands for "nobody has opened it yet", which poll does not report.
            Ok(0) if !said.is_empty() || dead => return Ok(()),
            Ok(0) => {}
            Ok(length) => said.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && !dead => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

pub(super) fn state(runtime: &Runtime, id: &str) -> Result<ContainerState> {
    let dir = Dir::of(runtime, id)?;
    let brief = dir.read_brief()?;
    let status = match brief.pid {
        0 => Status::Creating,
        _ => status_of(&dir, brief.live_init()?, brief.maker, || Ok(brief.freezer()?.is_frozen()?))?,
    };
    let owner_uid = std::fs::metadata(dir.path()).map_err(|e| Error::io("stat", dir.path(), e))?.uid();
    Ok(ContainerState {
        pid: if status == Status::Stopped { 0 } else { brief.pid },
        status,
        bundle: brief.bundle(),
        annotations: brief.annotations(),
        oci_version: brief.version,
        rootfs: brief.rootfs,
        created: brief.created,
        id: brief.id,
        owner_uid,
    })
}

pub(super) fn ids(runtime: &Runtime) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(&runtime.root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| Error::state("read", &runtime.root, e))?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", &runtime.root, e))?;
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        ids.extend(entry.file_name().into_string().ok().filter(|id| is_dir && validate_id(id).is_ok()));
    }
    Ok(list_of(ids))
}

pub(super) fn list(runtime: &Runtime) -> Result<Vec<ContainerState>> {
    let mut all = Vec::new();
    for id in ids(runtime)? {
        match state(runtime, &id) {
            Ok(container) => all.push(container),
            // Deleted meanwhile, or not a container's directory.
            Err(Error::NotFound) => {}
            Err(error) => log::warn!("container {id}: {error}"),
        }
    }
    Ok(all)
}

pub(super) fn pids(runtime: &Runtime, id: &str) -> Result<Vec<i32>> {
    let state = Dir::of(runtime, id)?.read()?;
    let cgroup = state.cgroup()?;
    if cgroup.is_absent() {
        return Err(crate::cgroup::Error::NoCgroup("unable to get all container pids").into());
    }
    Ok(cgroup.pids()?)
}

pub(super) fn pause(runtime: &Runtime, id: &str) -> Result<()> {
    let container = load(runtime, id)?;
    match container.status {
        Status::Running | Status::Created => Ok(container.cgroup.freeze()?),
        Status::Creating | Status::Paused | Status::Stopped => Err(Error::NotRunning),
    }
}

pub(super) fn resume(runtime: &Runtime, id: &str) -> Result<()> {
    let container = load(runtime, id)?;
    match container.status {
        Status::Paused => Ok(container.cgroup.thaw()?),
        _ => Err(Error::NotPaused),
    }
}

pub(super) fn update(
    runtime: &Runtime,
    id: &str,
    resources: &LinuxResources,
    intel_rdt: Option<&LinuxIntelRdt>,
) -> Result<()> {
    let mut container = load(runtime, id)?;
    if matches!(container.status, Status::Creating | Status::Stopped) {
        return Err(Error::NotRunning);
    }
    container.cgroup.update(resources)?;
    intel_rdt.map_or(Ok(()), |shares| update_resctrl(&mut container, shares))
}

/// A container without a group gets one, as in runc.
fn update_resctrl(container: &mut Loaded, shares: &LinuxIntelRdt) -> Result<()> {
    let root = resctrl::root()?;
    let Loaded { dir, state, cgroup, .. } = container;
    if state.config.intel_rdt.is_none() {
        state.intel_rdt_path = root.join(&state.id).display().to_string();
    }
    let path = PathBuf::from(&state.intel_rdt_path);
    resctrl::update(&root, &path, shares)?;
    if state.config.intel_rdt.is_some() {
        return Ok(());
    }
    // Noted first: delete removes what is noted.
    state.config.intel_rdt = Some(IntelRdt::default());
    dir.rewrite(state)?;
    cgroup.pids()?.into_iter().try_for_each(|pid| resctrl::add_process(&path, pid))?;
    Ok(())
}

pub(super) fn kill(runtime: &Runtime, id: &str, signal: i32, target: KillTarget) -> Result<()> {
    let container = load(runtime, id)?;
    if container.state.init_process_pid == 0 {
        return Err(Error::NotRunning);
    }
    let own_pid_namespace = container.state.has_own_pid_namespace();
    // Without a pid namespace of its own, init's end does not end the others: SIGKILL means them all.
    if target == KillTarget::All || (signal == libc::SIGKILL && !own_pid_namespace) {
        if container.status == Status::Stopped && container.cgroup.pids()?.is_empty() {
            return Err(Error::NotRunning);
        }
        if !container.cgroup.is_absent() {
            return Ok(container.cgroup.kill(signal)?);
        }
        if container.status != Status::Stopped {
            // runc's words: there is no way to find the others.
            log::warn!(
                "failed to kill all processes, possibly due to lack of cgroup (Hint: enable cgroup v2 delegation)"
            );
        }
    }
    if container.status == Status::Stopped {
        return Err(Error::NotRunning);
    }
    signal_init(&container, signal)
}

fn signal_init(container: &Loaded, signal: i32) -> Result<()> {
    let init = open_init(&container.state)?.ok_or(Error::NotRunning)?;
    match pidfd_send_signal(init.as_fd(), signal) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Err(Error::NotRunning),
        Err(e) => return Err(Error::Runtime(Failure::new("signal", format!("init with {signal}"), &e))),
    }
    if signal != libc::SIGKILL {
        return Ok(());
    }
    if container.status == Status::Paused {
        container.cgroup.thaw()?;
    }
    Ok(container.cgroup.thaw_killed()?)
}

/// How long `delete` waits for a killed init, as runc does (100 times 100 ms).
pub(super) const KILL_PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn delete(runtime: &Runtime, id: &str, force: bool) -> Result<()> {
    let container = match load(runtime, id) {
        Err(Error::NotFound) => {
            // A create that was killed before it wrote a state leaves only the directory. As in runc it goes
            // without force too, with the same answer.
            let dir = Dir::of(runtime, id)?;
            if dir.exists() {
                dir.remove()?;
            }
            return Err(Error::NotFound);
        }
        other => other?,
    };
    match container.status {
        Status::Stopped => {}
        // Its program has not started, so nothing is lost.
        Status::Created => kill_and_wait(&container)?,
        // An init that was not written down yet dies with its runtime (see `Kind::Start`).
        Status::Creating | Status::Running | Status::Paused if force => kill_and_wait(&container)?,
        Status::Creating | Status::Running | Status::Paused => {
            return Err(Error::NotStopped { id: id.to_owned(), status: container.status.as_str() });
        }
    }
    destroy(container)
}

fn kill_and_wait(container: &Loaded) -> Result<()> {
    let Some(init) = open_init(&container.state)? else { return Ok(()) };
    match signal_init(container, libc::SIGKILL) {
        Ok(()) | Err(Error::NotRunning) => {}
        Err(error) => return Err(error),
    }
    wait_for_end(&init, KILL_PATIENCE, &container.cgroup)
}

/// A pidfd is readable once its process has ended.
pub(super) fn wait_for_end(pidfd: &OwnedFd, patience: Duration, cgroup: &Cgroup) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(Error::StillRunning(cgroup.describe_processes())),
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(Error::Runtime(Failure::new("wait for", "init", &e.into()))),
        }
    }
}

/// Removes what is left of a stopped container. The state goes last, so that a failed delete can be
/// repeated.
pub(super) fn destroy(container: Loaded) -> Result<()> {
    let Loaded { dir, state, cgroup, status } = container;
    // What runs in the cgroup of a container that was never made is not the container's.
    if !state.has_own_pid_namespace() && status != Status::Creating {
        cgroup.kill(libc::SIGKILL)?;
    }
    cgroup.remove()?;
    super::host_mounts::undo(&state.config.rootfs, state.covered_mount)?;
    state.remove_resctrl()?;
    let hooks = state.hooks("poststop");
    if !hooks.is_empty() {
        let report = hook_state(&state, "stopped", 0);
        // runtime.md "Lifecycle": errors of poststop hooks are logged, the others still run.
        for hook in &hooks {
            if let Err(failure) = run_host_hooks("poststop", std::slice::from_ref(hook), &report, None) {
                log::warn!("{failure}");
            }
        }
    }
    dir.remove()
}

fn hook_state(state: &State, status: &'static str, pid: i32) -> HookState {
    HookState {
        oci_version: state.config.version.clone(),
        id: state.id.clone(),
        status,
        pid,
        bundle: state.bundle().display().to_string(),
        annotations: state.annotations(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::CgroupManager;

    /// Without its FIFO an init that has executed nothing is davit's `run` at work, or runc's, started.
    #[test]
    fn an_init_past_its_gate() {
        let root = tempfile::tempdir().unwrap();
        let runtime =
            Runtime { root: root.path().to_owned(), cgroups: CgroupManager::Cgroupfs, rootless: false };
        let dir = Dir::of(&runtime, "x").unwrap();
        dir.create().unwrap();
        let status = |executed, maker, frozen| {
            let init = ProcessStat { state: 'S', start: 1, executed };
            status_of(&dir, Some(init), maker, || Ok(frozen)).unwrap()
        };
        assert_eq!(status(false, Maker::Davit, false), Status::Creating);
        assert_eq!(status(false, Maker::Other, false), Status::Running);
        assert_eq!(status(true, Maker::Davit, false), Status::Running);
        assert_eq!(status(false, Maker::Other, true), Status::Paused);
        std::fs::write(dir.fifo(), "").unwrap();
        assert_eq!(status(false, Maker::Davit, false), Status::Created);
        assert_eq!(status(false, Maker::Other, false), Status::Created);
        assert_eq!(status_of(&dir, None, Maker::Other, || Ok(false)).unwrap(), Status::Stopped);
    }
}
