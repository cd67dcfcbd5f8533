//! Making a process that runs a plan: clone, id maps, cgroup, and the runtime's side of the handshake
//! (see `init::channel`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use super::idmap::{self, is_ordinary_user};
use super::{Result, network};
use crate::cgroup::Cgroup;
use crate::init::{
    Channel, Context, Failure, Gate, Handover, Heard, HookOutput, HookState, InitContext, Kind, Opened,
    Received, join_namespaces, join_process, open_namespaces, pidfd_pid,
};
use crate::path::ProcFs;
use crate::plan::{Entry, Plan};
use crate::resctrl::add_process;
use crate::sys::prctl;
use crate::sys::process::{CLONE_NEWTIME, Exit, Fork, WaitFor, WaitMode, clone3, exit_now, unshare, wait};
use crate::sys::sched::set_affinity;
use crate::sys::shared::SharedWord;

/// What a new process gets besides its plan.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The container's cgroup, made already.
    pub cgroup: &'a Cgroup,
    /// Where the start is held back.
    pub gate: Gate,
    /// Connected console socket.
    pub console: Option<OwnedFd>,
    /// State for hooks inside the container.
    pub hook_state: HookState,
    /// Where those hooks write.
    pub hook_output: HookOutput,
    /// `--preserve-fds`.
    pub preserve_fds: u32,
    /// Exec: init's pidfd and the clone flags of the namespaces to enter.
    pub enter: Option<(BorrowedFd<'a>, i32)>,
    /// Exec without a mount namespace to enter: init's root.
    pub root: Option<OwnedFd>,
    /// Directories in resctrl that the process is added to.
    pub resctrl: Vec<PathBuf>,
}

/// A process that was cloned and acts on its plan.
#[derive(Debug)]
pub struct Spawned {
    /// Pid in the runtime's pid namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// The runtime's end of the channel.
    pub channel: Channel,
    /// Where the number of its seccomp listener will be, if its filter has one.
    pub listener: Option<SharedWord>,
}

/// Clones the process. It is in its cgroup when this returns, and its ids are mapped.
///
/// # Errors
/// EPERM, ENOSPC, ENOSYS of clone3; errors of cgroup and id map writes.
pub fn spawn(launch: Launch<'_>) -> Result<Spawned> {
    if !is_ordinary_user() {
        // Inherited by the child: from its first instruction on nobody may look into it (rule 6).
        prctl::set_dumpable(false).during("make undumpable", String::new)?;
    }
    let proc = ProcFs::host().during("open", || "/proc")?;
    let (ours, theirs) = Channel::pair().during("make channel", String::new)?;
    let (plan, cgroup) = (launch.plan, launch.cgroup);
    let entry = entry(&launch);
    let namespaces = open_namespaces(&plan.namespaces.join)?;
    let prepared = super::mounts::prepare(plan)?;
    let word = plan.listener.then(SharedWord::new).transpose().during("map shared memory", String::new)?;
    if let Some((pidfd, flags)) = launch.enter {
        // Acts on children only, so the next clone is in the container's pid namespace at once.
        if flags & libc::CLONE_NEWPID != 0 && entry == Entry::Direct {
            join_process(pidfd, libc::CLONE_NEWPID, &proc)?;
        }
    }
    let mut flags = if entry == Entry::Direct { plan.namespaces.new } else { 0 };
    let network_home = if plan.namespaces.network_apart { network::home()? } else { None };
    if plan.namespaces.network_apart && network_home.is_none() {
        flags |= libc::CLONE_NEWNET as u64;
    }
    if let Some(cpus) = &plan.outside.affinity.initial {
        // The runtime's own, which the process inherits; what is left for the runtime to do is little.
        set_affinity(0, cpus.words()).during("set process.execCPUAffinity.initial", String::new)?;
    }
    let (fork, in_cgroup) = clone_into(flags, cgroup)?;
    let acts_at_once = in_cgroup && acts_at_once(&launch, entry);
    match fork {
        Fork::Child => {
            drop(ours);
            let context = InitContext {
                plan,
                channel: theirs,
                proc,
                gate: launch.gate,
                console: launch.console,
                hook_state: launch.hook_state,
                hook_output: launch.hook_output,
                preserve_fds: launch.preserve_fds,
                prepared,
                hide: plan.id_maps.is_some() && is_ordinary_user(),
                // Not in a container that runs: its processes could look into this one while it is dumpable.
                listener: word
                    .map(|word| Handover { word, show: is_ordinary_user() && launch.enter.is_none() }),
                acts_at_once,
                awaits_network: network_home.is_some(),
            };
            child(context, entry, &namespaces, launch.enter, launch.root.as_ref().map(AsFd::as_fd))
        }
        Fork::Parent { pid, pidfd } => {
            drop((theirs, launch.gate, launch.console, prepared));
            let mut spawned = match entry {
                Entry::Direct => Spawned { pid, pidfd, channel: ours, listener: None },
                Entry::Staged => {
                    if !plan.namespaces.time_offsets.is_empty() {
                        write_offsets(&ours, pid, plan).inspect_err(|_| kill(&pidfd))?;
                    }
                    receive_init(ours, &pidfd)?
                }
            };
            spawned.listener = word;
            let joined = launch.resctrl.iter().try_for_each(|dir| add_process(dir, spawned.pid));
            joined
                .map_err(super::Error::from)
                .and_then(|()| if acts_at_once { Ok(()) } else { prepare(&spawned, plan, cgroup, in_cgroup) })
                .and_then(|()| network_home.map_or(Ok(()), |home| network::make(&home, &spawned.channel)))
                .map_err(|error| spawned.own_words(error))?;
            Ok(spawned)
        }
    }
}

