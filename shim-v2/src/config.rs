//! The few fields of config.json that the shim itself needs, without parsing the rest.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::io::Owner;

/// Annotations that put a container into the shim of another, in order of precedence.
const GROUP_ANNOTATIONS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
/// Annotation of a container whose execs are killed with their whole process group: value `group`.
const EXEC_KILL: &str = "io.containerd.davit.v2.exec-kill";

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Config {
    annotations: HashMap<String, String>,
    linux: Linux,
    process: Process,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    namespaces: Vec<Namespace>,
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
    cgroups_path: String,
}

#[derive(Debug, serde::Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    #[serde(rename = "containerID")]
    container: u32,
    #[serde(rename = "hostID")]
    host: u32,
    size: u32,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Process {
    user: User,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct User {
    uid: u32,
    gid: u32,
}

/// What the shim wants to know of a bundle.
#[derive(Debug, PartialEq, Eq)]
pub struct Facts {
    /// What init leaves behind does not die with a pid namespace of its own. True also when the spec can't be
    /// read (Go's ShouldKillAllOnExit).
    pub kill_all: bool,
    /// Host ids of the process's user, for a container with a user namespace.
    pub owner: Option<Owner>,
    /// The cgroup path has systemd's form `slice:prefix:name`: dockerd does not say so otherwise when the
    /// runtime type is not runc's.
    pub systemd_cgroup: bool,
    /// Kill of an exec, and its end, reach its whole process group.
    pub exec_kill_group: bool,
}

/// Whether a bundle's annotation asks for a runtime that shares no pages with the installed one. The containers of a
/// group have the shim of their first.
#[must_use]
pub fn wants_own_copy(bundle: &Path) -> bool {
    let read = std::fs::read(bundle.join("config.json")).ok();
    let config = read.and_then(|bytes| serde_json::from_slice::<Config>(&bytes).ok()).unwrap_or_default();
    let value = config.annotations.get(davit::selfexe::ANNOTATION);
    // What can't be met is the error of create.
    davit::selfexe::demand(value.map(String::as_str))
        .is_ok_and(|demand| demand == davit::selfexe::Demand::Copy)
}

/// The place of a container's cgroups, where config.json names one below the mount points: an absolute path. (A
/// relative one, or none, means below the cgroup of the process that makes it; systemd's form is a unit's.)
#[must_use]
pub fn cgroups_path(bundle: &Path) -> Option<PathBuf> {
    let read = std::fs::read(bundle.join("config.json")).ok()?;
    let config: Config = serde_json::from_slice(&read).ok()?;
    Some(PathBuf::from(config.linux.cgroups_path)).filter(|path| path.is_absolute())
}

/// Reads a bundle's facts.
#[must_use]
pub fn facts(bundle: &Path) -> Facts {
    let read = std::fs::read(bundle.join("config.json")).ok();
    match read.and_then(|bytes| serde_json::from_slice::<Config>(&bytes).ok()) {
        Some(config) => Facts::of(&config),
        None => Facts { kill_all: true, owner: None, systemd_cgroup: false, exec_kill_group: false },
    }
}

impl Facts {
    fn of(config: &Config) -> Facts {
        let linux = &config.linux;
        let own_pid_namespace = linux.namespaces.iter().any(|n| n.kind == "pid" && n.path.is_empty());
        let user = &config.process.user;
        let owner = match (mapped(&linux.uid_mappings, user.uid), mapped(&linux.gid_mappings, user.gid)) {
            (Some(uid), Some(gid)) => Some(Owner { uid, gid }),
            _ => None,
        };
        let systemd_cgroup =
            !linux.cgroups_path.starts_with('/') && linux.cgroups_path.split(':').count() == 3;
        let exec_kill_group = config.annotations.get(EXEC_KILL).is_some_and(|value| value == "group");
        Facts { kill_all: !own_pid_namespace, owner, systemd_cgroup, exec_kill_group }
    }
}

fn mapped(mappings: &[Mapping], id: u32) -> Option<u32> {
    let mapping = mappings.iter().find(|m| id >= m.container && id - m.container < m.size)?;
    mapping.host.checked_add(id - mapping.container)
}

/// The group whose shim a bundle's container joins, or `None` for a shim of its own.
///
/// # Errors
/// config.json can't be read or is no JSON; its text is the user's error.
pub fn group(bundle: &Path) -> Result<Option<String>, String> {
    #[derive(serde::Deserialize)]
    struct Only {
        #[serde(default)]
        annotations: Option<HashMap<String, String>>,
    }
    let path = bundle.join("config.json");
    let bytes = std::fs::read(&path).map_err(|e| format!("open {}: {e}", path.display()))?;
    let only: Only = serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    let annotations = only.annotations.unwrap_or_default();
    Ok(GROUP_ANNOTATIONS.iter().find_map(|key| annotations.get(*key)).filter(|g| !g.is_empty()).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(json: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), json).unwrap();
        dir
    }

    #[test]
    fn grouping_order() {
        let of = |json: &str| group(bundle(json).path());
        assert_eq!(of("{}"), Ok(None));
        assert_eq!(of(r#"{"annotations":null}"#), Ok(None));
        assert_eq!(of(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#), Ok(Some("pod".into())));
        let both =
            r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}}"#;
        assert_eq!(of(both), Ok(Some("g".into())));
        assert!(of("{").unwrap_err().contains("config.json"));
    }

    #[test]
    fn pid_namespace_decides_about_leftovers() {
        let of = |json: &str| facts(bundle(json).path()).kill_all;
        assert!(!of(r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#));
        assert!(of(r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#));
        assert!(of(r#"{"linux":{"namespaces":[{"type":"mount"}]}}"#));
        assert!(of("not json"));
        assert!(facts(Path::new("/nonexistent")).kill_all);
    }

    #[test]
    fn owner_and_driver() {
        let json = r#"{"process":{"user":{"uid":5,"gid":0}},"linux":{"cgroupsPath":"system.slice:docker:x",
            "uidMappings":[{"containerID":0,"hostID":1000,"size":10}],
            "gidMappings":[{"containerID":0,"hostID":2000,"size":10}]}}"#;
        let facts = facts(bundle(json).path());
        assert_eq!(facts.owner, Some(Owner { uid: 1005, gid: 2000 }));
        assert!(facts.systemd_cgroup);
        assert!(!facts.exec_kill_group);
        let annotated = r#"{"annotations":{"io.containerd.davit.v2.exec-kill":"group"}}"#;
        assert!(Facts::of(&serde_json::from_str(annotated).unwrap()).exec_kill_group);
        assert!(
            !Facts::of(&serde_json::from_str(r#"{"linux":{"cgroupsPath":"/a:b:c"}}"#).unwrap())
                .systemd_cgroup
        );
    }
}
