//! What is open at the first instruction of a program of the user: nothing of the host's (rule 5, CVE-2016-9962,
//! CVE-2024-21626).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use davit_tests::tty::{ConsoleSocket, Pty};
use davit_tests::{Bundle, Container, World, unique, wait_until};
use serde_json::json;

use crate::program;
use crate::support::{Canary, enter};

/// The shell that calls the runtime has descriptors that do not close at exec: a directory of the host, a file.
const LEAKS: [&str; 4] = ["sh", "-c", "exec \"$@\" 3</etc 4</etc/passwd 7</ 8</proc 9</", "sh"];

/// A bundle whose program is [`program::waits_for_ever`].
fn bundle(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    program::install(&bundle.rootfs("pause"));
    bundle.args(&["/pause"]);
    bundle
}

/// What a process has open once it runs the program: numbers, and what is behind them.
fn open(pid: i32) -> BTreeMap<i32, PathBuf> {
    program::wait_for(pid);
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    entries
        .map(|entry| {
            let number = entry.file_name().to_str().unwrap().parse().unwrap();
            (number, fs::read_link(entry.path()).unwrap())
        })
        .collect()
}

#[track_caller]
fn assert_only(what: &str, pid: i32, wanted: &[i32]) -> BTreeMap<i32, PathBuf> {
    let open = open(pid);
    let numbers: Vec<i32> = open.keys().copied().collect();
    assert_eq!(numbers, wanted, "{what}: {open:?}");
    // Nor do the other ways to the host lead out.
    for link in ["root", "cwd"] {
        let at = fs::metadata(format!("/proc/{pid}/{link}")).unwrap();
        let root = fs::metadata(format!("/proc/{pid}/root")).unwrap();
        assert_eq!((at.dev(), at.ino()), (root.dev(), root.ino()), "{what}: {link}");
    }
    open
}

fn pid_in(file: &Path) -> i32 {
    wait_until("the pid file", || fs::read_to_string(file).is_ok_and(|text| !text.is_empty()));
    fs::read_to_string(file).unwrap().parse().unwrap()
}

/// `exec --detach` of the program with more flags; its pid.
fn exec(world: &World, c: &Container<'_>, flags: &[&str]) -> i32 {
    let file = world.path(&unique("pid"));
    let flags = [&["--detach", "--pid-file", file.to_str().unwrap()], flags].concat();
    c.call("exec", &flags, &["/pause"]).wrapper(&LEAKS).run().ok();
    pid_in(&file)
}

#[test]
fn create_run_and_exec_with_files_and_null() {
    let Some(world) = enter("create_run_and_exec_with_files_and_null") else { return };
    let bundle = bundle(&world);
    for null in [false, true] {
        let quiet = ["sh", "-c", "exec \"$@\" 3</etc 7</ 9</ </dev/null >/dev/null 2>&1", "sh"];
        let wrapper: &[&str] = if null { &quiet } else { &LEAKS };
        let c = world.container(&bundle);
        c.call("run", &["--detach"], &[]).dir(bundle.dir()).wrapper(wrapper).run().ok();
        let fds = assert_only("run", c.pid(), &[0, 1, 2]);
        assert_eq!(fds[&0], Path::new("/dev/null"), "the container's own");
        assert_eq!(null, fds[&1] == Path::new("/dev/null"));
        c.finish();
        let c = world.container(&bundle);
        c.call("create", &[], &[]).dir(bundle.dir()).wrapper(wrapper).run().ok();
        c.call("start", &[], &[]).wrapper(&LEAKS).run().ok();
        assert_only("create and start", c.pid(), &[0, 1, 2]);
        assert_only("exec", exec(&world, &c, &[]), &[0, 1, 2]);
        c.finish();
    }
}

