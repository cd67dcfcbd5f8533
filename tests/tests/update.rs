//! `update`: each flag and field reads back from the cgroup as after runc's own update.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, process};

use davit_tests::{Bundle, Container, Output, RUNC, View, World, host, skip};
use serde_json::json;

fn enter_v1(test: &str) -> Option<World> {
    let world = World::enter_with_runc(test)?;
    if host::has_v1() { Some(world) } else { skip(test, "no cgroup v1 hierarchies") }
}

fn sleeping(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    bundle
}

/// The limit files that an update can change.
const FILES: [(&str, &str); 15] = [
    ("memory", "memory.limit_in_bytes"),
    ("memory", "memory.soft_limit_in_bytes"),
    ("memory", "memory.memsw.limit_in_bytes"),
    ("cpu", "cpu.shares"),
    ("cpu", "cpu.cfs_quota_us"),
    ("cpu", "cpu.cfs_period_us"),
    ("cpu", "cpu.cfs_burst_us"),
    ("cpu", "cpu.rt_runtime_us"),
    ("cpu", "cpu.idle"),
    ("cpuset", "cpuset.cpus"),
    ("cpuset", "cpuset.mems"),
    ("pids", "pids.max"),
    ("blkio", "blkio.weight"),
    ("blkio", "blkio.throttle.read_bps_device"),
    ("devices", "devices.list"),
];

fn limits(c: &Container<'_>) -> BTreeMap<&'static str, String> {
    let of = |(controller, file): (&str, &'static str)| {
        let path = host::v1_path(&c.pid().to_string(), controller).unwrap();
        let dir = Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/'));
        (file, fs::read_to_string(dir.join(file)).unwrap_or_else(|_| "none".into()).trim().to_owned())
    };
    FILES.into_iter().map(of).collect()
}

/// What an update is given.
enum Update {
    Flags(&'static [&'static str]),
    Json(serde_json::Value),
}

fn update(c: &Container<'_>, update: &Update, runtime: &Path) -> Output {
    match update {
        Update::Flags(flags) => c.call("update", flags, &[]).with(runtime).run(),
        Update::Json(json) => {
            c.call("update", &["-r", "-"], &[]).stdin(json.to_string().as_bytes()).with(runtime).run()
        }
    }
}

#[test]
fn each_value_reads_back_as_after_an_update_by_runc() {
    let Some(world) = enter_v1("each_value_reads_back_as_after_an_update_by_runc") else { return };
    let updates = [
        Update::Flags(&["--memory", "64M"]),
        Update::Flags(&["--memory-reservation", "32m"]),
        Update::Flags(&["--memory", "48MiB", "--memory-swap", "100663296"]),
        Update::Flags(&["--memory", "-1"]),
        Update::Flags(&["--cpu-share", "512"]),
        Update::Flags(&["--cpu-period", "50000", "--cpu-quota", "20000"]),
        Update::Flags(&["--cpu-quota", "30000"]),
        Update::Flags(&["--cpu-quota", "-1"]),
        Update::Flags(&["--cpuset-cpus", "0", "--cpuset-mems", "0"]),
        Update::Flags(&["--pids-limit", "50"]),
        Update::Flags(&["--pids-limit", "-1"]),
        Update::Flags(&[]),
        Update::Json(json!({"memory": {"limit": 128 << 20, "reservation": 64 << 20}})),
        Update::Json(json!({"cpu": {"shares": 2048, "quota": 40000, "period": 80000}})),
        Update::Json(json!({})),
    ];
    let ours = world.container(&sleeping(&world)).started();
    let theirs = world.container(&sleeping(&world));
    let runc = Path::new(RUNC);
    theirs.call("create", &[], &[]).with(runc).dir(theirs.bundle()).run().ok();
    theirs.call("start", &[], &[]).with(runc).run().ok();
    assert_eq!(limits(&ours), limits(&theirs), "before");
    let mut before = limits(&ours);
    let mut changes = 0;
    for change in &updates {
        update(&ours, change, world.runtime()).ok();
        update(&theirs, change, runc).ok();
        let shown = match change {
            Update::Flags(flags) => flags.join(" "),
            Update::Json(json) => json.to_string(),
        };
        let after = limits(&ours);
        assert_eq!(after, limits(&theirs), "{shown}");
        changes += usize::from(after != before);
        before = after;
    }
    assert_eq!(changes, updates.len() - 2, "each update but the empty ones changes a file");
    ours.finish();
    theirs.finish();
}

