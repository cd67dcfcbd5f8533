//! Metrics of cgroup v1.

use crate::cgroup::dir::{Dir, flat_key, parse_u64};
use crate::cgroup::error::Error;
use crate::cgroup::stats::v1::{
    BlkIo, BlkIoEntry, Cpu, Hugetlb, Memory, MemoryEntry, Metrics, OomControl, Pids,
};
use crate::cgroup::stats::{self, Files, rdma};
use crate::cgroup::{Cgroup, Member};

/// Length of the ticks of cpuacct.stat: USER_HZ is 100 on all supported architectures.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// Reads what is there, controller by controller.
pub(in crate::cgroup) fn read(cgroup: &Cgroup) -> Result<Metrics, Error> {
    // Tells a cgroup that is gone from one without controllers.
    if let Some(member) = cgroup.primary() {
        Files::new(member.dir()?).required("cgroup.procs")?;
    }
    let dir =
        |controller: &str| cgroup.v1(controller).filter(|m| !m.is_denied()).map(Member::dir).transpose();
    let mut metrics = Metrics {
        cpu: cpu(dir("cpu")?, dir("cpuacct")?),
        memory: dir("memory")?.map(memory),
        memory_oom_control: dir("memory")?.and_then(oom_control),
        pids: dir("pids")?.and_then(pids),
        blkio: dir("blkio")?.map(blkio),
        rdma: dir("rdma")?.and_then(|dir| rdma(&mut Files::new(dir))),
        hugetlb: Vec::new(),
    };
    if let Some(dir) = dir("hugetlb")? {
        metrics.hugetlb = hugetlb(dir)?;
    }
    Ok(metrics)
}

fn pids(dir: &Dir) -> Option<Pids> {
    let mut files = Files::new(dir);
    let limit = files.number("pids.max").filter(|limit| *limit != u64::MAX).unwrap_or(0);
    Some(Pids { current: files.number("pids.current")?, limit })
}

fn cpu(cpu: Option<&Dir>, cpuacct: Option<&Dir>) -> Option<Cpu> {
    if cpu.is_none() && cpuacct.is_none() {
        return None;
    }
    let mut all = Cpu::default();
    if let Some(dir) = cpuacct {
        let mut files = Files::new(dir);
        all.usage_total = files.number("cpuacct.usage").unwrap_or_default();
        let stat = files.text("cpuacct.stat").unwrap_or_default();
        all.usage_user = flat_key(stat, "user").unwrap_or_default() * NANOSECONDS_PER_TICK;
        all.usage_kernel = flat_key(stat, "system").unwrap_or_default() * NANOSECONDS_PER_TICK;
        let per_cpu = files.text("cpuacct.usage_percpu").unwrap_or_default();
        all.per_cpu = per_cpu.split_ascii_whitespace().filter_map(parse_u64).collect();
    }
    if let Some(dir) = cpu {
        let mut files = Files::new(dir);
        let stat = files.text("cpu.stat").unwrap_or_default();
        all.periods = flat_key(stat, "nr_periods").unwrap_or_default();
        all.throttled_periods = flat_key(stat, "nr_throttled").unwrap_or_default();
        all.throttled_time = flat_key(stat, "throttled_time").unwrap_or_default();
    }
    Some(all)
}

fn memory(dir: &Dir) -> Memory {
    let mut files = Files::new(dir);
    let mut memory = Memory::default();
    for line in files.text("memory.stat").unwrap_or_default().lines() {
        if let Some((key, value)) = line.split_once(' ') {
            if let Some(field) = memory_field(&mut memory, key) {
                *field = parse_u64(value).unwrap_or_default();
            }
        }
    }
    for (prefix, entry) in [
        ("memory", &mut memory.usage),
        ("memory.memsw", &mut memory.swap),
        ("memory.kmem", &mut memory.kernel),
        ("memory.kmem.tcp", &mut memory.kernel_tcp),
    ] {
        // Without swap accounting there is no memsw.
        let Some(usage) = files.number(&format!("{prefix}.usage_in_bytes")) else { continue };
        *entry = MemoryEntry {
            usage,
            limit: files.number(&format!("{prefix}.limit_in_bytes")).unwrap_or_default(),
            max: files.number(&format!("{prefix}.max_usage_in_bytes")).unwrap_or_default(),
            failcnt: files.number(&format!("{prefix}.failcnt")).unwrap_or_default(),
        };
    }
    memory
}

