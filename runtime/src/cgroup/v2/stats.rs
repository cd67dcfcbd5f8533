//! Metrics of cgroup v2.

use std::str::SplitAsciiWhitespace;

use crate::cgroup::dir::{Dir, parse_u64};
use crate::cgroup::error::Error;
use crate::cgroup::stats::v2::{
    Cpu, Hugetlb, Io, IoEntry, Memory, MemoryEvents, Metrics, Pids, Psi, PsiData,
};
use crate::cgroup::stats::{Files, rdma};
use crate::cgroup::{Cgroup, stats};

/// Reads what is there; one buffer for all files.
pub(in crate::cgroup) fn read(cgroup: &Cgroup) -> Result<Metrics, Error> {
    let Some(member) = cgroup.v2().filter(|member| !member.is_denied()) else {
        return Ok(Metrics::default());
    };
    let dir = member.dir()?;
    let mut files = Files::new(dir);
    // Present in every cgroup: tells one that is gone from one without controllers.
    let controllers = files.required("cgroup.controllers")?.to_owned();
    let has = |name: &str| controllers.split_ascii_whitespace().any(|c| c == name);
    Ok(Metrics {
        cpu: cpu(&mut files),
        pids: if has("pids") { pids(&mut files) } else { None },
        memory: if has("memory") { Some(memory(&mut files)) } else { None },
        memory_events: if has("memory") { events(&mut files) } else { None },
        io: if has("io") { Some(io(&mut files)) } else { None },
        hugetlb: if has("hugetlb") { hugetlb(dir, &mut files)? } else { Vec::new() },
        rdma: if has("rdma") { rdma(&mut files) } else { None },
    })
}

fn pids(files: &mut Files<'_>) -> Option<Pids> {
    Some(Pids { current: files.number("pids.current")?, limit: files.number("pids.max").unwrap_or(u64::MAX) })
}

/// `key value` lines.
fn keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, parse_u64(value)?))
    })
}

/// cpu.stat has the usage even without the cpu controller.
fn cpu(files: &mut Files<'_>) -> Option<Cpu> {
    let mut cpu = Cpu::default();
    for (key, value) in keyed(files.text("cpu.stat")?) {
        match key {
            "usage_usec" => cpu.usage_usec = value,
            "user_usec" => cpu.user_usec = value,
            "system_usec" => cpu.system_usec = value,
            "nr_periods" => cpu.nr_periods = value,
            "nr_throttled" => cpu.nr_throttled = value,
            "throttled_usec" => cpu.throttled_usec = value,
            "nr_bursts" => cpu.nr_bursts = value,
            "burst_usec" => cpu.burst_usec = value,
            _ => {}
        }
    }
    cpu.psi = psi(files, "cpu.pressure");
    Some(cpu)
}

fn memory(files: &mut Files<'_>) -> Memory {
    let mut memory = Memory::default();
    for (key, value) in keyed(files.text("memory.stat").unwrap_or_default()) {
        memory_stat(&mut memory, key, value);
    }
    for (file, field) in [
        ("memory.current", &mut memory.usage),
        ("memory.max", &mut memory.usage_limit),
        ("memory.peak", &mut memory.max_usage),
        ("memory.swap.current", &mut memory.swap_usage),
        ("memory.swap.max", &mut memory.swap_limit),
        ("memory.swap.peak", &mut memory.swap_max_usage),
    ] {
        *field = files.number(file).unwrap_or_default();
    }
    memory.psi = psi(files, "memory.pressure");
    memory
}

/// One line of memory.stat. `workingset_refault` and `workingset_activate` were split into anon and file in 5.9:
/// containerd's fields take the sum.
fn memory_stat(memory: &mut Memory, key: &str, value: u64) {
    let field = match key {
        "anon" => &mut memory.anon,
        "file" => &mut memory.file,
        "kernel_stack" => &mut memory.kernel_stack,
        "slab" => &mut memory.slab,
        "sock" => &mut memory.sock,
        "shmem" => &mut memory.shmem,
        "file_mapped" => &mut memory.file_mapped,
        "file_dirty" => &mut memory.file_dirty,
        "file_writeback" => &mut memory.file_writeback,
        "anon_thp" => &mut memory.anon_thp,
        "inactive_anon" => &mut memory.inactive_anon,
        "active_anon" => &mut memory.active_anon,
        "inactive_file" => &mut memory.inactive_file,
        "active_file" => &mut memory.active_file,
        "unevictable" => &mut memory.unevictable,
        "slab_reclaimable" => &mut memory.slab_reclaimable,
        "slab_unreclaimable" => &mut memory.slab_unreclaimable,
        "pgfault" => &mut memory.pgfault,
        "pgmajfault" => &mut memory.pgmajfault,
        "workingset_refault" | "workingset_refault_anon" | "workingset_refault_file" => {
            &mut memory.workingset_refault
        }
        "workingset_activate" | "workingset_activate_anon" | "workingset_activate_file" => {
            &mut memory.workingset_activate
        }
        "workingset_nodereclaim" => &mut memory.workingset_nodereclaim,
        "pgrefill" => &mut memory.pgrefill,
        "pgscan" => &mut memory.pgscan,
        "pgsteal" => &mut memory.pgsteal,
        "pgactivate" => &mut memory.pgactivate,
        "pgdeactivate" => &mut memory.pgdeactivate,
        "pglazyfree" => &mut memory.pglazyfree,
        "pglazyfreed" => &mut memory.pglazyfreed,
        "thp_fault_alloc" => &mut memory.thp_fault_alloc,
        "thp_collapse_alloc" => &mut memory.thp_collapse_alloc,
        _ => return,
    };
    *field = field.saturating_add(value);
}

