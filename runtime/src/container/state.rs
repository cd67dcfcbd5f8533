//! state.json: what is known of a container between two commands, under the keys that runc uses, so that
//! each runtime can list, signal and delete the other's containers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Hooks, LinuxIntelRdt, LinuxNamespaceType, Spec};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::brief;
use super::idmap::{IdRange, is_ordinary_user};
use super::process_stat::ProcessStat;
use super::runc_config::RuncConfig;
use super::{CgroupManager, Error, Result, Runtime};
use crate::cgroup::{Cgroup, Manager, UnitName};
use crate::json::convert;
use crate::sorted::{list_of, map_of};
use crate::spec::list;

/// The runtime that a state is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Maker {
    /// This one.
    #[default]
    Davit,
    /// This one, with processes that CRIU made: they have executed nothing.
    Restored,
    /// runc.
    Other,
}

/// The part of runc's state.json that davit reads and writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// What davit puts at the head of the file, see [`brief`]; another runtime's has none.
    #[serde(default, rename = "davit_brief", skip_serializing)]
    brief: Option<IgnoredAny>,
    /// Container id.
    pub id: String,
    /// Init's pid in the runtime's pid namespace.
    pub init_process_pid: i32,
    /// Init's start time in clock ticks since boot: with the pid it names one process for ever.
    pub init_process_start: u64,
    /// Creation time, RFC 3339.
    pub created: String,
    /// runc's container configuration.
    #[serde(serialize_with = "with_rest")]
    pub config: Config,
    /// Whether it was made without root.
    #[serde(default)]
    pub rootless: bool,
    /// Controller (`""` for cgroup v2) to directory.
    #[serde(default)]
    pub cgroup_paths: BTreeMap<String, PathBuf>,
    /// Namespace (`NEWNS`…) to its file below /proc.
    #[serde(default)]
    pub namespace_paths: BTreeMap<String, PathBuf>,
    /// Targets of init's stdio, for checkpoint.
    #[serde(default)]
    pub external_descriptors: Vec<String>,
    /// `--config`, when it is not the bundle's config.json. runc has no such key and leaves it alone.
    #[serde(default, rename = "davit_config_file", skip_serializing_if = "Option::is_none")]
    pub config_file: Option<PathBuf>,
    /// Without a mount namespace: id of the mount that the rootfs's own was put on. runc has no such key.
    #[serde(default, rename = "davit_covered_mount", skip_serializing_if = "Option::is_none")]
    pub covered_mount: Option<i32>,
    /// Whether its processes came from images. runc has no such key.
    #[serde(default, rename = "davit_restored", skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
    /// Directory in resctrl.
    #[serde(default)]
    pub intel_rdt_path: String,
    /// Directory of its monitoring group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub intel_rdt_mon_path: String,
}

/// The part of runc's libcontainer configuration that is needed after create.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Config {
    /// Host path of the root filesystem.
    pub rootfs: PathBuf,
    /// Host name.
    #[serde(default)]
    pub hostname: String,
    /// Namespaces of the container.
    #[serde(default)]
    pub namespaces: Option<Vec<Namespace>>,
    /// Cgroup settings: runc needs the object to open the cgroup.
    #[serde(default)]
    pub cgroups: Option<CgroupConfig>,
    /// ociVersion of config.json.
    #[serde(default)]
    pub version: String,
    /// `bundle=<path>` and the annotations, as `key=value`.
    #[serde(default)]
    pub labels: Option<Vec<String>>,
    /// `--no-new-keyring`.
    #[serde(default)]
    pub no_new_keyring: bool,
    /// Maps of the user namespace, made or joined: runc's exec wants them.
    #[serde(default)]
    pub uid_mappings: Option<Vec<IdRange>>,
    /// As `uid_mappings`.
    #[serde(default)]
    pub gid_mappings: Option<Vec<IdRange>>,
    /// Whether an ordinary user made it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rootless_euid: bool,
    /// `--rootless`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rootless_cgroups: bool,
    /// `linux.intelRdt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<IntelRdt>,
    /// Hooks by kind; those that run after create are read.
    #[serde(default, rename = "Hooks")]
    pub hooks: Option<BTreeMap<String, Option<Vec<HookConfig>>>>,
    /// What only others read. None in a state that was read.
    #[serde(skip)]
    pub rest: Option<RuncConfig>,
}

