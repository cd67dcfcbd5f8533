//! What a cgroup counts, in the shape of containerd's metrics messages.
//!
//! Field names are those of `io.containerd.cgroups.v1.Metrics` and `io.containerd.cgroups.v2.Metrics`, so the
//! shim copies them one by one. A missing file gives the default (0 or empty): which controllers exist
//! depends on the host. `max` in a limit file is `u64::MAX`.

use std::sync::OnceLock;

use super::dir::{Dir, parse_u64};
use super::error::Error;
use crate::sorted::list_of;

/// Statistics of a cgroup.
#[derive(Clone, Debug, PartialEq)]
pub enum Stats {
    /// cgroup v1 and hybrid: `io.containerd.cgroups.v1.Metrics`.
    V1(Box<v1::Metrics>),
    /// Pure cgroup v2: `io.containerd.cgroups.v2.Metrics`.
    V2(Box<v2::Metrics>),
}

/// One RDMA device's use or limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    /// Name of the device.
    pub device: String,
    /// HCA handles.
    pub hca_handles: u32,
    /// HCA objects.
    pub hca_objects: u32,
}

/// rdma.current and rdma.max.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rdma {
    /// In use.
    pub current: Vec<RdmaEntry>,
    /// Limits.
    pub limit: Vec<RdmaEntry>,
}

/// pids.current and pids.max.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// Tasks.
    pub current: u64,
    /// Limit. No limit is 0 on v1 and `u64::MAX` on v2: so containerd reports it.
    pub limit: u64,
}

/// Structs of cgroup v1.
#[allow(missing_docs, reason = "the fields are the keys of the kernel's files")]
pub mod v1 {
    pub use super::{Pids, Rdma, RdmaEntry};

    /// All of it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Metrics {
        pub hugetlb: Vec<Hugetlb>,
        pub pids: Option<Pids>,
        pub cpu: Option<Cpu>,
        pub memory: Option<Memory>,
        pub blkio: Option<BlkIo>,
        pub rdma: Option<Rdma>,
        pub memory_oom_control: Option<OomControl>,
    }

    /// One page size's hugetlb.* files, in bytes.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Hugetlb {
        pub usage: u64,
        pub max: u64,
        pub failcnt: u64,
        pub pagesize: String,
    }

    /// cpuacct.* in nanoseconds and cpu.stat.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Cpu {
        pub usage_total: u64,
        pub usage_kernel: u64,
        pub usage_user: u64,
        pub per_cpu: Vec<u64>,
        pub periods: u64,
        pub throttled_periods: u64,
        pub throttled_time: u64,
    }

    /// One memory counter, in bytes.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MemoryEntry {
        pub limit: u64,
        pub usage: u64,
        pub max: u64,
        pub failcnt: u64,
    }

    /// memory.stat and the counters.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Memory {
        pub cache: u64,
        pub rss: u64,
        pub rss_huge: u64,
        pub mapped_file: u64,
        pub dirty: u64,
        pub writeback: u64,
        pub pg_pg_in: u64,
        pub pg_pg_out: u64,
        pub pg_fault: u64,
        pub pg_maj_fault: u64,
        pub inactive_anon: u64,
        pub active_anon: u64,
        pub inactive_file: u64,
        pub active_file: u64,
        pub unevictable: u64,
        pub hierarchical_memory_limit: u64,
        pub hierarchical_swap_limit: u64,
        pub total_cache: u64,
        pub total_rss: u64,
        pub total_rss_huge: u64,
        pub total_mapped_file: u64,
        pub total_dirty: u64,
        pub total_writeback: u64,
        pub total_pg_pg_in: u64,
        pub total_pg_pg_out: u64,
        pub total_pg_fault: u64,
        pub total_pg_maj_fault: u64,
        pub total_inactive_anon: u64,
        pub total_active_anon: u64,
        pub total_inactive_file: u64,
        pub total_active_file: u64,
        pub total_unevictable: u64,
        pub usage: MemoryEntry,
        pub swap: MemoryEntry,
        pub kernel: MemoryEntry,
        pub kernel_tcp: MemoryEntry,
    }

    /// memory.oom_control.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct OomControl {
        pub oom_kill_disable: u64,
        pub under_oom: u64,
        pub oom_kill: u64,
    }

    /// One line of a blkio file.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct BlkIoEntry {
        pub op: String,
        pub device: String,
        pub major: u64,
        pub minor: u64,
        pub value: u64,
    }

    /// blkio.*_recursive, or blkio.throttle.* where the scheduler keeps none.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct BlkIo {
        pub io_service_bytes_recursive: Vec<BlkIoEntry>,
        pub io_serviced_recursive: Vec<BlkIoEntry>,
        pub io_queued_recursive: Vec<BlkIoEntry>,
        pub io_service_time_recursive: Vec<BlkIoEntry>,
        pub io_wait_time_recursive: Vec<BlkIoEntry>,
        pub io_merged_recursive: Vec<BlkIoEntry>,
        pub io_time_recursive: Vec<BlkIoEntry>,
        pub sectors_recursive: Vec<BlkIoEntry>,
    }
}

/// Structs of cgroup v2.
#[allow(missing_docs, reason = "the fields are the keys of the kernel's files")]
pub mod v2 {
    pub use super::{Pids, Rdma, RdmaEntry};

