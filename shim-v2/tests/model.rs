//! Random calls, cancelled calls, disconnects, deaths of processes and restarts of containerd against a model. The
//! oracle are the invariants that other shims have broken (the comments number them): one exit per process, one
//! order of events, answers at once, nothing left.
//!
//! `MODEL_STEPS=10000 MODEL_SEED=7` says how many steps and which.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first surprise"
)]

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use containerd_shim_protos::api as pb;
use containerd_shim_protos::types::task::Status;
use harness::*;
use nix::sys::signal::Signal;

/// Longest answer of a call that does nothing; 5 ms on a quiet machine, and this is none.
const AT_ONCE: Duration = Duration::from_secs(15);
const IDS: [&str; 3] = ["pod", "a", "b"];
const EXECS: [&str; 4] = ["e0", "e1", "e2", "e3"];

/// The id of an exec: no two containers share one, so that events tell them apart.
fn name(id: &str, exec: &str) -> String {
    format!("{id}-{exec}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Created,
    Running,
    Paused,
    Stopped(u32),
}

#[derive(Debug)]
struct Proc {
    phase: Phase,
    pid: u32,
    /// It ends by itself with this code.
    code: Option<u32>,
    /// Wait calls that were sent.
    waits: Vec<u32>,
    /// Who reads its output, and what it must be.
    reader: Option<(Reader, String)>,
}

impl Proc {
    fn new(code: Option<u32>) -> Proc {
        Proc { phase: Phase::Created, pid: 0, code, waits: Vec::new(), reader: None }
    }

    fn started(&self) -> bool {
        self.phase != Phase::Created
    }
}

struct Model {
    random: Random,
    daemon: Daemon,
    address: String,
    client: Client,
    shim: u32,
    boxes: BTreeMap<&'static str, (Proc, BTreeMap<&'static str, Proc>)>,
    /// Exits that must be seen, by process, since the shim's start.
    exits: BTreeMap<String, usize>,
    serial: u32,
    log: Vec<String>,
}

fn pick<T: Copy>(random: &mut Random, from: &[T]) -> T {
    from[random.below(from.len() as u64) as usize]
}

fn bundles(daemon: &Daemon) {
    for id in IDS {
        daemon.make_bundle(id, "trap 'exit 9' TERM; while true; do sleep 1000 & wait $!; done", |config| {
            config["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": "pod"});
        });
    }
}

impl Model {
    fn new(seed: u64) -> Model {
        let daemon = Daemon::new(Runtime::Davit);
        bundles(&daemon);
        let address = daemon.start_shim("pod");
        let mut client = Client::connect(&address);
        let shim = client.shim_pid();
        Model {
            random: Random::new(seed),
            daemon,
            address,
            client,
            shim,
            boxes: BTreeMap::new(),
            exits: BTreeMap::new(),
            serial: 0,
            log: Vec::new(),
        }
    }

    fn step(&mut self) {
        let id = pick(&mut self.random, &IDS);
        let exec = pick(&mut self.random, &EXECS);
        match self.random.below(100) {
            0..8 => self.create(id),
            8..18 => self.start(id),
            18..30 => self.exec(id, exec),
            30..46 => self.start_exec(id, exec),
            46..52 => self.kill_exec(id, exec),
            52..62 => self.delete_exec(id, exec),
            62..66 => self.kill(id),
            66..73 => self.delete(id),
            73..77 => self.pause_or_resume(id),
            77..86 => self.look(id, exec),
            86..88 => self.wait(id, exec),
            88..90 => self.nonsense(),
            90..93 => self.reconnect(),
            93..95 => self.cancelled(id),
            95..97 => self.death(id),
            97 => self.outage(),
            98 => self.whole_life(),
            _ => self.shim_dies(),
        }
    }

    fn note(&mut self, what: String) {
        self.log.push(what);
    }

    fn create(&mut self, id: &'static str) {
        self.note(format!("create {id}"));
        let made = self.daemon.create(&mut self.client, id, &Io::none());
        if self.boxes.contains_key(id) {
            assert_eq!(made.unwrap_err().code, 6);
            return;
        }
        let mut init = Proc::new(None);
        init.pid = made.unwrap();
        *self.exits.entry(id.to_owned()).or_default() += 1;
        self.boxes.insert(id, (init, BTreeMap::new()));
    }

