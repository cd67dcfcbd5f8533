//! Spec → [`Plan`].

use std::ffi::CStr;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, LinuxTimeOffset, Process, Spec};

use super::devices::device_steps;
use super::mounts::{normal, plan_mount};
use super::options::propagation;
use super::process::{
    has_listener, kept_groups, landlock, late_seccomp, process_steps, program, window_size,
};
use super::{Entry, Facts, IdMaps, Join, MountSource, Namespaces, Plan, Step, SwitchRoot};
use crate::security::keyring::Joiner;
use crate::sorted::list_of;
use crate::spec::{Error, list, namespace, sysctl_path};
use crate::sys::mount::Reach;
use crate::sys::process::CLONE_NEWTIME;

/// What the command line adds to a config.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Container id.
    pub id: &'a str,
    /// Absolute bundle directory: relative paths of the config are in it.
    pub bundle: &'a Path,
    /// How the root is changed.
    pub switch_root: SwitchRoot,
    /// Whether a new session keyring is joined.
    pub new_keyring: bool,
}

/// The plan of `create`.
///
/// # Errors
/// [`Error`] naming the field that can't be planned.
pub fn plan(spec: &Spec, request: &Request<'_>, facts: &Facts) -> Result<Plan, Error> {
    let process =
        spec.process().as_ref().ok_or_else(|| Error::Invalid("process property must not be empty".into()))?;
    let namespaces = namespaces(spec);
    let user_namespace = namespace(spec, LinuxNamespaceType::User).is_some();
    let rootfs = spec.root().as_ref().map(|root| request.bundle.join(root.path())).unwrap_or_default();

    let mut steps = Vec::with_capacity(64);
    if user_namespace {
        steps.push(Step::BecomeRoot(kept_groups(spec)));
    }
    steps.push(Step::Session);
    if request.new_keyring {
        let joiner = if user_namespace { Joiner::InitInUserNamespace } else { Joiner::Init };
        steps.push(keyring(request.id, joiner, process));
    }
    if namespaces.unshare_cgroup {
        steps.push(Step::UnshareCgroup);
    }
    if namespaces.unshare_ipc {
        steps.push(Step::UnshareIpc);
    }
    if namespaces.new & libc::CLONE_NEWNET as u64 != 0 {
        steps.push(Step::LoopbackUp);
    }
    let before_rootfs = steps.len();
    let late_readonly = rootfs_steps(spec, request, facts, &mut steps)?;
    if namespaces.network_apart {
        let rest = steps.iter().skip(before_rootfs).take_while(|step| !needs_network(step)).count();
        steps.insert(before_rootfs + rest, Step::JoinNetwork);
    }
    switch_root_steps(spec, request, process, late_readonly, &mut steps)?;
    isolation_steps(spec, &mut steps);
    process_steps(spec, process, &mut steps)?;
    steps.push(Step::FindProgram);
    let listener = has_listener(spec);
    if listener {
        // It is the runtime that hands the listener over, so not after `create` has ended (as runc).
        late_seccomp(spec, process, &mut steps);
    }
    steps.push(Step::Gate);
    if let Some(hooks) = spec.hooks() {
        push_hooks(list(hooks.start_container()), Step::StartHooks, &mut steps);
    }
    landlock(spec, process, &mut steps)?;
    if !listener {
        late_seccomp(spec, process, &mut steps);
    }
    Ok(Plan {
        namespaces,
        id_maps: id_maps(spec),
        rootfs,
        steps,
        program: program(process)?,
        listener,
        outside: super::outside::of_create(spec, process, user_namespace),
    })
}

/// The plan of `exec`: what is left when namespaces, root and cgroup are the container's.
///
/// # Errors
/// [`Error`] naming the field that can't be planned.
pub fn exec_plan(spec: &Spec, process: &Process, id: &str, new_keyring: bool) -> Result<Plan, Error> {
    let user_namespace = namespace(spec, LinuxNamespaceType::User).is_some();
    let mut steps = Vec::with_capacity(16);
    if user_namespace {
        steps.push(Step::BecomeRoot(kept_groups(spec)));
    }
    steps.push(Step::Session);
    if new_keyring {
        steps.push(keyring(id, Joiner::Exec, process));
    }
    if process.terminal() == Some(true) {
        steps.push(Step::Console { size: window_size(process), bind: false });
    }
    process_steps(spec, process, &mut steps)?;
    steps.push(Step::FindProgram);
    landlock(spec, process, &mut steps)?;
    late_seccomp(spec, process, &mut steps);
    Ok(Plan {
        namespaces: Namespaces::default(),
        id_maps: None,
        rootfs: PathBuf::new(),
        steps,
        program: program(process)?,
        listener: has_listener(spec),
        outside: super::outside::of_exec(spec, process, user_namespace)?,
    })
}

