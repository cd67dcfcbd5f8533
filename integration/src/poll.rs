//! Waiting for something to become true, with a deadline.

use std::fmt::Debug;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Looks until what is seen is `wanted`, and gives it. Panics with `what` and the last that was seen when that did not
/// come within `seconds`. Give it many times what an idle machine needs: machines that test are shared.
#[track_caller]
pub fn until<T: Debug>(
    what: &str,
    seconds: u64,
    mut see: impl FnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let start = Instant::now();
    let (mut looks, mut last) = (0u32, None);
    let found = within(seconds, || {
        looks += 1;
        let seen = see();
        if wanted(&seen) {
            return Some(seen);
        }
        last = Some(seen);
        None
    });
    match found {
        Some(found) => found,
        None => panic!(
            "waited {} s in vain for {what}; seen last, at look {looks}: {last:?}",
            start.elapsed().as_secs()
        ),
    }
}

/// Waits until a process has ended, reaped or not: who has lost its shim is reaped by the machine's process 1.
#[track_caller]
pub fn until_gone(pid: i32) {
    let state = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(text.rsplit_once(") ")?.1.split(' ').next()?.to_owned())
    };
    until(&format!("the end of process {pid}"), 30, state, |state| {
        state.as_deref().is_none_or(|state| ["Z", "X"].contains(&state))
    });
}

/// Waits until a container's `until-term` has set its trap: before that the first process of a pid namespace ignores
/// SIGTERM, and a runtime's own process, not yet replaced, has handlers of its own.
#[track_caller]
pub fn until_trapped(pid: i32) {
    const SIGTERM: u64 = 1 << 14;
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let caught = || {
        let status = read("status");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
        (read("comm").trim_end().to_owned(), u64::from_str_radix(mask.trim(), 16).unwrap_or(0))
    };
    until(&format!("the trap of process {pid}"), 60, caught, |(name, mask)| {
        name == "until-term" && mask & SIGTERM != 0
    });
}

/// Asks until there is an answer or `seconds` are over.
pub fn within<T>(seconds: u64, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        sleep(Duration::from_millis(20));
    }
}
