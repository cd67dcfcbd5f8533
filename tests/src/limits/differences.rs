//! What is meant to differ from runc, with the reason.

use std::collections::BTreeSet;

use super::{Age, Tree};

/// A difference that is meant.
#[derive(Debug)]
pub struct Difference {
    /// The rows that have it; `*` in front: any other may have it too.
    pub rows: &'static [&'static str],
    /// The trees that have it.
    pub trees: &'static [Tree],
    /// Beside which runc.
    pub ages: &'static [Age],
    /// Part of `hierarchy/file`, or `error` when one of the two fails.
    pub file: &'static str,
    /// What davit's side contains.
    pub davit: &'static str,
    /// What runc's side contains.
    pub runc: &'static str,
    /// Why it is meant.
    pub reason: &'static str,
}

const V1: &[Tree] = &[Tree::V1];
const BARE: &[Tree] = &[Tree::BareV2];
const WHOLE: &[Tree] = &[Tree::V2, Tree::Systemd];
const OLD: &[Age] = &[Age::Old];
const ALL: &[Age] = &[Age::Old, Age::New];

const NOT_UPDATED: &str = "runc's update leaves this field of its input unread; davit does what it is told";
const SINCE_1_2: &str = "runc has this since 1.2";
const CONVERSION: &str =
    "runc 1.1 has the linear conversion of shares to weights, runc since 1.4 the quadratic one";
const NOT_ENFORCED: &str = "the controller is missing: runc says nothing and the limit does not hold";
const ZERO_PIDS: &str =
    "0 is no further process at all, which the kernel's 1 comes to; runc writes that since 1.4";

/// All of them.
pub const DIFFERENCES: &[Difference] = &[
    any(&["memory.swappiness"], V1, ALL, "memory.swappiness", NOT_UPDATED),
    any(&["memory.disableOOMKiller"], V1, ALL, "memory.oom_control", NOT_UPDATED),
    any(&["devices"], V1, ALL, "devices.list", NOT_UPDATED),
    any(&["hugepageLimits"], BARE, ALL, "hugetlb.2MB.max", NOT_UPDATED),
    any(&["hugepageLimits"], BARE, ALL, "hugetlb.2MB.rsvd.max", NOT_UPDATED),
    any(&["hugepageLimits"], BARE, ALL, "hugetlb.1GB.max", NOT_UPDATED),
    any(&["hugepageLimits"], BARE, ALL, "hugetlb.1GB.rsvd.max", NOT_UPDATED),
    Difference {
        davit: "cannot set",
        runc: "succeeds",
        ..any(&["rdma later"], &[Tree::V1, Tree::BareV2], ALL, "error", NOT_UPDATED)
    },
    Difference {
        davit: "blkio.leaf_weight",
        runc: "succeeds",
        ..any(&["blockIO.leafWeight later"], V1, OLD, "error", NOT_UPDATED)
    },
    any(THROTTLES, V1, OLD, "blkio.throttle.", "runc 1.1's update does not read throttles"),
    any(
        &["blockIO.weightDevice"],
        V1,
        OLD,
        "blkio.bfq.weight_device",
        "runc 1.1's update does not read weights",
    ),
    any(
        &["memory.kernelTCP"],
        V1,
        ALL,
        "memory.kmem.tcp.limit_in_bytes",
        "runc ignores kernelTCP, which kernels with cgroup v1 still have; crun writes it",
    ),
    any(&["pids.limit 0"], V1, ALL, "pids.max", ZERO_PIDS),
    Difference {
        davit: "cannot set",
        runc: "succeeds",
        ..any(&["pids.limit 0"], BARE, ALL, "error", ZERO_PIDS)
    },
    any(&["cpu.idle", "cpu.idle, shares"], V1, OLD, "cpu.idle", SINCE_1_2),
    any(&["cpu.idle", "cpu.idle, shares"], V1, OLD, "cpu.shares", "an idle cgroup has the least share"),
    Difference {
        davit: "write 2 to cpu.idle",
        runc: "succeeds",
        ..any(&["cpu.idle 2"], V1, OLD, "error", SINCE_1_2)
    },
    any(&["cpu.burst"], V1, OLD, "cpu.cfs_burst_us", SINCE_1_2),
    Difference {
        davit: "cpu.cfs_quota_us",
        runc: "succeeds",
        ..any(&["cpu.burst above the quota"], V1, OLD, "error", SINCE_1_2)
    },
    Difference {
        davit: "cannot set",
        runc: "succeeds",
        ..any(&["cpu.idle", "cpu.idle 2"], BARE, OLD, "error", NOT_ENFORCED)
    },
    Difference {
        davit: "cannot set",
        runc: "succeeds",
        ..any(&["blockIO.weightDevice", "blockIO.weightDevice without BFQ"], BARE, ALL, "error", NOT_ENFORCED)
    },
    Difference {
        davit: "succeeds",
        runc: "cannot set hugetlb limit",
        ..any(&["hugepageLimits"], V1, ALL, "error", "davit finds a hybrid tree's controller on its v2 side")
    },
    any(&["cpu.shares", "cpu.shares 0", "all at once"], WHOLE, OLD, "cpu.weight", CONVERSION),
    Difference {
        davit: "succeeds",
        runc: "out of range",
        ..any(
            &["cpu.shares 1", "cpu.shares above"],
            WHOLE,
            OLD,
            "error",
            "davit takes what is out of range as its nearest bound, which cgroup v1 does too",
        )
    },
    any(&["cpu.idle", "cpu.idle, shares"], WHOLE, OLD, "cpu.idle", SINCE_1_2),
    any(&["cpu.idle", "cpu.idle, shares"], WHOLE, OLD, "cpu.weight", "an idle cgroup has the least weight"),
    Difference {
        davit: "write 2 to cpu.idle",
        runc: "succeeds",
        ..any(&["cpu.idle 2"], WHOLE, OLD, "error", SINCE_1_2)
    },
    any(&["cpu.burst"], WHOLE, OLD, "cpu.max.burst", SINCE_1_2),
    Difference {
        davit: "cpu.max",
        runc: "succeeds",
        ..any(&["cpu.burst above the quota"], WHOLE, OLD, "error", SINCE_1_2)
    },
    any(&["pids.limit 0"], WHOLE, OLD, "pids.max", ZERO_PIDS),
    any(THROTTLES, WHOLE, OLD, "io.max", "runc 1.1's update does not read throttles"),
    any(
        &["blockIO.weightDevice"],
        WHOLE,
        OLD,
        "io.bfq.weight",
        "runc 1.1's update does not read weights of devices",
    ),
    any(&["hugepageLimits"], WHOLE, OLD, "hugetlb.2MB", NOT_UPDATED),
    Difference {
        davit: "hugetlb.1GB.max",
        runc: "succeeds",
        ..any(&["hugepageLimits"], WHOLE, OLD, "error", NOT_UPDATED)
    },
    Difference {
        davit: "rdma.max",
        runc: "succeeds",
        ..any(&["rdma later"], WHOLE, OLD, "error", NOT_UPDATED)
    },
    any(
        &["memory.swap"],
        &[Tree::V2],
        OLD,
        "",
        "davit takes the limit that is in force; runc wants it in the same update",
    ),
    // All of its files: the container may be there for a moment yet.
    any(
        &["memory.checkBeforeUpdate"],
        WHOLE,
        OLD,
        "",
        "runc 1.1 has no check on v2, and the container is killed for its limit",
    ),
    Difference {
        davit: "succeeds",
        runc: "setting device weight",
        ..any(
            &["blockIO.weightDevice.leafWeight"],
            WHOLE,
            OLD,
            "error",
            "v2 has no leaf weights: runc 1.1 writes a weight of 0 instead, which the kernel refuses",
        )
    },
];