/// Realtime limits: what the kernel grants depends on what the parent group has left, so both runtimes are asked.
#[test]
fn realtime_limits_are_as_with_runc() {
    let Some(world) = enter_v1("realtime_limits_are_as_with_runc") else { return };
    let ours = world.container(&sleeping(&world)).started();
    let theirs = world.container(&sleeping(&world)).started();
    let file = |c: &Container<'_>, file: &str| {
        let path = host::v1_path(&c.pid().to_string(), "cpu").unwrap();
        let dir = Path::new("/sys/fs/cgroup/cpu").join(path.trim_start_matches('/'));
        fs::read_to_string(dir.join(file)).map_or_else(|_| "none".into(), |text| text.trim().to_owned())
    };
    if file(&ours, "cpu.rt_period_us") == "none" {
        ours.finish();
        theirs.finish();
        return skip("realtime_limits_are_as_with_runc", "no CONFIG_RT_GROUP_SCHED").unwrap_or(());
    }
    for flags in
        [&["--cpu-rt-period", "500000"][..], &["--cpu-rt-runtime", "1000"], &["--cpu-rt-runtime", "0"]]
    {
        let (our, their) = (
            update(&ours, &Update::Flags(flags), world.runtime()),
            update(&theirs, &Update::Flags(flags), Path::new(RUNC)),
        );
        assert_eq!(our.code, their.code, "{flags:?}: {} {}", our.stderr, their.stderr);
        for name in ["cpu.rt_period_us", "cpu.rt_runtime_us"] {
            assert_eq!(file(&ours, name), file(&theirs, name), "{flags:?}: {name}");
        }
    }
    assert_eq!(file(&ours, "cpu.rt_period_us"), "500000");
    ours.finish();
    theirs.finish();
}

/// The unit tests of `resctrl` write them into a fake tree.
#[test]
fn shares_of_cache_and_bandwidth_need_resctrl() {
    let Some(world) = enter_v1("shares_of_cache_and_bandwidth_need_resctrl") else { return };
    if world.is_runc() || host::mounts().contains(" - resctrl ") {
        return skip("shares_of_cache_and_bandwidth_need_resctrl", "is about hosts without resctrl")
            .unwrap_or(());
    }
    let c = world.container(&sleeping(&world)).started();
    for flags in [["--l3-cache-schema", "L3:0=f"], ["--mem-bw-schema", "MB:0=20"]] {
        c.call("update", &flags, &[]).run().fails(1, "Intel RDT is not enabled");
    }
    c.finish();
}

