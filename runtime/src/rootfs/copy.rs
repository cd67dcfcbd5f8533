//! The copy that `tmpcopyup` asks for.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use crate::init::{Context, Failure};

/// Copies what a directory holds into another one: files, directories, links, with mode and owner.
///
/// Works on descriptors and never follows links, since both sides are the image's.
///
/// # Errors
/// The first that open, read, write or mknod gives.
pub fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Failure> {
    copy_directory(from, to, 0).during("tmpcopyup", String::new)
}

/// Deeper trees than this are a trap, not an image.
const MAX_DEPTH: usize = 128;

fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
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
        copy_entry(from, to, name, &stat, depth)?;
        fchownat(
            to,
            name,
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?;
    }
    Ok(())
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &std::ffi::CStr,
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
            copy_directory(below_from.as_fd(), below_to.as_fd(), depth + 1)
        }
        libc::S_IFREG => {
            // O_NONBLOCK: what was a file a moment ago may be a FIFO now.
            let source = openat(from, name, no_follow | OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())?;
            if fstat(&source)?.st_mode & libc::S_IFMT != libc::S_IFREG {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let target =
                openat(to, name, no_follow | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL, mode)?;
            io::copy(&mut File::from(source), &mut File::from(target)).map(drop)
        }
        libc::S_IFLNK => Ok(symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?),
        kind => Ok(mknodat(to, name, SFlag::from_bits_truncate(kind), mode, stat.st_rdev)?),
    }
}
