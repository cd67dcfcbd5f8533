//! New filesystems and changed ones, by fsopen(2) and fspick(2) (kernel 5.2).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::fstat;
use nix::unistd::fchdir;

use crate::init::{Context, Failure};
use crate::path::{Create, Found, ProcFs, RootDir};
use crate::plan::Options;
use crate::sys::mount::{
    fsconfig_create, fsconfig_flag, fsconfig_reconfigure, fsconfig_string, fsmount, fsopen, fspick,
};

/// What a new filesystem is made of besides its options.
#[derive(Clone, Copy, Debug)]
pub(super) struct New<'a> {
    pub kind: &'a CStr,
    /// As mountinfo shows it.
    pub source: &'a CStr,
    /// SELinux label.
    pub label: Option<&'a str>,
    /// The mode of its root, unless the options name one.
    pub mode: Option<u32>,
}

impl New<'_> {
    /// A detached mount of the new filesystem.
    ///
    /// # Errors
    /// What the filesystem says about its options.
    pub fn mount(&self, options: &Options) -> Result<OwnedFd, Failure> {
        let name = || self.kind.to_string_lossy().into_owned();
        let context = fsopen(self.kind).during("fsopen", name)?;
        let fd = context.as_fd();
        if !self.source.is_empty() {
            set_string(fd, c"source", self.source)?;
        }
        for word in options.superblock_words() {
            set_flag(fd, word)?;
        }
        if let Some(mode) = self.mode.filter(|_| !has(options, c"mode")) {
            set_string(fd, c"mode", &text(format!("{mode:o}"))?)?;
        }
        if let Some(label) = self.label.filter(|_| !has(options, c"context")) {
            set_string(fd, c"context", &text(label)?)?;
        }
        set_data(fd, options)?;
        fsconfig_create(fd).during("create filesystem", name).map_err(|e| explained(fd, e))?;
        fsmount(fd, options.mount_attrs()).during("fsmount", name)
    }
}

impl New<'_> {
    /// Mounts it on a descriptor by mount(2), whose options are one page. The descriptor is named through the host's
    /// procfs, since the /proc of a container may be anything; the working directory changes.
    ///
    /// # Errors
    /// Those of mount(2).
    #[allow(clippy::disallowed_methods, reason = "a descriptor below the host's /proc/self/fd")]
    pub fn mount2(&self, options: &Options, target: BorrowedFd<'_>, proc: &ProcFs) -> Result<(), Failure> {
        let name = || self.kind.to_string_lossy().into_owned();
        let mut data: Vec<Vec<u8>> = Vec::new();
        if let Some(mode) = self.mode.filter(|_| !has(options, c"mode")) {
            data.push(format!("mode={mode:o}").into());
        }
        if let Some(label) = self.label.filter(|_| !has(options, c"context")) {
            data.push(format!("context={label:?}").into());
        }
        for (key, value) in &options.data {
            let value = value.as_ref().map(|value| [b"=", value.as_bytes()].concat());
            data.push([key.as_bytes(), &value.unwrap_or_default()].concat());
        }
        let data = text(data.join(&b','))?;
        proc.descriptors().and_then(|fds| Ok(fchdir(fds.as_fd())?)).during("mount", name)?;
        let path = target.as_raw_fd().to_string();
        let flags = MsFlags::from_bits_truncate(options.flags);
        mount(Some(self.source), path.as_str(), Some(self.kind), flags, Some(data.as_c_str()))
            .during("mount", name)
    }
}

/// Changes the filesystem whose mount's root is this descriptor, as mount(2) with MS_REMOUNT does.
///
/// # Errors
/// EINVAL when it is not a mount's root; what the filesystem says about its options.
pub(super) fn reconfigure(target: BorrowedFd<'_>, options: &Options) -> Result<(), Failure> {
    let context = fspick(target).during("fspick", String::new)?;
    let fd = context.as_fd();
    // Without `ro` MS_REMOUNT makes the filesystem writable.
    if !options.readonly() {
        set_flag(fd, c"rw")?;
    }
    for word in options.superblock_words() {
        set_flag(fd, word)?;
    }
    set_data(fd, options)?;
    fsconfig_reconfigure(fd).during("change filesystem", String::new).map_err(|e| explained(fd, e))
}

/// The directory that a filesystem of this kind goes on, and the mode that a tmpfs takes over from one that was
/// there, as runc's does; tmpfs has its own default else.
pub(super) fn target(root: &RootDir, kind: &CStr, path: &Path) -> Result<(OwnedFd, Option<u32>), Failure> {
    let (dir, found) = root.find_or_make(path, Create::Directory).during("make mount point", String::new)?;
    if kind != c"tmpfs" || found == Found::Made {
        return Ok((dir, None));
    }
    let mode = fstat(&dir).during("stat mount point", String::new)?.st_mode & 0o7777;
    Ok((dir, Some(mode)))
}

fn has(options: &Options, wanted: &CStr) -> bool {
    options.data.iter().any(|(key, _)| key.as_c_str() == wanted)
}

fn text(text: impl Into<Vec<u8>>) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::other("fsconfig", "", "a value holds a NUL byte"))
}

fn set_data(fd: BorrowedFd<'_>, options: &Options) -> Result<(), Failure> {
    options.data.iter().try_for_each(|(key, value)| match value {
        Some(value) => set_string(fd, key, value),
        None => set_flag(fd, key),
    })
}

fn set_string(fd: BorrowedFd<'_>, key: &CStr, value: &CStr) -> Result<(), Failure> {
    // The one that need not be among the mount's own options.
    let origin = if key == c"context" { " (linux.mountLabel or an option)" } else { "" };
    fsconfig_string(fd, key, value)
        .during("fsconfig", || format!("{}{origin}", key.to_string_lossy()))
        .map_err(|e| explained(fd, e))
}

fn set_flag(fd: BorrowedFd<'_>, key: &CStr) -> Result<(), Failure> {
    fsconfig_flag(fd, key).during("fsconfig", || key.to_string_lossy()).map_err(|e| explained(fd, e))
}

/// Adds what the filesystem says about a bad option: `tmpfs: Unknown parameter 'x'` (fsopen(2)).
fn explained(context: BorrowedFd<'_>, failure: Failure) -> Failure {
    let mut buffer = [0u8; 256];
    let Ok(length) = nix::unistd::read(context, &mut buffer) else { return failure };
    let words = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).trim().to_owned();
    let words = words.strip_prefix("e ").map(str::to_owned).unwrap_or(words);
    if words.is_empty() { failure } else { failure.with_detail(words) }
}
