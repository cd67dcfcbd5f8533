//! The systemd cgroup driver: systemd makes the container's cgroup, as a transient scope (or slice), and knows its
//! limits; what it has no property for is then written to the cgroup's files as by the cgroupfs driver.
//!
//! A hand-written client: the smallest kept crate (rustbus 0.19) brings 15 crates, a second nix and 128 KB of the
//! 2 MB that a program may have, for the six methods that are called here.
//!
//! On v1 and hybrid systemd makes the cgroup in its own hierarchy and in those of the controllers that it needs; the
//! rest are made by us at the same place (see [`super::Cgroup::attach`]).

mod annotation;
mod bus;
#[cfg(feature = "fuzz")]
pub(super) mod fuzz;
mod name;
mod properties;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};

use super::dir::Deadline;
use super::error::Error;
use super::layout::{self, Hierarchy, Mode, ProcLine, parse_proc_cgroup};
use crate::sorted::list_of;
use bus::{Connection, Failure, Goal, Job};
pub use name::UnitName;
use properties::Tree;
use wire::{Value, Writer};

type Property = (String, Value);

/// How long systemd may be away while it is executed anew.
const BACK_SECONDS: u64 = 5;

/// Which systemd makes the units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// PID 1.
    System,
    /// The calling user's own (`systemd --user`).
    User,
}

/// What [`super::Cgroup::resolve_systemd`] is asked for.
#[derive(Debug)]
pub struct UnitRequest<'r> {
    /// Container id.
    pub id: &'r str,
    /// `linux.cgroupsPath`.
    pub cgroups_path: Option<&'r Path>,
    /// `linux.resources`.
    pub resources: &'r LinuxResources,
    /// All annotations: those of properties are picked out.
    pub annotations: Vec<(&'r str, &'r str)>,
    /// Whose systemd.
    pub manager: Manager,
}

/// How a unit is made.
#[derive(Debug)]
struct Start {
    resources: LinuxResources,
    /// Of annotations.
    properties: Vec<Property>,
}

/// The unit of a container.
#[derive(Debug)]
pub(super) struct Unit {
    names: UnitName,
    manager: Manager,
    /// Its cgroup.
    path: PathBuf,
    /// None for the unit of a container that exists already.
    start: Option<Start>,
    addresses: Vec<bus::Address>,
    connection: Mutex<Option<Connection>>,
    tree: Tree,
}

