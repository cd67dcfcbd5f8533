//! What runs inside the container's process, between clone3 and execve: one loop over the plan's steps.
//!
//! The process is a fork of the runtime without an exec, so the plan is in memory. It is not dumpable and
//! dies with the runtime until it is set up (rule 6); every descriptor that it has opened closes at exec
//! (rule 5).
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod channel;
mod failure;
pub(crate) mod hooks;
mod identity;
mod join;
mod listener;
pub(crate) mod program;

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use oci_spec::runtime::Hook;

pub use channel::{Channel, Heard, Kind, Received};
pub use failure::{Context, Failure, io_reason, reason};
pub use hooks::{HookOutput, HookState, run_host_hooks};
pub use identity::{become_root, limit_name};
pub use join::{Opened, join_namespaces, join_process, open_namespaces, pidfd_pid};
pub use listener::{Handover, TAKEN as LISTENER_TAKEN, loaded as loaded_listener};

use self::hooks::HookSite;
use crate::path::{Descriptors, ProcFs};
use crate::plan::{Mount, Plan, Step, SwitchRoot};
use crate::rootfs::{self, Change, Console, Rootfs};
use crate::seccomp::Filter;
use crate::security::{apparmor, keyring, selinux};
use crate::sys::fs::close_on_exec_from;
use crate::sys::prctl;
use crate::sys::process::{RLimit, Resource, setns};
use crate::sys::signal::{BrokenPipe, exit_on, set_broken_pipe};

/// How init is held back until the user's program may start.
#[derive(Debug)]
pub enum Gate {
    /// `create`: exec.fifo, an O_PATH descriptor; opening it for writing blocks until `start` reads.
    Fifo(OwnedFd),
    /// `run`: the runtime's `Start` message.
    Message,
    /// `exec`: not at all.
    Open,
}

/// What the runtime opened for mounts of a plan, by their number in it.
pub type PreparedMounts = Vec<Option<rootfs::Prepared>>;

/// What init needs besides the plan.
#[derive(Debug)]
pub struct InitContext<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Init's end of the channel.
    pub channel: Channel,
    /// The host's procfs, opened before any root changed.
    pub proc: ProcFs,
    /// How the start is held back.
    pub gate: Gate,
    /// Connected console socket, when there is a terminal.
    pub console: Option<OwnedFd>,
    /// State for the hooks that run in the container.
    pub hook_state: HookState,
    /// Where those hooks write, opened on the host.
    pub hook_output: HookOutput,
    /// How many descriptors after stdio the program keeps.
    pub preserve_fds: u32,
    /// What the runtime opened for the plan's mounts, by their number in it.
    pub prepared: PreparedMounts,
    /// Whether it is dumpable until the runtime has written its id maps, because the runtime is an ordinary
    /// user's and its files in /proc would be root's else.
    pub hide: bool,
    /// For a filter with a listener.
    pub listener: Option<Handover>,
    /// Whether the clone has done all that [`Kind::Go`] stands for, which then is not sent.
    pub acts_at_once: bool,
    /// Whether the runtime makes the network namespace of [`Step::JoinNetwork`], which the clone has made else.
    pub awaits_network: bool,
}

struct Init<'a> {
    context: InitContext<'a>,
    rootfs: Option<Rootfs>,
    /// How many mounts were made.
    mounted: usize,
    program: Option<CString>,
    env: Vec<CString>,
    filter: Option<Filter>,
    /// For what is opened again under a filter that may deny openat2(2).
    descriptors: Option<Descriptors>,
    /// Whether all but the program's descriptors close at execve.
    closing: bool,
    /// The program's limit of descriptors, while init still needs more.
    descriptor_limit: Option<RLimit>,
    /// Whether a seccomp filter is in force.
    filtered: bool,
    /// Whether the program is safe from the runtime's end already.
    independent: bool,
    /// exec.fifo's write end after the gate: it closes at execve, which tells `start` that the program
    /// runs, and takes the reason when it does not.
    started: Option<OwnedFd>,
    /// For hooks: init clears its own.
    caller_umask: nix::sys::stat::Mode,
}

/// The limit of descriptors.
const DESCRIPTORS: Resource = libc::RLIMIT_NOFILE as Resource;

/// Exit code of a container process that failed before execve, as runc's init.
const INIT_FAILED: i32 = 255;

