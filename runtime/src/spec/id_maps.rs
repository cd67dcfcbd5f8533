//! User namespaces: what their mappings must be (config-linux.md "User namespace mappings"), whose ids they
//! cover, and those that an ordinary user's config gets when it has none.

use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, Process, Spec,
};

use super::{Error, list, namespace};

/// Most ranges that the kernel takes in one map (UID_GID_MAP_MAX_EXTENTS, kernel 4.15).
const MOST_RANGES: usize = 340;

fn invalid<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::Invalid(text.into()))
}

/// With a new user namespace, and only with one; what the kernel would refuse with a bare EINVAL.
pub(super) fn rule(spec: &Spec) -> Result<(), Error> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let (uids, gids) = (list(linux.uid_mappings()), list(linux.gid_mappings()));
    let Some(ns) = namespace(spec, LinuxNamespaceType::User) else {
        if uids.is_empty() && gids.is_empty() {
            return Ok(());
        }
        return invalid("user namespace mappings specified, but user namespace isn't enabled in the config");
    };
    let joined = ns.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    for (kind, map) in [("uid", uids), ("gid", gids)] {
        if joined && map.is_empty() {
            continue;
        }
        check_map(kind, map)?;
    }
    match spec.process() {
        Some(process) if !joined => check_mapped(process, uids, gids),
        _ => Ok(()),
    }
}

/// One map by itself.
fn check_map(kind: &str, map: &[LinuxIdMapping]) -> Result<(), Error> {
    if map.is_empty() {
        return invalid(format!("user namespaces enabled, but no {kind} mappings found"));
    }
    if map.len() > MOST_RANGES {
        return invalid(format!(
            "linux.{kind}Mappings: {} ranges are more than the kernel's {MOST_RANGES}",
            map.len()
        ));
    }
    for (at, range) in map.iter().enumerate() {
        let field = format!("linux.{kind}Mappings[{at}]");
        if range.size() == 0 {
            return invalid(format!("{field}: size must not be 0"));
        }
        for (side, first) in [("containerID", range.container_id()), ("hostID", range.host_id())] {
            // The last id is that of "no user" (-1).
            if first.checked_add(range.size()).is_none() {
                return invalid(format!(
                    "{field}: {side} {first} and {} more are past the last id",
                    range.size()
                ));
            }
        }
        for (before, other) in map.iter().take(at).enumerate() {
            let common = |a: u32, b: u32| a < b + other.size() && b < a + range.size();
            let side = match (
                common(range.container_id(), other.container_id()),
                common(range.host_id(), other.host_id()),
            ) {
                (true, _) => "containerID",
                (_, true) => "hostID",
                _ => continue,
            };
            return invalid(format!("{field}: {side} overlaps with linux.{kind}Mappings[{before}]"));
        }
    }
    // Mounts, devices and the rest of the setup are made by it.
    match host_id(map, 0) {
        Some(_) => Ok(()),
        None => invalid(format!("user namespaces enabled, but no mapping found for {kind} 0")),
    }
}

/// The host's id for one of the container.
#[must_use]
pub fn host_id(map: &[LinuxIdMapping], id: u32) -> Option<u32> {
    map.iter().find_map(|range| {
        let offset = id.checked_sub(range.container_id())?;
        if offset < range.size() { range.host_id().checked_add(offset) } else { None }
    })
}

/// Whether a process can get its ids in a user namespace with these maps; runc's words.
///
/// # Errors
/// [`Error::Invalid`] with the field and the id.
pub fn check_mapped(
    process: &Process,
    uids: &[LinuxIdMapping],
    gids: &[LinuxIdMapping],
) -> Result<(), Error> {
    let user = process.user();
    for (kind, map, id) in [("uid", uids, user.uid()), ("gid", gids, user.gid())] {
        if host_id(map, id).is_none() {
            return invalid(format!(
                "process.user.{kind}: cannot set{kind} to unmapped {kind} {id} in user namespace"
            ));
        }
    }
    match list(user.additional_gids()).iter().find(|gid| host_id(gids, **gid).is_none()) {
        Some(gid) => {
            invalid(format!("process.user.additionalGids: cannot add unmapped gid {gid} in user namespace"))
        }
        None => Ok(()),
    }
}

