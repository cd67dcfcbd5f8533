//! The copy that `tmpcopyup` asks for.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};

use crate::init::{Context, Failure};
use crate::sys::xattr;

/// Copies what a directory holds into another one: files, directories, links and devices, with mode and owner, files
/// and directories with their extended attributes (file capabilities are one).
///
/// Works on descriptors and never follows links, since both sides are the image's.
///
/// # Errors
/// The first that open, read, write or mknod gives.
pub fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Failure> {
    Copying::default().directory(from, to, 0).during("tmpcopyup", String::new)
}

/// Deeper trees than this are a trap, not an image.
const MAX_DEPTH: usize = 128;

/// Room for the names and for the value of extended attributes. It is made when it is needed, and once: this process
/// never gives memory back.
#[derive(Default)]
struct Copying {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Copying {
    fn directory(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = nix::dir::Dir::openat(from, ".", flags, Mode::empty())?;
        for entry in listing.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            self.entry(from, to, name, &stat, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        stat: &FileStat,
        depth: usize,
    ) -> io::Result<()> {
        let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
        let no_follow = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => {
                mkdirat(to, name, mode)?;
                let flags = no_follow | OFlag::O_DIRECTORY | OFlag::O_RDONLY;
                let (below_from, below_to) =
                    (openat(from, name, flags, Mode::empty())?, openat(to, name, flags, Mode::empty())?);
                self.directory(below_from.as_fd(), below_to.as_fd(), depth + 1)?;
                self.attributes(below_from.as_fd(), below_to.as_fd())
            }
            libc::S_IFREG => {
                // O_NONBLOCK: what was a file a moment ago may be a FIFO now.
                let flags = no_follow | OFlag::O_RDONLY | OFlag::O_NONBLOCK;
                let mut source = File::from(openat(from, name, flags, Mode::empty())?);
                if fstat(&source)?.st_mode & libc::S_IFMT != libc::S_IFREG {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                let flags = no_follow | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
                let mut target = File::from(openat(to, name, flags, mode)?);
                io::copy(&mut source, &mut target)?;
                self.attributes(source.as_fd(), target.as_fd())
            }
            libc::S_IFLNK => {
                symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?;
                own(to, name, stat)
            }
            kind => {
                mknodat(to, name, SFlag::from_bits_truncate(kind), mode, stat.st_rdev)?;
                own(to, name, stat)
            }
        }
    }

    /// Owner, mode and extended attributes of a file or directory. In this order: a change of owner takes the
    /// set-user-ID bit and the file's capabilities away. All are those of what was opened, since the name may stand
    /// for another file by now, and are read behind its content: who writes to a file takes its set-user-ID bit away.
    fn attributes(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
        let stat = fstat(from)?;
        fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        fchmod(to, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
        self.extended_attributes(from, to)
    }

    fn extended_attributes(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
        match xattr::list(from, &mut []) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOTSUP) => return Ok(()),
            Err(e) => return Err(e),
        }
        // What the kernel limits both to (XATTR_LIST_MAX, XATTR_SIZE_MAX).
        self.names.resize(64 << 10, 0);
        self.value.resize(64 << 10, 0);
        let length = xattr::list(from, &mut self.names)?;
        let names = self.names.get(..length).unwrap_or_default();
        for name in names.split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            let length = xattr::get(from, name, &mut self.value)?;
            match xattr::set(to, name, self.value.get(..length).unwrap_or_default()) {
                // What tmpfs does not take: user attributes before kernel 6.6, labels of a security module that is not
                // there; in a user namespace those that only the host's root may set.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTSUP | libc::EINVAL | libc::EPERM)) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// Gives a link or a device to the owner of what it is a copy of.
fn own(to: BorrowedFd<'_>, name: &CStr, stat: &FileStat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    Ok(fchownat(to, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?)
}
