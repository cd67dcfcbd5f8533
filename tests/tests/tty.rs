//! Terminals: over a console socket, and relayed in the foreground.

use std::fs;
use std::io::Read;
use std::time::Duration;

use davit_tests::tty::{ConsoleSocket, Pty, Terminal};
use davit_tests::{Bundle, World, wait_until};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::json;

fn with_terminal(world: &World, script: &str) -> Bundle {
    let mut bundle = world.bundle();
    bundle.script(script).set("/process/terminal", json!(true));
    bundle
}

/// A controlling terminal for the runtime: a session of its own on the pty that is its stdin.
const SESSION: [&str; 2] = ["setsid", "--ctty"];

#[test]
fn console_socket_gets_the_master() {
    let Some(world) = World::enter("console_socket_gets_the_master") else { return };
    let mut bundle =
        with_terminal(&world, "tty; stty size; ls -l /dev/console | cut -c1; read x; echo got $x");
    bundle.set("/process/consoleSize", json!({"height": 33, "width": 77}));
    let c = world.container(&bundle);
    let socket = ConsoleSocket::bind(&world.path("console.sock"));
    c.create(&["--console-socket", socket.path.to_str().unwrap()]).ok();
    let (master, data) = socket.receive();
    assert!(data.contains("pts") || data.contains("ptmx"), "name of the terminal: {data:?}");
    let mut terminal = Terminal::new(master);
    c.simple("start").ok();
    let shown = terminal.expect("c\r\n");
    assert!(shown.contains("/dev/pts/0\r\n33 77\r\n"), "{shown:?}");
    terminal.send("answer\n");
    terminal.expect("got answer");
    c.wait_for("stopped");
    c.finish();
}

#[test]
fn console_socket_of_run_and_exec() {
    let Some(world) = World::enter("console_socket_of_run_and_exec") else { return };
    let bundle = with_terminal(&world, "read x; exec sleep 1000");
    let c = world.container(&bundle);
    let socket = ConsoleSocket::bind(&world.path("run.sock"));
    c.run(&["--detach", "--console-socket", socket.path.to_str().unwrap()]).ok();
    let mut terminal = Terminal::new(socket.receive().0);
    terminal.send("go\n");

    let socket = ConsoleSocket::bind(&world.path("exec.sock"));
    let flags = ["--detach", "--tty", "--console-socket", socket.path.to_str().unwrap()];
    c.exec(&flags, &["sh", "-c", "tty; echo done; read x"]).ok();
    let mut exec = Terminal::new(socket.receive().0);
    let shown = exec.expect("done");
    assert!(shown.contains("/dev/pts/1"), "{shown:?}");
    exec.send("\n");
    c.finish();
}

#[test]
fn the_terminal_is_the_processs_own() {
    let Some(world) = World::enter("the_terminal_is_the_processs_own") else { return };
    // Owner and group, the controlling terminal, and stdio on it.
    let mut bundle = with_terminal(
        &world,
        "stat -c '%u %g %a' /dev/pts/0; for n in 0 1 2; do readlink /proc/self/fd/$n; done; : >/dev/tty && echo ctty",
    );
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let c = world.container(&bundle);
    let socket = ConsoleSocket::bind(&world.path("console.sock"));
    c.create(&["--console-socket", socket.path.to_str().unwrap()]).ok();
    let mut terminal = Terminal::new(socket.receive().0);
    c.simple("start").ok();
    let shown = terminal.expect("ctty");
    let lines: Vec<_> = shown.split("\r\n").collect();
    assert_eq!(&lines[..4], ["1000 5 620", "/dev/pts/0", "/dev/pts/0", "/dev/pts/0"], "{shown:?}");
    c.finish();
}

#[test]
fn foreground_run_relays_a_terminal() {
    let Some(world) = World::enter("foreground_run_relays_a_terminal") else { return };
    let bundle = with_terminal(
        &world,
        "stty size; trap w=1 WINCH; echo ready; until [ \"$w\" ] && [ \"$(stty size)\" = '44 122' ]; do sleep 0.01; \
         done; echo resized; read x; echo got $x; exit 7",
    );
    let c = world.container(&bundle);
    let mut pty = Pty::open(30, 90);
    let before = stty(&pty);
    let slave = pty.slave.try_clone().unwrap();
    let run = c.call("run", &[], &[]).dir(bundle.dir()).wrapper(&SESSION).terminal(slave).spawn();
    let shown = pty.master.expect("ready");
    // runc sets the size after the program has started.
    assert!(shown.contains("30 90") || world.is_runc(), "{shown:?}");
    pty.resize(44, 122);
    pty.master.expect("resized");
    pty.master.send("hello\r");
    pty.master.expect("got");
    run.wait().exits(7);
    assert_eq!(stty(&pty), before, "the caller's terminal is restored");
    c.assert_nothing_left();
}

