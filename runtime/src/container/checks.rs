//! What a config asks of the host, checked before anything is made.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use super::{Error, Result};
use crate::security::selinux;
use crate::selfexe::{ANNOTATION, Demand};
use crate::spec::{namespace, sysctl_namespace, sysctl_path};

/// Whether the runtime runs from what the container's annotation asks for.
pub(super) fn own_binary(annotation: Option<&String>) -> Result<()> {
    let value = annotation.map(String::as_str);
    let demand =
        crate::selfexe::demand(value).map_err(|e| Error::io("look at", Path::new("/proc/self/exe"), e))?;
    match demand {
        Demand::Met => Ok(()),
        Demand::Copy => Err(Error::NeedsCopy),
        Demand::Unknown => {
            let words = format!("annotation {ANNOTATION}: unknown value {:?}", value.unwrap_or_default());
            Err(crate::spec::Error::Invalid(words).into())
        }
    }
}

/// All checks of `create`.
pub(super) fn host(spec: &Spec) -> Result<()> {
    spec.process().as_ref().map_or(Ok(()), labels)?;
    mount_namespace(spec)?;
    sysctls(spec)
}

/// pivot_root(2) changes the root of every process in a mount namespace: not the host's.
fn mount_namespace(spec: &Spec) -> Result<()> {
    let Some(path) = namespace(spec, LinuxNamespaceType::Mount).and_then(|ns| ns.path().as_deref()) else {
        return Ok(());
    };
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    // What can't be looked at is an error when it is to be joined.
    let Ok(wanted) = identity(path) else { return Ok(()) };
    let same = |file: &str| identity(Path::new(file)).is_ok_and(|found| found == wanted);
    if same("/proc/self/ns/mnt") || same("/proc/1/ns/mnt") {
        let words = format!(
            "the mount namespace {} is the host's, whose root would change: leave it out of linux.namespaces",
            path.display()
        );
        return Err(crate::spec::Error::Invalid(words).into());
    }
    Ok(())
}

/// The labels of a process: without SELinux the kernel would take one for AppArmor's, or say EINVAL.
pub(super) fn labels(process: &Process) -> Result<()> {
    let label = process.selinux_label().as_deref().unwrap_or_default();
    selinux::ensure_enabled(label).map_err(|error| crate::spec::Error::Invalid(error.to_string()).into())
}

/// Sysctls go to namespaces of the container. One that is joined by path may be the host's (runc's rule for the
/// network, here for each kind).
fn sysctls(spec: &Spec) -> Result<()> {
    for key in spec.linux().iter().flat_map(|linux| linux.sysctl().iter().flatten()).map(|(key, _)| key) {
        let Some(kind) = sysctl_namespace(&sysctl_path(key)) else { continue };
        let path = namespace(spec, kind).and_then(|ns| ns.path().as_deref());
        if let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) {
            let (file, word) = names(kind);
            if is_own(file, path)? {
                let word = format!("sysctl {key:?} not allowed in host {word} namespace");
                return Err(crate::spec::Error::Invalid(word).into());
            }
        }
    }
    Ok(())
}

/// The file below /proc/PID/ns, and the word of the config.
fn names(kind: LinuxNamespaceType) -> (&'static str, &'static str) {
    match kind {
        LinuxNamespaceType::Network => ("net", "network"),
        LinuxNamespaceType::Ipc => ("ipc", "ipc"),
        LinuxNamespaceType::Uts => ("uts", "uts"),
        _ => ("user", "user"),
    }
}

fn is_own(file: &str, path: &Path) -> Result<bool> {
    Ok(identity(&Path::new("/proc/self/ns").join(file))? == identity(path)?)
}

fn identity(path: &Path) -> Result<(u64, u64)> {
    let stat = std::fs::metadata(path).map_err(|e| Error::io("stat", path, e))?;
    Ok((stat.dev(), stat.ino()))
}