fn memory_field<'m>(memory: &'m mut Memory, key: &str) -> Option<&'m mut u64> {
    Some(match key {
        "cache" => &mut memory.cache,
        "rss" => &mut memory.rss,
        "rss_huge" => &mut memory.rss_huge,
        "mapped_file" => &mut memory.mapped_file,
        "dirty" => &mut memory.dirty,
        "writeback" => &mut memory.writeback,
        "pgpgin" => &mut memory.pg_pg_in,
        "pgpgout" => &mut memory.pg_pg_out,
        "pgfault" => &mut memory.pg_fault,
        "pgmajfault" => &mut memory.pg_maj_fault,
        "inactive_anon" => &mut memory.inactive_anon,
        "active_anon" => &mut memory.active_anon,
        "inactive_file" => &mut memory.inactive_file,
        "active_file" => &mut memory.active_file,
        "unevictable" => &mut memory.unevictable,
        "hierarchical_memory_limit" => &mut memory.hierarchical_memory_limit,
        "hierarchical_memsw_limit" => &mut memory.hierarchical_swap_limit,
        "total_cache" => &mut memory.total_cache,
        "total_rss" => &mut memory.total_rss,
        "total_rss_huge" => &mut memory.total_rss_huge,
        "total_mapped_file" => &mut memory.total_mapped_file,
        "total_dirty" => &mut memory.total_dirty,
        "total_writeback" => &mut memory.total_writeback,
        "total_pgpgin" => &mut memory.total_pg_pg_in,
        "total_pgpgout" => &mut memory.total_pg_pg_out,
        "total_pgfault" => &mut memory.total_pg_fault,
        "total_pgmajfault" => &mut memory.total_pg_maj_fault,
        "total_inactive_anon" => &mut memory.total_inactive_anon,
        "total_active_anon" => &mut memory.total_active_anon,
        "total_inactive_file" => &mut memory.total_inactive_file,
        "total_active_file" => &mut memory.total_active_file,
        "total_unevictable" => &mut memory.total_unevictable,
        _ => return None,
    })
}

fn oom_control(dir: &Dir) -> Option<OomControl> {
    let mut files = Files::new(dir);
    let text = files.text("memory.oom_control")?;
    let of = |key| flat_key(text, key).unwrap_or_default();
    Some(OomControl {
        oom_kill_disable: of("oom_kill_disable"),
        under_oom: of("under_oom"),
        oom_kill: of("oom_kill"),
    })
}

/// The I/O scheduler's own counters (CFQ's, or BFQ's since kernel 5.0) where they count anything, else the
/// throttling layer's, as runc and containerd choose.
fn blkio(dir: &Dir) -> BlkIo {
    let mut files = Files::new(dir);
    let mut first = |names: [&str; 3]| {
        names.into_iter().map(|name| entries(files.text(name).unwrap_or_default())).find(|e| !e.is_empty())
    };
    let mut scheduler = |name: &str| {
        let (cfq, bfq) = (format!("blkio.{name}_recursive"), format!("blkio.bfq.{name}_recursive"));
        first([&cfq, &bfq, &format!("blkio.throttle.{name}_recursive")]).unwrap_or_default()
    };
    BlkIo {
        io_service_bytes_recursive: scheduler("io_service_bytes"),
        io_serviced_recursive: scheduler("io_serviced"),
        io_queued_recursive: scheduler("io_queued"),
        io_service_time_recursive: scheduler("io_service_time"),
        io_wait_time_recursive: scheduler("io_wait_time"),
        io_merged_recursive: scheduler("io_merged"),
        io_time_recursive: scheduler("time"),
        sectors_recursive: scheduler("sectors"),
    }
}

/// `8:0 Read 1234`, `8:0 1234`; the `Total` over all devices has no device.
fn entries(text: &str) -> Vec<BlkIoEntry> {
    let entry = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (device, op, value) = match fields.as_slice() {
            [device, value] => (*device, "", *value),
            [device, op, value] => (*device, *op, *value),
            _ => return None,
        };
        let (major, minor) = device.split_once(':')?;
        Some(BlkIoEntry {
            op: op.to_owned(),
            device: String::new(),
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            value: parse_u64(value)?,
        })
    };
    text.lines().filter_map(entry).collect()
}

fn hugetlb(dir: &Dir) -> Result<Vec<Hugetlb>, Error> {
    let mut files = Files::new(dir);
    let mut all = Vec::new();
    for size in stats::hugepage_sizes(dir, ".usage_in_bytes")? {
        let mut of = |file: &str| files.number(&format!("hugetlb.{size}.{file}")).unwrap_or_default();
        let (usage, max, failcnt) = (of("usage_in_bytes"), of("max_usage_in_bytes"), of("failcnt"));
        all.push(Hugetlb { usage, max, failcnt, pagesize: size.clone() });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_io_lines() {
        let all = entries("254:0 Read 8192\n254:0 Write 0\n254:16 77\nTotal 8192\n");
        let short: Vec<_> = all.iter().map(|e| (e.op.as_str(), e.major, e.minor, e.value)).collect();
        assert_eq!(short, [("Read", 254, 0, 8192), ("Write", 254, 0, 0), ("", 254, 16, 77)]);
    }

    #[test]
    fn every_field_has_a_key() {
        let mut memory = Memory::default();
        assert!(memory_field(&mut memory, "total_unevictable").is_some());
        assert!(memory_field(&mut memory, "shmem").is_none());
    }
}
