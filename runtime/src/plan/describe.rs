//! A plan in words: each step with what it acts on and the kernel calls that do it, for `davit explain`.
//!
//! The matches are exhaustive, so that a new step can't be forgotten. Calls are those of a recent kernel, the
//! steps' own: opening a path in the rootfs (openat2) and closing descriptors are left out.

use std::path::Path;

use serde::Serialize;

use super::{
    Device, Entry, Identity, KeptGroups, Mount, MountSource, Options, Outside, Plan, Step, SwitchRoot,
};
use crate::security::capabilities;
use crate::sys::mount::Reach;

/// Who takes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The runtime, from outside.
    Runtime,
    /// The container's first process, or the one of exec.
    Init,
}

/// One step in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Who takes it.
    pub by: By,
    /// What is done.
    pub step: &'static str,
    /// What it is done to; empty where the step says all.
    pub object: String,
    /// The kernel calls.
    pub calls: Vec<&'static str>,
}

impl Description {
    /// A step of the runtime's.
    #[must_use]
    pub fn by_runtime(step: &'static str, object: impl Into<String>, calls: &[&'static str]) -> Self {
        Description { by: By::Runtime, step, object: object.into(), calls: calls.to_vec() }
    }

    fn by_init(step: &'static str, object: impl Into<String>, calls: &[&'static str]) -> Self {
        Description { by: By::Init, step, object: object.into(), calls: calls.to_vec() }
    }
}

impl Plan {
    /// How the process comes into being: the runtime's part before init's steps.
    #[must_use]
    pub fn describe_entry(&self) -> Vec<Description> {
        let mut all = Vec::new();
        let joined = self.namespaces.join.iter().map(|join| {
            let kind = namespace_names(join.kind as u64);
            format!("{kind} {}", join.path.display())
        });
        let by = match self.namespaces.entry() {
            Entry::Direct => By::Init,
            // A process between the runtime and init.
            Entry::Staged => By::Runtime,
        };
        let joins =
            joined.map(|object| Description { by, step: "join namespace", object, calls: vec!["setns"] });
        if !self.namespaces.time_offsets.is_empty() {
            let object = self.namespaces.time_offsets.trim_end().replace('\n', ", ");
            all.push(Description::by_runtime("make time namespace", object, &["unshare", "write"]));
        }
        let new = match namespace_names(self.namespaces.new) {
            names if names.is_empty() => "in no new namespace".to_owned(),
            names => format!("in new {names}"),
        };
        let made = Description::by_runtime("make the process", new, &["clone3"]);
        match by {
            By::Init => {
                all.push(made);
                all.extend(joins);
            }
            By::Runtime => {
                all.extend(joins);
                all.push(made);
            }
        }
        if let Some(maps) = &self.id_maps {
            let text = |maps: &[oci_spec::runtime::LinuxIdMapping]| {
                let lines = maps.iter().map(|m| format!("{}:{}:{}", m.container_id(), m.host_id(), m.size()));
                lines.collect::<Vec<_>>().join(",")
            };
            let object = format!("uids {} gids {}", text(&maps.uids), text(&maps.gids));
            all.push(Description::by_runtime("map ids", object, &["write"]));
        }
        all.extend(describe_outside(&self.outside));
        all
    }

    /// Init's steps, and the end: the user's program.
    #[must_use]
    pub fn describe_steps(&self) -> Vec<Description> {
        let mut all: Vec<_> = self.steps.iter().map(describe).collect();
        let args = self.program.args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>();
        all.push(Description::by_init("execute", args.join(" "), &["close_range", "execve"]));
        all
    }
}

