//! Statistics in the form of runc's `events` (its `types/events.go`): what monitoring tools parse.
//!
//! Numbers that are zero are left out where runc leaves them out, so that a reader finds the same keys.

use serde_json::{Map, Value, json};

use super::dir::{Dir, parse_u64};
use super::error::Error;
use super::layout::Mode;
use super::member::Member;
use super::stats::{self, Files};
use super::{Cgroup, v1, v2};
use crate::sorted::map_of;

/// The `data` of a stats event.
pub(super) fn report(cgroup: &Cgroup, resctrl: Option<Value>) -> Result<Value, Error> {
    let mut data = match cgroup.mode {
        Mode::V2 => of_v2(cgroup)?,
        Mode::V1 | Mode::Hybrid => of_v1(cgroup)?,
    };
    data.insert("intel_rdt".into(), resctrl.unwrap_or_else(|| json!({})));
    // runc fills it for networks of its own making only, which an OCI config can't ask for.
    data.insert("network_interfaces".into(), Value::Null);
    Ok(Value::Object(data))
}

/// An object that leaves zeros out.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn always(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    fn set(self, key: &str, value: u64) -> Self {
        if value == 0 { self } else { self.always(key, value) }
    }

    fn list<T: Into<Value>>(self, key: &str, list: Vec<T>) -> Self {
        if list.is_empty() { self } else { self.always(key, list) }
    }

    fn some(self, key: &str, value: Option<Value>) -> Self {
        match value {
            Some(value) => self.always(key, value),
            None => self,
        }
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

fn usage(limit: u64, usage: u64, max: u64, failcnt: u64) -> Value {
    Fields::default()
        .always("limit", limit)
        .set("usage", usage)
        .set("max", max)
        .always("failcnt", failcnt)
        .done()
}

/// Every line of memory.stat.
fn raw_memory(files: &mut Files<'_>) -> Map<String, Value> {
    let lines = files.text("memory.stat").unwrap_or_default().lines();
    let pairs = lines.filter_map(|line| line.split_once(' '));
    map_of(pairs.filter_map(|(k, v)| Some((k.to_owned(), parse_u64(v)?.into()))))
}

fn number(map: &Map<String, Value>, key: &str) -> u64 {
    map.get(key).and_then(Value::as_u64).unwrap_or_default()
}

fn of_v1(cgroup: &Cgroup) -> Result<Map<String, Value>, Error> {
    let metrics = v1::stats::read(cgroup)?;
    let dir = |name: &str| cgroup.v1(name).filter(|m| !m.is_denied()).map(Member::dir).transpose();
    let memory = metrics.memory.unwrap_or_default();
    let raw = dir("memory")?.map(|dir| raw_memory(&mut Files::new(dir))).unwrap_or_default();
    let entry = |e: stats::v1::MemoryEntry| usage(e.limit, e.usage, e.max, e.failcnt);
    let pids = metrics.pids.unwrap_or_default();
    let mut data = Map::new();
    data.insert("cpu".into(), v1_cpu(&metrics.cpu.unwrap_or_default(), dir("cpuacct")?));
    data.insert("cpuset".into(), dir("cpuset")?.map_or_else(no_cpuset, v1_cpuset));
    data.insert(
        "memory".into(),
        Fields::default()
            .set("cache", memory.cache)
            .always("usage", entry(memory.usage))
            .always("swap", entry(memory.swap))
            .always("kernel", entry(memory.kernel))
            .always("kernelTCP", entry(memory.kernel_tcp))
            .some("raw", (!raw.is_empty()).then_some(Value::Object(raw)))
            .done(),
    );
    data.insert(
        "pids".into(),
        Fields::default().set("current", pids.current).set("limit", pids.limit).done(),
    );
    data.insert("blkio".into(), v1_blkio(metrics.blkio.unwrap_or_default()));
    data.insert("hugetlb".into(), dir("hugetlb")?.map_or_else(|| Ok(json!({})), v1_hugetlb)?);
    Ok(data)
}

fn v1_cpu(cpu: &stats::v1::Cpu, cpuacct: Option<&Dir>) -> Value {
    let (user, kernel) = cpuacct.map(v1_percpu).unwrap_or_default();
    let usage = Fields::default()
        .set("total", cpu.usage_total)
        .list("percpu", cpu.per_cpu.clone())
        .list("percpu_kernel", kernel)
        .list("percpu_user", user)
        .always("kernel", cpu.usage_kernel)
        .always("user", cpu.usage_user);
    json!({ "usage": usage.done(), "throttling": throttling(cpu.periods, cpu.throttled_periods, cpu.throttled_time) })
}

fn throttling(periods: u64, throttled: u64, nanoseconds: u64) -> Value {
    let fields = Fields::default().set("periods", periods).set("throttledPeriods", throttled);
    fields.set("throttledTime", nanoseconds).done()
}

/// cpuacct.usage_all: `cpu user system` in nanoseconds, after a line of headings.
fn v1_percpu(dir: &Dir) -> (Vec<u64>, Vec<u64>) {
    let mut files = Files::new(dir);
    let lines = files.text("cpuacct.usage_all").unwrap_or_default().lines().skip(1);
    lines
        .filter_map(|line| {
            let mut numbers = line.split_ascii_whitespace().skip(1).filter_map(parse_u64);
            Some((numbers.next()?, numbers.next()?))
        })
        .unzip()
}

/// The switches of a cpuset: key in runc's JSON and file.
const CPUSET: [(&str, &str); 9] = [
    ("cpu_exclusive", "cpuset.cpu_exclusive"),
    ("mem_hardwall", "cpuset.mem_hardwall"),
    ("mem_exclusive", "cpuset.mem_exclusive"),
    ("memory_migrate", "cpuset.memory_migrate"),
    ("memory_spread_page", "cpuset.memory_spread_page"),
    ("memory_spread_slab", "cpuset.memory_spread_slab"),
    ("memory_pressure", "cpuset.memory_pressure"),
    ("sched_load_balance", "cpuset.sched_load_balance"),
    ("sched_relax_domain_level", "cpuset.sched_relax_domain_level"),
];

fn v1_cpuset(dir: &Dir) -> Value {
    let mut files = Files::new(dir);
    let mut all = Fields::default()
        .list("cpus", cpu_list(files.text("cpuset.cpus").unwrap_or_default()))
        .list("mems", cpu_list(files.text("cpuset.mems").unwrap_or_default()));
    for (key, file) in CPUSET {
        // Signed: sched_relax_domain_level is -1 by default.
        let value: i64 = files.text(file).and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        all = all.always(key, value);
    }
    all.done()
}

/// cgroup v2 has no such switches; runc prints zeros.
fn no_cpuset() -> Value {
    CPUSET.iter().fold(Fields::default(), |all, (key, _)| all.always(key, 0)).done()
}

/// The kernel's most processors (NR_CPUS is at most 8192) and memory nodes (1024).
const MOST_CPUS: u64 = 8192;

/// `0-2,5` (cpuset(7), "List format") as single numbers. What no kernel can write is left out: a range of all numbers
/// would not fit into memory.
pub(super) fn cpu_list(text: &str) -> Vec<u64> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((parse_u64(first)?, parse_u64(last)?)).filter(|(_, last)| *last < MOST_CPUS)
    };
    let numbers = text.trim().split(',').filter_map(range).flat_map(|(first, last)| first..=last);
    numbers.take(MOST_CPUS as usize).collect()
}

