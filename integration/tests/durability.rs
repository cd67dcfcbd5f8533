//! What dies at any moment takes nothing with it that was known, and leaves nothing: the shim, containerd, a worker of
//! the shim's; containerd of a newer release, or another file of the shim's, takes over running containers.
//!
//! The environment says how many deaths there are and which: see `davit_integration::deaths`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use davit_integration::containerd::{Containerd, Options};
use davit_integration::deaths::{self, Death, Victim};
use davit_integration::setup::{self, Release};
use davit_integration::{leaks, poll, skip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Deaths per release.
const ROUNDS: u64 = 8;

fn missing(releases: &[Release]) -> Option<String> {
    setup::missing().or_else(|| {
        let trees = releases.iter().map(|r| r.bin().map_err(|e| format!("packages of {r:?}: {e:#}")));
        trees.filter_map(Result::err).next()
    })
}

/// Exit codes by container, as containerd has published them.
struct Codes {
    listener: Child,
    seen: Arc<Mutex<BTreeMap<String, Vec<u64>>>>,
}

impl Codes {
    fn listen(daemon: &Containerd) -> Codes {
        let mut listener =
            daemon.ctr_command(&["events"]).stdout(Stdio::piped()).spawn().expect("ctr events");
        let output = BufReader::new(listener.stdout.take().expect("stdout"));
        let seen = Arc::new(Mutex::new(BTreeMap::<String, Vec<u64>>::new()));
        let codes = Arc::clone(&seen);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok).filter(|line| line.contains(" /tasks/exit ")) {
                let Some(json) = line.find('{').and_then(|at| line.get(at..)) else { continue };
                let event: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
                let (container, process) = (&event["container_id"], &event["id"]);
                // Execs have an id of their own. A code of 0 is left out.
                if let (Some(id), true) = (container.as_str(), container == process) {
                    let code = event["exit_status"].as_u64().unwrap_or(0);
                    codes.lock().expect("lock").entry(id.to_owned()).or_default().push(code);
                }
            }
        });
        let codes = Codes { listener, seen };
        // ctr tells nothing when it listens: small lives until one's end is heard.
        let heard = || {
            let id = daemon.id();
            daemon.run(&["--rm"], &id, &["/bin/true"]);
            poll::within(1, || (!codes.of(&id).is_empty()).then_some(()))
        };
        poll::until("ctr events to listen", 60, heard, Option::is_some);
        codes
    }

    fn of(&self, id: &str) -> Vec<u64> {
        self.seen.lock().expect("lock").get(id).cloned().unwrap_or_default()
    }
}

impl Drop for Codes {
    fn drop(&mut self) {
        // timeout(1) passes it on to ctr.
        let _ = kill(Pid::from_raw(self.listener.id() as i32), Signal::SIGTERM);
        let _ = self.listener.wait();
    }
}

/// What a container's life came to.
#[derive(Default)]
struct Life {
    /// SIGTERM was delivered to the running script, which ends with [`CODE`] on it.
    termed: bool,
    /// The exit code that the removal of its task told.
    told: Option<u8>,
}

impl Life {
    /// Removes the task; what that tells is its exit code, unless that is 0.
    fn remove_task(&mut self, daemon: &Containerd, words: &[&str]) {
        let said = daemon.ctr(words).err;
        let digits = said
            .split_once("exit code ")
            .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next());
        self.told = self.told.or(digits.and_then(|digits| digits.parse().ok()));
    }
}

/// What the containers of random deaths end with by SIGTERM.
const CODE: u8 = 9;

/// A life of a container from `run` to `rm`; each step may fail, since its daemon or shim may be gone.
fn a_life(daemon: &Containerd, id: &str) -> Life {
    let mut life = Life::default();
    let script = format!("trap 'exit {CODE}' TERM; touch /ready; while :; do sleep 0.05; done");
    daemon.run(&["-d"], id, &["sh", "-c", &script]);
    let wait = "until test -e /ready; do sleep 0.01; done";
    let ready = daemon.ctr(&["task", "exec", "--exec-id", "one", id, "sh", "-c", wait]).code == 0;
    daemon.ctr(&["task", "pause", id]);
    daemon.ctr(&["task", "resume", id]);
    life.termed = daemon.ctr(&["task", "kill", "-s", "TERM", id]).code == 0 && ready;
    if life.termed {
        poll::within(1, || (daemon.status(id)? == "STOPPED").then_some(()));
    }
    life.remove_task(daemon, &["task", "rm", id]);
    daemon.ctr(&["container", "rm", id]);
    life
}