/// [`Config`] and its rest as the one object that they are in the file.
fn with_rest<S: Serializer>(config: &Config, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Whole<'a> {
        #[serde(flatten)]
        config: &'a Config,
        #[serde(flatten)]
        rest: Option<&'a RuncConfig>,
    }
    Whole { config, rest: config.rest.as_ref() }.serialize(serializer)
}

/// One namespace in runc's words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Namespace {
    /// `NEWPID` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// Path when it was joined.
    #[serde(default)]
    pub path: String,
}

/// runc's cgroup object; an empty device list makes runc allocate its embedded resources.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CgroupConfig {
    /// Name, the container's id.
    #[serde(default)]
    pub name: String,
    /// Path below the hierarchies.
    #[serde(default)]
    pub path: String,
    /// Device rules.
    #[serde(default)]
    pub devices: Option<Vec<Value>>,
    /// Whether systemd made it.
    #[serde(default, rename = "Systemd")]
    pub systemd: bool,
    /// systemd: the slice of config.json.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent: String,
    /// systemd: what the scope's name starts with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope_prefix: String,
    /// systemd: whether it is the user's own that made it.
    #[serde(default, rename = "Rootless", skip_serializing_if = "std::ops::Not::not")]
    pub rootless: bool,
}

/// The part of runc's object for resctrl that says whose the group is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct IntelRdt {
    /// The host's class of service; empty when the container has one of its own, which ends with it.
    #[serde(default, rename = "closID", skip_serializing_if = "String::is_empty")]
    pub clos_id: String,
    /// Its share of the L3 cache.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    /// Its share of the memory bandwidth.
    #[serde(default, rename = "memBwSchema", skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
}

impl IntelRdt {
    fn new(config: &LinuxIntelRdt) -> Self {
        IntelRdt {
            clos_id: config.clos_id().clone().unwrap_or_default(),
            l3_cache_schema: config.l3_cache_schema().clone().unwrap_or_default(),
            mem_bw_schema: config.mem_bw_schema().clone().unwrap_or_default(),
        }
    }
}

/// A hook in runc's words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HookConfig {
    /// Program.
    pub path: PathBuf,
    /// Arguments, the first being argv[0].
    #[serde(default)]
    pub args: Option<Vec<String>>,
    /// Environment.
    #[serde(default)]
    pub env: Option<Vec<String>>,
    /// Working directory: runc's Go type has it, config.json does not.
    #[serde(default)]
    pub dir: String,
    /// Time limit in nanoseconds.
    #[serde(default)]
    pub timeout: Option<i64>,
}

/// Whose systemd makes a container's unit.
pub(super) fn unit_manager(rootless: bool) -> Manager {
    if rootless { Manager::User } else { Manager::System }
}

/// Namespace kinds: of the spec, runc's name, the file below /proc/PID/ns.
const KINDS: [(LinuxNamespaceType, &str, &str); 8] = [
    (LinuxNamespaceType::Mount, "NEWNS", "mnt"),
    (LinuxNamespaceType::Network, "NEWNET", "net"),
    (LinuxNamespaceType::Uts, "NEWUTS", "uts"),
    (LinuxNamespaceType::Ipc, "NEWIPC", "ipc"),
    (LinuxNamespaceType::Pid, "NEWPID", "pid"),
    (LinuxNamespaceType::User, "NEWUSER", "user"),
    (LinuxNamespaceType::Cgroup, "NEWCGROUP", "cgroup"),
    (LinuxNamespaceType::Time, "NEWTIME", "time"),
];

