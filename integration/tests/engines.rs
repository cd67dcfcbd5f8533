//! podman with our command line program as its runtime; more of it is in podman.rs, dockerd in docker/.

use davit_integration::podman::Podman;
use davit_integration::setup::{self, Release};
use davit_integration::{poll, skip};

fn missing() -> Option<String> {
    if let Some(reason) = setup::missing() {
        return Some(reason);
    }
    Release::Bookworm.bin().err().map(|e| format!("packages of Debian 12: {e:#}"))
}

#[test]
fn podman_run_exec_logs() {
    if let Some(reason) = missing() {
        skip!("{reason}");
    }
    let podman = Podman::start().expect("podman");
    let hello = podman.run(&["--rm"], &["echo", "hello"]);
    assert_eq!((hello.code, hello.out.as_str()), (0, "hello\n"), "{}", hello.err);
    assert_eq!(podman.run(&["--rm"], &["sh", "-c", "exit 7"]).code, 7);
    let missing = podman.run(&["--rm"], &["/no/such/program"]);
    assert_eq!(missing.code, 127, "{}", missing.err);
    let refused = podman.run(&["--rm"], &["/etc/passwd"]);
    assert_eq!(refused.code, 126, "{}", refused.err);

    let started = podman.run(&["-d", "--name", "one"], &["sh", "-c", "echo in the log; sleep 1000"]);
    assert_eq!(started.code, 0, "{}", started.err);
    let exec = podman.podman(&["exec", "one", "sh", "-c", "echo inside; exit 3"]);
    assert_eq!((exec.code, exec.out.as_str()), (3, "inside\n"), "{}", exec.err);
    poll::until("the log", 30, || podman.podman(&["logs", "one"]).out, |seen| seen.contains("in the log"));
    assert_eq!(podman.podman(&["ps", "--format", "{{.Names}}"]).out, "one\n");
    let stopped = podman.podman(&["stop", "--time", "0", "one"]);
    assert_eq!(stopped.code, 0, "{}", stopped.err);
    assert_eq!(podman.podman(&["inspect", "--format", "{{.State.ExitCode}}", "one"]).out, "137\n");
    assert_eq!(podman.podman(&["rm", "one"]).code, 0);
    let mut left = Vec::new();
    poll::within(60, || {
        left = podman.left();
        left.is_empty().then_some(())
    });
    assert!(left.is_empty(), "{left:#?}");
}
