//! `create` and `run`: a bundle becomes a container.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};

use super::dir::{Dir, write_atomically};
use super::idmap::{self, IdRange};
use super::listener::send_filter;
use super::runc_config::RuncConfig;
use super::spawn::{Launch, Spawned, spawn};
use super::state::{State, unit_manager};
use super::{
    CgroupManager, Console, CreateOptions, Error, NotifySocket, Result, RootSwitch, Runtime, Started,
};
use crate::cgroup::{Cgroup, Layout, Mode as CgroupMode, OnDenied, UnitRequest};
use crate::init::{Gate, HookOutput, HookState, Kind, run_host_hooks};
use crate::plan::{CgroupView, Facts, IdMaps, Plan, Request, Step, SwitchRoot};
use crate::resctrl::Group;
use crate::selfexe::ANNOTATION;
use crate::sorted::map_of;
use crate::spec::list;

/// Whether the program is held back until `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartWhen {
    /// `create`.
    Later,
    /// `run`.
    Now,
}

pub(super) fn create(runtime: &Runtime, options: CreateOptions, when: StartWhen) -> Result<Started> {
    make(runtime, &options, |making, console| making.run(console, when))
}

/// Reads the config, checks it, and calls `act` to make the container in its new directory; undoes all if that fails.
pub(super) fn make(
    runtime: &Runtime,
    options: &CreateOptions,
    act: impl FnOnce(&Making<'_>, Option<OwnedFd>) -> Result<Started>,
) -> Result<Started> {
    let bundle = absolute(&options.bundle)?;
    let dir = Dir::of(runtime, &options.id)?;
    let Planned { spec, cgroup, plan } = planned(runtime, options, &bundle, &dir)?;
    let preserve_fds = options.preserve_fds.saturating_add(options.activation.listen_fds);
    super::checks::own_binary(spec.annotations().as_ref().and_then(|all| all.get(ANNOTATION)))?;
    super::checks::host(&spec)?;
    check_preserved(preserve_fds)?;
    let console = connect_console(&options.console, &spec)?;
    check_rootfs(&plan.rootfs)?;
    let covered_mount = super::host_mounts::covered(&spec, &plan.rootfs)?;
    let intel_rdt = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
    let resctrl = intel_rdt.map(|_| crate::resctrl::root()).transpose()?;
    let group = match (intel_rdt, &resctrl) {
        (Some(config), Some(root)) => Some(Group::new(root, config, &options.id)?),
        _ => None,
    };

    dir.create()?;
    let making = Making {
        runtime,
        options,
        bundle: &bundle,
        spec: &spec,
        plan: &plan,
        cgroup: &cgroup,
        dir: &dir,
        preserve_fds,
        group,
        covered_mount,
    };
    act(&making, console).inspect_err(|_| making.undo())
}

/// All that is known before anything is made.
pub(super) struct Planned {
    pub spec: Spec,
    pub cgroup: Cgroup,
    pub plan: Plan,
}

/// Reads the config and plans; changes nothing.
pub(super) fn planned(
    runtime: &Runtime,
    options: &CreateOptions,
    bundle: &Path,
    dir: &Dir,
) -> Result<Planned> {
    let config = options.config.clone().unwrap_or_else(|| bundle.join("config.json"));
    let mut spec = super::rootless::load(&config)?;
    options.activation.apply(&mut spec, dir);
    let layout = Layout::detect()?;
    let denied = if runtime.rootless { OnDenied::Ignore } else { OnDenied::Fail };
    let cgroups_path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let cgroup = match runtime.cgroups {
        CgroupManager::Disabled => Cgroup::none(&layout),
        CgroupManager::Systemd => systemd_cgroup(runtime, &options.id, &spec, &layout, denied)?,
        _ => Cgroup::resolve(&layout, &options.id, cgroups_path, denied)?,
    };
    let is_v2 = layout.mode() == CgroupMode::V2;
    let facts = Facts {
        cgroup_v1: cgroup_views(runtime, &layout, &cgroup),
        cgroup_v2: cgroup.paths().into_values().next().filter(|_| is_v2),
        cgroup_v2_mount: layout.hierarchies().first().map(|v2| v2.mountpoint.clone()).filter(|_| is_v2),
    };
    let request = Request {
        id: &options.id,
        bundle,
        switch_root: match options.root_switch {
            RootSwitch::Pivot => SwitchRoot::Pivot,
            RootSwitch::Move => SwitchRoot::Move,
        },
        new_keyring: options.new_keyring,
    };
    let plan = crate::plan::plan(&spec, &request, &facts)?;
    Ok(Planned { spec, cgroup, plan })
}

/// The place of the unit that systemd is going to make.
fn systemd_cgroup(
    runtime: &Runtime,
    id: &str,
    spec: &Spec,
    layout: &Layout,
    denied: OnDenied,
) -> Result<Cgroup> {
    let none = LinuxResources::default();
    let linux = spec.linux().as_ref();
    let annotations = spec.annotations().iter().flatten();
    let request = UnitRequest {
        id,
        cgroups_path: linux.and_then(|linux| linux.cgroups_path().as_deref()),
        resources: linux.and_then(|linux| linux.resources().as_ref()).unwrap_or(&none),
        annotations: annotations.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        manager: unit_manager(runtime.rootless),
    };
    Ok(Cgroup::resolve_systemd(layout, &request, denied)?)
}

/// A container being made: what every part of it needs.
pub(super) struct Making<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) options: &'a CreateOptions,
    pub(super) bundle: &'a Path,
    pub(super) spec: &'a Spec,
    pub(super) plan: &'a Plan,
    pub(super) cgroup: &'a Cgroup,
    pub(super) dir: &'a Dir,
    /// How many descriptors from 3 on the program gets.
    preserve_fds: u32,
    /// Its group in resctrl.
    pub(super) group: Option<Group<'a>>,
    /// See [`State::covered_mount`].
    covered_mount: Option<i32>,
}