/// The clone flag of runc's name for a namespace.
pub fn namespace_flag(name: &str) -> Option<i32> {
    KINDS.iter().find(|(_, runc, _)| *runc == name).map(|(kind, ..)| *kind as i32)
}

/// runc's name for a kind of namespaces, and its file below /proc/PID/ns.
pub fn namespace_name(kind: LinuxNamespaceType) -> Option<(&'static str, &'static str)> {
    KINDS.iter().find(|(known, ..)| *known == kind).map(|(_, name, file)| (*name, *file))
}

impl State {
    /// The state of a container whose init exists.
    pub fn new(
        runtime: &Runtime,
        id: &str,
        bundle: &Path,
        spec: &Spec,
        rootfs: &Path,
        new_keyring: bool,
    ) -> Self {
        let linux = spec.linux().as_ref();
        let namespaces =
            linux.map(|linux| list(linux.namespaces())).unwrap_or_default().iter().filter_map(|ns| {
                let (_, name, _) = KINDS.iter().find(|(kind, ..)| *kind == ns.typ())?;
                let path = ns.path().as_ref().map(|path| path.display().to_string()).unwrap_or_default();
                Some(Namespace { kind: (*name).to_owned(), path })
            });
        let mut labels = vec![format!("bundle={}", bundle.display())];
        let annotations = list_of(spec.annotations().iter().flatten());
        labels.extend(annotations.into_iter().map(|(key, value)| format!("{key}={value}")));
        let cgroups_path = linux.and_then(|linux| linux.cgroups_path().as_ref());
        State {
            brief: Some(IgnoredAny),
            id: id.to_owned(),
            init_process_pid: 0,
            init_process_start: 0,
            created: crate::time::rfc3339_nano(std::time::SystemTime::now()),
            config: Config {
                rootfs: rootfs.to_owned(),
                hostname: spec.hostname().clone().unwrap_or_default(),
                namespaces: Some(namespaces.collect()),
                cgroups: Some(CgroupConfig {
                    name: id.to_owned(),
                    path: cgroups_path.map(|path| path.display().to_string()).unwrap_or_default(),
                    devices: Some(Vec::new()),
                    systemd: runtime.cgroups == CgroupManager::Systemd,
                    ..CgroupConfig::default()
                }),
                version: spec.version().clone(),
                labels: Some(labels),
                no_new_keyring: !new_keyring,
                uid_mappings: linux.and_then(|linux| IdRange::list(list(linux.uid_mappings()))),
                gid_mappings: linux.and_then(|linux| IdRange::list(list(linux.gid_mappings()))),
                rootless_euid: is_ordinary_user(),
                rootless_cgroups: runtime.rootless,
                intel_rdt: linux.and_then(|linux| linux.intel_rdt().as_ref()).map(IntelRdt::new),
                hooks: Some(hooks(spec)),
                rest: None,
            },
            // runc: both of the config's.
            rootless: is_ordinary_user() && runtime.rootless,
            cgroup_paths: BTreeMap::new(),
            namespace_paths: BTreeMap::new(),
            external_descriptors: vec!["/dev/null".to_owned(); 3],
            config_file: None,
            covered_mount: None,
            restored: false,
            intel_rdt_path: String::new(),
            intel_rdt_mon_path: String::new(),
        }
    }

    /// Records the unit that systemd makes, as runc does.
    pub fn set_unit(&mut self, unit: &UnitName) {
        let rootless = self.config.rootless_cgroups;
        if let Some(cgroups) = &mut self.config.cgroups {
            cgroups.path = String::new();
            cgroups.name.clone_from(&unit.name);
            cgroups.parent.clone_from(&unit.slice);
            cgroups.scope_prefix.clone_from(&unit.prefix);
            cgroups.rootless = rootless;
        }
    }

