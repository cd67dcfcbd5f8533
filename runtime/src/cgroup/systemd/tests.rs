//! The unit's calls against a stand-in for systemd on a socket: all that a machine without systemd can have. It
//! answers as systemd 257 was seen to; `tests/vm/systemd.rs` talks to a real one.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use super::bus::{Address, Peer};
use super::wire::{HEADER, rest, server};
use super::*;

/// A stand-in that plays a script: each call's expected member and what it is answered with.
struct Stand {
    dir: tempfile::TempDir,
    thread: JoinHandle<()>,
}

type Answer = fn(u32) -> Vec<Vec<u8>>;

impl Stand {
    /// `greeting` is what the authentication is answered with.
    fn play(greeting: &'static str, script: Vec<(&'static str, Answer)>) -> Stand {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("bus")).unwrap();
        let thread = std::thread::spawn(move || serve(listener.accept().unwrap().0, greeting, script));
        Stand { dir, thread }
    }

    fn unit(&self, peer: Peer) -> Unit {
        let names = UnitName { slice: String::new(), prefix: "p".into(), name: "n".into() };
        let start = Start { resources: LinuxResources::default(), properties: Vec::new() };
        let path = PathBuf::from("/sys/fs/cgroup/system.slice/p-n.scope");
        let mut unit = Unit::of(names, (Manager::System, Tree::Unified), path, Some(start));
        let text = format!("unix:path={}", self.dir.path().join("bus").display());
        unit.addresses = vec![Address { text, peer }];
        unit
    }

    /// The client comes back after the connection broke off, to this script.
    fn play_on(dir: tempfile::TempDir, scripts: Vec<Vec<(&'static str, Answer)>>) -> Stand {
        let listener = UnixListener::bind(dir.path().join("bus")).unwrap();
        let thread = std::thread::spawn(move || {
            for script in scripts {
                serve(listener.accept().unwrap().0, WELCOME, script);
            }
        });
        Stand { dir, thread }
    }

    /// The client has closed its end, and the script was played to its end.
    fn finish(self, unit: Unit) {
        drop(unit);
        self.thread.join().unwrap();
    }
}

