//! `list` over many containers. Absolute times mean nothing on a shared machine: system calls are counted, and wall
//! times compared with those of one container.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use davit_tests::{World, skip, unique};

const MANY: usize = 100;

/// What listing one more container may cost. Its state.json is read (5 calls), its init looked at (3), its
/// freezer (5), exec.fifo and the directory's owner (2).
const CALLS_FOR_EACH: usize = 15;

/// A list of so many takes less than this times what a list of one takes.
const WANTED: f64 = 10.0;

/// Rust's debug builds check each descriptor with fcntl before it is closed.
fn calls(world: &World) -> usize {
    let trace = world.path("trace");
    let words = ["env", "-u", "LD_LIBRARY_PATH", "strace", "-f", "-qq", "-o", trace.to_str().unwrap()];
    world.call(&["list"]).without_log().wrapper(&words).run().ok();
    let text = fs::read_to_string(&trace).unwrap();
    text.lines().filter(|line| line.contains('(') && !line.contains("fcntl(")).count()
}

fn time(world: &World, root: &Path) -> Duration {
    let start = Instant::now();
    let status = std::process::Command::new(world.runtime())
        .args(["--root", root.to_str().unwrap(), "list", "--format", "json"])
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success());
    start.elapsed()
}

/// How many times as long a list of one root takes as that of another. They take turns, so that a busy machine
/// hits both, and the shortest of each counts, which is the least disturbed one. The longer one is disturbed more
/// often: a ratio that is too high is measured again.
fn ratio(world: &World, many: &Path, one: &Path) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..5 {
        best = best.min(one_ratio(world, many, one));
        if best < WANTED {
            break;
        }
    }
    best
}

fn one_ratio(world: &World, many: &Path, one: &Path) -> f64 {
    let mut shortest = [Duration::MAX; 2];
    for _ in 0..60 {
        for (root, shortest) in [many, one].into_iter().zip(&mut shortest) {
            *shortest = time(world, root).min(*shortest);
        }
    }
    shortest[0].as_secs_f64() / shortest[1].as_secs_f64()
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
    let one = calls(&world);
    // The same container alone under a root of its own.
    let alone = world.path("alone");
    fs::create_dir(&alone).unwrap();
    let copied =
        std::process::Command::new("cp").arg("-a").arg(world.root().join(&ids[0])).arg(&alone).status();
    assert!(copied.unwrap().success());
    ids[1..].iter().for_each(create);
    let all = calls(&world);
    // Debug builds are several times as large as what ships, and their time says nothing of it.
    let optimised = fs::metadata(world.runtime()).unwrap().len() < 8 << 20;
    let ratio = optimised.then(|| ratio(&world, &world.root(), &alone));
    let listed = world.call(&["list", "--quiet"]).run().ok().stdout;
    for id in &ids {
        world.call(&["delete", "--force", id]).run().ok();
    }
    assert_eq!(listed.lines().count(), MANY);
    let each = (all - one) as f64 / (MANY - 1) as f64;
    println!("list of {MANY}: {ratio:.1?} times what one takes; {one} and {all} calls, {each:.1} for each");
    assert!(ratio.is_none_or(|ratio| ratio < WANTED), "{ratio:.1?} times what one takes");
    // The output grows with them, and is written in pieces.
    assert!(all - one <= (MANY - 1) * CALLS_FOR_EACH + MANY / 10, "{each:.1} calls for each container");
}