    /// The container's cgroup.
    pub fn cgroup(&self) -> Result<Cgroup> {
        let cgroup = Cgroup::open(&self.cgroup_paths)?;
        Ok(match &self.config.cgroups {
            Some(made) if made.systemd => {
                let unit = UnitName {
                    slice: made.parent.clone(),
                    prefix: made.scope_prefix.clone(),
                    name: made.name.clone(),
                };
                cgroup.of_unit(unit, unit_manager(made.rootless))
            }
            _ if self.config.rootless_cgroups => cgroup.existing(),
            _ => cgroup,
        })
    }

    /// Records init, once it exists.
    pub fn set_init(&mut self, pid: i32) -> Result<()> {
        let stat = ProcessStat::read(pid)?.ok_or(Error::NotRunning)?;
        self.init_process_pid = pid;
        self.init_process_start = stat.start;
        self.namespace_paths = KINDS
            .iter()
            .map(|(_, name, file)| ((*name).to_owned(), format!("/proc/{pid}/ns/{file}").into()))
            .collect();
        Ok(())
    }

    /// Directories in resctrl that a process of exec joins: those that exist, as in runc. None when the config has
    /// no intelRdt, since runc notes a path even then.
    pub fn resctrl_dirs(&self) -> Vec<PathBuf> {
        let all = [&self.intel_rdt_path, &self.intel_rdt_mon_path].into_iter().map(PathBuf::from);
        let all = all.filter(|dir| self.config.intel_rdt.is_some() && dir.is_dir());
        all.collect()
    }

    /// What its group of resctrl may use and uses, as in runc's `events`; None when the config has no intelRdt.
    ///
    /// # Errors
    /// When the host has no resctrl any more.
    pub fn resctrl_stats(&self) -> Result<Option<serde_json::Value>> {
        if self.config.intel_rdt.is_none() {
            return Ok(None);
        }
        let monitoring = Some(Path::new(&self.intel_rdt_mon_path)).filter(|dir| !dir.as_os_str().is_empty());
        let root = crate::resctrl::root()?;
        Ok(Some(crate::resctrl::stats(&root, Path::new(&self.intel_rdt_path), monitoring)))
    }

    /// Removes the container's groups in resctrl. A group with a closID is the host's and stays, but for the
    /// container's part of it.
    pub fn remove_resctrl(&self) -> Result<()> {
        let Some(config) = &self.config.intel_rdt else { return Ok(()) };
        let own = config.clos_id.is_empty().then_some(&self.intel_rdt_path);
        let dirs = [Some(&self.intel_rdt_mon_path), own].into_iter().flatten().filter(|dir| !dir.is_empty());
        Ok(dirs.into_iter().try_for_each(|dir| crate::resctrl::remove(Path::new(dir)))?)
    }

    /// Absolute path of the bundle.
    pub fn bundle(&self) -> PathBuf {
        brief::bundle(self.labels())
    }

    /// Who wrote the state. A change by runc makes it runc's: it keeps no key that is not its own.
    pub fn maker(&self) -> Maker {
        match self.brief {
            None => Maker::Other,
            Some(_) if self.restored => Maker::Restored,
            Some(_) => Maker::Davit,
        }
    }

    /// Annotations of config.json.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        brief::annotations(self.labels())
    }

    /// The container's config.json.
    pub fn config_path(&self) -> PathBuf {
        self.config_file.clone().unwrap_or_else(|| self.bundle().join("config.json"))
    }

    fn labels(&self) -> &[String] {
        self.config.labels.as_deref().unwrap_or_default()
    }

    /// Whether the container has a pid namespace of its own making, whose processes end with init.
    pub fn has_own_pid_namespace(&self) -> bool {
        self.config.namespaces.iter().flatten().any(|ns| ns.kind == "NEWPID" && ns.path.is_empty())
    }

    /// Clone flags of every namespace that the container does not share with the runtime.
    pub fn namespace_flags(&self) -> i32 {
        let kinds = self.config.namespaces.iter().flatten();
        kinds.filter_map(|ns| namespace_flag(&ns.kind)).fold(0, |all, flag| all | flag)
    }

    /// What /proc says of init; `None` when it is gone, also when a later process has its pid.
    pub fn live_init(&self) -> Result<Option<ProcessStat>> {
        ProcessStat::of_process(self.init_process_pid, self.init_process_start)
    }

    /// Hooks of a kind (`poststart`, `poststop`).
    pub fn hooks(&self, kind: &str) -> Vec<Hook> {
        let all = self.config.hooks.as_ref().and_then(|hooks| hooks.get(kind)).and_then(Option::as_ref);
        all.into_iter().flatten().filter_map(HookConfig::to_hook).collect()
    }
}