/// The cloned process: enters what is there already, then acts on its plan.
fn child(
    context: InitContext<'_>,
    entry: Entry,
    namespaces: &[Opened],
    enter_init: Option<(BorrowedFd<'_>, i32)>,
    root: Option<BorrowedFd<'_>>,
) -> ! {
    let (plan, proc) = (context.plan, &context.proc);
    let own_part = || if context.acts_at_once { super::outside::apply_to_self(plan, proc) } else { Ok(()) };
    let entered = hide(plan, proc).and_then(|()| own_part()).and_then(|()| match enter_init {
        Some((pidfd, flags)) => {
            enter(pidfd, flags, entry, proc)?;
            root.map_or(Ok(()), crate::rootfs::enter_root)
        }
        None => join_namespaces(namespaces),
    });
    match (entered, entry) {
        (Err(failure), _) => fail(&context.channel, &failure),
        (Ok(()), Entry::Direct) => crate::init::run(context),
        (Ok(()), Entry::Staged) => stage(context),
    }
}

/// Clones into the cgroup where the kernel can (5.7, cgroup v2); tells whether it did.
fn clone_into(flags: u64, cgroup: &Cgroup) -> std::result::Result<(Fork, bool), Failure> {
    if let Some(dir) = cgroup.clone_target() {
        match clone3(flags, Some(dir)) {
            // E2BIG, EINVAL: kernel before 5.7. EBUSY, EOPNOTSUPP: a cgroup that holds no processes
            // itself. ENODEV, EACCES: decided by the write, whose error names the file.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(
                        libc::E2BIG
                            | libc::EINVAL
                            | libc::EBUSY
                            | libc::EOPNOTSUPP
                            | libc::ENODEV
                            | libc::EACCES
                    )
                ) => {}
            other => return other.map(|fork| (fork, true)).map_err(|e| clone_failed(flags, &e)),
        }
    }
    clone3(flags, None).map(|fork| (fork, false)).map_err(|e| clone_failed(flags, &e))
}

/// The failure of a clone with namespaces.
fn clone_failed(flags: u64, error: &std::io::Error) -> Failure {
    no_namespaces("clone3", flags, error)
}

/// What the errno of a call that makes namespaces means (clone(2), unshare(2)).
pub(super) fn no_namespaces(step: &str, flags: u64, error: &std::io::Error) -> Failure {
    let user = flags & libc::CLONE_NEWUSER as u64 != 0;
    let hint = match error.raw_os_error() {
        Some(libc::ENOSPC) => "the limit of a kind of namespaces is reached: see /proc/sys/user",
        Some(libc::EPERM | libc::EACCES) if user => {
            "user namespaces are not allowed to this user: see the sysctls kernel.unprivileged_userns_clone and \
             kernel.apparmor_restrict_unprivileged_userns"
        }
        Some(libc::EPERM) => "namespaces need CAP_SYS_ADMIN, or a user namespace among linux.namespaces",
        _ => "",
    };
    match hint {
        "" => Failure::new(step, "", error),
        hint => Failure::new(step, "", error).with_detail(hint),
    }
}

/// How the process comes into being: as the plan's namespaces want it. An ordinary user has rights over a
/// container's pid namespace only after it has joined its user namespace, so that exec needs the stage then.
fn entry(launch: &Launch<'_>) -> Entry {
    let enters_user = launch.enter.is_some_and(|(_, flags)| flags & libc::CLONE_NEWUSER != 0);
    if enters_user && is_ordinary_user() { Entry::Staged } else { launch.plan.namespaces.entry() }
}

