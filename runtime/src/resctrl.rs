//! Groups of the resctrl file system (`linux.intelRdt`): shares of L3 cache and memory bandwidth, and monitoring.
//!
//! A container is in the group of its `closID`, else in one of its own that ends with it. Facts: the kernel's
//! Documentation/filesystems/resctrl.rst; wording and order are runc's.

mod stats;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;

use crate::init::io_reason;
use crate::spec::list;

pub use stats::stats;

/// Why a group can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no resctrl, or not the part of it.
    #[error("{0}")]
    NotEnabled(String),
    /// A group of the host's that is to exist already.
    #[error(
        "intelRdt.closID: {path} not accessible (must be pre-created when l3CacheSchema, memBwSchema and schemata \
         are empty): {}",
        io_reason(source)
    )]
    Missing {
        /// The group's directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A group that exists has other shares than the config wants.
    #[error("intelRdt.{field}: {wanted:?} does not match {path}, which has {found:?}")]
    Mismatch {
        /// `l3CacheSchema` or `memBwSchema`.
        field: &'static str,
        /// Its value.
        wanted: String,
        /// The group's schemata.
        path: PathBuf,
        /// What it says of the resource.
        found: String,
    },
    /// A file or directory of resctrl.
    #[error("intelRdt: {action} {path}: {}{status}", io_reason(source))]
    File {
        /// What was done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
        /// `info/last_cmd_status`, in parentheses.
        status: String,
    },
}

/// Where the host has resctrl: the first of that type in mountinfo (proc_pid_mountinfo(5)).
///
/// # Errors
/// [`Error::NotEnabled`] in runc's words.
pub fn root() -> Result<PathBuf, Error> {
    let path = Path::new("/proc/self/mountinfo");
    let table = fs::read_to_string(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
        status: String::new(),
    })?;
    mount_point(&table).ok_or_else(|| {
        Error::NotEnabled("intelRdt is specified in config, but Intel RDT is not enabled".into())
    })
}

fn mount_point(table: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let found = back.split(' ').next() == Some("resctrl");
        // An administrator's path with a space would be written in octal; the usual one is /sys/fs/resctrl.
        found.then(|| front.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The group of a container, made or not.
#[derive(Debug)]
pub struct Group<'a> {
    root: &'a Path,
    config: &'a LinuxIntelRdt,
    dir: PathBuf,
    monitoring: Option<PathBuf>,
    made: Cell<bool>,
}

impl<'a> Group<'a> {
    /// Finds out where it is, and that the host has what it asks for.
    ///
    /// # Errors
    /// [`Error::NotEnabled`].
    pub fn new(root: &'a Path, config: &'a LinuxIntelRdt, id: &str) -> Result<Self, Error> {
        check(root, config)?;
        let dir = match clos_id(config) {
            Some("/") => root.to_owned(),
            Some(name) => root.join(name),
            None => root.join(id),
        };
        let monitoring = (*config.enable_monitoring() == Some(true)).then(|| dir.join("mon_groups").join(id));
        Ok(Group { root, config, dir, monitoring, made: Cell::new(false) })
    }

    /// The group's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The monitoring group's directory, of the container alone.
    #[must_use]
    pub fn monitoring(&self) -> Option<&Path> {
        self.monitoring.as_deref()
    }

    /// All directories that its processes are added to.
    pub fn dirs(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.dir()).chain(self.monitoring())
    }

    /// Makes what is missing and sets the shares.
    ///
    /// # Errors
    /// ENOSPC when the hardware has no more groups, EINVAL for shares that it has not. Nothing is left then.
    pub fn make(&self) -> Result<(), Error> {
        let schemata = schemata(self.config);
        if schemata.is_empty() && clos_id(self.config).is_some() {
            let found = fs::metadata(&self.dir);
            found.map_err(|source| Error::Missing { path: self.dir.clone(), source })?;
        }
        self.made.set(self.make_dir(&self.dir)?);
        let finished = self.set(&schemata).and_then(|()| {
            let monitoring = self.monitoring.as_deref();
            monitoring.map_or(Ok(false), |dir| self.make_dir(dir))
        });
        // The first error is the one to report.
        finished.map(drop).inspect_err(|_| drop(self.undo()))
    }

    /// Removes what [`Group::make`] has made, for a container that came to nothing.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn undo(&self) -> Result<(), Error> {
        let monitoring = self.monitoring.as_deref().map_or(Ok(()), remove);
        if self.made.get() { remove(&self.dir).and(monitoring) } else { monitoring }
    }

    fn set(&self, schemata: &str) -> Result<(), Error> {
        // config-linux.md: shares of a group that was there are compared, since others may be in it.
        if !self.made.get() && clos_id(self.config).is_some() {
            self.compare("l3CacheSchema", self.config.l3_cache_schema())?;
            self.compare("memBwSchema", self.config.mem_bw_schema())?;
        }
        if schemata.is_empty() { Ok(()) } else { self.write(&self.dir, "schemata", schemata) }
    }

    fn compare(&self, field: &'static str, wanted: &Option<String>) -> Result<(), Error> {
        let Some(wanted) = wanted.as_ref().filter(|text| !text.is_empty()) else { return Ok(()) };
        let path = self.dir.join("schemata");
        let found = fs::read_to_string(&path).map_err(|source| self.failed("read", &path, source))?;
        let (theirs, ours) = (shares(&found), shares(wanted));
        if ours.iter().all(|(share, value)| theirs.get(share) == Some(value)) {
            return Ok(());
        }
        let of_resource = |line: &&str| {
            let name = |line: &str| line.trim().split(':').next().map(str::to_owned);
            wanted.lines().any(|own| name(own) == name(line))
        };
        let found = found.lines().filter(of_resource).map(str::trim).collect::<Vec<_>>().join(" ");
        Err(Error::Mismatch { field, wanted: wanted.clone(), path, found })
    }

    fn make_dir(&self, dir: &Path) -> Result<bool, Error> {
        match fs::DirBuilder::new().mode(0o755).create(dir) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(source) => Err(self.failed("create", dir, source)),
        }
    }

    fn write(&self, dir: &Path, file: &str, text: &str) -> Result<(), Error> {
        let path = dir.join(file);
        write_file(&path, text).map_err(|source| self.failed("write", &path, source))
    }

    fn failed(&self, action: &'static str, path: &Path, source: io::Error) -> Error {
        let status = fs::read_to_string(self.root.join("info/last_cmd_status")).unwrap_or_default();
        let status = match status.trim() {
            "" | "ok" => String::new(),
            words => format!(" ({words})"),
        };
        Error::File { action, path: path.to_owned(), source, status }
    }
}

