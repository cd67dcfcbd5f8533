//! `linux.resources` to control files: finds for each controller the hierarchy that has it, and writes only what
//! is set. On hybrid a controller can be on the v2 tree; it is enabled there when a limit needs it.

use std::path::Path;

use oci_spec::runtime::{LinuxResources, LinuxThrottleDevice};

use super::dir::{Dir, Made};
use super::error::Error;
use super::layout::{self, Mode, Version};
use super::{Cgroup, v1, v2};

/// The directory of a controller and which kind it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'c> {
    pub(super) version: Version,
    pub(super) dir: &'c Dir,
    /// Whether the kernel's defaults are still in it.
    pub(super) made: Made,
}

/// Writes all limits; device rules are apart.
pub(super) fn apply(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    cpuset(cgroup, resources)?;
    memory(cgroup, resources)?;
    cpu(cgroup, resources)?;
    pids(cgroup, resources)?;
    block_io(cgroup, resources)?;
    hugetlb(cgroup, resources)?;
    network(cgroup, resources)?;
    rdma(cgroup, resources)?;
    let Some(unified) = resources.unified().as_ref().filter(|unified| !unified.is_empty()) else {
        return Ok(());
    };
    match (cgroup.mode, cgroup.v2().filter(|member| !member.is_denied())) {
        (Mode::V2, Some(member)) => {
            let mountpoint = member.mountpoint().unwrap_or(Path::new(layout::ROOT));
            v2::resources::unified(member.dir()?, mountpoint, unified)
        }
        (Mode::V2, None) => Err(Error::NoController("unified")),
        _ => Err(Error::UnifiedOnV1),
    }
}

/// `checkBeforeUpdate` on v2 by itself.
pub(super) fn check_before_update(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    match (resources.memory(), cgroup.v2().filter(|member| !member.is_denied())) {
        (Some(memory), Some(member)) => v2::resources::check_usage(member.dir()?, memory),
        _ => Ok(()),
    }
}

/// Quota and period go to systemd together, and what is not given stays: the same with the one that is in force.
/// None when both are given, or neither.
pub(super) fn with_bandwidth(cgroup: &Cgroup, resources: &LinuxResources) -> Option<LinuxResources> {
    let mut cpu = resources.cpu().clone()?;
    let quota = cpu.quota().filter(|n| *n != 0);
    let period = cpu.period().filter(|n| *n != 0);
    if quota.is_some() == period.is_some() {
        return None;
    }
    let at = at(cgroup, "cpu").ok()?;
    let (now, every) = match at.version {
        Version::V1 => (at.dir.read("cpu.cfs_quota_us").ok()?, at.dir.read("cpu.cfs_period_us").ok()?),
        Version::V2 => {
            let text = at.dir.read("cpu.max").ok()?;
            let (quota, period) = text.split_once(' ')?;
            (quota.to_owned(), period.to_owned())
        }
    };
    // `max` on v2.
    cpu.set_quota(quota.or_else(|| Some(now.parse().unwrap_or(-1))));
    cpu.set_period(period.or_else(|| every.parse().ok()));
    let mut resources = resources.clone();
    resources.set_cpu(Some(cpu));
    Some(resources)
}

/// The directory where `controller` is.
fn at<'c>(cgroup: &'c Cgroup, controller: &'static str) -> Result<At<'c>, Error> {
    let member = match cgroup.v1(controller) {
        Some(member) => member,
        None => cgroup.v2().ok_or(Error::NoController(controller))?,
    };
    if member.is_denied() && cgroup.mode == Mode::V2 {
        return Err(Error::RootlessLimit { controller, dir: member.path().to_owned() });
    }
    if member.is_denied() {
        return Err(Error::NoController(controller));
    }
    let dir = member.dir()?;
    if member.version() == Version::V2 {
        enable(cgroup, dir, member.mountpoint(), controller)?;
    }
    Ok(At {
        version: member.version(),
        dir,
        made: if member.is_fresh() { Made::New } else { Made::Existing },
    })
}