fn describe_outside(outside: &Outside) -> Vec<Description> {
    let Outside { oom_score_adj, raise_limits, affinity, net_devices } = outside;
    let cpus = match (&affinity.initial, &affinity.last) {
        (_, Some(_)) => "those of process.execCPUAffinity.final",
        (Some(_), None) => "those of process.execCPUAffinity.initial",
        (None, None) => "all of the cgroup's",
    };
    let mut all = vec![Description::by_runtime("set CPUs", cpus, &["sched_setaffinity"])];
    for (name, inside) in net_devices {
        let object = format!("{name} as {inside}");
        all.push(Description::by_runtime("move network device", object, &["sendto", "recvfrom", "setns"]));
    }
    if !raise_limits.is_empty() {
        all.push(Description::by_runtime("raise limits", limits(raise_limits), &["prlimit64"]));
    }
    if let Some(value) = oom_score_adj {
        all.push(Description::by_runtime("set oom_score_adj", value.to_string(), &["write"]));
    }
    all
}

/// The runtime-spec's words for the CLONE_NEW* flags.
fn namespace_names(flags: u64) -> String {
    const NAMES: [(i32, &str); 8] = [
        (libc::CLONE_NEWUSER, "user"),
        (libc::CLONE_NEWNS, "mount"),
        (libc::CLONE_NEWPID, "pid"),
        (libc::CLONE_NEWNET, "network"),
        (libc::CLONE_NEWIPC, "ipc"),
        (libc::CLONE_NEWUTS, "uts"),
        (libc::CLONE_NEWCGROUP, "cgroup"),
        (libc::CLONE_NEWTIME, "time"),
    ];
    let set = NAMES.iter().filter(|(flag, _)| flags & *flag as u64 != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(",")
}

fn limits(limits: &[(crate::sys::process::Resource, crate::sys::process::RLimit)]) -> String {
    let text = |(number, limit): &(_, crate::sys::process::RLimit)| {
        format!("{}={}:{}", crate::init::limit_name(*number), limit.soft, limit.hard)
    };
    limits.iter().map(text).collect::<Vec<_>>().join(",")
}

fn init(step: &'static str, object: impl Into<String>, calls: &[&'static str]) -> Description {
    Description::by_init(step, object, calls)
}

