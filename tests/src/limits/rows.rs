//! The table: each field of `linux.resources` with the values that it gets.

use serde_json::{Value, json};

use super::Disks;

/// A container and what happens to it.
#[derive(Debug)]
pub struct Row {
    /// What it is about.
    pub name: &'static str,
    /// `linux.resources` of its config.
    pub create: Value,
    /// What `update` is given afterwards, one after the other.
    pub updates: Vec<Value>,
}

const MIB: i64 = 1 << 20;

fn row(name: &'static str, create: Value, updates: &[Value]) -> Row {
    Row { name, create, updates: updates.to_vec() }
}

/// All rows.
#[must_use]
pub fn rows(disks: &Disks) -> Vec<Row> {
    [memory(), swap(), memory_switches(), cpu(), cpu_bandwidth(), block_io(disks), weights(disks), others()]
        .into_iter()
        .flatten()
        .collect()
}

fn memory() -> Vec<Row> {
    let limit = |n: i64| json!({"memory": {"limit": n}});
    let reservation = |n: i64| json!({"memory": {"reservation": n}});
    vec![
        row("nothing", json!({}), &[json!({})]),
        row("memory.limit", limit(64 * MIB), &[limit(32 * MIB), limit(128 * MIB), json!({}), limit(-1)]),
        row("memory.limit -1", limit(-1), &[limit(64 * MIB)]),
        row("memory.limit 0", limit(0), &[limit(64 * MIB), limit(0)]),
        row("memory.limit no page", limit(64 * MIB + 1), &[limit(32 * MIB + 4095)]),
        row("memory.reservation", reservation(16 * MIB), &[reservation(32 * MIB), reservation(-1)]),
        row("memory.reservation 0", reservation(0), &[reservation(16 * MIB), reservation(0)]),
        row(
            "memory.limit and reservation",
            json!({"memory": {"limit": 64 * MIB, "reservation": 32 * MIB}}),
            &[json!({"memory": {"limit": 32 * MIB, "reservation": 16 * MIB}})],
        ),
    ]
}

fn swap() -> Vec<Row> {
    let both = |limit: i64, swap: i64| json!({"memory": {"limit": limit, "swap": swap}});
    vec![
        row(
            "memory.swap",
            both(64 * MIB, 96 * MIB),
            &[both(128 * MIB, 256 * MIB), both(32 * MIB, 64 * MIB), json!({"memory": {"swap": 80 * MIB}})],
        ),
        row("memory.swap = limit", both(64 * MIB, 64 * MIB), &[both(96 * MIB, 96 * MIB), both(-1, -1)]),
        row("memory.swap -1", both(64 * MIB, -1), &[both(64 * MIB, 64 * MIB), both(64 * MIB, -1)]),
        row("memory.swap 0", both(64 * MIB, 0), &[both(32 * MIB, 0)]),
        row("memory.swap < limit", both(64 * MIB, 32 * MIB), &[]),
        row("memory.swap alone", json!({"memory": {"swap": 64 * MIB}}), &[]),
        row("both -1", both(-1, -1), &[both(64 * MIB, 128 * MIB), json!({"memory": {"limit": -1}})]),
    ]
}

fn memory_switches() -> Vec<Row> {
    let of = |key: &str, value: Value| json!({"memory": {key: value}});
    vec![
        row(
            "memory.swappiness",
            of("swappiness", json!(10)),
            &[of("swappiness", json!(100)), of("swappiness", json!(0))],
        ),
        row("memory.swappiness 101", of("swappiness", json!(101)), &[]),
        row(
            "memory.disableOOMKiller",
            json!({"memory": {"limit": 64 * MIB, "disableOOMKiller": true}}),
            &[of("disableOOMKiller", json!(false)), of("disableOOMKiller", json!(true))],
        ),
        row(
            "memory.kernelTCP",
            of("kernelTCP", json!(8 * MIB)),
            &[of("kernelTCP", json!(16 * MIB)), of("kernelTCP", json!(-1))],
        ),
        row("memory.kernel", of("kernel", json!(8 * MIB)), &[of("kernel", json!(16 * MIB))]),
        row("memory.useHierarchy", of("useHierarchy", json!(true)), &[of("useHierarchy", json!(false))]),
        // The container uses more than 4 KiB by then, and less than 64 MiB.
        row(
            "memory.checkBeforeUpdate",
            json!({"memory": {"limit": 64 * MIB, "checkBeforeUpdate": true}}),
            &[
                json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}),
                json!({"memory": {"limit": 32 * MIB, "checkBeforeUpdate": true}}),
            ],
        ),
    ]
}