/// Runs the plan's steps and executes the program. On failure reports over the channel and exits.
pub fn run(context: InitContext<'_>) -> ! {
    let mut init = Init {
        env: context.plan.program.env.clone(),
        context,
        rootfs: None,
        mounted: 0,
        program: None,
        filter: None,
        descriptors: None,
        closing: false,
        descriptor_limit: None,
        filtered: false,
        independent: false,
        started: None,
        caller_umask: nix::sys::stat::Mode::S_IWGRP | nix::sys::stat::Mode::S_IWOTH,
    };
    let failure = match init.prepare().and_then(|()| init.steps()) {
        Ok(()) => init.exec(),
        Err(failure) => failure,
    };
    match &init.started {
        // The runtime that made the container is gone; the one that started it reads here.
        Some(fifo) if nix::unistd::write(fifo, &failure.encode()).is_ok() => {}
        // Filters for programs seldom allow sendmsg(2).
        _ if init.filtered && init.context.channel.tell_with(Kind::Failed, &failure.encode()).is_ok() => {}
        _ => report(&init.context.channel, &failure),
    }
    crate::sys::process::exit_now(INIT_FAILED)
}

/// Tells the runtime why; when it is gone already (after `create`), the container's stderr.
pub fn report(channel: &Channel, failure: &Failure) {
    if channel.send_with(Kind::Failed, &failure.encode(), None).is_err() {
        eprintln!("davit: unable to start container process: {failure}");
    }
}

