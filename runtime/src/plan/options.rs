//! fstab-style mount options (config.md "Mounts", mount(8)) as what the mount calls take.

use std::ffi::CString;

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
    /// Do not follow symlinks (kernel 5.14).
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
    /// What a bind remount sets or clears: everything but the access-time modes, which it keeps.
    pub const REMOUNTED: u64 = RDONLY | NOSUID | NODEV | NOEXEC | NOSYMFOLLOW;
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
    fn add(&mut self, set: u64, clear: u64) {
        self.set = (self.set & !clear) | set;
        self.clear = (self.clear & !set) | clear;
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.set == 0 && self.clear == 0
    }
}

/// Parsed options of one mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Attributes of this mount.
    pub attrs: Attrs,
    /// Attributes of the whole tree (`rro`, `rnosuid`…; kernel 5.12).
    pub tree_attrs: Attrs,
    /// `bind` or `rbind`.
    pub bind: Option<Reach>,
    /// MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE in the order given.
    pub propagation: Vec<(u64, Reach)>,
    /// Options for the filesystem: key, or key and value.
    pub data: Vec<(CString, Option<CString>)>,
    /// `tmpcopyup`: fill a tmpfs with what it hides.
    pub copy_up: bool,
}

/// Why an option can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// It holds a NUL byte.
    #[error("mount option {0:?} contains a NUL byte")]
    Nul(String),
    /// It is known, and not implemented.
    #[error("mount option {0} is not supported yet")]
    Unsupported(String),
}

/// Options that set or clear attributes: name, set, clear.
pub(super) const ATTRIBUTES: &[(&str, u64, u64)] = &[
    ("ro", attr::RDONLY, 0),
    ("rw", 0, attr::RDONLY),
    ("nosuid", attr::NOSUID, 0),
    ("suid", 0, attr::NOSUID),
    ("nodev", attr::NODEV, 0),
    ("dev", 0, attr::NODEV),
    ("noexec", attr::NOEXEC, 0),
    ("exec", 0, attr::NOEXEC),
    ("noatime", attr::NOATIME, attr::ATIME_MASK),
    ("atime", 0, attr::ATIME_MASK),
    ("relatime", 0, attr::ATIME_MASK),
    ("norelatime", 0, attr::ATIME_MASK),
    ("strictatime", attr::STRICTATIME, attr::ATIME_MASK),
    ("nostrictatime", 0, attr::ATIME_MASK),
    ("nodiratime", attr::NODIRATIME, 0),
    ("diratime", 0, attr::NODIRATIME),
    ("nosymfollow", attr::NOSYMFOLLOW, 0),
    ("symfollow", 0, attr::NOSYMFOLLOW),
];

/// Options of the superblock that fsconfig(2) takes as flags under the same name.
const SUPERBLOCK: &[&str] = &["sync", "dirsync", "mand", "lazytime"];

/// Their opposites, which are the default of a new mount, and those about messages in the kernel's log, of
/// which the mount calls used here write none.
const SUPERBLOCK_DEFAULTS: &[&str] =
    &["async", "nomand", "nolazytime", "silent", "loud", "noiversion", "defaults"];

const PROPAGATION: &[(&str, u64)] = &[
    ("private", libc::MS_PRIVATE),
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
];

const UNSUPPORTED: &[&str] = &["idmap", "ridmap", "remount", "iversion"];

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
        Ok(parsed)
    }

    fn add(&mut self, option: &str) -> Result<(), OptionError> {
        if let Some((_, set, clear)) = ATTRIBUTES.iter().find(|(name, ..)| *name == option) {
            self.attrs.add(*set, *clear);
        } else if option == "bind" || option == "rbind" {
            self.bind = Some(reach(option));
        } else if let Some(flag) = propagation(option) {
            self.propagation.push((flag, reach(option)));
        } else if let Some((_, set, clear)) = recursive_attribute(option) {
            self.tree_attrs.add(*set, *clear);
        } else if option == "tmpcopyup" {
            self.copy_up = true;
        } else if UNSUPPORTED.contains(&option.split('=').next().unwrap_or(option)) {
            return Err(OptionError::Unsupported(option.to_owned()));
        } else if !SUPERBLOCK_DEFAULTS.contains(&option) && !option.is_empty() {
            self.data.push(data(option)?);
        }
        Ok(())
    }

    /// What a bind mount changes on the cloned mount, as a bind remount does: flags that are not asked
    /// for are cleared, access times kept. Nothing when no flag is named.
    #[must_use]
    pub fn bind_attrs(&self) -> Attrs {
        if self.attrs.is_empty() {
            return Attrs::default();
        }
        let set = self.attrs.set;
        let atime =
            if set & attr::ATIME_MASK == 0 { self.attrs.clear & attr::ATIME_MASK } else { attr::ATIME_MASK };
        Attrs { set, clear: (attr::REMOUNTED & !set) | atime }
    }
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

