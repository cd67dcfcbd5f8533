//! Pods with several containers, and their logs.

use std::fs;

use davit_integration::poll;
use k8s_cri::v1::{
    ContainerState, ListContainersRequest, PodSandboxStatusRequest, RemoveContainerRequest,
    ReopenContainerLogRequest,
};

use crate::node::{Node, container, handler};

pub fn several_containers_in_one_shim(node: &Node) {
    let mut pod = node.pod("several");
    let one = pod.script("one", "echo from one; trap 'exit 4' TERM; while :; do sleep 0.05; done");
    let two = pod.script("two", "nc -l -p 8080 -e echo from two; sleep 1000");
    let three = pod.script("three", "echo short >&2; exit 3");
    assert_eq!(pod.end(&three), (3, "Error".to_owned()));
    assert_eq!(pod.status(&one).state(), ContainerState::ContainerRunning);
    // All below one shim, which is that of the sandbox.
    let shim = parent(pod.pid(&pod.id.clone()));
    for id in [&one, &two] {
        assert_eq!(parent(pod.pid(id)), shim, "{id}");
    }
    let line = fs::read_to_string(format!("/proc/{shim}/cmdline")).expect("command line");
    assert!(handler() != "davit" || line.contains("containerd-shim-davit-v2"), "{line}");
    // One network, IPC and UTS namespace; mounts of their own.
    let namespaces = "for kind in net ipc uts; do readlink /proc/self/ns/$kind; done";
    assert_eq!(pod.output(&one, namespaces), pod.output(&two, namespaces));
    assert_ne!(
        pod.output(&one, "readlink /proc/self/ns/mnt"),
        pod.output(&two, "readlink /proc/self/ns/mnt")
    );
    assert_eq!(pod.output(&one, "hostname"), "several");
    // Once its neighbour listens.
    assert_eq!(pod.output(&one, "until nc 127.0.0.1 8080 2>/dev/null; do usleep 50000; done"), "from two");
    // The pod's address is the network's.
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
    let status = pod.cri.pod_sandbox_status(request).expect("status").status.expect("status");
    assert!(status.network.expect("network").ip.starts_with("10.88."));
    assert_eq!(status.runtime_handler, handler());
    // A container that ended is removed and started anew in its place.
    pod.cri.remove_container(RemoveContainerRequest { container_id: three }).expect("remove");
    let mut again = container("three", &["sh", "-c", "exit 5"]);
    again.metadata.as_mut().expect("metadata").attempt = 1;
    let three = pod.run(again);
    assert_eq!(pod.end(&three).0, 5);
    let all = pod.cri.list_containers(ListContainersRequest { filter: None }).expect("list").containers;
    assert_eq!(all.iter().filter(|c| c.pod_sandbox_id == pod.id).count(), 3);
    // With containers that still run.
    pod.remove();
    poll::until_gone(shim);
}

/// The parent of a process of the host.
pub fn parent(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("PPid");
    line.trim().parse().expect("pid")
}

pub fn log_and_its_rotation(node: &Node) {
    let mut pod = node.pod("rotation");
    let script = "echo first; echo as an error >&2; until test -e /go; do sleep 0.05; done
        echo second; head -c 40000 /dev/zero | tr '\\0' x; echo; sleep 1000";
    let id = pod.script("logger", script);
    poll::until("both lines", 30, || pod.log("logger"), |seen| seen.lines().count() == 2);
    let mut lines: Vec<String> =
        pod.log("logger").lines().map(|line| line.split_once(' ').expect("time").1.to_owned()).collect();
    lines.sort();
    assert_eq!(lines, ["stderr F as an error", "stdout F first"]);
    let path = format!("{}/logger.log", pod.config.log_directory);
    fs::rename(&path, format!("{path}.1")).expect("rotate");
    pod.cri.reopen_container_log(ReopenContainerLogRequest { container_id: id.clone() }).expect("reopen");
    pod.output(&id, "touch /go");
    poll::until(
        "the lines after",
        30,
        || pod.log("logger"),
        |seen| seen.contains(" F x") && seen.ends_with('\n'),
    );
    let log = pod.log("logger");
    assert!(log.lines().next().is_some_and(|line| line.ends_with("stdout F second")), "{log:.200}");
    // A long line is split at 16 KiB, each part but the last with the tag for it, and nothing of it is lost.
    assert_eq!(log.lines().filter(|line| line.contains(" stdout P x")).count(), 2, "{log:.200}");
    let long: usize = log.lines().skip(1).map(|line| line.matches('x').count()).sum();
    assert_eq!(long, 40_000);
    pod.stop(&id, 0);
    let ended = ReopenContainerLogRequest { container_id: id };
    assert!(pod.cri.reopen_container_log(ended).is_err());
    pod.remove();
}
