//! The part of state.json's `config` that davit writes and never reads: what tools that know runc's file
//! (and runc itself) look up of the container's settings, in runc's keys and types.
//!
//! runc's own rlimits, AppArmor profile and cgroup limits are the process's and the kernel's: runc leaves the first
//! two out as well, and cgroup files tell the limits that hold now.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, LinuxCapabilities, LinuxIOPriority, LinuxIdMapping, LinuxNamespaceType,
    LinuxPersonalityDomain, LinuxTimeOffset, Mount as SpecMount, Process, Scheduler, Spec,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::RootSwitch;
use super::idmap::IdRange;
use super::runc_seccomp::RuncSeccomp;
use crate::plan::{self, Options, propagation};
use crate::sorted::{list_of, map_of};
use crate::spec::{Error, cpu_affinity, list, namespace, scheduler_flag};
use crate::sys::mount::Reach;

/// Go's cpu sets are as long as the kernel's default mask: 1024 bits.
const CPU_SET_WORDS: usize = 16;
/// runc's `tmpcopyup`.
const EXTENSION_COPY_UP: u32 = 1;
/// `PER_LINUX32` of personality(2).
const PER_LINUX32: u32 = 8;

/// Keys of runc's libcontainer configuration, as runc 1.3 writes them.
#[derive(Clone, Debug, Serialize)]
pub struct RuncConfig {
    no_pivot_root: bool,
    parent_death_signal: i32,
    umask: Option<u32>,
    readonlyfs: bool,
    #[serde(rename = "rootPropagation")]
    root_propagation: u64,
    mounts: Option<Vec<Mount>>,
    devices: Vec<Device>,
    mount_label: String,
    domainname: String,
    capabilities: Option<CapabilitySets>,
    networks: Option<Value>,
    routes: Option<Value>,
    #[serde(skip_serializing_if = "String::is_empty")]
    process_label: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    oom_score_adj: Option<i32>,
    mask_paths: Option<Vec<String>>,
    readonly_paths: Option<Vec<String>>,
    sysctl: Option<BTreeMap<String, String>>,
    seccomp: Option<RuncSeccomp>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_new_privileges: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_offsets: Option<HashMap<String, LinuxTimeOffset>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduler: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    personality: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io_priority: Option<LinuxIOPriority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exec_cpu_affinity: Option<Value>,
}

impl RuncConfig {
    /// The settings of a config.json that is being made into a container.
    ///
    /// # Errors
    /// Those of a config that makes no plan.
    pub fn new(spec: &Spec, bundle: &Path, root_switch: RootSwitch) -> Result<Self, Error> {
        let linux = spec.linux().as_ref();
        let process = spec.process().as_ref();
        let mounts = spec.mounts().iter().flatten().map(|mount| Mount::new(spec, bundle, mount));
        let mounts = mounts.collect::<Result<Vec<_>, _>>()?;
        let word = linux.and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or_default();
        Ok(RuncConfig {
            no_pivot_root: root_switch == RootSwitch::Move,
            parent_death_signal: 0,
            umask: process.and_then(|process| process.user().umask()),
            readonlyfs: spec.root().as_ref().and_then(|root| root.readonly()) == Some(true),
            root_propagation: propagation(word).map_or(0, |flag| flag | recursive(word.starts_with('r'))),
            mounts: (!mounts.is_empty()).then_some(mounts),
            devices: devices(spec)?,
            mount_label: linux.and_then(|linux| linux.mount_label().clone()).unwrap_or_default(),
            domainname: spec.domainname().clone().unwrap_or_default(),
            capabilities: process.and_then(|p| p.capabilities().as_ref()).map(CapabilitySets::new),
            networks: has_own_network(spec).then(loopback),
            routes: None,
            process_label: process.and_then(|p| p.selinux_label().clone()).unwrap_or_default(),
            oom_score_adj: process.and_then(Process::oom_score_adj),
            mask_paths: linux.and_then(|linux| linux.masked_paths().clone()),
            readonly_paths: linux.and_then(|linux| linux.readonly_paths().clone()),
            sysctl: linux
                .and_then(|linux| linux.sysctl().as_ref())
                .map(|all| map_of(all.iter().map(|(key, value)| (key.clone(), value.clone())))),
            seccomp: linux.and_then(|linux| linux.seccomp().clone()).map(RuncSeccomp),
            no_new_privileges: process.and_then(Process::no_new_privileges) == Some(true),
            time_offsets: linux.and_then(|linux| linux.time_offsets().clone()),
            scheduler: process.and_then(|process| process.scheduler().as_ref()).and_then(scheduler),
            personality: linux.and_then(|linux| linux.personality().as_ref()).map(|personality| {
                let narrow = personality.domain() == LinuxPersonalityDomain::PerLinux32;
                json!({ "domain": if narrow { PER_LINUX32 } else { 0 } })
            }),
            io_priority: process.and_then(|process| *process.io_priority()),
            exec_cpu_affinity: process.map(affinity).transpose()?.flatten(),
        })
    }
}