impl Making<'_> {
    fn run(&self, console: Option<OwnedFd>, when: StartWhen) -> Result<Started> {
        let fifo = match when {
            StartWhen::Later => Some(make_fifo(&self.dir.fifo())?),
            StartWhen::Now => None,
        };
        // Before anything else is made: were this process killed now, `delete --force` finds what to remove.
        let mut state = self.initial_state()?;
        self.dir.write(&state)?;
        let notify = self.notify_socket(when)?;
        self.cgroup.create()?;
        if self.runtime.rootless && self.cgroup.is_absent() && !state.has_own_pid_namespace() {
            // runc's words.
            log::warn!(
                "Creating a rootless container with no cgroup and no private pid namespace. Such configuration is \
                 strongly discouraged (as it is impossible to properly kill all container's processes)"
            );
        }
        if let Some(group) = &self.group {
            group.make()?;
        }
        let none = LinuxResources::default();
        let resources = self.resources().unwrap_or(&none);
        // v2 can take them while init makes its devices, v1 can't.
        let devices_first = self.cgroup.mode() != CgroupMode::V2;
        if devices_first && self.has_cgroup() {
            self.cgroup.apply_devices(resources)?;
        }
        if let Some(maps) = &self.plan.id_maps {
            self.give_pipes(maps);
        }
        let hook_state = self.hook_state("creating", 0);
        let spawned = spawn(Launch {
            plan: self.plan,
            cgroup: self.cgroup,
            gate: fifo.map_or(Gate::Message, Gate::Fifo),
            console,
            hook_output: self.hook_output(&hook_state)?,
            hook_state,
            preserve_fds: self.preserve_fds,
            enter: None,
            root: None,
            resctrl: self.group.iter().flat_map(Group::dirs).map(Path::to_owned).collect(),
        })?;
        let apply_limits = || match devices_first {
            _ if !self.has_cgroup() => Ok(()),
            true => self.cgroup.apply_limits(resources),
            false => self.cgroup.apply(resources),
        };
        let finished =
            apply_limits().map_err(Error::from).and_then(|()| self.finish(&spawned, &mut state, when));
        finished.inspect_err(|_| spawned.kill())?;
        Ok(Started { pid: spawned.pid, pidfd: spawned.pidfd, notify })
    }

    /// The program's `NOTIFY_SOCKET`; after `create` it is `start` that makes it.
    fn notify_socket(&self, when: StartWhen) -> Result<Option<NotifySocket>> {
        self.options.activation.make_directory(self.dir)?;
        match (&self.options.activation.notify, when) {
            (Some(manager), StartWhen::Now) => NotifySocket::bind(self.dir, manager),
            _ => Ok(None),
        }
    }

    /// Everything that the runtime does while init mounts, then init's answer.
    fn finish(&self, spawned: &Spawned, state: &mut State, when: StartWhen) -> Result<()> {
        let seccomp = self.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let filter = seccomp.map(crate::seccomp::compile).transpose()?;
        state.set_init(spawned.pid)?;
        self.check_joined(spawned.pid, state)?;
        self.delegate(state)?;
        // A cgroup that rootless use was refused is left out now.
        state.cgroup_paths = self.cgroup.paths();
        self.dir.write(state)?;
        if self.plan.steps.iter().any(|step| matches!(step, Step::RuntimeHooks)) {
            spawned.expect(Kind::RuntimeHooks, self.cgroup)?;
            self.run_hooks(spawned.pid)?;
            spawned.tell(Kind::HooksDone, &[], self.cgroup)?;
        }
        // Not before: while init waits for the hooks, HooksDone is the message it expects.
        if let Some((profile, filter)) = seccomp.zip(filter) {
            let state = || self.hook_state("creating", spawned.pid);
            send_filter(spawned, profile, &filter, state, self.cgroup)?;
        }
        match when {
            StartWhen::Later => {
                spawned.tell(Kind::Start, &[], self.cgroup)?;
                spawned.expect(Kind::Ready, self.cgroup)?;
                self.hand_over(spawned.pid, spawned.pidfd.as_fd())
            }
            StartWhen::Now => {
                self.hand_over(spawned.pid, spawned.pidfd.as_fd())?;
                spawned.tell(Kind::Start, &[], self.cgroup)?;
                spawned.executed(self.cgroup)?;
                self.run_poststart(spawned.pid)
            }
        }
    }

    pub(super) fn has_cgroup(&self) -> bool {
        self.runtime.cgroups != CgroupManager::Disabled
    }

    pub(super) fn resources(&self) -> Option<&LinuxResources> {
        let resources = self.spec.linux().as_ref()?.resources().as_ref()?;
        if !self.has_cgroup() && has_limits(resources) {
            log::warn!("linux.resources is ignored: cgroups are disabled");
        }
        Some(resources)
    }

    fn give_pipes(&self, maps: &IdMaps) {
        if let Some(process) = self.spec.process() {
            idmap::give_pipes(process, &maps.uids);
        }
    }

    /// A user namespace that was joined must have the maps that config.json gives, and those must have the
    /// process's ids.
    fn check_joined(&self, pid: i32, state: &mut State) -> Result<()> {
        let user = crate::spec::namespace(self.spec, LinuxNamespaceType::User);
        if user.is_none() || self.plan.id_maps.is_some() {
            return Ok(());
        }
        // Gone already: its own words are the error.
        let Some(maps) = idmap::read(pid) else { return Ok(()) };
        idmap::check_joined(self.spec, &maps)?;
        self.give_pipes(&maps);
        state.config.uid_mappings = IdRange::list(&maps.uids);
        state.config.gid_mappings = IdRange::list(&maps.gids);
        if let Some(rest) = &mut state.config.rest {
            rest.give_devices(&maps.uids, &maps.gids);
        }
        Ok(())
    }

    /// A container that sees its own cgroup, writable, gets it (as runc does with systemd, and crun).
    pub(super) fn delegate(&self, state: &State) -> Result<()> {
        let Some(process) = self.spec.process().as_ref().filter(|_| delegates_cgroup(self.spec)) else {
            return Ok(());
        };
        let uids = IdRange::map(state.config.uid_mappings.as_ref());
        let uid = process.user().uid();
        let owner = if uids.is_empty() { Some(uid) } else { crate::spec::host_id(&uids, uid) };
        let Some(owner) = owner.filter(|owner| *owner != nix::unistd::geteuid().as_raw()) else {
            return Ok(());
        };
        match self.cgroup.delegate(owner) {
            // An ordinary user gives nothing away.
            Err(e) if self.runtime.rootless && e.is_denied() => {
                log::debug!("the cgroup is not given to uid {owner}: {e}");
                Ok(())
            }
            result => Ok(result?),
        }
    }

    pub(super) fn initial_state(&self) -> Result<State> {
        let (id, keyring) = (&self.options.id, self.options.new_keyring);
        let mut state = State::new(self.runtime, id, self.bundle, self.spec, &self.plan.rootfs, keyring);
        state.cgroup_paths = self.cgroup.paths();
        if let Some(group) = &self.group {
            state.intel_rdt_path = group.dir().display().to_string();
            state.intel_rdt_mon_path =
                group.monitoring().map(|dir| dir.display().to_string()).unwrap_or_default();
        }
        if let Some(unit) = self.cgroup.unit_name() {
            state.set_unit(unit);
        }
        state.covered_mount = self.covered_mount;
        state.config_file = self.options.config.clone();
        state.config.rest = Some(RuncConfig::new(self.spec, self.bundle, self.options.root_switch)?);
        Ok(state)
    }

    /// Tells the callers who asked where the process is.
    pub(super) fn hand_over(&self, pid: i32, pidfd: BorrowedFd<'_>) -> Result<()> {
        if let Some(path) = &self.options.pid_file {
            write_atomically(path, pid.to_string().as_bytes(), 0o644)?;
        }
        // crun's form of --pidfd-socket.
        let receiver = self.spec.annotations().as_ref().and_then(|all| all.get("run.oci.pidfd_receiver"));
        let receiver = receiver.filter(|path| !path.is_empty()).map(Path::new);
        for path in self.options.pidfd_socket.as_deref().into_iter().chain(receiver) {
            send_pidfd(path, pidfd)?;
        }
        Ok(())
    }

    /// Files that the hooks in the container write to: opened here, where paths are the host's.
    fn hook_output(&self, state: &HookState) -> Result<HookOutput> {
        let inside = |step: &Step| matches!(step, Step::ContainerHooks(_) | Step::StartHooks(_));
        match self.plan.steps.iter().any(inside) {
            true => Ok(HookOutput::open(&state.annotations)?),
            false => Ok(HookOutput::default()),
        }
    }

    pub(super) fn run_hooks(&self, pid: i32) -> Result<()> {
        let Some(hooks) = self.spec.hooks() else { return Ok(()) };
        let state = self.hook_state("creating", pid);
        // runc is in the bundle then; its `start` and `delete` are where they were called.
        let dir = Some(self.bundle);
        // The spec deprecates prestart; Docker still uses it.
        #[allow(deprecated)]
        run_host_hooks("prestart", list(hooks.prestart()), &state, dir)?;
        run_host_hooks("createRuntime", list(hooks.create_runtime()), &state, dir)?;
        Ok(())
    }

    fn run_poststart(&self, pid: i32) -> Result<()> {
        let hooks = self.spec.hooks().as_ref().map(|hooks| list(hooks.poststart())).unwrap_or_default();
        if hooks.is_empty() {
            return Ok(());
        }
        Ok(run_host_hooks("poststart", hooks, &self.hook_state("running", pid), Some(self.bundle))?)
    }

    pub(super) fn hook_state(&self, status: &'static str, pid: i32) -> HookState {
        let annotations = self.spec.annotations().iter().flatten();
        HookState {
            oci_version: self.spec.version().clone(),
            id: self.options.id.clone(),
            status,
            pid,
            bundle: self.bundle.display().to_string(),
            annotations: map_of(annotations.map(|(k, v)| (k.clone(), v.clone()))),
        }
    }

    /// Leaves nothing behind after a failure. Errors here would hide the one that matters: they are logged.
    fn undo(&self) {
        // runtime.md "Lifecycle": after a failed hook the container is destroyed, poststop hooks included.
        let hooks = self.spec.hooks().as_ref().map(|hooks| list(hooks.poststop())).unwrap_or_default();
        for hook in hooks {
            if let Err(failure) = run_host_hooks(
                "poststop",
                std::slice::from_ref(hook),
                &self.hook_state("stopped", 0),
                Some(self.bundle),
            ) {
                log::warn!("{failure}");
            }
        }
        let group = self.group.as_ref().map_or(Ok(()), Group::undo);
        let unmounted = super::host_mounts::undo(&self.plan.rootfs, self.covered_mount);
        for (what, result) in [
            ("mounts", unmounted),
            ("cgroup", self.cgroup.remove().map_err(Error::from)),
            ("resctrl", group.map_err(Error::from)),
            ("state", self.dir.remove()),
        ] {
            if let Err(error) = result {
                log::warn!("after a failed create: {what}: {error}");
            }
        }
    }
}

