//! Rules of `linux.*` that are about what a namespace of the container is given.

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::rules::invalid;
use super::{Error, namespace};

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
