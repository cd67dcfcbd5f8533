//! Cgroups: where a container's processes are counted, limited, frozen and killed.
//!
//! One [`Cgroup`] stands for the container's directory in every hierarchy of the host (cgroup v1, hybrid, v2;
//! cgroupfs driver). Directories are opened once without following links; control files are reached only
//! through them by validated names. Threat: a container may own sub-cgroups (delegation), so names and depth
//! below its directory are hostile; paths come from config.json and state.json, which are trusted but checked.

mod convert;
mod devices;
mod dir;
mod error;
mod freezer;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod kill;
mod layout;
mod member;
mod oom;
mod path;
mod remove;
mod report;
mod resources;
pub mod stats;
mod stuck;
mod systemd;
mod tree;
mod v1;
mod v2;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use oci_spec::runtime::LinuxResources;

pub use error::Error;
pub use layout::{Hierarchy, Layout, Mode, Version};
pub use oom::OomWatch;
pub use stats::Stats;
pub use systemd::{Manager, UnitName, UnitRequest};

use crate::sorted::map_of;
use member::Member;
use path::Place;
use systemd::Unit;

/// What to do when the kernel does not let us make or change a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDenied {
    /// It is an error.
    Fail,
    /// Go on without the cgroup in that hierarchy (rootless without delegation). A limit that was asked for
    /// is still an error, and so is any refusal when config.json names a cgroupsPath.
    Ignore,
}

/// A container's cgroup in every hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    members: Vec<Member>,
    mode: Mode,
    /// What the caller asked for; device rules follow it alone.
    rootless: OnDenied,
    /// `Fail` also when config.json names a path.
    denied: OnDenied,
    /// Whether config.json names a path, which can be below cgroups of anybody's.
    named: bool,
    /// Set when [`Cgroup::create`] failed: what is there then belongs to someone else.
    not_ours: OnceLock<()>,
    /// The systemd driver: the unit whose cgroup this is, or is below.
    unit: Option<Arc<Unit>>,
}

impl Cgroup {
    /// Finds the place for a container; makes nothing.
    ///
    /// # Errors
    /// [`Error::SystemdPath`], [`Error::RootCgroup`], [`Error::InvalidName`], or reading /proc/self/cgroup.
    pub fn resolve(
        layout: &Layout,
        id: &str,
        cgroups_path: Option<&Path>,
        denied: OnDenied,
    ) -> Result<Cgroup, Error> {
        let place = path::place(id, cgroups_path)?;
        let named = cgroups_path.is_some_and(|path| !path.as_os_str().is_empty());
        let mut members = Vec::new();
        for hierarchy in layout.hierarchies() {
            let Some(keys) = member::keys(hierarchy) else { continue };
            let dir = match &place {
                Place::BelowMount(below) => hierarchy.mountpoint.join(below),
                Place::BelowOwn(below) => {
                    let own = hierarchy.own_dir()?;
                    path::base(&own, &hierarchy.mountpoint, layout.mode()).join(below)
                }
            };
            members.push(Member::new(keys, hierarchy.version, dir, Some(hierarchy.clone())));
        }
        // runc: an explicit path means that the caller counts on it.
        let rootless = denied;
        let denied = if named { OnDenied::Fail } else { denied };
        Ok(Cgroup {
            members,
            mode: layout.mode(),
            rootless,
            denied,
            named,
            not_ours: OnceLock::new(),
            unit: None,
        })
    }

    /// No cgroup at all: its processes stay in the caller's, nothing is limited or removed.
    #[must_use]
    pub fn none(layout: &Layout) -> Cgroup {
        let (rootless, denied) = (OnDenied::Ignore, OnDenied::Ignore);
        Cgroup {
            members: Vec::new(),
            mode: layout.mode(),
            rootless,
            denied,
            named: false,
            not_ours: OnceLock::new(),
            unit: None,
        }
    }

    /// The systemd driver: the place for a container's unit; makes nothing. Asks systemd only for a user's own
    /// manager.
    ///
    /// # Errors
    /// [`Error::NoSystemd`], [`Error::UserSystemdOnV1`], [`Error::NotSystemdPath`], [`Error::InvalidName`],
    /// [`Error::Annotation`], [`Error::NoBus`].
    pub fn resolve_systemd(
        layout: &Layout,
        request: &UnitRequest<'_>,
        denied: OnDenied,
    ) -> Result<Cgroup, Error> {
        let mode = layout.mode();
        let unit = Unit::new(request, mode)?;
        let mut members = Vec::new();
        for (hierarchy, dir) in unit.dirs(layout.hierarchies())? {
            let Some(keys) = member::keys(hierarchy) else { continue };
            members.push(Member::new(keys, hierarchy.version, dir, Some(hierarchy.clone())));
        }
        let unit = Some(Arc::new(unit));
        let (rootless, named, not_ours) = (denied, true, OnceLock::new());
        Ok(Cgroup { members, mode, rootless, denied, named, not_ours, unit })
    }