/// That the host has what a config asks for.
fn check(root: &Path, config: &LinuxIntelRdt) -> Result<(), Error> {
    let wants = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    for (wanted, info, field, what) in [
        (wants(config.l3_cache_schema()), "info/L3", "l3CacheSchema", "RDT/CAT"),
        (wants(config.mem_bw_schema()), "info/MB", "memBwSchema", "RDT/MBA"),
        (*config.enable_monitoring() == Some(true), "info/L3_MON", "enableMonitoring", "RDT monitoring"),
    ] {
        if wanted && !root.join(info).exists() {
            let word = format!("intelRdt.{field} is specified in config, but Intel {what} is not enabled");
            return Err(Error::NotEnabled(word));
        }
    }
    Ok(())
}

/// Gives a group other shares (`update`), and makes it for a container that had none. True if it was made.
///
/// # Errors
/// [`Error::NotEnabled`], or EINVAL for shares that the hardware has not.
pub fn update(root: &Path, dir: &Path, config: &LinuxIntelRdt) -> Result<bool, Error> {
    check(root, config)?;
    let group = Group { root, config, dir: dir.to_owned(), monitoring: None, made: Cell::new(false) };
    group.made.set(group.make_dir(dir)?);
    // The first error is the one to report.
    group.write(dir, "schemata", &schemata(config)).inspect_err(|_| drop(group.undo()))?;
    Ok(group.made.get())
}

/// Moves a process into a group or monitoring group.
///
/// # Errors
/// [`Error::File`].
pub fn add_process(dir: &Path, pid: i32) -> Result<(), Error> {
    let path = dir.join("tasks");
    write_file(&path, &pid.to_string()).map_err(|source| Error::File {
        action: "write",
        path,
        source,
        status: String::new(),
    })
}

/// Removes a group, which may be gone already. Its processes fall back to the default group.
///
/// # Errors
/// [`Error::File`].
pub fn remove(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { action: "remove", path: dir.to_owned(), source, status: String::new() })
        }
        _ => Ok(()),
    }
}

/// The config's class of service; `None` when the container has one of its own.
#[must_use]
pub fn clos_id(config: &LinuxIntelRdt) -> Option<&str> {
    config.clos_id().as_deref().filter(|id| !id.is_empty())
}

/// In one write(2), which resctrl takes as a whole.
fn write_file(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}