#[test]
fn preserved_descriptors_are_those_and_no_other() {
    let Some(world) = enter("preserved_descriptors_are_those_and_no_other") else { return };
    let bundle = bundle(&world);
    let c = world.container(&bundle);
    let call = |command: &str, flags: &[&str]| c.call(command, flags, &[]).dir(bundle.dir()).wrapper(&LEAKS);
    call("create", &["--preserve-fds", "2"]).run().ok();
    c.simple("start").ok();
    let fds = assert_only("create", c.pid(), &[0, 1, 2, 3, 4]);
    assert_eq!(fds[&4], Path::new("/etc/passwd"), "the caller's, as asked for");
    assert_only("exec", exec(&world, &c, &["--preserve-fds", "1"]), &[0, 1, 2, 3]);
    c.finish();
}

/// Pipes, in the foreground: the runtime waits beside the program.
#[test]
fn pipes_in_the_foreground() {
    let Some(world) = enter("pipes_in_the_foreground") else { return };
    let bundle = bundle(&world);
    let c = world.container(&bundle);
    let file = world.path("pid");
    let piped = |words: &[&str]| {
        let mut command = Command::new(world.runtime());
        command.arg("--root").arg(world.root()).args(words).current_dir(bundle.dir());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut runs = piped(&["run", "--pid-file", file.to_str().unwrap(), &c.id]);
    let fds = assert_only("run", pid_in(&file), &[0, 1, 2]);
    assert!(fds.values().all(|link| link.to_str().unwrap().starts_with("pipe:")), "{fds:?}");
    let second = world.path("exec-pid");
    let mut execs = piped(&["exec", "--pid-file", second.to_str().unwrap(), &c.id, "/pause"]);
    assert_only("exec", pid_in(&second), &[0, 1, 2]);
    c.finish();
    runs.wait().unwrap();
    execs.wait().unwrap();
}

#[test]
fn terminals_of_both_kinds() {
    let Some(world) = enter("terminals_of_both_kinds") else { return };
    let mut bundle = bundle(&world);
    bundle.set("/process/terminal", json!(true));
    let in_container = |fds: BTreeMap<i32, PathBuf>, what: &str| {
        assert!(fds.values().all(|link| link.starts_with("/dev/pts")), "{what}: {fds:?}");
    };
    // The runtime relays a terminal.
    let (c, file, pty) = (world.container(&bundle), world.path("pid"), Pty::open(24, 80));
    let flags = ["--pid-file", file.to_str().unwrap()];
    let slave = pty.slave.try_clone().unwrap();
    let running = c.call("run", &flags, &[]).dir(bundle.dir()).wrapper(&LEAKS).terminal(slave).spawn();
    in_container(assert_only("run on a terminal", pid_in(&file), &[0, 1, 2]), "run");
    let second = world.path("exec-pid");
    let flags = ["--tty", "--pid-file", second.to_str().unwrap()];
    let slave = pty.slave.try_clone().unwrap();
    let exec = c.call("exec", &flags, &["/pause"]).wrapper(&LEAKS).terminal(slave).spawn();
    in_container(assert_only("exec on a terminal", pid_in(&second), &[0, 1, 2]), "exec");
    c.finish();
    running.wait();
    exec.wait();
    // Somebody else has the master.
    let c = world.container(&bundle);
    let socket = ConsoleSocket::bind(&world.path("console.sock"));
    let flag = ["--console-socket", socket.path.to_str().unwrap()];
    c.call("create", &flag, &[]).dir(bundle.dir()).wrapper(&LEAKS).run().ok();
    let _master = socket.receive();
    c.simple("start").ok();
    in_container(assert_only("create with a console socket", c.pid(), &[0, 1, 2]), "create");
    let pid = self::exec(&world, &c, &["--tty", "--console-socket", socket.path.to_str().unwrap()]);
    in_container(assert_only("exec with a console socket", pid, &[0, 1, 2]), "exec");
    c.finish();
}

/// A process whose program's file has this name.
fn process_of(name: &str) -> Option<i32> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let exe = fs::read_link(entry.path().join("exe")).ok()?;
        (exe.file_name()?.to_str()? == name).then(|| entry.file_name().to_str()?.parse().ok())?
    })
}

