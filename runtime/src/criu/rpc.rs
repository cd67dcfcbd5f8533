//! CRIU's messages (its `images/rpc.proto`), as far as they are used here.

use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::wire::{Value, Writer, fields};

/// `criu_req_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Write a process tree to images.
    Dump,
    /// Make it from them.
    Restore,
    /// Write its memory only and let it run.
    PreDump,
    /// CRIU tells where it is, and waits for an answer.
    Notify,
    /// Which features the kernel has.
    FeatureCheck,
    /// Which CRIU this is.
    Version,
}

impl Kind {
    const ALL: [(Kind, u64, &'static str); 6] = [
        (Kind::Dump, 1, "DUMP"),
        (Kind::Restore, 2, "RESTORE"),
        (Kind::PreDump, 4, "PRE_DUMP"),
        (Kind::Notify, 6, "NOTIFY"),
        (Kind::FeatureCheck, 9, "FEATURE_CHECK"),
        (Kind::Version, 10, "VERSION"),
    ];

    fn number(self) -> u64 {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or(0, |(_, number, _)| *number)
    }

    fn from_number(number: i32) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| i64::from(number) == *known as i64).map(|(kind, ..)| *kind)
    }

    /// CRIU's name of it, which runc's errors have.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or("", |(.., name)| name)
    }
}

/// `criu_cg_mode`: what CRIU does about cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupsMode {
    /// Makes those that are missing; sets properties of these only.
    #[default]
    Soft,
    /// Sets properties of all.
    Full,
    /// Fails when one exists already.
    Strict,
    /// Leaves them alone.
    Ignore,
}

impl CgroupsMode {
    /// By the words of runc's `--manage-cgroups-mode`; none is `soft`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "" | "soft" => Some(CgroupsMode::Soft),
            "full" => Some(CgroupsMode::Full),
            "strict" => Some(CgroupsMode::Strict),
            "ignore" => Some(CgroupsMode::Ignore),
            _ => None,
        }
    }

    fn number(self) -> u64 {
        match self {
            CgroupsMode::Ignore => 0,
            CgroupsMode::Soft => 3,
            CgroupsMode::Full => 4,
            CgroupsMode::Strict => 5,
        }
    }
}

/// `criu_network_lock_method`: how CRIU keeps packets from a network namespace while it is being dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkLock {
    /// By the programs iptables-restore and ip6tables-restore.
    Iptables,
    /// By libnftables (CRIU 3.17).
    Nftables,
    /// Not at all.
    Skip,
}

/// Features of the kernel that CRIU checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Which pages a process has written since (soft-dirty).
    pub mem_track: bool,
    /// userfaultfd(2).
    pub lazy_pages: bool,
}

/// `criu_opts`. Descriptors are this process's, but for those to inherit, which are CRIU's.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Directory of the images.
    pub images_dir: RawFd,
    /// Directory of the log and other files, if not that of the images.
    pub work_dir: Option<RawFd>,
    /// Name of the log in it.
    pub log_file: &'static str,
    /// Dump: the process whose tree it is.
    pub pid: Option<i32>,
    /// Dump: let it run afterwards.
    pub leave_running: bool,
    /// Allow connections to Unix sockets outside.
    pub ext_unix_sk: bool,
    /// Allow TCP connections.
    pub tcp_established: bool,
    /// Dump: leave out TCP connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// Restore: close TCP connections.
    pub tcp_close: bool,
    /// Restore: use any path to a device.
    pub evasive_devices: bool,
    /// Allow a session and a process group from outside.
    pub shell_job: bool,
    /// Allow file locks.
    pub file_locks: bool,
    /// Address and port of a page server.
    pub page_server: Option<(String, u16)>,
    /// Root of the tree's mount namespace.
    pub root: PathBuf,
    /// Dump: images of the pre-dump, relative to the images.
    pub parent_img: Option<PathBuf>,
    /// Drop pages from the parent's images as they are used.
    pub auto_dedup: bool,
    /// Dump: give unlinked files a name.
    pub link_remap: bool,
    /// External mounts: key and path.
    pub ext_mounts: Vec<(PathBuf, PathBuf)>,
    /// Restore: cgroups in place of the dumped roots, controllers and path.
    pub cgroup_roots: Vec<(String, String)>,
    /// Restore: make the process a child of the caller, not of CRIU.
    pub sibling: bool,
    /// Restore: descriptors of CRIU for what was external, by key.
    pub inherit_fds: Vec<(String, RawFd)>,
    /// What to do about cgroups.
    pub cgroups: CgroupsMode,
    /// Other external resources, `net[INODE]:KEY` and the like.
    pub external: Vec<String>,
    /// Namespaces (CLONE_NEW*) whose contents are neither dumped nor restored.
    pub empty_ns: u32,
    /// Restore: namespaces to join, kind and path.
    pub join_ns: Vec<(&'static str, PathBuf)>,
    /// Dump: cgroup that freezes the tree.
    pub freeze_cgroup: Option<PathBuf>,
    /// Memory is fetched as it is used.
    pub lazy_pages: bool,
    /// File of options, which win over these.
    pub config_file: Option<PathBuf>,
    /// Restore: security label, TYPE:NAME.
    pub lsm_profile: Option<String>,
    /// Restore: SELinux label of mounts.
    pub lsm_mount_context: Option<String>,
    /// How the network is locked; CRIU's default if not said.
    pub network_lock: Option<NetworkLock>,
}

