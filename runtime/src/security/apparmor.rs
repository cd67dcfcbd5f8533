//! AppArmor: the profile that takes effect at execve.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::{Error, open_attribute, write_attribute};

/// Whether the host has AppArmor (runc's test). Reads `/sys`: call it in the runtime's mount namespace.
#[must_use]
pub fn enabled() -> bool {
    let parameter = std::fs::read("/sys/module/apparmor/parameters/enabled");
    parameter.is_ok_and(|value| value.first() == Some(&b'Y'))
        && std::fs::exists("/sys/kernel/security/apparmor").unwrap_or(false)
}

/// Switches to `profile` at the next execve; nothing for an empty one.
///
/// `proc_self_attr` is `self/attr` of a verified procfs. The attribute is `apparmor/exec`; where that
/// does not exist (ENOENT: before kernel 5.8) it is `exec`, which belongs to the first LSM.
///
/// # Errors
/// [`Error::AppArmorDisabled`] where no LSM takes the attribute (EINVAL), [`Error::AppArmorNoProfile`]
/// (ENOENT), [`Error::AppArmor`].
pub fn set_exec_profile(proc_self_attr: BorrowedFd<'_>, profile: &str) -> Result<(), Error> {
    if profile.is_empty() {
        return Ok(());
    }
    let (attribute, opened) = open(proc_self_attr);
    let failed =
        |errno: Errno| Error::AppArmor { profile: profile.to_owned(), attribute, source: errno.into() };
    let file = opened.map_err(failed)?;
    write_attribute(file, format!("exec {profile}").as_bytes()).map_err(|errno| match errno {
        Errno::EINVAL => Error::AppArmorDisabled { profile: profile.to_owned() },
        Errno::ENOENT => Error::AppArmorNoProfile { profile: profile.to_owned() },
        other => failed(other),
    })
}

fn open(proc_self_attr: BorrowedFd<'_>) -> (&'static str, Result<OwnedFd, Errno>) {
    match open_attribute(proc_self_attr, "apparmor/exec") {
        Err(Errno::ENOENT) => ("exec", open_attribute(proc_self_attr, "exec")),
        opened => ("apparmor/exec", opened),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, create_dir, read_to_string, write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_own_directory_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join("exec"), "").unwrap();
        let attr = File::open(dir.path()).unwrap();
        set_exec_profile(attr.as_fd(), "docker-default").unwrap();
        assert_eq!(read_to_string(dir.path().join("exec")).unwrap(), "exec docker-default");
        create_dir(dir.path().join("apparmor")).unwrap();
        write(dir.path().join("apparmor/exec"), "").unwrap();
        set_exec_profile(attr.as_fd(), "cri-containerd").unwrap();
        assert_eq!(read_to_string(dir.path().join("apparmor/exec")).unwrap(), "exec cri-containerd");
        assert_eq!(read_to_string(dir.path().join("exec")).unwrap(), "exec docker-default");
    }

    #[test]
    fn a_profile_without_apparmor_is_an_error() {
        if enabled() {
            println!("skipped: this host has AppArmor");
            return;
        }
        let attr = File::open("/proc/thread-self/attr").unwrap();
        set_exec_profile(attr.as_fd(), "").unwrap();
        let error = set_exec_profile(attr.as_fd(), "docker-default").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unable to apply apparmor profile \"docker-default\": apparmor is not enabled on this host"
        );
    }
}