/// Whether the container has a cgroup namespace of its own and a writable cgroup mount at the usual place.
fn delegates_cgroup(spec: &Spec) -> bool {
    let private = crate::spec::namespace(spec, LinuxNamespaceType::Cgroup)
        .is_some_and(|ns| ns.path().as_ref().is_none_or(|path| path.as_os_str().is_empty()));
    private
        && list(spec.mounts()).iter().any(|mount| {
            let readonly =
                list(mount.options()).iter().rev().find(|o| matches!(o.as_str(), "ro" | "rro" | "rw"));
            mount.typ().as_deref() == Some("cgroup")
                && mount.destination() == Path::new("/sys/fs/cgroup")
                && readonly.is_none_or(|option| option == "rw")
        })
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io("resolve", path, e))
}

fn check_rootfs(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        // runc's words.
        Ok(found) if found.is_symlink() => {
            let words = "invalid rootfs: not an absolute path, or a symlink";
            Err(crate::spec::Error::Invalid(words.into()).into())
        }
        Ok(_) => Err(Error::io("open rootfs", path, std::io::Error::from_raw_os_error(libc::ENOTDIR))),
        Err(e) => Err(Error::io("open rootfs", path, e)),
    }
}

/// Whether anything but device rules is asked for: those every engine adds on its own.
fn has_limits(resources: &LinuxResources) -> bool {
    let mut rest = resources.clone();
    rest.set_devices(None);
    rest != LinuxResources::default()
}

