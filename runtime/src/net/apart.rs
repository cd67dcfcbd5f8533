//! A network namespace made apart from the other ones of a container, by the runtime while init mounts.
//!
//! The kernel takes longer for it than for all other namespaces together, and clone3 returns only when it has them all.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;

use crate::path::host;
use crate::sys::process::{setns, unshare};

const NETWORK: libc::c_int = libc::CLONE_NEWNET;
/// The calling thread's namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// The caller's own network namespace, as a place to come back to.
#[derive(Debug)]
pub struct Home(OwnedFd);

impl Home {
    /// `None` where who leaves can't come back: EPERM without CAP_SYS_ADMIN over the namespace (setns(2)), as in a user
    /// namespace which has not got a network namespace of its own.
    ///
    /// # Errors
    /// ENOENT without /proc.
    pub fn find() -> io::Result<Option<Home>> {
        let own = host::open(Path::new(OWN), OFlag::O_RDONLY)?;
        match setns(own.as_fd(), NETWORK) {
            Ok(()) => Ok(Some(Home(own))),
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes a network namespace with `lo` up. The caller has one thread, and is at home again when this returns.
    ///
    /// # Errors
    /// See [`NotMade`].
    pub fn make_other(&self) -> Result<OwnedFd, NotMade> {
        unshare(NETWORK as u64).map_err(NotMade::Unshare)?;
        let made = crate::sys::fs::loopback_up()
            .map_err(NotMade::Loopback)
            .and_then(|()| host::open(Path::new(OWN), OFlag::O_RDONLY).map_err(NotMade::Open));
        setns(self.0.as_fd(), NETWORK).map_err(NotMade::Return)?;
        made
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
        let Some(home) = Home::find().unwrap() else {
            assert!(!nix::unistd::geteuid().is_root(), "an ordinary user may not leave, root may");
            return;
        };
        let other = File::from(home.make_other().unwrap());
        assert_eq!(namespace_type(other.as_fd()).unwrap(), NETWORK);
        assert_ne!(inode(&other), before);
        assert_eq!(inode(&File::open(OWN).unwrap()), before);
    }
}
