//! fstab-style mount options (config.md "Mounts", mount(8)) as what the mount calls take.

use std::ffi::CString;

use crate::sorted::list_of;
use crate::sys::mount::Reach;

/// MOUNT_ATTR_* of `linux/mount.h`.
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// No set-user-ID.
    pub const NOSUID: u64 = 0x2;
    /// No device nodes.
    pub const NODEV: u64 = 0x4;
    /// No execution.
    pub const NOEXEC: u64 = 0x8;
    /// The field that holds one of the three access-time modes.
    pub const ATIME_MASK: u64 = 0x70;
    /// Never update access times.
    pub const NOATIME: u64 = 0x10;
    /// Always update access times.
    pub const STRICTATIME: u64 = 0x20;
    /// Never update access times of directories.
    pub const NODIRATIME: u64 = 0x80;
    /// Map ids by a user namespace (kernel 5.12).
    pub const IDMAP: u64 = 0x10_0000;
    /// Do not follow symlinks (kernel 5.14).
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
    /// What a bind remount sets or clears in any case; access times it keeps unless one is named.
    pub const REMOUNTED: u64 = RDONLY | NOSUID | NODEV | NOEXEC | NOSYMFOLLOW;
}

/// MS_* of `linux/mount.h`: what an option word sets or clears.
mod ms {
    pub use libc::{
        MS_DIRSYNC, MS_I_VERSION, MS_MANDLOCK, MS_NOATIME, MS_NODEV, MS_NODIRATIME, MS_NOEXEC, MS_NOSUID,
        MS_RDONLY, MS_RELATIME, MS_SILENT, MS_STRICTATIME, MS_SYNCHRONOUS,
    };
    /// Kernel 5.10; not in the libc crate.
    pub const MS_NOSYMFOLLOW: u64 = 1 << 8;
    /// Not in the libc crate.
    pub const MS_LAZYTIME: u64 = 1 << 25;
    /// One of the three access-time modes, as mount(2) takes them.
    pub const ATIME_MODE: u64 = MS_NOATIME | MS_RELATIME | MS_STRICTATIME;
    /// All words about access times.
    pub const ATIME: u64 = ATIME_MODE | MS_NODIRATIME;
    /// What the kernel locks on mounts that another user namespace made (MNT_LOCK_*).
    pub const LOCKABLE: u64 = MS_RDONLY | MS_NODEV | MS_NOEXEC | MS_NOSUID | ATIME;
}

/// A change of mount attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    /// MOUNT_ATTR_* to set.
    pub set: u64,
    /// MOUNT_ATTR_* to clear.
    pub clear: u64,
}

impl Attrs {
    fn add(&mut self, other: Attrs) {
        self.set = (self.set & !other.clear) | other.set;
        self.clear = (self.clear & !other.set) | other.clear;
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.set == 0 && self.clear == 0
    }
}

/// `idmap` or `ridmap`, perhaps with crun's mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMapOption {
    /// The mount alone or the tree.
    pub reach: Reach,
    /// `uids=` of the value.
    pub uids: Vec<IdRange>,
    /// `gids=` of the value.
    pub gids: Vec<IdRange>,
}

/// One range of crun's `idmap=uids=…;gids=…`: `0-1000-10`, or `@0-1000-10` for ids of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id in the backing filesystem.
    pub from: u32,
    /// What it becomes.
    pub to: u32,
    /// How many.
    pub size: u32,
    /// `@`: `to` is an id inside the container's user namespace.
    pub relative: bool,
}

/// What is done where a bind's source or destination is a symbolic link (crun's options).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// `copy-symlink`: make the same link in the rootfs instead of mounting what it names.
    pub copy: bool,
    /// `src-nofollow`: mount the link itself.
    pub source_nofollow: bool,
    /// `dest-nofollow`: mount over the link itself.
    pub destination_nofollow: bool,
}

