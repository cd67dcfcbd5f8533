//! A cgroup's directory: opened once, its control files reached only through the descriptor.
//!
//! Control files are single validated names opened with openat2 RESOLVE_BENEATH, so neither a link nor a name
//! from config.json (`unified`, page sizes) leads out of the cgroup.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{AccessFlags, Uid, UnlinkatFlags, faccessat, fchownat, read, unlinkat, write};

use super::error::Error;

/// An open cgroup directory (O_PATH) with its path for messages.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// What `mkdir` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// It is new.
    New,
    /// It was there.
    Existing,
}

/// Creates one directory by its path. The path is normalised and below a cgroup mount, where links can't be
/// made; [`Dir::open`] refuses links anyway.
pub(super) fn mkdir(path: &Path) -> Result<Made, Errno> {
    match mkdirat(AT_FDCWD, path, Mode::from_bits_truncate(0o755)) {
        Ok(()) => Ok(Made::New),
        Err(Errno::EEXIST) => Ok(Made::Existing),
        Err(errno) => Err(errno),
    }
}

/// Removes one directory by its path.
pub(super) fn rmdir(path: &Path) -> Result<(), Errno> {
    retry(|| unlinkat(AT_FDCWD, path, UnlinkatFlags::RemoveDir))
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// A control file's or sub-cgroup's name: one path component.
fn component<'n>(what: &'static str, name: &'n OsStr) -> Result<&'n OsStr, Error> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(Error::InvalidName { what, name: name.to_string_lossy().into_owned() });
    }
    Ok(name)
}