const THROTTLES: &[&str] = &[
    "blockIO.throttleReadBpsDevice",
    "blockIO.throttleWriteBpsDevice",
    "blockIO.throttleReadIOPSDevice",
    "blockIO.throttleWriteIOPSDevice",
    "blockIO.throttle two",
];

/// An entry for whatever the two sides say.
const fn any(
    rows: &'static [&'static str],
    trees: &'static [Tree],
    ages: &'static [Age],
    file: &'static str,
    reason: &'static str,
) -> Difference {
    Difference { rows, trees, ages, file, davit: "", runc: "", reason }
}

/// The entry that explains a difference, `[davit, runc]` being what was seen.
pub(super) fn find(tree: Tree, age: Age, row: &str, file: &str, seen: [&str; 2]) -> Option<usize> {
    DIFFERENCES.iter().position(|d| {
        (d.rows.contains(&row) || d.rows.contains(&"*"))
            && d.trees.contains(&tree)
            && d.ages.contains(&age)
            && file.contains(d.file)
            && seen[0].contains(d.davit)
            && seen[1].contains(d.runc)
    })
}

/// Entries that should have occurred in these rows and did not.
pub(super) fn stale(tree: Tree, ages: &[Age], rows: &[&str], used: &BTreeSet<usize>) -> Vec<String> {
    let expected = |d: &Difference| {
        d.trees.contains(&tree)
            && d.ages.iter().any(|age| ages.contains(age))
            && d.rows.iter().any(|row| rows.contains(row))
    };
    let unused = DIFFERENCES.iter().enumerate().filter(|(entry, d)| expected(d) && !used.contains(entry));
    unused.map(|(_, d)| format!("stale entry: {:?} {}: {}", d.rows, d.file, d.reason)).collect()
}