/// Parsed options of one mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// MS_* flags that are asked for.
    pub flags: u64,
    /// MS_* flags that are asked to be off.
    pub cleared: u64,
    /// Attributes of the whole tree (`rro`, `rnosuid`…; kernel 5.12).
    pub tree_attrs: Attrs,
    /// `bind` or `rbind`.
    pub bind: Option<Reach>,
    /// `remount`: change the mount that is there.
    pub remount: bool,
    /// MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE in the order given.
    pub propagation: Vec<(u64, Reach)>,
    /// Options for the filesystem: key, or key and value.
    pub data: Vec<(CString, Option<CString>)>,
    /// `tmpcopyup`: fill a tmpfs with what it hides.
    pub copy_up: bool,
    /// `idmap`, `ridmap`.
    pub idmap: Option<IdMapOption>,
    /// How links are treated.
    pub links: Links,
}

/// Why an option can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// It holds a NUL byte.
    #[error("mount option {0:?} contains a NUL byte")]
    Nul(String),
    /// The value of `idmap` is not what crun's manual says.
    #[error("mount option {0:?}: want uids=FROM-TO-SIZE[#…];gids=FROM-TO-SIZE[#…]")]
    IdMap(String),
    /// Options that exclude each other.
    #[error("`copy-symlink` is mutually exclusive with `src-nofollow` and `dest-nofollow`")]
    Links,
}

/// Whether a word sets its flag or clears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sense {
    Set,
    Clear,
}
use Sense::{Clear, Set};

/// Words that set or clear a flag.
const WORDS: &[(&str, Sense, u64)] = &[
    ("ro", Set, ms::MS_RDONLY),
    ("rw", Clear, ms::MS_RDONLY),
    ("nosuid", Set, ms::MS_NOSUID),
    ("suid", Clear, ms::MS_NOSUID),
    ("nodev", Set, ms::MS_NODEV),
    ("dev", Clear, ms::MS_NODEV),
    ("noexec", Set, ms::MS_NOEXEC),
    ("exec", Clear, ms::MS_NOEXEC),
    ("noatime", Set, ms::MS_NOATIME),
    ("atime", Clear, ms::MS_NOATIME),
    ("relatime", Set, ms::MS_RELATIME),
    ("norelatime", Clear, ms::MS_RELATIME),
    ("strictatime", Set, ms::MS_STRICTATIME),
    ("nostrictatime", Clear, ms::MS_STRICTATIME),
    ("nodiratime", Set, ms::MS_NODIRATIME),
    ("diratime", Clear, ms::MS_NODIRATIME),
    ("nosymfollow", Set, ms::MS_NOSYMFOLLOW),
    ("symfollow", Clear, ms::MS_NOSYMFOLLOW),
    ("sync", Set, ms::MS_SYNCHRONOUS),
    ("async", Clear, ms::MS_SYNCHRONOUS),
    ("dirsync", Set, ms::MS_DIRSYNC),
    ("mand", Set, ms::MS_MANDLOCK),
    ("nomand", Clear, ms::MS_MANDLOCK),
    ("lazytime", Set, ms::MS_LAZYTIME),
    ("nolazytime", Clear, ms::MS_LAZYTIME),
    ("iversion", Set, ms::MS_I_VERSION),
    ("noiversion", Clear, ms::MS_I_VERSION),
    ("silent", Set, ms::MS_SILENT),
    ("loud", Clear, ms::MS_SILENT),
    ("defaults", Set, 0),
];

/// crun's recursive forms of words about the superblock. A tree of mounts has many superblocks, which are
/// not the mounts' to change: they act on a new filesystem only.
const RECURSIVE_SUPERBLOCK: &[&str] = &["rasync", "rdirsync", "rmand", "rnomand", "rsync"];

/// Flags that an attribute of a mount stands for.
const ATTRIBUTES: &[(u64, u64)] = &[
    (ms::MS_RDONLY, attr::RDONLY),
    (ms::MS_NOSUID, attr::NOSUID),
    (ms::MS_NODEV, attr::NODEV),
    (ms::MS_NOEXEC, attr::NOEXEC),
    (ms::MS_NODIRATIME, attr::NODIRATIME),
    (ms::MS_NOSYMFOLLOW, attr::NOSYMFOLLOW),
    (ms::MS_NOATIME, attr::NOATIME),
    (ms::MS_STRICTATIME, attr::STRICTATIME),
    (ms::MS_RELATIME, 0),
];