/// Makes the child of an ordinary user undumpable, which the runtime could not be before it, since the child's
/// files in /proc would be root's then. With a new user namespace that comes once its maps are written
/// ([`InitContext::hide`]): until then no process of another user namespace than the runtime's has rights over
/// it (ptrace(2), "Ptrace access mode checking"). Else it must be done before any namespace is joined.
fn hide(plan: &Plan, proc: &ProcFs) -> std::result::Result<(), Failure> {
    if plan.id_maps.is_some() || !is_ordinary_user() {
        return Ok(());
    }
    super::outside::set_own_oom_score(plan, proc)?;
    prctl::set_dumpable(false).during("make undumpable", String::new)
}

/// Enters a container's namespaces, with the pidfd of its init.
fn enter(init: BorrowedFd<'_>, flags: i32, entry: Entry, proc: &ProcFs) -> std::result::Result<(), Failure> {
    let rest = match entry {
        Entry::Direct => flags & !libc::CLONE_NEWPID,
        Entry::Staged => flags,
    };
    if rest == 0 {
        return Ok(());
    }
    join_process(init, rest, proc)
}

/// The stage of [`Entry::Staged`]: namespaces are joined, so clone init as a sibling and be gone.
fn stage(context: InitContext<'_>) -> ! {
    let _ = prctl::set_pdeathsig(libc::SIGKILL);
    let mut flags = context.plan.namespaces.new | libc::CLONE_PARENT as u64;
    if !context.plan.namespaces.time_offsets.is_empty() {
        if let Err(failure) = unshare_time(&context.channel, flags) {
            fail(&context.channel, &failure)
        }
        flags &= !(libc::CLONE_NEWUSER as u64);
    }
    match clone3(flags, None).map_err(|e| clone_failed(flags, &e)) {
        Ok(Fork::Child) => crate::init::run(context),
        Ok(Fork::Parent { pidfd, .. }) => {
            let sent = context.channel.send_with(Kind::Init, &[], Some(pidfd.as_fd()));
            exit_now(i32::from(sent.is_err()))
        }
        Err(failure) => fail(&context.channel, &failure),
    }
}

/// Makes the time namespace for the child, owned by the new user namespace if there is to be one, and has the
/// runtime write its offsets: here that right may be missing (proc_pid(5): the files are root's).
fn unshare_time(channel: &Channel, flags: u64) -> std::result::Result<(), Failure> {
    let user = flags & libc::CLONE_NEWUSER as u64;
    unshare(CLONE_NEWTIME | user).during("make time namespace", String::new)?;
    channel.send(Kind::Offsets).during("tell the runtime", || "of the time namespace")?;
    channel.expect(Kind::Go).during("wait for time offsets", String::new).map(drop)
}

/// The runtime's side of [`unshare_time`].
fn write_offsets(channel: &Channel, stage: i32, plan: &Plan) -> Result<()> {
    match channel.receive_from_init().during("hear from stage", String::new)? {
        (Received::Message(Kind::Offsets, _), _) => {}
        (Received::Message(Kind::Failed, text), _) => {
            return Err(super::Error::Init(Failure::decode(&text)));
        }
        _ => return Err(super::Error::Died { how: "ended while it made the time namespace".into() }),
    }
    if let Some(maps) = &plan.id_maps {
        idmap::write(stage, maps)?;
    }
    let (path, lines) = (format!("/proc/{stage}/timens_offsets"), &plan.namespaces.time_offsets);
    std::fs::write(&path, lines)
        .during("set linux.timeOffsets", || format!("(write {:?} to {path})", lines.trim_end()))?;
    Ok(channel.send(Kind::Go).during("let the stage go", String::new)?)
}

fn fail(channel: &Channel, failure: &Failure) -> ! {
    crate::init::report(channel, failure);
    exit_now(255)
}

/// The runtime's side of a staged entry.
fn receive_init(channel: Channel, stage: &OwnedFd) -> Result<Spawned> {
    let received = channel.receive_from_init().during("receive init from stage", String::new)?;
    let exit = wait(WaitFor::Pidfd(stage.as_fd()), WaitMode::Block).during("wait for stage", String::new)?;
    match received {
        (Received::Message(Kind::Init, _), Some(pidfd)) => {
            let proc = ProcFs::host().during("open", || "/proc")?;
            let pid = pidfd_pid(pidfd.as_fd(), &proc)?;
            Ok(Spawned { pid, pidfd, channel, listener: None })
        }
        (Received::Message(Kind::Failed, text), _) => Err(super::Error::Init(Failure::decode(&text))),
        _ => {
            let how = exit.map_or_else(String::new, |(_, exit)| describe(exit));
            Err(super::Error::Died { how })
        }
    }
}

