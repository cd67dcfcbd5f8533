//! The systemd driver where systemd uses cgroup v1, or v1 and v2 (hybrid): `VM_CGROUP=v1` or `hybrid`, then
//! `hack/vm run`.
//!
//! Debian 13's kernel has neither memory nor cpuset on v1 (CONFIG_MEMCG_V1, CONFIG_CPUSETS_V1): there are the other
//! controllers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use davit_tests::{RUNC, World, host};
use serde_json::{Value, json};

use crate::unit::{Unit, assert_gone, properties_as_under_runc, show, systemd};

/// What systemd and the cgroupfs driver can limit here on v1.
fn resources() -> Value {
    json!({
        "devices": [{"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}],
        "cpu": {"shares": 512, "quota": 33_333, "period": 100_000},
        "pids": {"limit": 77},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
    })
}

/// The directory of a process in each hierarchy, by what /proc says of the hierarchy.
fn cgroups_of(pid: i32) -> BTreeMap<String, PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let lines = text.lines().map(|line| line.split_once(':').unwrap().1.split_once(':').unwrap());
    lines.map(|(controllers, path)| (controllers.to_owned(), PathBuf::from(path))).collect()
}

/// What the scope's files say, by controller.
fn read_back(scope: &Path) -> Vec<String> {
    let below = scope.strip_prefix("/").unwrap();
    let files = [
        "cpu/cpu.shares",
        "cpu/cpu.cfs_quota_us",
        "cpu/cpu.cfs_period_us",
        "pids/pids.max",
        "hugetlb/hugetlb.2MB.limit_in_bytes",
        "devices/devices.list",
    ];
    let read = |file: &str| {
        let (controller, name) = file.split_once('/').unwrap();
        let path = Path::new("/sys/fs/cgroup").join(controller).join(below).join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        format!("{file}: {}", lines.join(", "))
    };
    files.map(read).to_vec()
}

#[test]
fn the_machine_has_v1_controllers() {
    for controller in ["cpu", "devices", "freezer", "pids"] {
        assert!(Path::new("/sys/fs/cgroup").join(controller).is_dir(), "{controller}");
    }
}

#[test]
fn a_life_in_every_hierarchy() {
    let Some(world) = World::enter_with_runc("vm::legacy::a_life_in_every_hierarchy") else { return };
    let life = |runtime: &Path, prefix: &str| {
        let mut bundle = world.bundle();
        bundle.set("/linux/resources", resources()).args(&["sleep", "1000"]);
        let unit = Unit::new(&world, &mut bundle, prefix);
        unit.call(runtime, &["create", &unit.container.id]).ok();
        unit.call(runtime, &["start", &unit.container.id]).ok();
        let scope = Path::new("/system.slice").join(&unit.name);
        let pid = unit.container.pid();
        let outside: Vec<_> =
            cgroups_of(pid).into_iter().filter(|(_, path)| *path != scope).map(|(name, _)| name).collect();
        let limits = read_back(&scope);
        if runtime != Path::new(RUNC) {
            // Of exec too: the same in every hierarchy.
            let script = "cat /proc/self/cgroup /proc/1/cgroup";
            let both = unit.container.sh(script);
            let lines: Vec<_> = both.lines().collect();
            let (own, init) = lines.split_at(lines.len() / 2);
            assert_eq!(own, init);
            unit.container.simple("pause").ok();
            assert_eq!(unit.container.status(), "paused");
            unit.container.simple("resume").ok();
            assert!(unit.container.simple("ps").ok().stdout.contains("sleep"));
            unit.container.stop();
        }
        unit.call(runtime, &["delete", "--force", &unit.container.id]).ok();
        assert_gone(&unit.name);
        unit.container.assert_nothing_left();
        (outside, limits)
    };
    let (davit, runc) = (life(world.runtime(), "vmd"), life(RUNC.as_ref(), "vmr"));
    println!("davit {davit:?}\nrunc {runc:?}");
    assert_eq!(davit.1, runc.1, "limits");
    assert!(davit.0.is_empty(), "outside of its scope in {:?}; runc in {:?}", davit.0, runc.0);
}

#[test]
fn properties_are_those_that_runc_sets_on_v1() {
    let test = "vm::legacy::properties_are_those_that_runc_sets_on_v1";
    let Some(world) = World::enter_with_runc(test) else { return };
    let davit = properties_as_under_runc(&world, &resources(), &json!({}));
    assert_eq!(davit["CPUQuotaPerSecUSec"], "340ms");
    assert_eq!(davit["TasksMax"], "77");
    assert_eq!(davit["CPUShares"], "512");
}

#[test]
fn a_reload_and_an_update_take_no_device_away() {
    let test = "vm::legacy::a_reload_and_an_update_take_no_device_away";
    let Some(world) = World::enter(test) else { return };
    let mut bundle = world.bundle();
    // fuse, and loop-control, which is refused whatever happens.
    let node = |path: &str, minor: u32| json!({"path": path, "type": "c", "major": 10, "minor": minor});
    bundle
        .set("/linux/resources", resources())
        .set("/linux/devices", json!([node("/dev/allowed", 229), node("/dev/refused", 237)]))
        .args(&["sleep", "1000"]);
    let unit = Unit::new(&world, &mut bundle, "vm");
    unit.create();
    unit.davit(&["start", &unit.container.id]).ok();
    let open = |name: &str| unit.container.sh(&format!("(: </dev/{name}) 2>&1 && echo opened; true"));
    let check = |when: &str, allowed: &str, refused: &str| {
        assert_eq!(open(allowed), "opened", "{when}");
        let answer = open(refused);
        assert!(answer.ends_with("Operation not permitted"), "{when}: {answer}");
        unit.container.sh("echo >/dev/null && head -c1 /dev/zero >/dev/null");
    };
    check("at first", "allowed", "refused");
    systemd("systemctl", &["daemon-reload"]);
    check("after a reload", "allowed", "refused");
    unit.davit(&["update", "--pids-limit", "66", "--cpu-share", "300", &unit.container.id]).ok();
    check("after an update", "allowed", "refused");
    let properties = show(&unit.name);
    assert_eq!((properties["TasksMax"].as_str(), properties["CPUShares"].as_str()), ("66", "300"));
    systemd("systemctl", &["daemon-reload"]);
    let scope = format!("/system.slice/{}", unit.name);
    let limits = read_back(Path::new(&scope));
    assert!(limits.contains(&"pids/pids.max: 66".to_owned()), "{limits:?}");
    assert!(limits.contains(&"cpu/cpu.shares: 300".to_owned()), "{limits:?}");
    // Other rules, while it runs: systemd rewrites its list, the container stands still meanwhile.
    let rules = json!({"devices": [{"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 237, "access": "rw"}]});
    world
        .call(&["update", "--resources", "-", &unit.container.id])
        .stdin(rules.to_string().as_bytes())
        .run()
        .ok();
    assert_eq!(unit.container.status(), "running");
    check("after other rules", "refused", "allowed");
    systemd("systemctl", &["daemon-reload"]);
    check("after other rules and a reload", "refused", "allowed");
    unit.finish();
}

#[test]
fn a_failed_start_leaves_nothing_in_any_hierarchy() {
    let test = "vm::legacy::a_failed_start_leaves_nothing_in_any_hierarchy";
    let Some(world) = World::enter(test) else { return };
    for (pointer, value) in [
        ("/process/args", json!(["/no/such/program"])),
        ("/linux/resources/unified", json!({"memory.high": "1"})),
        ("/annotations", json!({"org.systemd.property.NoSuchProperty": "true"})),
    ] {
        let mut bundle = world.bundle();
        bundle.set(pointer, value);
        let unit = Unit::new(&world, &mut bundle, "vm");
        unit.davit(&["create", &unit.container.id]).exits(1);
        assert_gone(&unit.name);
        assert_eq!(host::cgroups_named(&unit.container.id), [] as [PathBuf; 0]);
        unit.container.assert_nothing_left();
    }
}

#[test]
fn each_runtime_deletes_the_others_units_on_v1() {
    let test = "vm::legacy::each_runtime_deletes_the_others_units_on_v1";
    let Some(world) = World::enter_with_runc(test) else { return };
    let (davit, runc) = (world.runtime(), Path::new(RUNC));
    for (maker, remover) in [(davit, runc), (runc, davit)] {
        let mut bundle = world.bundle();
        bundle.args(&["sleep", "1000"]);
        let unit = Unit::new(&world, &mut bundle, "vm");
        unit.call(maker, &["create", &unit.container.id]).ok();
        unit.call(remover, &["start", &unit.container.id]).ok();
        assert_eq!(unit.call(remover, &["state", &unit.container.id]).ok().json()["status"], "running");
        unit.call(remover, &["delete", "--force", &unit.container.id]).ok();
        assert_gone(&unit.name);
        unit.container.assert_nothing_left();
    }
}

#[test]
fn a_users_systemd_is_refused() {
    let Some(world) = World::enter("vm::legacy::a_users_systemd_is_refused") else { return };
    let bundle = world.bundle();
    let container = world.container(&bundle);
    let words = ["--systemd-cgroup", "--rootless", "true", "create", &container.id];
    let output = world.call(&words).dir(bundle.dir()).run().exits(1);
    assert!(
        output.error().contains("cannot use rootless systemd cgroups manager on cgroup v1"),
        "{}",
        output.error()
    );
    container.assert_nothing_left();
}