fn keyring(id: &str, joiner: Joiner, process: &Process) -> Step {
    let label = process.selinux_label().clone().filter(|label| !label.is_empty());
    Step::Keyring { id: id.to_owned(), joiner, label }
}

fn namespaces(spec: &Spec) -> Namespaces {
    let mut all = Namespaces::default();
    for ns in spec.linux().iter().flat_map(|linux| list(linux.namespaces())) {
        match ns.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => all.join.push(Join { kind: ns.typ(), path: path.clone() }),
            // Its root is the cgroup that its maker is in: made once init sits in the container's.
            None if ns.typ() == LinuxNamespaceType::Cgroup => all.unshare_cgroup = true,
            // The enum's discriminants are the CLONE_NEW* flags.
            None => all.new |= ns.typ() as u64,
        }
    }
    let (user, ipc) = (libc::CLONE_NEWUSER as u64, libc::CLONE_NEWIPC as u64);
    all.unshare_ipc = all.new & user != 0 && all.new & ipc != 0;
    if all.unshare_ipc {
        all.new &= !ipc;
    }
    all.time_offsets = time_offsets(spec);
    if !all.time_offsets.is_empty() {
        all.new &= !CLONE_NEWTIME;
    }
    // A user namespace is to own it, which is init's; and devices are moved there before init may act.
    let network = libc::CLONE_NEWNET as u64;
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    all.network_apart = all.new & network != 0
        && all.new & user == 0
        && all.entry() == Entry::Direct
        && devices.is_none_or(|devices| devices.is_empty());
    if all.network_apart {
        all.new &= !network;
    }
    all
}

/// Whether a step of the rootfs may depend on the network namespace: sysfs shows its devices, a file system of a server
/// speaks in it, hooks set it up. The ones listed here do not.
fn needs_network(step: &Step) -> bool {
    const LOCAL: [&CStr; 4] = [c"proc", c"tmpfs", c"devpts", c"mqueue"];
    match step {
        Step::Mount(mount) => match &mount.source {
            MountSource::Filesystem { kind, .. } => !LOCAL.contains(&kind.as_c_str()),
            MountSource::Bind { .. } | MountSource::RemountBind => false,
            _ => true,
        },
        Step::RuntimeHooks | Step::ContainerHooks(_) => true,
        _ => false,
    }
}

/// A line for each clock: name, seconds, nanoseconds.
fn time_offsets(spec: &Spec) -> String {
    let offsets = spec.linux().iter().flat_map(|linux| linux.time_offsets().iter().flatten());
    let line = |(clock, by): (&String, &LinuxTimeOffset)| {
        format!("{clock} {} {}\n", by.secs().unwrap_or(0), by.nanosecs().unwrap_or(0))
    };
    list_of(offsets.map(line)).concat()
}

fn id_maps(spec: &Spec) -> Option<IdMaps> {
    let linux = spec.linux().as_ref()?;
    let ns = namespace(spec, LinuxNamespaceType::User)?;
    if ns.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty()) {
        return None;
    }
    Some(IdMaps { uids: list(linux.uid_mappings()).to_vec(), gids: list(linux.gid_mappings()).to_vec() })
}