/// Whether a process that was cloned into its cgroup need not wait until the runtime has prepared it: what there is to
/// prepare it does itself ([`super::outside::apply_to_self`]). A waiting process would be woken on the runtime's CPU,
/// which may be busy for as long as the mounts take.
fn acts_at_once(launch: &Launch<'_>, entry: Entry) -> bool {
    let outside = &launch.plan.outside;
    entry == Entry::Direct
        && launch.plan.id_maps.is_none()
        && outside.raise_limits.is_empty()
        && outside.net_devices.is_empty()
        && launch.resctrl.is_empty()
}

/// What must be true before init may act: ids mapped, in its cgroup, limits set.
fn prepare(spawned: &Spawned, plan: &Plan, cgroup: &Cgroup, in_cgroup: bool) -> Result<()> {
    let pid = spawned.pid;
    // With time offsets the stage has made the user namespace: its maps are written.
    if let Some(maps) = plan.id_maps.as_ref().filter(|_| plan.namespaces.time_offsets.is_empty()) {
        idmap::write(pid, maps)?;
    }
    if !in_cgroup {
        cgroup.attach(pid)?;
    }
    super::outside::apply(pid, plan)?;
    Ok(spawned.channel.send(Kind::Go).during("let init go", String::new)?)
}

impl Spawned {
    /// Waits for init's next message, which must be `wanted`.
    ///
    /// # Errors
    /// [`super::Error::Init`] with its own words, or [`super::Error::Died`] with how it ended.
    pub fn expect(&self, wanted: Kind, cgroup: &Cgroup) -> Result<()> {
        match self.channel.expect_from_init(wanted).during("hear from init", String::new)? {
            Heard::Expected => Ok(()),
            Heard::Failed(failure) => Err(super::Error::Init(failure)),
            Heard::End => Err(self.died(cgroup)),
        }
    }

    /// Sends init a message. When init has ended already, its own words are the error and not the broken
    /// channel.
    ///
    /// # Errors
    /// As [`Spawned::expect`].
    pub fn tell(&self, kind: Kind, payload: &[u8], cgroup: &Cgroup) -> Result<()> {
        match self.channel.send_with(kind, payload, None) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => {
                // Nothing is expected: whatever is heard is the reason.
                self.expect(kind, cgroup)
            }
            other => Ok(other.during("send to init", String::new)?),
        }
    }

    /// Waits until the program was executed: the channel closes at exec.
    ///
    /// # Errors
    /// [`super::Error::Init`] when it could not be, [`super::Error::Died`] when init ended before.
    pub fn executed(&self, cgroup: &Cgroup) -> Result<()> {
        match self.channel.expect_from_init(Kind::Ready).during("hear from init", String::new)? {
            Heard::Failed(failure) => return Err(super::Error::Init(failure)),
            Heard::End | Heard::Expected => {}
        }
        // The end of a process closes the channel too. It is not reaped yet, so that it can be told: a
        // program that has ended already speaks by its exit status.
        match super::process_stat::ProcessStat::read(self.pid)? {
            Some(stat) if !stat.executed => Err(self.died(cgroup)),
            _ => Ok(()),
        }
    }

    fn died(&self, cgroup: &Cgroup) -> super::Error {
        let exit = wait(WaitFor::Pidfd(self.pidfd.as_fd()), WaitMode::Block);
        let mut how = exit.ok().flatten().map_or_else(|| "ended".to_owned(), |(_, exit)| describe(exit));
        if cgroup.oom_kills().is_some_and(|kills| kills > 0) {
            how = "was OOM-killed (memory limit too low?)".to_owned();
        }
        super::Error::Died { how }
    }

    /// Ends the process after an error of the runtime's. When it had failed by itself before, its own words are
    /// the reason: the runtime's error came of it.
    fn own_words(&self, error: super::Error) -> super::Error {
        self.kill();
        match self.channel.receive_from_init() {
            Ok((Received::Message(Kind::Failed, text), _)) => super::Error::Init(Failure::decode(&text)),
            _ => error,
        }
    }

    /// Kills and reaps it: for error paths.
    pub fn kill(&self) {
        kill(&self.pidfd);
    }
}

/// Kills and reaps a child, which may have ended by itself.
fn kill(pidfd: &OwnedFd) {
    let _ = crate::sys::process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    let _ = wait(WaitFor::Pidfd(pidfd.as_fd()), WaitMode::Block);
}

fn describe(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with status {code}"),
        Exit::Signal(signal) => {
            let name = nix::sys::signal::Signal::try_from(signal).map_or("unknown signal", |s| s.as_str());
            format!("was killed by {name}")
        }
    }
}
