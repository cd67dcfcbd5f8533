//! Deaths at random points of a container's life, by `kill -9`: of the shim, of a worker of the shim's, of containerd.
//!
//! `DURABILITY_ROUNDS` says how many there are, `DURABILITY_SEED` which, `DURABILITY_FIRST` from which round on; seed and
//! round are in every failure.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::containerd::Containerd;
use crate::{leaks, poll};

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// A process that serves a pod or container.
    Shim,
    /// A child of such a one, which executes one call.
    Worker,
    /// containerd.
    Daemon,
}

/// One death.
#[derive(Debug)]
pub struct Death {
    /// Of whom.
    pub victim: Victim,
    after: Duration,
    dice: u64,
    seed: u64,
    round: u64,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Death { victim, after, seed, round, .. } = self;
        write!(f, "DURABILITY_SEED={seed}, round {round}: {victim:?} after {after:?}")
    }
}

/// A number from the environment.
pub fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A number that differs from round to round and is the same for the same seed (splitmix64).
fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Has `one_life` live through each of so many deaths within its first `span` milliseconds, and prints how often each
/// outcome was.
pub fn each(rounds: u64, span: u64, mut one_life: impl FnMut(&Death) -> String) {
    let seed = from_environment("DURABILITY_SEED", u64::from(std::process::id()));
    let first = from_environment("DURABILITY_FIRST", 0);
    let mut seen = BTreeMap::new();
    for round in first..first + from_environment("DURABILITY_ROUNDS", rounds) {
        let dice = random(seed.wrapping_mul(1000).wrapping_add(round));
        let victim = [Victim::Shim, Victim::Daemon, Victim::Worker][(dice % 3) as usize];
        let death = Death { victim, after: Duration::from_millis((dice >> 8) % span), dice, seed, round };
        *seen.entry(format!("{victim:?} {}", one_life(&death))).or_insert(0) += 1;
    }
    println!("victim, whether it was there to be killed, what came of it: {seen:?}");
}

impl Death {
    /// Waits for its time and kills; whether there was anything to kill.
    pub fn strike(&self, daemon: &Containerd) -> bool {
        thread::sleep(self.after);
        // A shim or a worker may not be there yet, and workers live for a few milliseconds only.
        let end = Instant::now() + Duration::from_millis(300);
        loop {
            let victims = match self.victim {
                Victim::Daemon => vec![daemon.pid()],
                Victim::Shim => serving(daemon).collect(),
                Victim::Worker => serving(daemon).flat_map(workers).collect(),
            };
            if let Some(pid) = victims.get((self.dice >> 32) as usize % victims.len().max(1)) {
                return kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok();
            }
            if Instant::now() > end {
                return false;
            }
        }
    }

    /// Panics if anything is left but the socket of a dead shim, which is removed.
    pub fn assert_nothing_left(&self, daemon: &Containerd) {
        let mut left = Vec::new();
        // A shim that nobody knows of ends by itself.
        poll::within(90, || {
            left = leaks::left(daemon.namespace(), daemon.dir());
            left.iter().all(|line| line.starts_with("socket ")).then_some(())
        });
        // Where containerd's own removal of the bundle is faster than the `delete` it runs after a dead shim, nobody
        // is asked to remove the socket: the file stays, with any shim.
        left.retain(|line| !line.strip_prefix("socket ").is_some_and(is_dead));
        assert!(left.is_empty(), "{self}: left\n{}\n{}", left.join("\n"), daemon.log());
    }
}

/// Removes a socket that nobody listens on any more; whether it was one.
fn is_dead(socket: &str) -> bool {
    let refused = UnixStream::connect(socket).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
    refused && fs::remove_file(socket).is_ok()
}

/// Shims, without those that are one call of containerd's.
fn serving(daemon: &Containerd) -> impl Iterator<Item = i32> {
    daemon.shims().into_iter().filter(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        !line.ends_with("start\0") && !line.ends_with("delete\0")
    })
}

/// Children that run the shim's own program; a container's process runs another.
fn workers(shim: i32) -> impl Iterator<Item = i32> {
    let program = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let own = program(shim);
    children(shim).into_iter().filter(move |&child| program(child) == own)
}

/// The children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}