    fn start(&mut self, id: &'static str) {
        self.note(format!("start {id}"));
        let started = self.client.start(id, "");
        let Some((init, _)) = self.boxes.get_mut(id) else {
            return assert_eq!(started.unwrap_err().code, 5);
        };
        if init.phase == Phase::Created {
            assert_eq!(started.unwrap(), init.pid);
            init.phase = Phase::Running;
        } else {
            assert!(started.unwrap_err().text.starts_with("cannot start a "));
        }
    }

    fn exec(&mut self, id: &'static str, exec: &'static str) {
        self.note(format!("exec {id} {exec}"));
        self.serial += 1;
        let code = (self.random.below(3) == 0).then_some(self.serial % 100);
        let script =
            code.map_or("exec sleep 1000".to_owned(), |code| format!("echo said {exec}; exit {code}"));
        let with_output = code.is_some() && self.random.below(2) == 0;
        let fifo = format!("{exec}-{}", self.serial);
        let io = if with_output { self.daemon.io(&fifo, false) } else { Io::none() };
        let added = self.client.exec(id, &name(id, exec), &script, &io);
        let Some((init, execs)) = self.boxes.get_mut(id) else {
            return assert_eq!(added.unwrap_err().code, 5);
        };
        if execs.contains_key(exec) {
            assert_eq!(added.unwrap_err().code, 6);
        } else if matches!(init.phase, Phase::Created | Phase::Running) {
            added.unwrap();
            let mut process = Proc::new(code);
            if with_output {
                // 6: every byte arrives, and the end; the reader is there at some time.
                let (out, _err) = (io.read(1), io.read(2));
                process.reader = Some((out, format!("said {exec}\n")));
            }
            execs.insert(exec, process);
        } else {
            assert!(added.is_err());
        }
    }

    fn start_exec(&mut self, id: &'static str, exec: &'static str) {
        self.note(format!("start {id} {exec}"));
        let started = self.client.start(id, &name(id, exec));
        let Some((init, execs)) = self.boxes.get_mut(id) else {
            return assert_eq!(started.unwrap_err().code, 5);
        };
        let Some(process) = execs.get_mut(exec) else { return assert_eq!(started.unwrap_err().code, 5) };
        match (init.phase, process.phase) {
            (Phase::Created | Phase::Running, Phase::Created) => {
                process.pid = started.unwrap();
                process.phase = Phase::Running;
                *self.exits.entry(format!("{id}/{exec}")).or_default() += 1;
                if let Some(code) = process.code {
                    assert_eq!(self.client.wait(id, &name(id, exec)), code);
                    process.phase = Phase::Stopped(code);
                }
            }
            _ => assert!(started.is_err()),
        }
    }

    fn kill_exec(&mut self, id: &'static str, exec: &'static str) {
        self.note(format!("kill {id} {exec}"));
        let killed = self.client.kill(id, &name(id, exec), 15);
        let Some((init, execs)) = self.boxes.get_mut(id) else {
            return assert_eq!(killed.unwrap_err().code, 5);
        };
        let Some(process) = execs.get_mut(exec) else { return assert_eq!(killed.unwrap_err().code, 5) };
        match process.phase {
            Phase::Created => assert_eq!(killed.unwrap_err().code, 9),
            Phase::Stopped(_) => assert_eq!(killed.unwrap_err().code, 5),
            _ => {
                killed.unwrap();
                // A frozen one dies when it is thawed.
                if init.phase == Phase::Paused {
                    self.client.resume(id).unwrap();
                    init.phase = Phase::Running;
                }
                assert_eq!(self.client.wait(id, &name(id, exec)), 143);
                process.phase = Phase::Stopped(143);
            }
        }
    }

    fn delete_exec(&mut self, id: &'static str, exec: &'static str) {
        self.note(format!("delete {id} {exec}"));
        let deleted = self.client.delete(id, &name(id, exec));
        let Some((_, execs)) = self.boxes.get_mut(id) else {
            // A tombstone may answer.
            return drop(deleted);
        };
        let Some(process) = execs.get(exec) else { return drop(deleted) };
        match process.phase {
            Phase::Created => drop(deleted.unwrap()),
            Phase::Stopped(code) => {
                let first = deleted.unwrap();
                assert_eq!((first.exit_status, first.pid), (code, process.pid));
                // 5: the second has the same answer.
                assert_eq!(self.client.delete(id, &name(id, exec)).unwrap(), first);
            }
            _ => return assert_eq!(deleted.unwrap_err().text, "cannot delete a running process"),
        }
        let process = execs.remove(exec).unwrap();
        // 6: no byte is lost; one that never ran has nobody to end its FIFO.
        if let (Some((reader, expected)), Phase::Stopped(_)) = (process.reader, process.phase) {
            assert_eq!(String::from_utf8(reader.join().unwrap()).unwrap(), expected);
        }
    }