/// Flags and fields that runc 1.1.5 does not know, on the same files.
#[test]
fn newer_values_are_written() {
    let Some(world) = enter_v1("newer_values_are_written") else { return };
    let c = world.container(&sleeping(&world)).started();
    c.call("update", &["--cpu-period", "50000", "--cpu-quota", "20000", "--cpu-burst", "10000"], &[])
        .run()
        .ok();
    assert_eq!(limits(&c)["cpu.cfs_burst_us"], "10000");
    c.call("update", &["--cpu-idle", "1"], &[]).run().ok();
    assert_eq!(limits(&c)["cpu.idle"], "1");
    let device_rules = limits(&c)["devices.list"].clone();
    let json = json!({"cpu": {"idle": 0, "burst": 5000}});
    c.call("update", &["--resources", "-"], &[]).stdin(json.to_string().as_bytes()).run().ok();
    let now = limits(&c);
    assert_eq!((now["cpu.idle"].as_str(), now["cpu.cfs_burst_us"].as_str()), ("0", "5000"));
    let (major, minor) = some_disk();
    let json =
        json!({"blockIO": {"throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 1 << 20}]}});
    c.call("update", &["-r", "-"], &[]).stdin(json.to_string().as_bytes()).run().ok();
    let now = limits(&c);
    assert_eq!(now["blkio.throttle.read_bps_device"], format!("{major}:{minor} {}", 1 << 20));
    assert_eq!(now["devices.list"], device_rules, "an update without devices leaves the rules alone");
    c.finish();
}

#[test]
fn a_file_of_resources_makes_other_flags_void() {
    let Some(world) = enter_v1("a_file_of_resources_makes_other_flags_void") else { return };
    let c = world.container(&sleeping(&world)).started();
    let file = world.path("resources.json");
    fs::write(&file, r#"{"pids": {"limit": 61}}"#).unwrap();
    c.call("update", &["--pids-limit", "62", "-r", file.to_str().unwrap()], &[]).run().ok();
    assert_eq!(limits(&c)["pids.max"], "61");
    c.finish();
}

#[test]
fn obsolete_flags_are_ignored_with_a_warning() {
    let Some(world) = enter_v1("obsolete_flags_are_ignored_with_a_warning") else { return };
    if world.is_runc() {
        return;
    }
    let c = world.container(&sleeping(&world)).started();
    let before = limits(&c);
    let out = c.call("update", &["--kernel-memory", "1G", "--kernel-memory-tcp", "1G"], &[]).run().ok();
    assert!(out.log.contains("--kernel-memory is ignored"), "{}", out.log);
    assert!(out.log.contains("--kernel-memory-tcp is ignored"), "{}", out.log);
    assert_eq!(limits(&c), before);
    c.finish();
}

#[test]
fn wrong_updates_name_what_is_wrong() {
    let Some(world) = enter_v1("wrong_updates_name_what_is_wrong") else { return };
    if world.is_runc() {
        return;
    }
    let c = world.container(&sleeping(&world)).started();
    let before = limits(&c);
    for (flags, words) in [
        (&["--memory", "64X"][..], "invalid value for memory: \"64X\""),
        (&["--cpu-period", "-5"], "invalid value for cpu-period"),
        (&["--pids-limit", "many"], "invalid value for pids-limit"),
        (&["--blkio-weight", "70000"], "invalid value"),
        (&["--cpuset-cpus", "4000"], "cpuset.cpus"),
        (&["-r", "/does/not/exist"], "open /does/not/exist: no such file or directory"),
    ] {
        c.call("update", flags, &[]).run().fails(1, words);
    }
    c.call("update", &["-r", "-"], &[]).stdin(b"{\"pids\": 5}").run().fails(1, "resources in standard input");
    assert_eq!(limits(&c), before);
    c.stop();
    c.call("update", &["--pids-limit", "5"], &[]).run().fails(1, "container not running");
    c.finish();
    world.call(&["update", "--pids-limit", "5", "no-such"]).run().fails(1, "container does not exist");
}

/// Pure v2 has only hugetlb here; the VM tests the other controllers.
#[test]
fn hugetlb_on_v2() {
    let Some(world) = World::enter("hugetlb_on_v2") else { return };
    let mut c = world.container(&sleeping(&world));
    c.view = View::PureV2;
    let c = c.started();
    let path = fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
    let path = path.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned();
    let file = format!("/sys/fs/cgroup/unified{path}/hugetlb.2MB.max");
    if !Path::new(&file).exists() {
        c.finish();
        return skip("hugetlb_on_v2", "no hugetlb controller on cgroup v2").unwrap_or(());
    }
    let json = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]});
    c.call("update", &["-r", "-"], &[]).stdin(json.to_string().as_bytes()).run().ok();
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), (4 << 20).to_string());
    c.finish();
}

/// Major and minor number of a disk that throttles can name.
fn some_disk() -> (u64, u64) {
    let out = process::Command::new("lsblk").args(["-dnro", "MAJ:MIN,TYPE"]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    // No loop device of another test, which may go.
    let disk = text.lines().find_map(|line| line.strip_suffix(" disk")).unwrap();
    let (major, minor) = disk.trim().split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}