/// Removes what is left of a container by ctr's own means.
fn clean(daemon: &Containerd, id: &str, life: &mut Life) -> Option<()> {
    let known =
        |kind: &[&str]| daemon.ctr(kind).out.lines().any(|line| line.split_whitespace().next() == Some(id));
    if known(&["task", "ls"]) {
        // Paused, it cannot end by the signal it has got.
        daemon.ctr(&["task", "resume", id]);
        let ended = || (daemon.status(id)? == "STOPPED").then_some(());
        if !life.termed || poll::within(60, ended).is_none() {
            daemon.ctr(&["task", "kill", "-s", "KILL", id]);
        }
        life.remove_task(daemon, &["task", "rm", "--force", id]);
    }
    if known(&["container", "ls"]) {
        daemon.ctr(&["container", "rm", id]);
    }
    (!known(&["task", "ls"]) && !known(&["container", "ls"])).then_some(())
}

fn random_deaths(release: Release) {
    if let Some(reason) = missing(&[release]) {
        skip!("{reason}");
    }
    let mut daemon = Containerd::start(release).expect("containerd");
    deaths::each(ROUNDS, 900, |death| one_death(&mut daemon, release, death));
}

/// One life with one death in it, after which nothing is left; says what came of it.
fn one_death(daemon: &mut Containerd, release: Release, death: &Death) -> String {
    let id = daemon.id();
    let (struck, mut life) = thread::scope(|scope| {
        let life = scope.spawn(|| a_life(daemon, &id));
        (death.strike(daemon), life.join().expect("life"))
    });
    if death.victim == Victim::Daemon {
        daemon.stop(Signal::SIGKILL);
        daemon.start_again(release).expect("containerd again");
    }
    if poll::within(150, || clean(daemon, &id, &mut life)).is_none() {
        panic!("{death}: {id} cannot be removed\n{}\n{}", daemon.ctr(&["task", "ls"]).out, daemon.log());
    }
    leaks::remove_fifos(daemon.namespace());
    death.assert_nothing_left(daemon);
    // Only the shim's death may take a container with it.
    if life.termed && death.victim != Victim::Shim {
        assert!(life.told.is_none_or(|code| code == CODE), "{death}: {:?}\n{}", life.told, daemon.log());
    }
    format!("{struck} {:?}", life.told)
}

#[test]
fn deaths_1_6() {
    random_deaths(Release::Bookworm);
}

#[test]
fn deaths_1_7() {
    random_deaths(Release::Trixie);
}

#[test]
fn deaths_2_1() {
    random_deaths(Release::Sid);
}

/// An exit that the shim has seen is told by containerd after the shim was killed, and once only.
fn known_codes_survive(release: Release) {
    if let Some(reason) = missing(&[release]) {
        skip!("{reason}");
    }
    let mut daemon = Containerd::start(release).expect("containerd");
    let codes = Codes::listen(&daemon);
    // Ended, and the shim is killed before anybody deletes the task.
    let ended = daemon.id();
    assert_eq!(daemon.run(&["-d"], &ended, &["exit-with", "7"]).code, 0);
    daemon.wait_for_end(&ended);
    kill(Pid::from_raw(daemon.shim_of(&ended).expect("shim")), Signal::SIGKILL).expect("kill");
    poll::until("the task's removal", 30, || daemon.status(&ended), Option::is_none);
    assert!(codes.of(&ended).iter().all(|code| *code == 7), "{:?}", codes.of(&ended));
    daemon.ok(&["container", "rm", &ended]);
    // Running: what the kill ends is said to have been killed, and is gone.
    let running = daemon.id();
    assert_eq!(daemon.run(&["-d"], &running, &["sleep", "1000"]).code, 0);
    kill(Pid::from_raw(daemon.shim_of(&running).expect("shim")), Signal::SIGKILL).expect("kill");
    poll::until("the exit", 30, || codes.of(&running), |seen| *seen == [137]);
    poll::until("the task's removal", 30, || daemon.status(&running), Option::is_none);
    daemon.ok(&["container", "rm", &running]);
    drop(codes);
    // Ended while containerd was away, for longer than another shim tries to tell.
    let away = daemon.id();
    let script = "until test -e /go; do sleep 0.05; done; exit 6";
    assert_eq!(daemon.run(&["-d"], &away, &["sh", "-c", script]).code, 0);
    let pid = daemon.pid_of(&away).expect("pid");
    daemon.stop(Signal::SIGKILL);
    fs::write(format!("/proc/{pid}/root/go"), "").expect("the sign to end");
    poll::until_gone(pid);
    daemon.start_again(release).expect("containerd again");
    // The shim may not have seen the end yet.
    daemon.wait_for_end(&away);
    let deleted = daemon.ctr(&["task", "rm", &away]);
    assert!(deleted.err.contains("exit code 6"), "{}", deleted.err);
    daemon.ok(&["container", "rm", &away]);
    leaks::remove_fifos(daemon.namespace());
    daemon.assert_nothing_left();
}

