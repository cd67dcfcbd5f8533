//! Each field of `linux.resources` on cgroup v2: what davit writes reads back as what runc writes.

use std::fs;

use davit_tests::{RUNC, World};
use serde_json::{Value, json};

use crate::cgroup_of;

/// One field, and the files where it shows.
struct Case {
    name: &'static str,
    resources: Value,
    files: &'static [&'static str],
    /// Where davit differs from Debian 13's runc on purpose: what davit's files say, and why.
    differs: Option<(&'static [&'static str], &'static str)>,
}

/// The table of a machine whose root disk has this number.
fn cases(major: u64, minor: u64) -> Vec<Case> {
    const MIB: i64 = 1 << 20;
    let same = |name, resources, files| Case { name, resources, files, differs: None };
    let device = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    let memory: &[&str] = &["memory.max", "memory.low", "memory.swap.max"];
    let throttled: &[&str] = &["io.max"];
    let weights: &[&str] = &["io.weight", "io.bfq.weight"];
    vec![
        same("memory.limit", json!({"memory": {"limit": 64 * MIB}}), memory),
        same("memory.limit -1", json!({"memory": {"limit": -1}}), memory),
        same("memory.limit 0", json!({"memory": {"limit": 0}}), memory),
        same("memory.reservation", json!({"memory": {"reservation": 16 * MIB}}), memory),
        same("memory.swap", json!({"memory": {"limit": 64 * MIB, "swap": 96 * MIB}}), memory),
        same("memory.swap = limit", json!({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}}), memory),
        same("memory.swap -1", json!({"memory": {"limit": 64 * MIB, "swap": -1}}), memory),
        same("memory.swappiness", json!({"memory": {"limit": 64 * MIB, "swappiness": 10}}), memory),
        Case {
            differs: Some((&["59"], "runc 1.1 has the linear conversion, runc 1.4 the quadratic one")),
            ..same("cpu.shares", json!({"cpu": {"shares": 512}}), &["cpu.weight"])
        },
        same("cpu.shares 0", json!({"cpu": {"shares": 0}}), &["cpu.weight"]),
        same("cpu.quota", json!({"cpu": {"quota": 25_000}}), &["cpu.max"]),
        same("cpu.period", json!({"cpu": {"period": 50_000}}), &["cpu.max"]),
        same("cpu.quota, period", json!({"cpu": {"quota": 25_000, "period": 50_000}}), &["cpu.max"]),
        same("cpu.quota -1", json!({"cpu": {"quota": -1, "period": 50_000}}), &["cpu.max"]),
        Case {
            differs: Some((&["40000 100000", "20000"], "runc has burst since 1.2")),
            ..same(
                "cpu.burst",
                json!({"cpu": {"quota": 40_000, "period": 100_000, "burst": 20_000}}),
                &["cpu.max", "cpu.max.burst"],
            )
        },
        Case {
            differs: Some((&["1"], "runc has idle since 1.2")),
            ..same("cpu.idle", json!({"cpu": {"idle": 1}}), &["cpu.idle"])
        },
        same("cpu.cpus, mems", json!({"cpu": {"cpus": "1", "mems": "0"}}), &["cpuset.cpus", "cpuset.mems"]),
        same("pids.limit", json!({"pids": {"limit": 50}}), &["pids.max"]),
        same("pids.limit -1", json!({"pids": {"limit": -1}}), &["pids.max"]),
        Case {
            differs: Some((&["1"], "0 is no process at all, which runc writes as 1 since 1.4")),
            ..same("pids.limit 0", json!({"pids": {"limit": 0}}), &["pids.max"])
        },
        same("blockIO.weight", json!({"blockIO": {"weight": 400}}), weights),
        same("throttleReadBps", json!({"blockIO": {"throttleReadBpsDevice": device(MIB as u64)}}), throttled),
        same("throttleWriteBps", json!({"blockIO": {"throttleWriteBpsDevice": device(4096)}}), throttled),
        same("throttleReadIOPS", json!({"blockIO": {"throttleReadIOPSDevice": device(100)}}), throttled),
        same("throttleWriteIOPS", json!({"blockIO": {"throttleWriteIOPSDevice": device(200)}}), throttled),
        same(
            "hugepageLimits",
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]}),
            &["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"],
        ),
        same(
            "unified",
            json!({"unified": {"memory.high": "33554432", "pids.max": "77"}}),
            &["memory.high", "pids.max"],
        ),
        same("network", json!({"network": {"classID": 5}}), &["pids.max"]),
    ]
}

/// What the files of a created container's cgroup say.
fn read_back(world: &World, case: &Case, runtime: &std::path::Path, global: &[&str]) -> Vec<String> {
    let mut bundle = world.bundle();
    let mut resources = case.resources.clone();
    resources["devices"] = json!([{"allow": false, "access": "rwm"}]);
    bundle.set("/linux/resources", resources);
    let container = world.container(&bundle);
    let call = |words: &[&str]| world.call(&[global, words].concat()).with(runtime).dir(bundle.dir()).run();
    call(&["create", &container.id]).ok();
    let pid = call(&["state", &container.id]).ok().json()["pid"].as_i64().unwrap();
    let dir = cgroup_of(i32::try_from(pid).unwrap());
    let read = |file: &&str| match fs::read_to_string(dir.join(file)) {
        Ok(text) => text.trim_end().to_owned(),
        Err(e) => e.kind().to_string(),
    };
    let values = case.files.iter().map(read).collect();
    call(&["delete", "--force", &container.id]).ok();
    container.assert_nothing_left();
    values
}

/// The number of the disk that `/` is on.
fn root_disk() -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let disk = fs::metadata("/dev/vda").expect("the machine's first disk").rdev();
    (nix::sys::stat::major(disk), nix::sys::stat::minor(disk))
}

fn compare(test: &str, global: &[&str]) {
    let Some(world) = World::enter_with_runc(test) else { return };
    let (major, minor) = root_disk();
    let mut wrong = Vec::new();
    for case in cases(major, minor) {
        let davit = read_back(&world, &case, world.runtime(), global);
        let runc = read_back(&world, &case, RUNC.as_ref(), global);
        println!("{}: {:?} davit {davit:?} runc {runc:?}", case.name, case.files);
        let right = match case.differs {
            None => davit == runc,
            // Were they equal, the explanation would be stale.
            Some((expected, _)) => davit == expected && davit != runc,
        };
        if !right {
            let why = case.differs.map_or("", |(_, why)| why);
            wrong.push(format!("{}: davit {davit:?} runc {runc:?} {why}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_field_reads_back_as_under_runc() {
    compare("vm::limits::every_field_reads_back_as_under_runc", &[]);
}

#[test]
fn every_field_reads_back_as_under_runc_with_systemd() {
    compare("vm::limits::every_field_reads_back_as_under_runc_with_systemd", &["--systemd-cgroup"]);
}