/// What runc's `rootless` check adds for an ordinary user: `uid=` and `gid=` of mounts must be mapped, which
/// filesystems else answer with a bare EINVAL.
///
/// # Errors
/// [`Error::Invalid`] with the mount and the option.
pub fn check_mount_owners(spec: &Spec) -> Result<(), Error> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for mount in list(spec.mounts()) {
        for option in list(mount.options()) {
            let (kind, map, id) = match option.split_once('=') {
                Some(("uid", id)) => ("uid", list(linux.uid_mappings()), id),
                Some(("gid", id)) => ("gid", list(linux.gid_mappings()), id),
                _ => continue,
            };
            // Another text is the filesystem's to judge; without maps they are those of a joined namespace.
            let Ok(id) = id.parse() else { continue };
            if !map.is_empty() && host_id(map, id).is_none() {
                return invalid(format!(
                    "mounts[]: {}: cannot specify {option} mount option for rootless container: \
                     user namespaces enabled, but no mapping found for {kind} {id}",
                    mount.destination().display()
                ));
            }
        }
    }
    Ok(())
}

/// Ids that a user may map: its own, and ranges given to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    /// The user's own uid or gid.
    pub own: u32,
    /// First id and length of each range of /etc/subuid or /etc/subgid.
    pub ranges: Vec<(u32, u32)>,
}

impl Available {
    /// A map that gives the container's process the caller's own id, so that it can use the caller's files, and
    /// spreads the ranges over the ids around it, from 0 on. As crun's.
    fn map(&self, process: u32) -> Vec<LinuxIdMapping> {
        let mut map = Vec::with_capacity(self.ranges.len() + 2);
        let mut next = 0u32;
        let mut has_own = false;
        for &(mut first, mut length) in &self.ranges {
            if next < process {
                let taken = length.min(process - next);
                map.push(id_range(next, first, taken));
                (next, first, length) = (next + taken, first.saturating_add(taken), length - taken);
            }
            if next == process && !has_own {
                map.push(id_range(process, self.own, 1));
                (next, has_own) = (next.saturating_add(1), true);
            }
            if length > 0 {
                map.push(id_range(next, first, length));
                next = next.saturating_add(length);
            }
        }
        if !has_own {
            map.push(id_range(process, self.own, 1));
        }
        map
    }
}

/// One range of a map.
#[must_use]
pub fn id_range(container: u32, host: u32, size: u32) -> LinuxIdMapping {
    // Every field has a default, so this can't fail.
    LinuxIdMappingBuilder::default()
        .container_id(container)
        .host_id(host)
        .size(size)
        .build()
        .unwrap_or_default()
}

/// Whether a config leaves out what an ordinary user's container needs: a user namespace, or the maps of a new one.
#[must_use]
pub fn lacks_user_namespace(spec: &Spec) -> bool {
    let Some(linux) = spec.linux() else { return false };
    match namespace(spec, LinuxNamespaceType::User) {
        None => true,
        Some(ns) => {
            let joined = ns.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
            !joined && (list(linux.uid_mappings()).is_empty() || list(linux.gid_mappings()).is_empty())
        }
    }
}

/// Adds what [`lacks_user_namespace`] finds missing.
pub fn add_user_namespace(spec: &mut Spec, uids: &Available, gids: &Available) {
    let user = spec.process().as_ref().map(|process| (process.user().uid(), process.user().gid()));
    let (uid, gid) = user.unwrap_or_default();
    ensure_user_namespace(spec);
    let Some(linux) = spec.linux_mut() else { return };
    if list(linux.uid_mappings()).is_empty() {
        linux.set_uid_mappings(Some(uids.map(uid)));
    }
    if list(linux.gid_mappings()).is_empty() {
        linux.set_gid_mappings(Some(gids.map(gid)));
    }
}