#[test]
fn known_codes_survive_1_6() {
    known_codes_survive(Release::Bookworm);
}

#[test]
fn known_codes_survive_2_1() {
    known_codes_survive(Release::Sid);
}

/// A node's containerd goes from 1.6 over 1.7 to 2.1, with containers of each running on.
#[test]
fn daemon_upgraded_under_running_containers() {
    let releases = [Release::Bookworm, Release::Trixie, Release::Sid];
    if let Some(reason) = missing(&releases) {
        skip!("{reason}");
    }
    let mut daemon = Containerd::start(Release::Bookworm).expect("containerd");
    let mut made: Vec<(String, i32)> = Vec::new();
    for release in releases {
        if release != Release::Bookworm {
            daemon.stop(Signal::SIGTERM);
            daemon.start_again(release).unwrap_or_else(|e| panic!("{release:?}: {e:#}"));
        }
        let id = daemon.id();
        assert_eq!(daemon.run(&["-d"], &id, &["until-term", "5"]).code, 0, "{release:?}: {}", daemon.log());
        made.push((id.clone(), daemon.pid_of(&id).expect("pid")));
        for (number, (id, pid)) in made.iter().enumerate() {
            let what = format!("container {number} under {release:?}");
            assert_eq!(daemon.status(id).as_deref(), Some("RUNNING"), "{what}: {}", daemon.log());
            assert_eq!(daemon.pid_of(id), Some(*pid), "{what}");
            let exec_id = format!("exec-{release:?}");
            let exec =
                daemon.ctr(&["task", "exec", "--exec-id", &exec_id, id, "sh", "-c", "echo inside; exit 3"]);
            assert_eq!((exec.code, exec.out.as_str()), (3, "inside\n"), "{what}: {}", exec.err);
            let metrics = daemon.ok(&["task", "metrics", id]);
            assert!(metrics.contains("pids"), "{what}: {metrics}");
            daemon.ok(&["task", "pause", id]);
            daemon.ok(&["task", "resume", id]);
        }
    }
    for (id, _) in &made {
        daemon.wait_for_trap(id);
        daemon.ok(&["task", "kill", "-s", "TERM", id]);
        daemon.wait_for_end(id);
        let deleted = daemon.ctr(&["task", "rm", id]);
        assert!(deleted.err.contains("exit code 5"), "{}", deleted.err);
        daemon.ok(&["container", "rm", id]);
    }
    daemon.assert_nothing_left();
}

/// Another file in the shim's place, as a package's upgrade puts it: what runs is served by the old one, `delete` and
/// new containers by the new one.
#[test]
fn shim_replaced_under_running_containers() {
    if let Some(reason) = missing(&[Release::Sid]) {
        skip!("{reason}");
    }
    if !setup::is_davit() {
        skip!("replaces our shim's file");
    }
    let options = Options { drop_in: true, ..Options::default() };
    let daemon = Containerd::with(Release::Sid, options).expect("containerd");
    let place = daemon.dir().join("drop-in/containerd-shim-davit-v2");
    put(&place);
    let (old, killed) = (daemon.id(), daemon.id());
    for id in [&old, &killed] {
        assert_eq!(daemon.run(&["-d"], id, &["until-term", "5"]).code, 0, "{}", daemon.log());
    }
    put(&place);
    let new = daemon.id();
    assert_eq!(daemon.run(&["-d"], &new, &["until-term", "6"]).code, 0, "{}", daemon.log());
    // The old one dies under the new file, whose `delete` cleans up.
    kill(Pid::from_raw(daemon.shim_of(&killed).expect("shim")), Signal::SIGKILL).expect("kill");
    poll::until("the task's removal", 30, || daemon.status(&killed), Option::is_none);
    daemon.ok(&["container", "rm", &killed]);
    for (id, code) in [(&old, 5), (&new, 6)] {
        assert_eq!(daemon.ok(&["task", "exec", "--exec-id", "x", id, "echo", "inside"]), "inside\n");
        daemon.wait_for_trap(id);
        daemon.ok(&["task", "kill", "-s", "TERM", id]);
        daemon.wait_for_end(id);
        let deleted = daemon.ctr(&["task", "rm", id]);
        assert!(deleted.err.contains(&format!("exit code {code}")), "{}", deleted.err);
        daemon.ok(&["container", "rm", id]);
    }
    leaks::remove_fifos(daemon.namespace());
    daemon.assert_nothing_left();
}

/// A new file under this name, at once.
fn put(place: &Path) {
    let fresh = place.with_extension("new");
    // By another process: a descriptor open for writing here would be in other tests' forks, and keep it from execve.
    setup::run(
        std::process::Command::new("cp").arg(setup::bin().join("containerd-shim-davit-v2")).arg(&fresh),
    )
    .expect("copy");
    fs::rename(&fresh, place).expect("rename");
}
