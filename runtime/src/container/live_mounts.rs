//! Mounts that are added to a running container, and removed.
//!
//! Sources are opened here, in the host's mount namespace. A child enters the container's namespaces and attaches
//! them there, from descriptor to descriptor; it says how that went over the channel that init uses at create.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::runtime::Mount as SpecMount;

use super::dir::Dir;
use super::lifecycle::{open_init, status};
use super::mounts::{From, prepare_mounts};
use super::state::State;
use super::{Error, Result, Runtime, Status};
use crate::cgroup::Cgroup;
use crate::init::{Channel, Context, Failure, Heard, Kind, PreparedMounts, become_root, join_process};
use crate::path::{ProcFs, RootDir};
use crate::plan::{KeptGroups, Mount, plan_live_mount};
use crate::rootfs;
use crate::sys::prctl;
use crate::sys::process::{Fork, WaitFor, WaitMode, clone3, exit_now, wait};

pub(super) fn add(runtime: &Runtime, id: &str, mounts: &[SpecMount]) -> Result<()> {
    let target = Target::open(runtime, id)?;
    let bundle = target.state.bundle();
    let spec = crate::spec::parse_file(&bundle.join("config.json"))?;
    let planned: Vec<Mount> = mounts
        .iter()
        .map(|mount| plan_live_mount(&spec, mount, &bundle))
        .collect::<std::result::Result<_, _>>()?;
    let prepared = prepare_mounts(planned.iter(), From::Container).map_err(Error::Mount)?;
    target.run(Work::Add(&planned, prepared))
}

pub(super) fn remove(runtime: &Runtime, id: &str, mounts: &[SpecMount]) -> Result<()> {
    let target = Target::open(runtime, id)?;
    let destinations: Vec<PathBuf> = mounts.iter().map(|mount| mount.destination().clone()).collect();
    target.run(Work::Remove(&destinations))
}

/// What the child does.
enum Work<'a> {
    Add(&'a [Mount], PreparedMounts),
    Remove(&'a [PathBuf]),
}

/// A container that runs.
struct Target {
    state: State,
    init: OwnedFd,
}

impl Target {
    fn open(runtime: &Runtime, id: &str) -> Result<Self> {
        let dir = Dir::of(runtime, id)?;
        let state = dir.read()?;
        super::checks::own_binary(state.annotations().get(crate::selfexe::ANNOTATION))?;
        let cgroup = Cgroup::open(&state.cgroup_paths)?;
        match status(&dir, &state, &cgroup)? {
            Status::Created | Status::Running | Status::Paused => {}
            Status::Creating | Status::Stopped => return Err(Error::NotRunning),
        }
        if state.namespace_flags() & libc::CLONE_NEWNS == 0 {
            return Err(Error::SharedMounts);
        }
        let init = open_init(&state)?.ok_or(Error::NotRunning)?;
        Ok(Target { state, init })
    }

    fn run(&self, work: Work<'_>) -> Result<()> {
        // Inherited by the child: nobody in the container may look into it (rule 6).
        prctl::set_dumpable(false).during("make undumpable", String::new).map_err(Error::Mount)?;
        let proc = ProcFs::host().during("open", || "/proc").map_err(Error::Mount)?;
        let (ours, theirs) = Channel::pair().during("make channel", String::new).map_err(Error::Mount)?;
        let flags = self.state.namespace_flags();
        if flags & libc::CLONE_NEWPID != 0 {
            // For a new procfs. Acts on the child only.
            join_process(self.init.as_fd(), libc::CLONE_NEWPID, &proc).map_err(Error::Mount)?;
        }
        match clone3(0, None).during("clone3", String::new).map_err(Error::Mount)? {
            Fork::Child => {
                let sent = match self.enter(flags, &proc).and_then(|root| act(&root, work, &proc)) {
                    Ok(()) => theirs.send(Kind::Ready),
                    Err(failure) => theirs.send_with(Kind::Failed, &failure.encode(), None),
                };
                exit_now(i32::from(sent.is_err()))
            }
            Fork::Parent { pidfd, .. } => {
                drop((theirs, work));
                let heard = ours.expect_from_init(Kind::Ready);
                wait(WaitFor::Pidfd(pidfd.as_fd()), WaitMode::Block)
                    .during("wait for child", String::new)
                    .map_err(Error::Mount)?;
                match heard.during("hear from child", String::new).map_err(Error::Mount)? {
                    Heard::Expected => Ok(()),
                    Heard::Failed(failure) => Err(Error::Mount(failure)),
                    Heard::End => {
                        Err(Error::Mount(Failure::other("mount", "", "the child ended without a word")))
                    }
                }
            }
        }
    }

    /// Enters the namespaces that a mount can depend on. Joining a mount namespace makes its root the caller's,
    /// wherever processes of the container have changed theirs to.
    fn enter(&self, flags: i32, proc: &ProcFs) -> std::result::Result<RootDir, Failure> {
        prctl::set_pdeathsig(libc::SIGKILL).during("set parent death signal", String::new)?;
        let wanted = libc::CLONE_NEWNS
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWCGROUP;
        join_process(self.init.as_fd(), flags & wanted, proc)?;
        if flags & libc::CLONE_NEWUSER != 0 {
            become_root(KeptGroups::None)?;
        }
        nix::sys::stat::umask(Mode::empty());
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        nix::fcntl::open("/", flags, Mode::empty()).map(RootDir::new).during("open", || "/")
    }
}

fn act(root: &RootDir, work: Work<'_>, proc: &ProcFs) -> std::result::Result<(), Failure> {
    match work {
        Work::Remove(destinations) => {
            destinations.iter().try_for_each(|destination| rootfs::remove(root, destination, proc))
        }
        Work::Add(mounts, mut prepared) => {
            for (number, mount) in mounts.iter().enumerate() {
                let prepared = prepared.get_mut(number).and_then(Option::take);
                let Err(failure) = rootfs::add(root, mount, prepared, proc) else { continue };
                // A copied link is no mount: it stays, as it would at create.
                let made = mounts.iter().take(number).filter(|mount| !mount.options.links.copy);
                for made in made.rev() {
                    // The first failure is the one to tell.
                    if let Err(failure) = rootfs::remove(root, &made.destination, proc) {
                        log::warn!("{failure}");
                    }
                }
                return Err(failure);
            }
            Ok(())
        }
    }
}