fn recursive_attribute(option: &str) -> Option<&'static (&'static str, u64, u64)> {
    let word = option.strip_prefix('r')?;
    ATTRIBUTES.iter().find(|(name, ..)| *name == word)
}

fn data(option: &str) -> Result<(CString, Option<CString>), OptionError> {
    let cstring = |text: &str| CString::new(text).map_err(|_| OptionError::Nul(option.to_owned()));
    if SUPERBLOCK.contains(&option) {
        return Ok((cstring(option)?, None));
    }
    match option.split_once('=') {
        Some((key, value)) => Ok((cstring(key)?, Some(cstring(value)?))),
        None => Ok((cstring(option)?, None)),
    }
}

/// Every option word that davit acts on, for `features`; sorted.
#[must_use]
pub fn known() -> Vec<String> {
    let mut all: Vec<String> = ATTRIBUTES.iter().map(|(name, ..)| (*name).to_owned()).collect();
    all.extend(ATTRIBUTES.iter().map(|(name, ..)| format!("r{name}")));
    all.extend(PROPAGATION.iter().flat_map(|(name, _)| [(*name).to_owned(), format!("r{name}")]));
    all.extend(SUPERBLOCK.iter().chain(SUPERBLOCK_DEFAULTS).map(|name| (*name).to_owned()));
    all.extend(["bind", "rbind", "tmpcopyup"].map(str::to_owned));
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_dev_options() {
        let o = Options::parse(&["nosuid", "strictatime", "mode=755", "size=65536k"]).unwrap();
        assert_eq!(o.attrs.set, attr::NOSUID | attr::STRICTATIME);
        assert_eq!(o.data[0], (c"mode".to_owned(), Some(c"755".to_owned())));
    }

    #[test]
    fn the_last_word_wins() {
        let o = Options::parse(&["ro", "rw", "noatime", "relatime"]).unwrap();
        assert_eq!(o.attrs.set, 0);
        assert_eq!(o.attrs.clear & attr::RDONLY, attr::RDONLY);
    }

    #[test]
    fn recursive_words_are_not_plain_ones() {
        let o = Options::parse(&["rbind", "rro", "rslave", "rrelatime"]).unwrap();
        assert_eq!(o.bind, Some(Reach::Tree));
        assert_eq!(o.tree_attrs.set, attr::RDONLY);
        assert_eq!(o.attrs, Attrs::default());
        assert_eq!(o.propagation, [(libc::MS_SLAVE, Reach::Tree)]);
    }

    #[test]
    fn a_bind_with_flags_clears_the_others() {
        let o = Options::parse(&["bind", "ro"]).unwrap();
        let attrs = o.bind_attrs();
        assert_eq!(attrs.set, attr::RDONLY);
        assert_eq!(attrs.clear, attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW);
        // A flag that is named only to be cleared is a flag too.
        let clear = Options::parse(&["rbind", "rw"]).unwrap().bind_attrs().clear;
        assert_eq!(clear, attr::REMOUNTED);
        assert!(Options::parse(&["rbind"]).unwrap().bind_attrs().is_empty());
    }

    #[test]
    fn what_is_missing_is_named() {
        let err = Options::parse(&["ridmap"]).unwrap_err();
        assert_eq!(err, OptionError::Unsupported("ridmap".into()));
    }
}
