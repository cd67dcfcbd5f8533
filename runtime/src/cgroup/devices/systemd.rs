//! Device rules in the words of systemd's DeviceAllow (systemd.resource-control(5)).

use super::rules::{Kind, Rules, Verdict};

/// What is allowed, as path and access; None when devices are allowed by default, which the list cannot say.
pub(super) fn entries(rules: &Rules) -> Option<Vec<(String, String)>> {
    if rules.default == Verdict::Allow {
        return None;
    }
    let mut entries = Vec::new();
    for (devices, access) in &rules.exceptions {
        let (group, dir) = match devices.kind {
            Kind::Block => ("block", "/dev/block"),
            Kind::Char => ("char", "/dev/char"),
        };
        let path = match (devices.major, devices.minor) {
            (None, None) => format!("{group}-*"),
            // A number in place of the driver's name: systemd 240.
            (Some(major), None) => format!("{group}-{major}"),
            (Some(major), Some(minor)) => format!("{dir}/{major}:{minor}"),
            // Our own filter has it; after a reload of systemd its filter would not.
            (None, Some(_)) => {
                log::warn!("systemd can't be told of device rule {devices} {access}");
                continue;
            }
        };
        entries.push((path, access.to_string()));
    }
    Some(entries)
}
