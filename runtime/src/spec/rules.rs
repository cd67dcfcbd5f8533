//! Validation: a list of small rules, each with the part of the runtime-spec that it enforces.
//!
//! Wording follows runc's validator, since people search for it.

use oci_spec::runtime::{Hook, LinuxNamespaceType, Process, Spec};

use super::{Error, list, namespace};

type Rule = fn(&Spec) -> Result<(), Error>;

/// Every rule, in the order in which it is checked.
const RULES: &[Rule] = &[
    version,
    root,
    process,
    super::text::without_nul,
    namespaces,
    hostname,
    super::linux::time_offsets,
    super::linux::net_devices,
    super::id_maps::rule,
    super::linux::sysctls,
    super::linux::intel_rdt,
    memory_policy,
    super::text::devices,
    super::text::seccomp,
    security_paths,
    hooks,
    host_mounts,
    not_supported_yet,
];

/// Checks a config against every rule.
///
/// # Errors
/// The first broken rule: [`Error::Invalid`] or [`Error::Unsupported`].
pub fn validate(spec: &Spec) -> Result<(), Error> {
    RULES.iter().try_for_each(|rule| rule(spec))
}

pub(super) fn invalid<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::Invalid(text.into()))
}

/// config.md "Specification version": SemVer; davit knows major version 1.
fn version(spec: &Spec) -> Result<(), Error> {
    let version = spec.version();
    match version.split('.').next() {
        Some("1") => Ok(()),
        Some("") | None => invalid("ociVersion is required"),
        _ => invalid(format!("ociVersion {version:?}: only 1.x is supported")),
    }
}

/// config.md "Root": required on Linux.
fn root(spec: &Spec) -> Result<(), Error> {
    match spec.root() {
        Some(root) if !root.path().as_os_str().is_empty() => Ok(()),
        _ => invalid("root.path must not be empty"),
    }
}

/// config.md "Process": args and an absolute cwd.
fn process(spec: &Spec) -> Result<(), Error> {
    let Some(process) = spec.process() else { return invalid("process property must not be empty") };
    check_process(process)
}

/// The rules of a process object, also that of `exec --process`.
///
/// # Errors
/// [`Error::Invalid`] in runc's words.
pub fn check_process(process: &Process) -> Result<(), Error> {
    if process.cwd().as_os_str().is_empty() {
        return invalid("Cwd property must not be empty");
    }
    if !process.cwd().is_absolute() {
        return invalid("Cwd must be an absolute path");
    }
    if list(process.args()).is_empty() {
        return invalid("args must not be empty");
    }
    user(process)?;
    environment(process)?;
    rlimits(process)?;
    oom_score(process)?;
    super::scheduling::check(process)
}

/// setresuid(2) takes 2^32-1 as "unchanged", which would leave the process root (CVE-2024-40635's class).
fn user(process: &Process) -> Result<(), Error> {
    let user = process.user();
    for (field, id) in [("uid", user.uid()), ("gid", user.gid())] {
        if id == u32::MAX {
            return invalid(format!("process.user.{field} {id} is out of range"));
        }
    }
    if list(user.additional_gids()).contains(&u32::MAX) {
        return invalid("process.user.additionalGids: 4294967295 is out of range");
    }
    Ok(())
}

/// config.md "Process": env has the form of environ(7).
fn environment(process: &Process) -> Result<(), Error> {
    for entry in list(process.env()) {
        if entry.contains('\0') {
            return invalid(format!("invalid environment variable {entry:?}: contains nul byte (\\x00)"));
        }
        if entry.find('=').is_none_or(|at| at == 0) {
            return invalid(format!("invalid environment variable {entry:?}: must be NAME=VALUE"));
        }
    }
    Ok(())
}