/// One step of init's.
fn describe(step: &Step) -> Description {
    let path = |path: &Path| path.display().to_string();
    match step {
        Step::BecomeRoot(KeptGroups::None) => {
            init("become root", "of the user namespace", &["setgroups", "setresgid", "setresuid", "prctl"])
        }
        Step::BecomeRoot(KeptGroups::All) => {
            init("become root", "of the user namespace", &["setresgid", "setresuid", "prctl"])
        }
        Step::Session => init("start session", "", &["setsid"]),
        Step::Keyring { id, .. } => init("join session keyring", format!("_ses.{id}"), &["keyctl"]),
        Step::UnshareCgroup => init("make cgroup namespace", "", &["unshare"]),
        Step::LoopbackUp => init("bring up", "lo", &["socket", "ioctl"]),
        Step::JoinNetwork => init("join network namespace", "made by the runtime", &["recvmsg", "setns"]),
        Step::UnshareIpc => init("make ipc namespace", "", &["unshare"]),
        Step::HostPropagation(flag, reach) => init(
            "set propagation",
            format!("{} of the host's /", propagation_word(*flag, *reach)),
            &["mount"],
        ),
        Step::SlaveMounts => init("make mounts slaves", "/ and all below", &["mount"]),
        Step::OpenRoot => init("make the rootfs a mount", "", &["open_tree", "move_mount"]),
        Step::Mount(mount) => describe_mount(mount),
        Step::Device(device) => describe_device(device),
        Step::Symlink { path, target, only_if_target } => {
            let condition = if *only_if_target { ", if that exists" } else { "" };
            init("link", format!("{} to {target}{condition}", path.display()), &["symlinkat"])
        }
        Step::Console { bind, .. } => {
            let calls: &[_] = if *bind {
                &["openat2", "ioctl", "sendmsg", "dup2", "open_tree", "move_mount"]
            } else {
                &["openat2", "ioctl", "sendmsg", "dup2"]
            };
            init("make the terminal", if *bind { "on /dev/console too" } else { "" }, calls)
        }
        Step::RuntimeHooks => {
            init("wait for the runtime's hooks", "prestart, createRuntime", &["sendmsg", "recvmsg"])
        }
        Step::ContainerHooks(hooks) => init("run hooks", hook_names("createContainer", hooks), &["execve"]),
        Step::SwitchRoot(SwitchRoot::Pivot) => {
            init("switch root", "", &["fchdir", "pivot_root", "umount2", "chdir"])
        }
        Step::SwitchRoot(SwitchRoot::PivotShared) => {
            init("switch root", "", &["fchdir", "pivot_root", "mount", "umount2", "chdir"])
        }
        Step::SwitchRoot(SwitchRoot::Move) => {
            init("switch root", "without pivot_root", &["fchdir", "mount", "chroot", "chdir"])
        }
        Step::SwitchRoot(SwitchRoot::Chroot) => {
            init("switch root", "in the host's mount namespace", &["fchdir", "chroot", "chdir"])
        }
        Step::RootPropagation(flag, reach) => {
            init("set propagation", format!("/ {}", propagation_word(*flag, *reach)), &["mount_setattr"])
        }
        Step::Readonly(at) => init("make read-only", path(at), &["mount_setattr"]),
        Step::Hostname(name) => init("set hostname", name, &["sethostname"]),
        Step::Domainname(name) => init("set domainname", name, &["setdomainname"]),
        Step::Sysctl(key, value) => init("write sysctl", format!("{}={value}", key.display()), &["write"]),
        Step::ReadonlyPath(at) => {
            init("make read-only", path(at), &["open_tree", "mount_setattr", "move_mount"])
        }
        Step::MaskPath(at) => init("mask", path(at), &["open_tree", "move_mount"]),
        Step::Rlimits(values) => init("set limits", limits(values), &["prlimit64"]),
        Step::Personality(domain) => init("set personality", format!("{domain:#x}"), &["personality"]),
        Step::MemoryPolicy { name, .. } => init("set memory policy", name, &["set_mempolicy"]),
        Step::Scheduler { name, .. } => init("set scheduler", name, &["sched_setattr"]),
        Step::IoPriority { name, .. } => init("set I/O priority", name, &["ioprio_set"]),
        Step::AppArmor(profile) => init("set AppArmor profile", profile, &["write"]),
        Step::SelinuxLabel(label) => init("set SELinux label", label, &["write"]),
        Step::UserFiles { uid, cwd } => init(
            "prepare stdio, cwd and HOME",
            format!("uid {uid}, {}", path(cwd)),
            &["newfstatat", "openat2"],
        ),
        Step::NoNewPrivileges => init("set no_new_privs", "", &["prctl"]),
        Step::Landlock(rules) => {
            let text = serde_json::to_string(rules).unwrap_or_default();
            init(
                "restrict by Landlock",
                text,
                &["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"],
            )
        }
        Step::Seccomp => init("load seccomp filter", "", &["read", "seccomp"]),
        Step::Identity(identity) => describe_identity(identity),
        Step::FindProgram => init("find the program", "in PATH", &["openat2"]),
        Step::Gate => init("wait for start", "", &["read"]),
        Step::StartHooks(hooks) => init("run hooks", hook_names("startContainer", hooks), &["execve"]),
    }
}

fn hook_names(kind: &str, hooks: &[oci_spec::runtime::Hook]) -> String {
    let names: Vec<_> = hooks.iter().map(|hook| hook.path().display().to_string()).collect();
    format!("{kind}: {}", names.join(" "))
}