fn serve(socket: UnixStream, greeting: &str, script: Vec<(&'static str, Answer)>) {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let mut writer = socket;
    let line = |reader: &mut BufReader<UnixStream>| {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line
    };
    for expected in ["\0AUTH EXTERNAL\r\n", "DATA\r\n", "BEGIN\r\n"] {
        assert_eq!(line(&mut reader), expected);
    }
    writer.write_all(greeting.as_bytes()).unwrap();
    if !greeting.contains("OK") {
        return;
    }
    // systemd talks to whoever listens, at any time.
    writer.write_all(&server::job_removed("/org/freedesktop/systemd1/job/1", "x.scope", "done")).unwrap();
    for (expected, answer) in script {
        if expected == GOES_AWAY {
            return;
        }
        let mut header = [0; HEADER];
        reader.read_exact(&mut header).unwrap();
        let mut call = header.to_vec();
        call.resize(HEADER + rest(&header).unwrap(), 0);
        reader.read_exact(&mut call[HEADER..]).unwrap();
        let (serial, member) = server::call(&call);
        assert_eq!(member, expected);
        for message in answer(serial) {
            writer.write_all(&message).unwrap();
        }
    }
    // Nothing more is asked.
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

/// The answers to `AUTH EXTERNAL` and `DATA`.
const WELCOME: &str = "DATA\r\nOK 0123\r\n";

/// In a script: the connection is closed here.
const GOES_AWAY: &str = "";

const JOB: &str = "/org/freedesktop/systemd1/job/7";

fn empty(to: u32) -> Vec<Vec<u8>> {
    vec![server::reply(to, &[])]
}

fn job(to: u32, result: &str) -> Vec<Vec<u8>> {
    let other = server::job_removed("/org/freedesktop/systemd1/job/6", "other.scope", "failed");
    let queued = server::reply(to, &[Value::Path(JOB.to_owned())]);
    vec![other, queued, server::job_removed(JOB, "p-n.scope", result)]
}

fn done(to: u32) -> Vec<Vec<u8>> {
    job(to, "done")
}

fn exists(to: u32) -> Vec<Vec<u8>> {
    vec![server::error(to, "org.freedesktop.systemd1.UnitExists", "Unit p-n.scope was already loaded")]
}

fn no_such_unit(to: u32) -> Vec<Vec<u8>> {
    vec![server::error(to, "org.freedesktop.systemd1.NoSuchUnit", "Unit p-n.scope not loaded.")]
}

#[test]
fn a_start_is_one_call() {
    let stand = Stand::play(WELCOME, vec![("StartTransientUnit", done)]);
    let unit = stand.unit(Peer::Systemd);
    unit.start(1).unwrap();
    stand.finish(unit);
}

#[test]
fn a_job_that_ends_before_its_answer_counts() {
    let early: Answer = |to| {
        let queued = server::reply(to, &[Value::Path(JOB.to_owned())]);
        vec![server::job_removed(JOB, "p-n.scope", "done"), queued]
    };
    let stand = Stand::play(WELCOME, vec![("StartTransientUnit", early)]);
    let unit = stand.unit(Peer::Systemd);
    unit.start(1).unwrap();
    stand.finish(unit);
}

#[test]
fn a_daemon_is_greeted_and_asked_for_signals() {
    let script: Vec<(&str, Answer)> =
        vec![("Hello", empty), ("AddMatch", empty), ("Subscribe", empty), ("StartTransientUnit", done)];
    let stand = Stand::play(WELCOME, script);
    let unit = stand.unit(Peer::Daemon);
    unit.start(1).unwrap();
    stand.finish(unit);
}

#[test]
fn a_failed_job_is_an_error_and_reset() {
    let failed: Answer = |to| job(to, "failed");
    let script = vec![("StartTransientUnit", failed), ("ResetFailedUnit", empty as Answer)];
    let stand = Stand::play(WELCOME, script);
    let unit = stand.unit(Peer::Systemd);
    let error = unit.start(1).unwrap_err().to_string();
    assert!(error.contains("\"failed\"") && error.contains("p-n.scope"), "{error}");
    assert!(error.contains(&stand.dir.path().display().to_string()), "names the bus: {error}");
    stand.finish(unit);
}

#[test]
fn a_failed_unit_of_the_name_is_reset_once() {
    let script: Vec<(&str, Answer)> =
        vec![("StartTransientUnit", exists), ("ResetFailedUnit", empty), ("StartTransientUnit", done)];
    let stand = Stand::play(WELCOME, script);
    let unit = stand.unit(Peer::Systemd);
    unit.start(1).unwrap();
    stand.finish(unit);

    let script: Vec<(&str, Answer)> =
        vec![("StartTransientUnit", exists), ("ResetFailedUnit", empty), ("StartTransientUnit", exists)];
    let stand = Stand::play(WELCOME, script);
    let unit = stand.unit(Peer::Systemd);
    assert!(matches!(unit.start(1), Err(Error::UnitExists(name)) if name == "p-n.scope"));
    stand.finish(unit);
}

#[test]
fn a_unit_that_is_gone_is_stopped() {
    let stand = Stand::play(WELCOME, vec![("StopUnit", no_such_unit)]);
    let unit = stand.unit(Peer::Systemd);
    unit.stop().unwrap();
    stand.finish(unit);
    let stand = Stand::play(WELCOME, vec![("StopUnit", done as Answer), ("ResetFailedUnit", no_such_unit)]);
    let unit = stand.unit(Peer::Systemd);
    unit.stop().unwrap();
    stand.finish(unit);
}

#[test]
fn properties_are_set_in_one_call() {
    let version: Answer = |to| vec![server::property(to, "257.13-1~deb13u1")];
    let script = vec![("Get", version), ("SetUnitProperties", empty as Answer)];
    let stand = Stand::play(WELCOME, script);
    let unit = stand.unit(Peer::Systemd);
    let resources = serde_json::json!({"cpu": {"cpus": "0"}, "pids": {"limit": 5}});
    unit.set(&serde_json::from_value(resources).unwrap()).unwrap();
    stand.finish(unit);
}

#[test]
fn a_systemd_that_comes_back_is_asked_again() {
    let lost: Vec<(&str, Answer)> = vec![("StopUnit", |_| Vec::new()), (GOES_AWAY, empty)];
    let again: Vec<(&str, Answer)> = vec![("StopUnit", no_such_unit)];
    let stand = Stand::play_on(tempfile::tempdir().unwrap(), vec![lost, again]);
    let unit = stand.unit(Peer::Systemd);
    unit.stop().unwrap();
    stand.finish(unit);
}

#[test]
fn a_lost_signal_is_made_up_for() {
    let queued: Answer = |to| vec![server::reply(to, &[Value::Path(JOB.to_owned())])];
    let script: Vec<(&str, Answer)> =
        vec![("StopUnit", queued), ("GetUnit", no_such_unit), ("ResetFailedUnit", no_such_unit)];
    let stand = Stand::play(WELCOME, script);
    let unit = stand.unit(Peer::Systemd);
    unit.stop().unwrap();
    stand.finish(unit);
}

#[test]
fn no_bus_names_all_that_were_tried() {
    let stand = Stand::play("REJECTED EXTERNAL\r\n", Vec::new());
    let mut unit = stand.unit(Peer::Systemd);
    let missing = "unix:path=/nonexistent/davit-bus".to_owned();
    unit.addresses.insert(0, Address { text: missing.clone(), peer: Peer::Daemon });
    let error = unit.stop().unwrap_err().to_string();
    assert!(error.contains(&missing) && error.contains("REJECTED"), "{error}");
    stand.finish(unit);
}