/// All lines for `schemata`, in the order in which the spec wants them to count. A memory bandwidth in
/// l3CacheSchema gives way to memBwSchema.
fn schemata(config: &LinuxIntelRdt) -> String {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let bandwidth = set(config.mem_bw_schema());
    let mut lines = Vec::new();
    for line in set(config.l3_cache_schema()).iter().flat_map(|text| text.lines()) {
        if bandwidth.is_none() || !line.trim_start().starts_with("MB:") {
            lines.push(line.to_owned());
        }
    }
    lines.extend(bandwidth);
    lines.extend(list(config.schemata()).iter().cloned());
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Resource and cache id to value, in a form that can be compared: the kernel pads with spaces and zeros.
fn shares(schemata: &str) -> BTreeMap<(String, String), String> {
    let mut all = BTreeMap::new();
    for (resource, rest) in schemata.lines().filter_map(|line| line.split_once(':')) {
        for (id, value) in rest.split(';').filter_map(|share| share.split_once('=')) {
            let number = |text: &str| {
                let text = text.trim().to_ascii_lowercase();
                match text.trim_start_matches('0') {
                    "" => "0".to_owned(),
                    digits => digits.to_owned(),
                }
            };
            all.insert((resource.trim().to_owned(), number(id)), number(value));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    //! On a fake tree, plain directories and files: machines with resctrl are few. What a real one does by itself,
    //! files in new groups, the tests do by hand.

    use super::*;

    /// A fake root, with the parts of `info` named.
    fn fake(info: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for part in info {
            fs::create_dir_all(root.path().join("info").join(part)).unwrap();
        }
        root
    }

    fn config(value: serde_json::Value) -> LinuxIntelRdt {
        serde_json::from_value(value).unwrap()
    }

    fn make(root: &Path, value: serde_json::Value) -> Result<bool, String> {
        let config = config(value);
        Group::new(root, &config, "c1")
            .and_then(|group| group.make().map(|()| group.made.get()))
            .map_err(|e| e.to_string())
    }

    fn read(root: &Path, file: &str) -> String {
        fs::read_to_string(root.join(file)).unwrap()
    }

    #[test]
    fn the_mount_point() {
        let table = "22 1 0:21 / /sys rw - sysfs sysfs rw\n30 22 0:30 / /sys/fs/resctrl rw,relatime shared:9 - resctrl resctrl rw,mba_MBps\n";
        assert_eq!(mount_point(table).unwrap(), Path::new("/sys/fs/resctrl"));
        assert_eq!(mount_point("22 1 0:21 / /resctrl rw - sysfs resctrl rw\n"), None);
    }

    #[test]
    fn a_group_of_the_containers_own() {
        let root = fake(&["L3", "MB"]);
        let value = serde_json::json!({"l3CacheSchema": "L3:0=7f0;1=1f\nMB:0=1", "memBwSchema": "MB:0=20;1=70",
                                       "schemata": ["L2:0=f"]});
        assert_eq!(make(root.path(), value), Ok(true));
        assert_eq!(read(root.path(), "c1/schemata"), "L3:0=7f0;1=1f\nMB:0=20;1=70\nL2:0=f\n");
        add_process(&root.path().join("c1"), 77).unwrap();
        assert_eq!(read(root.path(), "c1/tasks"), "77");
        // The kernel's files go with the directory.
        fs::remove_file(root.path().join("c1/schemata")).unwrap();
        fs::remove_file(root.path().join("c1/tasks")).unwrap();
        remove(&root.path().join("c1")).unwrap();
        remove(&root.path().join("c1")).unwrap();
    }

    #[test]
    fn without_shares_nothing_is_written() {
        let root = fake(&[]);
        assert_eq!(make(root.path(), serde_json::json!({})), Ok(true));
        assert_eq!(fs::read_dir(root.path().join("c1")).unwrap().count(), 0);
    }

    #[test]
    fn a_group_of_the_host() {
        let root = fake(&["L3", "MB"]);
        let missing = make(root.path(), serde_json::json!({"closID": "gold"})).unwrap_err();
        assert!(missing.contains("gold not accessible (must be pre-created"), "{missing}");
        fs::create_dir(root.path().join("gold")).unwrap();
        assert_eq!(make(root.path(), serde_json::json!({"closID": "gold"})), Ok(false));
        assert_eq!(make(root.path(), serde_json::json!({"closID": "/"})), Ok(false));
        // With shares it is made.
        let silver = serde_json::json!({"closID": "silver", "l3CacheSchema": "L3:0=f;1=f"});
        assert_eq!(make(root.path(), silver), Ok(true));
        assert_eq!(read(root.path(), "silver/schemata"), "L3:0=f;1=f\n");
    }

    #[test]
    fn shares_of_a_group_that_exists_must_match() {
        let root = fake(&["L3", "MB"]);
        fs::create_dir(root.path().join("gold")).unwrap();
        fs::write(root.path().join("gold/schemata"), "    MB:0= 20;1=100\n    L3:0=0000f;1=fffff\n").unwrap();
        let with = |l3: &str, mb: &str| {
            make(root.path(), serde_json::json!({"closID": "gold", "l3CacheSchema": l3, "memBwSchema": mb}))
        };
        assert_eq!(with("L3:0=F;1=fffff", "MB:0=20"), Ok(false));
        fs::write(root.path().join("gold/schemata"), "    MB:0= 20;1=100\n    L3:0=0000f;1=fffff\n").unwrap();
        let other = with("L3:0=ff", "").unwrap_err();
        assert!(other.starts_with("intelRdt.l3CacheSchema: \"L3:0=ff\" does not match "), "{other}");
        assert!(other.ends_with("which has \"L3:0=0000f;1=fffff\""), "{other}");
        assert!(with("", "MB:2=20").unwrap_err().contains("intelRdt.memBwSchema"));
    }

    #[test]
    fn an_update_writes_over_shares_and_makes_what_is_missing() {
        let root = fake(&["L3", "MB"]);
        let shares = config(serde_json::json!({"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20"}));
        assert!(update(root.path(), &root.path().join("c1"), &shares).unwrap());
        assert_eq!(read(root.path(), "c1/schemata"), "L3:0=f\nMB:0=20\n");
        let shares = config(serde_json::json!({"memBwSchema": "MB:0=70"}));
        fs::remove_file(root.path().join("c1/schemata")).unwrap();
        assert!(!update(root.path(), &root.path().join("c1"), &shares).unwrap());
        assert_eq!(read(root.path(), "c1/schemata"), "MB:0=70\n");
        let lacking = update(fake(&[]).path(), &root.path().join("c1"), &shares).unwrap_err().to_string();
        assert!(lacking.contains("Intel RDT/MBA is not enabled"), "{lacking}");
    }

    #[test]
    fn monitoring_has_a_group_of_the_containers_own() {
        let root = fake(&["L3_MON"]);
        fs::create_dir_all(root.path().join("gold/mon_groups")).unwrap();
        let config = config(serde_json::json!({"closID": "gold", "enableMonitoring": true}));
        let group = Group::new(root.path(), &config, "c1").unwrap();
        assert_eq!(group.monitoring().unwrap(), root.path().join("gold/mon_groups/c1"));
        group.make().unwrap();
        assert!(root.path().join("gold/mon_groups/c1").is_dir());
    }

    #[test]
    fn deprecated_flags_need_no_group() {
        // The group itself has mon_data, so enableCMT and enableMBM ask for nothing.
        let root = fake(&[]);
        assert_eq!(make(root.path(), serde_json::json!({"enableCMT": true, "enableMBM": true})), Ok(true));
        assert_eq!(fs::read_dir(root.path().join("c1")).unwrap().count(), 0);
    }

    #[test]
    fn what_the_host_lacks_is_named() {
        let root = fake(&[]);
        for (field, value, words) in [
            (
                "l3CacheSchema",
                "\"L3:0=f\"",
                "l3CacheSchema is specified in config, but Intel RDT/CAT is not enabled",
            ),
            (
                "memBwSchema",
                "\"MB:0=1\"",
                "memBwSchema is specified in config, but Intel RDT/MBA is not enabled",
            ),
            (
                "enableMonitoring",
                "true",
                "enableMonitoring is specified in config, but Intel RDT monitoring is",
            ),
        ] {
            let value = serde_json::from_str(&format!("{{{field:?}: {value}}}")).unwrap();
            let error = make(root.path(), value).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_failure_leaves_nothing_and_says_what_the_kernel_said() {
        let root = fake(&["L3_MON"]);
        fs::write(root.path().join("info/last_cmd_status"), "Out of closids\n").unwrap();
        // There is no mon_groups in a fake group.
        let error = make(root.path(), serde_json::json!({"enableMonitoring": true})).unwrap_err();
        assert!(error.contains("intelRdt: create ") && error.ends_with("(Out of closids)"), "{error}");
        assert!(!root.path().join("c1").exists());
    }
}
