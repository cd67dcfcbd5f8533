//! kill -9 of the shim, of a worker or of containerd at random points of a pod's life: after containerd's own
//! cleanup nothing is left, and no exit code is lost that was known.
//!
//! `CRASH_POINTS=200 CRASH_SEED=7` says how many and which.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first surprise"
)]

mod harness;

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use containerd_shim_protos::api as pb;
use harness::*;
use nix::sys::signal::Signal;
use protobuf::Message;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Shim,
    Worker,
    Daemon,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

/// A call whose failure is what the crash makes of it.
fn attempt<M: Message>(client: &mut Client, method: &str, message: &impl Message) -> Option<M> {
    let id = client.send(V2, method, message);
    client.try_receive(id)
}

const EXIT: u32 = 23;

/// The pod's life, as far as it comes. Tells of the end of `app` as soon as it is known.
fn live(mut client: Client, daemon: &Daemon, known: &mpsc::Sender<u32>) -> Option<()> {
    for id in ["pod", "app"] {
        attempt::<pb::CreateTaskResponse>(&mut client, "Create", &daemon.create_request(id, &Io::none()))?;
        attempt::<pb::StartResponse>(
            &mut client,
            "Start",
            &pb::StartRequest { id: id.into(), ..Default::default() },
        )?;
    }
    for exec in ["a", "b"] {
        attempt::<pb::Empty>(&mut client, "Exec", &exec_request("pod", exec, "exit 3", &Io::none()))?;
        let start = pb::StartRequest { id: "pod".into(), exec_id: exec.into(), ..Default::default() };
        attempt::<pb::StartResponse>(&mut client, "Start", &start)?;
        let wait = pb::WaitRequest { id: "pod".into(), exec_id: exec.into(), ..Default::default() };
        attempt::<pb::WaitResponse>(&mut client, "Wait", &wait)?;
        let delete = pb::DeleteRequest { id: "pod".into(), exec_id: exec.into(), ..Default::default() };
        attempt::<pb::DeleteResponse>(&mut client, "Delete", &delete)?;
    }
    attempt::<pb::Empty>(&mut client, "Pause", &pb::PauseRequest { id: "pod".into(), ..Default::default() })?;
    attempt::<pb::Empty>(
        &mut client,
        "Resume",
        &pb::ResumeRequest { id: "pod".into(), ..Default::default() },
    )?;
    let app = pb::WaitRequest { id: "app".into(), ..Default::default() };
    let exit: pb::WaitResponse = attempt(&mut client, "Wait", &app)?;
    known.send(exit.exit_status).unwrap();
    attempt::<pb::DeleteResponse>(
        &mut client,
        "Delete",
        &pb::DeleteRequest { id: "app".into(), ..Default::default() },
    )?;
    known.send(0).unwrap();
    let kill = pb::KillRequest { id: "pod".into(), signal: 9, ..Default::default() };
    attempt::<pb::Empty>(&mut client, "Kill", &kill)?;
    attempt::<pb::WaitResponse>(
        &mut client,
        "Wait",
        &pb::WaitRequest { id: "pod".into(), ..Default::default() },
    )?;
    attempt::<pb::DeleteResponse>(
        &mut client,
        "Delete",
        &pb::DeleteRequest { id: "pod".into(), ..Default::default() },
    )?;
    Some(())
}

fn bundles(daemon: &Daemon) {
    for (id, script) in [("pod", "sleep 1000".to_owned()), ("app", format!("sleep 0.02; exit {EXIT}"))] {
        daemon.make_bundle(id, &script, |config| {
            config["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": "pod"});
        });
    }
}

/// What is left of a container; empty when all is well.
fn left(daemon: &Daemon, id: &str) -> Vec<String> {
    let mut left = Vec::new();
    if daemon.is_mounted(id) {
        left.push(format!("{id}: mounts"));
    }
    if daemon.state_dir(id).exists() {
        left.push(format!("{id}: {}", daemon.state_dir(id).display()));
    }
    for dir in daemon.cgroups(id) {
        left.push(format!("{id}: {} with {:?}", dir.display(), fs::read_to_string(dir.join("cgroup.procs"))));
    }
    left
}

