//! SELinux: the labels of the process after execve and of the keys it creates.
//!
//! The attributes are shared between LSMs (`exec` is AppArmor's on its hosts), so [`ensure_enabled`] comes
//! first, in the parent.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::statfs::{SELINUX_MAGIC, statfs};

use super::{Error, open_attribute, write_attribute};

/// Whether the host enforces or at least labels: selinuxfs is mounted, and a policy is loaded (without
/// one every process has the label `kernel`). Call it in the runtime's mount namespace.
#[must_use]
pub fn enabled() -> bool {
    let mounted = statfs("/sys/fs/selinux").is_ok_and(|fs| fs.filesystem_type() == SELINUX_MAGIC);
    mounted
        && std::fs::read("/proc/thread-self/attr/current")
            .is_ok_and(|label| label.trim_ascii_end() != b"kernel\0" && label.trim_ascii_end() != b"kernel")
}

/// Refuses a label on a host without SELinux, as runc does before it makes anything.
///
/// # Errors
/// [`Error::SelinuxDisabled`].
pub fn ensure_enabled(label: &str) -> Result<(), Error> {
    if label.is_empty() || enabled() { Ok(()) } else { Err(Error::SelinuxDisabled) }
}

/// The process's label from the next execve on; nothing for an empty one.
///
/// `proc_self_attr` is `self/attr` of a verified procfs.
///
/// # Errors
/// [`Error::SelinuxDisabled`] where no LSM takes the attribute, [`Error::Selinux`].
pub fn set_exec_label(proc_self_attr: BorrowedFd<'_>, label: &str) -> Result<(), Error> {
    set(proc_self_attr, "exec", label)
}

/// The label of keys and keyrings created from now until execve; nothing for an empty one.
///
/// # Errors
/// As [`set_exec_label`].
pub fn set_key_label(proc_self_attr: BorrowedFd<'_>, label: &str) -> Result<(), Error> {
    set(proc_self_attr, "keycreate", label)
}

fn set(proc_self_attr: BorrowedFd<'_>, attribute: &'static str, label: &str) -> Result<(), Error> {
    if label.is_empty() {
        return Ok(());
    }
    let result =
        open_attribute(proc_self_attr, attribute).and_then(|file| write_attribute(file, label.as_bytes()));
    result.map_err(|errno| match errno {
        // The answer for an attribute that no LSM has; SELinux gives it for a label it can't parse, too.
        Errno::EINVAL if !enabled() => Error::SelinuxDisabled,
        errno => Error::Selinux { label: label.to_owned(), attribute, source: errno.into() },
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{File, read_to_string, write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn each_label_has_its_attribute() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["exec", "keycreate"] {
            write(dir.path().join(name), "").unwrap();
        }
        let attr = File::open(dir.path()).unwrap();
        set_exec_label(attr.as_fd(), "system_u:system_r:container_t:s0:c1,c2").unwrap();
        set_key_label(attr.as_fd(), "a:b:c:s0").unwrap();
        let read = |name| read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("exec"), "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(read("keycreate"), "a:b:c:s0");
    }

    #[test]
    fn a_label_without_selinux_is_an_error() {
        if enabled() {
            println!("skipped: this host has SELinux");
            return;
        }
        let words = "selinux label is specified in config, but selinux is disabled or not supported";
        assert_eq!(ensure_enabled("a:b:c:s0").unwrap_err().to_string(), words);
        ensure_enabled("").unwrap();
        let attr = File::open("/proc/thread-self/attr").unwrap();
        set_exec_label(attr.as_fd(), "").unwrap();
        if crate::security::apparmor::enabled() {
            println!("skipped: exec is AppArmor's attribute on this host");
            return;
        }
        assert_eq!(set_exec_label(attr.as_fd(), "a:b:c:s0").unwrap_err().to_string(), words);
        assert_eq!(set_key_label(attr.as_fd(), "a:b:c:s0").unwrap_err().to_string(), words);
    }
}
