//! `list` over many containers. Absolute times mean nothing on a shared machine: system calls are counted, and
//! the ratio of wall times is printed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use davit_tests::{World, skip, unique};

const MANY: usize = 100;

/// What listing one more container may cost. Its state.json is read (5 calls), its init looked at (3), its
/// freezer (5), exec.fifo and the directory's owner (2).
const CALLS_FOR_EACH: usize = 15;

/// Rust's debug builds check each descriptor with fcntl before it is closed.
fn calls(world: &World) -> usize {
    let trace = world.path("trace");
    let words = ["env", "-u", "LD_LIBRARY_PATH", "strace", "-f", "-qq", "-o", trace.to_str().unwrap()];
    world.call(&["list"]).without_log().wrapper(&words).run().ok();
    let text = fs::read_to_string(&trace).unwrap();
    text.lines().filter(|line| line.contains('(') && !line.contains("fcntl(")).count()
}

/// The shortest of several runs, which is the least disturbed one.
fn time(world: &World) -> Duration {
    let once = || {
        let start = Instant::now();
        let status = std::process::Command::new(world.runtime())
            .args(["--root", world.root().to_str().unwrap(), "list", "--format", "json"])
            .stdout(std::process::Stdio::null())
            .status();
        assert!(status.unwrap().success());
        start.elapsed()
    };
    (0..20).map(|_| once()).min().unwrap_or_default()
}

#[test]
fn a_hundred_containers_are_listed_fast() {
    let test = "a_hundred_containers_are_listed_fast";
    let Some(world) = World::enter(test) else { return };
    if world.is_runc() {
        return skip(test, "a budget of davit").unwrap_or_default();
    }
    if !Path::new("/usr/bin/strace").exists() {
        return skip(test, "no strace").unwrap_or_default();
    }
    let mut bundle = world.bundle();
    bundle.args(&["true"]);
    let ids: Vec<String> = (0..MANY).map(|_| unique("davit-test-many")).collect();
    let create = |id: &String| {
        let dir = bundle.dir().to_str().unwrap();
        world.call(&["create", "--bundle", dir, id]).run().ok();
    };
    bundle.write();
    create(&ids[0]);
    let (one, one_took) = (calls(&world), time(&world));
    ids[1..].iter().for_each(create);
    let (all, all_took) = (calls(&world), time(&world));
    let listed = world.call(&["list", "--quiet"]).run().ok().stdout;
    for id in &ids {
        world.call(&["delete", "--force", id]).run().ok();
    }
    assert_eq!(listed.lines().count(), MANY);
    let ratio = all_took.as_secs_f64() / one_took.as_secs_f64();
    let each = (all - one) as f64 / (MANY - 1) as f64;
    println!(
        "list of {MANY} takes {ratio:.1} times what one takes; {one} and {all} calls, {each:.1} for each"
    );
    // The output grows with them, and is written in pieces.
    assert!(all - one <= (MANY - 1) * CALLS_FOR_EACH + MANY / 10, "{each:.1} calls for each container");
}