/// Each kind of hook is held at its first instruction and looked at, then ended.
#[test]
fn hooks_of_each_kind() {
    let Some(world) = enter("hooks_of_each_kind") else { return };
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        let mut bundle = bundle(&world);
        let name = unique("pause-hook");
        let path = if kind == "startContainer" { bundle.rootfs(&name) } else { world.path(&name) };
        program::install(&path);
        let seen = if kind == "startContainer" { format!("/{name}") } else { path.display().to_string() };
        bundle.set(&format!("/hooks/{kind}"), json!([{"path": seen}]));
        let c = world.container(&bundle);
        let call = |command: &str| c.call(command, &[], &[]).dir(bundle.dir()).wrapper(&LEAKS).spawn();
        let create = call("create");
        let mut calls = vec![create];
        let early = ["prestart", "createRuntime", "createContainer"].contains(&kind);
        if !early {
            calls.pop().unwrap().wait().ok();
            calls.push(call("start"));
        }
        if kind == "poststop" {
            calls.pop().unwrap().wait().ok();
            c.stop();
            calls.push(call("delete"));
        }
        let mut pid = 0;
        wait_until(kind, || {
            pid = process_of(&name).unwrap_or_default();
            pid != 0
        });
        let fds = open(pid);
        assert_eq!(fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2], "{kind}: {fds:?}");
        assert!(fds.values().all(|link| link.to_str().unwrap().starts_with("pipe:")), "{kind}: {fds:?}");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        calls.pop().unwrap().wait();
        c.call("delete", &["--force"], &[]).run();
        c.assert_nothing_left();
    }
}

/// The working directory is a descriptor of the runtime's, or one that its caller has leaked: none leads to the host.
#[test]
fn cve_2024_21626_no_working_directory_outside() {
    let Some(world) = enter("cve_2024_21626_no_working_directory_outside") else { return };
    let canary = Canary::new(&world, "canary");
    let mut bundle = world.bundle();
    let read = format!("cat secret ../../../../..{}/secret; true", canary.text());
    bundle.script(&read);
    // The runtime is given a directory of the host, as runc had left one open to itself.
    let leak = format!("exec \"$@\" 3<{0} 7<{0} 8<{0}", canary.text());
    let wrapper = ["sh", "-c", leak.as_str(), "sh"];
    // That it is an attack: a process that has the descriptor reads through it.
    let read_by_leak = format!("exec 7<{}; cat /proc/self/fd/7/secret", canary.text());
    let leaked = Command::new("sh").args(["-c", &read_by_leak]).output().unwrap().stdout;
    assert!(String::from_utf8_lossy(&leaked).contains(crate::support::SECRET));
    let c = world.container(world.bundle().args(&["sleep", "1000"])).started();
    for (number, preserve) in (3..24).map(|number| (number, "0")).chain([(3, "1")]) {
        let cwd = format!("/proc/self/fd/{number}");
        bundle.set("/process/cwd", json!(cwd));
        let d = world.container(&bundle);
        let run = d.call("run", &["--preserve-fds", preserve], &[]).dir(bundle.dir()).wrapper(&wrapper).run();
        assert!(!run.stdout.contains(crate::support::SECRET), "run, cwd {cwd}: {}", run.stdout);
        d.assert_nothing_left();
        let flags = ["--cwd", &cwd, "--preserve-fds", preserve];
        let exec = c.call("exec", &flags, &["sh", "-c", &read]).wrapper(&wrapper).run();
        assert!(!exec.stdout.contains(crate::support::SECRET), "exec, cwd {cwd}: {}", exec.stdout);
        if preserve == "1" {
            // The one that is meant for the program does lead out, so it is no place to start in.
            assert!(run.error().contains("outside of container mount namespace root"), "{}", run.error());
            assert!(exec.error().contains("outside of container mount namespace root"), "{}", exec.error());
        }
    }
    c.finish();
    canary.assert_untouched();
}
