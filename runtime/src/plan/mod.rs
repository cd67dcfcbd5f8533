//! A config as a plan: the ordered list of steps that make the container, as plain data.
//!
//! Building a plan does no I/O and needs no root, so it can be tested and printed. `init` runs it.

mod build;
mod describe;
mod devices;
mod mounts;
mod options;
mod outside;
mod process;
mod scheduling;

use std::ffi::CString;
use std::path::PathBuf;

use oci_spec::runtime::{Hook, LinuxIdMapping, LinuxNamespaceType};

use crate::security::capabilities::Sets;
use crate::security::keyring::Joiner;
use crate::sys::fs::WinSize;
use crate::sys::mount::Reach;
use crate::sys::process::{RLimit, Resource};
use crate::sys::sched::SchedAttr;

pub use build::{Request, exec_plan, plan};
pub use describe::{By, Description};
pub use devices::devices;
pub use mounts::plan_live_mount;
pub use options::{
    Attrs, Links, OptionError, Options, attr, known as known_mount_options, propagation, remount_flags,
};
pub use outside::{Affinity, Outside};

/// Facts about the host that a plan depends on; the caller finds them out.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What a `cgroup` mount shows: empty for cgroup v2 only, else one entry for each v1 hierarchy.
    pub cgroup_v1: Vec<CgroupView>,
    /// The container's cgroup v2 directory on the host.
    pub cgroup_v2: Option<PathBuf>,
    /// Where the host has cgroup v2 mounted, if that is all that it has.
    pub cgroup_v2_mount: Option<PathBuf>,
}

/// One cgroup v1 hierarchy as a container sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupView {
    /// Name of the directory: the host mount point's last component, `cpu,cpuacct`.
    pub name: String,
    /// Options that mount the same hierarchy again: `cpu`, `cpuacct`, or `name=systemd`.
    pub controllers: Vec<String>,
    /// The container's directory on the host.
    pub host_dir: PathBuf,
    /// Rootless: the runtime's own directory, where the process stays when it may not have one of its own.
    pub own_dir: Option<PathBuf>,
}

/// Everything that `init` does, and what the parent needs to start it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Namespaces to make and to join.
    pub namespaces: Namespaces,
    /// Mappings of a new user namespace.
    pub id_maps: Option<IdMaps>,
    /// Absolute host path of the root filesystem; empty for exec.
    pub rootfs: PathBuf,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The user's program.
    pub program: Program,
    /// Whether its seccomp filter has a listener, which the runtime hands to an agent.
    pub listener: bool,
    /// What the runtime does to the process from outside.
    pub outside: Outside,
}

/// Namespaces of the container's init.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    /// CLONE_NEW* flags of those to make.
    pub new: u64,
    /// Those to join by path.
    pub join: Vec<Join>,
    /// Whether a new cgroup namespace is made by init once it sits in its cgroup (cgroup v1 and hybrid:
    /// the namespace's root is where its maker is, and v1 has no CLONE_INTO_CGROUP).
    pub unshare_cgroup: bool,
    /// Whether a new network namespace is not in [`Namespaces::new`], since the runtime makes it while init mounts: it
    /// takes longer than all others together. Where the runtime can't come back from it (EPERM in a user namespace
    /// without a network namespace of its own), the clone makes it after all.
    pub network_apart: bool,
    /// Whether a new IPC namespace is made by init once it is root of its new user namespace.
    pub unshare_ipc: bool,
    /// Lines for /proc/PID/timens_offsets of a new time namespace, which is not in [`Namespaces::new`] then:
    /// the offsets are fixed once a process is in it, so the stage makes it for its child.
    pub time_offsets: String,
}

/// How the container's process comes into being.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// One clone3 makes it in its new namespaces; it joins the others itself.
    Direct,
    /// A short-lived process joins namespaces first and then clones init. Forced by the kernel: joining
    /// a pid namespace acts on children only, one in a new or joined user namespace has no rights over
    /// namespaces outside it (user_namespaces(7)), and a time namespace takes offsets only before a process
    /// is in it (time_namespaces(7)).
    Staged,
}

impl Namespaces {
    /// Which way the kernel allows.
    #[must_use]
    pub fn entry(&self) -> Entry {
        let joins = |kind| self.join.iter().any(|join| join.kind == kind);
        let new_user = self.new & libc::CLONE_NEWUSER as u64 != 0;
        let staged = joins(LinuxNamespaceType::User)
            || joins(LinuxNamespaceType::Pid)
            || joins(LinuxNamespaceType::Time)
            || !self.time_offsets.is_empty()
            || (new_user && !self.join.is_empty());
        if staged { Entry::Staged } else { Entry::Direct }
    }
}

