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