/// A controller that [`super::Cgroup::create`] does not enable: the unusual ones, and all of hybrid's.
fn enable(
    cgroup: &Cgroup,
    dir: &Dir,
    mountpoint: Option<&Path>,
    controller: &'static str,
) -> Result<(), Error> {
    let (root, usual) = match cgroup.mode {
        Mode::V2 => (layout::ROOT, v2::USUAL.contains(&controller)),
        Mode::V1 | Mode::Hybrid => (layout::UNIFIED, false),
    };
    if usual {
        return Ok(());
    }
    match v2::enable_one(dir, mountpoint.unwrap_or(Path::new(root)), controller) {
        // The write to the missing file gives the error that names the field.
        Err(_) if cgroup.mode == Mode::V2 => Ok(()),
        result => result.map_err(|_| Error::NoController(controller)),
    }
}

fn cpuset(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    let Some(cpu) = resources.cpu() else { return Ok(()) };
    for (file, field, value) in [
        ("cpuset.cpus", "linux.resources.cpu.cpus", cpu.cpus()),
        ("cpuset.mems", "linux.resources.cpu.mems", cpu.mems()),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            let at = at(cgroup, "cpuset")?;
            at.dir.write(file, value).map_err(|e| at.missing(e, "cpuset", field))?;
        }
    }
    Ok(())
}

fn memory(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    let Some(memory) = resources.memory() else { return Ok(()) };
    let number = |n: Option<i64>| n.is_some_and(|n| n != 0);
    if number(memory.kernel()) {
        // As runc since 1.2; kernels since 5.16 refuse it.
        log::warn!("linux.resources.memory.kernel is ignored: the kernel has no such limit any more");
    }
    let limits = [memory.limit(), memory.reservation(), memory.swap(), memory.kernel_tcp()];
    let set = limits.into_iter().any(number)
        || memory.swappiness().is_some()
        || memory.disable_oom_killer().is_some();
    if !set {
        return Ok(());
    }
    let at = match at(cgroup, "memory") {
        // Written out by many callers; it is what every cgroup has.
        Err(_)
            if memory.disable_oom_killer() == Some(false)
                && memory.swappiness().is_none()
                && !limits.into_iter().any(number) =>
        {
            return Ok(());
        }
        at => at?,
    };
    match at.version {
        Version::V1 => v1::resources::memory(at, memory),
        Version::V2 => v2::resources::memory(at, memory),
    }
}

fn cpu(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    let Some(cpu) = resources.cpu() else { return Ok(()) };
    let unsigned = [cpu.shares(), cpu.period(), cpu.realtime_period()].into_iter().flatten().any(|n| n != 0);
    let signed = [cpu.quota(), cpu.realtime_runtime()].into_iter().flatten().any(|n| n != 0);
    if !unsigned && !signed && cpu.burst().is_none() && cpu.idle().is_none() {
        return Ok(());
    }
    let at = at(cgroup, "cpu")?;
    match at.version {
        Version::V1 => v1::resources::cpu(at, cpu),
        Version::V2 => v2::resources::cpu(at, cpu),
    }
}

fn pids(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    let Some(pids) = resources.pids() else { return Ok(()) };
    let at = at(cgroup, "pids")?;
    let result = at.dir.write("pids.max", &super::convert::pids_max(pids.limit()));
    result.map_err(|e| at.missing(e, "pids", "linux.resources.pids.limit"))
}

fn block_io(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    let Some(io) = resources.block_io() else { return Ok(()) };
    let lists = [
        io.throttle_read_bps_device(),
        io.throttle_write_bps_device(),
        io.throttle_read_iops_device(),
        io.throttle_write_iops_device(),
    ];
    let filled = |list: &Option<Vec<LinuxThrottleDevice>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let weights = [io.weight(), io.leaf_weight()].into_iter().flatten().any(|weight| weight != 0);
    let per_device = io.weight_device().as_ref().is_some_and(|list| !list.is_empty());
    if !weights && !per_device && !lists.into_iter().any(filled) {
        return Ok(());
    }
    let at = if cgroup.v1("blkio").is_some() { at(cgroup, "blkio") } else { at(cgroup, "io") }?;
    match at.version {
        Version::V1 => v1::resources::block_io(at, io),
        Version::V2 => v2::resources::block_io(at, io),
    }
}

