//! The container's terminal.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::fstat;
use nix::sys::statfs::fstatfs;

use crate::init::{Context, Failure};
use crate::path::{ProcFs, RootDir};
use crate::sys::fs::{
    WinSize, dup_onto, pty_number, pty_peer, pty_unlock, set_controlling_tty, set_winsize, winsize,
};
use crate::sys::mount::{Reach, clone_tree, move_mount};

/// DEVPTS_SUPER_MAGIC of `linux/magic.h`.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// The inode of a devpts' own ptmx (`fs/devpts/inode.c`).
const PTMX_INODE: u64 = 2;

/// Size of the caller's terminal, when stdio still is one: a program in the foreground that asks at once
/// must not find 0 lines and 0 columns.
fn callers_size() -> Option<WinSize> {
    [0, 1, 2].into_iter().find_map(|number| winsize(crate::sys::fs::borrow(number)).ok())
}

/// A terminal of the container's own devpts.
#[derive(Debug)]
pub struct Console {
    master: OwnedFd,
    slave: OwnedFd,
    name: String,
}

impl Console {
    /// Opens a new pseudo-terminal through the container's `/dev/pts/ptmx`.
    ///
    /// The node is verified before it is opened, for to open a device is to use it; and the slave comes from the
    /// master by TIOCGPTPEER (kernel 4.13), not by a path: `/dev/pts/0` may be anything (CVE-2025-52565).
    ///
    /// # Errors
    /// ENOENT without a devpts, ENOSPC when it is full.
    pub fn open(root: &RootDir, proc: &ProcFs, size: Option<WinSize>) -> Result<Self, Failure> {
        let path = "/dev/pts/ptmx";
        let node = root.open(Path::new(path), OFlag::O_PATH).during("open terminal", || path)?;
        let stat = fstat(&node).during("stat", || path)?;
        let kind = fstatfs(&node).during("statfs", || path)?.filesystem_type();
        let is_ptmx = stat.st_mode & libc::S_IFMT == libc::S_IFCHR
            && stat.st_rdev == libc::makedev(5, 2)
            && stat.st_ino == PTMX_INODE;
        if !is_ptmx || kind.0 as i64 != DEVPTS_MAGIC {
            return Err(Failure::other("open terminal", path, "is not the ptmx of a devpts"));
        }
        let master =
            proc.reopen(node.as_fd(), OFlag::O_RDWR | OFlag::O_NOCTTY).during("open terminal", || path)?;
        pty_unlock(master.as_fd()).during("unlock terminal", || path)?;
        let number = pty_number(master.as_fd()).during("name terminal", || path)?;
        let slave = pty_peer(master.as_fd(), libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)
            .during("open terminal slave", || path)?;
        if let Some(size) = size.or_else(callers_size) {
            set_winsize(master.as_fd(), size).during("set terminal size", || path)?;
        }
        Ok(Console { master, slave, name: format!("/dev/pts/{number}") })
    }

    /// Mounts the slave on `/dev/console`.
    ///
    /// # Errors
    /// ELOOP when the image's `/dev/console` is a link: what hides behind it is not to be covered, nor made
    /// (CVE-2025-52565).
    pub fn bind(&self, root: &RootDir) -> Result<(), Failure> {
        let path = "/dev/console";
        let target = root.ensure_real_file(Path::new(path)).during("make", || path)?;
        let tree = clone_tree(self.slave.as_fd(), c"", Reach::One).during("bind", || path)?;
        move_mount(tree.as_fd(), target.as_fd()).during("mount terminal on", || path)
    }

    /// Sends the master with its name over the console socket, then makes the slave stdio and the
    /// controlling terminal. The caller leads a session without a terminal.
    ///
    /// # Errors
    /// EPIPE when the socket's other end is gone.
    pub fn attach(self, socket: BorrowedFd<'_>) -> Result<(), Failure> {
        let fds = [self.master.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let parts = [IoSlice::new(self.name.as_bytes())];
        sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None)
            .during("send terminal to console socket", String::new)?;
        for number in 0..=2 {
            dup_onto(self.slave.as_fd(), number).during("use terminal as stdio", String::new)?;
        }
        set_controlling_tty(crate::sys::fs::borrow(0)).during("set controlling terminal", String::new)
    }
}
