//! Every system call of the shim's create worker, and of the container's init below it, fails once with each error that
//! it plausibly can; and the process is killed in it. The shim answers, keeps no descriptor and no process, and makes
//! the same container again.
//!
//! `FAULTS` says how many of all the cases are tried, evenly spread; `FAULTS=all` tries every one, and
//! `FAULTS_PART=2/5` the second of five parts of them.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use davit_tests::errnos;
use davit_tests::tracer::{Act, Made, Trace, children};
use harness::{Client, Daemon, Io, Refusal, Runtime, can_run, patience, until};

struct Pod {
    daemon: Daemon,
    client: Client,
    shim: i32,
    /// Of the shim at rest.
    descriptors: usize,
}

impl Pod {
    /// A shim that has a container already, so that it stays when others come and go.
    fn new() -> Pod {
        let daemon = Daemon::new(Runtime::Davit);
        let mut client = daemon.created("pod", "sleep 1000", &Io::none());
        client.start("pod", "").unwrap();
        let shim = i32::try_from(client.connect_task("pod").shim_pid).unwrap();
        let mut pod = Pod { daemon, client, shim, descriptors: 0 };
        // What the first container of a kind leaves behind for ever is no leak.
        pod.whole_life("warm").unwrap();
        pod.descriptors = pod.count();
        pod
    }

    fn count(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.shim)).unwrap().count()
    }

    /// Create, with something done to the worker; the shim answers whatever it is.
    fn create(&mut self, id: &str, act: Act) -> (Trace, Result<u32, Refusal>) {
        let (daemon, client, done) = (&self.daemon, &mut self.client, AtomicBool::new(false));
        let shim = self.shim;
        let begin = Barrier::new(2);
        thread::scope(|scope| {
            let call = scope.spawn(|| {
                begin.wait();
                let answer = daemon.create(client, id, &Io::none());
                done.store(true, Ordering::Relaxed);
                answer
            });
            let begin = || {
                begin.wait();
            };
            let trace = children(shim, act, begin, || done.load(Ordering::Relaxed));
            (trace, call.join().unwrap())
        })
    }

    fn run_out(&mut self, id: &str) -> Result<(), String> {
        match self.started_to_its_end(id)? {
            7 => Ok(()),
            other => Err(format!("its program ends with {other:?}")),
        }
    }

    /// Starts it and waits for its end; the exit code. One that has ended before is refused and waited for all the same.
    fn started_to_its_end(&mut self, id: &str) -> Result<u32, String> {
        let call = self.client.send_wait(id, "");
        if let Err(refusal) = self.client.start(id, "") {
            // By who is faster: the shim knows of the end already, or the runtime finds it, before or at the gate.
            let ended =
                ["cannot start a stopped process", "container that has stopped", "process is already dead"];
            if !ended.iter().any(|words| refusal.text.contains(words)) {
                return Err(format!("start: {}", refusal.text));
            }
        }
        let exit = self.client.receive::<containerd_shim_protos::api::WaitResponse>(call);
        exit.map(|response| response.exit_status).map_err(|refusal| format!("wait: {}", refusal.text))
    }

    /// A container from create to delete, undisturbed.
    fn whole_life(&mut self, id: &str) -> Result<(), String> {
        self.daemon.make_bundle(id, "exit 7", |_| ());
        let created = self.daemon.create(&mut self.client, id, &Io::none());
        created.map_err(|refusal| format!("a second try: {}", refusal.text))?;
        self.run_out(id)?;
        self.client.delete(id, "").map_err(|refusal| format!("delete: {}", refusal.text))?;
        self.nothing_left(id)
    }

    /// The state, the mount and the cgroup are gone, and the shim is as it was.
    fn nothing_left(&self, id: &str) -> Result<(), String> {
        let cgroups: Vec<_> = davit_tests::host::cgroup_roots()
            .into_iter()
            .map(|root| root.join(&self.daemon.namespace).join(id))
            .collect();
        let left = || {
            let mut left: Vec<String> = Vec::new();
            if self.daemon.state_dir(id).exists() {
                left.push("state".into());
            }
            if self.daemon.is_mounted(id) {
                left.push("mount".into());
            }
            left.extend(cgroups.iter().filter(|dir| dir.exists()).map(|dir| dir.display().to_string()));
            if self.descriptors > 0 && self.count() > self.descriptors {
                left.push(format!("{} descriptors of the shim for {}", self.count(), self.descriptors));
            }
            let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.shim)).unwrap();
            if children.split_whitespace().count() > 1 {
                left.push(format!("processes {children}"));
            }
            left
        };
        let late = Instant::now() + patience();
        loop {
            let left = left();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > late {
                return Err(format!("left: {left:?}"));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn try_case(&mut self, id: &str, act: Act) -> Result<&'static str, String> {
        self.daemon.make_bundle(id, "exit 7", |_| ());
        let (trace, answer) = self.create(id, act);
        let mut ended = false;
        let outcome = match &answer {
            Ok(_) => {
                match self.started_to_its_end(id)? {
                    7 => {}
                    // Init opens exec.fifo when create has been answered.
                    137 | 255 if is_after_create(act) => ended = true,
                    other => return Err(format!("its program ends with {other}")),
                }
                self.client.delete(id, "").map_err(|refusal| format!("delete: {}", refusal.text))?;
                match trace.hit {
                    Some(_) if ended => "ended after create",
                    Some(_) => "worked",
                    None => "not reached",
                }
            }
            Err(refusal) if trace.hit.is_none() => return Err(format!("fails by itself: {}", refusal.text)),
            Err(refusal) if refusal.text.trim().len() < 10 || refusal.text.contains("panicked") => {
                return Err(format!("not a sentence: {:?}", refusal.text));
            }
            Err(_) => {
                // As containerd does after a create that failed.
                let clean = matches!(act, Act::Kill(_)) || trace.hit.is_some_and(errnos::is_memory);
                if clean {
                    self.daemon.delete_command(id);
                }
                "failed"
            }
        };
        self.nothing_left(id)?;
        self.whole_life(id)?;
        let _ = fs::remove_dir_all(self.daemon.bundle(id));
        Ok(outcome)
    }
}