impl RuncConfig {
    /// Gives the devices to the root of a user namespace that was joined: its maps are known late.
    pub fn give_devices(&mut self, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) {
        for device in &mut self.devices {
            device.uid = root(uids).unwrap_or(device.uid);
            device.gid = root(gids).unwrap_or(device.gid);
        }
    }
}

/// The host's id of a namespace's root.
fn root(map: &[LinuxIdMapping]) -> Option<u32> {
    map.iter().find(|range| range.container_id() == 0).map(LinuxIdMapping::host_id)
}

/// One entry of `mounts`; flags are MS_* and MOUNT_ATTR_*.
#[derive(Clone, Debug, Serialize)]
struct Mount {
    source: PathBuf,
    destination: PathBuf,
    device: String,
    flags: u64,
    cleared_flags: u64,
    propagation_flags: Option<Vec<u64>>,
    data: String,
    relabel: &'static str,
    rec_attr: Option<MountAttr>,
    extensions: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_mapping: Option<IdMapping>,
}

/// Go's `unix.MountAttr`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct MountAttr {
    #[serde(rename = "Attr_set")]
    set: u64,
    #[serde(rename = "Attr_clr")]
    clear: u64,
    propagation: u64,
    #[serde(rename = "Userns_fd")]
    userns_fd: u64,
}

/// Of a mount with ids mapped: the ranges, or the user namespace that has them.
#[derive(Clone, Debug, Serialize)]
struct IdMapping {
    recursive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    userns_path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid_mappings: Option<Vec<IdRange>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid_mappings: Option<Vec<IdRange>>,
}

impl Mount {
    fn new(spec: &Spec, bundle: &Path, mount: &SpecMount) -> Result<Self, Error> {
        let options = Options::parse(list(mount.options())).map_err(|e| Error::Invalid(e.to_string()))?;
        let source = mount.source().clone().unwrap_or_default();
        let kind = mount.typ().clone().unwrap_or_default();
        let (source, device) = match options.bind {
            // runc: whatever the type says. An absolute source replaces the bundle's path.
            Some(_) => (bundle.join(source), "bind".to_owned()),
            None => (source, kind),
        };
        let bind = options.bind.map_or(0, |reach| libc::MS_BIND | recursive(reach == Reach::Tree));
        let remount = if options.remount { libc::MS_REMOUNT } else { 0 };
        let propagation: Vec<u64> =
            options.propagation.iter().map(|(flag, reach)| flag | recursive(*reach == Reach::Tree)).collect();
        let data = options.data.iter().map(|(key, value)| match value {
            Some(value) => format!("{}={}", key.to_string_lossy(), value.to_string_lossy()),
            None => key.to_string_lossy().into_owned(),
        });
        let attrs = options.tree_attrs;
        Ok(Mount {
            source,
            destination: mount.destination().clone(),
            device,
            flags: options.flags | bind | remount,
            cleared_flags: options.cleared,
            propagation_flags: (!propagation.is_empty()).then_some(propagation),
            data: data.collect::<Vec<_>>().join(","),
            relabel: "",
            rec_attr: (!attrs.is_empty()).then_some(MountAttr {
                set: attrs.set,
                clear: attrs.clear,
                propagation: 0,
                userns_fd: 0,
            }),
            extensions: if options.copy_up { EXTENSION_COPY_UP } else { 0 },
            id_mapping: id_mapping(spec, mount, &options),
        })
    }
}

/// A mount's own ranges, else those of the container's user namespace. runc has no form for ranges in the value of
/// crun's `idmap=`.
fn id_mapping(spec: &Spec, mount: &SpecMount, options: &Options) -> Option<IdMapping> {
    let own = [list(mount.uid_mappings()), list(mount.gid_mappings())];
    let has_own = own.iter().any(|map| !map.is_empty());
    let asked = options.idmap.as_ref();
    if asked.is_none() && !has_own {
        return None;
    }
    let recursive = asked.is_some_and(|asked| asked.reach == Reach::Tree);
    let joined = namespace(spec, LinuxNamespaceType::User).and_then(|user| user.path().clone());
    let valued = asked.is_some_and(|asked| !asked.uids.is_empty() || !asked.gids.is_empty());
    let [uids, gids] = match spec.linux() {
        _ if has_own => own,
        Some(linux) if joined.is_none() && !valued => {
            [list(linux.uid_mappings()), list(linux.gid_mappings())]
        }
        _ => [&[] as &[LinuxIdMapping]; 2],
    };
    Some(IdMapping {
        recursive,
        userns_path: joined.filter(|_| !has_own && !valued),
        uid_mappings: IdRange::list(uids),
        gid_mappings: IdRange::list(gids),
    })
}