/// The v1 hierarchies for a `cgroup` mount; none on pure v2, which is mounted by itself.
pub(super) fn cgroup_views(runtime: &Runtime, layout: &Layout, cgroup: &Cgroup) -> Vec<CgroupView> {
    if layout.mode() == CgroupMode::V2 {
        return Vec::new();
    }
    let paths = cgroup.paths();
    let v1 = layout.hierarchies().iter().filter_map(|hierarchy| {
        let name = hierarchy.mountpoint.file_name()?.to_string_lossy().into_owned();
        let host_dir = match paths.get(hierarchy.controllers.first()?) {
            Some(dir) => dir.clone(),
            // Without a cgroup of its own the container is in the caller's.
            None if paths.is_empty() => hierarchy.own_dir().ok()?,
            None => return None,
        };
        let own_dir = if runtime.rootless { hierarchy.own_dir().ok() } else { None };
        Some(CgroupView { name, controllers: hierarchy.controllers.clone(), host_dir, own_dir })
    });
    v1.collect()
}

/// The FIFO that init blocks on. O_PATH: the descriptor crosses into the container's process, and gives
/// it nothing but this file.
fn make_fifo(path: &Path) -> Result<OwnedFd> {
    // runc's mode: any uid of the container may open it for writing, through its descriptor only. The
    // caller's umask must not take that from a program that is not root.
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(|e| Error::io("make", path, e.into()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o622))
        .map_err(|e| Error::io("make", path, e))?;
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    nix::fcntl::open(path, flags, Mode::empty()).map_err(|e| Error::io("open", path, e.into()))
}