/// config.md "POSIX process": each limit once, soft at most hard.
fn rlimits(process: &Process) -> Result<(), Error> {
    let limits = list(process.rlimits());
    for (at, limit) in limits.iter().enumerate() {
        if limits.iter().take(at).any(|other| other.typ() == limit.typ()) {
            return invalid(format!("process.rlimits: {} is given twice", limit.typ()));
        }
        if limit.soft() > limit.hard() {
            return invalid(format!("process.rlimits: {}: soft limit exceeds hard limit", limit.typ()));
        }
    }
    Ok(())
}

/// config.md "Linux Process": the range of proc_pid_oom_score_adj(5).
fn oom_score(process: &Process) -> Result<(), Error> {
    match process.oom_score_adj() {
        Some(value) if !(-1000..=1000).contains(&value) => {
            invalid(format!("process.oomScoreAdj {value} is out of range: it must be from -1000 to 1000"))
        }
        _ => Ok(()),
    }
}

/// config-linux.md "Namespaces": no duplicates, absolute paths; davit needs a mount namespace for now.
fn namespaces(spec: &Spec) -> Result<(), Error> {
    let all = spec.linux().as_ref().map(|l| list(l.namespaces())).unwrap_or_default();
    for (at, ns) in all.iter().enumerate() {
        if all.iter().take(at).any(|other| other.typ() == ns.typ()) {
            return invalid(format!("malformed spec file: duplicated namespace {}", ns.typ()));
        }
        let path = ns.path().as_ref().filter(|p| !p.as_os_str().is_empty());
        if path.is_some_and(|p| !p.is_absolute()) {
            return invalid(format!("path of namespace {} must be absolute", ns.typ()));
        }
    }
    Ok(())
}

/// config.md "Hostname": needs a UTS namespace of its own.
fn hostname(spec: &Spec) -> Result<(), Error> {
    if namespace(spec, LinuxNamespaceType::Uts).is_some() {
        return Ok(());
    }
    if spec.hostname().as_ref().is_some_and(|name| !name.is_empty()) {
        return invalid("unable to set hostname without a private UTS namespace");
    }
    if spec.domainname().as_ref().is_some_and(|name| !name.is_empty()) {
        return invalid("unable to set domainname without a private UTS namespace");
    }
    Ok(())
}

/// config-linux.md "Memory policy".
fn memory_policy(spec: &Spec) -> Result<(), Error> {
    let policy = spec.linux().as_ref().and_then(|linux| linux.memory_policy().as_ref());
    policy.map_or(Ok(()), |policy| super::scheduling::memory_nodes(policy).map(drop))
}

/// config-linux.md "Masked Paths", "Readonly Paths": absolute, and only in a mount namespace of its own.
fn security_paths(spec: &Spec) -> Result<(), Error> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for (field, paths) in [("maskedPaths", linux.masked_paths()), ("readonlyPaths", linux.readonly_paths())] {
        if let Some(path) = list(paths).iter().find(|p| !p.starts_with('/')) {
            return invalid(format!("linux.{field}: {path:?} must be an absolute path"));
        }
    }
    Ok(())
}

/// config.md "POSIX-platform Hooks": an absolute path, a positive timeout.
fn hooks(spec: &Spec) -> Result<(), Error> {
    each_hook(spec, |kind, hook| {
        let path = hook.path();
        if !path.is_absolute() {
            return invalid(format!("hooks.{kind}: path {path:?} must be absolute"));
        }
        if hook.timeout().is_some_and(|t| t <= 0) {
            return invalid(format!("hooks.{kind}: timeout of {} must be positive", path.display()));
        }
        Ok(())
    })
}

/// Looks at each hook with the name of its kind.
pub(super) fn each_hook(
    spec: &Spec,
    mut look: impl FnMut(&str, &Hook) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    // The spec deprecates prestart; Docker still uses it.
    #[allow(deprecated)]
    let kinds = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    kinds.into_iter().try_for_each(|(kind, hooks)| list(hooks).iter().try_for_each(|hook| look(kind, hook)))
}