impl Unit {
    /// The unit that a new container is going to have.
    pub(super) fn new(request: &UnitRequest<'_>, mode: Mode) -> Result<Unit, Error> {
        // sd_booted(3). Without it there may be a bus and a socket, but nobody who makes cgroups.
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(Error::NoSystemd);
        }
        if request.manager == Manager::User && mode != Mode::V2 {
            return Err(Error::UserSystemdOnV1);
        }
        let names = UnitName::parse(request.id, request.cgroups_path)?;
        let mut properties = Vec::new();
        for (key, value) in list_of(&request.annotations) {
            properties.extend(annotation::property(key, value)?);
        }
        let start = Some(Start { resources: request.resources.clone(), properties });
        let mut unit = Unit::of(names, (request.manager, Tree::of(mode)), PathBuf::new(), start);
        unit.path = unit.place()?;
        Ok(unit)
    }

    /// The unit of a container that exists, from state.json.
    pub(super) fn existing(names: UnitName, manager: Manager, path: PathBuf, mode: Mode) -> Unit {
        Unit::of(names, (manager, Tree::of(mode)), path, None)
    }

    fn of(names: UnitName, (manager, tree): (Manager, Tree), path: PathBuf, start: Option<Start>) -> Unit {
        let addresses = bus::addresses(manager == Manager::User, |name| std::env::var(name).ok());
        Unit { names, manager, path, start, addresses, connection: Mutex::new(None), tree }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its directories in the hierarchies: below the cgroup of systemd's that is the top of each, the root unless
    /// systemd itself runs in a container.
    pub(super) fn dirs<'h>(
        &self,
        hierarchies: &'h [Hierarchy],
    ) -> Result<Vec<(&'h Hierarchy, PathBuf)>, Error> {
        if self.tree == Tree::Unified {
            return Ok(hierarchies.iter().map(|hierarchy| (hierarchy, self.path.clone())).collect());
        }
        let place = self.path.strip_prefix(layout::ROOT).unwrap_or(&self.path);
        let text = layout::read_proc("/proc/1/cgroup")?;
        let lines = layout::parse_proc_cgroup(&text);
        let dir = |hierarchy: &'h Hierarchy| {
            let own = lines.iter().find(|line| line.is(hierarchy)).map_or("/", |line| line.path);
            // PID 1 is in its scope since systemd 226.
            let top = own.strip_suffix("/init.scope").unwrap_or(own);
            (hierarchy, hierarchy.dir_of(Path::new("/").join(top).as_path()).join(place))
        };
        Ok(hierarchies.iter().map(dir).collect())
    }

    /// Device rules that a new unit is to have.
    pub(super) fn device_rules(&self) -> Option<&[LinuxDeviceCgroup]> {
        let start = self.start.as_ref()?;
        Some(start.resources.devices().as_deref().unwrap_or_default())
    }

    pub(super) fn names(&self) -> &UnitName {
        &self.names
    }

    /// Whether it is still to be made.
    pub(super) fn is_new(&self) -> bool {
        self.start.is_some()
    }

    pub(super) fn is_slice(&self) -> bool {
        self.names.is_slice()
    }

    /// Where systemd will make the cgroup.
    fn place(&self) -> Result<PathBuf, Error> {
        let slice = name::expand_slice(self.slice())?;
        let mut path = PathBuf::from(layout::ROOT);
        if self.manager == Manager::User {
            // `/user.slice/user-1000.slice/user@1000.service`, to which a user's slices are relative.
            let own =
                self.ask(|connection| connection.property("ControlGroup"), "find the user's systemd")?;
            path.push(own.trim_start_matches('/'));
            // Not kept: init must not inherit it.
            *self.connection() = None;
        }
        if self.names.is_slice() {
            return Ok(path.join(name::expand_slice(&self.names.unit())?));
        }
        Ok(path.join(slice).join(self.names.unit()))
    }

    fn slice(&self) -> &str {
        let default = if self.manager == Manager::User { "user.slice" } else { "system.slice" };
        self.names.slice_or(default)
    }

    /// Starts it with a process in it (a slice takes none), and waits until systemd has done so.
    ///
    /// # Errors
    /// [`Error::UnitExists`] when it is another's; any other leaves no unit.
    pub(super) fn start(&self, pid: i32) -> Result<(), Error> {
        let name = self.names.unit();
        let mut body = Writer::default();
        body.value(&Value::Text(name.clone()));
        body.value(&Value::Text("replace".to_owned()));
        body.properties(&self.start_properties(pid)?);
        body.no_units();
        let body = body.into_bytes();
        let job = Job {
            member: "StartTransientUnit",
            signature: "ssa(sv)a(sa(sv))",
            body: &body,
            unit: &name,
            goal: Goal::Active,
        };
        let start = |connection: &mut Connection| connection.job(&job);
        let mut result = self.with(start)?;
        if matches!(&result, Err(failure) if failure.is(".UnitExists")) {
            // Made by us, and the connection lost before the answer.
            if self.holds(pid) {
                return Ok(());
            }
            // A failed one of the same name stays until it is reset; a live one is not touched by that.
            self.reset_failed()?;
            result = self.with(start)?;
        }
        match result {
            Ok(result) if result == "done" => Ok(()),
            Ok(result) => {
                let _ = self.reset_failed();
                Err(self.error("start", format!("job result is {result:?}")))
            }
            Err(failure) if failure.is(".UnitExists") => Err(Error::UnitExists(name)),
            Err(failure) => {
                // It may have come into being after we gave up waiting.
                let _ = self.reset_failed();
                Err(self.error("start", failure.to_string()))
            }
        }
    }

    /// Whether a process is in the unit's cgroup.
    fn holds(&self, pid: i32) -> bool {
        let text = layout::read_proc(&format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let Ok(own) = self.path.strip_prefix(layout::ROOT) else { return false };
        let by_systemd = |line: &ProcLine<'_>| matches!(line.controllers.as_slice(), [] | ["name=systemd"]);
        parse_proc_cgroup(&text).iter().any(|line| by_systemd(line) && Path::new(line.path).ends_with(own))
    }

    fn start_properties(&self, pid: i32) -> Result<Vec<Property>, Error> {
        let property = |name: &str, value| (name.to_owned(), value);
        let description = format!("davit container {}", self.names.name);
        let mut all = vec![property("Description", Value::Text(description))];
        if self.names.is_slice() {
            all.push(property("Wants", Value::strings(&[self.slice()])));
        } else {
            all.push(property("Slice", Value::Text(self.slice().to_owned())));
            // The files below it are the container's, systemd keeps its hands off.
            all.push(property("Delegate", Value::Bool(true)));
            let pid = Value::U32(pid.unsigned_abs());
            all.push(property("PIDs", Value::Array("u".to_owned(), vec![pid])));
            // One that failed (by the OOM killer) is forgotten too, else its name would stay taken. systemd 236.
            all.push(property("CollectMode", Value::Text("inactive-or-failed".to_owned())));
        }
        for name in self.tree.accounting() {
            all.push(property(name, Value::Bool(true)));
        }
        all.push(property("DefaultDependencies", Value::Bool(false)));
        if let Some(start) = &self.start {
            all.extend(start.properties.iter().cloned());
            all.extend(properties::of_devices(&start.resources)?);
            all.extend(properties::of_resources(&start.resources, self.tree, &mut || self.version())?);
        }
        Ok(all)
    }

    /// Changes its properties; device rules only if there are some.
    pub(super) fn set(&self, resources: &LinuxResources) -> Result<(), Error> {
        let mut changed = Vec::new();
        if resources.devices().is_some() {
            changed.extend(properties::of_devices(resources)?);
        }
        changed.extend(properties::of_resources(resources, self.tree, &mut || self.version())?);
        if changed.is_empty() {
            return Ok(());
        }
        let mut body = Writer::default();
        body.value(&Value::Text(self.names.unit()));
        // Until the unit is gone, not for ever.
        body.value(&Value::Bool(true));
        body.properties(&changed);
        let body = body.into_bytes();
        let set =
            |connection: &mut Connection| connection.manager("SetUnitProperties", "sba(sv)", body.clone());
        self.ask(set, "set properties of").map(drop)
    }

    /// Moves a process into the unit's cgroup or one below it: for a caller whom the kernel does not let write
    /// to `cgroup.procs`, since the process comes from a cgroup that is not the user's. systemd 238.
    pub(super) fn attach(&self, below: &Path, pid: i32) -> Result<(), Error> {
        let below = if below.as_os_str().is_empty() { PathBuf::new() } else { Path::new("/").join(below) };
        let mut body = Writer::default();
        body.value(&Value::Text(self.names.unit()));
        body.value(&Value::Text(below.display().to_string()));
        body.value(&Value::Array("u".to_owned(), vec![Value::U32(pid.unsigned_abs())]));
        let body = body.into_bytes();
        let attach =
            |connection: &mut Connection| connection.manager("AttachProcessesToUnit", "ssau", body.clone());
        self.ask(attach, "attach a process to").map(drop)
    }

    /// Stops it and waits until it is gone. One that is not there is fine.
    pub(super) fn stop(&self) -> Result<(), Error> {
        let mut body = Writer::default();
        body.value(&Value::Text(self.names.unit()));
        body.value(&Value::Text("replace".to_owned()));
        let (unit, body) = (self.names.unit(), body.into_bytes());
        let job = Job { member: "StopUnit", signature: "ss", body: &body, unit: &unit, goal: Goal::Gone };
        match self.with(|connection| connection.job(&job))? {
            Ok(result) => {
                if result != "done" {
                    log::warn!("stopping unit {:?}: job result is {result:?}", self.names.unit());
                }
                let _ = self.reset_failed();
                Ok(())
            }
            // Its last process has ended, and with it the unit.
            Err(failure) if failure.is(".NoSuchUnit") => Ok(()),
            Err(failure) => Err(self.error("stop", failure.to_string())),
        }
    }

    fn reset_failed(&self) -> Result<(), Error> {
        let mut body = Writer::default();
        body.value(&Value::Text(self.names.unit()));
        let body = body.into_bytes();
        match self.with(|connection| connection.manager("ResetFailedUnit", "s", body.clone()))? {
            Err(failure) if !failure.is(".NoSuchUnit") => Err(self.error("reset", failure.to_string())),
            _ => Ok(()),
        }
    }

    /// systemd's version: the number that `257.13-1~deb13u1` starts with.
    fn version(&self) -> Result<u32, Error> {
        let text = self.ask(|connection| connection.property("Version"), "ask for systemd's version for")?;
        let digits: String = text.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
        digits.parse().map_err(|_| self.error("ask for systemd's version for", format!("it says {text:?}")))
    }

    fn ask<T>(
        &self,
        call: impl FnMut(&mut Connection) -> Result<T, Failure>,
        action: &'static str,
    ) -> Result<T, Error> {
        self.with(call)?.map_err(|failure| self.error(action, failure.to_string()))
    }

    /// Calls over the one connection, which is made at the first call and again when systemd went away, for as
    /// long as it may take to be back. All our calls can be repeated.
    fn with<T>(
        &self,
        mut call: impl FnMut(&mut Connection) -> Result<T, Failure>,
    ) -> Result<Result<T, Failure>, Error> {
        const LONGEST: Duration = Duration::from_millis(200);
        let deadline = Deadline::after(BACK_SECONDS);
        let mut delay = Duration::from_millis(10);
        let mut place = self.connection();
        loop {
            let opened = match place.take() {
                Some(connection) => Ok(connection),
                None => Connection::open(&self.addresses),
            };
            let result = match opened {
                Ok(connection) => call(place.insert(connection)),
                Err(Failure::Lost(_)) if !deadline.passed() => Err(Failure::Lost(String::new())),
                Err(tried) => return Err(Error::NoBus { unit: self.names.unit(), tried: tried.to_string() }),
            };
            if !matches!(result, Err(Failure::Lost(_))) || deadline.passed() {
                return Ok(result);
            }
            *place = None;
            std::thread::sleep(delay);
            delay = (delay * 2).min(LONGEST);
        }
    }

    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, action: &'static str, reason: String) -> Error {
        let bus = self.connection().as_ref().map(|connection| connection.address.clone());
        Error::Systemd { action, unit: self.names.unit(), bus: bus.unwrap_or_default(), reason }
    }
}

#[cfg(test)]
mod tests;