    /// Init and with it all execs end.
    fn init_ended(&mut self, id: &'static str, code: u32) {
        let (init, execs) = self.boxes.get_mut(id).unwrap();
        assert_eq!(self.client.wait(id, ""), code, "init of {id}");
        init.phase = Phase::Stopped(code);
        for (exec, process) in execs.iter_mut() {
            if process.phase == Phase::Running {
                // 2: it has ended before init's end was told.
                let state = self.client.state(id, &name(id, exec)).unwrap();
                assert_eq!((state.status.unwrap(), state.exit_status), (Status::STOPPED, 137));
                process.phase = Phase::Stopped(137);
            }
        }
    }

    fn kill(&mut self, id: &'static str) {
        self.note(format!("kill {id}"));
        let killed = self.client.kill(id, "", 9);
        let Some((init, _)) = self.boxes.get_mut(id) else { return assert_eq!(killed.unwrap_err().code, 5) };
        if let Phase::Stopped(_) = init.phase {
            return assert_eq!(killed.unwrap_err().code, 5);
        }
        killed.unwrap();
        self.init_ended(id, 137);
    }

    fn delete(&mut self, id: &'static str) {
        self.note(format!("delete {id}"));
        let deleted = self.client.delete(id, "");
        let Some((init, _)) = self.boxes.get(id) else { return drop(deleted) };
        match init.phase {
            Phase::Running | Phase::Paused => {
                return assert!(deleted.unwrap_err().text.starts_with("cannot delete a "));
            }
            // Killed at it: there is an exit for it, or none where it never ran.
            Phase::Created => drop(deleted.unwrap()),
            Phase::Stopped(code) => {
                let first = deleted.unwrap();
                assert_eq!((first.exit_status, first.pid), (code, init.pid));
                assert_eq!(self.client.delete(id, "").unwrap(), first);
                assert_eq!(self.client.state(id, "").unwrap().exit_status, code);
            }
        }
        self.gone(id);
    }

    /// 9: nothing of a container is left.
    fn gone(&mut self, id: &'static str) {
        assert!(!self.daemon.is_mounted(id), "{id} is mounted");
        assert!(
            !self.daemon.state_dir(id).exists() && self.daemon.cgroups(id).is_empty(),
            "{id}: state or cgroup"
        );
        let (init, execs) = self.boxes.remove(id).unwrap();
        for process in execs.values().chain([&init]).filter(|p| p.started()) {
            assert!(!alive(process.pid), "{id}: {} lives", process.pid);
        }
    }

    fn pause_or_resume(&mut self, id: &'static str) {
        self.note(format!("pause/resume {id}"));
        let phase = self.boxes.get(id).map(|(init, _)| init.phase);
        let next = match phase {
            None => return assert_eq!(self.client.pause(id).unwrap_err().code, 5),
            Some(Phase::Running) => {
                self.client.pause(id).unwrap();
                Phase::Paused
            }
            Some(Phase::Paused) => {
                self.client.resume(id).unwrap();
                Phase::Running
            }
            Some(_) => {
                assert!(self.client.pause(id).is_err() && self.client.resume(id).is_err());
                return;
            }
        };
        self.boxes.get_mut(id).unwrap().0.phase = next;
    }

    /// 4: State, Connect, Pids and Stats are right, and at once.
    fn look(&mut self, id: &'static str, exec: &'static str) {
        self.note(format!("look {id} {exec}"));
        let begun = Instant::now();
        assert_eq!(self.client.connect_task(id).shim_pid, self.shim);
        if let Some((init, execs)) = self.boxes.get(id) {
            let state = self.client.state(id, "").unwrap();
            let expected = match init.phase {
                Phase::Created => (Status::CREATED, 0),
                Phase::Running => (Status::RUNNING, 0),
                Phase::Paused => (Status::PAUSED, 0),
                Phase::Stopped(code) => (Status::STOPPED, code),
            };
            assert_eq!(
                (state.status.unwrap(), state.exit_status, state.pid),
                (expected.0, expected.1, init.pid)
            );
            let pids: Vec<u32> = self.client.pids(id).unwrap().iter().map(|p| p.pid).collect();
            assert!(pids.contains(&init.pid));
            for process in execs.values().filter(|p| p.phase == Phase::Running) {
                assert!(pids.contains(&process.pid), "{pids:?} without {}", process.pid);
            }
            self.client.stats(id).unwrap();
            let state = self.client.state(id, &name(id, exec));
            match execs.get(exec) {
                None => drop(state),
                Some(process) => {
                    let state = state.unwrap();
                    let stopped = matches!(process.phase, Phase::Stopped(_));
                    assert_eq!(state.status.unwrap() == Status::STOPPED, stopped);
                    assert_eq!(state.pid, process.pid);
                }
            }
        }
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    }

