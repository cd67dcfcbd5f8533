//! How containers end: hooks, grace periods, stops of what has ended, and what cannot start.

use std::time::{Duration, Instant};

use davit_integration::poll;
use k8s_cri::v1::{
    ContainerState, RemoveContainerRequest, RemovePodSandboxRequest, StartContainerRequest,
    StopContainerRequest, StopPodSandboxRequest,
};

use crate::node::{Node, container};

pub fn a_hook_then_the_grace_period(node: &Node) {
    let mut pod = node.pod("grace");
    // What kubelet does for a preStop hook: an exec, then the stop with what is left of the time.
    let polite =
        pod.script("polite", "trap 'cat /bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    poll::until("the trap", 30, || pod.log("polite"), |seen| seen.contains("ready"));
    pod.output(&polite, "echo farewell >/bye");
    pod.stop(&polite, 60);
    assert_eq!(pod.end(&polite), (5, "Error".to_owned()));
    // containerd writes the log on a thread of its own.
    poll::until("the last words", 30, || pod.log("polite"), |seen| seen.contains("farewell"));
    let deaf = pod.script("deaf", "trap '' TERM; echo deaf; while :; do sleep 0.05; done");
    poll::until("the trap", 30, || pod.log("deaf"), |seen| seen.contains("deaf"));
    let start = Instant::now();
    pod.stop(&deaf, 2);
    assert!(start.elapsed() >= Duration::from_secs(2));
    assert_eq!(pod.end(&deaf).0, 137);
    let finished = pod.script("finished", "true");
    assert_eq!(pod.end(&finished), (0, "Completed".to_owned()));
    // An exec that is under way does not keep its container.
    let probed = pod.script("probed", "sleep 1000");
    let (mut cri, id) = (node.cri(), probed.clone());
    let probe = std::thread::spawn(move || {
        let cmd = ["sleep".to_owned(), "1001".to_owned()].to_vec();
        cri.exec_sync(k8s_cri::v1::ExecSyncRequest { container_id: id, cmd, timeout: 100 })
    });
    poll::until("the exec to run", 30, || pod.output(&probed, "ps"), |seen| seen.contains("sleep 1001"));
    // In the pod's pid namespace it is no process 1, which SIGTERM would not end.
    pod.stop(&probed, 60);
    assert_eq!(pod.end(&probed).0, 143);
    let answer = probe.join().expect("thread");
    assert!(answer.as_ref().is_ok_and(|reply| reply.exit_code == 137) || answer.is_err(), "{answer:?}");
    pod.remove();
}

pub fn what_is_stopped_or_removed_twice(node: &Node) {
    let mut pod = node.pod("twice");
    let id = pod.script("main", "sleep 1000");
    for _ in 0..3 {
        pod.stop(&id, 0);
    }
    let ended = pod.script("ended", "exit 1");
    pod.end(&ended);
    pod.stop(&ended, 5);
    // A running container is removed by force, and then again.
    let running = pod.script("running", "sleep 1000");
    for _ in 0..2 {
        let request = RemoveContainerRequest { container_id: running.clone() };
        pod.cri.remove_container(request).expect("remove");
    }
    // One that was created and never started.
    let created = pod.create(container("created", &["true"])).expect("create");
    assert_eq!(pod.status(&created).state(), ContainerState::ContainerCreated);
    pod.stop(&created, 1);
    pod.cri.remove_container(RemoveContainerRequest { container_id: created }).expect("remove");
    // Two at once.
    let busy = pod.script("busy", "trap '' TERM; echo deaf; sleep 1000");
    poll::until("the trap", 30, || pod.log("busy"), |seen| seen.contains("deaf"));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (mut cri, container_id) = (node.cri(), busy.clone());
            scope.spawn(move || {
                cri.stop_container(StopContainerRequest { container_id, timeout: 1 }).expect("stop")
            });
        }
    });
    assert_eq!(pod.end(&busy).0, 137);
    let pod_id = pod.id.clone();
    pod.remove();
    // Long gone; containerd 1.6 answers the stop with NotFound, which kubelet takes for done.
    let mut cri = node.cri();
    let stop = cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod_id.clone() });
    assert!(stop.as_ref().is_ok() || stop.is_err_and(|e| e.code() == tonic::Code::NotFound));
    cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod_id }).expect("remove");
    cri.remove_container(RemoveContainerRequest { container_id: busy }).expect("remove");
}

pub fn what_cannot_start(node: &Node) {
    let mut pod = node.pod("wrong");
    let id = pod.create(container("missing", &["/no/such/program"])).expect("create");
    let request = StartContainerRequest { container_id: id.clone() };
    let error = pod.cri.start_container(request).expect_err("a missing program");
    assert!(error.message().contains("/no/such/program"), "{error}");
    assert!(error.message().contains("no such file or directory"), "{error}");
    let status = pod.status(&id);
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 128));
    assert!(["StartError", "ContainerCannotRun"].contains(&status.reason.as_str()), "{}", status.reason);
    let id = pod.create(container("refused", &["/etc/passwd"])).expect("create");
    let error =
        pod.cri.start_container(StartContainerRequest { container_id: id }).expect_err("not a program");
    assert!(error.message().contains("permission denied"), "{error}");
    let config = node.pod_config("handler");
    let request =
        k8s_cri::v1::RunPodSandboxRequest { config: Some(config), runtime_handler: "nobody".to_owned() };
    let error = pod.cri.run_pod_sandbox(request).expect_err("an unknown handler");
    assert!(error.message().contains("nobody"), "{error}");
    pod.remove();
}
