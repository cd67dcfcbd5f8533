//! Limits in the files of cgroup v2.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory};

use crate::cgroup::convert;
use crate::cgroup::dir::Dir;
use crate::cgroup::error::Error;
use crate::cgroup::resources::{At, device_weights, no_counterpart};
use crate::sorted::map_of;

/// limit, swap, reservation; checkBeforeUpdate.
pub(in crate::cgroup) fn memory(at: At<'_>, memory: &LinuxMemory) -> Result<(), Error> {
    const FIELD: &str = "linux.resources.memory";
    for (field, set) in [
        ("linux.resources.memory.kernelTCP", memory.kernel_tcp().is_some_and(|n| n != 0)),
        ("linux.resources.memory.swappiness", memory.swappiness().is_some_and(|n| n != u64::MAX)),
        ("linux.resources.memory.disableOOMKiller", memory.disable_oom_killer() == Some(true)),
    ] {
        if set {
            no_counterpart(field);
        }
    }
    check_usage(at.dir, memory)?;
    let missing = |e| at.missing(e, "memory", FIELD);
    if let Some(swap) = swap_max(at.dir, memory)? {
        match at.dir.write("memory.swap.max", &swap) {
            // A kernel without swap: no limit and no swap are both what there is.
            Err(e) if e.is_gone() && (swap == "max" || swap == "0") => {}
            result => result.map_err(missing)?,
        }
    }
    if let Some(limit) = convert::limit(memory.limit()) {
        match at.dir.write("memory.max", &limit) {
            Err(e) if e.errno() == Some(Errno::EBUSY) => {
                let of = |file| at.dir.read_u64(file).unwrap_or(0);
                let limit = memory.limit().unwrap_or_default();
                return Err(Error::MemoryBusy {
                    limit,
                    usage: of("memory.current"),
                    peak: of("memory.peak"),
                });
            }
            result => result.map_err(missing)?,
        }
    }
    if let Some(low) = convert::limit(memory.reservation()) {
        at.dir.write("memory.low", &low).map_err(missing)?;
    }
    Ok(())
}

/// `swap` counts memory in; with no limit beside it the one in force is taken.
fn swap_max(dir: &Dir, memory: &LinuxMemory) -> Result<Option<String>, Error> {
    let limit = match memory.limit().filter(|n| *n != 0) {
        None if memory.swap().is_some_and(|n| n > 0) => {
            dir.read_u64("memory.max").ok().and_then(|n| i64::try_from(n).ok())
        }
        limit => limit,
    };
    convert::swap_max(memory.swap(), limit)
}

/// `checkBeforeUpdate`: a limit below the usage is refused instead of reclaiming and killing. Best effort, as
/// the usage can change before the write.
pub(in crate::cgroup) fn check_usage(dir: &Dir, memory: &LinuxMemory) -> Result<(), Error> {
    let limits = [("memory+swap", memory.swap()), ("memory", memory.limit())];
    let positive = |limit: Option<i64>| limit.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
    if memory.check_before_update() != Some(true)
        || !limits.iter().any(|(_, limit)| positive(*limit).is_some())
    {
        return Ok(());
    }
    let Ok(usage) = dir.read_u64("memory.current") else { return Ok(()) };
    for (what, limit) in limits {
        if let Some(limit) = positive(limit).filter(|limit| *limit <= usage) {
            return Err(Error::BelowUsage { what, limit, usage });
        }
    }
    Ok(())
}

/// idle, shares, burst, quota and period.
pub(in crate::cgroup) fn cpu(at: At<'_>, cpu: &LinuxCpu) -> Result<(), Error> {
    const FIELD: &str = "linux.resources.cpu";
    let realtime =
        cpu.realtime_runtime().is_some_and(|n| n != 0) || cpu.realtime_period().is_some_and(|n| n != 0);
    if realtime {
        no_counterpart("linux.resources.cpu.realtimeRuntime");
    }
    let write = |file: &str, value: &str| at.dir.write(file, value).map_err(|e| at.missing(e, "cpu", FIELD));
    // An idle cgroup refuses a weight (EINVAL), so a weight comes before becoming idle, or after leaving it.
    let weight = cpu.shares().and_then(convert::cpu_weight).map(|n| n.to_string());
    let idle = cpu.idle().map(|n| n.to_string());
    let mut writes = [("cpu.weight", &weight), ("cpu.idle", &idle)];
    if cpu.idle() == Some(0) {
        writes.reverse();
    }
    for (file, value) in writes {
        match value.as_ref().map_or(Ok(()), |value| write(file, value)) {
            // systemd has made it idle already.
            Err(e) if e.errno() == Some(Errno::EINVAL) && file == "cpu.weight" && cpu.idle() == Some(1) => {}
            result => result?,
        }
    }
    let max = cpu_max(at.dir, cpu)?;
    let mut burst = cpu.burst().map(|n| n.to_string());
    if let Some(value) = &burst {
        match write("cpu.max.burst", value) {
            // Above the old quota: once more after the new one.
            Err(e) if e.errno() == Some(Errno::EINVAL) && max.is_some() => {}
            result => {
                result?;
                burst = None;
            }
        }
    }
    max.map_or(Ok(()), |max| write("cpu.max", &max))?;
    burst.map_or(Ok(()), |burst| write("cpu.max.burst", &burst))
}

