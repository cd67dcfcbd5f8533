//! `exec`: a further process in a running container.

use std::os::fd::AsFd;

use oci_spec::runtime::{Process, Spec};

use super::create::{check_preserved, send_pidfd};
use super::dir::{Dir, write_atomically};
use super::idmap::IdRange;
use super::lifecycle::open_init;
use super::listener::send_filter;
use super::spawn::{Launch, Spawned, spawn};
use super::state::State;
use super::{Error, ExecOptions, Result, Runtime, Started, Status};
use crate::cgroup::Cgroup;
use crate::init::{Gate, HookOutput, HookState};

/// A container that a process is about to be started in: its state and config.json, each read once.
#[derive(Debug)]
pub struct ExecTarget {
    dir: Dir,
    state: State,
    spec: Spec,
}

impl ExecTarget {
    /// Reads a container's state and the config.json of its bundle.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when config.json can't be read.
    pub fn open(runtime: &Runtime, id: &str) -> Result<Self> {
        let dir = Dir::of(runtime, id)?;
        let state = dir.read()?;
        let mut spec = crate::spec::parse_file(&state.config_path())?;
        if state.namespace_flags() & libc::CLONE_NEWUSER != 0 {
            // One that an ordinary user's config did not name.
            crate::spec::ensure_user_namespace(&mut spec);
        }
        Ok(ExecTarget { dir, state, spec })
    }

    /// The `process` object of config.json: what the flags of `exec` are merged into.
    ///
    /// # Errors
    /// When there is none.
    pub fn process(&self) -> Result<Process> {
        let missing = || crate::spec::Error::Invalid("process property must not be empty".into());
        Ok(self.spec.process().clone().ok_or_else(missing)?)
    }

    /// Starts a further process and returns once it was executed.
    ///
    /// # Errors
    /// Any [`Error`]: [`Error::Stopped`] and [`Error::Paused`] among them.
    pub fn exec(&self, options: &ExecOptions) -> Result<Started> {
        start(self, options)
    }
}

fn start(container: &ExecTarget, options: &ExecOptions) -> Result<Started> {
    let ExecTarget { dir, state, spec } = container;
    super::checks::own_binary(state.annotations().get(crate::selfexe::ANNOTATION))?;
    let cgroup = state.cgroup()?;
    match super::lifecycle::status(dir, state, &cgroup)? {
        Status::Stopped => return Err(Error::Stopped),
        Status::Creating => return Err(Error::StillCreating),
        Status::Paused if !options.ignore_paused => return Err(Error::Paused),
        _ => {}
    }
    crate::spec::check_process(&options.process)?;
    super::checks::labels(&options.process)?;
    check_user(state, options)?;
    check_preserved(options.preserve_fds)?;
    let console = super::connect_console(&options.console, options.process.terminal() == Some(true))?;
    let plan = crate::plan::exec_plan(spec, &options.process, &state.id, !state.config.no_new_keyring)?;
    // Before init's pidfd, which proves that the pid is still init's.
    let root = super::host_mounts::root_of(state)?;
    let init = open_init(state)?.ok_or(Error::Stopped)?;
    let target = exec_cgroup(cgroup, &options.cgroup)?;
    let launch = |cgroup, console, root| Launch {
        plan: &plan,
        cgroup,
        gate: Gate::Open,
        console,
        root,
        hook_state: hook_state(state),
        hook_output: HookOutput::default(),
        preserve_fds: options.preserve_fds,
        enter: Some((init.as_fd(), state.namespace_flags())),
        resctrl: state.resctrl_dirs(),
    };
    let spawned = match spawn(launch(&target, console, root)) {
        // The container has moved its processes below its cgroup and enabled controllers there, so that
        // no process may be in it itself: init's own cgroup is where the process belongs (runc #2356).
        Err(Error::Cgroup(e)) if options.cgroup.is_empty() && e.errno() == Some(nix::errno::Errno::EBUSY) => {
            let console = super::connect_console(&options.console, options.process.terminal() == Some(true))?;
            let fallback = target.of_process(state.init_process_pid)?;
            spawn(launch(&fallback, console, super::host_mounts::root_of(state)?))?
        }
        other => other?,
    };
    finish(&spawned, container, options, &target).inspect_err(|_| spawned.kill())?;
    Ok(Started { pid: spawned.pid, pidfd: spawned.pidfd, notify: None })
}

/// The user namespace must have the ids that the process is to get.
fn check_user(state: &State, options: &ExecOptions) -> Result<()> {
    super::rootless::check_exec(&options.process, state.init_process_pid)?;
    let config = &state.config;
    let (uids, gids) =
        (IdRange::map(config.uid_mappings.as_ref()), IdRange::map(config.gid_mappings.as_ref()));
    if !uids.is_empty() && !gids.is_empty() {
        crate::spec::check_mapped(&options.process, &uids, &gids)?;
        super::idmap::give_pipes(&options.process, &uids);
    }
    Ok(())
}

fn finish(spawned: &Spawned, container: &ExecTarget, options: &ExecOptions, cgroup: &Cgroup) -> Result<()> {
    if let Some(profile) = container.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        let filter = crate::seccomp::compile(profile)?;
        send_filter(spawned, profile, &filter, || agent_state(&container.state), cgroup)?;
    }
    spawned.executed(cgroup)?;
    if let Some(path) = &options.pid_file {
        write_atomically(path, spawned.pid.to_string().as_bytes(), 0o644)?;
    }
    if let Some(path) = &options.pidfd_socket {
        send_pidfd(path, spawned.pidfd.as_fd())?;
    }
    Ok(())
}

/// The cgroup for the process: the container's, or sub-cgroups of it named by `--cgroup`, each
/// `[controllers:]path`.
fn exec_cgroup(container: Cgroup, names: &[String]) -> Result<Cgroup> {
    let mut cgroup = container;
    for name in names {
        cgroup = match name.split_once(':') {
            None => cgroup.sub(name)?,
            Some((controllers, path)) => {
                let controllers: Vec<&str> = controllers.split(',').collect();
                cgroup.sub_of(&controllers, path)?
            }
        };
    }
    Ok(cgroup)
}

/// The container as a seccomp agent sees it: its process is another than the one that the listener is of.
fn agent_state(state: &State) -> HookState {
    HookState {
        pid: state.init_process_pid,
        bundle: state.bundle().display().to_string(),
        annotations: state.annotations(),
        ..hook_state(state)
    }
}

/// Exec runs no hooks; the field has to hold something.
fn hook_state(state: &State) -> HookState {
    HookState {
        oci_version: state.config.version.clone(),
        id: state.id.clone(),
        status: "running",
        pid: 0,
        bundle: String::new(),
        annotations: std::collections::BTreeMap::new(),
    }
}