fn cpu() -> Vec<Row> {
    let shares = |n: u64| json!({"cpu": {"shares": n}});
    let idle = |n: i64| json!({"cpu": {"idle": n}});
    vec![
        row("cpu.shares", shares(512), &[shares(1024), shares(2), shares(262_144), shares(0), json!({})]),
        row("cpu.shares 0", shares(0), &[shares(100)]),
        row("cpu.shares 1", shares(1), &[]),
        row("cpu.shares above", shares(300_000), &[]),
        row("cpu.idle", idle(1), &[idle(0), json!({"cpu": {"idle": 1}}), idle(0)]),
        row("cpu.idle 2", idle(2), &[]),
        row("cpu.idle, shares", json!({"cpu": {"idle": 1, "shares": 512}}), &[]),
        row(
            "cpu.cpus",
            json!({"cpu": {"cpus": "0"}}),
            &[json!({"cpu": {"cpus": "0-1"}}), json!({"cpu": {"cpus": "1"}}), json!({"cpu": {"cpus": ""}})],
        ),
        row("cpu.cpus none such", json!({"cpu": {"cpus": "7000"}}), &[]),
        row("cpu.mems", json!({"cpu": {"mems": "0"}}), &[json!({"cpu": {"mems": "0"}})]),
        row("cpu.mems none such", json!({"cpu": {"mems": "500"}}), &[]),
    ]
}

fn cpu_bandwidth() -> Vec<Row> {
    let quota = |n: i64| json!({"cpu": {"quota": n}});
    let period = |n: u64| json!({"cpu": {"period": n}});
    let both = |quota: i64, period: u64| json!({"cpu": {"quota": quota, "period": period}});
    let burst = |n: u64| json!({"cpu": {"burst": n}});
    let realtime = |key: &str, n: i64| json!({"cpu": {key: n}});
    vec![
        row("cpu.quota", quota(25_000), &[quota(50_000), quota(-1), quota(30_000), quota(0)]),
        row("cpu.period", period(50_000), &[period(80_000), period(0)]),
        row(
            "cpu.quota, period",
            both(20_000, 50_000),
            &[both(5_000, 5_000), both(900_000, 1_000_000), period(500_000), both(-1, 100_000)],
        ),
        row("cpu.quota -1", both(-1, 50_000), &[both(10_000, 20_000)]),
        row("cpu.quota 1", quota(1), &[]),
        row("cpu.period 1", period(1), &[]),
        row(
            "cpu.burst",
            json!({"cpu": {"quota": 40_000, "period": 100_000, "burst": 20_000}}),
            &[burst(10_000), json!({"cpu": {"quota": 80_000, "burst": 70_000}}), burst(0)],
        ),
        row("cpu.burst above the quota", json!({"cpu": {"quota": 40_000, "burst": 50_000}}), &[]),
        row(
            "cpu.realtimePeriod",
            realtime("realtimePeriod", 500_000),
            &[realtime("realtimePeriod", 600_000), realtime("realtimePeriod", 0)],
        ),
        row("cpu.realtimeRuntime", realtime("realtimeRuntime", 1000), &[]),
        row(
            "cpu.realtimeRuntime later",
            json!({}),
            &[realtime("realtimeRuntime", 1000), realtime("realtimeRuntime", 0)],
        ),
    ]
}

fn block_io(disks: &Disks) -> Vec<Row> {
    let mut all = Vec::new();
    let (major, minor) = disks.first;
    for (name, key) in [
        ("blockIO.throttleReadBpsDevice", "throttleReadBpsDevice"),
        ("blockIO.throttleWriteBpsDevice", "throttleWriteBpsDevice"),
        ("blockIO.throttleReadIOPSDevice", "throttleReadIOPSDevice"),
        ("blockIO.throttleWriteIOPSDevice", "throttleWriteIOPSDevice"),
    ] {
        let throttle =
            |rate: i64| json!({"blockIO": {key: [{"major": major, "minor": minor, "rate": rate}]}});
        let mut updates = vec![throttle(2 * MIB), json!({})];
        if let Some((major, minor)) = disks.bfq {
            // Another device: what the first has stays.
            updates.push(json!({"blockIO": {key: [{"major": major, "minor": minor, "rate": 4096}]}}));
        }
        updates.push(throttle(0));
        all.push(row(name, throttle(MIB), &updates));
    }
    let throttles = |a: i64, b: i64| {
        json!({"blockIO": {
            "throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": a}],
            "throttleWriteIOPSDevice": [{"major": major, "minor": minor, "rate": b}]
        }})
    };
    all.push(row("blockIO.throttle two", throttles(MIB, 100), &[throttles(2 * MIB, 200)]));
    let none = json!({"blockIO": {"throttleReadBpsDevice": [{"major": 511, "minor": 7, "rate": MIB}]}});
    all.push(row("blockIO.throttle no device", none, &[]));
    all
}

