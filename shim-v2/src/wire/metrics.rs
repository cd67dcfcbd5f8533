//! Statistics of a cgroup as containerd's metrics messages. The field names are the same on both sides.

use containerd_shim_protos::{cgroups::metrics as pb1, cgroups_v2::metrics as pb2};
use davit::cgroup::stats::{Stats, v1, v2};
use protobuf::{Message, MessageField};

use crate::api::Any;

/// `copy!(from => Message { same-named fields } extra: value, …)`
macro_rules! copy {
    ($from:expr => $message:path { $($field:ident),* $(,)? } $($extra:ident : $value:expr),* $(,)?) => {{
        let from = $from;
        #[allow(clippy::needless_update)]
        {
            let mut to = <$message>::default();
            $(to.$field = from.$field.clone().into();)*
            $(to.$extra = $value;)*
            to
        }
    }};
}

/// Encodes the message that fits the host's cgroup version.
#[must_use]
pub fn encode(stats: &Stats) -> Any {
    match stats {
        Stats::V1(metrics) => pack("io.containerd.cgroups.v1.Metrics", &of_v1(metrics)),
        Stats::V2(metrics) => pack("io.containerd.cgroups.v2.Metrics", &of_v2(metrics)),
    }
}

fn pack<M: Message>(url: &str, message: &M) -> Any {
    Any { url: url.to_owned(), value: message.write_to_bytes().unwrap_or_default() }
}

fn field<T, M>(value: Option<&T>, convert: impl FnOnce(&T) -> M) -> MessageField<M> {
    value.map_or_else(MessageField::none, |v| MessageField::some(convert(v)))
}

fn of_v1(m: &v1::Metrics) -> pb1::Metrics {
    pb1::Metrics {
        hugetlb: m
            .hugetlb
            .iter()
            .map(|h| copy!(h => pb1::HugetlbStat { usage, max, failcnt, pagesize }))
            .collect(),
        pids: field(m.pids.as_ref(), |p| copy!(p => pb1::PidsStat { current, limit })),
        cpu: field(m.cpu.as_ref(), cpu_v1),
        memory: field(m.memory.as_ref(), memory_v1),
        blkio: field(m.blkio.as_ref(), blkio),
        rdma: field(m.rdma.as_ref(), |r| pb1::RdmaStat {
            current: r.current.iter().map(rdma_v1).collect(),
            limit: r.limit.iter().map(rdma_v1).collect(),
            ..Default::default()
        }),
        memory_oom_control: field(
            m.memory_oom_control.as_ref(),
            |o| copy!(o => pb1::MemoryOomControl { oom_kill_disable, under_oom, oom_kill }),
        ),
        ..Default::default()
    }
}

fn rdma_v1(entry: &v1::RdmaEntry) -> pb1::RdmaEntry {
    copy!(entry => pb1::RdmaEntry { device, hca_handles, hca_objects })
}

fn cpu_v1(c: &v1::Cpu) -> pb1::CPUStat {
    let usage = copy!(c => pb1::CPUUsage { per_cpu }
        total: c.usage_total, kernel: c.usage_kernel, user: c.usage_user);
    let throttling = copy!(c => pb1::Throttle { periods, throttled_periods, throttled_time });
    pb1::CPUStat {
        usage: MessageField::some(usage),
        throttling: MessageField::some(throttling),
        ..Default::default()
    }
}

fn memory_v1(m: &v1::Memory) -> pb1::MemoryStat {
    let entry =
        |e: &v1::MemoryEntry| MessageField::some(copy!(e => pb1::MemoryEntry { limit, usage, max, failcnt }));
    copy!(m => pb1::MemoryStat {
        cache, rss, rss_huge, mapped_file, dirty, writeback, pg_pg_in, pg_pg_out, pg_fault, pg_maj_fault,
        inactive_anon, active_anon, inactive_file, active_file, unevictable, hierarchical_memory_limit,
        hierarchical_swap_limit, total_cache, total_rss, total_rss_huge, total_mapped_file, total_dirty,
        total_writeback, total_pg_pg_in, total_pg_pg_out, total_pg_fault, total_pg_maj_fault,
        total_inactive_anon, total_active_anon, total_inactive_file, total_active_file, total_unevictable,
    }
    usage: entry(&m.usage), swap: entry(&m.swap), kernel: entry(&m.kernel), kernel_tcp: entry(&m.kernel_tcp))
}

