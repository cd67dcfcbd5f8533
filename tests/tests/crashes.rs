//! `kill -9` of davit at random moments: what a killed command leaves behind, `delete --force` removes.
//!
//! 1,000 containers, 8 at a time. The moments come from a seed, which is printed and can be given as
//! `CRASH_SEED`; `CRASH_CYCLES` changes the number.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use davit_tests::tty::ConsoleSocket;
use davit_tests::{Bundle, Call, Output, World, host, skip, unique, wait_until};
use serde_json::json;

const WORKERS: usize = 8;

/// Environment variable that every process of these tests has: of davit, of the container, of hooks.
const MARK: &str = "DAVIT_CRASH_TEST";

/// xorshift64*: the same moments for the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64, stream: u64) -> Self {
        let mut random = Random((seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
        for _ in 0..4 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// The commands of a cycle, in order.
const COMMANDS: [&str; 5] = ["create", "start", "exec", "kill", "delete"];

/// What the containers are like.
type Kind = (&'static str, fn(&World, &mut Bundle));

const KINDS: &[Kind] = &[
    ("plain", |_, _| {}),
    ("user namespace", |_, b| {
        b.push("/linux/namespaces", json!({"type": "user"}));
        for ids in ["/linux/uidMappings", "/linux/gidMappings"] {
            b.set(ids, json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]));
        }
    }),
    ("hooks", |world, b| {
        let mark = format!("{MARK}={}", world.root().display());
        for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
            let hook = json!({"path": "/bin/busybox", "args": ["true"], "env": [mark]});
            b.set(&format!("/hooks/{kind}"), json!([hook, hook]));
        }
        let inside = json!({"path": "/bin/true", "env": [mark]});
        b.set("/hooks/startContainer", json!([inside]));
    }),
    ("terminal", |_, b| {
        b.set("/process/terminal", json!(true));
    }),
    ("host pid namespace", |_, b| {
        b.without_namespace("pid");
    }),
    ("cgroup and time namespaces", |_, b| {
        b.push("/linux/namespaces", json!({"type": "cgroup"}))
            .push("/linux/namespaces", json!({"type": "time"}));
    }),
    ("mounts, devices, limits, seccomp", |world, b| {
        let source = world.path("source");
        std::fs::create_dir_all(&source).unwrap();
        b.mount("/mnt", "bind", source.to_str().unwrap(), &["rbind", "rshared"]);
        b.set("/linux/rootfsPropagation", json!("rslave"));
        b.set("/linux/resources/pids", json!({"limit": 50}))
            .set("/linux/resources/memory", json!({"limit": 64 << 20}));
        let rule = json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"});
        b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
    }),
];

/// What all workers share.
struct Crashes<'w> {
    world: &'w World,
    bundles: Vec<Bundle>,
    prefix: String,
    seed: u64,
    /// Of each command, how long it last took undisturbed, in microseconds.
    took: [AtomicU64; COMMANDS.len()],
    killed: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Crashes<'_> {
    /// One container's life, in which one command is killed.
    fn cycle(&self, number: usize) -> Result<(), String> {
        let mut random = Random::new(self.seed, number as u64);
        let kind = number % KINDS.len();
        let id = format!("{}{number}_", self.prefix);
        // Half of the crashes are create's, where most is made.
        let victim = match random.below(10) {
            0..=4 => 0,
            5..=6 => 1,
            7 => 2,
            8 => 3,
            _ => 4,
        };
        let tty = ConsoleSocket::bind(&self.world.path(&format!("tty-{number}")));
        let what = format!("cycle {number} ({}, killed at {})", KINDS[kind].0, COMMANDS[victim]);
        for (command, name) in COMMANDS.iter().enumerate() {
            let call = self.call(kind, name, &id, &tty.path);
            if command == victim {
                self.crash(command, call, &mut random);
                break;
            }
            let start = Instant::now();
            let output = call.run();
            if output.code != 0 {
                return Err(format!("{what}: {name} fails: {}{}", output.stderr, output.error()));
            }
            self.took[command].store(start.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
        let output = self.call(kind, "delete", &id, &tty.path).run();
        match output.code {
            0 => Ok(()),
            code => Err(format!("{what}: delete --force fails with {code}: {}", output.stderr)),
        }
    }

    fn call(&self, kind: usize, name: &str, id: &str, tty: &Path) -> Call<'_> {
        let mut words = match name {
            "create" => vec!["create", id],
            "start" => vec!["start", id],
            "exec" => vec!["exec", id, "/bin/true"],
            "kill" => vec!["kill", id, "KILL"],
            _ => vec!["delete", "--force", id],
        };
        if name == "create" && KINDS[kind].0 == "terminal" {
            words.splice(1..1, ["--console-socket", tty.to_str().unwrap()]);
        }
        let root = self.world.root();
        self.world.call(&words).dir(self.bundles[kind].dir()).env(MARK, root.to_str().unwrap())
    }

    /// Kills the command at a moment of its usual duration, or a little later.
    fn crash(&self, command: usize, call: Call<'_>, random: &mut Random) -> Output {
        let usual = self.took[command].load(Ordering::Relaxed);
        let running = call.spawn();
        std::thread::sleep(Duration::from_micros(random.below(usual + usual / 8)));
        let pid = nix::unistd::Pid::from_raw(running.pid());
        // Not waited for yet, so the pid is still its own.
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        let output = running.wait();
        if output.code == 137 {
            self.killed.fetch_add(1, Ordering::Relaxed);
        }
        output
    }

    fn work(&self, next: &AtomicUsize, cycles: usize) {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= cycles {
                return;
            }
            if let Err(failure) = self.cycle(number) {
                self.failures.lock().unwrap().push(failure);
            }
        }
    }
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}: {text:?}")))
}