/// All modes of the terminal but its size.
fn stty(pty: &Pty) -> String {
    let out =
        std::process::Command::new("stty").args(["-F", pty.path.to_str().unwrap(), "-g"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_callers_terminal_is_raw_meanwhile() {
    let Some(world) = World::enter("the_callers_terminal_is_raw_meanwhile") else { return };
    let bundle = with_terminal(
        &world,
        "trap 'echo interrupted; exit 9' INT; echo ready; while true; do sleep 0.01; done",
    );
    let c = world.container(&bundle);
    let mut pty = Pty::open(24, 80);
    let slave = pty.slave.try_clone().unwrap();
    let run = c.call("run", &[], &[]).dir(bundle.dir()).wrapper(&SESSION).terminal(slave).spawn();
    pty.master.expect("ready");
    // Ctrl-C goes through to the container's terminal, which makes the signal.
    pty.master.send("\x03");
    pty.master.expect("interrupted");
    run.wait().exits(9);
    c.assert_nothing_left();
}

#[test]
fn foreground_exec_relays_a_terminal() {
    let Some(world) = World::enter("foreground_exec_relays_a_terminal") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    let mut pty = Pty::open(24, 80);
    let slave = pty.slave.try_clone().unwrap();
    let words = ["sh", "-c", "tty; echo ready; read x; echo got $x; exit 5"];
    let exec = c.call("exec", &["--tty"], &words).wrapper(&SESSION).terminal(slave).spawn();
    let shown = pty.master.expect("ready");
    assert!(shown.contains("/dev/pts/"), "{shown:?}");
    pty.master.send("x y\r");
    pty.master.expect("got x y");
    exec.wait().exits(5);
    c.finish();
}

#[test]
fn all_output_arrives_before_the_exit() {
    let Some(world) = World::enter("all_output_arrives_before_the_exit") else { return };
    let bundle = with_terminal(&world, "seq 1 20000; echo end");
    let c = world.container(&bundle);
    let mut pty = Pty::open(24, 80);
    let slave = pty.slave.try_clone().unwrap();
    let run = c.call("run", &[], &[]).dir(bundle.dir()).wrapper(&SESSION).terminal(slave).spawn();
    let shown = pty.master.expect("end");
    run.wait().ok();
    let numbers: Vec<u32> = shown.lines().filter_map(|line| line.trim().parse().ok()).collect();
    assert_eq!(numbers, (1..=20000).collect::<Vec<_>>());
    c.assert_nothing_left();
}

/// What nobody has read yet is kept beyond the end of the program.
#[test]
fn output_waits_for_its_reader() {
    let Some(world) = World::enter("output_waits_for_its_reader") else { return };
    // More than the pipe takes, and less than the pipe, the runtime and the terminal together.
    let bundle = with_terminal(&world, "seq 1 3000");
    let c = world.container(&bundle);
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let run = c.call("run", &[], &[]).dir(bundle.dir()).terminal(writer).spawn();
    wait_until("stopped", || c.simple("state").stdout.contains("\"stopped\""));
    // Longer than a terminal that is held open without output is waited for.
    std::thread::sleep(Duration::from_millis(500));
    let mut shown = String::new();
    fs::File::from(reader).read_to_string(&mut shown).unwrap();
    run.wait().ok();
    let numbers: Vec<u32> = shown.lines().filter_map(|line| line.trim().parse().ok()).collect();
    assert_eq!(numbers, (1..=3000).collect::<Vec<_>>());
    c.assert_nothing_left();
}

#[test]
fn the_socket_is_required_when_detached() {
    let Some(world) = World::enter("the_socket_is_required_when_detached") else { return };
    let bundle = with_terminal(&world, "true");
    let c = world.container(&bundle);
    c.create(&[]).fails(1, "cannot allocate tty if");
    c.run(&["--detach"]).fails(1, "cannot allocate tty if");
    let missing = world.path("nosuch.sock");
    c.create(&["--console-socket", missing.to_str().unwrap()]).fails(1, "no such file or directory");
    c.assert_nothing_left();

    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    c.exec(&["--detach", "--tty"], &["true"]).fails(255, "cannot allocate tty if");
    c.exec(&["--console-socket", "/nosuch"], &["true"]).fails(255, "cannot use console socket if");
    c.finish();
}

#[test]
fn long_socket_paths() {
    let Some(world) = World::enter("long_socket_paths") else { return };
    if world.is_runc() {
        davit_tests::skip::<()>("long_socket_paths", "runc does not take paths of more than 107 bytes");
        return;
    }
    let bundle = with_terminal(&world, "echo hi; read x");
    let dir = world.path(&"d".repeat(100));
    fs::create_dir(&dir).unwrap();
    // Bound by a short name, as the caller's own limit is the same.
    let short = ConsoleSocket::bind(&world.path("s"));
    let long = dir.join("console.sock");
    fs::rename(&short.path, &long).unwrap();
    let c = world.container(&bundle);
    c.run(&["--detach", "--console-socket", long.to_str().unwrap()]).ok();
    let mut terminal = Terminal::new(short.receive().0);
    terminal.expect("hi");
    terminal.send("\n");
    wait_until("stopped", || c.status() == "stopped");
    c.finish();
}