fn hugetlb(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    const FIELD: &str = "linux.resources.hugepageLimits";
    for limit in resources.hugepage_limits().as_deref().unwrap_or_default() {
        let at = at(cgroup, "hugetlb")?;
        let file = if at.version == Version::V1 { "limit_in_bytes" } else { "max" };
        let (size, value) = (limit.page_size(), limit.limit().to_string());
        at.dir
            .write(&format!("hugetlb.{size}.{file}"), &value)
            .map_err(|e| at.missing(e, "hugetlb", FIELD))?;
        // Reservations are limited too, else mmap succeeds and the access is killed by SIGBUS (kernel 5.7).
        match at.dir.write(&format!("hugetlb.{size}.rsvd.{file}"), &value) {
            Err(e) if e.is_gone() => {}
            result => result?,
        }
    }
    Ok(())
}

fn network(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    let Some(network) = resources.network() else { return Ok(()) };
    let class = network.class_id().filter(|id| *id != 0);
    let priorities = network.priorities().as_deref().unwrap_or_default();
    if cgroup.mode == Mode::V2 {
        if class.is_some() || !priorities.is_empty() {
            no_counterpart("linux.resources.network");
        }
        return Ok(());
    }
    if let Some(class) = class {
        let member = cgroup.v1("net_cls").filter(|member| !member.is_denied());
        member.ok_or(Error::NoController("net_cls"))?.dir()?.write("net_cls.classid", &class.to_string())?;
    }
    if !priorities.is_empty() {
        let member = cgroup.v1("net_prio").filter(|member| !member.is_denied());
        let dir = member.ok_or(Error::NoController("net_prio"))?.dir()?;
        for priority in priorities {
            dir.write("net_prio.ifpriomap", &format!("{} {}", priority.name(), priority.priority()))?;
        }
    }
    Ok(())
}

fn rdma(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    for (device, limit) in resources.rdma().iter().flatten() {
        let at = at(cgroup, "rdma")?;
        let mut line = device.clone();
        for (key, value) in [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())] {
            if let Some(value) = value {
                line.push_str(&format!(" {key}={value}"));
            }
        }
        at.dir.write("rdma.max", &line).map_err(|e| at.missing(e, "rdma", "linux.resources.rdma"))?;
    }
    Ok(())
}

/// A v1 knob on a v2 host. runc accepts such a config.json too; callers rely on it.
pub(super) fn no_counterpart(field: &str) {
    log::warn!("{field} is ignored: cgroup v2 has no counterpart");
}

/// The weights that devices have of their own (`8:0 300`), to be written again after the one for all: BFQ gives that to
/// every device. None where the file is missing.
pub(super) fn device_weights(at: At<'_>, file: &str) -> Vec<String> {
    if at.made == Made::New {
        return Vec::new();
    }
    let text = at.dir.read(file).unwrap_or_default();
    text.lines().filter(|line| !line.starts_with("default")).map(str::to_owned).collect()
}

impl At<'_> {
    /// Turns ENOENT of a write into what it means on v2: the controller is not enabled for this cgroup.
    pub(super) fn missing(&self, error: Error, controller: &str, field: &'static str) -> Error {
        let enabled =
            || self.dir.read("cgroup.controllers").is_ok_and(|text| text.split(' ').any(|c| c == controller));
        if self.version == Version::V1 || !error.is_gone() || enabled() {
            return error;
        }
        Error::ControllerMissing { field, controller: controller.to_owned(), dir: self.dir.path().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    /// A directory of ordinary files in place of a cgroup: no machine of ours has an RDMA device, without which the
    /// kernel takes no line.
    #[test]
    fn a_line_for_each_rdma_device() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("c");
        fs::create_dir(&dir).unwrap();
        for (json, line) in [
            (r#"{"hcaHandles": 3, "hcaObjects": 10000}"#, "mlx5_0 hca_handle=3 hca_object=10000"),
            (r#"{"hcaHandles": 3}"#, "mlx5_0 hca_handle=3"),
            (r#"{"hcaObjects": 7}"#, "mlx5_0 hca_object=7"),
        ] {
            fs::write(dir.join("rdma.max"), "").unwrap();
            let cgroup = Cgroup::open(&BTreeMap::from([("rdma".to_owned(), dir.clone())])).unwrap();
            let resources = serde_json::from_str(&format!(r#"{{"rdma": {{"mlx5_0": {json}}}}}"#)).unwrap();
            cgroup.update(&resources).unwrap();
            assert_eq!(fs::read_to_string(dir.join("rdma.max")).unwrap(), line);
        }
    }
}