fn weights(disks: &Disks) -> Vec<Row> {
    let weight = |n: u16| json!({"blockIO": {"weight": n}});
    let mut all = vec![
        row("blockIO.weight", weight(400), &[weight(500), weight(10), weight(1000), weight(0)]),
        row("blockIO.weight above", weight(1001), &[]),
        row("blockIO.leafWeight", json!({"blockIO": {"leafWeight": 300}}), &[]),
        row("blockIO.leafWeight later", json!({}), &[json!({"blockIO": {"leafWeight": 300}})]),
    ];
    if let Some((major, minor)) = disks.bfq {
        let device = |key: &str, n: u16| json!({"blockIO": {"weightDevice": [{"major": major, "minor": minor, key: n}]}});
        all.push(row(
            "blockIO.weightDevice",
            device("weight", 300),
            &[device("weight", 500), json!({"blockIO": {"weight": 200}})],
        ));
        all.push(row("blockIO.weightDevice.leafWeight", device("leafWeight", 300), &[]));
    }
    let (major, minor) = disks.first;
    let plain = json!({"blockIO": {"weightDevice": [{"major": major, "minor": minor, "weight": 300}]}});
    all.push(row("blockIO.weightDevice without BFQ", plain, &[]));
    all
}

fn others() -> Vec<Row> {
    let pids = |n: i64| json!({"pids": {"limit": n}});
    let huge = |size: &str, n: i64| json!({"hugepageLimits": [{"pageSize": size, "limit": n}]});
    let unified = |key: &str, value: &str| json!({"unified": {key: value}});
    let rdma = |handles: u32, objects: u32| json!({"rdma": {"mlx5_0": {"hcaHandles": handles, "hcaObjects": objects}}});
    let rule = |minor: u32| json!({"allow": true, "type": "c", "major": 10, "minor": minor, "access": "rw"});
    vec![
        row("pids.limit", pids(100), &[pids(50), pids(-1), pids(20), json!({})]),
        row("pids.limit -1", pids(-1), &[pids(30)]),
        row("pids.limit 0", pids(0), &[pids(30), pids(0)]),
        row(
            "hugepageLimits",
            huge("2MB", 4 * MIB),
            &[huge("2MB", 8 * MIB), huge("1GB", 1 << 30), huge("2MB", 0)],
        ),
        row("hugepageLimits no such size", huge("3MB", MIB), &[]),
        row("network.classID", json!({"network": {"classID": 1_048_577}}), &[]),
        row("network.classID 0", json!({"network": {"classID": 0}}), &[]),
        row("network.priorities", json!({"network": {"priorities": [{"name": "lo", "priority": 5}]}}), &[]),
        row("rdma", rdma(3, 10_000), &[]),
        row("rdma later", json!({}), &[rdma(2, 5)]),
        row("unified", unified("hugetlb.2MB.max", "4194304"), &[unified("hugetlb.2MB.max", "8388608")]),
        row("unified memory.high", unified("memory.high", "33554432"), &[unified("memory.high", "max")]),
        row("unified no such file", unified("memory.nosuch", "1"), &[]),
        row("unified no such controller", unified("nosuch.max", "1"), &[]),
        row("unified with a slash", unified("../memory.max", "1"), &[]),
        row("unified cgroup file", unified("cgroup.max.depth", "5"), &[unified("cgroup.max.depth", "max")]),
        row(
            "devices",
            json!({"devices": [{"allow": false, "access": "rwm"}, rule(229)]}),
            &[json!({"devices": [{"allow": false, "access": "rwm"}, rule(200)]}), pids(50)],
        ),
        row(
            "all at once",
            json!({
                "memory": {"limit": 64 * MIB, "reservation": 32 * MIB, "swap": 128 * MIB},
                "cpu": {"shares": 512, "quota": 20_000, "period": 50_000, "cpus": "0", "mems": "0"},
                "pids": {"limit": 33}
            }),
            &[
                json!({"memory": {"limit": 96 * MIB, "swap": 192 * MIB}, "cpu": {"cpus": "0-1"}}),
                super::several(),
            ],
        ),
    ]
}