/// Fields that later work brings. Never ignored in silence.
fn not_supported_yet(spec: &Spec) -> Result<(), Error> {
    let unsupported = |field| Err(Error::Unsupported(field));
    if spec.linux().is_none() {
        return unsupported("a config without linux");
    }
    Ok(())
}

/// A container without a mount namespace makes its mounts in the caller's.
fn host_mounts(spec: &Spec) -> Result<(), Error> {
    let Some(linux) = spec.linux().as_ref().filter(|_| namespace(spec, LinuxNamespaceType::Mount).is_none())
    else {
        return Ok(());
    };
    if !list(linux.masked_paths()).is_empty() || !list(linux.readonly_paths()).is_empty() {
        // runc's words.
        return invalid("unable to restrict sys entries without a private MNT namespace");
    }
    if linux.rootfs_propagation().as_ref().is_some_and(|word| !word.is_empty()) {
        return invalid("linux.rootfsPropagation without a mount namespace would change the host's mounts");
    }
    if namespace(spec, LinuxNamespaceType::User).is_some() {
        return invalid("a user namespace without a mount namespace: it has no rights to the host's mounts");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: impl FnOnce(&mut serde_json::Value)) -> Spec {
        let mut value = serde_json::json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["sh"], "env": ["A=b"], "user": {"uid": 0, "gid": 0}},
            "hostname": "h",
            "linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "pid"}]}
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_good_config_passes() {
        validate(&spec(|_| {})).unwrap();
    }

    #[test]
    fn each_broken_rule_is_named() {
        let j = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let cases: Vec<(&str, serde_json::Value, &str)> = vec![
            ("/ociVersion", j("\"2.0.0\""), "only 1.x"),
            ("/root/path", j("\"\""), "root.path"),
            ("/process/cwd", j("\"x\""), "Cwd must be an absolute path"),
            ("/process/args", j("[]"), "args must not be empty"),
            ("/process/env", j("[\"NOPE\"]"), "must be NAME=VALUE"),
            ("/process/user/uid", j("4294967295"), "out of range"),
            (
                "/linux/namespaces",
                j("[{\"type\":\"mount\"},{\"type\":\"uts\"},{\"type\":\"uts\"}]"),
                "duplicated",
            ),
            ("/linux/namespaces", j("[{\"type\":\"mount\"}]"), "without a private UTS"),
            (
                "/linux/namespaces",
                j("[{\"type\":\"mount\"},{\"type\":\"uts\"},{\"type\":\"user\"}]"),
                "no uid mappings",
            ),
            ("/linux/namespaces", j("[{\"type\":\"mount\"},{\"type\":\"uts\",\"path\":\"x\"}]"), "absolute"),
            (
                "/linux/namespaces",
                j("[{\"type\":\"uts\"},{\"type\":\"user\",\"path\":\"/n\"}]"),
                "a user namespace without a mount namespace",
            ),
        ];
        for (pointer, value, words) in cases {
            let broken = spec(|config| *config.pointer_mut(pointer).unwrap() = value);
            let text = validate(&broken).unwrap_err().to_string();
            assert!(text.contains(words), "{pointer}: {text:?} lacks {words:?}");
        }
    }

    #[test]
    fn sysctls_need_their_namespace() {
        let with = |key: &str| {
            let config = spec(|c| c["linux"]["sysctl"] = serde_json::json!({key: "1"}));
            validate(&config).map_err(|e| e.to_string())
        };
        assert!(with("net.ipv4.ip_forward").unwrap_err().contains("private network namespace"));
        assert!(with("kernel.shmmax").unwrap_err().contains("private IPC namespace"));
        assert!(with("vm.swappiness").unwrap_err().contains("not in a separate kernel namespace"));
        assert!(with("net..x").unwrap_err().contains("not a valid name"));
        assert!(with("net/../kernel/panic").unwrap_err().contains("not a valid name"));
        assert!(with("kernel/hostname").unwrap_err().contains("conflicts with the OCI"));
        with("kernel.domainname").unwrap();
    }
}