fn v1_blkio(blkio: stats::v1::BlkIo) -> Value {
    let list = |entries: Vec<stats::v1::BlkIoEntry>| {
        entries.into_iter().map(|e| io_entry(e.major, e.minor, &e.op, e.value)).collect::<Vec<_>>()
    };
    Fields::default()
        .list("ioServiceBytesRecursive", list(blkio.io_service_bytes_recursive))
        .list("ioServicedRecursive", list(blkio.io_serviced_recursive))
        .list("ioQueueRecursive", list(blkio.io_queued_recursive))
        .list("ioServiceTimeRecursive", list(blkio.io_service_time_recursive))
        .list("ioWaitTimeRecursive", list(blkio.io_wait_time_recursive))
        .list("ioMergedRecursive", list(blkio.io_merged_recursive))
        .list("ioTimeRecursive", list(blkio.io_time_recursive))
        .list("sectorsRecursive", list(blkio.sectors_recursive))
        .done()
}

fn io_entry(major: u64, minor: u64, op: &str, value: u64) -> Value {
    let fields = Fields::default().set("major", major).set("minor", minor);
    fields.some("op", (!op.is_empty()).then(|| op.into())).set("value", value).done()
}

/// Reservations where the kernel counts them (5.7), as in runc.
fn v1_hugetlb(dir: &Dir) -> Result<Value, Error> {
    let mut files = Files::new(dir);
    let mut all = Map::new();
    for size in stats::hugepage_sizes(dir, ".usage_in_bytes")? {
        let rsvd =
            if files.number(&format!("hugetlb.{size}.rsvd.usage_in_bytes")).is_some() { ".rsvd" } else { "" };
        let mut of = |file: &str| files.number(&format!("hugetlb.{size}{rsvd}.{file}")).unwrap_or_default();
        let fields =
            Fields::default().set("usage", of("usage_in_bytes")).set("max", of("max_usage_in_bytes"));
        all.insert(size.clone(), fields.always("failcnt", of("failcnt")).done());
    }
    Ok(Value::Object(all))
}

