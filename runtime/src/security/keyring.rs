//! The session keyring: the container's own, named after it, so that it has none of the caller's keys.

use std::ffi::CString;
use std::io;

use nix::errno::Errno;

use crate::sys::prctl;

/// KEY_USR_SEARCH (linux/key.h): processes of the keyring's user find keys in it.
const USER_SEARCH: u32 = 0x0008_0000;

/// KEY_OTH_SEARCH (linux/key.h): everybody finds keys in it.
const OTHER_SEARCH: u32 = 0x0000_0008;

/// KEY_SPEC_SESSION_KEYRING (linux/keyctl.h): the caller's.
const SESSION: i32 = -3;

/// Who joins the keyring, which decides its permissions (runc).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joiner {
    /// A container's first process: the user may search the keyring.
    Init,
    /// The same in a new user namespace, where users differ: everybody may search it. The user too, unlike in
    /// runc: else exec, as the user who owns the keyring, does not find it and makes another of its name.
    InitInUserNamespace,
    /// A further process of a container: the permissions stay.
    Exec,
}

/// Joins the session keyring `_ses.<id>`, creating it if there is none of that name.
///
/// A kernel without keyrings (ENOSYS) is fine: nothing is inherited there.
///
/// # Errors
/// EDQUOT when the user has too many keys, EACCES or EPERM where the permissions can't be read or set,
/// EINVAL for an id with a NUL.
pub fn join_session(id: &str, joiner: Joiner) -> io::Result<()> {
    let name = CString::new(format!("_ses.{id}"))?;
    match prctl::join_session_keyring(&name) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return Ok(()),
        // The serial is 0 where the caller's keyring is this one already: address it as the session's.
        other => other?,
    };
    let wanted = match joiner {
        Joiner::Init => USER_SEARCH,
        Joiner::InitInUserNamespace => USER_SEARCH | OTHER_SEARCH,
        Joiner::Exec => return Ok(()),
    };
    let current = permissions(&prctl::keyctl_describe(SESSION)?).ok_or(Errno::EPROTO)?;
    if current & wanted == wanted { Ok(()) } else { prctl::keyctl_setperm(SESSION, current | wanted) }
}

/// The permissions in a key's description, `type;uid;gid;perm;description` (keyctl(2)).
fn permissions(description: &str) -> Option<u32> {
    u32::from_str_radix(description.split(';').nth(3)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_the_fourth_field() {
        assert_eq!(permissions("keyring;0;0;3f130000;_ses.a;b"), Some(0x3f13_0000));
        assert_eq!(permissions("keyring;0;0"), None);
        assert_eq!(permissions("keyring;0;0;xyz;_ses"), None);
    }

    #[test]
    fn the_session_keyring_is_the_containers() {
        // Session keyrings belong to threads.
        let described = std::thread::spawn(|| {
            let id = format!("davit-test-{}", std::process::id());
            join_session(&id, Joiner::Init).unwrap();
            let first = prctl::keyctl_describe(SESSION);
            join_session(&id, Joiner::InitInUserNamespace).unwrap();
            let second = prctl::keyctl_describe(SESSION);
            join_session(&id, Joiner::Exec).unwrap();
            (id, first, second, prctl::keyctl_describe(SESSION))
        });
        let (id, first, second, third) = described.join().unwrap();
        let Ok(first) = first else {
            println!("skipped: this kernel or sandbox has no keyrings");
            return;
        };
        assert!(first.ends_with(&format!(";_ses.{id}")), "{first}");
        assert_eq!(permissions(&first).unwrap() & (USER_SEARCH | OTHER_SEARCH), USER_SEARCH);
        let (second, third) = (second.unwrap(), third.unwrap());
        assert_eq!(permissions(&second).unwrap() & (USER_SEARCH | OTHER_SEARCH), USER_SEARCH | OTHER_SEARCH);
        assert_eq!(second, third);
    }
}