/// A namespace to join.
#[derive(Clone, Debug)]
pub struct Join {
    /// Its kind.
    pub kind: LinuxNamespaceType,
    /// Host path of the namespace file.
    pub path: PathBuf,
}

/// Mappings of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// For /proc/PID/uid_map.
    pub uids: Vec<LinuxIdMapping>,
    /// For /proc/PID/gid_map.
    pub gids: Vec<LinuxIdMapping>,
}

/// One step of making the container, run by `init` in the container's process.
#[derive(Clone, Debug)]
pub enum Step {
    /// Become uid and gid 0 of the user namespace, before touching anything that it owns.
    BecomeRoot(KeptGroups),
    /// Start a session; every container process leads its own.
    Session,
    /// Join the session keyring named `_ses.<id>`.
    Keyring {
        /// Container id.
        id: String,
        /// Who joins, which decides the permissions.
        joiner: Joiner,
        /// SELinux label of the keyring and of what is made in it until execve.
        label: Option<String>,
    },
    /// Make the cgroup namespace (see [`Namespaces::unshare_cgroup`]).
    UnshareCgroup,
    /// Bring `lo` up in a new network namespace.
    LoopbackUp,
    /// Enter the network namespace that the runtime makes meanwhile, with `lo` up ([`Namespaces::network_apart`]).
    JoinNetwork,
    /// Make the IPC namespace: its message queues belong to who makes it, which is to be the root of a new user
    /// namespace.
    UnshareIpc,
    /// Make every mount a slave, so that nothing done here propagates to the host.
    SlaveMounts,
    /// Set the propagation of the mounts instead (MS_* flag), as linux.rootfsPropagation asks for: what is
    /// `shared` goes on propagating to the host. The rootfs itself never does.
    HostPropagation(u64, Reach),
    /// Make the rootfs a mount of its own; from here on paths mean paths in it.
    OpenRoot,
    /// Mount something.
    Mount(Mount),
    /// Make a device node.
    Device(Device),
    /// Make a symbolic link when nothing is there.
    Symlink {
        /// Where.
        path: PathBuf,
        /// What it points to.
        target: &'static str,
        /// Whether only when the target exists (/proc/kcore is a kernel option).
        only_if_target: bool,
    },
    /// Make a pseudo-terminal in the container's devpts, hand its master over, use its slave as stdio.
    Console {
        /// Initial window size.
        size: Option<WinSize>,
        /// Whether the slave is also mounted on /dev/console (create, not exec).
        bind: bool,
    },
    /// Let the parent run the prestart and createRuntime hooks.
    RuntimeHooks,
    /// Run the createContainer hooks.
    ContainerHooks(Vec<Hook>),
    /// Change the root.
    SwitchRoot(SwitchRoot),
    /// Set the propagation of the new root: MS_* flag.
    RootPropagation(u64, Reach),
    /// Make a mount read-only that had to be writable until now.
    Readonly(PathBuf),
    /// sethostname(2).
    Hostname(String),
    /// setdomainname(2).
    Domainname(String),
    /// Write a sysctl: path below /proc/sys, value.
    Sysctl(PathBuf, String),
    /// Make a path read-only by a mount on itself.
    ReadonlyPath(PathBuf),
    /// Hide a path under /dev/null or an empty read-only directory.
    MaskPath(PathBuf),
    /// Set resource limits: RLIMIT_* and values.
    Rlimits(Vec<(Resource, RLimit)>),
    /// personality(2).
    Personality(u32),
    /// set_mempolicy(2).
    MemoryPolicy {
        /// As the config names it.
        name: String,
        /// MPOL_* mode and flags.
        mode: u32,
        /// Bit mask of nodes.
        nodes: Vec<u64>,
    },
    /// sched_setattr(2).
    Scheduler {
        /// The policy's name.
        name: String,
        /// All values.
        attr: SchedAttr,
    },
    /// ioprio_set(2).
    IoPriority {
        /// As the config names it.
        name: String,
        /// Class and level.
        value: u32,
    },
    /// AppArmor profile from exec on.
    AppArmor(String),
    /// SELinux label from exec on.
    SelinuxLabel(String),
    /// What the program's user needs of the rootfs, before a seccomp filter can be in the way: its stdio,
    /// its working directory, HOME from its passwd(5) line.
    UserFiles {
        /// The program's user.
        uid: u32,
        /// The program's working directory.
        cwd: PathBuf,
    },
    /// PR_SET_NO_NEW_PRIVS.
    NoNewPrivileges,
    /// Restrict the program by Landlock.
    Landlock(crate::security::landlock::Rules),
    /// Load the seccomp filter that the parent compiled.
    Seccomp,
    /// Ids, groups and capabilities of the program, and its working directory.
    Identity(Identity),
    /// Make sure that the program can be found, so that a mistake shows at create.
    FindProgram,
    /// Say that everything is set up and wait to be started.
    Gate,
    /// Run the startContainer hooks.
    StartHooks(Vec<Hook>),
}

