//! The runtime's own network namespace, which it leaves for a moment: to act in a container's, or to make one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;

use crate::path::host;
use crate::sys::process::{setns, unshare};

const NETWORK: libc::c_int = libc::CLONE_NEWNET;
/// The calling thread's namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// The caller's own network namespace, as a place to come back to. The caller has one thread.
#[derive(Debug)]
pub struct Home(OwnedFd);

impl Home {
    /// # Errors
    /// ENOENT without /proc.
    pub fn open() -> io::Result<Home> {
        host::open(Path::new(OWN), OFlag::O_RDONLY).map(Home)
    }

    /// `None` where who leaves can't come back: EPERM without CAP_SYS_ADMIN over the namespace (setns(2)), as in a user
    /// namespace which has not got a network namespace of its own.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with_return() -> io::Result<Option<Home>> {
        let home = Home::open()?;
        match setns(home.as_fd(), NETWORK) {
            Ok(()) => Ok(Some(home)),
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Does something in another network namespace. The caller is at home again when this returns `Ok`.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN over the namespaces.
    pub fn leave_for<T>(&self, other: BorrowedFd<'_>, act: impl FnOnce() -> T) -> io::Result<T> {
        setns(other, NETWORK)?;
        let done = act();
        setns(self.as_fd(), NETWORK)?;
        Ok(done)
    }

    /// Makes a network namespace with `lo` up, apart from the other namespaces of a container: the kernel takes longer
    /// for it than for all of them together, and clone3 returns only when it has them all. The caller is at home again
    /// when this returns, but for [`NotMade::Return`].
    ///
    /// # Errors
    /// See [`NotMade`].
    pub fn make_other(&self) -> Result<OwnedFd, NotMade> {
        unshare(NETWORK as u64).map_err(NotMade::Unshare)?;
        let made = crate::sys::fs::loopback_up()
            .map_err(NotMade::Loopback)
            .and_then(|()| host::open(Path::new(OWN), OFlag::O_RDONLY).map_err(NotMade::Open));
        setns(self.as_fd(), NETWORK).map_err(NotMade::Return)?;
        made
    }
}

impl AsFd for Home {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The step of [`Home::make_other`] that failed.
#[derive(Debug)]
pub enum NotMade {
    /// ENOSPC at the limit of /proc/sys/user/max_net_namespaces, EPERM, ENOMEM.
    Unshare(io::Error),
    /// EPERM without CAP_NET_ADMIN.
    Loopback(io::Error),
    /// EMFILE, ENFILE.
    Open(io::Error),
    /// The caller is not at home and must end.
    Return(io::Error),
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::sys::process::namespace_type;

    #[test]
    fn another_is_made_and_the_caller_is_where_it_was() {
        let inode = |file: &File| file.metadata().unwrap().ino();
        let before = inode(&File::open(OWN).unwrap());
        let Some(home) = Home::with_return().unwrap() else {
            assert!(!nix::unistd::geteuid().is_root(), "an ordinary user may not leave, root may");
            return;
        };
        let other = File::from(home.make_other().unwrap());
        assert_eq!(namespace_type(other.as_fd()).unwrap(), NETWORK);
        assert_ne!(inode(&other), before);
        assert_eq!(inode(&File::open(OWN).unwrap()), before);
        let there = home.leave_for(other.as_fd(), || inode(&File::open(OWN).unwrap())).unwrap();
        assert_eq!(there, inode(&other));
        assert_eq!(inode(&File::open(OWN).unwrap()), before);
    }
}
