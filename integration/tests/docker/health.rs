//! Health checks, which are execs.

use davit_integration::docker::Docker;
use davit_integration::poll;

use crate::life::start;

fn wait_for(docker: &Docker, name: &str, health: &str) {
    let shown = || docker.ok(&["inspect", "--format", "{{json .State.Health}}", name]);
    let wanted = format!("\"Status\":\"{health}\"");
    poll::until(&format!("{name} to be {health}"), 60, shown, |seen| seen.contains(&wanted));
}

pub fn healthy_then_not(docker: &Docker) {
    let check = ["--health-cmd", "test -e /tmp/well", "--health-interval", "300ms", "--health-retries", "2"];
    start(docker, "health", &check, "touch /tmp/well; sleep 1000");
    wait_for(docker, "health", "healthy");
    docker.ok(&["exec", "health", "rm", "/tmp/well"]);
    wait_for(docker, "health", "unhealthy");
    docker.ok(&["exec", "health", "touch", "/tmp/well"]);
    wait_for(docker, "health", "healthy");
    docker.ok(&["rm", "--force", "health"]);
}

pub fn a_check_that_hangs(docker: &Docker) {
    let check = ["--health-cmd", "sleep 4444", "--health-interval", "300ms", "--health-timeout", "1s"];
    start(docker, "hangs", &[&check[..], &["--health-retries", "1"]].concat(), "sleep 1000");
    wait_for(docker, "hangs", "unhealthy");
    let log = docker.ok(&["inspect", "--format", "{{json .State.Health.Log}}", "hangs"]);
    assert!(log.contains("exceeded timeout"), "{log}");
    // The check's process was killed, not left: never more than the one that runs now.
    let checks = || docker.ok(&["top", "hangs"]);
    poll::until("one check at most", 30, checks, |shown| shown.matches("sleep 4444").count() <= 2);
    docker.ok(&["rm", "--force", "hangs"]);
}