fn recursive(whole_tree: bool) -> u64 {
    if whole_tree { libc::MS_REC } else { 0 }
}

/// One entry of `devices`. `permissions` and `allow` are the cgroup's, for which the defaults are allowed; rules for
/// the others are linux.resources.devices.
#[derive(Clone, Debug, Serialize)]
struct Device {
    /// The letter of mknod(1) as a number.
    #[serde(rename = "type")]
    kind: u8,
    major: u32,
    minor: u32,
    permissions: &'static str,
    allow: bool,
    path: PathBuf,
    file_mode: u32,
    #[serde(skip_serializing_if = "is_root")]
    uid: u32,
    #[serde(skip_serializing_if = "is_root")]
    gid: u32,
}

// serde hands a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_root(id: &u32) -> bool {
    *id == 0
}

fn devices(spec: &Spec) -> Result<Vec<Device>, Error> {
    let linux = spec.linux().as_ref();
    let configured = linux.map(|linux| list(linux.devices())).unwrap_or_default();
    // runc: in a user namespace all are its root's.
    let user = linux.filter(|_| namespace(spec, LinuxNamespaceType::User).is_some());
    let uid = user.and_then(|linux| root(list(linux.uid_mappings())));
    let gid = user.and_then(|linux| root(list(linux.gid_mappings())));
    let device = |device: plan::Device| {
        let named = configured.iter().any(|other| *other.path() == device.path);
        Device {
            kind: match device.mode & libc::S_IFMT {
                libc::S_IFBLK => b'b',
                libc::S_IFIFO => b'p',
                _ => b'c',
            },
            major: libc::major(device.number),
            minor: libc::minor(device.number),
            permissions: if named { "" } else { "rwm" },
            allow: !named,
            file_mode: device.mode & !libc::S_IFMT,
            uid: uid.unwrap_or(device.uid),
            gid: gid.unwrap_or(device.gid),
            path: device.path,
        }
    };
    Ok(plan::devices(spec)?.into_iter().map(device).collect())
}

/// runc's object for the five sets; a set that config.json leaves out is null.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct CapabilitySets {
    bounding: Option<Vec<String>>,
    effective: Option<Vec<String>>,
    inheritable: Option<Vec<String>>,
    permitted: Option<Vec<String>>,
    ambient: Option<Vec<String>>,
}

impl CapabilitySets {
    fn new(sets: &LinuxCapabilities) -> Self {
        let names = |set: &Option<Capabilities>| {
            let set = set.as_ref()?;
            Some(list_of(set.iter().map(|capability| format!("CAP_{capability}"))))
        };
        CapabilitySets {
            bounding: names(sets.bounding()),
            effective: names(sets.effective()),
            inheritable: names(sets.inheritable()),
            permitted: names(sets.permitted()),
            ambient: names(sets.ambient()),
        }
    }
}

fn has_own_network(spec: &Spec) -> bool {
    namespace(spec, LinuxNamespaceType::Network).is_some_and(|network| network.path().is_none())
}

/// runc's only entry of `networks`, for a network namespace of the container's own.
fn loopback() -> Value {
    json!([{
        "type": "loopback", "name": "", "bridge": "", "mac_address": "", "address": "", "gateway": "",
        "ipv6_address": "", "ipv6_gateway": "", "mtu": 0, "txqueuelen": 0, "host_interface_name": "",
        "hairpin_mode": false,
    }])
}

/// process.scheduler with the flags in the spec's words, where the parser has others.
fn scheduler(scheduler: &Scheduler) -> Option<Value> {
    let mut object = serde_json::to_value(scheduler).ok()?;
    for flag in object.get_mut("flags").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(name) = flag.as_str().and_then(scheduler_flag) {
            *flag = name.into();
        }
    }
    Some(object)
}

/// process.execCPUAffinity as Go's cpu sets.
fn affinity(process: &Process) -> Result<Option<Value>, Error> {
    let [initial, last] = cpu_affinity(process)?;
    if initial.is_none() && last.is_none() {
        return Ok(None);
    }
    let set = |bits: Option<crate::spec::bits::Bits>| {
        bits.map(|bits| {
            let mut words = bits.words().to_vec();
            words.resize(CPU_SET_WORDS, 0);
            words
        })
    };
    Ok(Some(json!({ "Initial": set(initial), "Final": set(last) })))
}