#[test]
fn a_thousand_crashes_leave_nothing() {
    let test = "a_thousand_crashes_leave_nothing";
    let Some(world) = World::enter(test) else { return };
    if world.is_runc() {
        return skip(test, "promises that only davit makes").unwrap_or_default();
    }
    let seed = number_from("CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()) * 7919);
    let cycles = number_from("CRASH_CYCLES").unwrap_or(1000) as usize;
    println!("CRASH_SEED={seed} CRASH_CYCLES={cycles}");
    let mark = format!("{MARK}={}", world.root().display());
    let bundles = KINDS.iter().map(|(_, change)| {
        let mut bundle = world.bundle();
        bundle.args(&["sleep", "1000"]).push("/process/env", json!(mark));
        change(&world, &mut bundle);
        bundle.write();
        // Users of a user namespace must reach it.
        let chmod = std::process::Command::new("chmod").arg("755").arg(bundle.dir()).status();
        assert!(chmod.unwrap().success());
        bundle
    });
    let crashes = Crashes {
        world: &world,
        bundles: bundles.collect(),
        prefix: unique("davit-crash"),
        seed,
        took: std::array::from_fn(|_| AtomicU64::new(20_000)),
        killed: AtomicUsize::new(0),
        failures: Mutex::new(Vec::new()),
    };
    let scratch = world.root().parent().unwrap().to_owned();
    let chmod = std::process::Command::new("chmod").arg("755").arg(&scratch).status();
    assert!(chmod.unwrap().success());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        (0..WORKERS).for_each(|_| {
            scope.spawn(|| crashes.work(&next, cycles));
        });
    });
    let killed = crashes.killed.into_inner();
    println!("{killed} of {cycles} commands were killed before their end");
    let failures = crashes.failures.into_inner().unwrap();
    assert!(failures.is_empty(), "seed {seed}: {} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(killed * 3 > cycles, "too few crashes: {killed} of {cycles}");

    let left: Vec<_> = std::fs::read_dir(world.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.is_empty(), "seed {seed}: state directories: {left:?}");
    // A hook, or init whose runtime was killed, needs a moment to end. Nothing else may be alive, in whatever
    // cgroup or namespace: so no network namespace is held either (davit mounts none; other programs on the machine
    // may).
    wait_until("the end of all processes", || host::processes_with(&mark).is_empty());
    let cgroups = host::cgroups_named(&crashes.prefix);
    assert!(cgroups.is_empty(), "seed {seed}: cgroups: {cgroups:?}");
    let scratch = scratch.to_str().unwrap();
    let leaked: Vec<String> =
        host::mounts().lines().filter(|line| line.contains(scratch)).map(str::to_owned).collect();
    assert!(leaked.is_empty(), "seed {seed}: mounts: {leaked:?}");
}
