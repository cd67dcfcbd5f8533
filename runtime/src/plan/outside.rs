//! What the runtime does from outside to the process that it has made, before that may act.

use oci_spec::runtime::{Process, Spec};

use super::process::rlimits;
use crate::sorted::list_of;
use crate::spec::bits::Bits;
use crate::spec::{Error, cpu_affinity};
use crate::sys::process::{RLimit, Resource};

/// Data of the config for the runtime's side.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// oom_score_adj.
    pub oom_score_adj: Option<i32>,
    /// Limits that init sets, whose hard value the runtime raises first: in a user namespace only it may.
    pub raise_limits: Vec<(Resource, RLimit)>,
    /// CPUs of the process.
    pub affinity: Affinity,
    /// Network devices that move into its network namespace: names on the host and inside.
    pub net_devices: Vec<(String, String)>,
}

/// The CPUs that the process may run on. Those of the runtime, which it inherits, mean nothing to it
/// (runc #4041).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// `process.execCPUAffinity.initial`: from before the process exists.
    pub initial: Option<Bits>,
    /// `process.execCPUAffinity.final`: once it is in the container's cgroup. Without it, and without
    /// `initial`, all that the cgroup's cpuset has.
    pub last: Option<Bits>,
}

/// For `create`, where execCPUAffinity is not applied (config.md "POSIX process").
pub(super) fn of_create(spec: &Spec, process: &Process, user_namespace: bool) -> Outside {
    Outside { net_devices: net_devices(spec), ..of_any(process, user_namespace) }
}

fn of_any(process: &Process, user_namespace: bool) -> Outside {
    Outside {
        oom_score_adj: process.oom_score_adj(),
        raise_limits: if user_namespace { rlimits(process) } else { Vec::new() },
        ..Outside::default()
    }
}

/// Ordered, so that an error does not depend on chance.
fn net_devices(spec: &Spec) -> Vec<(String, String)> {
    let devices = spec.linux().iter().flat_map(|linux| linux.net_devices().iter().flatten());
    list_of(devices.map(|(name, device)| {
        let inside = device.name().as_ref().filter(|inside| !inside.is_empty()).unwrap_or(name);
        (name.clone(), inside.clone())
    }))
}

/// For `exec`: what its process does not say is as the container's.
pub(super) fn of_exec(spec: &Spec, process: &Process, user_namespace: bool) -> Result<Outside, Error> {
    let container = spec.process().as_ref();
    let [mut initial, mut last] = cpu_affinity(process)?;
    if let (None, None, Some(container)) = (&initial, &last, container) {
        [initial, last] = cpu_affinity(container)?;
    }
    let affinity = Affinity { initial, last };
    let outside = of_any(process, user_namespace);
    let oom_score_adj = outside.oom_score_adj.or_else(|| container.and_then(|own| own.oom_score_adj()));
    Ok(Outside { oom_score_adj, affinity, ..outside })
}
