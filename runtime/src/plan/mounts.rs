//! `mounts` of the config → [`Mount`] steps.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, Mount as SpecMount, Spec,
};

use super::options::{IdMapOption, IdRange};
use super::{Facts, IdMaps, Mount, MountIdMap, MountSource, MountUserns, Options};
use crate::spec::{Error, list, namespace};
use crate::sys::mount::Reach;

/// A path without leading slashes and `.` components, for comparing.
pub(super) fn normal(path: &Path) -> PathBuf {
    path.components().filter(|c| matches!(c, std::path::Component::Normal(_))).collect()
}

pub(super) fn plan_mount(
    spec: &Spec,
    mount: &SpecMount,
    bundle: &Path,
    facts: &Facts,
) -> Result<Mount, Error> {
    let destination = mount.destination().clone();
    let name = destination.display();
    let invalid = |words: String| Error::Invalid(format!("mounts[]: {name}: {words}"));
    let options = Options::parse(list(mount.options())).map_err(|e| invalid(e.to_string()))?;
    if !destination.is_absolute() {
        // runc's words.
        log::warn!(
            "mount destination {name} is not absolute. Support for non-absolute mount destinations will be \
             removed in a future release."
        );
    }
    let source = source(spec, mount, &options, bundle, facts).map_err(&invalid)?;
    if is_root(&destination) {
        check_new_root(spec, &source, &options).map_err(|why| invalid(why.into()))?;
    }
    let idmap = idmap(spec, mount, &options).map_err(&invalid)?;
    if idmap.is_some() && options.remount {
        return Err(invalid("an id-mapped mount can't be a remount".into()));
    }
    let label = label(spec, &source);
    Ok(Mount { destination, source, options, idmap, label })
}

/// Whether a destination is the container's `/`.
pub(super) fn is_root(destination: &Path) -> bool {
    normal(destination).as_os_str().is_empty()
}

/// A mount over `/` takes the rootfs's place for all that comes after it (crun has it; runc refuses it since its
/// pivot_root went to what was below, issue 5070).
fn check_new_root(spec: &Spec, source: &MountSource, options: &Options) -> Result<(), &'static str> {
    if namespace(spec, LinuxNamespaceType::Mount).is_none() {
        return Err("mounting over / needs a mount namespace");
    }
    match source {
        MountSource::Bind { .. } => Ok(()),
        // mount(2), which takes them, gives no descriptor of what it made.
        MountSource::Filesystem { .. } if options.has_long_data() => {
            Err("an option of a mount over / is longer than 255 bytes")
        }
        MountSource::Filesystem { kind, .. } if kind.as_c_str() != c"proc" && kind.as_c_str() != c"sysfs" => {
            Ok(())
        }
        _ => Err("only a bind or a filesystem of its own can be mounted over /"),
    }
}

/// A mount that is added to a running container.
///
/// # Errors
/// [`Error`] naming the mount and what can't be done later.
pub fn plan_live_mount(spec: &Spec, mount: &SpecMount, bundle: &Path) -> Result<Mount, Error> {
    let planned = plan_mount(spec, mount, bundle, &Facts::default())?;
    let name = planned.destination.display();
    let why = match &planned.source {
        MountSource::CgroupV1 { .. } | MountSource::CgroupV2 { .. } => {
            "a cgroup mount can only be made at create"
        }
        MountSource::RemountBind | MountSource::RemountFilesystem => "a remount can only be made at create",
        _ if planned.is_root() => "a mount over / can only be made at create",
        _ if planned.options.has_long_data() => "an option is longer than 255 bytes",
        _ => return Ok(planned),
    };
    Err(Error::Invalid(format!("mounts[]: {name}: {why}")))
}

fn source(
    spec: &Spec,
    mount: &SpecMount,
    options: &Options,
    bundle: &Path,
    facts: &Facts,
) -> Result<MountSource, String> {
    let cstring = |text: &Path| crate::sys::cstring(text).map_err(|_| format!("NUL byte in {text:?}"));
    let kind = mount.typ().as_deref().unwrap_or_default();
    let source = mount.source().clone().unwrap_or_default();
    let bind = options.bind.or((kind == "bind").then_some(Reach::Tree));
    if bind.is_some() && !options.data.is_empty() {
        let words: Vec<_> = options.data.iter().map(|(key, _)| key.to_string_lossy()).collect();
        let words = words.join(",");
        return Err(format!("bind mounts cannot have any filesystem-specific options applied: {words}"));
    }
    let namespaced = namespace(spec, LinuxNamespaceType::Cgroup).is_some();
    // What is above the container's own cgroup is not its user namespace's (CVE-2023-25809).
    let readonly = !namespaced && namespace(spec, LinuxNamespaceType::User).is_some();
    // Options of the hierarchy are for who mounts it.
    let sees_hosts = !namespaced && !readonly && options.data.is_empty();
    let host_mount = facts.cgroup_v2_mount.clone().filter(|_| sees_hosts);
    Ok(match bind {
        Some(_) if options.remount => MountSource::RemountBind,
        Some(reach) => MountSource::Bind { path: bundle.join(source), reach },
        None if kind.is_empty() => return Err("type is required unless bind or rbind is an option".into()),
        None if options.remount => MountSource::RemountFilesystem,
        None if kind == "cgroup" && !facts.cgroup_v1.is_empty() => {
            MountSource::CgroupV1 { views: facts.cgroup_v1.clone(), namespaced, readonly }
        }
        None if kind == "cgroup" || (kind == "cgroup2" && host_mount.is_some()) => {
            MountSource::CgroupV2 { host_mount, host_dir: facts.cgroup_v2.clone(), readonly }
        }
        None => MountSource::Filesystem { kind: cstring(Path::new(kind))?, source: cstring(&source)? },
    })
}

