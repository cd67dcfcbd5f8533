//! Exit codes of foreground `run`, and what it does for its caller meanwhile.

use std::fs;

use davit_tests::{World, host, wait_until, write_program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

#[test]
fn the_programs_code_is_runs_code() {
    let Some(world) = World::enter("the_programs_code_is_runs_code") else { return };
    let mut bundle = world.bundle();
    for code in [0, 1, 2, 7, 126, 127, 128, 255] {
        bundle.script(&format!("exit {code}"));
        let c = world.container(&bundle);
        let run = c.run(&[]).exits(code);
        assert_eq!((run.stderr.as_str(), run.error().as_str()), ("", ""), "a program's code is no error");
        c.assert_nothing_left();
    }
}

#[test]
fn a_killed_program_gives_128_and_the_signal() {
    let Some(world) = World::enter("a_killed_program_gives_128_and_the_signal") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle);
    let run = c.call("run", &[], &[]).dir(bundle.dir()).spawn();
    wait_until("running", || c.simple("state").stdout.contains("\"running\""));
    c.call("kill", &[], &["KILL"]).run().ok();
    run.wait().exits(128 + 9);
    c.assert_nothing_left();
}

#[test]
fn signals_are_forwarded() {
    let Some(world) = World::enter("signals_are_forwarded") else { return };
    let mut bundle = world.bundle();
    for (signal, name) in [(Signal::SIGTERM, "TERM"), (Signal::SIGINT, "INT"), (Signal::SIGUSR1, "USR1")] {
        bundle
            .script(&format!("trap 'echo got; exit 42' {name}; echo ready; while true; do sleep 0.01; done"));
        let c = world.container(&bundle);
        let run = c.call("run", &[], &[]).dir(bundle.dir()).spawn();
        wait_until("the trap", || run.stdout() == "ready\n");
        kill(Pid::from_raw(run.pid()), signal).unwrap();
        assert_eq!(run.wait().exits(42).stdout, "ready\ngot\n", "{name}");
        c.assert_nothing_left();
    }
}

#[test]
fn programs_that_can_not_run() {
    let Some(world) = World::enter("programs_that_can_not_run") else { return };
    let mut bundle = world.bundle();
    fs::write(bundle.rootfs("tmp/plain"), "data").unwrap();
    for (program, text) in [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        ("/nosuch", "exec: \"/nosuch\": stat /nosuch: no such file or directory"),
        ("/tmp/plain", "exec: \"/tmp/plain\": permission denied"),
        ("/etc", if world.is_runc() { "permission denied" } else { "exec: \"/etc\": is a directory" }),
    ] {
        bundle.args(&[program]);
        let c = world.container(&bundle);
        c.run(&[]).fails(1, text);
        c.assert_nothing_left();
        // Docker and podman turn these texts into 127 and 126 already at create.
        c.create(&[]).fails(1, text);
        c.assert_nothing_left();
    }
}

#[test]
fn a_wrong_interpreter_is_told() {
    let Some(world) = World::enter("a_wrong_interpreter_is_told") else { return };
    let mut bundle = world.bundle();
    let script = bundle.rootfs("tmp/script");
    write_program(&script, "#!/nosuch/interpreter\n");
    bundle.args(&["/tmp/script"]);
    let c = world.container(&bundle);
    let run = c.run(&[]).exits(1);
    assert!(run.stderr.contains("no such file or directory"), "{}", run.stderr);
    if !world.is_runc() {
        // runc finds out after it has left its log.
        run.fails(1, "/nosuch/interpreter");
    }
    c.assert_nothing_left();
}

#[test]
fn stdio_is_the_callers() {
    let Some(world) = World::enter("stdio_is_the_callers") else { return };
    let mut bundle = world.bundle();
    bundle.script("cat; echo err >&2");
    let c = world.container(&bundle);
    let run = c.call("run", &[], &[]).dir(bundle.dir()).stdin(b"one\ntwo\n").run().ok();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("one\ntwo\n", "err\n"));
    bundle.script("head -c 3000000 /dev/zero | tr '\\0' x").write();
    assert_eq!(c.run(&[]).ok().stdout.len(), 3_000_000);
    c.assert_nothing_left();
}

#[test]
fn orphans_in_a_shared_pid_namespace_are_reaped() {
    let Some(world) = World::enter("orphans_in_a_shared_pid_namespace_are_reaped") else { return };
    let mut bundle = world.bundle();
    // Each round leaves an orphan that ends at once; the subreaper reaps it.
    bundle.script(
        "for i in 1 2 3 4 5; do (sh -c 'echo $$ >> /tmp/orphans' & ); done; touch /tmp/ready; sleep 1000",
    );
    bundle.without_namespace("pid").set("/root/readonly", json!(false));
    let c = world.container(&bundle);
    let run = c.call("run", &[], &[]).dir(bundle.dir()).spawn();
    let orphans = || fs::read_to_string(bundle.rootfs("tmp/orphans")).unwrap_or_default();
    wait_until("orphans", || orphans().lines().count() == 5 && bundle.rootfs("tmp/ready").exists());
    let children = format!("/proc/{}/task/{}/children", run.pid(), run.pid());
    wait_until("no zombies below the runtime", || {
        fs::read_to_string(&children)
            .unwrap()
            .split_ascii_whitespace()
            .all(|pid| host::is_alive(pid.parse().unwrap()))
    });
    c.call("kill", &[], &["KILL"]).run().ok();
    run.wait().exits(128 + 9);
    c.assert_nothing_left();
}

#[test]
fn an_error_without_a_log_file_is_on_stderr() {
    let Some(world) = World::enter("an_error_without_a_log_file_is_on_stderr") else { return };
    let run = world.call(&["state", "nobody"]).without_log().run().exits(1);
    assert!(run.stderr.contains("container does not exist"), "{:?}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1);
    if !world.is_runc() {
        assert_eq!(run.stderr, "davit: container does not exist\n");
    }
}

#[test]
fn usage_errors() {
    let Some(world) = World::enter("usage_errors") else { return };
    for (words, text) in [
        (&["state"][..], "\"state\" requires exactly 1 argument(s)"),
        (&["kill"], "\"kill\" requires a minimum of 1 argument(s)"),
        (&["kill", "a", "b", "c"], "\"kill\" requires a maximum of 2 argument(s)"),
        (&["exec"], "\"exec\" requires a minimum of 1 argument(s)"),
        (&["run", "--frob", "x"], "flag provided but not defined: -frob"),
        (&["create", "--preserve-fds", "x", "y"], "invalid value \"x\" for flag -preserve-fds: parse error"),
        (&["list", "--format"], "flag needs an argument: -format"),
    ] {
        let call = world.call(words).run();
        assert!(call.stdout.contains("USAGE:"), "{words:?}: {}", call.stdout);
        call.fails(1, text);
    }
    assert_eq!(world.call(&["frob"]).run().code, 3);
    assert!(world.call(&["--help"]).run().ok().stdout.contains("USAGE:"));
    assert!(world.call(&["exec", "--help"]).run().ok().stdout.contains("--process"));
    let version = world.call(&["--version"]).run().ok().stdout;
    assert!(version.lines().any(|line| line.starts_with("spec: 1.")), "{version}");
    assert!(version.lines().any(|line| line.starts_with("commit: ")), "{version}");
}
