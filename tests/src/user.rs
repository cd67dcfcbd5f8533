//! An ordinary user whose calls of the runtime a test makes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

/// Uid and gid of the user.
pub const UID: u32 = 12345;
/// First host id of the user's ranges: of uids here, of gids 100000 above.
pub const FIRST_ID: u32 = 700_000;
/// Length of the user's ranges.
pub const IDS: u32 = 65536;

/// Whether the user has ranges of ids to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// An id of its own only, no name.
    None,
    /// A name, and an entry in /etc/subuid and /etc/subgid: in a private mount namespace of each call.
    Some,
}

/// Makes what the user needs in the scratch directory and returns the words that run a command as the user.
pub(crate) fn words(scratch: &Path, ranges: Ranges) -> Vec<String> {
    // What the runtime's --log makes is there, and other users' eyes must get as far as the rootfs.
    fs::set_permissions(scratch, fs::Permissions::from_mode(0o1777)).expect("chmod");
    chown(scratch.join("root"), Some(UID), Some(UID)).expect("chown");
    let id = UID.to_string();
    let drop = format!("setpriv --reuid {id} --regid {id} --clear-groups");
    let mut script = String::new();
    if ranges == Ranges::Some {
        for (file, text) in [
            ("passwd", format!("root:x:0:0:root:/root:/bin/sh\ntester:x:{id}:{id}::/:/bin/sh\n")),
            ("subuid", format!("tester:{FIRST_ID}:{IDS}\n")),
            ("subgid", format!("{id}:{}:{IDS}\n", FIRST_ID + 100_000)),
        ] {
            let path = scratch.join(file);
            fs::write(&path, text).expect("file of the user");
            script += &format!("mount --bind {} /etc/{file} && ", path.display());
        }
        script = format!("unshare -m sh -c '{script} exec \"$@\"' sh ");
    }
    vec!["sh".into(), "-c".into(), format!("exec {script}{drop} \"$@\""), "sh".into()]
}

/// Gives a directory with all that is in it to the user.
pub(crate) fn give(dir: &Path) {
    let status = std::process::Command::new("chown").arg("-Rh").arg(format!("{UID}:{UID}")).arg(dir).status();
    assert!(status.expect("chown").success());
}