    /// An existing container's cgroup ([`Cgroup::open`]) that systemd has made, so that systemd hears of changes
    /// and of its end.
    #[must_use]
    pub fn of_unit(mut self, names: UnitName, manager: Manager) -> Cgroup {
        let path = self.primary().map(|member| member.path().to_owned()).unwrap_or_default();
        self.unit = Some(Arc::new(Unit::existing(names, manager, path, self.mode)));
        self
    }

    /// The systemd driver: name of the container's unit, for state.json.
    #[must_use]
    pub fn unit_name(&self) -> Option<&UnitName> {
        self.unit.as_ref().map(|unit| unit.names())
    }

    /// The cgroup of an existing container from `cgroup_paths` of its state.json, davit's or runc's.
    ///
    /// # Errors
    /// [`Error::InvalidName`] for a path that is not normalised or is the root of a hierarchy.
    pub fn open(paths: &BTreeMap<String, PathBuf>) -> Result<Cgroup, Error> {
        // Few, so that a search beats a map of paths.
        let mut by_dir: Vec<(&PathBuf, Vec<String>)> = Vec::with_capacity(paths.len());
        for (key, dir) in paths {
            match by_dir.iter_mut().find(|(other, _)| other.as_os_str() == dir.as_os_str()) {
                Some((_, keys)) => keys.push(key.clone()),
                None => by_dir.push((dir, vec![key.clone()])),
            }
        }
        let mode = match (paths.contains_key(""), paths.len()) {
            (true, 1) => Mode::V2,
            (true, _) => Mode::Hybrid,
            (false, _) => Mode::V1,
        };
        let depth = if mode == Mode::V2 { 1 } else { 2 };
        let mut members = Vec::new();
        for (dir, keys) in by_dir {
            if !path::is_normal(dir) || path::depth(dir).is_some_and(|below| below < depth) {
                return Err(Error::InvalidName { what: "cgroup path", name: dir.display().to_string() });
            }
            let version = if keys.iter().any(String::is_empty) { Version::V2 } else { Version::V1 };
            members.push(Member::new(keys, version, dir.clone(), None));
        }
        let (rootless, denied) = (OnDenied::Fail, OnDenied::Fail);
        let not_ours = OnceLock::new();
        Ok(Cgroup { members, mode, rootless, denied, named: false, not_ours, unit: None })
    }

    /// The same without the directories that are not there: runc's state names those that it was refused in a
    /// rootless container.
    #[must_use]
    pub fn existing(mut self) -> Cgroup {
        self.members.retain(|member| !matches!(member.dir(), Err(e) if e.is_gone()));
        self
    }

    /// Makes the directories. On v2 the controllers that the kernel offers are enabled on the way down (so that
    /// limits can be set later and memory is accounted); a new v1 cpuset gets its parent's CPUs and nodes.
    ///
    /// On an error nothing that was made stays.
    ///
    /// # Errors
    /// [`Error::NotEmpty`] or [`Error::Frozen`] for one that exists already, [`Error::Io`] for mkdir.
    pub fn create(&self) -> Result<(), Error> {
        if self.unit.is_some() {
            // systemd makes it when there is a process to put in.
            let result = self.members.iter().try_for_each(Member::check_unused);
            return result.inspect_err(|_| *self.not_ours.get_or_init(|| ()));
        }
        let mut made = Vec::new();
        let create = |member: &Member| {
            member.create(self.denied, self.rootless, &mut made)?;
            if self.named && !member.is_denied() { member.refuse_frozen_above() } else { Ok(()) }
        };
        let result = self.members.iter().try_for_each(create);
        if result.is_err() {
            self.not_ours.get_or_init(|| ());
            for path in made.iter().rev() {
                // The first error is the one to report.
                let _ = dir::rmdir(path);
            }
        }
        result
    }

