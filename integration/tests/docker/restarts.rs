//! Restart policies, a shim that is killed, and dockerd restarted over running containers.

use davit_integration::docker::Docker;
use davit_integration::poll;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::life::start;

pub fn policies(docker: &Docker) {
    let started = docker.run(&["-d", "--name", "failing", "--restart", "on-failure:2"], &["exit-with", "3"]);
    assert_eq!(started.code, 0, "{}", started.err);
    let state = |name: &str| {
        docker.ok(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", name])
    };
    poll::until("the third end", 60, || state("failing"), |seen| seen == "exited 3 2");
    docker.ok(&["rm", "failing"]);
    for policy in ["always", "unless-stopped"] {
        let script = "until test -e /die; do sleep 0.05; done; rm /die; exit 0";
        start(docker, policy, &["--restart", policy], script);
        for count in 1..=2 {
            // The container may end before this exec does.
            docker.docker(&["exec", policy, "touch", "/die"]);
            let next = format!("running 0 {count}");
            poll::until("its next life", 60, || state(policy), |seen| *seen == next);
        }
        docker.ok(&["stop", "--time", "0", policy]);
        assert_eq!(state(policy), "exited 137 2");
        docker.ok(&["rm", policy]);
    }
}

/// docker hears of the end, and all that the container was is gone.
pub fn a_killed_shim(docker: &Docker) {
    start(docker, "orphan", &[], "sleep 1000");
    let id = docker.inspect("orphan", ".Id");
    let shim = docker
        .containerd
        .shim_of(&id)
        .unwrap_or_else(|| panic!("no shim of {id}: {:?}", docker.containerd.shims()));
    let init: i32 = docker.inspect("orphan", ".State.Pid").parse().expect("pid");
    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("kill");
    let status = |name: &str| docker.inspect(name, ".State.Status");
    poll::until("docker to hear of it", 60, || status("orphan"), |seen| seen == "exited");
    assert_eq!(docker.inspect("orphan", ".State.ExitCode"), "137");
    poll::until_gone(init);
    // Until containerd has cleaned up after a dead shim (any one) it refuses another task of the same id.
    poll::until("its next start", 60, || docker.docker(&["start", "orphan"]), |call| call.code == 0);
    assert_eq!(docker.ok(&["exec", "orphan", "echo", "again"]), "again");
    docker.ok(&["rm", "--force", "orphan"]);
}

pub fn live_restore(docker: &mut Docker) {
    let ticking = "trap 'exit 6' TERM; n=0; while :; do echo tick $n; n=$((n + 1)); sleep 0.1; done";
    start(docker, "survivor", &[], ticking);
    start(docker, "ends", &[], "until test -e /tmp/go; do sleep 0.05; done; exit 8");
    let pid = docker.inspect("survivor", ".State.Pid");
    let go = format!("/proc/{}/root/tmp/go", docker.inspect("ends", ".State.Pid"));
    docker.restart(Signal::SIGTERM, || ()).expect("orderly restart");
    assert_eq!(docker.inspect("ends", ".State.Status"), "running");
    let init = docker.inspect("ends", ".State.Pid").parse().expect("pid");
    let end_it = || {
        std::fs::write(&go, "").expect("the sign to end");
        poll::until_gone(init);
    };
    docker.restart(Signal::SIGKILL, end_it).expect("restart after a crash");
    let status = || docker.inspect("ends", ".State.Status");
    poll::until("the end while docker was away", 30, status, |seen| seen == "exited");
    assert_eq!(docker.inspect("ends", ".State.ExitCode"), "8");
    assert_eq!(docker.inspect("survivor", ".State.Pid"), pid);
    let ticks = || docker.ok(&["logs", "survivor"]).lines().count();
    let before = ticks();
    poll::until("more ticks", 30, ticks, |seen| *seen > before + 3);
    assert_eq!(docker.ok(&["exec", "survivor", "echo", "inside"]), "inside");
    docker.ok(&["stop", "--time", "60", "survivor"]);
    assert_eq!(docker.inspect("survivor", ".State.ExitCode"), "6");
    docker.ok(&["rm", "survivor", "ends"]);
}