    /// All of it.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct Metrics {
        pub pids: Option<Pids>,
        pub cpu: Option<Cpu>,
        pub memory: Option<Memory>,
        pub rdma: Option<Rdma>,
        pub io: Option<Io>,
        pub hugetlb: Vec<Hugetlb>,
        pub memory_events: Option<MemoryEvents>,
    }

    /// One line of a *.pressure file.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct PsiData {
        pub avg10: f64,
        pub avg60: f64,
        pub avg300: f64,
        /// Microseconds.
        pub total: u64,
    }

    /// A *.pressure file (kernel 4.20, CONFIG_PSI).
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct Psi {
        pub some: PsiData,
        pub full: PsiData,
    }

    /// cpu.stat; bursts since kernel 5.14.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct Cpu {
        pub usage_usec: u64,
        pub user_usec: u64,
        pub system_usec: u64,
        pub nr_periods: u64,
        pub nr_throttled: u64,
        pub throttled_usec: u64,
        pub psi: Option<Psi>,
        pub nr_bursts: u64,
        pub burst_usec: u64,
    }

    /// memory.stat and the counters, in bytes.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct Memory {
        pub anon: u64,
        pub file: u64,
        pub kernel_stack: u64,
        pub slab: u64,
        pub sock: u64,
        pub shmem: u64,
        pub file_mapped: u64,
        pub file_dirty: u64,
        pub file_writeback: u64,
        pub anon_thp: u64,
        pub inactive_anon: u64,
        pub active_anon: u64,
        pub inactive_file: u64,
        pub active_file: u64,
        pub unevictable: u64,
        pub slab_reclaimable: u64,
        pub slab_unreclaimable: u64,
        pub pgfault: u64,
        pub pgmajfault: u64,
        pub workingset_refault: u64,
        pub workingset_activate: u64,
        pub workingset_nodereclaim: u64,
        pub pgrefill: u64,
        pub pgscan: u64,
        pub pgsteal: u64,
        pub pgactivate: u64,
        pub pgdeactivate: u64,
        pub pglazyfree: u64,
        pub pglazyfreed: u64,
        pub thp_fault_alloc: u64,
        pub thp_collapse_alloc: u64,
        pub usage: u64,
        pub usage_limit: u64,
        pub swap_usage: u64,
        pub swap_limit: u64,
        /// memory.peak (kernel 5.19).
        pub max_usage: u64,
        /// memory.swap.peak (kernel 6.5).
        pub swap_max_usage: u64,
        pub psi: Option<Psi>,
    }

    /// memory.events.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MemoryEvents {
        pub low: u64,
        pub high: u64,
        pub max: u64,
        pub oom: u64,
        pub oom_kill: u64,
        pub oom_group_kill: u64,
    }

    /// One line of io.stat.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct IoEntry {
        pub major: u64,
        pub minor: u64,
        pub rbytes: u64,
        pub wbytes: u64,
        pub rios: u64,
        pub wios: u64,
    }

    /// io.stat and io.pressure.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct Io {
        pub usage: Vec<IoEntry>,
        pub psi: Option<Psi>,
    }

    /// One page size's hugetlb.* files, in bytes.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Hugetlb {
        pub current: u64,
        pub max: u64,
        pub pagesize: String,
        pub failcnt: u64,
    }
}

/// Reads control files of one cgroup into one buffer.
pub(super) struct Files<'d> {
    dir: &'d Dir,
    buffer: Vec<u8>,
}

impl<'d> Files<'d> {
    pub(super) fn new(dir: &'d Dir) -> Files<'d> {
        Files { dir, buffer: Vec::new() }
    }

    /// The text of a file that every cgroup has.
    pub(super) fn required(&mut self, file: &str) -> Result<&str, Error> {
        self.dir.read_record(file, &mut self.buffer)?;
        Ok(std::str::from_utf8(&self.buffer).unwrap_or_default())
    }

    /// The text of a file, None when it is missing or unreadable: which ones exist depends on the kernel.
    pub(super) fn text(&mut self, file: &str) -> Option<&str> {
        self.required(file).ok()
    }

    /// The number in a file, `u64::MAX` for `max`.
    pub(super) fn number(&mut self, file: &str) -> Option<u64> {
        parse_u64(self.text(file)?)
    }
}

/// rdma.current and rdma.max: `mlx4_0 hca_handle=2 hca_object=max`.
pub(super) fn rdma(files: &mut Files<'_>) -> Option<Rdma> {
    let current = rdma_entries(files.text("rdma.current")?);
    let limit = rdma_entries(files.text("rdma.max").unwrap_or_default());
    Some(Rdma { current, limit })
}

fn rdma_entries(text: &str) -> Vec<RdmaEntry> {
    let number = |value: &str| if value == "max" { u32::MAX } else { value.parse().unwrap_or_default() };
    let entry = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let mut entry = RdmaEntry { device: fields.next()?.to_owned(), ..RdmaEntry::default() };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            match key {
                "hca_handle" => entry.hca_handles = number(value),
                "hca_object" => entry.hca_objects = number(value),
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

/// Page sizes that the hugetlb controller counts, from its files `hugetlb.<size><suffix>`. They are the same in
/// every cgroup for as long as the host runs, so one listing is enough.
pub(super) fn hugepage_sizes(dir: &Dir, suffix: &str) -> Result<&'static [String], Error> {
    static SIZES: OnceLock<Vec<String>> = OnceLock::new();
    if let Some(sizes) = SIZES.get() {
        return Ok(sizes);
    }
    let names = dir.files()?;
    let size = |name: &String| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
        (!size.contains('.')).then(|| size.to_owned())
    };
    let sizes = list_of(names.iter().filter_map(size));
    Ok(SIZES.get_or_init(|| sizes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rdma_lines() {
        let all = rdma_entries("mlx4_0 hca_handle=2 hca_object=max\nocrdma1 hca_handle=3\n");
        let expected = [("mlx4_0", 2, u32::MAX), ("ocrdma1", 3, 0)];
        let got: Vec<_> = all.iter().map(|e| (e.device.as_str(), e.hca_handles, e.hca_objects)).collect();
        assert_eq!(got, expected);
    }
}
