//! Memory on cgroup v2: OOM kills, throttling, pressure, and how little a container can be made with.

use std::fs;
use std::path::Path;

use davit_tests::{Bundle, Container, Output, World, wait_until};
use serde_json::{Value, json};

use crate::cgroup_of;
use crate::unit::{Unit, assert_gone};

const MIB: i64 = 1 << 20;

/// Both drivers.
const DRIVERS: [&[&str]; 2] = [&[], &["--systemd-cgroup"]];

/// A container that takes more than it may have once `/tmp/go` is there.
fn hog(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.set("/linux/resources/memory", json!({"limit": 32 * MIB, "swap": 32 * MIB})).script(
        "until [ -e /tmp/go ]; do sleep 0.05; done; exec dd if=/dev/zero of=/dev/null bs=200M count=1",
    );
    bundle
}

fn call(world: &World, driver: &[&str], words: &[&str], container: &Container<'_>) -> Output {
    world.call(&[driver, words, &[&container.id]].concat()).dir(container.bundle()).run()
}

fn kinds(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_oom_kill_is_told_and_the_exit_code_is_that_of_sigkill() {
    let test = "vm::memory::an_oom_kill_is_told_and_the_exit_code_is_that_of_sigkill";
    let Some(world) = World::enter(test) else { return };
    for driver in DRIVERS {
        let bundle = hog(&world);
        let container = world.container(&bundle);
        let words = [driver, &["run", &container.id]].concat();
        let run = world.call(&words).dir(bundle.dir()).spawn();
        wait_until("the container runs", || {
            let state = container.simple("state");
            state.code == 0 && state.json()["status"] == "running"
        });
        let events = container.call("events", &["--interval", "1s"], &[]).spawn();
        wait_until("events are watched", || events.stdout().contains('\n'));
        fs::write(bundle.rootfs("tmp/go"), "").unwrap();
        run.wait().exits(137);
        // With systemd the cgroup goes with its last process.
        let seen = kinds(&events.wait().ok().stdout);
        assert_eq!(seen.iter().filter(|kind| *kind == "oom").count(), 1, "{driver:?}: {seen:?}");
        container.assert_nothing_left();
    }
}

#[test]
fn what_the_kernel_counted_is_there_until_delete() {
    let Some(world) = World::enter("vm::memory::what_the_kernel_counted_is_there_until_delete") else {
        return;
    };
    let bundle = hog(&world);
    let container = world.container(&bundle).started();
    let dir = cgroup_of(container.pid());
    fs::write(bundle.rootfs("tmp/go"), "").unwrap();
    container.wait_for("stopped");
    let events = fs::read_to_string(dir.join("memory.events")).unwrap();
    assert!(events.lines().any(|line| line == "oom_kill 1"), "{events}");
    container.finish();
}

#[test]
fn memory_high_holds_back_and_kills_nothing() {
    let Some(world) = World::enter("vm::memory::memory_high_holds_back_and_kills_nothing") else { return };
    let mut bundle = world.bundle();
    bundle
        .set("/linux/resources/unified", json!({"memory.high": (8 * MIB).to_string()}))
        .script("dd if=/dev/zero of=/dev/null bs=9M count=1 2>/dev/null && echo done; exec sleep 1000");
    let container = world.container(&bundle);
    let create = container.create(&[]).ok();
    container.simple("start").ok();
    wait_until("its end", || create.stdout_now().contains("done"));
    let stats = container.call("events", &["--stats"], &[]).run().ok().json();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], json!(u64::MAX), "no limit beside it");
    let events = fs::read_to_string(cgroup_of(container.pid()).join("memory.events")).unwrap();
    let of = |key: &str| events.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
    assert!(of("high ").unwrap() > 0, "{events}");
    assert_eq!(of("oom_kill "), Some(0), "{events}");
    container.finish();
}

#[test]
fn pressure_is_in_the_statistics() {
    let Some(world) = World::enter("vm::memory::pressure_is_in_the_statistics") else { return };
    let mut bundle = world.bundle();
    // Two that want the one CPU.
    let spin = "while :; do :; done";
    bundle.set("/linux/resources/cpu", json!({"cpus": "0"})).script(&format!("({spin}) & {spin}"));
    let container = world.container(&bundle).started();
    let psi = |stats: &Value, what: &str| stats["data"][what]["psi"].clone();
    wait_until("pressure of the CPU", || {
        let stats = container.call("events", &["--stats"], &[]).run().ok().json();
        for what in ["cpu", "memory", "blkio"] {
            for kind in ["some", "full"] {
                let psi = &psi(&stats, what)[kind];
                assert!(psi["avg10"].is_number() && psi["total"].is_u64(), "{what} {kind}: {psi}");
            }
        }
        psi(&stats, "cpu")["some"]["total"].as_u64().unwrap() > 0
    });
    container.finish();
}

#[test]
fn a_container_is_made_within_256_kib() {
    let Some(world) = World::enter("vm::memory::a_container_is_made_within_256_kib") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["true"]).set("/linux/resources/memory", json!({"limit": 256 << 10, "swap": 256 << 10}));
    for driver in DRIVERS {
        for round in 0..5 {
            let container = world.container(&bundle);
            let created = call(&world, driver, &["create"], &container);
            assert_eq!(created.code, 0, "{driver:?}, round {round}: {}", created.error());
            container.simple("start").ok();
            container.wait_for("stopped");
            container.finish();
        }
    }
}

#[test]
fn pausing_and_killing_five_hundred_processes() {
    let Some(world) = World::enter("vm::memory::pausing_and_killing_five_hundred_processes") else { return };
    let mut bundle = world.bundle();
    bundle
        .script("i=0; while [ $i -lt 499 ]; do sleep 1000 & i=$((i + 1)); done; echo ready; exec sleep 1000");
    let unit = Unit::new(&world, &mut bundle, "vm");
    let create = unit.davit(&["create", &unit.container.id]).ok();
    unit.container.simple("start").ok();
    wait_until("five hundred processes", || create.stdout_now().contains("ready"));
    let scope = cgroup_of(unit.container.pid());
    let count = || fs::read_to_string(scope.join("cgroup.procs")).unwrap().lines().count();
    assert_eq!(count(), 500);
    unit.container.simple("pause").ok();
    assert_eq!(read(&scope, "cgroup.events"), "populated 1\nfrozen 1");
    unit.container.simple("resume").ok();
    assert_eq!(read(&scope, "cgroup.events"), "populated 1\nfrozen 0");
    assert_eq!(unit.container.simple("ps").ok().stdout.lines().count(), 501);
    // Frozen: killed all the same.
    unit.container.simple("pause").ok();
    unit.davit(&["delete", "--force", &unit.container.id]).ok();
    assert_gone(&unit.name);
    unit.container.assert_nothing_left();
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap().trim_end().to_owned()
}
