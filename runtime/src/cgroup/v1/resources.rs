//! Limits in the files of cgroup v1.

use nix::errno::Errno;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory};

use crate::cgroup::dir::{Dir, Made};
use crate::cgroup::error::Error;
use crate::cgroup::resources::{At, device_weights};

const LIMIT: &str = "memory.limit_in_bytes";
const MEMSW: &str = "memory.memsw.limit_in_bytes";

/// limit, swap, reservation, kernelTCP, disableOOMKiller, swappiness.
pub(in crate::cgroup) fn memory(at: At<'_>, memory: &LinuxMemory) -> Result<(), Error> {
    memory_and_swap(at, memory)?;
    let number = |n: Option<i64>| n.filter(|n| *n != 0);
    if let Some(value) = number(memory.reservation()) {
        at.dir.write("memory.soft_limit_in_bytes", &value.to_string())?;
    }
    if let Some(value) = number(memory.kernel_tcp()) {
        at.dir.write("memory.kmem.tcp.limit_in_bytes", &value.to_string())?;
    }
    match memory.disable_oom_killer() {
        Some(true) => at.dir.write("memory.oom_control", "1")?,
        Some(false) if at.made == Made::Existing => at.dir.write("memory.oom_control", "0")?,
        _ => {}
    }
    // u64::MAX is -1 of older configs: unset.
    if let Some(swappiness) = memory.swappiness().filter(|s| *s != u64::MAX) {
        if swappiness > 100 {
            let reason = format!("invalid memory swappiness value: {swappiness} (valid range is 0-100)");
            return Err(Error::InvalidValue { field: "linux.resources.memory.swappiness", reason });
        }
        at.dir.write("memory.swappiness", &swappiness.to_string())?;
    }
    Ok(())
}

/// The kernel wants memory ≤ memory+swap after each write, so which goes first depends on the old limit.
fn memory_and_swap(at: At<'_>, memory: &LinuxMemory) -> Result<(), Error> {
    let limit = memory.limit().filter(|n| *n != 0);
    let mut swap = memory.swap().filter(|n| *n != 0);
    // Unlimited memory with swap unset: swap is unlimited as well, where the kernel accounts it.
    if limit == Some(-1) && swap.is_none() && at.made == Made::Existing && at.dir.has(MEMSW) {
        swap = Some(-1);
    }
    let (Some(limit), Some(swap)) = (limit, swap) else {
        limit.map_or(Ok(()), |limit| set_limit(at.dir, LIMIT, limit))?;
        return swap.map_or(Ok(()), |swap| set_limit(at.dir, MEMSW, swap));
    };
    let swap_first =
        at.made == Made::Existing && (swap == -1 || at.dir.read_u64(LIMIT)? < swap.unsigned_abs());
    if swap_first {
        set_limit(at.dir, MEMSW, swap)?;
        set_limit(at.dir, LIMIT, limit)
    } else {
        set_limit(at.dir, LIMIT, limit)?;
        set_limit(at.dir, MEMSW, swap)
    }
}

/// EBUSY says that the limit is below what is in use and could not be reclaimed.
fn set_limit(dir: &Dir, file: &str, limit: i64) -> Result<(), Error> {
    match dir.write(file, &limit.to_string()) {
        Err(e) if e.errno() == Some(Errno::EBUSY) => {
            let of = |kind: &str| dir.read_u64(&file.replace("limit_in_bytes", kind)).unwrap_or(0);
            Err(Error::MemoryBusy { limit, usage: of("usage_in_bytes"), peak: of("max_usage_in_bytes") })
        }
        result => result,
    }
}

/// shares, period, burst, quota, idle, realtime.
pub(in crate::cgroup) fn cpu(at: At<'_>, cpu: &LinuxCpu) -> Result<(), Error> {
    if let Some(period) = cpu.realtime_period().filter(|n| *n != 0) {
        at.dir.write("cpu.rt_period_us", &period.to_string())?;
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|n| *n != 0) {
        at.dir.write("cpu.rt_runtime_us", &runtime.to_string())?;
    }
    if let Some(shares) = cpu.shares().filter(|n| *n != 0) {
        set_shares(at.dir, shares)?;
    }
    // A new period or burst can be impossible together with the old quota (EINVAL): then the quota goes first.
    let quota = cpu.quota().filter(|n| *n != 0);
    let period = cpu.period().filter(|n| *n != 0).map(|n| n.to_string());
    let burst = cpu.burst().map(|n| n.to_string());
    let mut late = Vec::new();
    for (file, value) in [("cpu.cfs_period_us", &period), ("cpu.cfs_burst_us", &burst)] {
        let Some(value) = value else { continue };
        match at.dir.write(file, value) {
            Err(e) if e.errno() == Some(Errno::EINVAL) && quota.is_some() => late.push((file, value)),
            result => result?,
        }
    }
    if let Some(quota) = quota {
        at.dir.write("cpu.cfs_quota_us", &quota.to_string())?;
    }
    for (file, value) in late {
        at.dir.write(file, value)?;
    }
    cpu.idle().map_or(Ok(()), |idle| at.dir.write("cpu.idle", &idle.to_string()))
}

/// The kernel silently takes the nearest value that it allows; runc reports that, in these words.
fn set_shares(dir: &Dir, shares: u64) -> Result<(), Error> {
    const MIN: u64 = 2;
    const MAX: u64 = 262_144;
    dir.write("cpu.shares", &shares.to_string())?;
    let reason = match shares {
        MIN..=MAX => return Ok(()),
        0..MIN => format!("the minimum allowed cpu-shares is {MIN}"),
        _ => format!("the maximum allowed cpu-shares is {MAX}"),
    };
    Err(Error::InvalidValue { field: "linux.resources.cpu.shares", reason })
}

/// weight, leafWeight, weightDevice and the four throttles.
pub(in crate::cgroup) fn block_io(at: At<'_>, io: &LinuxBlockIo) -> Result<(), Error> {
    if let Some(weight) = io.weight().filter(|n| *n != 0) {
        let of_devices = device_weights(at, "blkio.bfq.weight_device");
        weight_file(at.dir, "weight", &weight.to_string())?;
        of_devices.iter().try_for_each(|line| weight_file(at.dir, "weight_device", line))?;
    }
    if let Some(weight) = io.leaf_weight().filter(|n| *n != 0) {
        at.dir.write("blkio.leaf_weight", &weight.to_string())?;
    }
    for device in io.weight_device().as_deref().unwrap_or_default() {
        let line = |weight: u16| format!("{}:{} {weight}", device.major(), device.minor());
        if let Some(weight) = device.weight().filter(|n| *n != 0) {
            weight_file(at.dir, "weight_device", &line(weight))?;
        }
        if let Some(weight) = device.leaf_weight().filter(|n| *n != 0) {
            at.dir.write("blkio.leaf_weight_device", &line(weight))?;
        }
    }
    for (file, devices) in [
        ("blkio.throttle.read_bps_device", io.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", io.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", io.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", io.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            at.dir.write(file, &format!("{}:{} {}", device.major(), device.minor(), device.rate()))?;
        }
    }
    Ok(())
}

/// CFQ's file, or BFQ's since kernel 5.0.
fn weight_file(dir: &Dir, name: &str, value: &str) -> Result<(), Error> {
    match dir.write(&format!("blkio.{name}"), value) {
        Err(e) if e.is_gone() => dir.write(&format!("blkio.bfq.{name}"), value),
        result => result,
    }
}