/// The console socket, when the config asks for a terminal.
fn connect_console(console: &Console, spec: &Spec) -> Result<Option<OwnedFd>> {
    let terminal = spec.process().as_ref().and_then(|process| process.terminal()) == Some(true);
    super::connect_console(console, terminal)
}

/// `--preserve-fds` and `LISTEN_FDS`: each must be open and inherited. One of ours has taken the number of one
/// that is not; ours close at exec.
pub(super) fn check_preserved(count: u32) -> Result<()> {
    use nix::fcntl::{F_GETFD, FdFlag, fcntl};
    for fd in 3..3u32.saturating_add(count) {
        let flags = i32::try_from(fd).ok().and_then(|fd| fcntl(crate::sys::fs::borrow(fd), F_GETFD).ok());
        if flags.is_none_or(|flags| FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC)) {
            return Err(Error::PreservedFd(fd));
        }
    }
    Ok(())
}

/// `--pidfd-socket`: sends the pidfd over the AF_UNIX stream socket at a path.
pub(super) fn send_pidfd(path: &Path, fd: BorrowedFd<'_>) -> Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let socket = super::connect(path)?;
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let parts = [std::io::IoSlice::new(b"pidfd")];
    sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None)
        .map_err(|e| Error::io("send descriptor to", path, e.into()))?;
    Ok(())
}
