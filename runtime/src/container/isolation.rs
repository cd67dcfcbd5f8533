//! Whether a restored process is as isolated as its config says. Images say by themselves which namespaces,
//! capabilities and filters their processes have, and whoever made them may want to be on the host.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, LinuxSeccompAction, Spec};

use super::{Error, Result};
use crate::spec::list;

/// Each namespace of the config is one of its own, or the one of its path.
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

/// It has no more rights than the config gives.
pub(super) fn rights(spec: &Spec, pid: i32) -> Result<()> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    match excess(spec, &text) {
        Some(what) => refused(format!("its images have {what}, which config.json does not allow")),
        None => Ok(()),
    }
}

/// What a /proc/PID/status shows that is more than the config allows.
fn excess(spec: &Spec, status: &str) -> Option<&'static str> {
    let value = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
    };
    let process = spec.process().as_ref();
    let bounding = process.and_then(|process| process.capabilities().as_ref()?.bounding().as_ref());
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
        assert_eq!(excess(&strict, &status("0000000000000020", "1", "2")), None);
        assert_eq!(excess(&strict, &status("0000000000000000", "1", "2")), None);
        assert!(excess(&strict, &status("0000000000000021", "1", "2")).unwrap().contains("capabilities"));
        assert!(excess(&strict, &status("0000000000000020", "0", "2")).unwrap().contains("noNewPrivileges"));
        assert!(excess(&strict, &status("0000000000000020", "1", "0")).unwrap().contains("seccomp"));
        assert!(excess(&strict, "").is_some());
        let open =
            spec(r#"{"ociVersion":"1.0.2","process":{"args":["x"],"cwd":"/","user":{"uid":0,"gid":0}}}"#);
        assert_eq!(excess(&open, &status("000001ffffffffff", "0", "0")), None);
    }
}