/// `cpu.max` is `quota period`; what is not given stays.
fn cpu_max(dir: &Dir, cpu: &LinuxCpu) -> Result<Option<String>, Error> {
    let quota = cpu.quota().filter(|n| *n != 0).map(|n| if n > 0 { n.to_string() } else { "max".to_owned() });
    Ok(match (quota, cpu.period().filter(|n| *n != 0)) {
        (None, None) => None,
        // The kernel keeps the period.
        (Some(quota), None) => Some(quota),
        (Some(quota), Some(period)) => Some(format!("{quota} {period}")),
        (None, Some(period)) => {
            let old = dir.read("cpu.max").unwrap_or_default();
            let quota = old.split(' ').next().filter(|quota| !quota.is_empty()).unwrap_or("max");
            Some(format!("{quota} {period}"))
        }
    })
}

/// weight, weightDevice and the four throttles.
pub(in crate::cgroup) fn block_io(at: At<'_>, io: &LinuxBlockIo) -> Result<(), Error> {
    let devices = io.weight_device().as_deref().unwrap_or_default();
    if io.leaf_weight().is_some_and(|n| n != 0)
        || devices.iter().any(|d| d.leaf_weight().is_some_and(|n| n != 0))
    {
        no_counterpart("linux.resources.blockIO.leafWeight");
    }
    if let Some(weight) = io.weight().filter(|n| *n != 0) {
        let of_devices = device_weights(at, "io.bfq.weight");
        set_weight(at, "", weight)?;
        of_devices.iter().try_for_each(|line| at.dir.write("io.bfq.weight", line))?;
    }
    for device in devices {
        if let Some(weight) = device.weight().filter(|n| *n != 0) {
            set_weight(at, &format!("{}:{} ", device.major(), device.minor()), weight)?;
        }
    }
    for (key, devices) in [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            // v1's 0 is no limit; v2 refuses it.
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            let line = format!("{}:{} {key}={rate}", device.major(), device.minor());
            at.dir.write("io.max", &line).map_err(|e| at.missing(e, "io", "linux.resources.blockIO"))?;
        }
    }
    Ok(())
}

/// BFQ's file takes the weight as it is; io.weight (io.cost) has another scale.
fn set_weight(at: At<'_>, device: &str, weight: u16) -> Result<(), Error> {
    match at.dir.write("io.bfq.weight", &format!("{device}{weight}")) {
        Err(e) if e.is_gone() => {}
        // Before kernel 5.5 BFQ takes no weight per device.
        Err(e) if e.errno() == Some(Errno::EINVAL) && !device.is_empty() => {}
        result => return result,
    }
    let Some(weight) = convert::io_weight(weight) else { return Ok(()) };
    let result = at.dir.write("io.weight", &format!("{device}{weight}"));
    result.map_err(|e| at.missing(e, "io", "linux.resources.blockIO"))
}

/// Files of a cgroup that move or kill processes, which may be the host's: no limits, whatever a config says.
const NO_LIMITS: [&str; 3] = ["cgroup.kill", "cgroup.procs", "cgroup.threads"];

/// `unified`: file names with their content, written last so that they have the last word.
pub(in crate::cgroup) fn unified(
    dir: &Dir,
    mountpoint: &Path,
    unified: &HashMap<String, String>,
) -> Result<(), Error> {
    // In the order of names: the same config gives the same writes.
    for (key, value) in map_of::<BTreeMap<_, _>, _>(unified) {
        let is_limit = !NO_LIMITS.contains(&key.as_str());
        let Some((controller, _)) =
            key.split_once('.').filter(|(controller, _)| is_limit && !controller.is_empty())
        else {
            return Err(Error::InvalidName { what: "unified resource", name: key.clone() });
        };
        match dir.write(key, value) {
            Err(e) if e.errno() == Some(Errno::ENOENT) => {
                if controller == "cgroup" {
                    return Err(e);
                }
                if super::enable_one(dir, mountpoint, controller).is_err() {
                    return Err(Error::UnifiedController {
                        key: key.clone(),
                        controller: controller.to_owned(),
                    });
                }
                dir.write(key, value)?;
            }
            result => result?,
        }
    }
    Ok(())
}