/// SELinux's `context=` for a new filesystem. Kernels with SELinux do not label proc, sysfs, mqueue and the
/// cgroup filesystems this way, and a bind has its source's labels: runc's list.
fn label(spec: &Spec, source: &MountSource) -> Option<String> {
    let label = spec.linux().as_ref()?.mount_label().clone().filter(|label| !label.is_empty())?;
    match source {
        MountSource::Filesystem { kind, .. } => {
            let unlabelled = [c"proc", c"sysfs", c"mqueue", c"cgroup", c"cgroup2"];
            (!unlabelled.contains(&kind.as_c_str())).then_some(label)
        }
        _ => None,
    }
}

/// How the mount's ids are mapped: its own mappings, those of the option (crun), or the container's.
fn idmap(spec: &Spec, mount: &SpecMount, options: &Options) -> Result<Option<MountIdMap>, String> {
    let (uids, gids) = (list(mount.uid_mappings()), list(mount.gid_mappings()));
    let asked = options.idmap.as_ref();
    if asked.is_none() && uids.is_empty() && gids.is_empty() {
        return Ok(None);
    }
    let reach = asked.map_or(Reach::One, |option| option.reach);
    let own = match asked {
        Some(option) if !option.uids.is_empty() => Some(option_maps(spec, option)?),
        _ if uids.is_empty() && gids.is_empty() => None,
        _ => Some(IdMaps { uids: uids.to_vec(), gids: gids.to_vec() }),
    };
    // runc's words.
    let missing = || "id-mapped mounts must have both uid and gid mappings specified".to_owned();
    if own.as_ref().is_some_and(|maps| maps.uids.is_empty() || maps.gids.is_empty()) {
        return Err(missing());
    }
    let userns = match own {
        Some(maps) => MountUserns::Maps(maps),
        None => container_userns(spec).ok_or_else(missing)?,
    };
    Ok(Some(MountIdMap { reach, userns }))
}

/// The container's user namespace: its mappings when it is new, else its path.
fn container_userns(spec: &Spec) -> Option<MountUserns> {
    let path = namespace(spec, LinuxNamespaceType::User)?.path().clone().unwrap_or_default();
    if !path.as_os_str().is_empty() {
        return Some(MountUserns::Path(path));
    }
    let linux = spec.linux().as_ref()?;
    let (uids, gids) = (list(linux.uid_mappings()).to_vec(), list(linux.gid_mappings()).to_vec());
    Some(MountUserns::Maps(IdMaps { uids, gids }))
}

fn option_maps(spec: &Spec, option: &IdMapOption) -> Result<IdMaps, String> {
    let linux = spec.linux().as_ref();
    let container_uids = linux.map(|linux| list(linux.uid_mappings())).unwrap_or_default();
    let container_gids = linux.map(|linux| list(linux.gid_mappings())).unwrap_or_default();
    let resolve = |ranges: &[IdRange], container: &[LinuxIdMapping]| {
        ranges.iter().map(|range| absolute(*range, container)).collect::<Result<Vec<_>, _>>()
    };
    Ok(IdMaps { uids: resolve(&option.uids, container_uids)?, gids: resolve(&option.gids, container_gids)? })
}