fn events(files: &mut Files<'_>) -> Option<MemoryEvents> {
    let mut events = MemoryEvents::default();
    for (key, value) in keyed(files.text("memory.events")?) {
        match key {
            "low" => events.low = value,
            "high" => events.high = value,
            "max" => events.max = value,
            "oom" => events.oom = value,
            "oom_kill" => events.oom_kill = value,
            "oom_group_kill" => events.oom_group_kill = value,
            _ => {}
        }
    }
    Some(events)
}

fn io(files: &mut Files<'_>) -> Io {
    let usage = files.text("io.stat").unwrap_or_default().lines().filter_map(io_line).collect();
    Io { usage, psi: psi(files, "io.pressure") }
}

/// `8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0`.
fn io_line(line: &str) -> Option<IoEntry> {
    let mut fields = line.split_ascii_whitespace();
    let (major, minor) = fields.next()?.split_once(':')?;
    let mut entry = IoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoEntry::default() };
    for (key, value) in pairs(fields) {
        match key {
            "rbytes" => entry.rbytes = value,
            "wbytes" => entry.wbytes = value,
            "rios" => entry.rios = value,
            "wios" => entry.wios = value,
            _ => {}
        }
    }
    Some(entry)
}

fn pairs(fields: SplitAsciiWhitespace<'_>) -> impl Iterator<Item = (&str, u64)> {
    fields.filter_map(|field| {
        let (key, value) = field.split_once('=')?;
        Some((key, parse_u64(value)?))
    })
}

/// None without CONFIG_PSI, or with it switched off (EOPNOTSUPP).
pub(in crate::cgroup) fn psi(files: &mut Files<'_>, file: &str) -> Option<Psi> {
    let mut psi = Psi::default();
    for line in files.text(file)?.lines() {
        let mut fields = line.split_ascii_whitespace();
        let data = match fields.next()? {
            "some" => &mut psi.some,
            "full" => &mut psi.full,
            _ => continue,
        };
        *data = psi_data(fields);
    }
    Some(psi)
}

/// `avg10=0.00 avg60=0.12 avg300=0.05 total=1234`.
fn psi_data(fields: SplitAsciiWhitespace<'_>) -> PsiData {
    let mut data = PsiData::default();
    for (key, value) in fields.filter_map(|field| field.split_once('=')) {
        let average = value.parse().unwrap_or_default();
        match key {
            "avg10" => data.avg10 = average,
            "avg60" => data.avg60 = average,
            "avg300" => data.avg300 = average,
            "total" => data.total = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    data
}

fn hugetlb(dir: &Dir, files: &mut Files<'_>) -> Result<Vec<Hugetlb>, Error> {
    let mut all = Vec::new();
    for size in stats::hugepage_sizes(dir, ".current")? {
        all.push(Hugetlb {
            current: files.number(&format!("hugetlb.{size}.current")).unwrap_or_default(),
            max: files.number(&format!("hugetlb.{size}.max")).unwrap_or_default(),
            failcnt: keyed(files.text(&format!("hugetlb.{size}.events")).unwrap_or_default())
                .find_map(|(key, value)| (key == "max").then_some(value))
                .unwrap_or_default(),
            pagesize: size.clone(),
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_stat_line() {
        let entry = io_line("254:0 rbytes=10 wbytes=20 rios=3 wios=4 dbytes=0 dios=0").unwrap();
        assert_eq!(entry, IoEntry { major: 254, minor: 0, rbytes: 10, wbytes: 20, rios: 3, wios: 4 });
        assert_eq!(io_line("nonsense"), None);
    }

    #[test]
    fn psi_line() {
        let data = psi_data("avg10=0.50 avg60=1.25 avg300=0.05 total=99".split_ascii_whitespace());
        assert_eq!(data, PsiData { avg10: 0.5, avg60: 1.25, avg300: 0.05, total: 99 });
    }

    #[test]
    fn memory_stat_sums_what_the_kernel_split() {
        let mut memory = Memory::default();
        for (key, value) in
            keyed("anon 5\nworkingset_refault_anon 2\nworkingset_refault_file 3\nunknown 7\nbad\n")
        {
            memory_stat(&mut memory, key, value);
        }
        assert_eq!((memory.anon, memory.workingset_refault), (5, 5));
    }
}