fn describe_mount(mount: &Mount) -> Description {
    let to = mount.destination.display();
    let words = option_words(&mount.options);
    let with = |first: &str| {
        let all: Vec<&str> = std::iter::once(first)
            .filter(|w| !w.is_empty())
            .chain(words.iter().map(String::as_str))
            .collect();
        if all.is_empty() { String::new() } else { format!(" ({})", all.join(",")) }
    };
    let options = &mount.options;
    let (object, mut calls) = match &mount.source {
        MountSource::Bind { path, reach } => {
            let word = if *reach == Reach::Tree { "rbind" } else { "bind" };
            let mut calls = vec!["open_tree"];
            if options.bind_attrs().is_some() || mount.idmap.is_some() {
                calls.push("mount_setattr");
            }
            (format!("{} on {to}{}", path.display(), with(word)), calls)
        }
        MountSource::Filesystem { kind, .. } => {
            (format!("{} on {to}{}", kind.to_string_lossy(), with("")), vec!["fsopen", "fsconfig", "fsmount"])
        }
        MountSource::CgroupV1 { views, .. } => {
            let names: Vec<_> = views.iter().map(|view| view.name.as_str()).collect();
            let object = format!("cgroup v1 ({}) on {to}{}", names.join(" "), with(""));
            (object, vec!["fsopen", "fsconfig", "fsmount", "open_tree", "mount_setattr"])
        }
        MountSource::CgroupV2 { host_mount: Some(path), .. } => {
            let object = format!("{} (cgroup2) on {to}{}", path.display(), with("bind"));
            (object, vec!["open_tree", "mount_setattr"])
        }
        MountSource::CgroupV2 { .. } => {
            (format!("cgroup2 on {to}{}", with("")), vec!["fsopen", "fsconfig", "fsmount"])
        }
        MountSource::RemountBind => {
            let object = format!("{to} again{}", with("bind"));
            return Description::by_init("mount", object, &["mount_setattr"]);
        }
        MountSource::RemountFilesystem => {
            let calls = ["fspick", "fsconfig", "mount_setattr"];
            return Description::by_init("mount", format!("{to} again{}", with("")), &calls);
        }
    };
    let set_later = !options.tree_attrs.is_empty() || !options.propagation.is_empty();
    if set_later && !calls.contains(&"mount_setattr") {
        calls.push("mount_setattr");
    }
    calls.push("move_mount");
    Description::by_init("mount", object, &calls)
}

/// The options back in words: attributes, propagation, then what the filesystem takes.
fn option_words(options: &Options) -> Vec<String> {
    let mut words: Vec<_> = options.flag_words();
    words.extend(options.propagation.iter().map(|(flag, reach)| propagation_word(*flag, *reach)));
    let idmap = options.idmap.as_ref().map(|option| match option.reach {
        Reach::One => "idmap",
        Reach::Tree => "ridmap",
    });
    let links = options.links;
    let special = [
        options.copy_up.then_some("tmpcopyup"),
        idmap,
        links.copy.then_some("copy-symlink"),
        links.source_nofollow.then_some("src-nofollow"),
        links.destination_nofollow.then_some("dest-nofollow"),
    ];
    words.extend(special.into_iter().flatten().map(str::to_owned));
    words.extend(options.data.iter().map(|(key, value)| match value {
        Some(value) => format!("{}={}", key.to_string_lossy(), value.to_string_lossy()),
        None => key.to_string_lossy().into_owned(),
    }));
    words
}

fn propagation_word(flag: u64, reach: Reach) -> String {
    let words = ["private", "shared", "slave", "unbindable"];
    let word = words.into_iter().find(|word| super::propagation(word) == Some(flag)).unwrap_or("unknown");
    if reach == Reach::Tree { format!("r{word}") } else { word.to_owned() }
}

fn describe_device(device: &Device) -> Description {
    let kind = match device.mode & libc::S_IFMT {
        libc::S_IFBLK => 'b',
        libc::S_IFIFO => 'p',
        _ => 'c',
    };
    let (major, minor) = (libc::major(device.number), libc::minor(device.number));
    let mode = device.mode & 0o7777;
    let object = format!("{} {kind} {major}:{minor} mode {mode:04o}", device.path.display());
    if device.bind {
        return Description::by_init("bind device", object, &["open_tree", "move_mount"]);
    }
    Description::by_init("make device", object, &["mknodat"])
}

