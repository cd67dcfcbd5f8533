//! What `ctr` does, on three generations of containerd with the shim under test.
//!
//! Each test has a daemon of its own and ends with nothing left behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use davit_integration::containerd::{Containerd, Options};
use davit_integration::setup::{self, Release};
use davit_integration::terminal::{self, OnTerminal};
use davit_integration::{poll, skip};

/// How often each of the repeated calls is made.
const TIMES: usize = 50;

/// One test function under one release's daemon, which must have nothing left at the end.
fn with_daemon(release: Release, test: fn(&Containerd)) {
    if let Some(reason) = setup::missing() {
        skip!("{reason}");
    }
    // A mirror that cannot be reached is no fault of the shim.
    if let Err(e) = release.bin() {
        skip!("packages of {release:?}: {e:#}");
    }
    let daemon = Containerd::start(release).expect("containerd");
    test(&daemon);
    daemon.assert_nothing_left();
}

/// A module for one containerd version with a test for each function named.
macro_rules! version {
    ($module:ident, $release:expr, [$($test:ident)*]) => {
        mod $module {
            use super::*;
            $( #[test] fn $test() { with_daemon($release, super::$test); } )*
        }
    };
}

macro_rules! versions {
    ($tests:tt) => {
        version!(v1_6, Release::Bookworm, $tests);
        version!(v1_7, Release::Trixie, $tests);
        version!(v2_1, Release::Sid, $tests);
    };
}

versions!([exit_codes missing_program stdin_reaches_the_container output_arrives_complete terminal_has_the_size
    execs lifecycle attach events_in_order oom_is_told_before_the_exit restarts_of_one_container
    options_of_run kills]);

fn exit_codes(daemon: &Containerd) {
    for round in 0..TIMES {
        let ok = daemon.run(&["--rm"], &daemon.id(), &["/bin/true"]);
        assert_eq!(ok.code, 0, "round {round} of /bin/true: {}\n{}", ok.err, daemon.log());
        let seven = daemon.run(&["--rm"], &daemon.id(), &["sh", "-c", "exit 7"]);
        assert_eq!(seven.code, 7, "round {round} of exit 7: {}\n{}", seven.err, daemon.log());
    }
    // The code of a process that a signal ends, as a shell counts it.
    let killed = daemon.run(&["--rm"], &daemon.id(), &["sh", "-c", "kill -9 $$"]);
    // Process 1 cannot kill itself inside its own pid namespace: the signal is ignored there.
    assert_eq!(killed.code, 0, "{}", killed.err);
}

fn missing_program(daemon: &Containerd) {
    let id = daemon.id();
    let call = daemon.run(&["--rm"], &id, &["/no/such/program"]);
    assert_ne!(call.code, 0);
    assert!(call.err.contains("no such file or directory"), "{}", call.err);
    assert!(call.err.contains("/no/such/program"), "{}", call.err);
    // ctr 1.6 keeps the container when its task could not be created.
    daemon.ctr(&["container", "rm", &id]);
}

fn stdin_reaches_the_container(daemon: &Containerd) {
    let id = daemon.id();
    let mut command = daemon.run_command(&["--rm"], &id, &["sh", "-c", "echo ready; cat; echo end of input"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ctr");
    let mut output = BufReader::new(child.stdout.take().expect("stdout"));
    // ctr forgets an end of input that comes before the task exists.
    let mut ready = String::new();
    output.read_line(&mut ready).expect("read");
    assert_eq!(ready, "ready\n");
    child.stdin.take().expect("stdin").write_all(b"first line\nsecond line\n").expect("write");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("read");
    assert_eq!(rest, "first line\nsecond line\nend of input\n");
    assert_eq!(child.wait().expect("ctr").code(), Some(0));
}

fn output_arrives_complete(daemon: &Containerd) {
    const SIZE: usize = 1 << 20;
    let script = format!("head -c {SIZE} /dev/zero | tr '\\0' o; head -c 5000 /dev/zero | tr '\\0' e >&2");
    for round in 0..5 {
        let call = daemon.run(&["--rm"], &daemon.id(), &["sh", "-c", &script]);
        assert_eq!(call.code, 0, "{}", call.err);
        assert_eq!(call.out.len(), SIZE, "round {round}");
        assert!(call.out.bytes().all(|b| b == b'o'));
        assert_eq!(call.err.bytes().filter(|&b| b == b'e').count(), 5000, "round {round}: {:.200}", call.err);
    }
}

fn terminal_has_the_size(daemon: &Containerd) {
    if !terminal::available() {
        skip!("no setsid (util-linux)");
    }
    // ctr sets the size once the container runs, so the script waits until it has come.
    let script = "until [ \"$(stty size)\" = '40 120' ]; do usleep 10000; done; test -t 0 && test -t 1 && tty
        echo first-size; until [ \"$(stty size)\" = '50 100' ]; do usleep 10000; done; echo second-size; read word
        echo \"got $word\"; exit 3";
    let id = daemon.id();
    let command = daemon.run_command(&["--rm", "-t"], &id, &["sh", "-c", script]);
    let mut screen = OnTerminal::start(&command, 40, 120).expect("terminal");
    let shown = screen.read_until("first-size").expect("first size");
    assert!(shown.contains("/dev/"), "{shown}");
    // ctr sets the first size before it listens for changes: one that comes between is lost, so there are more.
    let sized = AtomicBool::new(false);
    thread::scope(|scope| {
        let resizer = screen.resizer().expect("terminal");
        let sized = &sized;
        scope.spawn(move || {
            while !sized.load(Ordering::Relaxed) {
                resizer.resize(50, 101).and_then(|()| resizer.resize(50, 100)).expect("resize");
                thread::sleep(Duration::from_millis(500));
            }
        });
        let shown = screen.read_until("second-size");
        sized.store(true, Ordering::Relaxed);
        shown.expect("second size");
    });
    screen.write("hello\n").expect("type");
    screen.read_until("got hello").expect("typed text");
    let (status, rest) = screen.finish().expect("end");
    assert_eq!(status.code(), Some(3), "{rest}");
}

fn execs(daemon: &Containerd) {
    let id = daemon.id();
    let started = daemon.run(&["-d"], &id, &["sleep", "1000"]);
    assert_eq!(started.code, 0, "{}\n{}", started.err, daemon.log());
    for round in 0..TIMES {
        let code = (round % 3) as i32 * 7;
        let exec_id = format!("exec{round}");
        let script = format!("echo round {round}; exit {code}");
        let call = daemon.ctr(&["task", "exec", "--exec-id", &exec_id, &id, "sh", "-c", &script]);
        assert_eq!(call.code, code, "round {round}: {}\n{}", call.err, daemon.log());
        assert_eq!(call.out, format!("round {round}\n"));
    }
    let missing = daemon.ctr(&["task", "exec", "--exec-id", "missing", &id, "/no/such/program"]);
    assert_ne!(missing.code, 0);
    assert!(missing.err.contains("no such file or directory"), "{}", missing.err);
    // A failed exec takes nothing with it.
    assert_eq!(daemon.status(&id).as_deref(), Some("RUNNING"));
    daemon.remove(&id);
}

fn lifecycle(daemon: &Containerd) {
    let id = daemon.id();
    let kind = setup::runtime_type();
    // A process that ends by SIGTERM although it is process 1, with a code of its own.
    daemon.ok(&["container", "create", "--runtime", &kind, setup::IMAGE, &id, "until-term", "9"]);
    daemon.ok(&["task", "start", "-d", &id]);
    assert_eq!(daemon.status(&id).as_deref(), Some("RUNNING"));
    let pids = daemon.ok(&["task", "ps", &id]);
    assert!(
        pids.lines().skip(1).any(|l| l.split_whitespace().next().is_some_and(|p| p.parse::<u32>().is_ok())),
        "{pids}"
    );
    let metrics = daemon.ok(&["task", "metrics", &id]);
    assert!(metrics.contains(&id) && metrics.contains("pids"), "{metrics}");
    daemon.ok(&["task", "pause", &id]);
    assert_eq!(daemon.status(&id).as_deref(), Some("PAUSED"));
    daemon.ok(&["task", "resume", &id]);
    assert_eq!(daemon.status(&id).as_deref(), Some("RUNNING"));
    // A running task is not deleted.
    assert_ne!(daemon.ctr(&["task", "rm", &id]).code, 0);
    assert_eq!(daemon.status(&id).as_deref(), Some("RUNNING"));
    daemon.wait_for_trap(&id);
    daemon.ok(&["task", "kill", "-s", "TERM", &id]);
    daemon.wait_for_end(&id);
    let deleted = daemon.ctr(&["task", "rm", &id]);
    assert!(deleted.err.contains("exit code 9"), "{}", deleted.err);
    assert_eq!(daemon.status(&id), None);
    daemon.ok(&["container", "rm", &id]);
}

fn attach(daemon: &Containerd) {
    let id = daemon.id();
    let started = daemon.run(&["-d"], &id, &["until-term", "4"]);
    assert_eq!(started.code, 0, "{}", started.err);
    let mut attached = daemon
        .ctr_command(&["task", "attach", &id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ctr task attach");
    let mut lines = BufReader::new(attached.stdout.take().expect("stdout"));
    for _ in 0..3 {
        let mut line = String::new();
        lines.read_line(&mut line).expect("output of the container");
        assert_eq!(line.trim_end(), "tick");
    }
    daemon.ok(&["task", "kill", "-s", "TERM", &id]);
    // The rest must be read, or ctr would wait for us.
    thread::spawn(move || lines.lines().count());
    let status = poll::until("the end of attach", 30, || attached.try_wait().expect("wait"), Option::is_some)
        .expect("status");
    assert_eq!(status.code(), Some(4));
    daemon.ctr(&["task", "rm", &id]);
    daemon.ok(&["container", "rm", &id]);
}

/// `ctr events` as a stream of lines.
struct Listener {
    ctr: std::process::Child,
    lines: mpsc::Receiver<String>,
}

impl Listener {
    fn new(daemon: &Containerd) -> Listener {
        let mut ctr = daemon.ctr_command(&["events"]).stdout(Stdio::piped()).spawn().expect("ctr events");
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(ctr.stdout.take().expect("stdout"));
        thread::spawn(move || output.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        // ctr tells nothing when it listens: make small events until one arrives.
        let mut probe = 0;
        let heard = || {
            probe += 1;
            daemon.ok(&["namespaces", "create", &format!("{}-probe{probe}", daemon.namespace())]);
            lines.recv_timeout(Duration::from_millis(200)).ok()
        };
        poll::until("ctr events to listen", 30, heard, Option::is_some);
        Listener { ctr, lines }
    }

    /// The container's events up to one of this topic: topic and whole line.
    fn until(&self, id: &str, last: &str) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = Vec::new();
        let told = || {
            while let Ok(line) = self.lines.try_recv() {
                let topic =
                    line.split_whitespace().find(|word| word.starts_with("/tasks/")).map(str::to_owned);
                if let (Some(topic), true) = (topic, line.contains(id)) {
                    all.push((topic, line));
                }
            }
            all.clone()
        };
        poll::until(last, 30, told, |all| all.iter().any(|(topic, _)| topic == last))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // timeout(1) passes SIGTERM on to ctr.
        let pid = nix::unistd::Pid::from_raw(self.ctr.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM);
        let _ = self.ctr.wait();
    }
}

fn oom_is_told_before_the_exit(daemon: &Containerd) {
    if !std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        skip!("needs the memory controller on cgroup v1");
    }
    let listener = Listener::new(daemon);
    // dd's buffer is larger than the limit.
    let command = ["sh", "-c", "exec dd if=/dev/zero of=/dev/null bs=200M count=1"];
    let id = daemon.id();
    let call = daemon.run(&["-d", "--memory-limit", "20000000"], &id, &command);
    assert_eq!(call.code, 0, "{}\n{}", call.err, daemon.log());
    let events = listener.until(&id, "/tasks/exit");
    let topics: Vec<&str> = events.iter().map(|(topic, _)| topic.as_str()).collect();
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit"]);
    let (_, exit) = events.last().expect("the exit");
    assert!(exit.contains("\"exit_status\":137"), "{exit}");
    let metrics = daemon.ok(&["task", "metrics", "--format", "json", &id]);
    let metrics: serde_json::Value = serde_json::from_str(&metrics).expect("JSON");
    assert_eq!(metrics.pointer("/memory_oom_control/oom_kill"), Some(&serde_json::json!(1)), "{metrics}");
    daemon.ctr(&["task", "rm", &id]);
    daemon.ok(&["container", "rm", &id]);
    // In the foreground the code is ctr's own.
    let call = daemon.run(&["--rm", "--memory-limit", "20000000"], &daemon.id(), &command);
    assert_eq!(call.code, 137, "{}\n{}", call.err, daemon.log());
}

fn events_in_order(daemon: &Containerd) {
    let listener = Listener::new(daemon);
    let id = daemon.id();
    assert_eq!(daemon.run(&["-d"], &id, &["sleep", "1000"]).code, 0);
    assert_eq!(daemon.ctr(&["task", "exec", "--exec-id", "one", &id, "/bin/true"]).code, 0);
    daemon.ok(&["task", "pause", &id]);
    daemon.ok(&["task", "resume", &id]);
    daemon.remove(&id);
    let topics: Vec<String> =
        listener.until(&id, "/tasks/delete").into_iter().map(|(topic, _)| topic).collect();
    let wanted = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/exit",
        "/tasks/paused",
        "/tasks/resumed",
        "/tasks/exit",
        "/tasks/delete",
    ];
    assert_eq!(topics, wanted);
}

fn restarts_of_one_container(daemon: &Containerd) {
    let id = daemon.id();
    let kind = setup::runtime_type();
    daemon.ok(&["container", "create", "--runtime", &kind, setup::IMAGE, &id, "exit-with", "5"]);
    for round in 0..5 {
        let call = daemon.ctr(&["task", "start", &id]);
        assert_eq!(call.code, 5, "round {round}: {}", call.err);
    }
    daemon.ok(&["container", "rm", &id]);
}

/// Options of `ctr run`, and a script whose output shows what they did. `DIR` is the daemon's folder.
const RUN_OPTIONS: &[(&[&str], &str, &str)] = &[
    (&["--read-only"], "touch /x 2>/dev/null; echo $?", "1\n"),
    (&["--cwd", "/tmp", "--env", "A=b"], "echo $PWD $A", "/tmp b\n"),
    (&["--user", "12:34"], "id -u; id -g", "12\n34\n"),
    (
        &["--mount", "type=bind,src=DIR,dst=/v,options=rbind:ro"],
        "test -e /v/config.toml; touch /v/x; echo $?",
        "1\n",
    ),
    (
        &["--mount", "type=tmpfs,src=tmpfs,dst=/t,options=size=64k"],
        "df -k /t | tail -n 1 | tr -s ' ' | cut -d' ' -f2",
        "64\n",
    ),
    (&["--cap-drop", "CAP_CHOWN"], "chown 5 /tmp 2>/dev/null; echo $?", "1\n"),
    (
        &["--seccomp"],
        "grep Seccomp: /proc/self/status | cut -f2; unshare -U true 2>/dev/null; echo $?",
        "2\n1\n",
    ),
    (&["--allow-new-privs"], "grep NoNewPrivs /proc/self/status | cut -f2", "0\n"),
    (&["--net-host"], "test -e /proc/self/ns/net; echo $?", "0\n"),
    (&["--device", "/dev/fuse"], "test -c /dev/fuse; echo $?", "0\n"),
    (&["--privileged"], "grep -q '^CapEff:.*ff' /proc/self/status; echo $?", "0\n"),
    (&["--label", "a=b", "--annotation", "c=d", "--null-io"], "echo to nobody", ""),
];

fn options_of_run(daemon: &Containerd) {
    let dir = daemon.dir().to_string_lossy().into_owned();
    let help = daemon.ctr(&["run", "--help"]).out;
    for (options, script, wanted) in RUN_OPTIONS {
        // ctr 1.6 has no --user.
        if options.contains(&"--user") && !help.contains("--user") {
            continue;
        }
        let options: Vec<String> = options.iter().map(|word| word.replace("DIR", &dir)).collect();
        let words: Vec<&str> = std::iter::once("--rm").chain(options.iter().map(String::as_str)).collect();
        let call = daemon.run(&words, &daemon.id(), &["sh", "-c", script]);
        assert_eq!(
            (call.code, call.out.as_str()),
            (0, *wanted),
            "{options:?}: {}\n{}",
            call.err,
            daemon.log()
        );
    }
    // Limits, seen from outside.
    let id = daemon.id();
    let limits = ["-d", "--memory-limit", "67108864", "--cpus", "0.5", "--pid-file", &format!("{dir}/pid")];
    assert_eq!(daemon.run(&limits, &id, &["sleep", "1000"]).code, 0, "{}", daemon.log());
    let metrics = daemon.ok(&["task", "metrics", &id]);
    assert!(metrics.contains("67108864"), "{metrics}");
    let pid = std::fs::read_to_string(format!("{dir}/pid")).expect("pid file");
    assert_eq!(pid.trim().parse().ok(), daemon.pid_of(&id));
    daemon.remove(&id);
}

/// Another runtime under our shim, by its file. ctr takes the option only for a shim of runc's name.
#[test]
fn another_runtime() {
    if let Some(reason) = setup::missing() {
        skip!("{reason}");
    }
    if let Err(e) = Release::Sid.bin() {
        skip!("packages of sid: {e:#}");
    }
    let runc = Release::Sid.bin().expect("tree").join("runc");
    let options = Options { drop_in: true, ..Options::default() };
    let daemon = Containerd::with(Release::Sid, options).expect("containerd");
    let id = daemon.id();
    let shim = ["run", "-d", "--runtime", "io.containerd.runc.v2", "--runc-binary", &runc.to_string_lossy()];
    daemon.ok(&[&shim[..], &[setup::IMAGE, &id, "until-term", "8"]].concat());
    let exec = daemon.ctr(&["task", "exec", "--exec-id", "x", &id, "sh", "-c", "echo inside; exit 3"]);
    assert_eq!((exec.code, exec.out.as_str()), (3, "inside\n"), "{}", exec.err);
    daemon.wait_for_trap(&id);
    daemon.ok(&["task", "kill", "-s", "TERM", &id]);
    daemon.wait_for_end(&id);
    assert!(daemon.ctr(&["task", "rm", &id]).err.contains("exit code 8"));
    daemon.ok(&["container", "rm", &id]);
    daemon.assert_nothing_left();
}

/// `kill --all`, a kill of an exec, and a delete by force.
fn kills(daemon: &Containerd) {
    let id = daemon.id();
    assert_eq!(daemon.run(&["-d"], &id, &["sh", "-c", "sleep 1000 & sleep 1000"]).code, 0);
    let exec = ["task", "exec", "--exec-id", "long", &id, "sleep", "2000"];
    let mut child = daemon.ctr_command(&exec).spawn().expect("ctr task exec");
    poll::until("the exec", 30, || daemon.ok(&["task", "ps", &id]), |seen| seen.contains("long"));
    daemon.ok(&["task", "kill", "-s", "KILL", "--exec-id", "long", &id]);
    let status = poll::until("the exec's end", 30, || child.try_wait().expect("wait"), Option::is_some)
        .expect("status");
    assert_eq!(status.code(), Some(137));
    daemon.ok(&["task", "kill", "--all", "-s", "KILL", &id]);
    daemon.wait_for_end(&id);
    // What has ended is not killed again.
    assert!(daemon.ctr(&["task", "kill", &id]).err.contains("process already finished"));
    assert!(daemon.ctr(&["task", "rm", &id]).err.contains("exit code 137"));
    daemon.ok(&["container", "rm", &id]);
    let id = daemon.id();
    assert_eq!(daemon.run(&["-d"], &id, &["sleep", "1000"]).code, 0);
    daemon.ctr(&["task", "rm", "--force", &id]);
    poll::until("the task's removal", 30, || daemon.status(&id), Option::is_none);
    daemon.ok(&["container", "rm", &id]);
}

/// At rest the shim has one thread and makes no system call in ten seconds.
#[test]
fn shim_at_rest() {
    if let Some(reason) = setup::missing() {
        skip!("{reason}");
    }
    if !setup::is_davit() {
        skip!("a promise of our shim only");
    }
    if Command::new("strace").arg("--version").output().is_err() {
        skip!("no strace");
    }
    if let Err(e) = Release::Sid.bin() {
        skip!("packages of sid: {e:#}");
    }
    let daemon = Containerd::start(Release::Sid).expect("containerd");
    let id = daemon.id();
    assert_eq!(daemon.run(&["-d"], &id, &["sleep", "1000"]).code, 0, "{}", daemon.log());
    let shims = poll::until("one process of the shim", 30, || daemon.shims(), |seen| seen.len() == 1);
    let status = std::fs::read_to_string(format!("/proc/{}/status", shims[0])).expect("status");
    let threads = status.lines().find_map(|l| l.strip_prefix("Threads:")).expect("Threads").trim();
    assert_eq!(threads, "1");
    // What comes after the last answer is over when the shim has not been on a processor for a while.
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", shims[0])).expect("status");
        status.lines().filter(|line| line.contains("ctxt_switches")).collect::<String>()
    };
    let quiet = || {
        let before = switches();
        thread::sleep(Duration::from_secs(2));
        (before, switches())
    };
    poll::until("the shim to be at rest", 60, quiet, |(before, after)| before == after);
    let trace = daemon.dir().join("trace");
    // timeout(1) ends strace by SIGINT, on which it detaches and leaves the shim as it was.
    let traced = Command::new("timeout")
        .args(["-s", "INT", "10", "strace", "-f", "-o"])
        .arg(&trace)
        .args(["-p", &shims[0].to_string()])
        .output()
        .expect("strace");
    let calls = std::fs::read_to_string(&trace).expect("trace");
    assert!(String::from_utf8_lossy(&traced.stderr).contains("attached"), "{traced:?}");
    // The one line allowed is the wait that the shim was in when strace came.
    let others: Vec<&str> =
        calls.lines().filter(|l| !l.contains("<detached ...>") && !l.contains("epoll_")).collect();
    assert!(others.is_empty(), "{calls}");
    assert!(calls.lines().count() <= 1, "{calls}");
    daemon.remove(&id);
    daemon.assert_nothing_left();
}