/// CRIU's log level with all that a failure needs.
const LOG_LEVEL: i32 = 4;

impl Options {
    fn encode(&self) -> Writer {
        let mut out = Writer::default();
        out.signed(1, self.images_dir);
        self.pid.inspect(|pid| out.signed(2, *pid));
        out.signed(9, LOG_LEVEL);
        out.text(10, self.log_file.as_bytes());
        if let Some((address, port)) = &self.page_server {
            let mut server = Writer::default();
            server.text(1, address.as_bytes());
            server.signed(2, i32::from(*port));
            out.message(11, server);
        }
        out.text(13, self.root.as_os_str().as_bytes());
        if let Some(parent) = &self.parent_img {
            out.text(14, parent.as_os_str().as_bytes());
            // Track memory: the next dump has only what changed.
            out.flag(15, true);
        }
        self.work_dir.inspect(|dir| out.signed(17, *dir));
        out.unsigned(34, self.cgroups.number());
        out.unsigned(38, u64::from(self.empty_ns));
        self.encode_flags(&mut out);
        self.encode_lists(&mut out);
        for (field, path) in [(44, &self.freeze_cgroup), (51, &self.config_file)] {
            if let Some(path) = path {
                out.text(field, path.as_os_str().as_bytes());
            }
        }
        for (field, text) in [(53, &self.lsm_profile), (63, &self.lsm_mount_context)] {
            if let Some(text) = text {
                out.text(field, text.as_bytes());
            }
        }
        match self.network_lock {
            None => {}
            Some(NetworkLock::Iptables) => out.unsigned(64, 1),
            Some(NetworkLock::Nftables) => out.unsigned(64, 2),
            Some(NetworkLock::Skip) => out.unsigned(64, 3),
        }
        out
    }

    fn encode_flags(&self, out: &mut Writer) {
        let flags = [
            (3, self.leave_running),
            (4, self.ext_unix_sk),
            (5, self.tcp_established),
            (6, self.evasive_devices),
            (7, self.shell_job),
            (8, self.file_locks),
            // Notifications.
            (12, true),
            (16, self.auto_dedup),
            (18, self.link_remap),
            // Manage cgroups, by the mode.
            (24, true),
            (26, self.sibling),
            (46, self.tcp_skip_in_flight),
            (48, self.lazy_pages),
            // Send the master of a terminal whose other end is in the tree.
            (50, true),
            (52, self.tcp_close),
        ];
        for (field, _) in flags.into_iter().filter(|(_, set)| *set) {
            out.flag(field, true);
        }
    }

    fn encode_lists(&self, out: &mut Writer) {
        let pair = |first: &[u8], second: &[u8]| {
            let mut pair = Writer::default();
            pair.text(1, first);
            pair.text(2, second);
            pair
        };
        for (key, path) in &self.ext_mounts {
            out.message(23, pair(key.as_os_str().as_bytes(), path.as_os_str().as_bytes()));
        }
        for (controllers, path) in &self.cgroup_roots {
            out.message(25, pair(controllers.as_bytes(), path.as_bytes()));
        }
        for (key, fd) in &self.inherit_fds {
            let mut inherit = Writer::default();
            inherit.text(1, key.as_bytes());
            inherit.signed(2, *fd);
            out.message(27, inherit);
        }
        for external in &self.external {
            out.text(37, external.as_bytes());
        }
        for (kind, path) in &self.join_ns {
            out.message(39, pair(kind.as_bytes(), path.as_os_str().as_bytes()));
        }
    }
}

/// `criu_req`.
#[derive(Clone, Debug)]
pub struct Request {
    kind: Kind,
    options: Option<Options>,
    features: Option<Features>,
    success: Option<bool>,
}