/// Mounts and /dev, up to the hooks that see the finished rootfs. Returns what becomes read-only later.
fn rootfs_steps(
    spec: &Spec,
    request: &Request<'_>,
    facts: &Facts,
    steps: &mut Vec<Step>,
) -> Result<Vec<PathBuf>, Error> {
    let own_mounts = namespace(spec, LinuxNamespaceType::Mount).is_some();
    match root_propagation(spec)? {
        _ if !own_mounts => {}
        Some((flag, reach)) if flag != libc::MS_SLAVE => steps.push(Step::HostPropagation(flag, reach)),
        _ => steps.push(Step::SlaveMounts),
    }
    steps.push(Step::OpenRoot);
    if !own_mounts {
        // The host's mounts keep their propagation, so what is mounted in here must not reach them.
        steps.push(Step::RootPropagation(libc::MS_PRIVATE, Reach::Tree));
    }
    let mut late_readonly = Vec::new();
    let mut dev_is_bound = false;
    for mount in list(spec.mounts()) {
        let mut planned = plan_mount(spec, mount, request.bundle, facts)?;
        let is_dev = normal(&planned.destination) == Path::new("dev");
        let is_bind = matches!(planned.source, MountSource::Bind { .. } | MountSource::RemountBind);
        dev_is_bound |= is_dev && is_bind;
        let is_tmpfs =
            matches!(&planned.source, MountSource::Filesystem { kind, .. } if kind.as_c_str() == c"tmpfs");
        // /dev gets its nodes and a tmpfs its mount points before they may turn read-only.
        if !is_bind && (is_dev || is_tmpfs) && planned.options.readonly() {
            planned.options = planned.options.writable();
            late_readonly.push(planned.destination.clone());
        }
        steps.push(Step::Mount(planned));
    }
    if !dev_is_bound {
        device_steps(spec, steps)?;
    }
    if let Some(hooks) = spec.hooks() {
        // The spec deprecates prestart; Docker still uses it.
        #[allow(deprecated)]
        if !list(hooks.prestart()).is_empty() || !list(hooks.create_runtime()).is_empty() {
            steps.push(Step::RuntimeHooks);
        }
        push_hooks(list(hooks.create_container()), Step::ContainerHooks, steps);
    }
    Ok(late_readonly)
}

fn push_hooks(
    hooks: &[oci_spec::runtime::Hook],
    step: fn(Vec<oci_spec::runtime::Hook>) -> Step,
    steps: &mut Vec<Step>,
) {
    if !hooks.is_empty() {
        steps.push(step(hooks.to_vec()));
    }
}

fn switch_root_steps(
    spec: &Spec,
    request: &Request<'_>,
    process: &Process,
    late_readonly: Vec<PathBuf>,
    steps: &mut Vec<Step>,
) -> Result<(), Error> {
    let propagation = root_propagation(spec)?;
    let switch = match (request.switch_root, propagation) {
        _ if namespace(spec, LinuxNamespaceType::Mount).is_none() => SwitchRoot::Chroot,
        (SwitchRoot::Move, Some((libc::MS_PRIVATE, _))) => {
            // runc's words: host mounts that are unmounted meanwhile would stay, hidden.
            return Err(Error::Invalid(
                "rootfsPropagation of [r]private is not safe without pivot_root".into(),
            ));
        }
        (SwitchRoot::Pivot, Some((libc::MS_SHARED, _))) => SwitchRoot::PivotShared,
        (other, _) => other,
    };
    steps.push(Step::SwitchRoot(switch));
    steps.extend(propagation.map(|(flag, reach)| Step::RootPropagation(flag, reach)));
    if process.terminal() == Some(true) {
        steps.push(Step::Console { size: window_size(process), bind: true });
    }
    steps.extend(late_readonly.into_iter().map(Step::Readonly));
    if spec.root().as_ref().and_then(|root| root.readonly()) == Some(true) {
        steps.push(Step::Readonly(PathBuf::from("/")));
    }
    Ok(())
}

/// linux.rootfsPropagation.
fn root_propagation(spec: &Spec) -> Result<Option<(u64, Reach)>, Error> {
    let word = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    let Some(word) = word.filter(|word| !word.is_empty()) else { return Ok(None) };
    // runc's words.
    let flag = propagation(word)
        .ok_or_else(|| Error::Invalid(format!("rootfsPropagation={word} is not supported")))?;
    Ok(Some((flag, if word.starts_with('r') { Reach::Tree } else { Reach::One })))
}

