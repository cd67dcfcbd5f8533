//! `events`: runc's JSON, OOM kills, the end.

use std::collections::BTreeSet;
use std::path::Path;

use davit_tests::{Bundle, Container, RUNC, View, World, host, skip, wait_until};
use serde_json::{Value, json};

fn sleeping(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    bundle
}

/// Every path of an object, with the kind of value at its end. Keys that name what this machine has
/// (page sizes, lines of memory.stat) are in it too.
fn shape(value: &Value, at: &str, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            all.insert(format!("{at}: object"));
            map.iter().for_each(|(key, value)| shape(value, &format!("{at}.{key}"), all));
        }
        Value::Array(list) => list.iter().for_each(|value| shape(value, &format!("{at}[]"), all)),
        Value::Number(_) => drop(all.insert(format!("{at}: number"))),
        other => drop(all.insert(format!("{at}: {other}"))),
    }
}

fn shape_of(event: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    shape(event, "", &mut all);
    // Counters that may be zero at one moment and not at the next, and are left out then.
    let comes_and_goes =
        [".throttling.", ".io", ".percpu", ".cache", ".sectors", ".max", "usage.usage", ".failcnt"];
    all.retain(|line| !comes_and_goes.iter().any(|part| line.contains(part)));
    all
}

fn compare_stats(c: &Container<'_>) {
    let ours = c.call("events", &["--stats"], &[]).run().ok();
    assert_eq!(ours.stdout.lines().count(), 1, "one line: {}", ours.stdout);
    let theirs = c.call("events", &["--stats"], &[]).with(Path::new(RUNC)).run().ok();
    let (ours, theirs) = (ours.json(), theirs.json());
    assert_eq!(ours["type"], "stats");
    assert_eq!(ours["id"], c.id.as_str());
    assert_eq!(shape_of(&ours), shape_of(&theirs), "\n{ours}\n{theirs}");
    for same in [
        "/data/memory/usage/limit",
        "/data/memory/swap/limit",
        "/data/memory/raw/hierarchical_memory_limit",
        "/data/pids",
        "/data/cpuset",
    ] {
        assert_eq!(ours.pointer(same), theirs.pointer(same), "{same}");
    }
}

#[test]
fn stats_have_the_shape_of_runc() {
    let Some(world) = World::enter_with_runc("stats_have_the_shape_of_runc") else { return };
    let mut bundle = sleeping(&world);
    bundle.set("/linux/resources/pids", json!({"limit": 40}));
    let c = world.container(&bundle).started();
    compare_stats(&c);
    c.finish();
}

#[test]
fn stats_on_v2_have_psi_and_pids() {
    let Some(world) = World::enter("stats_on_v2_have_psi_and_pids") else { return };
    let mut c = world.container(&sleeping(&world));
    c.view = View::PureV2;
    let c = c.started();
    let stats = c.call("events", &["--stats"], &[]).run().ok().json();
    let data = &stats["data"];
    assert_eq!(data["pids"]["current"], 1);
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{data}");
    assert!(data["cpuset"]["cpu_exclusive"].is_u64());
    if Path::new("/proc/pressure/cpu").exists() {
        assert!(data["cpu"]["psi"]["some"]["avg10"].is_number(), "{data}");
    }
    c.finish();
}

#[test]
fn an_oom_kill_is_told_before_the_end() {
    let test = "an_oom_kill_is_told_before_the_end";
    let Some(world) = World::enter(test) else { return };
    if !host::has_v1() {
        return skip(test, "no memory controller that tests can use").unwrap_or(());
    }
    let mut bundle = world.bundle();
    bundle.set("/linux/resources/memory", json!({"limit": 32 << 20})).script(
        "until [ -e /tmp/go ]; do sleep 0.01; done; exec dd if=/dev/zero of=/dev/null bs=200M count=1",
    );
    let c = world.container(&bundle).started();
    let events = c.call("events", &["--interval", "20ms"], &[]).spawn();
    let lines = || -> Vec<Value> {
        let text = events.stdout();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    wait_until("statistics", || lines().len() >= 2);
    std::fs::write(bundle.rootfs("tmp/go"), "").unwrap();
    wait_until("the OOM event", || lines().iter().any(|event| event["type"] == "oom"));
    let out = events.wait().ok();
    let kinds: Vec<String> = out
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "oom").count(), 1, "{kinds:?}");
    assert_eq!(kinds[0], "stats");
    assert_eq!(c.status(), "stopped", "events ends with the container");
    c.finish();
}

/// The cgroup goes with the container's end, at once, when `run` is in the foreground.
#[test]
fn an_oom_kill_is_told_when_the_cgroup_goes_at_once() {
    let test = "an_oom_kill_is_told_when_the_cgroup_goes_at_once";
    let Some(world) = World::enter(test) else { return };
    if !host::has_v1() {
        return skip(test, "no memory controller that tests can use").unwrap_or(());
    }
    let mut bundle = world.bundle();
    bundle.set("/linux/resources/memory", json!({"limit": 32 << 20})).script(
        "until [ -e /tmp/go ]; do sleep 0.01; done; exec dd if=/dev/zero of=/dev/null bs=200M count=1",
    );
    for round in 0..10 {
        let _ = std::fs::remove_file(bundle.rootfs("tmp/go"));
        let c = world.container(&bundle);
        let run = c.call("run", &[], &[]).dir(bundle.dir()).spawn();
        wait_until("a running container", || {
            let state = c.simple("state");
            state.code == 0 && state.json()["status"] == "running"
        });
        let events = c.call("events", &["--interval", "10ms"], &[]).spawn();
        wait_until("statistics", || events.stdout().contains("\"stats\""));
        std::fs::write(bundle.rootfs("tmp/go"), "").unwrap();
        assert_eq!(run.wait().code, 137);
        let told = events.wait();
        assert!(told.stdout.contains("\"type\":\"oom\""), "round {round}: {} {}", told.stdout, told.log);
        c.assert_nothing_left();
    }
}

#[test]
fn wrong_calls_say_why() {
    let Some(world) = World::enter("wrong_calls_say_why") else { return };
    let c = world.container(&sleeping(&world)).started();
    c.call("events", &["--interval", "0s", "--stats"], &[])
        .run()
        .fails(1, "duration interval must be greater than 0");
    if !world.is_runc() {
        c.call("events", &["--interval", "soon"], &[]).run().fails(1, "-interval");
    }
    c.stop();
    c.call("events", &["--stats"], &[]).run().fails(1, &format!("container with id {} is not running", c.id));
    world.call(&["events", "--stats", "no-such"]).run().fails(1, "container does not exist");
    c.finish();
}