/// One point: the answer is how long the life took, if it was whole.
fn point(victim: Victim, delay: Duration) -> Option<Duration> {
    let daemon = Daemon::new(Runtime::Davit);
    bundles(&daemon);
    let address = daemon.start_shim("pod");
    daemon.start_shim("app");
    let shim = Client::connect(&address).shim_pid();
    let client = Client::connect(&address);
    let (known, told) = mpsc::channel();
    let whole = std::thread::scope(|scope| {
        let life = scope.spawn(|| {
            let begun = Instant::now();
            live(client, &daemon, &known).map(|()| begun.elapsed())
        });
        std::thread::sleep(delay);
        match victim {
            Victim::Shim => signal(shim, Signal::SIGKILL),
            Victim::Worker => kill_a_worker(&daemon, shim),
            Victim::Daemon => daemon.events().stop(),
        }
        life.join().unwrap()
    });
    match victim {
        Victim::Shim => after_the_shim(&daemon, shim, &address, &told),
        Victim::Worker | Victim::Daemon => after_the_others(&daemon, shim, &address),
    }
    let left: Vec<String> = ["pod", "app"].into_iter().flat_map(|id| left(&daemon, id)).collect();
    assert!(left.is_empty(), "{victim:?} after {delay:?}: {left:?}");
    assert!(!Path::new(address.strip_prefix("unix://").unwrap()).exists(), "the socket is left");
    whole
}

/// Kills a child of the shim that is no container's process.
fn kill_a_worker(daemon: &Daemon, shim: u32) {
    let end = Instant::now() + Duration::from_millis(40);
    while Instant::now() < end {
        let worker = children(shim).into_iter().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains(&daemon.namespace))
        });
        if let Some(pid) = worker {
            // It may have ended by now.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGKILL);
            return;
        }
    }
}

/// containerd sees the connection end and runs `delete` for each container, once.
fn after_the_shim(daemon: &Daemon, shim: u32, address: &str, told: &mpsc::Receiver<u32>) {
    until("the end of the shim", || (!alive(shim)).then_some(()));
    let told: Vec<u32> = told.try_iter().collect();
    for id in ["app", "pod"] {
        let exit = daemon.delete_command(id);
        if id == "app" && told == [EXIT] {
            assert_eq!(exit.exit_status, EXIT, "the code was known: {address}");
        }
    }
}

/// containerd comes back, or has had errors: it deletes what there is, and lets the shim go.
fn after_the_others(daemon: &Daemon, shim: u32, address: &str) {
    daemon.events().start();
    if Path::new(address.strip_prefix("unix://").unwrap()).exists() {
        let mut client = Client::connect(address);
        for id in ["app", "pod"] {
            client.connect_task(id);
            if client.pids(id).is_ok() {
                // A frozen one must be thawed for its end, as containerd does.
                let _ = client.resume(id);
                let _ = client.kill(id, "", 9);
                let made = client.state(id, "").unwrap().status.unwrap();
                if made != containerd_shim_protos::types::task::Status::CREATED {
                    let code = client.wait(id, "");
                    assert!(code == 137 || (id == "app" && code == EXIT), "{id}: {code}");
                }
                client.delete(id, "").unwrap();
                // A shim that ends waits 5 s for a daemon that is back.
                daemon.events().wait("/tasks/delete", id);
            }
        }
        client.shutdown();
    }
    daemon.assert_gone(shim, address);
    for id in ["app", "pod"] {
        daemon.delete_command(id);
    }
    // What was started has one exit, whatever happened in between.
    for id in ["app", "pod"] {
        let topics = daemon.events().topics(id);
        let count = |topic: &str| topics.iter().filter(|t| *t == topic).count();
        assert!(count("exit") <= 1, "{topics:?}");
        if count("start") == 1 {
            assert_eq!((count("exit"), count("delete")), (1, 1), "{topics:?}");
        }
    }
}

#[test]
fn killed_at_random_points() {
    if !can_run("killed_at_random_points", Runtime::Davit) {
        return;
    }
    let points = number("CRASH_POINTS").unwrap_or(20);
    let seed = number("CRASH_SEED").unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1
    });
    println!("CRASH_SEED={seed} CRASH_POINTS={points}");
    let mut random = Random::new(seed);
    let mut life = point(Victim::Daemon, Duration::ZERO).expect("an undisturbed life");
    let (mut whole, mut cut) = (0, 0);
    for n in 0..points {
        let victim = [Victim::Shim, Victim::Shim, Victim::Worker, Victim::Daemon][random.below(4) as usize];
        let delay = Duration::from_micros(random.below(life.as_micros() as u64));
        println!("point {n}: {victim:?} after {delay:?}");
        match point(victim, delay) {
            // A busy machine makes lives longer: the next points are spread over what the last one took.
            Some(time) => (whole, life) = (whole + 1, time),
            None => cut += 1,
        }
    }
    println!("{points} points: {cut} lives cut short, {whole} whole");
}