impl Dir {
    /// Opens a cgroup by its absolute, normalised path; a symbolic link anywhere in it is an error.
    pub(super) fn open(path: &Path) -> Result<Dir, Error> {
        let fd = open_path(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
        let fd = fd.map_err(|errno| Error::Io { action: "open", path: path.to_owned(), errno })?;
        Ok(Dir { fd, path: path.to_owned() })
    }

    /// Opens a direct sub-cgroup.
    pub(super) fn child(&self, name: &OsStr) -> Result<Dir, Error> {
        let path = self.path.join(component("sub-cgroup", name)?);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let fd = self.openat(name, flags).map_err(|errno| Error::Io {
            action: "open",
            path: path.clone(),
            errno,
        })?;
        Ok(Dir { fd, path })
    }

    /// The directory above. Only for a [`Dir`] that was reached by [`Dir::child`].
    pub(super) fn parent(&self) -> Result<Dir, Error> {
        let mut path = self.path.clone();
        path.pop();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match retry(|| openat(&self.fd, "..", flags, Mode::empty())) {
            Ok(fd) => Ok(Dir { fd, path }),
            Err(errno) => Err(Error::Io { action: "open", path, errno }),
        }
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn openat(&self, name: &OsStr, flags: OFlag) -> nix::Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        match retry(|| openat2(&self.fd, name, how)) {
            // Before kernel 5.6. The name is one component, so O_NOFOLLOW is as strict.
            Err(Errno::ENOSYS) => retry(|| openat(&self.fd, name, flags | OFlag::O_NOFOLLOW, Mode::empty())),
            result => result,
        }
    }

    fn read_error(&self, file: &str, errno: Errno) -> Error {
        Error::Read { file: file.to_owned(), dir: self.path.clone(), errno }
    }

    /// The error of a write.
    pub(super) fn write_error(&self, file: &str, value: &str, errno: Errno) -> Error {
        Error::Write {
            value: value.trim_end().to_owned(),
            file: file.to_owned(),
            dir: self.path.clone(),
            errno,
        }
    }

    /// The error for text that is not of the expected form.
    pub(super) fn content_error(&self, file: &str, content: &str) -> Error {
        const SHOWN: usize = 80;
        let content = content.chars().take(SHOWN).collect();
        Error::Content { file: file.to_owned(), dir: self.path.clone(), content }
    }

    /// Whether a control file exists.
    pub(super) fn has(&self, file: &str) -> bool {
        component("cgroup file", OsStr::new(file)).is_ok()
            && faccessat(&self.fd, file, AccessFlags::F_OK, AtFlags::empty()).is_ok()
    }

    /// Opens a control file.
    pub(super) fn open_file(&self, file: &str, flags: OFlag) -> Result<OwnedFd, Error> {
        let name = component("cgroup file", OsStr::new(file))?;
        self.openat(name, flags).map_err(|errno| self.read_error(file, errno))
    }

    /// Reads a control file to its end into `buffer`, which is cleared first.
    pub(super) fn read_into(&self, file: &str, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let fd = self.open_file(file, OFlag::O_RDONLY)?;
        read_all(fd.as_fd(), buffer).map_err(|errno| self.read_error(file, errno))
    }

    /// Reads a control file that the kernel shows as one record (all but cgroup.procs and its like) into `buffer`,
    /// which is cleared first. One read(2) gets all of it.
    pub(super) fn read_record(&self, file: &str, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let fd = self.open_file(file, OFlag::O_RDONLY)?;
        read_record(fd.as_fd(), buffer).map_err(|errno| self.read_error(file, errno))
    }

    /// Reads a small control file.
    pub(super) fn read(&self, file: &str) -> Result<String, Error> {
        let fd = self.open_file(file, OFlag::O_RDONLY)?;
        // On the stack: davit's allocator takes nothing back, and `list` reads one for each container.
        let mut small = [0; 1024];
        let got = retry(|| read(fd.as_fd(), &mut small)).map_err(|errno| self.read_error(file, errno))?;
        let mut text = small.get(..got).unwrap_or_default().to_vec();
        if got == small.len() {
            let mut rest = Vec::new();
            read_all(fd.as_fd(), &mut rest).map_err(|errno| self.read_error(file, errno))?;
            text.append(&mut rest);
        }
        Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
    }

    /// Reads a control file that holds one number; `max` is `u64::MAX`, a negative number 0.
    pub(super) fn read_u64(&self, file: &str) -> Result<u64, Error> {
        let text = self.read(file)?;
        parse_u64(&text).ok_or_else(|| self.content_error(file, &text))
    }

    /// Writes a value with one write(2), as the kernel needs it.
    pub(super) fn write(&self, file: &str, value: &str) -> Result<(), Error> {
        let name = component("cgroup file", OsStr::new(file))?;
        let fd = self.openat(name, OFlag::O_WRONLY).map_err(|errno| self.write_error(file, value, errno))?;
        self.write_to(fd.as_fd(), file, value)
    }

    /// Writes a value to a control file that is open already.
    pub(super) fn write_to(&self, fd: BorrowedFd<'_>, file: &str, value: &str) -> Result<(), Error> {
        retry(|| write(fd, value.as_bytes())).map(drop).map_err(|errno| self.write_error(file, value, errno))
    }

    /// Names of the direct sub-cgroups. A directory's link count says without listing when there are none.
    pub(super) fn children(&self) -> Result<Vec<OsString>, Error> {
        const LINKS_WITHOUT_CHILDREN: u64 = 2;
        let list_error = |errno| Error::Io { action: "list", path: self.path.clone(), errno };
        let links = fstat(&self.fd).map_err(list_error)?.st_nlink;
        #[allow(clippy::useless_conversion, reason = "nlink_t is u32 on aarch64")]
        if u64::from(links) == LINKS_WITHOUT_CHILDREN {
            return Ok(Vec::new());
        }
        let mut names = self.list(Type::Directory)?;
        names.retain(|name| name != "." && name != "..");
        Ok(names)
    }

    /// Names of the control files.
    pub(super) fn files(&self) -> Result<Vec<String>, Error> {
        Ok(self.list(Type::File)?.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    fn list(&self, kind: Type) -> Result<Vec<OsString>, Error> {
        let list_error = |errno| Error::Io { action: "list", path: self.path.clone(), errno };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = nix::dir::Dir::openat(&self.fd, ".", flags, Mode::empty()).map_err(list_error)?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(list_error)?;
            if entry.file_type() == Some(kind) {
                names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
            }
        }
        Ok(names)
    }

    /// Gives a control file, or with `""` the directory itself, to a user; the group stays.
    pub(super) fn chown(&self, file: &str, uid: u32) -> Result<(), Error> {
        if !file.is_empty() {
            component("cgroup file", OsStr::new(file))?;
        }
        let flags = AtFlags::AT_EMPTY_PATH | AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(&self.fd, file, Some(Uid::from_raw(uid)), None, flags).map_err(|errno| Error::Io {
            action: "chown",
            path: self.path.join(file),
            errno,
        })
    }

    /// Removes a direct sub-cgroup that has neither processes nor sub-cgroups.
    pub(super) fn remove_child(&self, name: &OsStr) -> Result<(), Errno> {
        retry(|| unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads a control file of a cgroup that is not open.
pub(super) fn read_in(dir: &Path, file: &str) -> Result<String, Error> {
    let path = dir.join(component("cgroup file", OsStr::new(file))?);
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let error = |errno| Error::Read { file: file.to_owned(), dir: dir.to_owned(), errno };
    let fd = open_path(&path, flags).map_err(error)?;
    let mut buffer = Vec::new();
    read_record(fd.as_fd(), &mut buffer).map_err(error)?;
    Ok(String::from_utf8_lossy(&buffer).trim_end().to_owned())
}

/// Opens an absolute, normalised path without following a symbolic link anywhere in it.
fn open_path(path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match retry(|| openat2(AT_FDCWD, path, how)) {
        // Before kernel 5.6: only the last component is checked, the others are the host's own.
        Err(Errno::ENOSYS) => retry(|| openat(AT_FDCWD, path, flags | OFlag::O_NOFOLLOW, Mode::empty())),
        result => result,
    }
}

/// Reads one record: a read that does not fill the buffer got all.
fn read_record(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> Result<(), Errno> {
    const SIZE: usize = 8192;
    buffer.clear();
    buffer.resize(SIZE, 0);
    let got = retry(|| read(fd, buffer.as_mut_slice()))?;
    buffer.truncate(got);
    if got < SIZE {
        return Ok(());
    }
    let mut rest = Vec::new();
    read_all(fd, &mut rest)?;
    buffer.append(&mut rest);
    Ok(())
}

/// Reads to the end of the file.
pub(super) fn read_all(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> Result<(), Errno> {
    const CHUNK: usize = 4096;
    buffer.clear();
    loop {
        let start = buffer.len();
        buffer.resize(start + CHUNK, 0);
        let space = buffer.get_mut(start..).unwrap_or_default();
        let got = retry(|| read(fd, space));
        buffer.truncate(start + *got.as_ref().unwrap_or(&0));
        if got? == 0 {
            return Ok(());
        }
    }
}

/// A number of a control file: `max` is `u64::MAX`, a negative number 0.
pub(super) fn parse_u64(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        number if number.starts_with('-') => number.parse::<i64>().ok().map(|_| 0),
        number => number.parse().ok(),
    }
}

/// The value of `key` in a flat-keyed file (`key value` lines).
pub(super) fn flat_key(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).and_then(parse_u64)
}

/// A point in time after which waiting ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// `seconds` from now.
    pub(super) fn after(seconds: u64) -> Deadline {
        Deadline(Instant::now() + Duration::from_secs(seconds))
    }

    /// What is left of it.
    pub(super) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub(super) fn passed(self) -> bool {
        self.left().is_zero()
    }
}

/// Waits until the kernel notifies of a change of an open `cgroup.events` (POLLPRI), or until the deadline.
pub(super) fn wait_event(events: BorrowedFd<'_>, deadline: Deadline) -> Result<(), Errno> {
    let left = u16::try_from(deadline.left().as_millis()).unwrap_or(u16::MAX).max(1);
    match poll(&mut [PollFd::new(events, PollFlags::POLLPRI)], PollTimeout::from(left)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_component() {
        for bad in ["", ".", "..", "a/b", "/a", "../x", "a\0b"] {
            assert!(component("x", OsStr::new(bad)).is_err(), "{bad:?}");
        }
        assert!(component("x", OsStr::new("memory.max")).is_ok());
    }

    #[test]
    fn files_are_read_and_written_beneath_only() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("cg")).unwrap();
        std::fs::write(top.path().join("secret"), "1").unwrap();
        std::fs::write(top.path().join("cg/memory.max"), "max\n").unwrap();
        std::os::unix::fs::symlink("../secret", top.path().join("cg/link")).unwrap();
        std::os::unix::fs::symlink("cg", top.path().join("cglink")).unwrap();
        let dir = Dir::open(&top.path().join("cg")).unwrap();
        assert_eq!(dir.read_u64("memory.max").unwrap(), u64::MAX);
        dir.write("memory.max", "77").unwrap();
        // The file is an ordinary one here, so the rest of the old text stays.
        assert_eq!(dir.read("memory.max").unwrap(), "77x");
        assert_eq!(dir.read("link").unwrap_err().errno(), Some(Errno::ELOOP));
        assert!(dir.write("../secret", "2").is_err());
        assert_eq!(Dir::open(&top.path().join("cglink")).unwrap_err().errno(), Some(Errno::ELOOP));
        assert_eq!(std::fs::read_to_string(top.path().join("secret")).unwrap(), "1");
    }

    #[test]
    fn children_and_removal() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("a/b")).unwrap();
        let dir = Dir::open(top.path()).unwrap();
        assert_eq!(dir.children().unwrap(), ["a"]);
        let a = dir.child(OsStr::new("a")).unwrap();
        assert_eq!(a.parent().unwrap().path(), top.path());
        a.remove_child(OsStr::new("b")).unwrap();
        assert!(a.children().unwrap().is_empty());
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_u64("max\n"), Some(u64::MAX));
        assert_eq!(parse_u64("-1"), Some(0));
        assert_eq!(parse_u64("12 \n"), Some(12));
        assert_eq!(parse_u64("x"), None);
        assert_eq!(flat_key("oom 1\noom_kill 2\n", "oom_kill"), Some(2));
        assert_eq!(flat_key("oom_kill_disable 0\nunder_oom 0\noom_kill 7", "oom_kill"), Some(7));
        assert_eq!(flat_key("a 1", "b"), None);
    }
}
