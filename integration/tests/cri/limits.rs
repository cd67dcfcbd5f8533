//! Limits, statistics, and the end of what needs more memory.

use davit_integration::poll;
use k8s_cri::v1::{
    ContainerStatsRequest, LinuxContainerResources, ListContainerStatsRequest, PodSandboxStatsRequest,
    UpdateContainerResourcesRequest,
};

use crate::client::limits;
use crate::node::{Node, container};

/// The value of a limit inside, of whichever hierarchy has it.
const LIMITS: &str = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max 2>/dev/null
    cat cpu/cpu.cfs_quota_us cpu.max 2>/dev/null | cut -d' ' -f1";

pub fn stats_and_updates(node: &Node) {
    let mut pod = node.pod("stats");
    let mut config = container("busy", &["sh", "-c", "while :; do :; done & sleep 1000"]);
    config.linux.as_mut().expect("linux").resources = Some(limits(64 << 20, 20_000));
    let id = pod.run(config);
    assert_eq!(pod.output(&id, LIMITS), format!("{}\n20000", 64 << 20));
    let mut usage = || {
        let request = ContainerStatsRequest { container_id: id.clone() };
        let stats = pod.cri.container_stats(request).expect("stats").stats.expect("stats");
        let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).map_or(0, |n| n.value);
        let memory = stats.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |n| n.value);
        (cpu, memory)
    };
    let first = poll::until("memory in use", 30, &mut usage, |seen| seen.1 > 0);
    poll::until("more time on the processor", 30, &mut usage, |seen| seen.0 > first.0);
    let all = pod.cri.list_container_stats(ListContainerStatsRequest { filter: None }).expect("list").stats;
    assert!(all.iter().any(|stats| stats.attributes.as_ref().is_some_and(|a| a.id == id)));
    let request = PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
    let stats = pod.cri.pod_sandbox_stats(request).expect("pod's stats").stats.expect("stats");
    let linux = stats.linux.expect("linux");
    assert!(linux.containers.iter().any(|stats| stats.attributes.as_ref().is_some_and(|a| a.id == id)));
    let processes = linux.process.and_then(|process| process.process_count).map_or(0, |n| n.value);
    assert!(processes >= 2, "{processes} processes in the pod");
    let request = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(limits(96 << 20, 40_000)),
        ..Default::default()
    };
    pod.cri.update_container_resources(request).expect("update");
    assert_eq!(pod.output(&id, LIMITS), format!("{}\n40000", 96 << 20));
    // More than there is cannot be: the error names the file.
    let request = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(LinuxContainerResources { cpuset_cpus: "4000".to_owned(), ..limits(96 << 20, 40_000) }),
        ..Default::default()
    };
    let error = pod.cri.update_container_resources(request).expect_err("a processor that is not there");
    assert!(error.message().contains("cpuset.cpus"), "{error}");
    pod.remove();
}

pub fn out_of_memory(node: &Node) {
    let mut pod = node.pod("oom");
    let mut config = container("eater", &["tail", "/dev/zero"]);
    config.linux.as_mut().expect("linux").resources = Some(limits(24 << 20, 0));
    let id = pod.run(config);
    assert_eq!(pod.end(&id).0, 137);
    // containerd hears of the kill and of the end on two ways, and may show the end for a moment without its reason.
    poll::until("the reason", 30, || pod.status(&id).reason, |reason| reason == "OOMKilled");
    pod.remove();
}
