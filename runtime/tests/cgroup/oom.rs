//! OOM kills of cgroup v1: every one is told, once, and no other's.

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use davit::cgroup::OomWatch;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::common::{Scratch, Shell, resolve, skip_unless_v1, until};

const LIMIT: &str = r#"{"memory":{"limit":12582912,"swap":12582912}}"#;
/// One process that needs more than that.
const EATER: &str = "exec dd if=/dev/zero of=/dev/null bs=60M count=1";

fn is_readable(watch: &OomWatch, milliseconds: u16) -> bool {
    let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(milliseconds)).unwrap() == 1
}

#[test]
fn oom_kills_are_noticed() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    scratch.apply_json(r#"{"memory":{"limit":12582912,"swap":12582912}}"#).unwrap();
    let mut watch = scratch.oom_watch().unwrap();
    assert_eq!(scratch.oom_kills(), Some(0));
    assert!(!watch.drain());
    let mut shell = Shell::waiting("x=$(head -c 60000000 /dev/zero | tr '\\0' x); echo alive");
    scratch.attach(shell.pid()).unwrap();
    shell.go();
    let ready =
        poll(&mut [PollFd::new(watch.as_fd(), PollFlags::POLLIN)], PollTimeout::from(20_000_u16)).unwrap();
    assert_eq!(ready, 1);
    until("an OOM kill", || watch.drain());
    assert!(watch.kills() >= 1);
    assert!(scratch.oom_kills() >= Some(1));
    shell.killed_by();
}

/// A look right after the notification, which comes before the victim is counted; the watcher sleeps then unless it is
/// asked to come back.
#[test]
fn a_victim_that_is_counted_late_is_told() {
    if skip_unless_v1() {
        return;
    }
    for round in 0..10 {
        let scratch = Scratch::created();
        scratch.apply_json(LIMIT).unwrap();
        let mut watch = scratch.oom_watch().unwrap();
        let mut shell = Shell::waiting(EATER);
        scratch.attach(shell.pid()).unwrap();
        shell.go();
        // No sleep between: to be as early as can be.
        until("the notification", || is_readable(&watch, 0));
        let mut told = u32::from(watch.drain());
        let begun = Instant::now();
        while let Some(soon) = watch.recheck().filter(|_| begun.elapsed() < Duration::from_secs(10)) {
            std::thread::sleep(soon);
            told += u32::from(watch.drain());
        }
        assert_eq!(told, 1, "round {round}: {watch:?}");
        assert_eq!(watch.recheck(), None);
        assert_eq!(shell.killed_by(), Some(libc::SIGKILL));
    }
}

/// The cgroup goes with its last process, before the watcher has seen the count.
#[test]
fn a_kill_is_told_when_the_cgroup_goes_with_it() {
    if skip_unless_v1() {
        return;
    }
    for round in 0..20 {
        let scratch = Scratch::created();
        scratch.apply_json(LIMIT).unwrap();
        let mut watch = scratch.oom_watch().unwrap();
        let mut shell = Shell::waiting(if round % 2 == 0 { EATER } else { "exec true" });
        scratch.attach(shell.pid()).unwrap();
        shell.go();
        let expected = u32::from(round % 2 == 0);
        let mut told = 0;
        if round % 4 == 0 {
            until("the notification", || is_readable(&watch, 0));
            // Most often before the victim is counted.
            told += u32::from(watch.drain());
        }
        let killed = shell.killed_by();
        assert_eq!(killed, (expected == 1).then_some(libc::SIGKILL));
        let dir = scratch.dir("memory");
        until("an empty cgroup", || fs::remove_dir(&dir).is_ok());
        told += u32::from(watch.drain_at_end());
        told += u32::from(watch.drain_at_end());
        assert_eq!(told, expected, "round {round}: {watch:?}");
    }
}

/// The kernel notifies all cgroups below the one that is out of memory.
#[test]
fn a_victim_beside_is_not_told() {
    if skip_unless_v1() {
        return;
    }
    let scratch = Scratch::created();
    scratch.apply_json(LIMIT).unwrap();
    let path = scratch.dir("memory");
    let (_, below) = path.to_str().unwrap().split_once("/davit-test").unwrap();
    let [watched, other] = ["watched", "other"].map(|name| resolve(&format!("/davit-test{below}/{name}")));
    watched.create().unwrap();
    other.create().unwrap();
    let mut watch = watched.oom_watch().unwrap();
    let mut shell = Shell::waiting(EATER);
    other.attach(shell.pid()).unwrap();
    shell.go();
    assert!(is_readable(&watch, 20_000));
    assert_eq!(shell.killed_by(), Some(libc::SIGKILL));
    assert_eq!(other.oom_kills(), Some(1));
    assert!(!watch.drain());
    while let Some(soon) = watch.recheck() {
        std::thread::sleep(soon);
        assert!(!watch.drain());
    }
    watched.remove().unwrap();
    other.remove().unwrap();
    assert!(!watch.drain_at_end(), "the removal is no kill");
}