    /// Pure v2: the directory to start the container's process in (CLONE_INTO_CGROUP, kernel 5.7). None
    /// where there is none, on v1 and hybrid.
    #[must_use]
    pub fn clone_target(&self) -> Option<BorrowedFd<'_>> {
        if self.unit.as_ref().is_some_and(|unit| unit.is_new()) {
            return None;
        }
        let member = self.members.first().filter(|_| self.mode == Mode::V2)?;
        member.dir().ok().map(AsFd::as_fd)
    }

    /// Moves a process (all its threads) in by writing `cgroup.procs` in every hierarchy, and checks in
    /// /proc/<pid>/cgroup that it is where it should be.
    ///
    /// # Errors
    /// [`Error::Write`] (EBUSY on v2 when the container gave its sub-cgroups controllers: see
    /// [`Cgroup::of_process`]), [`Error::NotMoved`].
    pub fn attach(&self, pid: i32) -> Result<(), Error> {
        let Some(unit) = &self.unit else {
            return member::attach(&self.members, pid, (self.denied, self.rootless), self.mode);
        };
        if unit.is_new() {
            return self.start_unit(unit, pid);
        }
        match member::attach(&self.members, pid, (OnDenied::Fail, OnDenied::Fail), self.mode) {
            Err(e) if e.is_denied() && self.mode == Mode::V2 => {
                let path = self.primary().map(Member::path).unwrap_or(Path::new(""));
                unit.attach(path.strip_prefix(unit.path()).unwrap_or(Path::new("")), pid)?;
                member::verify_all(&self.members, pid)
            }
            result => result,
        }
    }

    /// Has systemd make the unit with this process, and checks that it is there.
    fn start_unit(&self, unit: &Unit, pid: i32) -> Result<(), Error> {
        unit.start(pid).inspect_err(|e| {
            if matches!(e, Error::UnitExists(_)) {
                self.not_ours.get_or_init(|| ());
            }
        })?;
        self.members.iter().try_for_each(Member::adopt)?;
        if self.mode != Mode::V2 {
            // The process waits meanwhile, and must not be left out of a hierarchy that systemd does not use.
            devices::apply(self, unit.device_rules().unwrap_or_default())?;
        }
        if unit.is_slice() || self.mode != Mode::V2 {
            return member::attach(&self.members, pid, (OnDenied::Fail, OnDenied::Fail), self.mode);
        }
        member::verify_all(&self.members, pid)
    }

    /// Writes what is set in `resources`, and the device rules always: default deny, then the given rules,
    /// then runc's default allow list. For a cgroup that was just made; [`Cgroup::update`] changes one in use.
    ///
    /// # Errors
    /// [`Error::Write`] with file, value and the kernel's reason, [`Error::NoController`],
    /// [`Error::ControllerMissing`], [`Error::InvalidValue`], [`Error::MemoryBusy`], [`Error::DeviceRule`],
    /// [`Error::Bpf`].
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.apply_devices(resources)?;
        self.apply_limits(resources)
    }

    /// The device rules of [`Cgroup::apply`]. On v1 they are written one by one, a denial of everything first:
    /// no process that makes or opens devices may be in the cgroup meanwhile. On v2 they are one program.
    ///
    /// # Errors
    /// As [`Cgroup::apply`].
    pub fn apply_devices(&self, resources: &LinuxResources) -> Result<(), Error> {
        if self.mode != Mode::V2 && self.unit.as_ref().is_some_and(|unit| unit.is_new()) {
            // systemd has not made it yet: see `start_unit`.
            return Ok(());
        }
        devices::apply(self, resources.devices().as_deref().unwrap_or_default())
    }

    /// The rest of [`Cgroup::apply`].
    ///
    /// # Errors
    /// As [`Cgroup::apply`].
    pub fn apply_limits(&self, resources: &LinuxResources) -> Result<(), Error> {
        resources::apply(self, resources)
    }

    /// Writes what is set in `resources`; device rules only if there are some, changing what differs.
    ///
    /// # Errors
    /// As [`Cgroup::apply`].
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        if let Some(unit) = &self.unit {
            // Before systemd writes the limit, which would not ask.
            resources::check_before_update(self, resources)?;
            let whole = resources::with_bandwidth(self, resources);
            self.tell_systemd(unit, whole.as_ref().unwrap_or(resources))?;
        }
        if let Some(rules) = resources.devices() {
            devices::update(self, rules)?;
        }
        resources::apply(self, resources)
    }

    /// Changes the unit's properties. On v1 systemd takes all devices away before it allows those of the new list:
    /// nothing may run meanwhile.
    fn tell_systemd(&self, unit: &Unit, resources: &LinuxResources) -> Result<(), Error> {
        let freeze = self.mode != Mode::V2 && resources.devices().is_some() && !self.is_frozen()?;
        if !freeze {
            return unit.set(resources);
        }
        match self.freeze() {
            // Without a freezer the container may be refused a device for a moment.
            Err(Error::NoController(_)) => return unit.set(resources),
            frozen => frozen?,
        }
        let set = unit.set(resources);
        self.thaw()?;
        set
    }

    /// `cgroup_paths` of state.json as runc writes it: controller to directory on v1 and hybrid, `""` for v2.
    #[must_use]
    pub fn paths(&self) -> BTreeMap<String, PathBuf> {
        let made = self.members.iter().filter(|member| !member.is_denied());
        map_of(
            made.flat_map(|member| member.keys().iter().map(|key| (key.clone(), member.path().to_owned()))),
        )
    }

    /// v1, hybrid or v2.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the container has no cgroup in any hierarchy, for lack of rights (rootless).
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.members.iter().all(Member::is_denied)
    }

    /// Whether its directory is there (on v1 the one that lists its processes).
    #[must_use]
    pub fn exists(&self) -> bool {
        self.primary().is_some_and(|member| member.path().is_dir())
    }

    /// Whether all its processes are frozen by this cgroup's own freezer. False where there is none.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Timeout`] while it is still freezing.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        freezer::is_frozen(self)
    }

    /// Freezes all its processes and waits until they are. On an error they are thawed.
    ///
    /// # Errors
    /// [`Error::NoController`] without a freezer (v2: kernel 5.2), [`Error::Timeout`], [`Error::Write`].
    pub fn freeze(&self) -> Result<(), Error> {
        freezer::freeze(self)
    }

    /// Thaws its processes.
    ///
    /// # Errors
    /// As [`Cgroup::freeze`].
    pub fn thaw(&self) -> Result<(), Error> {
        freezer::thaw(self)
    }

    /// Lets processes that were killed die: on v1 a frozen one does not, and a container can have frozen cgroups of its
    /// own below. A cgroup above is not the container's, and stays as it is.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Io`].
    pub fn thaw_killed(&self) -> Result<(), Error> {
        freezer::thaw_killed(self)
    }

    /// What its processes are, and what those wait for that do not end, for an error's text.
    #[must_use]
    pub fn describe_processes(&self) -> String {
        let processes = stuck::describe(&self.pids().unwrap_or_default());
        if freezer::is_frozen_above(self) {
            format!("frozen by a cgroup above: {processes}")
        } else {
            processes
        }
    }

    /// All processes in it and its sub-cgroups. Empty when it does not exist.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Io`].
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        let Some(member) = self.primary() else { return Ok(Vec::new()) };
        match member.dir().and_then(tree::pids) {
            Err(e) if e.is_gone() => Ok(Vec::new()),
            result => result,
        }
    }

    /// Sends a signal to every process in it and below. SIGKILL goes by `cgroup.kill` (kernel 5.14), else
    /// and for other signals the processes are frozen meanwhile so that none escapes by forking. A cgroup
    /// that was frozen stays so, except for SIGKILL.
    ///
    /// # Errors
    /// [`Error::Signal`], [`Error::Read`].
    pub fn kill(&self, signal: i32) -> Result<(), Error> {
        kill::kill(self, signal)
    }

    /// Removes it with its sub-cgroups in every hierarchy, waiting a few seconds for killed processes to be
    /// gone. One that is not there is fine. After a failed [`Cgroup::create`] this does nothing: that has
    /// cleaned up, and what it refused to take over is someone else's.
    ///
    /// # Errors
    /// [`Error::Survivors`] with the pids that are still there, [`Error::Io`].
    pub fn remove(&self) -> Result<(), Error> {
        if self.not_ours.get().is_some() {
            return Ok(());
        }
        let stopped = self.unit.as_ref().map_or(Ok(()), |unit| unit.stop());
        stopped.and(remove::remove(self))
    }

    /// Removes its directories that have no process and no sub-cgroup, waiting a second for processes that are
    /// about to end. One that stays in use, or is not there, is fine: it need not be this container's.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_empty(&self) -> Result<(), Error> {
        remove::remove_empty(self)
    }

    /// How many of its processes the OOM killer has killed: `oom_kill` of memory.events, or of
    /// memory.oom_control (kernel 4.13). None where memory is not accounted.
    #[must_use]
    pub fn oom_kills(&self) -> Option<u64> {
        oom::kills(self)
    }

    /// Watches for OOM kills.
    ///
    /// # Errors
    /// [`Error::NoController`] where memory is not accounted, [`Error::Io`].
    pub fn oom_watch(&self) -> Result<OomWatch, Error> {
        OomWatch::new(self)
    }

    /// Counters and limits. Files that are missing are left at their default.
    ///
    /// # Errors
    /// [`Error::Io`] when the cgroup is gone.
    pub fn stats(&self) -> Result<Stats, Error> {
        match self.mode {
            Mode::V2 => v2::stats::read(self).map(|metrics| Stats::V2(Box::new(metrics))),
            Mode::V1 | Mode::Hybrid => v1::stats::read(self).map(|metrics| Stats::V1(Box::new(metrics))),
        }
    }

    /// Counters and limits as runc's `events` prints them: the `data` of a stats event. What resctrl counts for the
    /// container is part of it.
    ///
    /// # Errors
    /// As [`Cgroup::stats`].
    pub fn report(&self, resctrl: Option<serde_json::Value>) -> Result<serde_json::Value, Error> {
        report::report(self, resctrl)
    }

    /// A sub-cgroup in every hierarchy, for `exec --cgroup name`. It must exist to be attached to.
    ///
    /// # Errors
    /// [`Error::InvalidName`] for an empty name or one with `..`.
    pub fn sub(&self, name: &str) -> Result<Cgroup, Error> {
        let below = path::sub_path("sub-cgroup", name)?;
        let members = self.members.iter().map(|member| member.sub(&below)).collect();
        Ok(self.with(members))
    }

    /// As [`Cgroup::sub`] in one hierarchy only, the container's cgroup in the others
    /// (`exec --cgroup cpu,cpuacct:name` on v1).
    ///
    /// # Errors
    /// [`Error::InvalidName`] for a bad name or a controller that the container has no cgroup for.
    pub fn sub_of(&self, controllers: &[&str], name: &str) -> Result<Cgroup, Error> {
        let below = path::sub_path("sub-cgroup", name)?;
        if let Some(unknown) = controllers.iter().find(|c| !self.members.iter().any(|m| m.has_key(c))) {
            return Err(Error::InvalidName { what: "controller", name: (*unknown).to_owned() });
        }
        let pick = |member: &Member| {
            let named = controllers.iter().any(|c| member.has_key(c));
            if named { member.sub(&below) } else { member.sub(Path::new("")) }
        };
        Ok(self.with(self.members.iter().map(pick).collect()))
    }

    /// Pure v2: the cgroup that a process of this container is in now, this one or one below. `exec` uses init's
    /// when the container's own refuses processes (EBUSY).
    ///
    /// # Errors
    /// [`Error::NotMoved`] when the process is elsewhere, [`Error::Read`] when it is gone.
    pub fn of_process(&self, pid: i32) -> Result<Cgroup, Error> {
        let members = self.members.iter().map(|member| member.of_process(pid)).collect::<Result<_, _>>()?;
        Ok(self.with(members))
    }

    /// v2: gives the cgroup to a user of the container, who may then make sub-cgroups: the directory and
    /// the files that the kernel lists in /sys/kernel/cgroup/delegate (4.15; without the list, the three that
    /// are always in it). As runc does for a container with a cgroup namespace and a writable cgroup mount.
    ///
    /// # Errors
    /// [`Error::Io`] for chown.
    pub fn delegate(&self, uid: u32) -> Result<(), Error> {
        match self.v2().filter(|member| self.mode == Mode::V2 && !member.is_denied()) {
            Some(member) => v2::delegate(member.dir()?, uid),
            None => Ok(()),
        }
    }

    /// The same container with other directories.
    fn with(&self, members: Vec<Member>) -> Cgroup {
        let (rootless, denied) = (self.rootless, self.denied);
        Cgroup {
            members,
            mode: self.mode,
            rootless,
            denied,
            named: false,
            not_ours: OnceLock::new(),
            unit: self.unit.clone(),
        }
    }

    /// The directory of a v1 controller.
    fn v1(&self, controller: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.version() == Version::V1 && member.has_key(controller))
    }

    /// The directory in the v2 hierarchy, which hybrid has too.
    fn v2(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.version() == Version::V2)
    }

    /// The directory that lists the processes: v2's on pure v2, else that of `devices` as in runc.
    fn primary(&self) -> Option<&Member> {
        let usable = |member: &&Member| !member.is_denied();
        self.v1("devices").filter(usable).or_else(|| self.members.iter().find(usable))
    }
}