/// Flags of the superblock and the word that fsconfig(2) knows them by.
const SUPERBLOCK: &[(u64, &std::ffi::CStr)] = &[
    // As mount(2) does: a read-only mount of a new filesystem has a read-only superblock.
    (ms::MS_RDONLY, c"ro"),
    (ms::MS_SYNCHRONOUS, c"sync"),
    (ms::MS_DIRSYNC, c"dirsync"),
    (ms::MS_MANDLOCK, c"mand"),
    (ms::MS_LAZYTIME, c"lazytime"),
];

const PROPAGATION: &[(&str, u64)] = &[
    ("private", libc::MS_PRIVATE),
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Words with a meaning of their own.
const SPECIAL: &[&str] = &[
    "bind",
    "rbind",
    "remount",
    "tmpcopyup",
    "idmap",
    "ridmap",
    "copy-symlink",
    "src-nofollow",
    "dest-nofollow",
];

impl Options {
    /// Parses a mount's option list. What is not a known option belongs to the filesystem.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn parse<S: AsRef<str>>(options: &[S]) -> Result<Self, OptionError> {
        let mut parsed = Options::default();
        for option in options {
            parsed.add(option.as_ref())?;
        }
        if parsed.links.copy && (parsed.links.source_nofollow || parsed.links.destination_nofollow) {
            return Err(OptionError::Links);
        }
        Ok(parsed)
    }

    fn add(&mut self, option: &str) -> Result<(), OptionError> {
        if let Some((_, sense, flag)) = word(option) {
            self.flag(*sense, *flag);
        } else if let Some(flag) = propagation(option) {
            self.propagation.push((flag, reach(option)));
        } else if let Some(attrs) = recursive_attribute(option) {
            self.tree_attrs.add(attrs);
        } else if RECURSIVE_SUPERBLOCK.contains(&option) {
            if let Some((_, sense, flag)) = option.strip_prefix('r').and_then(word) {
                self.flag(*sense, *flag);
            }
        } else {
            self.special(option)?;
        }
        Ok(())
    }

    fn special(&mut self, option: &str) -> Result<(), OptionError> {
        match option {
            "bind" | "rbind" => self.bind = Some(reach(option)),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "copy-symlink" => self.links.copy = true,
            "src-nofollow" => self.links.source_nofollow = true,
            "dest-nofollow" => self.links.destination_nofollow = true,
            "" => {}
            _ => match option.split('=').next() {
                Some("idmap" | "ridmap") => self.idmap = Some(idmap(option)?),
                _ => self.data.push(data(option)?),
            },
        }
        Ok(())
    }

    fn flag(&mut self, sense: Sense, flag: u64) {
        let (on, off) = if sense == Set { (flag, 0) } else { (0, flag) };
        self.flags = (self.flags & !off) | on;
        self.cleared = (self.cleared & !on) | off;
    }

    /// Whether the mount is to be read-only.
    #[must_use]
    pub fn readonly(&self) -> bool {
        self.flags & ms::MS_RDONLY != 0
    }

    /// The same options without `ro`, for a mount that is written to before it becomes read-only.
    #[must_use]
    pub fn writable(mut self) -> Self {
        self.flags &= !ms::MS_RDONLY;
        self
    }

    /// Whether a value is too long for fsconfig(2) (kernel: strndup_user(…, 256)), as the lowerdir of an overlay
    /// with many layers is.
    #[must_use]
    pub fn has_long_data(&self) -> bool {
        self.data.iter().any(|(_, value)| value.as_ref().is_some_and(|value| value.count_bytes() > 255))
    }

    /// MOUNT_ATTR_* of a new mount.
    #[must_use]
    pub fn mount_attrs(&self) -> u64 {
        attributes(self.flags)
    }

    /// The words for the flags that are set: of the mount, then of the tree.
    #[must_use]
    pub fn flag_words(&self) -> Vec<String> {
        let set = WORDS.iter().filter(|(_, sense, flag)| *sense == Set && *flag != 0);
        let own =
            set.clone().filter(|(.., flag)| self.flags & flag != 0).map(|(name, ..)| (*name).to_owned());
        let tree = set.filter(|(.., flag)| {
            let bits = attributes(*flag);
            bits != 0 && self.tree_attrs.set & bits == bits
        });
        own.chain(tree.map(|(name, ..)| format!("r{name}"))).collect()
    }

    /// Words for fsconfig(2) that set the new superblock's flags. `iversion` has none: filesystems that
    /// keep a change counter turn it on by themselves (ext4 since 6.1, xfs, btrfs).
    pub fn superblock_words(&self) -> impl Iterator<Item = &'static std::ffi::CStr> + '_ {
        SUPERBLOCK.iter().filter(|(flag, _)| self.flags & flag != 0).map(|(_, word)| *word)
    }

    /// What a bind mount changes on the cloned mount, as a bind remount does (and as runc since 1.2 does as
    /// soon as any flag is named): flags that are not asked for are cleared, access times kept unless one
    /// is named. `None` when no flag is named.
    #[must_use]
    pub fn bind_attrs(&self) -> Option<Attrs> {
        (self.flags != 0 || self.cleared != 0).then(|| exactly(self.flags))
    }

    /// As [`Options::bind_attrs`] for a mount with locked flags (mount_namespaces(7)): those stay. `None` when
    /// the options ask for one of them to be off, or for other access times. `now` is what statfs(2) says.
    #[must_use]
    pub fn bind_attrs_keeping(&self, now: u64) -> Option<Attrs> {
        let now = statfs_flags(now);
        if now & self.cleared & ms::LOCKABLE != 0 {
            return None;
        }
        if self.flags & ms::ATIME != 0 && self.flags & ms::ATIME != now & ms::ATIME {
            return None;
        }
        Some(exactly(self.flags | (now & ms::LOCKABLE)))
    }
}