impl Request {
    /// A request without arguments.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Request { kind, options: None, features: None, success: None }
    }

    /// A dump, pre-dump or restore.
    #[must_use]
    pub fn with_options(kind: Kind, options: Options) -> Self {
        Request { options: Some(options), ..Request::new(kind) }
    }

    /// Whether the kernel has these features.
    #[must_use]
    pub fn features(features: Features) -> Self {
        Request { features: Some(features), ..Request::new(Kind::FeatureCheck) }
    }

    /// The answer to a notification.
    #[must_use]
    pub fn answer(success: bool) -> Self {
        Request { success: Some(success), ..Request::new(Kind::Notify) }
    }

    /// What is asked.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.unsigned(1, self.kind.number());
        if let Some(options) = &self.options {
            out.message(2, options.encode());
        }
        self.success.inspect(|success| out.flag(3, *success));
        if let Some(features) = self.features {
            let mut wanted = Writer::default();
            wanted.flag(1, features.mem_track);
            wanted.flag(2, features.lazy_pages);
            out.message(5, wanted);
        }
        out.into_bytes()
    }
}

/// `criu_resp`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// What it answers; `None` for a kind that is not asked here (CRIU answers 0 when it could not read a request).
    pub kind: Option<Kind>,
    /// Whether it was done.
    pub success: bool,
    /// Of a notification: where CRIU is (`post-dump`…), and the pid it is about.
    pub notify: Option<(String, i32)>,
    /// Of a restore: pid of the tree's root.
    pub restored: Option<i32>,
    /// Errno of a failure; often 0.
    pub errno: i32,
    /// CRIU's words for a failure.
    pub message: String,
    /// Which of the features are there.
    pub features: Features,
    /// Major, minor and sublevel.
    pub version: Option<(i32, i32, i32)>,
}

impl Response {
    /// Reads it; `None` when it is no such message.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut response = Response::default();
        for (field, value) in fields(bytes)? {
            match (field, value) {
                (1, kind) => response.kind = Kind::from_number(kind.signed()),
                (2, success) => response.success = success.flag(),
                (4, Value::Bytes(restore)) => {
                    response.restored = Some(number(restore, 1)?);
                }
                (5, Value::Bytes(notify)) => response.notify = Some((text(notify, 1)?, number(notify, 2)?)),
                (7, errno) => response.errno = errno.signed(),
                (8, Value::Bytes(features)) => {
                    let has = |field| Some(number(features, field)? != 0);
                    response.features = Features { mem_track: has(1)?, lazy_pages: has(2)? };
                }
                (9, message) => response.message = message.text(),
                (10, Value::Bytes(version)) => {
                    response.version = Some((number(version, 1)?, number(version, 2)?, number(version, 4)?));
                }
                _ => {}
            }
        }
        Some(response)
    }
}

/// A number in a message, 0 when it is not there; `None` when it is no message.
fn number(bytes: &[u8], wanted: u64) -> Option<i32> {
    let all = fields(bytes)?;
    Some(all.iter().rev().find(|(field, _)| *field == wanted).map_or(0, |(_, value)| value.signed()))
}

fn text(bytes: &[u8], wanted: u64) -> Option<String> {
    let all = fields(bytes)?;
    Some(
        all.iter()
            .rev()
            .find(|(field, _)| *field == wanted)
            .map_or_else(String::new, |(_, value)| value.text()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers() {
        assert_eq!(Request::new(Kind::Version).encode(), [0x08, 10]);
        assert_eq!(Request::answer(true).encode(), [0x08, 6, 0x18, 1]);
        // VERSION, success, version 4.2 sublevel 1.
        let version = Response::decode(b"\x08\x0a\x10\x01\x52\x06\x08\x04\x10\x02\x20\x01").unwrap();
        assert_eq!(
            (version.kind, version.success, version.version),
            (Some(Kind::Version), true, Some((4, 2, 1)))
        );
        // NOTIFY post-restore of pid 300.
        let mut notify = vec![0x08, 6, 0x10, 1, 0x2a, 17, 0x0a, 12];
        notify.extend_from_slice(b"post-restore\x10\xac\x02");
        assert_eq!(Response::decode(&notify).unwrap().notify, Some(("post-restore".to_owned(), 300)));
        assert_eq!(Response::decode(b"\x08"), None);
        assert_eq!(Response::decode(b"\x08\x00\x10\x00").unwrap().kind, None);
    }

    #[test]
    fn only_what_is_set_is_sent() {
        let options = Options { images_dir: 5, log_file: "dump.log", pid: Some(7), ..Options::default() };
        let sent = options.encode().into_bytes();
        let all = fields(&sent).unwrap();
        let numbers: Vec<u64> = all.iter().map(|(field, _)| *field).collect();
        assert_eq!(numbers, [1, 2, 9, 10, 13, 34, 38, 12, 24, 50]);
        let options = Options { leave_running: true, network_lock: Some(NetworkLock::Nftables), ..options };
        let sent = options.encode().into_bytes();
        assert!(fields(&sent).unwrap().contains(&(64, Value::Number(2))));
        assert!(fields(&sent).unwrap().contains(&(3, Value::Number(1))));
    }
}
