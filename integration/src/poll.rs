//! Waiting for something to become true, with a deadline.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How much longer than on an idle machine an answer may take: machines that test are shared.
const PATIENCE: u64 = 3;

/// Asks until there is an answer. Panics with `what` when none came within `seconds`, on a machine that is idle.
pub fn until<T>(what: &str, seconds: u64, mut ask: impl FnMut() -> Option<T>) -> T {
    match within(seconds * PATIENCE, &mut ask) {
        Some(answer) => answer,
        None => panic!("waited {} s in vain for {what}", seconds * PATIENCE),
    }
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
