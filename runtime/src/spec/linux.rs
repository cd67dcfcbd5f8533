//! Rules of `linux.*` that are about what a namespace of the container is given.

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::rules::invalid;
use super::{Error, list, namespace};

/// config-linux.md "Offset for Time Namespace": of the clocks that have one, in a namespace that is made.
pub(super) fn time_offsets(spec: &Spec) -> Result<(), Error> {
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let Some(offsets) = offsets.filter(|offsets| !offsets.is_empty()) else { return Ok(()) };
    let Some(time) = namespace(spec, LinuxNamespaceType::Time) else {
        return invalid("time namespace offsets specified, but time namespace isn't enabled in the config");
    };
    if time.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty()) {
        return invalid("linux.timeOffsets: a time namespace that is joined by path keeps its offsets");
    }
    for (clock, offset) in offsets {
        // time_namespaces(7).
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return invalid(format!(
                "linux.timeOffsets: {clock:?} is not a clock with an offset: monotonic and boottime are"
            ));
        }
        if offset.nanosecs().is_some_and(|nanos| nanos > 999_999_999) {
            return invalid(format!("linux.timeOffsets.{clock}.nanosecs must be below 1000000000"));
        }
    }
    Ok(())
}

/// config-linux.md "Network Devices": into a network namespace of the container, each under a name of its own.
pub(super) fn net_devices(spec: &Spec) -> Result<(), Error> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    let Some(devices) = devices.filter(|devices| !devices.is_empty()) else { return Ok(()) };
    if namespace(spec, LinuxNamespaceType::Network).is_none() {
        return invalid("unable to move network devices without a private NET namespace");
    }
    let mut inside = std::collections::BTreeSet::new();
    for (name, device) in devices {
        let inside_name = device.name().as_deref().filter(|inside| !inside.is_empty()).unwrap_or(name);
        for name in [name.as_str(), inside_name] {
            // dev_valid_name() of the kernel.
            let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0';
            if name.is_empty() || name.len() > 15 || matches!(name, "." | "..") || name.contains(bad) {
                return invalid(format!("invalid network device name {name:?} in linux.netDevices"));
            }
        }
        if !inside.insert(inside_name) {
            return invalid(format!("linux.netDevices: two devices would have the name {inside_name:?}"));
        }
    }
    Ok(())
}

/// config-linux.md "IntelRdt": a group's name is one path component (or the default group), a schema one line.
pub(super) fn intel_rdt(spec: &Spec) -> Result<(), Error> {
    let Some(config) = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()) else {
        return Ok(());
    };
    if let Some(id) = config.clos_id() {
        // What resctrl itself has in each group.
        let taken = matches!(id.as_str(), "." | ".." | "info" | "mon_groups" | "mon_data");
        if taken || id.contains('\0') || (id != "/" && id.contains('/')) {
            return invalid(format!("invalid intelRdt.ClosID {id:?}"));
        }
    }
    let bandwidth = config.mem_bw_schema().as_deref().unwrap_or_default();
    if !bandwidth.is_empty() && (!bandwidth.starts_with("MB:") || bandwidth.contains('\n')) {
        return invalid(format!(
            "intelRdt.memBwSchema {bandwidth:?} must be one line that starts with \"MB:\""
        ));
    }
    if let Some(line) = list(config.schemata()).iter().find(|line| line.contains('\n') || line.is_empty()) {
        return invalid(format!("intelRdt.schemata: {line:?} must be one line"));
    }
    Ok(())
}

/// Sysctls of the IPC namespace (config-linux.md "Sysctl"; sysctl(2) names, ipc_namespaces(7)).
const IPC_SYSCTLS: &[&str] = &[
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// config-linux.md "Sysctl": only what a namespace of the container holds, else the host would change.
pub(super) fn sysctls(spec: &Spec) -> Result<(), Error> {
    for key in spec.linux().iter().flat_map(|linux| linux.sysctl().iter().flatten()).map(|(key, _)| key) {
        let path = sysctl_path(key);
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) || path.contains('\0') {
            return invalid(format!("sysctl {key:?} is not a valid name"));
        }
        // runc: the hostname has a field of its own, which would fight with this.
        if path == "kernel/hostname" {
            return invalid(format!(
                "sysctl {key:?} is not allowed as it conflicts with the OCI \"hostname\" field"
            ));
        }
        let Some(owner) = sysctl_namespace(&path) else {
            return invalid(format!("sysctl {key:?} is not in a separate kernel namespace"));
        };
        if namespace(spec, owner).is_none() {
            let what = match owner {
                LinuxNamespaceType::Uts => "a private UTS namespace",
                LinuxNamespaceType::Ipc => "a private IPC namespace",
                LinuxNamespaceType::Network => "a private network namespace",
                _ => "a user namespace",
            };
            return invalid(format!("sysctl {key:?} is not allowed without {what}"));
        }
    }
    Ok(())
}

/// The path of a sysctl below /proc/sys. As sysctl(8) reads names: the first separator, a dot or a slash, is the
/// separator; the other stands for a literal dot, which names of network devices may have.
#[must_use]
pub fn sysctl_path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key.as_bytes().get(at) == Some(&b'.') => {
            let swapped = key.chars().map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            });
            swapped.collect()
        }
        _ => key.to_owned(),
    }
}

/// The namespace that holds a sysctl, given as [`sysctl_path`]; `None` when it is the host's.
#[must_use]
pub fn sysctl_namespace(path: &str) -> Option<LinuxNamespaceType> {
    match path {
        "kernel/domainname" => Some(LinuxNamespaceType::Uts),
        path if IPC_SYSCTLS.contains(&path) || path.starts_with("fs/mqueue/") => {
            Some(LinuxNamespaceType::Ipc)
        }
        path if path.starts_with("net/") => Some(LinuxNamespaceType::Network),
        path if path.starts_with("user/") => Some(LinuxNamespaceType::User),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sysctls() {
        for (key, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eno2.100/rp_filter", "net/ipv4/conf/eno2.100/rp_filter"),
            ("net.ipv4.conf.eno2/100.rp_filter", "net/ipv4/conf/eno2.100/rp_filter"),
            ("plain", "plain"),
        ] {
            assert_eq!(sysctl_path(key), path);
        }
        assert_eq!(sysctl_namespace("kernel/shmmax"), Some(LinuxNamespaceType::Ipc));
        assert_eq!(sysctl_namespace("user/max_user_namespaces"), Some(LinuxNamespaceType::User));
        assert_eq!(sysctl_namespace("kernel/shmmaxx"), None);
        assert_eq!(sysctl_namespace("network"), None);
    }
}
