//! Standard input and output, terminals, attach.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use davit_integration::docker::Docker;
use davit_integration::poll;
use davit_integration::terminal::{self, OnTerminal};

use crate::life::start;

pub fn a_terminal(docker: &Docker) {
    assert!(terminal::available(), "no setsid");
    // Not the shell's own prompt, which would ask this terminal where its cursor is.
    let script = "while read line; do eval \"$line\"; done";
    let words = docker.run_words(docker.runtime(), &["-it", "--name", "term"], &["sh", "-c", script]);
    let mut screen = OnTerminal::start(&docker.line(&words), 41, 121).expect("terminal");
    // The words that are waited for are not in what is typed, which the terminal shows too.
    screen.write("tty; echo sum $((20 + 3))\n").expect("type");
    let shown = screen.read_until("sum 23").expect("echo");
    assert!(shown.contains("/dev/pts/0"), "{shown}");
    let size = |screen: &mut OnTerminal| {
        screen.write("stty size; echo asked $((20 + 3))\n").expect("type");
        screen.read_until("asked 23").expect("answer")
    };
    poll::until("the first size", 30, || size(&mut screen), |seen| seen.contains("41 121"));
    // docker's client misses a change that comes between its first request and its handler of SIGWINCH: the container
    // has the first size before, from its creation.
    let resized = || {
        screen.resize(30, 80).and_then(|()| screen.resize(30, 90)).expect("resize");
        size(&mut screen)
    };
    poll::until("the size", 30, resized, |seen| seen.contains("30 90"));
    let exec = docker.line(&["exec", "-it", "term", "sh", "-c", "tty && exit 3"]);
    let (status, shown) = OnTerminal::start(&exec, 25, 77).expect("terminal").finish().expect("docker");
    assert!(shown.contains("/dev/pts/1"), "{shown}");
    assert_eq!(status.code(), Some(3), "{shown}");
    screen.write("exit 6\n").expect("type");
    let (status, shown) = screen.finish().expect("docker");
    assert_eq!(status.code(), Some(6), "{shown}");
    docker.ok(&["rm", "term"]);
}

pub fn stdin_and_attach(docker: &Docker) {
    let words = docker.run_words(docker.runtime(), &["-i", "--rm"], &["sh", "-c", "cat; echo end"]);
    let mut child = docker.line(&words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("docker");
    let large = "a line of input\n".repeat(20_000);
    let mut input = child.stdin.take().expect("stdin");
    let (mut output, fed) = (child.stdout.take().expect("stdout"), large.clone());
    let feeder = std::thread::spawn(move || input.write_all(fed.as_bytes()));
    let mut text = String::new();
    output.read_to_string(&mut text).expect("read");
    feeder.join().expect("feeder").expect("write");
    assert_eq!(text.len(), large.len() + 4);
    assert!(text == large + "end\n");
    assert_eq!(child.wait().expect("docker").code(), Some(0));

    an_attached_keyboard(docker);
    start(docker, "attached", &[], "exec until-term 4");
    let mut attached = docker
        .line(&["attach", "--no-stdin", "--sig-proxy=false", "attached"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker attach");
    let mut lines = BufReader::new(attached.stdout.take().expect("stdout"));
    for _ in 0..3 {
        let mut line = String::new();
        lines.read_line(&mut line).expect("output of the container");
        assert_eq!(line, "tick\n");
    }
    docker.ok(&["stop", "--time", "60", "attached"]);
    std::thread::spawn(move || lines.lines().count());
    let status = poll::until("the end of attach", 30, || attached.try_wait().expect("wait"), Option::is_some)
        .expect("status");
    assert_eq!(status.code(), Some(4));
    docker.ok(&["rm", "attached"]);
}

/// Attached to a terminal, typed at, left by the keys for it, and attached again.
fn an_attached_keyboard(docker: &Docker) {
    start(docker, "keyboard", &["-it"], "while read line; do eval \"$line\"; done");
    let attach = docker.line(&["attach", "keyboard"]);
    let mut screen = OnTerminal::start(&attach, 25, 80).expect("terminal");
    screen.write("echo sum $((20 + 3))\n").expect("type");
    screen.read_until("sum 23").expect("echo");
    // ctrl-p ctrl-q
    screen.write("\x10\x11").expect("type");
    let (status, shown) = screen.finish().expect("docker");
    assert!(shown.contains("read escape sequence") || status.success(), "{status:?} {shown}");
    assert_eq!(docker.inspect("keyboard", ".State.Status"), "running");
    let mut screen = OnTerminal::start(&attach, 25, 80).expect("terminal");
    screen.write("exit 6\n").expect("type");
    let (status, shown) = screen.finish().expect("docker");
    assert_eq!(status.code(), Some(6), "{shown}");
    docker.ok(&["rm", "keyboard"]);
}

pub fn large_output_is_complete(docker: &Docker) {
    const SIZE: usize = 3 << 20;
    let script = format!("head -c {SIZE} /dev/zero | tr '\\0' o; head -c 5000 /dev/zero | tr '\\0' e >&2");
    let call = docker.run(&["--name", "large"], &["sh", "-c", &script]);
    assert_eq!((call.code, call.out.len()), (0, SIZE), "{:.200}", call.err);
    assert_eq!(call.err.len(), 5000);
    let logs = docker.docker(&["logs", "large"]);
    assert_eq!((logs.out.len(), logs.err.len()), (SIZE, 5000));
    docker.ok(&["rm", "large"]);
    start(docker, "execs", &[], "sleep 1000");
    let call = docker.docker(&["exec", "execs", "sh", "-c", &script]);
    assert_eq!((call.code, call.out.len(), call.err.len()), (0, SIZE, 5000));
    docker.ok(&["rm", "--force", "execs"]);
}