fn describe_identity(identity: &Identity) -> Description {
    let Identity { uid, gid, groups, capabilities, cwd, umask } = identity;
    let groups = match groups {
        None => "kept".to_owned(),
        Some(groups) if groups.is_empty() => "none".to_owned(),
        Some(groups) => groups.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
    };
    let object = format!(
        "uid {uid} gid {gid} groups {groups} umask {umask:04o} cwd {} capabilities {}",
        cwd.display(),
        capability_names(capabilities.bounding | capabilities.permitted)
    );
    let calls = ["prctl", "setgroups", "setresgid", "setresuid", "capset", "chdir", "umask"];
    Description::by_init("become the user", object, &calls)
}

fn capability_names(mask: u64) -> String {
    let all = capabilities::named().into_iter().filter(|cap| mask & cap.bitmask() != 0);
    let names: Vec<_> = all.map(|cap| cap.to_string()).collect();
    if names.is_empty() { "none".into() } else { names.join(",") }
}

#[cfg(test)]
mod tests {
    use super::super::{Facts, Request, plan};
    use super::*;

    fn described(config: serde_json::Value) -> Vec<String> {
        let spec: oci_spec::runtime::Spec = serde_json::from_value(config).unwrap();
        let request =
            Request { id: "c1", bundle: Path::new("/b"), switch_root: SwitchRoot::Pivot, new_keyring: true };
        let plan = plan(&spec, &request, &Facts::default()).unwrap();
        let all = [plan.describe_entry(), plan.describe_steps()].concat();
        all.iter()
            .map(|d| format!("{:?} | {} | {} | {}", d.by, d.step, d.object, d.calls.join(" ")))
            .collect()
    }

    #[test]
    fn options_are_words_again() {
        let words = ["nosuid", "rro", "noatime", "rslave", "tmpcopyup", "size=1k", "sync"];
        let options = Options::parse(&words).unwrap();
        assert_eq!(
            option_words(&options),
            ["nosuid", "noatime", "sync", "rro", "rslave", "tmpcopyup", "size=1k"]
        );
    }

    #[test]
    fn joined_namespaces_and_mapped_ids() {
        let config = serde_json::json!({
            "ociVersion": "1.0.2", "root": {"path": "r"},
            "process": {"cwd": "/", "args": ["sh"], "user": {"uid": 1, "gid": 2}, "oomScoreAdj": 5,
                        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]},
            "mounts": [{"destination": "/d", "source": "/s", "options": ["bind", "ro", "rslave"]}],
            "linux": {"namespaces": [{"type": "mount"}, {"type": "user"}, {"type": "network", "path": "/n"}],
                      "uidMappings": [{"containerID": 0, "hostID": 7, "size": 1}],
                      "gidMappings": [{"containerID": 0, "hostID": 8, "size": 1}]}
        });
        let lines = described(config);
        assert_eq!(
            lines[..6],
            [
                "Runtime | join namespace | network /n | setns",
                "Runtime | make the process | in new user,mount | clone3",
                "Runtime | map ids | uids 0:7:1 gids 0:8:1 | write",
                "Runtime | set CPUs | all of the cgroup's | sched_setaffinity",
                "Runtime | raise limits | RLIMIT_NOFILE=1:2 | prlimit64",
                "Runtime | set oom_score_adj | 5 | write",
            ]
        );
        let bind = "Init | mount | /s on /d (bind,ro,rslave) | open_tree mount_setattr move_mount";
        assert!(lines.iter().any(|line| line == bind), "{lines:#?}");
        let device = "Init | bind device | /dev/null c 1:3 mode 0666 | open_tree move_mount";
        assert!(lines.iter().any(|line| line == device), "{lines:#?}");
    }
}
