//! Limits on the host's own v1 or hybrid layout: what is written reads back.

use crate::common::{Scratch, Shell, resources, skip_unless_v1, until};

/// (resources, controller, file, content)
const TABLE: &[(&str, &str, &str, &str)] = &[
    (r#"{"memory":{"limit":67108864}}"#, "memory", "memory.limit_in_bytes", "67108864"),
    (
        r#"{"memory":{"limit":67108864,"swap":134217728}}"#,
        "memory",
        "memory.memsw.limit_in_bytes",
        "134217728",
    ),
    (
        r#"{"memory":{"limit":67108864,"swap":-1}}"#,
        "memory",
        "memory.memsw.limit_in_bytes",
        "9223372036854771712",
    ),
    (r#"{"memory":{"reservation":33554432}}"#, "memory", "memory.soft_limit_in_bytes", "33554432"),
    (r#"{"memory":{"kernelTCP":8388608}}"#, "memory", "memory.kmem.tcp.limit_in_bytes", "8388608"),
    (r#"{"memory":{"swappiness":10}}"#, "memory", "memory.swappiness", "10"),
    (r#"{"memory":{"limit":0}}"#, "memory", "memory.limit_in_bytes", "9223372036854771712"),
    (r#"{"cpu":{"shares":512}}"#, "cpu", "cpu.shares", "512"),
    (r#"{"cpu":{"quota":20000}}"#, "cpu", "cpu.cfs_quota_us", "20000"),
    (r#"{"cpu":{"quota":30000,"period":60000}}"#, "cpu", "cpu.cfs_period_us", "60000"),
    (r#"{"cpu":{"quota":-1}}"#, "cpu", "cpu.cfs_quota_us", "-1"),
    (r#"{"cpu":{"quota":50000,"burst":20000}}"#, "cpu", "cpu.cfs_burst_us", "20000"),
    (r#"{"cpu":{"idle":1}}"#, "cpu", "cpu.idle", "1"),
    (r#"{"cpu":{"realtimePeriod":500000}}"#, "cpu", "cpu.rt_period_us", "500000"),
    (r#"{"cpu":{"cpus":"0"}}"#, "cpuset", "cpuset.cpus", "0"),
    (r#"{"cpu":{"mems":"0"}}"#, "cpuset", "cpuset.mems", "0"),
    (r#"{"pids":{"limit":100}}"#, "pids", "pids.max", "100"),
    (r#"{"pids":{"limit":0}}"#, "pids", "pids.max", "1"),
    (r#"{"pids":{"limit":-1}}"#, "pids", "pids.max", "max"),
    (r#"{"blockIO":{"weight":300}}"#, "blkio", "blkio.bfq.weight", "300"),
];

#[test]
fn each_field_reads_back() {
    if skip_unless_v1() {
        return;
    }
    for (json, controller, file, content) in TABLE {
        let scratch = Scratch::created();
        if !scratch.dir(controller).join(file).exists() {
            println!("skipped: {json}: this kernel has no {file}");
            continue;
        }
        scratch.apply_json(json).unwrap_or_else(|e| panic!("{json}: {e}"));
        assert_eq!(scratch.read(controller, file), *content, "{json}");
        // The same again on a cgroup in use.
        scratch.update_json(json).unwrap_or_else(|e| panic!("update {json}: {e}"));
        assert_eq!(scratch.read(controller, file), *content, "update {json}");
    }
}

#[test]
fn memory_and_swap_are_raised_and_lowered() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    let mib = |n: u64| n << 20;
    for (limit, swap) in [(64, 128), (256, 512), (512, 512), (32, 64), (128, 128), (16, 1024)] {
        let json = format!(r#"{{"memory":{{"limit":{},"swap":{}}}}}"#, mib(limit), mib(swap));
        scratch.update_json(&json).unwrap_or_else(|e| panic!("{limit} {swap}: {e}"));
        assert_eq!(scratch.read("memory", "memory.limit_in_bytes"), mib(limit).to_string());
        assert_eq!(scratch.read("memory", "memory.memsw.limit_in_bytes"), mib(swap).to_string());
    }
    scratch.update_json(r#"{"memory":{"limit":-1}}"#).unwrap();
    assert_eq!(scratch.read("memory", "memory.memsw.limit_in_bytes"), "9223372036854771712");
    assert_eq!(scratch.read("memory", "memory.limit_in_bytes"), "9223372036854771712");
}

#[test]
fn quota_and_period_change_together() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    scratch.apply_json(r#"{"cpu":{"quota":100000,"period":100000,"burst":50000}}"#).unwrap();
    scratch.update_json(r#"{"cpu":{"quota":5000,"period":5000,"burst":1000}}"#).unwrap();
    scratch.update_json(r#"{"cpu":{"quota":900000,"period":1000000,"burst":900000}}"#).unwrap();
    assert_eq!(scratch.read("cpu", "cpu.cfs_quota_us"), "900000");
    assert_eq!(scratch.read("cpu", "cpu.cfs_burst_us"), "900000");
}

#[test]
fn oom_killer_off_and_on() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    scratch.apply_json(r#"{"memory":{"limit":67108864,"disableOOMKiller":true}}"#).unwrap();
    assert!(scratch.read("memory", "memory.oom_control").starts_with("oom_kill_disable 1\n"));
    scratch.update_json(r#"{"memory":{"disableOOMKiller":false}}"#).unwrap();
    assert!(scratch.read("memory", "memory.oom_control").starts_with("oom_kill_disable 0\n"));
}

#[test]
fn a_limit_below_the_usage_says_so() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    let mut shell =
        Shell::waiting("x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo done; sleep 100; echo $x");
    scratch.attach(shell.pid()).unwrap();
    shell.go();
    let usage = || scratch.read("memory", "memory.usage_in_bytes").parse::<u64>().unwrap();
    until("memory in use", || usage() > 30_000_000);
    // Settled: nothing of the pipe is left.
    until("memory at rest", || scratch.pids().unwrap().len() == 2);
    let error = scratch.update_json(r#"{"memory":{"limit":1048576}}"#).unwrap_err().to_string();
    assert!(error.starts_with("unable to set memory limit to 1048576 (current usage: "), "{error}");
    assert!(error.contains("peak usage: "), "{error}");
}

#[test]
fn what_the_kernel_refuses_is_named() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    let dir = |controller: &str| scratch.dir(controller).display().to_string();
    let cases = [
        (r#"{"cpu":{"cpus":"7777"}}"#, format!("write 7777 to cpuset.cpus of {}: math result not representable", dir("cpuset"))),
        (r#"{"cpu":{"quota":1}}"#, format!("write 1 to cpu.cfs_quota_us of {}: invalid argument", dir("cpu"))),
        (
            r#"{"cpu":{"shares":1}}"#,
            "invalid value of linux.resources.cpu.shares: the minimum allowed cpu-shares is 2".to_owned(),
        ),
        (
            r#"{"memory":{"swappiness":101}}"#,
            "invalid value of linux.resources.memory.swappiness: invalid memory swappiness value: 101 (valid range is 0-100)"
                .to_owned(),
        ),
        (
            r#"{"network":{"classID":1048577}}"#,
            "cannot set net_cls limit: container could not join or create cgroup".to_owned(),
        ),
        (r#"{"unified":{"memory.max":"1"}}"#, "invalid configuration: cannot use unified on cgroup v1".to_owned()),
    ];
    for (json, expected) in cases {
        let error = scratch.apply(&resources(json)).unwrap_err().to_string();
        assert_eq!(error, expected, "{json}");
    }
}

#[test]
fn a_controller_of_the_unified_tree() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    let available = std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    if !available.contains("hugetlb") {
        println!("skipped: hugetlb is not on the unified tree");
        return;
    }
    scratch.apply_json(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#).unwrap();
    assert_eq!(scratch.read("", "hugetlb.2MB.max"), "4194304");
    assert_eq!(scratch.read("", "hugetlb.2MB.rsvd.max"), "4194304");
    let error = scratch.apply_json(r#"{"hugepageLimits":[{"pageSize":"../x","limit":1}]}"#).unwrap_err();
    assert!(error.to_string().starts_with("invalid cgroup file"), "{error}");
}
