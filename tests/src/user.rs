//! An ordinary user whose calls of the runtime a test makes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use serde_json::json;

use crate::Bundle;

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

/// Makes a bundle one as `spec --rootless` describes it: mapped to the user, without a network namespace.
///
/// # Panics
/// When it has no list of mounts.
pub fn map_to_user(bundle: &mut Bundle) {
    let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    bundle
        .without_namespace("network")
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", map(UID))
        .set("/linux/gidMappings", map(UID));
    let mounts = bundle.config.pointer_mut("/mounts").and_then(|m| m.as_array_mut()).expect("mounts");
    for mount in mounts {
        if mount["destination"] == "/sys" {
            let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
            *mount = json!({"destination": "/sys", "type": "none", "source": "/sys", "options": options});
        }
        // No group but the user's is mapped.
        if let Some(options) = mount.pointer_mut("/options").and_then(|o| o.as_array_mut()) {
            options.retain(|option| option != "gid=5");
        }
    }
}
