//! The shim or the daemon killed under running pods.

use davit_integration::poll;
use k8s_cri::v1::{ContainerState, PodSandboxState, PodSandboxStatusRequest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::{Node, Pod};
use crate::pods::parent;

fn try_sandbox_state(pod: &mut Pod<'_>) -> Option<PodSandboxState> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
    Some(pod.cri.pod_sandbox_status(request).ok()?.status?.state())
}

/// All of the pod ends with its shim, and kubelet learns of it.
pub fn shim_killed(node: &mut Node) {
    let mut pod = node.pod("killed");
    let one = pod.script("one", "sleep 1000");
    let two = pod.script("two", "sleep 1000");
    let known = pod.script("known", "exit 9");
    assert_eq!(pod.end(&known).0, 9);
    let (shim, first) = (parent(pod.pid(&one)), pod.pid(&one));
    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("kill");
    for id in [&one, &two] {
        // 255 where containerd hears of the closed connection first, with any shim; 137 by the shim's own `delete`.
        let code = pod.end(id).0;
        assert!([137, 255].contains(&code), "{id}: {code}");
    }
    assert_eq!(pod.end(&known).0, 9);
    // While containerd cleans up after the dead shim, its answer is "ttrpc: closed" (with any shim): kubelet asks again.
    let ended = |seen: &Option<PodSandboxState>| *seen == Some(PodSandboxState::SandboxNotready);
    poll::until("the sandbox to be seen ended", 60, || try_sandbox_state(&mut pod), ended);
    poll::until_gone(first);
    poll::until("the pod's removal", 60, || pod.try_remove(), Result::is_ok).expect("removal");
}

/// Orderly and by a crash: containers run on, and the code of one that ends meanwhile is not lost.
pub fn daemon_restarted(node: &mut Node) {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let pod = node.pod("restart");
        let (id, config) = (pod.id.clone(), pod.config.clone());
        let mut pod = pod;
        let runs = pod.script("runs", "n=0; while :; do echo tick $n; n=$((n + 1)); sleep 0.1; done");
        let ends = pod.script("ends", "until test -e /go; do sleep 0.05; done; echo last words; exit 7");
        let (first, ends_pid) = (pod.pid(&runs), pod.pid(&ends));
        drop(pod);
        node.containerd.stop(signal);
        std::fs::write(format!("/proc/{ends_pid}/root/go"), "").expect("the sign to end");
        poll::until_gone(ends_pid);
        let release = node.release;
        node.containerd.start_again(release).expect("containerd again");
        node.wait_until_ready();
        let mut pod = Pod { node, cri: node.cri(), id, config };
        assert_eq!(pod.end(&ends).0, 7, "after {signal}");
        assert_eq!(pod.status(&runs).state(), ContainerState::ContainerRunning);
        assert_eq!(pod.pid(&runs), first);
        assert_eq!(try_sandbox_state(&mut pod), Some(PodSandboxState::SandboxReady));
        assert_eq!(pod.output(&runs, "echo inside"), "inside");
        let before = pod.log("runs").lines().count();
        let lines = || pod.log("runs").lines().count();
        poll::until("more of its log", 30, lines, |seen| *seen > before + 3);
        pod.stop(&runs, 0);
        assert_eq!(pod.end(&runs).0, 137);
        pod.remove();
    }
}