fn blkio(b: &v1::BlkIo) -> pb1::BlkIOStat {
    let list = |entries: &[v1::BlkIoEntry]| {
        entries.iter().map(|e| copy!(e => pb1::BlkIOEntry { op, device, major, minor, value })).collect()
    };
    pb1::BlkIOStat {
        io_service_bytes_recursive: list(&b.io_service_bytes_recursive),
        io_serviced_recursive: list(&b.io_serviced_recursive),
        io_queued_recursive: list(&b.io_queued_recursive),
        io_service_time_recursive: list(&b.io_service_time_recursive),
        io_wait_time_recursive: list(&b.io_wait_time_recursive),
        io_merged_recursive: list(&b.io_merged_recursive),
        io_time_recursive: list(&b.io_time_recursive),
        sectors_recursive: list(&b.sectors_recursive),
        ..Default::default()
    }
}

fn of_v2(m: &v2::Metrics) -> pb2::Metrics {
    pb2::Metrics {
        pids: field(m.pids.as_ref(), |p| copy!(p => pb2::PidsStat { current, limit })),
        cpu: field(m.cpu.as_ref(), |c| {
            copy!(c => pb2::CPUStat {
                usage_usec, user_usec, system_usec, nr_periods, nr_throttled, throttled_usec, nr_bursts,
                burst_usec,
            } psi: psi(c.psi.as_ref()))
        }),
        memory: field(m.memory.as_ref(), memory_v2),
        rdma: field(m.rdma.as_ref(), |r| pb2::RdmaStat {
            current: r.current.iter().map(rdma_v2).collect(),
            limit: r.limit.iter().map(rdma_v2).collect(),
            ..Default::default()
        }),
        io: field(m.io.as_ref(), |io| pb2::IOStat {
            usage: io
                .usage
                .iter()
                .map(|e| copy!(e => pb2::IOEntry { major, minor, rbytes, wbytes, rios, wios }))
                .collect(),
            psi: psi(io.psi.as_ref()),
            ..Default::default()
        }),
        hugetlb: m
            .hugetlb
            .iter()
            .map(|h| copy!(h => pb2::HugeTlbStat { current, max, pagesize, failcnt }))
            .collect(),
        memory_events: field(
            m.memory_events.as_ref(),
            |e| copy!(e => pb2::MemoryEvents { low, high, max, oom, oom_kill, oom_group_kill }),
        ),
        ..Default::default()
    }
}

fn rdma_v2(entry: &v2::RdmaEntry) -> pb2::RdmaEntry {
    copy!(entry => pb2::RdmaEntry { device, hca_handles, hca_objects })
}

fn psi(value: Option<&v2::Psi>) -> MessageField<pb2::PSIStats> {
    let data = |d: &v2::PsiData| MessageField::some(copy!(d => pb2::PSIData { avg10, avg60, avg300, total }));
    field(value, |p| pb2::PSIStats { some: data(&p.some), full: data(&p.full), ..Default::default() })
}

fn memory_v2(m: &v2::Memory) -> pb2::MemoryStat {
    copy!(m => pb2::MemoryStat {
        anon, file, kernel_stack, slab, sock, shmem, file_mapped, file_dirty, file_writeback, anon_thp,
        inactive_anon, active_anon, inactive_file, active_file, unevictable, slab_reclaimable,
        slab_unreclaimable, pgfault, pgmajfault, workingset_refault, workingset_activate,
        workingset_nodereclaim, pgrefill, pgscan, pgsteal, pgactivate, pgdeactivate, pglazyfree, pglazyfreed,
        thp_fault_alloc, thp_collapse_alloc, usage, usage_limit, swap_usage, swap_limit, max_usage,
        swap_max_usage,
    } psi: psi(m.psi.as_ref()))
}
