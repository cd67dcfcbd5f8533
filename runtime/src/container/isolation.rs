//! Whether restored processes are as isolated as their config says. Images say by themselves which namespaces,
//! capabilities and filters their processes have, and whoever made them may want to be on the host.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, LinuxSeccompAction, Spec};

use super::{Error, Result};
use crate::spec::list;

/// Init is in the namespaces of the config: each is one of its own, or the one of its path.
pub(super) fn namespaces(spec: &Spec, pid: i32) -> Result<()> {
    for namespace in spec.linux().as_ref().map(|linux| list(linux.namespaces())).unwrap_or_default() {
        let Some((_, word)) = super::state::namespace_name(namespace.typ()) else { continue };
        // CRIU makes one in any case.
        if namespace.typ() == LinuxNamespaceType::Time {
            continue;
        }
        let found = identity(Path::new(&format!("/proc/{pid}/ns/{word}")))?;
        let wrong = match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => (identity(path)? != found).then_some("another"),
            None => (identity(&Path::new("/proc/self/ns").join(word))? == found).then_some("the host's"),
        };
        if let Some(whose) = wrong {
            return refused(format!(
                "its images have {whose} {word} namespace, which config.json does not allow"
            ));
        }
    }
    Ok(())
}

/// All of its threads have no more rights than the config gives, and it is in no namespace of the host's that init is
/// not in. It may be in namespaces that it has made itself.
pub(super) fn process(spec: &Spec, init: i32, pid: i32) -> Result<()> {
    let namespace = |pid: i32, word: &str| identity(Path::new(&format!("/proc/{pid}/ns/{word}")));
    for namespace_of in spec.linux().as_ref().map(|linux| list(linux.namespaces())).unwrap_or_default() {
        let Some((_, word)) = super::state::namespace_name(namespace_of.typ()) else { continue };
        let (found, hosts) = (namespace(pid, word)?, identity(&Path::new("/proc/self/ns").join(word))?);
        if found == hosts && found != namespace(init, word)? {
            return refused(format!(
                "its images have a process in the host's {word} namespace, which config.json does not allow"
            ));
        }
    }
    // In a user namespace that it has made, a process has capabilities over nothing of the container's.
    let capabilities = namespace(pid, "user")? == namespace(init, "user")?;
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    for task in std::fs::read_dir(&tasks).map_err(|e| Error::io("read", &tasks, e))? {
        let path = task.map_err(|e| Error::io("read", &tasks, e))?.path().join("status");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        if let Some(what) = excess(spec, &text, capabilities) {
            return refused(format!("its images have {what}, which config.json does not allow"));
        }
    }
    Ok(())
}

/// Whether `pid` is `ancestor` or comes from it.
pub(super) fn descends(mut pid: i32, ancestor: i32) -> bool {
    while pid > 1 && pid != ancestor {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        pid = value(&text, "PPid").parse().unwrap_or(0);
    }
    pid == ancestor
}

/// A field of /proc/PID/status.
fn value<'s>(status: &'s str, name: &str) -> &'s str {
    let field = |line: &'s str| line.strip_prefix(name)?.strip_prefix(':');
    status.lines().find_map(field).unwrap_or_default().trim()
}

/// What a thread's /proc/PID/status shows that is more than the config allows.
fn excess(spec: &Spec, status: &str, capabilities: bool) -> Option<&'static str> {
    let value = |name: &str| value(status, name);
    let process = spec.process().as_ref();
    let bounding = process.and_then(|process| process.capabilities().as_ref()?.bounding().as_ref());
    let bounding = bounding.filter(|_| capabilities);
    if let Some(bounding) = bounding {
        let bit = |name: &oci_spec::runtime::Capability| {
            let name = format!("CAP_{}", name.to_string().to_uppercase().trim_start_matches("CAP_"));
            name.parse::<caps::Capability>().map_or(0, |capability| capability.bitmask())
        };
        let allowed = bounding.iter().fold(0, |all, name| all | bit(name));
        let found = u64::from_str_radix(value("CapBnd"), 16).unwrap_or(u64::MAX);
        if found & !allowed != 0 {
            return Some("capabilities in the bounding set");
        }
    }
    if process.and_then(|process| process.no_new_privileges()) == Some(true) && value("NoNewPrivs") != "1" {
        return Some("no noNewPrivileges");
    }
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let restricts = seccomp.is_some_and(|seccomp| {
        seccomp.default_action() != LinuxSeccompAction::ScmpActAllow || !list(seccomp.syscalls()).is_empty()
    });
    (restricts && value("Seccomp") != "2").then_some("no seccomp filter")
}

fn refused(why: String) -> Result<()> {
    Err(Error::Refused { action: "restored", why })
}

fn identity(path: &Path) -> Result<(u64, u64)> {
    let stat = std::fs::metadata(path).map_err(|e| Error::io("stat", path, e))?;
    Ok((stat.dev(), stat.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_a_config_does_not_allow() {
        let strict = spec(
            r#"{"ociVersion":"1.0.2","process":{"args":["x"],"cwd":"/","user":{"uid":0,"gid":0},"noNewPrivileges":true,
            "capabilities":{"bounding":["CAP_KILL"]}},
            "linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"}}}"#,
        );
        let status = |bounding: &str, privileges: &str, seccomp: &str| {
            format!("Name:\tx\nCapBnd:\t{bounding}\nNoNewPrivs:\t{privileges}\nSeccomp:\t{seccomp}\n")
        };
        assert_eq!(excess(&strict, &status("0000000000000020", "1", "2"), true), None);
        assert_eq!(excess(&strict, &status("0000000000000000", "1", "2"), true), None);
        assert!(
            excess(&strict, &status("0000000000000021", "1", "2"), true).unwrap().contains("capabilities")
        );
        assert!(
            excess(&strict, &status("0000000000000020", "0", "2"), true).unwrap().contains("noNewPrivileges")
        );
        assert!(excess(&strict, &status("0000000000000020", "1", "0"), true).unwrap().contains("seccomp"));
        assert!(excess(&strict, "", true).is_some());
        assert_eq!(excess(&strict, &status("000001ffffffffff", "1", "2"), false), None);
        assert!(excess(&strict, &status("0000000000000020", "1", "0"), false).is_some());
        let open =
            spec(r#"{"ociVersion":"1.0.2","process":{"args":["x"],"cwd":"/","user":{"uid":0,"gid":0}}}"#);
        assert_eq!(excess(&open, &status("000001ffffffffff", "0", "0"), true), None);
    }
}
