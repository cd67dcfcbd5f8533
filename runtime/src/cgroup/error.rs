//! What can go wrong with a cgroup. Each variant is one failing step with its object and the kernel's answer.

use std::path::PathBuf;

use nix::errno::Errno;

/// A failed cgroup operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `slice:prefix:name` is the path form of the systemd driver (`--systemd-cgroup`).
    #[error(
        "cgroupsPath {0:?} has the form slice:prefix:name of the systemd cgroup driver, which is not in use"
    )]
    SystemdPath(PathBuf),
    /// `--systemd-cgroup` with a path of the cgroupfs driver (wording of runc).
    #[error(
        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {0:?} instead"
    )]
    NotSystemdPath(PathBuf),
    /// `--systemd-cgroup` where PID 1 is something else (wording of runc).
    #[error("systemd not running on this host, cannot use systemd cgroups manager")]
    NoSystemd,
    /// `--systemd-cgroup` of an ordinary user on a host whose cgroups are not v2 alone (wording of runc): v1
    /// hierarchies are not delegated.
    #[error("cannot use rootless systemd cgroups manager on cgroup v1")]
    UserSystemdOnV1,
    /// systemd can't be reached.
    #[error("connect to systemd for unit {unit:?}: {tried}")]
    NoBus {
        /// The unit.
        unit: String,
        /// Each address with its error.
        tried: String,
    },
    /// A unit of the container's name is active, and not the container's.
    #[error("unit {0:?} exists already")]
    UnitExists(String),
    /// systemd refused a call or did not answer.
    #[error("{action} unit {unit:?} over {bus}: {reason}")]
    Systemd {
        /// What was asked.
        action: &'static str,
        /// The unit.
        unit: String,
        /// The bus.
        bus: String,
        /// systemd's answer.
        reason: String,
    },
    /// An `org.systemd.property.*` annotation that is not GVariant text.
    #[error("annotation {key}={value}: not a value in GVariant text format")]
    Annotation {
        /// The annotation.
        key: String,
        /// Its value.
        value: String,
    },
    /// The path names the root of the hierarchy, which holds the host's own processes.
    #[error("cgroupsPath {0:?} is the root cgroup")]
    RootCgroup(PathBuf),
    /// A name that could leave the cgroup, or that is not valid text for a path.
    #[error("invalid {what} {name:?}")]
    InvalidName {
        /// What the name is for: `cgroup file`, `sub-cgroup`, `cgroupsPath`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// No cgroup file system is mounted.
    #[error("no cgroup mount found in mountinfo")]
    NotMounted,
    /// The field is known but not implemented.
    #[error("{0} is not supported yet")]
    Unsupported(&'static str),
    /// A field whose value can't be right.
    #[error("invalid value of {field}: {reason}")]
    InvalidValue {
        /// Path of the field in config.json.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// A pre-existing cgroup with processes (wording of runc 1.2).
    #[error("container's cgroup is not empty: {0} process(es) found")]
    NotEmpty(usize),
    /// A pre-existing frozen cgroup (wording of runc).
    #[error("container's cgroup unexpectedly frozen")]
    Frozen,
    /// A cgroup above is frozen: a process that is put in would hang.
    #[error("container's cgroup unexpectedly frozen: a cgroup above {0:?} is")]
    FrozenAbove(PathBuf),
    /// A limit whose controller has no directory for this container (wording of runc).
    #[error("cannot set {0} limit: container could not join or create cgroup")]
    NoController(&'static str),
    /// An ordinary user's container that was refused a cgroup on v2 asks for a limit (wording of runc).
    #[error(
        "rootless needs no limits + no cgrouppath when no permission is granted for cgroups: cannot set {controller} \
         limit without {}: have it delegated to uid {} (systemd: Delegate=yes)",
        dir.display(), nix::unistd::geteuid()
    )]
    RootlessLimit {
        /// The controller.
        controller: &'static str,
        /// The cgroup that could not be made.
        dir: PathBuf,
    },
    /// An ordinary user has no right to make or join the cgroup that was asked for.
    #[error(
        "{action} {}: {} (uid {} needs a cgroup that is delegated to it, and must be started in it)",
        path.display(), reason(*errno), nix::unistd::geteuid()
    )]
    NotDelegated {
        /// `mkdir`, `join`.
        action: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// An operation on the cgroup of a container that has none (rootless; wording of runc).
    #[error("{0}: cgroups not configured for container")]
    NoCgroup(&'static str),
    /// cgroup v2: the controller is not enabled for the cgroup.
    #[error("cannot set {field}: controller {controller:?} is not available in {}", dir.display())]
    ControllerMissing {
        /// Path of the field in config.json.
        field: &'static str,
        /// The controller.
        controller: String,
        /// The cgroup.
        dir: PathBuf,
    },
    /// `unified` names a file of a controller that is not enabled (wording of runc).
    #[error("unified resource {key:?} can't be set: controller {controller:?} not available")]
    UnifiedController {
        /// The key.
        key: String,
        /// Text before its first dot.
        controller: String,
    },
    /// `unified` on cgroup v1 (wording of runc).
    #[error("invalid configuration: cannot use unified on cgroup v1")]
    UnifiedOnV1,
    /// The new limit is below what is in use and can't be reclaimed (EBUSY; wording of runc).
    #[error("unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})")]
    MemoryBusy {
        /// The limit in bytes.
        limit: i64,
        /// Bytes in use.
        usage: u64,
        /// Highest use so far, in bytes (0 where the kernel does not say).
        peak: u64,
    },
    /// `checkBeforeUpdate` (wording of runc).
    #[error("rejecting {what} limit {limit} <= usage {usage}")]
    BelowUsage {
        /// `memory` or `memory+swap`.
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
        /// Bytes in use.
        usage: u64,
    },
    /// Processes can't be in a cgroup of this type (cgroup v2).
    #[error("cannot enter cgroup {} of type {kind:?}", dir.display())]
    BadType {
        /// The cgroup.
        dir: PathBuf,
        /// cgroup.type.
        kind: String,
    },
    /// After the write the process is in another cgroup.
    #[error("process {pid} is in cgroup {found:?} instead of {} after the move", expected.display())]
    NotMoved {
        /// The process.
        pid: i32,
        /// Path that was written to.
        expected: PathBuf,
        /// Path in /proc/<pid>/cgroup.
        found: String,
    },
    /// The cgroup did not reach the state in time.
    #[error("cgroup {} did not become frozen within {seconds} s; its processes: {processes}", dir.display())]
    Timeout {
        /// The cgroup.
        dir: PathBuf,
        /// How long it was waited for.
        seconds: u64,
        /// The processes that are not, and what they do.
        processes: String,
    },
    /// Processes are still alive in a cgroup that should be removed.
    #[error("unable to remove cgroup {}: processes still in it: {processes}", dir.display())]
    Survivors {
        /// The cgroup.
        dir: PathBuf,
        /// Their pids.
        pids: Vec<i32>,
        /// What they are and do.
        processes: String,
    },
    /// A device rule that can't be expressed.
    #[error("device rule {rule}: {reason}")]
    DeviceRule {
        /// The rule as `a c 1:3 rwm`.
        rule: String,
        /// Why.
        reason: String,
    },
    /// bpf(2).
    #[error("{action} the device filter of {}: {}{}", dir.display(), reason(*errno), bpf_hint(*errno))]
    Bpf {
        /// `load`, `attach`, `query`.
        action: &'static str,
        /// The cgroup.
        dir: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A control file refused a value.
    #[error("write {value} to {file} of {}: {}", dir.display(), reason(*errno))]
    Write {
        /// What was written.
        value: String,
        /// Name of the file.
        file: String,
        /// The cgroup.
        dir: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A control file could not be read.
    #[error("read {file} of {}: {}", dir.display(), reason(*errno))]
    Read {
        /// Name of the file.
        file: String,
        /// The cgroup or directory.
        dir: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A control file says something unexpected.
    #[error("{file} of {} has unexpected content {content:?}", dir.display())]
    Content {
        /// Name of the file.
        file: String,
        /// The cgroup or directory.
        dir: PathBuf,
        /// What it says (its beginning).
        content: String,
    },
    /// Another call on a file or directory.
    #[error("{action} {}: {}", path.display(), reason(*errno))]
    Io {
        /// What was done: `mkdir`, `rmdir`, `open`.
        action: &'static str,
        /// The object.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// kill(2).
    #[error("send signal {signal} to process {pid}: {}", reason(*errno))]
    Signal {
        /// The process.
        pid: i32,
        /// The signal.
        signal: i32,
        /// The kernel's answer.
        errno: Errno,
    },
}

impl Error {
    /// The kernel's error number, where the failure is one system call's.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Bpf { errno, .. }
            | Error::Write { errno, .. }
            | Error::Read { errno, .. }
            | Error::Io { errno, .. }
            | Error::NotDelegated { errno, .. }
            | Error::Signal { errno, .. } => Some(*errno),
            Error::MemoryBusy { .. } => Some(Errno::EBUSY),
            _ => None,
        }
    }

    /// Whether the object is not there (ENOENT, or ENODEV of a cgroup that was removed under an open file).
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.errno(), Some(Errno::ENOENT | Errno::ENODEV))
    }

    /// Whether permission is missing: what a rootless caller without delegation sees.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self.errno(), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS))
    }
}

/// The kernel's words in lower case, as Go prints them and callers of runc match them.
fn reason(errno: Errno) -> String {
    let words = errno.desc();
    let mut chars = words.chars();
    match (chars.next(), chars.clone().next()) {
        // "I/O error" and the like keep their capitals.
        (Some(first), Some(second)) if second.is_ascii_lowercase() || second == ' ' => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => words.to_owned(),
    }
}

fn bpf_hint(errno: Errno) -> &'static str {
    match errno {
        // Kernels before 5.11 charge programs to RLIMIT_MEMLOCK.
        Errno::EPERM | Errno::ENOMEM => {
            " (CAP_BPF or CAP_SYS_ADMIN, and before kernel 5.11 RLIMIT_MEMLOCK, is needed)"
        }
        Errno::EINVAL | Errno::ENOSYS => " (the kernel needs CONFIG_CGROUP_BPF)",
        _ => "",
    }
}