/// A range as user_namespaces(7) maps it. With `@` its target is shifted as the container's own mapping shifts
/// the range's first id (crun's rule).
fn absolute(range: IdRange, container: &[LinuxIdMapping]) -> Result<LinuxIdMapping, String> {
    let covers = |map: &&LinuxIdMapping| {
        range.from.checked_sub(map.container_id()).is_some_and(|offset| offset < map.size())
    };
    let shift = match container.iter().find(covers) {
        Some(map) if range.relative => i64::from(map.host_id()) - i64::from(map.container_id()),
        None if range.relative => {
            return Err(format!("idmap: id {} is not mapped in the container", range.from));
        }
        _ => 0,
    };
    let host = u32::try_from(i64::from(range.to) + shift)
        .map_err(|_| format!("idmap: id {} is out of range in the container", range.to))?;
    LinuxIdMappingBuilder::default()
        .container_id(range.from)
        .host_id(host)
        .size(range.size)
        .build()
        .map_err(|e| format!("idmap: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(linux: serde_json::Value, mount: serde_json::Value) -> Result<Mount, String> {
        planned_on(&Facts::default(), linux, mount)
    }

    fn planned_on(
        facts: &Facts,
        linux: serde_json::Value,
        mount: serde_json::Value,
    ) -> Result<Mount, String> {
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2", "root": {"path": "r"}, "linux": linux, "mounts": [mount]
        }))
        .unwrap();
        let mount = spec.mounts().as_ref().unwrap()[0].clone();
        plan_mount(&spec, &mount, Path::new("/b"), facts).map_err(|e| e.to_string())
    }

    fn maps(mount: &Mount) -> (Vec<(u32, u32, u32)>, Reach) {
        let idmap = mount.idmap.as_ref().unwrap();
        let MountUserns::Maps(maps) = &idmap.userns else { panic!("{idmap:?}") };
        let one = |map: &LinuxIdMapping| (map.container_id(), map.host_id(), map.size());
        (maps.uids.iter().map(one).collect(), idmap.reach)
    }

    #[test]
    fn who_sees_the_hosts_cgroup_v2_mount() {
        let v2 = Facts { cgroup_v2_mount: Some("/sys/fs/cgroup".into()), ..Facts::default() };
        let shown = |facts: &Facts, namespace: &str, kind: &str, options: &[&str]| {
            let mount =
                serde_json::json!({"destination": "/c", "type": kind, "source": "c", "options": options});
            let linux = serde_json::json!({"namespaces": [{"type": namespace}]});
            match planned_on(facts, linux, mount).unwrap().source {
                MountSource::CgroupV2 { host_mount, .. } => host_mount,
                MountSource::Filesystem { .. } => None,
                other => panic!("{other:?}"),
            }
        };
        for kind in ["cgroup", "cgroup2"] {
            assert_eq!(shown(&v2, "mount", kind, &["ro"]).as_deref(), Some(Path::new("/sys/fs/cgroup")));
            // One of its own, one that may not, options of the hierarchy, and a host that has v1 too.
            assert_eq!(shown(&v2, "cgroup", kind, &[]), None);
            assert_eq!(shown(&v2, "user", kind, &[]), None);
            assert_eq!(shown(&v2, "mount", kind, &["nsdelegate"]), None);
            assert_eq!(shown(&Facts::default(), "mount", kind, &[]), None);
        }
    }

    #[test]
    fn where_an_idmap_comes_from() {
        let container = serde_json::json!({
            "namespaces": [{"type": "user"}],
            "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 1, "hostID": 2, "size": 1000}],
            "gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 1, "hostID": 2, "size": 1000}]
        });
        let with = |options: &[&str]| {
            let mount = serde_json::json!({"destination": "/x", "source": "/y", "options": options});
            planned(container.clone(), mount)
        };
        assert_eq!(maps(&with(&["bind", "idmap"]).unwrap()), (vec![(0, 0, 1), (1, 2, 1000)], Reach::One));
        // The example of crun's manual.
        let example = with(&["rbind", "ridmap=uids=@1-3-10;gids=5-6-1"]).unwrap();
        assert_eq!(maps(&example), (vec![(1, 4, 10)], Reach::Tree));
        assert!(
            with(&["bind", "idmap=uids=@5000-3-10;gids=5-6-1"]).unwrap_err().contains("5000 is not mapped")
        );
        assert!(with(&["bind"]).unwrap().idmap.is_none());

        let own = serde_json::json!({"destination": "/x", "source": "/y", "options": ["bind"],
            "uidMappings": [{"containerID": 7, "hostID": 8, "size": 9}]});
        assert!(planned(serde_json::json!({}), own).unwrap_err().contains("both uid and gid mappings"));
        let none = serde_json::json!({"destination": "/x", "source": "/y", "options": ["bind", "idmap"]});
        assert!(
            planned(serde_json::json!({}), none.clone()).unwrap_err().contains("both uid and gid mappings")
        );
        let joined = serde_json::json!({"namespaces": [{"type": "user", "path": "/n"}]});
        let mount = planned(joined, none).unwrap();
        assert!(matches!(mount.idmap.unwrap().userns, MountUserns::Path(path) if path == Path::new("/n")));
    }

    #[test]
    fn labels_are_for_filesystems_that_take_them() {
        let label = |kind: &str, options: &[&str]| {
            let mount =
                serde_json::json!({"destination": "/x", "type": kind, "source": "/y", "options": options});
            planned(serde_json::json!({"mountLabel": "a:b:c"}), mount).unwrap().label
        };
        assert_eq!(label("tmpfs", &[]).as_deref(), Some("a:b:c"));
        assert_eq!(label("devpts", &[]).as_deref(), Some("a:b:c"));
        for kind in ["proc", "sysfs", "mqueue", "cgroup"] {
            assert_eq!(label(kind, &[]), None, "{kind}");
        }
        assert_eq!(label("none", &["bind"]), None);
    }
}
