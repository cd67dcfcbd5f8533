//! Options of a mount as containerd writes them.

use nix::mount::MsFlags;

use super::MountError;

/// fstab-style options, sorted by what they mean to mount(2).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// MS_* flags.
    pub flags: u64,
    /// MS_* flags of a second call, or 0.
    pub propagation: u64,
    /// What the filesystem itself reads.
    pub data: Vec<String>,
    /// Values of `uidmap=` and `gidmap=`.
    pub idmap: Option<(String, String)>,
    /// `loop`: the source is a file.
    pub looped: bool,
}

/// Sorts them.
///
/// # Errors
/// [`MountError::Option`].
pub fn parse(options: &[String]) -> Result<Parsed, MountError> {
    let mut parsed = Parsed::default();
    let (mut uids, mut gids) = (None, None);
    for option in options {
        let (set, clear) = match option.as_str() {
            "defaults" => (MsFlags::empty(), MsFlags::empty()),
            "ro" => (MsFlags::MS_RDONLY, MsFlags::empty()),
            "rw" => (MsFlags::empty(), MsFlags::MS_RDONLY),
            "bind" => (MsFlags::MS_BIND, MsFlags::empty()),
            "rbind" => (MsFlags::MS_BIND | MsFlags::MS_REC, MsFlags::empty()),
            "nosuid" => (MsFlags::MS_NOSUID, MsFlags::empty()),
            "suid" => (MsFlags::empty(), MsFlags::MS_NOSUID),
            "nodev" => (MsFlags::MS_NODEV, MsFlags::empty()),
            "dev" => (MsFlags::empty(), MsFlags::MS_NODEV),
            "noexec" => (MsFlags::MS_NOEXEC, MsFlags::empty()),
            "exec" => (MsFlags::empty(), MsFlags::MS_NOEXEC),
            "sync" => (MsFlags::MS_SYNCHRONOUS, MsFlags::empty()),
            "async" => (MsFlags::empty(), MsFlags::MS_SYNCHRONOUS),
            "dirsync" => (MsFlags::MS_DIRSYNC, MsFlags::empty()),
            "remount" => (MsFlags::MS_REMOUNT, MsFlags::empty()),
            "mand" => (MsFlags::MS_MANDLOCK, MsFlags::empty()),
            "nomand" => (MsFlags::empty(), MsFlags::MS_MANDLOCK),
            "noatime" => (MsFlags::MS_NOATIME, MsFlags::empty()),
            "atime" => (MsFlags::empty(), MsFlags::MS_NOATIME),
            "nodiratime" => (MsFlags::MS_NODIRATIME, MsFlags::empty()),
            "diratime" => (MsFlags::empty(), MsFlags::MS_NODIRATIME),
            "relatime" => (MsFlags::MS_RELATIME, MsFlags::empty()),
            "norelatime" => (MsFlags::empty(), MsFlags::MS_RELATIME),
            "strictatime" => (MsFlags::MS_STRICTATIME, MsFlags::empty()),
            "nostrictatime" => (MsFlags::empty(), MsFlags::MS_STRICTATIME),
            "loop" => {
                parsed.looped = true;
                continue;
            }
            other => {
                if let Some(flags) = propagation(other) {
                    parsed.propagation = flags.bits();
                } else if other.starts_with("X-containerd.") {
                    // An instruction to the mount manager of containerd 2.2, not to us.
                    return Err(MountError::Option(other.to_owned()));
                } else if let Some(map) = other.strip_prefix("uidmap=") {
                    uids = Some(map.to_owned());
                } else if let Some(map) = other.strip_prefix("gidmap=") {
                    gids = Some(map.to_owned());
                } else {
                    parsed.data.push(other.to_owned());
                }
                continue;
            }
        };
        parsed.flags = (parsed.flags | set.bits()) & !clear.bits();
    }
    parsed.idmap = match (uids, gids) {
        (Some(uids), Some(gids)) => Some((uids, gids)),
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => {
            let text = "uidmap and gidmap come together".to_owned();
            return Err(MountError::IdMap { option: one, text });
        }
    };
    Ok(parsed)
}

fn propagation(option: &str) -> Option<MsFlags> {
    Some(match option {
        "private" => MsFlags::MS_PRIVATE,
        "rprivate" => MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        "shared" => MsFlags::MS_SHARED,
        "rshared" => MsFlags::MS_SHARED | MsFlags::MS_REC,
        "slave" => MsFlags::MS_SLAVE,
        "rslave" => MsFlags::MS_SLAVE | MsFlags::MS_REC,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        "runbindable" => MsFlags::MS_UNBINDABLE | MsFlags::MS_REC,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &str) -> Vec<String> {
        list.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn flags_propagation_and_data() {
        let parsed = parse(&options("rbind,ro,rslave,nosuid,lowerdir=/a:/b,index=off")).unwrap();
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
        assert_eq!(parsed.flags, flags.bits());
        assert_eq!(parsed.propagation, (MsFlags::MS_SLAVE | MsFlags::MS_REC).bits());
        assert_eq!(parsed.data, ["lowerdir=/a:/b", "index=off"]);
        assert_eq!(parse(&options("ro,rw")).unwrap().flags, 0);
    }

    #[test]
    fn options_for_containerds_own_mounter_are_refused() {
        for option in ["X-containerd.mkdir.path=/x", "uidmap=0:1:2"] {
            assert!(parse(&options(option)).is_err(), "{option}");
        }
    }

    #[test]
    fn maps_and_loop() {
        let parsed = parse(&options("uidmap=0:1:2,loop,gidmap=0:3:4")).unwrap();
        assert_eq!(parsed.idmap, Some(("0:1:2".to_owned(), "0:3:4".to_owned())));
        assert!(parsed.looped && parsed.data.is_empty());
    }
}