    /// A Wait that nobody takes until later, or never.
    fn wait(&mut self, id: &'static str, exec: &'static str) {
        self.note(format!("wait {id} {exec}"));
        let call = self.client.send_wait(id, &name(id, exec));
        if let Some(process) = self.boxes.get_mut(id).and_then(|(_, execs)| execs.get_mut(exec)) {
            process.waits.push(call);
        }
    }

    /// 11: unknown calls are Unimplemented; another protocol ends its own connection only.
    fn nonsense(&mut self) {
        self.note("nonsense".to_owned());
        let call = self.client.send(V2, "Frobnicate", &pb::Empty::new());
        assert_eq!(self.client.receive::<pb::Empty>(call).unwrap_err().code, 12);
        let mut bad = Client::connect(&self.address);
        let bytes: Vec<u8> = (0..64).map(|_| self.random.below(256) as u8).collect();
        let _ = bad.stream.write_all(&bytes);
        assert_eq!(self.client.connect_task("").shim_pid, self.shim);
    }

    /// 10: containerd's connection ends and comes again.
    fn reconnect(&mut self) {
        self.note("reconnect".to_owned());
        self.client = Client::connect(&self.address);
        for id in IDS {
            let task = self.client.connect_task(id).task_pid;
            assert_eq!(task, self.boxes.get(id).map_or(0, |(init, _)| init.pid));
        }
        for (init, execs) in self.boxes.values_mut() {
            init.waits.clear();
            execs.values_mut().for_each(|p| p.waits.clear());
        }
    }

    /// A client that gives up in the middle of a call that changes something: the call is finished.
    fn cancelled(&mut self, id: &'static str) {
        self.note(format!("cancelled {id}"));
        let mut hasty = Client::connect(&self.address);
        match self.boxes.get(id).map(|(init, _)| init.phase) {
            None => {
                hasty.send(V2, "Create", &self.daemon.create_request(id, &Io::none()));
                drop(hasty);
                let pid = until("the create", || {
                    self.client
                        .state(id, "")
                        .ok()
                        .filter(|s| s.status.unwrap() == Status::CREATED)
                        .map(|s| s.pid)
                });
                let mut init = Proc::new(None);
                init.pid = pid;
                *self.exits.entry(id.to_owned()).or_default() += 1;
                self.boxes.insert(id, (init, BTreeMap::new()));
            }
            Some(Phase::Stopped(code)) => {
                hasty.send(V2, "Delete", &pb::DeleteRequest { id: id.into(), ..Default::default() });
                drop(hasty);
                assert_eq!(self.client.delete(id, "").unwrap().exit_status, code);
                self.gone(id);
            }
            Some(Phase::Created) => {
                hasty.send(V2, "Start", &pb::StartRequest { id: id.into(), ..Default::default() });
                drop(hasty);
                until("the start", || {
                    (self.client.state(id, "").unwrap().status.unwrap() == Status::RUNNING).then_some(())
                });
                self.boxes.get_mut(id).unwrap().0.phase = Phase::Running;
            }
            Some(_) => {}
        }
    }

    /// A process dies of something else than the shim.
    fn death(&mut self, id: &'static str) {
        self.note(format!("death {id}"));
        let Some((init, execs)) = self.boxes.get_mut(id) else { return };
        if init.phase != Phase::Running {
            return;
        }
        let running = execs.iter_mut().find(|(_, p)| p.phase == Phase::Running);
        if let Some((exec, process)) = running {
            signal(process.pid, Signal::SIGKILL);
            assert_eq!(self.client.wait(id, &name(id, exec)), 137);
            process.phase = Phase::Stopped(137);
            return;
        }
        signal(init.pid, Signal::SIGKILL);
        self.init_ended(id, 137);
    }