fn of_v2(cgroup: &Cgroup) -> Result<Map<String, Value>, Error> {
    let metrics = v2::stats::read(cgroup)?;
    let dir = cgroup.v2().filter(|member| !member.is_denied()).map(Member::dir).transpose()?;
    let mut data = Map::new();
    let cpu = metrics.cpu.unwrap_or_default();
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    let used = Fields::default()
        .set("total", nanoseconds(cpu.usage_usec))
        .always("kernel", nanoseconds(cpu.system_usec))
        .always("user", nanoseconds(cpu.user_usec));
    let throttled = throttling(cpu.nr_periods, cpu.nr_throttled, nanoseconds(cpu.throttled_usec));
    let fields = Fields::default().always("usage", used.done()).always("throttling", throttled);
    data.insert("cpu".into(), fields.some("psi", cpu.psi.map(psi)).done());
    data.insert("cpuset".into(), no_cpuset());
    data.insert("memory".into(), v2_memory(metrics.memory.unwrap_or_default(), dir));
    let pids = match metrics.pids {
        Some(pids) if pids.limit == u64::MAX => Fields::default().set("current", pids.current),
        Some(pids) => Fields::default().set("current", pids.current).set("limit", pids.limit),
        // Without the controller: the processes that are listed, as runc counts then.
        None => Fields::default().set("current", cgroup.pids()?.len() as u64),
    };
    data.insert("pids".into(), pids.done());
    data.insert("blkio".into(), dir.map_or_else(|| json!({}), |dir| v2_io(&mut Files::new(dir))));
    let hugetlb = metrics.hugetlb.into_iter().map(|page| {
        let used =
            dir.and_then(|dir| Files::new(dir).number(&format!("hugetlb.{}.rsvd.current", page.pagesize)));
        let fields = Fields::default().set("usage", used.unwrap_or(page.current));
        (page.pagesize, fields.always("failcnt", page.failcnt).done())
    });
    data.insert("hugetlb".into(), Value::Object(map_of(hugetlb)));
    Ok(data)
}

/// `swap` is memory and swap together, as on v1.
fn v2_memory(memory: stats::v2::Memory, dir: Option<&Dir>) -> Value {
    let raw = dir.map(|dir| raw_memory(&mut Files::new(dir))).unwrap_or_default();
    let swap_limit = match memory.swap_limit {
        u64::MAX => u64::MAX,
        limit => limit.saturating_add(memory.usage_limit),
    };
    let swap = usage(swap_limit, memory.swap_usage.saturating_add(memory.usage), 0, 0);
    // memory.pressure is there without the memory controller too.
    let pressure = memory.psi.or_else(|| v2::stats::psi(&mut Files::new(dir?), "memory.pressure"));
    Fields::default()
        .set("cache", number(&raw, "file"))
        .always("usage", usage(memory.usage_limit, memory.usage, memory.max_usage, 0))
        .always("swap", swap)
        .always("kernel", usage(0, 0, 0, 0))
        .always("kernelTCP", usage(0, 0, 0, 0))
        .some("raw", (!raw.is_empty()).then_some(Value::Object(raw)))
        .some("psi", pressure.map(psi))
        .done()
}

fn psi(psi: stats::v2::Psi) -> Value {
    let of = |data: stats::v2::PsiData| json!({"avg10": data.avg10, "avg60": data.avg60, "avg300": data.avg300, "total": data.total});
    json!({ "some": of(psi.some), "full": of(psi.full) })
}

/// io.stat: `8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0`.
fn v2_io(files: &mut Files<'_>) -> Value {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in files.text("io.stat").unwrap_or_default().lines() {
        let mut words = line.split_ascii_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Some(major), Some(minor)) = (parse_u64(major), parse_u64(minor)) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "dbytes" => (&mut bytes, "Discard"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                "dios" => (&mut operations, "Discard"),
                _ => continue,
            };
            list.push(io_entry(major, minor, op, parse_u64(value).unwrap_or_default()));
        }
    }
    Fields::default()
        .list("ioServiceBytesRecursive", bytes)
        .list("ioServicedRecursive", operations)
        .some("psi", v2::stats::psi(files, "io.pressure").map(psi))
        .done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpu_list("0-2,5\n"), [0, 1, 2, 5]);
        assert!(cpu_list("\n").is_empty());
        assert_eq!(cpu_list("0-18446744073709551615,7"), [7]);
    }

    #[test]
    fn zeros_are_left_out_where_runc_leaves_them_out() {
        assert_eq!(usage(5, 0, 0, 0), json!({"limit": 5, "failcnt": 0}));
        assert_eq!(io_entry(8, 0, "Read", 7), json!({"major": 8, "op": "Read", "value": 7}));
        assert_eq!(throttling(0, 0, 0), json!({}));
    }
}