/// Adds a user namespace to a config without one.
pub fn ensure_user_namespace(spec: &mut Spec) {
    if namespace(spec, LinuxNamespaceType::User).is_some() {
        return;
    }
    let Some(linux) = spec.linux_mut() else { return };
    let mut namespaces = list(linux.namespaces()).to_vec();
    // Every field has a default, so this can't fail.
    let user = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::User).build();
    namespaces.push(user.unwrap_or_default());
    linux.set_namespaces(Some(namespaces));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(user: serde_json::Value, linux: serde_json::Value) -> Spec {
        let mut linux = linux;
        if linux["namespaces"].is_null() {
            linux["namespaces"] = serde_json::json!([{"type": "mount"}, {"type": "user"}]);
        }
        serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["sh"], "user": user},
            "mounts": [{"destination": "/dev/pts", "type": "devpts", "options": ["gid=5"]}],
            "linux": linux
        }))
        .unwrap()
    }

    fn map(ranges: &[[u32; 3]]) -> serde_json::Value {
        ranges.iter().map(|[c, h, s]| serde_json::json!({"containerID": c, "hostID": h, "size": s})).collect()
    }

    fn root() -> serde_json::Value {
        serde_json::json!({"uid": 0, "gid": 0})
    }

    #[test]
    fn bad_maps_are_named() {
        let many: Vec<[u32; 3]> = (0..341).map(|at| [at, at + 1000, 1]).collect();
        let cases: [(&[[u32; 3]], &str); 9] = [
            (&[], "user namespaces enabled, but no uid mappings found"),
            (&[[0, 5, 0]], "linux.uidMappings[0]: size must not be 0"),
            (
                &[[0, 5, 1], [1, u32::MAX, 1]],
                "linux.uidMappings[1]: hostID 4294967295 and 1 more are past the last id",
            ),
            (
                &[[0, 5, 2], [1, 50, 1]],
                "linux.uidMappings[1]: containerID overlaps with linux.uidMappings[0]",
            ),
            (&[[0, 5, 2], [2, 6, 1]], "linux.uidMappings[1]: hostID overlaps with linux.uidMappings[0]"),
            (&[[1, 5, 2]], "user namespaces enabled, but no mapping found for uid 0"),
            (&many, "341 ranges are more than the kernel's 340"),
            (&[[0, 0, u32::MAX]], ""),
            (&[[0, 5, 1], [1, 100, 10]], ""),
        ];
        for (ranges, words) in cases {
            let linux = serde_json::json!({"uidMappings": map(ranges), "gidMappings": map(&[[0, 5, 1]])});
            match rule(&spec(root(), linux)) {
                Ok(()) => assert_eq!(words, "", "{ranges:?}"),
                Err(e) => assert!(!words.is_empty() && e.to_string().contains(words), "{ranges:?}: {e}"),
            }
        }
    }

    #[test]
    fn the_process_must_be_mapped() {
        let linux = serde_json::json!({"uidMappings": map(&[[0, 5, 8]]), "gidMappings": map(&[[0, 5, 4]])});
        let broken = |user| rule(&spec(user, linux.clone())).unwrap_err().to_string();
        let ids = |uid: u32, gid: u32| serde_json::json!({"uid": uid, "gid": gid});
        assert_eq!(broken(ids(8, 0)), "process.user.uid: cannot setuid to unmapped uid 8 in user namespace");
        assert_eq!(broken(ids(7, 4)), "process.user.gid: cannot setgid to unmapped gid 4 in user namespace");
        let groups = serde_json::json!({"uid": 0, "gid": 0, "additionalGids": [3, 9]});
        assert!(broken(groups).contains("additionalGids: cannot add unmapped gid 9"));
        let mounts = check_mount_owners(&spec(root(), linux)).unwrap_err().to_string();
        assert!(
            mounts.contains("/dev/pts: cannot specify gid=5 mount option for rootless container"),
            "{mounts}"
        );
    }

    #[test]
    fn the_callers_ids_are_spread_around_the_process() {
        let own = |ranges: &[(u32, u32)], process| {
            let map = Available { own: 12, ranges: ranges.to_vec() }.map(process);
            map.iter().map(|r| [r.container_id(), r.host_id(), r.size()]).collect::<Vec<_>>()
        };
        assert_eq!(own(&[], 0), [[0, 12, 1]]);
        assert_eq!(own(&[], 7), [[7, 12, 1]]);
        assert_eq!(own(&[(100, 50)], 0), [[0, 12, 1], [1, 100, 50]]);
        assert_eq!(own(&[(100, 50)], 7), [[0, 100, 7], [7, 12, 1], [8, 107, 43]]);
        assert_eq!(own(&[(100, 7)], 7), [[0, 100, 7], [7, 12, 1]]);
        assert_eq!(own(&[(100, 5), (300, 5)], 7), [[0, 100, 5], [5, 300, 2], [7, 12, 1], [8, 302, 3]]);
        assert_eq!(own(&[(100, 5)], 7), [[0, 100, 5], [7, 12, 1]]);
    }

    #[test]
    fn a_missing_user_namespace_is_added() {
        let linux = serde_json::json!({"namespaces": [{"type": "mount"}]});
        let mut spec = spec(serde_json::json!({"uid": 1, "gid": 0}), linux);
        assert!(lacks_user_namespace(&spec));
        let (uids, gids) =
            (Available { own: 12, ranges: vec![(100, 9)] }, Available { own: 13, ranges: vec![] });
        add_user_namespace(&mut spec, &uids, &gids);
        assert!(!lacks_user_namespace(&spec));
        rule(&spec).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(list(linux.uid_mappings()).len(), 3);
        assert_eq!(list(linux.gid_mappings()).len(), 1);
    }
}