/// A bind remount with these MS_* flags.
fn exactly(flags: u64) -> Attrs {
    let set = attributes(flags);
    let mut clear = attr::REMOUNTED & !set;
    if flags & ms::ATIME == 0 {
        return Attrs { set, clear };
    }
    clear |= attr::ATIME_MASK | (attr::NODIRATIME & !set);
    Attrs { set, clear }
}

/// MS_* as MOUNT_ATTR_*. Of several access-time modes the one wins that wins in mount(2).
fn attributes(flags: u64) -> u64 {
    let all = ATTRIBUTES.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |all, (_, attr)| all | attr);
    if all & attr::STRICTATIME != 0 { all & !attr::NOATIME } else { all }
}

/// The MS_* flags of a bind remount that makes this change to a mount, `now` being what statfs(2) says of it.
#[must_use]
pub fn remount_flags(now: u64, change: Attrs) -> u64 {
    let mut flags = statfs_flags(now);
    if change.clear & attr::ATIME_MASK != 0 {
        // Of the three modes relatime is the one without a bit.
        flags = (flags & !ms::ATIME_MODE) | ms::MS_RELATIME;
    }
    for (flag, attribute) in ATTRIBUTES {
        if change.clear & attribute & !attr::ATIME_MASK != 0 {
            flags &= !flag;
        }
    }
    for (flag, attribute) in ATTRIBUTES.iter().filter(|(_, attribute)| change.set & attribute != 0) {
        if attribute & attr::ATIME_MASK != 0 {
            flags &= !ms::ATIME_MODE;
        }
        flags |= flag;
    }
    flags
}

/// `f_flags` of statfs(2) as MS_*: the same bits but for two.
fn statfs_flags(flags: u64) -> u64 {
    const ST_RELATIME: u64 = 0x1000;
    const ST_NOSYMFOLLOW: u64 = 0x2000;
    let same =
        ms::MS_RDONLY | ms::MS_NOSUID | ms::MS_NODEV | ms::MS_NOEXEC | ms::MS_NOATIME | ms::MS_NODIRATIME;
    let mut all = flags & same;
    if flags & ST_RELATIME != 0 {
        all |= ms::MS_RELATIME;
    }
    if flags & ST_NOSYMFOLLOW != 0 {
        all |= ms::MS_NOSYMFOLLOW;
    }
    // strictatime is the absence of the others.
    if all & ms::ATIME_MODE == 0 { all | ms::MS_STRICTATIME } else { all }
}