/// Names, sysctls and hidden paths: what makes the namespaces the container's own.
fn isolation_steps(spec: &Spec, steps: &mut Vec<Step>) {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    steps.extend(set(spec.hostname()).map(Step::Hostname));
    steps.extend(set(spec.domainname()).map(Step::Domainname));
    let Some(linux) = spec.linux() else { return };
    for (key, value) in list_of(linux.sysctl().iter().flatten()) {
        steps.push(Step::Sysctl(PathBuf::from(sysctl_path(key)), value.clone()));
    }
    steps.extend(list(linux.readonly_paths()).iter().map(|path| Step::ReadonlyPath(path.into())));
    steps.extend(list(linux.masked_paths()).iter().map(|path| Step::MaskPath(path.into())));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request<'static> {
        Request { id: "c1", bundle: Path::new("/b"), switch_root: SwitchRoot::Pivot, new_keyring: true }
    }

    fn spec(change: impl FnOnce(&mut serde_json::Value)) -> Spec {
        let mut value = serde_json::json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs", "readonly": true},
            "process": {"cwd": "/", "args": ["sh"], "env": ["A=1", "B=2", "A=3"], "noNewPrivileges": true,
                        "user": {"uid": 0, "gid": 0}},
            "hostname": "h",
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                       {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "mode=755"]},
                       {"destination": "/data", "source": "vol", "options": ["rbind", "ro"]}],
            "linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "pid"}, {"type": "cgroup"}],
                      "maskedPaths": ["/proc/keys"],
                      "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn index(plan: &Plan, wanted: impl Fn(&Step) -> bool) -> usize {
        plan.steps.iter().position(wanted).unwrap()
    }

    #[test]
    fn order_of_the_important_steps() {
        let plan = plan(&spec(|_| {}), &request(), &Facts::default()).unwrap();
        let pivot = index(&plan, |s| matches!(s, Step::SwitchRoot(_)));
        let dev_readonly = index(&plan, |s| matches!(s, Step::Readonly(p) if p == Path::new("/dev")));
        let root_readonly = index(&plan, |s| matches!(s, Step::Readonly(p) if p == Path::new("/")));
        let mask = index(&plan, |s| matches!(s, Step::MaskPath(_)));
        let identity = index(&plan, |s| matches!(s, Step::Identity(_)));
        let gate = index(&plan, |s| matches!(s, Step::Gate));
        let seccomp = index(&plan, |s| matches!(s, Step::Seccomp));
        assert!(pivot < dev_readonly && dev_readonly < root_readonly && root_readonly < mask);
        assert!(mask < identity && identity < gate && gate < seccomp, "seccomp comes last");
        assert_eq!(plan.rootfs, Path::new("/b/rootfs"));
        assert!(plan.namespaces.unshare_cgroup);
        assert_eq!(plan.namespaces.new & libc::CLONE_NEWCGROUP as u64, 0);
    }

    #[test]
    fn a_listener_comes_before_the_gate_and_landlock_before_a_filter() {
        let spec = |annotations: &str, action: &str| -> Spec {
            let text = format!(
                r#"{{"ociVersion": "1.0.2", "root": {{"path": "rootfs"}}, "annotations": {annotations},
                    "process": {{"cwd": "/", "args": ["a"], "noNewPrivileges": true, "user": {{"uid": 0, "gid": 0}}}},
                    "linux": {{"seccomp": {{"defaultAction": "{action}", "listenerPath": "/s"}}}}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let planned = |spec: &Spec| super::plan(spec, &request(), &Facts::default()).unwrap();
        let with = planned(&spec("{}", "SCMP_ACT_NOTIFY"));
        let gate = |plan: &Plan| index(plan, |s| matches!(s, Step::Gate));
        let seccomp = |plan: &Plan| index(plan, |s| matches!(s, Step::Seccomp));
        assert!(with.listener && seccomp(&with) < gate(&with));
        let landlock = r#"{"io.github.davit.landlock": "{}"}"#;
        let without = planned(&spec(landlock, "SCMP_ACT_ALLOW"));
        let restricted = index(&without, |s| matches!(s, Step::Landlock(_)));
        assert!(!without.listener && gate(&without) < restricted && restricted < seccomp(&without));
    }

    #[test]
    fn seccomp_is_loaded_early_without_no_new_privileges() {
        let spec = spec(|c| c["process"]["noNewPrivileges"] = false.into());
        let plan = plan(&spec, &request(), &Facts::default()).unwrap();
        let seccomp = index(&plan, |s| matches!(s, Step::Seccomp));
        assert!(seccomp < index(&plan, |s| matches!(s, Step::Identity(_))));
        let files = index(&plan, |s| matches!(s, Step::UserFiles { .. }));
        assert!(files < seccomp, "what opens files must not be under the filter");
    }

    #[test]
    fn the_last_of_duplicate_variables_wins() {
        let plan = plan(&spec(|_| {}), &request(), &Facts::default()).unwrap();
        assert_eq!(plan.program.env, [c"B=2".to_owned(), c"A=3".to_owned()]);
        assert!(plan.program.set_home);
    }

    #[test]
    fn entry_is_direct_unless_the_kernel_forces_a_stage() {
        let entry = |namespaces: serde_json::Value| {
            let spec = spec(|c| {
                c["linux"]["namespaces"] = namespaces;
                c["hostname"] = "".into();
            });
            plan(&spec, &request(), &Facts::default()).unwrap().namespaces.entry()
        };
        use super::super::Entry;
        assert_eq!(
            entry(serde_json::json!([{"type": "mount"}, {"type": "network", "path": "/n"}])),
            Entry::Direct
        );
        assert_eq!(
            entry(serde_json::json!([{"type": "mount"}, {"type": "pid", "path": "/n"}])),
            Entry::Staged
        );
        assert_eq!(entry(serde_json::json!([{"type": "mount"}, {"type": "user"}])), Entry::Direct);
        let both =
            serde_json::json!([{"type": "mount"}, {"type": "user"}, {"type": "network", "path": "/n"}]);
        assert_eq!(entry(both), Entry::Staged);
    }

    #[test]
    fn a_network_namespace_is_made_apart_and_joined_before_it_is_needed() {
        let network = libc::CLONE_NEWNET as u64;
        let with = |change: &dyn Fn(&mut serde_json::Value)| {
            let spec = spec(|value| {
                let namespaces = value["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.push(serde_json::json!({"type": "network"}));
                change(value);
            });
            plan(&spec, &request(), &Facts::default()).unwrap()
        };
        let mount = |value: &mut serde_json::Value, kind: &str| {
            let mounts = value["mounts"].as_array_mut().unwrap();
            mounts.push(serde_json::json!({"destination": "/at", "type": kind, "source": "s"}));
        };
        let join = |plan: &Plan| index(plan, |s| matches!(s, Step::JoinNetwork));

        for kind in ["sysfs", "nfs", "cgroup"] {
            let plan = with(&|value| mount(value, kind));
            assert!(plan.namespaces.network_apart && plan.namespaces.new & network == 0);
            let last = index(&plan, |s| matches!(s, Step::Mount(m) if m.destination == Path::new("/at")));
            assert_eq!(join(&plan) + 1, last, "{kind}");
        }
        let plan = with(&|value| value["hooks"] = serde_json::json!({"createRuntime": [{"path": "/h"}]}));
        assert_eq!(join(&plan) + 1, index(&plan, |s| matches!(s, Step::RuntimeHooks)));
        let plan = with(&|_| {});
        assert_eq!(join(&plan) + 1, index(&plan, |s| matches!(s, Step::SwitchRoot(_))));

        // Another is to own it, or to be in it before init acts.
        for change in [
            &(|v: &mut serde_json::Value| {
                let namespaces = v["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.push(serde_json::json!({"type": "user"}));
            }) as &dyn Fn(&mut serde_json::Value),
            &|v| v["linux"]["netDevices"] = serde_json::json!({"eth7": {}}),
        ] {
            let plan = with(change);
            assert!(!plan.namespaces.network_apart && plan.namespaces.new & network != 0);
            assert!(plan.steps.iter().all(|step| !matches!(step, Step::JoinNetwork)));
            index(&plan, |s| matches!(s, Step::LoopbackUp));
        }
    }

    #[test]
    fn time_offsets_need_the_stage() {
        use super::super::Entry;
        let of = |offsets: serde_json::Value| {
            let spec = spec(|c| {
                c["linux"]["namespaces"] =
                    serde_json::json!([{"type": "mount"}, {"type": "uts"}, {"type": "time"}]);
                c["linux"]["timeOffsets"] = offsets;
            });
            plan(&spec, &request(), &Facts::default()).unwrap().namespaces
        };
        let without = of(serde_json::json!({}));
        assert_eq!((without.entry(), without.new & CLONE_NEWTIME), (Entry::Direct, CLONE_NEWTIME));
        let with = of(serde_json::json!({"monotonic": {"secs": -7}, "boottime": {"nanosecs": 5}}));
        assert_eq!((with.entry(), with.new & CLONE_NEWTIME), (Entry::Staged, 0));
        assert_eq!(with.time_offsets, "boottime 0 5\nmonotonic -7 0\n");
    }

    #[test]
    fn bad_mounts_name_the_field() {
        let broken = |mount: serde_json::Value| {
            let spec = spec(|c| c["mounts"] = serde_json::json!([mount]));
            plan(&spec, &request(), &Facts::default()).unwrap_err().to_string()
        };
        assert!(broken(serde_json::json!({"destination": "/", "type": "proc"})).contains("mounted over /"));
        assert!(broken(serde_json::json!({"destination": "/x"})).contains("type is required"));
        let data = serde_json::json!({"destination": "/x", "source": "/y", "options": ["bind", "size=1"]});
        assert!(broken(data).contains("cannot have any filesystem-specific options applied: size"));
    }
}