    /// 3: containerd is away; what happens meanwhile arrives.
    fn outage(&mut self) {
        self.note("outage".to_owned());
        self.daemon.events().stop();
        for _ in 0..self.random.below(6) {
            let (id, exec) = (pick(&mut self.random, &IDS), pick(&mut self.random, &EXECS));
            self.exec(id, exec);
            self.start_exec(id, exec);
        }
        self.daemon.events().start();
    }

    /// 7, 15: all containers end; the shim is what it was, and goes when it is told.
    fn whole_life(&mut self) {
        self.note("whole life".to_owned());
        for id in IDS {
            if let Some((init, _)) = self.boxes.get(id) {
                if !matches!(init.phase, Phase::Stopped(_) | Phase::Created) {
                    self.kill(id);
                }
                self.delete(id);
            }
        }
        assert_eq!(fs::read_dir(format!("/proc/{}/task", self.shim)).unwrap().count(), 1);
        until("no child", || children(self.shim).is_empty().then_some(()));
        self.check_events();
        let files = open_files(self.shim);
        assert!(files <= 16, "{files} descriptors without a container");
        self.client.shutdown();
        self.daemon.assert_gone(self.shim, &self.address);
        self.next_shim();
    }

    /// 1 and 2: every started process has one exit, behind its start; execs' before init's.
    fn check_events(&mut self) {
        until("all exits", || {
            let exits = self.daemon.events().order().into_iter().filter(|(topic, _)| topic == "exit").count();
            (exits >= self.exits.values().sum::<usize>()).then_some(())
        });
        // What each process may do next: made, started, ended.
        let mut state: BTreeMap<String, &str> = BTreeMap::new();
        for (topic, process) in self.daemon.events().order() {
            let before = state.get(&process).copied().unwrap_or("none");
            let (allowed, after): (&[&str], &str) = match topic.as_str() {
                "create" | "exec-added" => (&["none", "added", "exit"], "added"),
                "start" | "exec-started" => (&["added"], "start"),
                "paused" | "resumed" => (&["start"], "start"),
                // An init that was never started ends too.
                "exit" => (&["start", "added"], "exit"),
                _ => (&["exit"], "exit"),
            };
            assert!(allowed.contains(&before), "{topic} of {process} after {before}");
            // 2: execs end before their init.
            if topic == "exit" && IDS.contains(&process.as_str()) {
                let prefix = format!("{process}-");
                let running = state.iter().find(|(p, s)| p.starts_with(&prefix) && **s == "start");
                assert!(running.is_none(), "{running:?} after the exit of {process}");
            }
            state.insert(process, after);
        }
        let running = state.iter().find(|(_, s)| **s == "start");
        assert!(running.is_none(), "{running:?} has no exit");
    }

    fn next_shim(&mut self) {
        for id in IDS {
            self.daemon.delete_command(id);
        }
        self.exits.clear();
        self.daemon.events().forget();
        self.boxes.clear();
        self.address = self.daemon.start_shim("pod");
        self.client = Client::connect(&self.address);
        self.shim = self.client.shim_pid();
    }

    /// 9: kill -9 of the shim, then `delete`: nothing is left, and a known code is told.
    fn shim_dies(&mut self) {
        self.note("kill -9 of the shim".to_owned());
        signal(self.shim, Signal::SIGKILL);
        until("the end of the shim", || (!alive(self.shim)).then_some(()));
        for id in IDS {
            let exit = self.daemon.delete_command(id);
            let Some((init, _)) = self.boxes.get(id) else { continue };
            if let Phase::Stopped(code) = init.phase {
                assert_eq!((exit.exit_status, exit.pid), (code, init.pid));
            }
            self.gone(id);
        }
        self.next_shim();
    }
}

#[test]
fn random_calls_against_a_model() {
    if !can_run("random_calls_against_a_model", Runtime::Davit) {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let steps = number("MODEL_STEPS").unwrap_or(600);
    let seed = number("MODEL_SEED").unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1
    });
    println!("MODEL_SEED={seed} MODEL_STEPS={steps}");
    // 8: nobody else is signalled.
    let mut stranger = Stranger::new();
    let mut model = Model::new(seed);
    let begun = Instant::now();
    for step in 0..steps {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model.step()));
        if let Err(panic) = done {
            let from = model.log.len().saturating_sub(25);
            eprintln!("step {step} of seed {seed}; the last calls: {:#?}", &model.log[from..]);
            std::panic::resume_unwind(panic);
        }
    }
    model.whole_life();
    assert!(!stranger.has_ended());
    println!("{steps} steps in {:?}", begun.elapsed());
}