impl Init<'_> {
    fn prepare(&mut self) -> Result<(), Failure> {
        // The parent's death must not leave a half-made container behind. If it is gone already, the
        // channel is closed: the next message that is awaited fails, and where none is, it is looked at here.
        prctl::set_pdeathsig(libc::SIGKILL).during("set parent death signal", String::new)?;
        let _ = prctl::set_name(c"davit:[init]");
        reset_signals().during("reset signals", String::new)?;
        match self.context.gate {
            _ if !self.context.acts_at_once => {
                self.context.channel.expect(Kind::Go).during("wait for the runtime", String::new)?;
            }
            Gate::Open => self.context.channel.check_open().during("look for the runtime", String::new)?,
            Gate::Fifo(_) | Gate::Message => {}
        }
        if self.context.hide {
            prctl::set_dumpable(false).during("make undumpable", String::new)?;
        }
        Ok(())
    }

    fn steps(&mut self) -> Result<(), Failure> {
        let plan = self.context.plan;
        plan.steps.iter().try_for_each(|step| self.step(step))
    }

    fn step(&mut self, step: &Step) -> Result<(), Failure> {
        log::debug!("init: {step:?}");
        match step {
            Step::BecomeRoot(groups) => identity::become_root(*groups),
            Step::Session => nix::unistd::setsid().map(drop).during("start session", String::new),
            Step::Keyring { id, joiner, label } => self.keyring(id, *joiner, label.as_deref()),
            Step::UnshareCgroup => crate::sys::process::unshare(libc::CLONE_NEWCGROUP as u64)
                .during("make cgroup namespace", String::new),
            Step::LoopbackUp => crate::sys::fs::loopback_up().during("bring up", || "lo"),
            Step::JoinNetwork if self.context.awaits_network => self.join_network(),
            Step::JoinNetwork => crate::sys::fs::loopback_up().during("bring up", || "lo"),
            Step::UnshareIpc => crate::sys::process::unshare(libc::CLONE_NEWIPC as u64)
                .during("make ipc namespace", String::new),
            Step::SlaveMounts => rootfs::slave_mounts(),
            Step::HostPropagation(flag, reach) => rootfs::host_propagation(
                *flag,
                *reach,
                &self.context.plan.rootfs,
                &Change::new(&self.context.proc)?,
            ),
            Step::OpenRoot => self.open_root(),
            Step::Mount(mount) => self.mount(mount),
            Step::Device(device) => self.rootfs_mut()?.make_device(device),
            Step::Symlink { path, target, only_if_target } => {
                self.rootfs_mut()?.make_symlink(path, target, *only_if_target)
            }
            Step::Console { size, bind } => self.console(*size, *bind),
            Step::RuntimeHooks => self.runtime_hooks(),
            Step::ContainerHooks(hooks) => self.container_hooks(hooks),
            Step::SwitchRoot(how) => self.switch_root(*how),
            Step::RootPropagation(flag, reach) => rootfs::set_propagation(self.rootfs()?, *flag, *reach),
            Step::Readonly(path) => self.rootfs()?.make_readonly(path),
            Step::Hostname(name) => nix::unistd::sethostname(name).during("set hostname", || name),
            Step::Domainname(name) => {
                crate::sys::process::set_domainname(name).during("set domainname", || name)
            }
            Step::Sysctl(path, value) => self.sysctl(path, value),
            Step::ReadonlyPath(path) => self.rootfs()?.readonly_path(path),
            Step::MaskPath(path) => self.rootfs_mut()?.mask_path(path),
            Step::Rlimits(limits) => self.set_rlimits(limits),
            Step::Personality(domain) => identity::set_personality(*domain),
            Step::MemoryPolicy { name, mode, nodes } => {
                crate::sys::sched::set_memory_policy(*mode, nodes).during("set linux.memoryPolicy", || name)
            }
            Step::Scheduler { name, attr } => {
                crate::sys::sched::set_scheduler(attr).during("set process.scheduler", || name)
            }
            Step::IoPriority { name, value } => {
                crate::sys::sched::set_io_priority(*value).during("set process.ioPriority", || name)
            }
            Step::AppArmor(profile) => self.apparmor(profile),
            Step::SelinuxLabel(label) => self.selinux(label),
            Step::NoNewPrivileges => prctl::set_no_new_privs().during("set no_new_privs", String::new),
            Step::Landlock(rules) => rules.restrict(),
            Step::Seccomp => self.seccomp(),
            Step::UserFiles { uid, cwd } => self.user_files(*uid, cwd),
            Step::Identity(identity) => identity::assume(identity, &self.context.proc),
            Step::FindProgram => {
                self.program = Some(program::find(&self.context.plan.program)?);
                Ok(())
            }
            Step::Gate => self.gate(),
            Step::StartHooks(hooks) => self.run_hooks("startContainer", hooks, "created", &self.env),
        }
    }

    fn run_hooks(
        &self,
        kind: &str,
        hooks: &[Hook],
        status: &'static str,
        env: &[CString],
    ) -> Result<(), Failure> {
        let site = HookSite { dir: None, output: &self.context.hook_output, env };
        hooks::run_hooks(kind, hooks, &self.hook_state(status), &site)
    }

    /// In runc's surroundings: the directory of the rootfs, and the caller's umask in place of init's.
    fn container_hooks(&self, hooks: &[Hook]) -> Result<(), Failure> {
        nix::unistd::fchdir(self.rootfs()?.root().as_fd()).during("change directory to", || "rootfs")?;
        let own = nix::sys::stat::umask(self.caller_umask);
        self.run_hooks("createContainer", hooks, "creating", &[])?;
        nix::sys::stat::umask(own);
        Ok(())
    }

    /// For hooks that run in the container: config.md wants the pid as the container sees it.
    fn hook_state(&self, status: &'static str) -> HookState {
        HookState { status, pid: nix::unistd::getpid().as_raw(), ..self.context.hook_state.clone() }
    }

    fn user_files(&mut self, uid: u32, cwd: &Path) -> Result<(), Failure> {
        let fds = self.open_descriptors()?;
        rootfs::settle_stdio(self.rootfs.as_ref(), uid, &fds)?;
        if let Some(rootfs) = &self.rootfs {
            identity::make_cwd(rootfs.root(), cwd)?;
        }
        if self.context.plan.program.set_home {
            let home = match &self.rootfs {
                Some(rootfs) => program::home(rootfs.root(), &fds, uid),
                None => program::home(&program::current_root().during("open", || "/")?, &fds, uid),
            };
            self.env.push(home_variable(&home));
        }
        self.descriptors = Some(fds);
        Ok(())
    }

    /// `/proc/self/fd`, opened once.
    fn open_descriptors(&mut self) -> Result<Descriptors, Failure> {
        match self.descriptors.take() {
            Some(open) => Ok(open),
            None => self.context.proc.descriptors().during("open", || "/proc/self/fd"),
        }
    }

    fn rootfs(&self) -> Result<&Rootfs, Failure> {
        self.rootfs
            .as_ref()
            .ok_or_else(|| Failure::other("plan", "", "a step needs the rootfs before it is open"))
    }

    fn rootfs_mut(&mut self) -> Result<&mut Rootfs, Failure> {
        self.rootfs
            .as_mut()
            .ok_or_else(|| Failure::other("plan", "", "a step needs the rootfs before it is open"))
    }

    fn open_root(&mut self) -> Result<(), Failure> {
        let mut rootfs = Rootfs::open(&self.context.plan.rootfs, Change::new(&self.context.proc)?)?;
        if self.context.plan.steps.iter().any(|step| matches!(step, Step::MaskPath(_))) {
            rootfs.open_null()?;
        }
        self.rootfs = Some(rootfs);
        // Modes of nodes and directories are exact from here on; Identity sets the program's umask.
        self.caller_umask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        Ok(())
    }

    fn mount(&mut self, mount: &Mount) -> Result<(), Failure> {
        let prepared = self.context.prepared.get_mut(self.mounted).and_then(Option::take);
        self.mounted += 1;
        let rootfs = self
            .rootfs
            .as_mut()
            .ok_or_else(|| Failure::other("plan", "", "a step needs the rootfs before it is open"))?;
        rootfs.mount(mount, prepared, &self.context.proc)
    }

    fn switch_root(&self, how: SwitchRoot) -> Result<(), Failure> {
        if how == SwitchRoot::Move {
            rootfs::hide_host_filesystems(&self.context.proc, &self.context.plan.rootfs)?;
        }
        rootfs::switch_root(self.rootfs()?, how)
    }

    fn console(&mut self, size: Option<crate::sys::fs::WinSize>, bind: bool) -> Result<(), Failure> {
        let socket = self
            .context
            .console
            .take()
            .ok_or_else(|| Failure::other("open terminal", "", "no console socket to send it to"))?;
        let fresh;
        let root = match &self.rootfs {
            Some(rootfs) => rootfs.root(),
            None => {
                fresh = program::current_root().during("open", || "/")?;
                &fresh
            }
        };
        let console = Console::open(root, &self.context.proc, size)?;
        if bind {
            console.bind(root)?;
        }
        console.attach(socket.as_fd())
    }

    fn runtime_hooks(&self) -> Result<(), Failure> {
        self.context.channel.send(Kind::RuntimeHooks).during("tell the runtime", || "to run hooks")?;
        self.context.channel.expect(Kind::HooksDone).during("wait for hooks", String::new).map(drop)
    }

    fn join_network(&self) -> Result<(), Failure> {
        let made = self.context.channel.expect_descriptor(Kind::Network);
        let made = made.during("receive network namespace", String::new)?;
        setns(made.as_fd(), libc::CLONE_NEWNET).during("join network namespace", String::new)
    }

    fn sysctl(&self, path: &Path, value: &str) -> Result<(), Failure> {
        let file = Path::new("sys").join(path);
        self.context.proc.write(&file, value.as_bytes()).during("write sysctl", || path.display().to_string())
    }

    fn apparmor(&self, profile: &str) -> Result<(), Failure> {
        let attr = self.attr_dir()?;
        apparmor::set_exec_profile(attr.as_fd(), profile)
            .map_err(|e| Failure::other("apply apparmor profile", "", e.to_string()))
    }

    fn selinux(&self, label: &str) -> Result<(), Failure> {
        let attr = self.attr_dir()?;
        selinux::set_exec_label(attr.as_fd(), label)
            .map_err(|e| Failure::other("set selinux label", "", e.to_string()))
    }

    fn keyring(&self, id: &str, joiner: keyring::Joiner, label: Option<&str>) -> Result<(), Failure> {
        if let Some(label) = label {
            // Execve clears it.
            let attr = self.attr_dir()?;
            selinux::set_key_label(attr.as_fd(), label)
                .map_err(|e| Failure::other("set selinux label of keys", "", e.to_string()))?;
        }
        keyring::join_session(id, joiner).during("join session keyring", || id)
    }

    fn attr_dir(&self) -> Result<OwnedFd, Failure> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        self.context.proc.open(Path::new("self/attr"), flags).during("open", || "/proc/self/attr")
    }

    /// Loads the filter. The runtime compiled it meanwhile; it waits in the channel.
    ///
    /// Profiles are written for programs and for runc: openat2(2), close_range(2) and the like may be denied
    /// from here on, so what needs them is done before.
    fn seccomp(&mut self) -> Result<(), Failure> {
        self.close_at_exec()?;
        if matches!(self.context.gate, Gate::Fifo(_)) && self.started.is_none() {
            self.descriptors = Some(self.open_descriptors()?);
        }
        if matches!(self.context.plan.steps.last(), Some(Step::Seccomp)) && !self.context.plan.listener {
            // Nothing but execve(2) is left to do then.
            self.survive_runtime()?;
        }
        let filter = match self.filter.take() {
            Some(filter) => filter,
            None => self.receive_filter()?,
        };
        self.filtered = true;
        match &self.context.listener {
            Some(handover) if filter.notify => listener::load(&filter, handover, &self.context.channel),
            _ => crate::sys::seccomp::set_mode_filter(&filter.program, filter.flags)
                .map(drop)
                .during("load seccomp filter", String::new),
        }
    }

    fn receive_filter(&self) -> Result<Filter, Failure> {
        let bytes =
            self.context.channel.expect(Kind::Filter).during("receive seccomp filter", String::new)?;
        Filter::from_bytes(&bytes).ok_or_else(|| Failure::other("receive seccomp filter", "", "malformed"))
    }

    /// Waits to be started. From here on the container lives on without the runtime.
    fn gate(&mut self) -> Result<(), Failure> {
        // A filter that is loaded after the gate is next in the channel: take it before the runtime is gone.
        let mut after_gate =
            self.context.plan.steps.iter().rev().take_while(|step| !matches!(step, Step::Gate));
        if after_gate.any(|step| matches!(step, Step::Seccomp)) {
            self.filter = Some(self.receive_filter()?);
        }
        match &self.context.gate {
            Gate::Open => Ok(()),
            Gate::Message => {
                self.context.channel.expect(Kind::Start).during("wait to be started", String::new).map(drop)
            }
            Gate::Fifo(fifo) => {
                // As pid 1 it would ignore them, and a created container is stopped by SIGTERM like any other.
                exit_on(&[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM])
                    .during("set signal handlers", String::new)?;
                // Not before its pid is on disk may it outlive the runtime: `delete --force` must find it.
                self.context.channel.expect(Kind::Start).during("wait to be recorded", String::new)?;
                prctl::set_pdeathsig(0).during("clear parent death signal", String::new)?;
                self.context.channel.tell(Kind::Ready).during("tell the runtime", || "that init is ready")?;
                let writer = match &self.descriptors {
                    Some(descriptors) => descriptors.reopen(fifo.as_fd(), OFlag::O_WRONLY),
                    None => self.context.proc.reopen(fifo.as_fd(), OFlag::O_WRONLY),
                }
                .during("open", || "exec.fifo")?;
                nix::unistd::write(&writer, b"0").during("write", || "exec.fifo")?;
                self.started = Some(writer);
                Ok(())
            }
        }
    }

    /// Sets all limits, but of descriptors only the hard one: with few of them init could not go on.
    fn set_rlimits(&mut self, limits: &[(Resource, RLimit)]) -> Result<(), Failure> {
        let mut now = limits.to_vec();
        let low =
            |(resource, limit): &&mut (Resource, RLimit)| *resource == DESCRIPTORS && limit.soft < limit.hard;
        for (_, limit) in now.iter_mut().filter(low) {
            self.descriptor_limit = Some(*limit);
            limit.soft = limit.hard;
        }
        identity::set_rlimits(0, &now)
    }

    /// Marks all descriptors but the program's; those opened later are marked as they are opened.
    fn close_at_exec(&mut self) -> Result<(), Failure> {
        if let Some(limit) = self.descriptor_limit.take() {
            identity::set_rlimits(0, &[(DESCRIPTORS, limit)])?;
        }
        if !self.closing {
            let keep = self.context.preserve_fds.saturating_add(3);
            let list = || self.context.proc.open(Path::new("self/fd"), OFlag::O_RDONLY | OFlag::O_DIRECTORY);
            close_on_exec_from(keep, list).during("close descriptors", String::new)?;
            self.closing = true;
        }
        Ok(())
    }

    /// The end of `run`, or of `start`, must not end the program.
    fn survive_runtime(&mut self) -> Result<(), Failure> {
        if !self.independent {
            prctl::set_pdeathsig(0).during("clear parent death signal", String::new)?;
            self.independent = true;
        }
        Ok(())
    }

    fn exec(&mut self) -> Failure {
        if let Err(failure) = self.survive_runtime().and_then(|()| self.close_at_exec()) {
            return failure;
        }
        match &self.program {
            Some(path) => program::exec(path, &self.context.plan.program, &self.env),
            None => Failure::other("exec", "", "the program was not looked up"),
        }
    }
}

fn home_variable(home: &str) -> CString {
    CString::new(format!("HOME={home}")).unwrap_or_else(|_| c"HOME=/".to_owned())
}

/// An empty signal mask, and SIGPIPE as it should be: Rust ignores it, and execve keeps that.
fn reset_signals() -> std::io::Result<()> {
    use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    set_broken_pipe(BrokenPipe::Default)
}