/// Whether it is a call of init, which outlives the worker.
fn is_after_create(act: Act) -> bool {
    matches!(act, Act::Fail(place, _) | Act::Kill(place) if place.process > 1)
}

#[test]
fn a_worker_whose_call_fails_leaves_nothing() {
    if !can_run("a_worker_whose_call_fails_leaves_nothing", Runtime::Davit) {
        return;
    }
    let mut pod = Pod::new();
    pod.daemon.make_bundle("record", "exit 7", |_| ());
    let (trace, answer) = pod.create("record", Act::Record);
    answer.unwrap();
    pod.run_out("record").unwrap();
    pod.client.delete("record", "").unwrap();
    pod.nothing_left("record").unwrap();
    assert!(trace.calls.len() > 100, "{} calls", trace.calls.len());
    let acts = |made: &Made| {
        let place = made.place;
        let fails = errnos::of(made.call).iter().map(move |errno| Act::Fail(place, *errno));
        fails.chain([Act::Kill(place)])
    };
    let cases: Vec<(i64, Act)> =
        trace.calls.iter().flat_map(|made| acts(made).map(|act| (made.call, act))).collect();
    let picked = davit_tests::cases::pick(&cases, "FAULTS", 60);
    let count = picked.len();
    let (mut outcomes, mut failures) = (BTreeMap::<&str, usize>::new(), Vec::new());
    for (n, (call, act)) in picked.into_iter().enumerate() {
        let id = format!("f{n}");
        match pod.try_case(&id, act) {
            Ok(outcome) => *outcomes.entry(outcome).or_default() += 1,
            Err(why) => {
                let errno = if let Act::Fail(_, errno) = act { Some(errno) } else { None };
                let failure = format!("{act:?} {}: {why}", errnos::name(call, errno));
                println!("FAILED {failure}");
                failures.push(failure);
                // Whatever is wrong with this shim must not be said of the next case.
                pod = Pod::new();
            }
        }
    }
    println!("system calls of a worker and its init: {}", trace.calls.len());
    println!("{count} of {} cases: {outcomes:?}", cases.len());
    assert!(failures.is_empty(), "{} of {count} failed:\n{}", failures.len(), failures.join("\n"));
    until("the shim's rest", || Path::new(&format!("/proc/{}", pod.shim)).exists().then_some(()));
}
