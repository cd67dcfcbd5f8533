//! `linux.devices`, the default devices and the links in /dev → steps.

use std::path::Path;

use oci_spec::runtime::{LinuxDeviceType, LinuxNamespaceType, Spec};

use super::{Device, Step};
use crate::spec::{Error, list, namespace};

/// Device nodes that config-linux.md "Default Devices" asks for: path, major, minor.
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links that config-linux.md "/dev symbolic links" asks for.
const DEV_LINKS: [(&str, &str, bool); 6] = [
    ("/dev/fd", "/proc/self/fd", false),
    ("/dev/stdin", "/proc/self/fd/0", false),
    ("/dev/stdout", "/proc/self/fd/1", false),
    ("/dev/stderr", "/proc/self/fd/2", false),
    ("/dev/core", "/proc/kcore", true),
    ("/dev/ptmx", "pts/ptmx", false),
];

/// The nodes of a container with a /dev of its own.
///
/// # Errors
/// A device of linux.devices that can't be made, by name.
pub fn devices(spec: &Spec) -> Result<Vec<Device>, Error> {
    let mut steps = Vec::new();
    device_steps(spec, &mut steps)?;
    let node = |step| match step {
        Step::Device(device) => Some(device),
        _ => None,
    };
    Ok(steps.into_iter().filter_map(node).collect())
}

pub(super) fn device_steps(spec: &Spec, steps: &mut Vec<Step>) -> Result<(), Error> {
    let bind = namespace(spec, LinuxNamespaceType::User).is_some();
    let configured = spec.linux().as_ref().map(|linux| list(linux.devices())).unwrap_or_default();
    for (path, major, minor) in DEFAULT_DEVICES {
        if configured.iter().any(|device| device.path() == Path::new(path)) {
            continue;
        }
        let number = libc::makedev(major, minor);
        let mode = libc::S_IFCHR | 0o666;
        steps.push(Step::Device(Device { path: path.into(), mode, number, uid: 0, gid: 0, bind }));
    }
    for device in configured {
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::P => libc::S_IFIFO,
            LinuxDeviceType::A => {
                return Err(Error::Invalid(format!(
                    "linux.devices: {}: type \"a\" is for cgroup rules only",
                    device.path().display()
                )));
            }
        };
        let number = |value: i64| {
            u32::try_from(value).map_err(|_| {
                Error::Invalid(format!(
                    "linux.devices: {}: bad device number {value}",
                    device.path().display()
                ))
            })
        };
        let number = if kind == libc::S_IFIFO {
            0
        } else {
            libc::makedev(number(device.major())?, number(device.minor())?)
        };
        steps.push(Step::Device(Device {
            path: device.path().clone(),
            mode: kind | (device.file_mode().unwrap_or(0o666) & 0o7777),
            number,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
            bind: bind && kind != libc::S_IFIFO,
        }));
    }
    for (path, target, only_if_target) in DEV_LINKS {
        steps.push(Step::Symlink { path: path.into(), target, only_if_target });
    }
    Ok(())
}