/// What becomes of the supplementary groups that the runtime was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptGroups {
    /// None is kept: the config's replace them.
    None,
    /// All are, and the config's are not set (annotation `run.oci.keep_original_groups=1`, crun's): an ordinary
    /// user's container can use what those groups may.
    All,
}

/// How the root is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchRoot {
    /// pivot_root(2).
    Pivot,
    /// The same from a tree that may propagate to the host: it is made a slave before it is dropped.
    PivotShared,
    /// MS_MOVE and chroot(2) (`--no-pivot`).
    Move,
    /// chroot(2) alone: without a mount namespace there is only the host's root.
    Chroot,
}

/// A mount to make.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Where, in the rootfs.
    pub destination: PathBuf,
    /// What.
    pub source: MountSource,
    /// Options.
    pub options: Options,
    /// How its ids are mapped.
    pub idmap: Option<MountIdMap>,
    /// SELinux label of the filesystem.
    pub label: Option<String>,
}

impl Mount {
    /// Whether it takes the place of the rootfs.
    #[must_use]
    pub fn is_root(&self) -> bool {
        mounts::is_root(&self.destination)
    }
}

/// An id-mapped mount (mount_setattr(2), kernel 5.12).
#[derive(Clone, Debug)]
pub struct MountIdMap {
    /// The mount alone or the tree.
    pub reach: Reach,
    /// The user namespace whose maps are used.
    pub userns: MountUserns,
}

/// A user namespace for an id-mapped mount.
#[derive(Clone, Debug)]
pub enum MountUserns {
    /// One with these maps, made for the purpose.
    Maps(IdMaps),
    /// The one at this host path.
    Path(PathBuf),
}

/// What is mounted.
#[derive(Clone, Debug)]
pub enum MountSource {
    /// A host path, bound.
    Bind {
        /// The path.
        path: PathBuf,
        /// The mount alone or the tree.
        reach: Reach,
    },
    /// A new filesystem.
    Filesystem {
        /// Its type.
        kind: CString,
        /// Its source as mountinfo shows it.
        source: CString,
    },
    /// The container's cgroup v1 hierarchies under a tmpfs.
    CgroupV1 {
        /// The hierarchies.
        views: Vec<CgroupView>,
        /// Whether the container has a cgroup namespace, which then shows the right root.
        namespaced: bool,
        /// Whether it must not be writable, whatever the options say.
        readonly: bool,
    },
    /// The cgroup v2 hierarchy.
    CgroupV2 {
        /// The host's own mount, which a container without a cgroup namespace gets to see again. To mount it anew from
        /// the first cgroup namespace would set its options for the whole host, and take away those that are not named
        /// (nsdelegate, memory_recursiveprot; runc #5258, moby #50466); and wait for a grace period (kernel 6.18).
        host_mount: Option<PathBuf>,
        /// The container's directory on the host, bound where a user namespace may not mount it.
        host_dir: Option<PathBuf>,
        /// Whether it must not be writable, whatever the options say.
        readonly: bool,
    },
    /// `bind,remount`: the mount that is there gets other attributes.
    RemountBind,
    /// `remount`: the filesystem that is there gets other options, its mount other attributes.
    RemountFilesystem,
}

/// A device node to make.
#[derive(Clone, Debug)]
pub struct Device {
    /// Where, in the rootfs.
    pub path: PathBuf,
    /// S_IFCHR, S_IFBLK or S_IFIFO and the permissions.
    pub mode: u32,
    /// Device number.
    pub number: libc::dev_t,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bind the host's node instead of making one: mknod(2) is refused in a user namespace.
    pub bind: bool,
}

/// Who the program runs as.
#[derive(Clone, Debug)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups; `None` where the user namespace forbids setgroups(2).
    pub groups: Option<Vec<u32>>,
    /// Capabilities; all sets are empty when the config names none, as in runc.
    pub capabilities: Sets,
    /// Working directory.
    pub cwd: PathBuf,
    /// umask.
    pub umask: u32,
}

/// The program that the user asked for.
#[derive(Clone, Debug)]
pub struct Program {
    /// Arguments; the first names the program.
    pub args: Vec<CString>,
    /// Environment, last of duplicate names only.
    pub env: Vec<CString>,
    /// Whether HOME is missing and is looked up in the container's passwd.
    pub set_home: bool,
    /// Whether a terminal is asked for.
    pub terminal: bool,
}
