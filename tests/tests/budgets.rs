//! System calls of each command: counts that are only ever lowered (DESIGN section 8).
//!
//! Counted with strace, in all processes that a command makes, on the bundle that `davit spec` writes. Calls of
//! the C library's start-up and allocator are left out: they differ between a static and a dynamic build.
//! The counts of runc and crun on the same bundle are printed beside, where those are installed.
//!
//! Page faults and the size are counted too, of the program as it ships.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use davit_tests::{Bundle, View, World, host, skip};

/// Calls that belong to a program's start or its allocator, not to the runtime's work. fcntl: Rust's debug
/// builds check each descriptor when it is closed.
const NOT_COUNTED: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "fcntl",
    "futex",
    "getrandom",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "poll",
    "pread64",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "set_robust_list",
    "set_tid_address",
    "sigaltstack",
];

/// Counts the calls in strace's output file: a line each, `PID name(…` or `PID <... name resumed>…`.
fn count(trace: &Path) -> (usize, BTreeMap<String, usize>) {
    let mut calls = BTreeMap::new();
    for line in fs::read_to_string(trace).unwrap().lines() {
        let Some((_, rest)) = line.split_once(' ') else { continue };
        // The dynamic loader's search for libraries.
        if rest.contains(".so") {
            continue;
        }
        // Resumed lines, signals and exits are not calls.
        let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if is_name && !NOT_COUNTED.contains(&name) {
            *calls.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    (calls.values().sum(), calls)
}

/// Runs a command of a runtime under strace and counts its calls; `None` when it fails.
fn traced(
    world: &World,
    program: Option<&Path>,
    bundle: &Bundle,
    view: View,
    args: &[&str],
) -> Option<usize> {
    let trace = world.path("trace");
    bundle.write();
    let mut call = world
        .call(args)
        .view(view)
        .dir(bundle.dir())
        // cargo's library path makes the loader look in more places.
        .wrapper(&[
            "env",
            "-u",
            "LD_LIBRARY_PATH",
            "strace",
            "-f",
            "-y",
            "-qq",
            "-o",
            trace.to_str().unwrap(),
        ]);
    if let Some(program) = program {
        call = call.with(program);
    }
    let output = call.run();
    if program.is_none() {
        output.ok();
    } else if output.code != 0 {
        println!("{args:?}: {}", output.error());
        // Debian 12's crun fails here (it may not raise RLIMIT_MEMLOCK) and leaves its cgroup.
        for dir in args.last().into_iter().flat_map(|id| host::cgroups_named(id)) {
            let _ = fs::remove_dir(dir);
        }
        return None;
    }
    let (total, calls) = count(&trace);
    println!("{args:?}: {total} {calls:?}");
    Some(total)
}

fn enter(test: &str) -> Option<World> {
    let world = World::enter(test)?;
    if !Path::new("/usr/bin/strace").exists() {
        return skip(test, "no strace");
    }
    if world.is_runc() {
        return skip(test, "budgets are davit's");
    }
    Some(world)
}

/// `run` of a program that ends at once. The count includes the program's own calls, which are few.
#[test]
fn run_on_pure_v2() {
    let Some(world) = enter("run_on_pure_v2") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["true"]);
    let id = davit_tests::unique("davit-test-budget");
    // The least of three: the kernel may still be taking the program off its cgroup when that is to be removed, and
    // then waiting and trying again is counted too.
    let davit =
        (0..3).filter_map(|_| traced(&world, None, &bundle, View::PureV2, &["run", &id])).min().unwrap();
    for peer in ["/usr/sbin/runc", "/usr/bin/crun"].map(Path::new).iter().filter(|peer| peer.exists()) {
        println!(
            "{}: {:?}",
            peer.display(),
            traced(&world, Some(peer), &bundle, View::PureV2, &["run", &id])
        );
    }
    assert!(davit <= 375, "davit run made {davit} system calls");
}

#[test]
fn exec_and_state() {
    let Some(world) = enter("exec_and_state") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    let exec = traced(&world, None, &bundle, View::Host, &["exec", &c.id, "true"]).unwrap();
    let state = traced(&world, None, &bundle, View::Host, &["state", &c.id]).unwrap();
    c.finish();
    assert!(exec <= 235, "davit exec made {exec} system calls");
    assert!(state <= 30, "davit state made {state} system calls");
}

/// Calls that name a cgroup, its files or its device program, in a run of a container with the limits that Docker and
/// Kubernetes set. The same table is in docs/bench.md.
#[test]
fn cgroup_work_of_run() {
    let test = "cgroup_work_of_run";
    let Some(world) = enter(test) else { return };
    let mut bundle = world.bundle();
    bundle.args(&["true"]);
    let newest = davit_tests::newest_runc().ok();
    let sid = |name: &str| newest.as_ref().map(|runc| runc.with_file_name(name)).filter(|path| path.exists());
    let mut counts = BTreeMap::new();
    for (view, limits) in [(View::PureV2, false), (View::Host, false), (View::Host, true)] {
        if limits {
            bundle.set("/linux/resources/memory", serde_json::json!({"limit": 64 << 20}));
            bundle.set(
                "/linux/resources/cpu",
                serde_json::json!({"shares": 512, "quota": 50_000, "period": 100_000}),
            );
            bundle.set("/linux/resources/pids", serde_json::json!({"limit": 100}));
        }
        for (name, program) in [("davit", None), ("runc", sid("runc")), ("crun", sid("crun"))] {
            if name != "davit" && program.is_none() {
                continue;
            }
            let once = |_| {
                let id = davit_tests::unique("davit-test-budget");
                traced(&world, program.as_deref(), &bundle, view, &["run", &id])?;
                let trace = fs::read_to_string(world.path("trace")).unwrap();
                Some(trace.lines().filter(|line| names_a_cgroup(line)).count())
            };
            let least = (0..3).filter_map(once).min();
            println!("cgroup work of {name}, {view:?}, limits {limits}: {least:?}");
            counts.insert((name, view == View::PureV2, limits), least);
        }
    }
    for (view, limits, budget) in CGROUP_WORK {
        let davit = counts[&("davit", view == View::PureV2, limits)].unwrap();
        assert!(davit <= budget, "{view:?}, limits {limits}: {davit} calls");
    }
}

/// The most calls for cgroups that a run may make: view, whether there are limits, calls.
const CGROUP_WORK: [(View, bool, usize); 3] =
    [(View::PureV2, false, 32), (View::Host, false, 268), (View::Host, true, 288)];

fn names_a_cgroup(line: &str) -> bool {
    // Resumed lines and the program's own name are none.
    !line.contains(" resumed>") && !line.contains("execve") && line.to_ascii_lowercase().contains("cgroup")
}

/// Runs the words after a file's name, and writes to that file how many page faults they took, with all their
/// descendants that were waited for.
const COUNT_FAULTS: &str = "
import os, sys
# Not by a fork, whose copies of Python's pages would be counted.
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
open(sys.argv[1], 'w').write(str(usage.ru_minflt))
sys.exit(os.waitstatus_to_exitcode(status))";

/// The program's size in bytes, if it is what ships: hack/build strips it, and an unoptimised one is several times as
/// large.
fn shipped(test: &str) -> Option<(World, u64)> {
    const STRIPPED: u64 = 4 << 20;
    let world = World::enter(test)?;
    if world.is_runc() {
        return skip(test, "budgets are davit's");
    }
    let size = fs::metadata(world.runtime()).unwrap().len();
    if size > STRIPPED {
        return skip(test, "budgets of size and memory are for what hack/build makes without --dev");
    }
    Some((world, size))
}

/// Page faults of a run: what it touches of its memory and its file, in all its processes and the container's. How
/// many come of the file differs by fifty with the way it was written (the page cache's folios are mapped whole).
#[test]
fn page_faults_of_run() {
    let test = "page_faults_of_run";
    let Some((world, _)) = shipped(test) else { return };
    if !Path::new("/usr/bin/python3").exists() {
        return skip(test, "no python3").unwrap_or(());
    }
    let mut bundle = world.bundle();
    bundle.args(&["true"]).write();
    let count = world.path("faults");
    let once = || {
        let id = davit_tests::unique("davit-test-budget");
        let wrapper = ["python3", "-c", COUNT_FAULTS, count.to_str().unwrap()];
        // Not in a view of its own, whose making would be counted.
        world.call(&["run", &id]).dir(bundle.dir()).wrapper(&wrapper).run().ok();
        fs::read_to_string(&count).unwrap().parse::<u32>().unwrap()
    };
    let all: Vec<u32> = (0..5).map(|_| once()).collect();
    println!("page faults of davit run: {all:?}");
    let least = all.into_iter().min().unwrap();
    assert!(least <= MOST_FAULTS, "davit run took {least} page faults");
}

/// 252 where cgroups are v1, which has the most files to open.
const MOST_FAULTS: u32 = 345;

#[test]
fn size_of_the_program() {
    let Some((world, size)) = shipped("size_of_the_program") else { return };
    println!("davit: {size} bytes");
    let file = fs::read(world.runtime()).unwrap();
    let packed = file.windows(RELR.len()).any(|name| name == RELR);
    let most = if packed { MOST_BYTES } else { MOST_BYTES + NOT_PACKED };
    assert!(size <= most, "davit is {size} bytes, of {most} allowed");
}

/// The design's.
const MOST_BYTES: u64 = 2 << 20;
/// What relocations take that the linker can't pack (hack/build tries it).
const NOT_PACKED: u64 = 100 << 10;
/// The section of those that it did.
const RELR: &[u8] = b"\0.relr.dyn\0";
