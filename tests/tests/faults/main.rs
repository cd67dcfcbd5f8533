//! Every system call of davit fails once, with each error it plausibly can; and its process is killed in every one.
//! Whatever happens: no hang, one sentence, nothing left that `delete --force` does not remove, and the same id works
//! again. When a command succeeds all the same, its container is as it always is.
//!
//! `FAULTS=300` and `KILLS=100` say how many of all the cases are tried, evenly spread; `FAULTS=all` tries every one.
//! `FAULTS_OF=create` keeps to a command, `FAULTS_AT=1.27` to a place; `FAULTS_PART=2/5` makes a long run in pieces.
#![cfg(target_arch = "x86_64")]

mod life;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use davit_tests::tracer::{Act, Made};
use davit_tests::{World, cases, errnos, skip};

use life::{COMMANDS, Life, Outcome};

/// A case: which command, and what happens in it.
#[derive(Clone, Copy, Debug)]
struct Case {
    command: &'static str,
    made: Made,
    act: Act,
}

impl Case {
    fn name(&self) -> String {
        let errno = if let Act::Fail(_, errno) = self.act { Some(errno) } else { None };
        let place = self.made.place;
        let what = errnos::name(self.made.call, errno);
        format!("{} {}.{} {what}", self.command, place.process, place.number)
    }
}

/// Whether the environment leaves a case in.
fn chosen(case: &Case) -> bool {
    let place = format!("{}.{}", case.made.place.process, case.made.place.number);
    let is = |variable: &str, value: &str| std::env::var(variable).map_or(true, |wanted| wanted == value);
    is("FAULTS_OF", case.command) && is("FAULTS_AT", &place)
}

/// Tries cases, by this many workers at a time.
fn sweep(test: &str, variable: &str, default: usize, acts: impl Fn(Made) -> Vec<Act>) {
    let Some(world) = World::enter(test) else { return };
    if world.is_runc() {
        return skip(test, "promises that only davit makes").unwrap_or_default();
    }
    let first = Life::new(&world, variable);
    let mut cases = Vec::<Case>::new();
    let mut calls = BTreeMap::new();
    for command in COMMANDS {
        let recorded = first.record(command);
        assert!(recorded.len() > 20, "{command} makes {} calls", recorded.len());
        calls.insert(command, recorded.len());
        for made in recorded {
            cases.extend(acts(made).into_iter().map(|act| Case { command, made, act }));
        }
    }
    cases.retain(chosen);
    let total = cases.len();
    let picked = cases::pick(&cases, variable, default);
    let count = picked.len();
    let workers = if count > 500 { 2 } else { 1 };
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let outcomes = Mutex::new(BTreeMap::<(&str, Outcome), usize>::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let life = Life::new(&world, variable);
                while let Some(case) = picked.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match life.try_case(case.command, case.act) {
                        Ok(outcome) => {
                            *outcomes.lock().unwrap().entry((case.command, outcome)).or_default() += 1;
                        }
                        Err(why) => {
                            println!("FAILED {}: {why}", case.name());
                            failures.lock().unwrap().push(format!("{}: {why}", case.name()));
                        }
                    }
                }
            });
        }
    });
    println!("system calls: {calls:?}");
    println!("{count} of {total} cases: {:?}", outcomes.into_inner().unwrap());
    first.assert_nothing_left();
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {count} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_call_that_fails_leaves_nothing() {
    sweep("a_call_that_fails_leaves_nothing", "FAULTS", 260, |made| {
        errnos::of(made.call).iter().map(|errno| Act::Fail(made.place, *errno)).collect()
    });
}

#[test]
fn a_kill_in_any_call_leaves_nothing() {
    sweep("a_kill_in_any_call_leaves_nothing", "KILLS", 120, |made| vec![Act::Kill(made.place)]);
}