fn word(option: &str) -> Option<&'static (&'static str, Sense, u64)> {
    WORDS.iter().find(|(name, ..)| *name == option)
}

fn reach(option: &str) -> Reach {
    if option.starts_with('r') { Reach::Tree } else { Reach::One }
}

/// The MS_* flag of a propagation word, `r` in front or not; also for linux.rootfsPropagation.
#[must_use]
pub fn propagation(word: &str) -> Option<u64> {
    let find = |word: &str| PROPAGATION.iter().find(|(name, _)| *name == word).map(|(_, flag)| *flag);
    find(word).or_else(|| find(word.strip_prefix('r')?))
}

/// What `r` in front of a word does to every mount of the tree. The access-time mode is one field, which
/// mount_setattr(2) wants cleared whole.
fn recursive_attribute(option: &str) -> Option<Attrs> {
    let (_, sense, flag) = word(option.strip_prefix('r')?)?;
    let (_, attr) = ATTRIBUTES.iter().find(|(ms, _)| ms == flag)?;
    Some(match (sense, *flag & ms::ATIME_MODE != 0) {
        (Set, true) => Attrs { set: *attr, clear: attr::ATIME_MASK },
        (Set, false) => Attrs { set: *attr, clear: 0 },
        // There is no mode that is "not relatime".
        (Clear, true) if *attr == 0 => Attrs::default(),
        (Clear, true) => Attrs { set: 0, clear: attr::ATIME_MASK },
        (Clear, false) => Attrs { set: 0, clear: *attr },
    })
}

fn data(option: &str) -> Result<(CString, Option<CString>), OptionError> {
    let cstring = |text: &str| CString::new(text).map_err(|_| OptionError::Nul(option.to_owned()));
    match option.split_once('=') {
        Some((key, value)) => Ok((cstring(key)?, Some(cstring(value)?))),
        None => Ok((cstring(option)?, None)),
    }
}

/// `idmap`, `ridmap`, or crun's `idmap=uids=0-1-10#10-11-10;gids=@0-100-10`.
fn idmap(option: &str) -> Result<IdMapOption, OptionError> {
    let bad = || OptionError::IdMap(option.to_owned());
    let mut parsed = IdMapOption { reach: reach(option), uids: Vec::new(), gids: Vec::new() };
    let Some((_, value)) = option.split_once('=') else { return Ok(parsed) };
    for part in value.split(';').filter(|part| !part.is_empty()) {
        let (key, ranges) = part.split_once('=').ok_or_else(bad)?;
        let ranges =
            ranges.split('#').map(|text| id_range(text).ok_or_else(bad)).collect::<Result<_, _>>()?;
        match key {
            "uids" => parsed.uids = ranges,
            "gids" => parsed.gids = ranges,
            _ => return Err(bad()),
        }
    }
    if parsed.uids.is_empty() || parsed.gids.is_empty() { Err(bad()) } else { Ok(parsed) }
}

fn id_range(text: &str) -> Option<IdRange> {
    let (relative, numbers) = match text.strip_prefix('@') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    // u32's own parser takes a leading plus, which is no number here.
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
    let mut parts = numbers.split('-');
    let (from, to, size) = (number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?);
    (parts.next().is_none() && size > 0).then_some(IdRange { from, to, size, relative })
}