impl HookConfig {
    fn from_hook(hook: &Hook) -> Self {
        HookConfig {
            path: hook.path().clone(),
            args: hook.args().clone(),
            env: hook.env().clone(),
            dir: String::new(),
            timeout: hook.timeout().map(|seconds| seconds.saturating_mul(1_000_000_000)),
        }
    }

    fn to_hook(&self) -> Option<Hook> {
        let mut hook = serde_json::Map::new();
        hook.insert("path".into(), self.path.to_str()?.into());
        hook.insert("args".into(), self.args.clone().unwrap_or_default().into());
        hook.insert("env".into(), self.env.clone().unwrap_or_default().into());
        if let Some(nanos) = self.timeout {
            hook.insert("timeout".into(), (nanos / 1_000_000_000).max(1).into());
        }
        convert(&hook).ok()
    }
}

/// All hooks under runc's keys, every kind of which it has.
fn hooks(spec: &Spec) -> BTreeMap<String, Option<Vec<HookConfig>>> {
    let hooks = spec.hooks().as_ref();
    let of = |kind: fn(&Hooks) -> &Option<Vec<Hook>>| {
        let all = hooks.and_then(|hooks| kind(hooks).as_ref())?;
        Some(all.iter().map(HookConfig::from_hook).collect())
    };
    // Deprecated by the spec, and still used.
    #[allow(deprecated)]
    let prestart = of(Hooks::prestart);
    map_of([
        ("prestart".to_owned(), prestart),
        ("createRuntime".to_owned(), of(Hooks::create_runtime)),
        ("createContainer".to_owned(), of(Hooks::create_container)),
        ("startContainer".to_owned(), of(Hooks::start_container)),
        ("poststart".to_owned(), of(Hooks::poststart)),
        ("poststop".to_owned(), of(Hooks::poststop)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_runc_is_read() {
        let text = r#"{"id":"x1","init_process_pid":6773,"init_process_start":107214,
            "created":"2026-11-23T04:04:26.1Z","config":{"rootfs":"/b/rootfs","umask":null,
            "namespaces":[{"type":"NEWPID","path":""},{"type":"NEWNET","path":"/n"}],
            "cgroups":{"name":"x1","path":"","devices":[{"type":97}],"Systemd":false},
            "Hooks":{"poststop":[{"path":"/h","args":["h"],"env":null,"dir":"","timeout":2000000000}],"prestart":null},
            "version":"1.0.2-dev","labels":["bundle=/b","k=v=w"]},
            "rootless":false,"cgroup_paths":{"":"/sys/fs/cgroup/unified/x1"},"namespace_paths":{},
            "external_descriptors":["/dev/null"],"intel_rdt_path":""}"#;
        let state: State = serde_json::from_str(text).unwrap();
        assert_eq!(state.bundle(), Path::new("/b"));
        assert_eq!(state.annotations()["k"], "v=w");
        assert!(state.has_own_pid_namespace());
        assert_eq!(state.namespace_flags(), libc::CLONE_NEWPID | libc::CLONE_NEWNET);
        assert_eq!(state.hooks("poststop")[0].timeout(), Some(2));
        assert!(state.hooks("prestart").is_empty());
    }
}
