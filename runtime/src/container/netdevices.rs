//! `linux.netDevices`: devices of the host that move into the container's network namespace.
//!
//! They stay there. When the namespace ends, the kernel gives physical devices back to the host's first
//! namespace and removes virtual ones (runc does no more either).

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use oci_spec::runtime::LinuxNamespaceType;

use super::idmap::is_ordinary_user;
use crate::init::{Context, Failure};
use crate::net::{MoveError, Moved, Mover};
use crate::plan::Plan;

/// Moves the plan's devices. On failure those that were moved are on the host again.
///
/// # Errors
/// A [`Failure`] naming step and device.
pub(super) fn take(pid: i32, plan: &Plan) -> Result<(), Failure> {
    let devices = &plan.outside.net_devices;
    if devices.is_empty() {
        return Ok(());
    }
    if is_ordinary_user() {
        return Err(failed("", "only root can"));
    }
    let path = namespace_path(pid, plan);
    let shown = path.display().to_string();
    let namespace = File::open(&path).during("open network namespace", || &shown)?;
    refuse_own(&namespace, &shown)?;
    let mut mover = Mover::new(namespace.as_fd()).during("enter network namespace", || &shown)?;
    let mut moved: Vec<Moved> = Vec::with_capacity(devices.len());
    for (name, inside) in devices {
        match mover.take(name, inside) {
            Ok(device) => moved.push(device),
            Err(error) => {
                moved.iter().for_each(|device| mover.give_back(device));
                return Err(explain(name, inside, &error));
            }
        }
    }
    Ok(())
}

/// The namespace of the process. It joins one by path only after this, so then the path is what counts.
fn namespace_path(pid: i32, plan: &Plan) -> PathBuf {
    let joined = plan.namespaces.join.iter().find(|join| join.kind == LinuxNamespaceType::Network);
    joined.map_or_else(|| format!("/proc/{pid}/ns/net").into(), |join| join.path.clone())
}

fn refuse_own(namespace: &File, shown: &str) -> Result<(), Failure> {
    let theirs = namespace.metadata().during("stat network namespace", || shown)?;
    let own = std::fs::metadata("/proc/self/ns/net").during("stat", || "/proc/self/ns/net")?;
    if (own.dev(), own.ino()) == (theirs.dev(), theirs.ino()) {
        return Err(failed(shown, "this network namespace is the runtime's own"));
    }
    Ok(())
}

fn failed(object: &str, why: &str) -> Failure {
    Failure::other("linux.netDevices: move network devices", object, why)
}

fn explain(name: &str, inside: &str, error: &MoveError) -> Failure {
    let device = if name == inside { name.to_owned() } else { format!("{name} (as {inside})") };
    let failure =
        Failure::new(&format!("linux.netDevices: {} network device", error.step), device, &error.source);
    match error.source.raw_os_error() {
        Some(libc::EEXIST) if error.step == "move" => {
            failure.with_detail(format!("the container's network namespace has a device {inside} already"))
        }
        Some(libc::EINVAL) if error.step == "move" => {
            failure.with_detail("the kernel keeps this kind of device in its network namespace")
        }
        _ => failure,
    }
}