/// Every option word that davit acts on, for `features`; sorted.
#[must_use]
pub fn known() -> Vec<String> {
    let mut all: Vec<String> = WORDS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let recursive = WORDS.iter().map(|(name, ..)| format!("r{name}"));
    all.extend(recursive.filter(|name| recursive_attribute(name).is_some()));
    all.extend(PROPAGATION.iter().flat_map(|(name, _)| [(*name).to_owned(), format!("r{name}")]));
    all.extend(RECURSIVE_SUPERBLOCK.iter().chain(SPECIAL).map(|name| (*name).to_owned()));
    list_of(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_dev_options() {
        let o = Options::parse(&["nosuid", "strictatime", "mode=755", "size=65536k"]).unwrap();
        assert_eq!(o.mount_attrs(), attr::NOSUID | attr::STRICTATIME);
        assert_eq!(o.data[0], (c"mode".to_owned(), Some(c"755".to_owned())));
    }

    #[test]
    fn the_last_word_wins() {
        let o = Options::parse(&["ro", "rw", "noatime", "atime"]).unwrap();
        assert_eq!(o.flags, 0);
        assert_eq!(o.cleared, libc::MS_RDONLY | libc::MS_NOATIME);
    }

    #[test]
    fn recursive_words_are_not_plain_ones() {
        let o = Options::parse(&["rbind", "rro", "rslave", "rrelatime"]).unwrap();
        assert_eq!(o.bind, Some(Reach::Tree));
        assert_eq!(o.tree_attrs, Attrs { set: attr::RDONLY, clear: attr::ATIME_MASK });
        assert_eq!((o.flags, o.cleared), (0, 0));
        assert_eq!(o.propagation, [(libc::MS_SLAVE, Reach::Tree)]);
    }

    #[test]
    fn recursive_access_times_replace_the_whole_field() {
        let o = Options::parse(&["rnoatime", "rstrictatime"]).unwrap();
        assert_eq!(o.tree_attrs, Attrs { set: attr::STRICTATIME, clear: attr::ATIME_MASK });
        assert!(Options::parse(&["rnorelatime"]).unwrap().tree_attrs.is_empty());
    }

    #[test]
    fn a_bind_with_flags_clears_the_others() {
        let attrs = Options::parse(&["bind", "ro"]).unwrap().bind_attrs().unwrap();
        assert_eq!(attrs.set, attr::RDONLY);
        assert_eq!(attrs.clear, attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW);
        let attrs = Options::parse(&["rbind", "rw"]).unwrap().bind_attrs().unwrap();
        assert_eq!((attrs.set, attrs.clear), (0, attr::REMOUNTED));
        assert_eq!(Options::parse(&["rbind", "rslave"]).unwrap().bind_attrs(), None);
    }

    #[test]
    fn locked_flags_stay_unless_they_are_unwanted() {
        let (st_nosuid, st_noexec, st_relatime) = (2, 8, 0x1000);
        let now = st_nosuid | st_noexec | st_relatime;
        let keeping = |words: &[&str]| Options::parse(words).unwrap().bind_attrs_keeping(now);
        let kept = keeping(&["bind", "ro"]).unwrap();
        assert_eq!(kept.set, attr::RDONLY | attr::NOSUID | attr::NOEXEC);
        assert_eq!(kept.clear & attr::NODEV, attr::NODEV);
        assert_eq!(keeping(&["bind", "ro", "exec"]), None);
        assert_eq!(keeping(&["bind", "noatime"]), None);
        assert!(keeping(&["bind", "relatime"]).is_some());
    }

    #[test]
    fn idmap_values_are_crun_s() {
        let parsed = Options::parse(&["ridmap=uids=0-1-10#@10-11-5;gids=0-100-10"]).unwrap().idmap.unwrap();
        assert_eq!(parsed.reach, Reach::Tree);
        assert_eq!(parsed.uids[1], IdRange { from: 10, to: 11, size: 5, relative: true });
        assert_eq!(parsed.gids.len(), 1);
        assert!(Options::parse(&["idmap"]).unwrap().idmap.unwrap().uids.is_empty());
        for bad in [
            "idmap=",
            "idmap=uids=0-1-1",
            "idmap=uids=0-1;gids=0-1-1",
            "idmap=uids=0-+1-1;gids=0-1-1",
            "idmap=x=0-1-1",
            "idmap=uids=0-1-0;gids=0-1-1",
            "idmap=uids=0-1-4294967296;gids=0-1-1",
        ] {
            assert_eq!(Options::parse(&[bad]).unwrap_err(), OptionError::IdMap(bad.into()));
        }
    }

    #[test]
    fn options_about_links_exclude_each_other() {
        assert_eq!(Options::parse(&["copy-symlink", "src-nofollow"]).unwrap_err(), OptionError::Links);
    }

    #[test]
    fn every_known_word_is_parsed_as_more_than_data() {
        for word in known() {
            let parsed = Options::parse(&[&word]).unwrap();
            assert!(parsed.data.is_empty(), "{word}");
        }
    }
}
