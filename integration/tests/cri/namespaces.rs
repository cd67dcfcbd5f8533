//! Namespaces of the node, the pod, a container, another container; user namespaces.

use std::fs;

use davit_integration::setup::Release;
use davit_integration::{leaks, poll};
use k8s_cri::v1::{IdMapping, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, UserNamespace};

use crate::node::{Node, container};

fn options(pid: NamespaceMode) -> NamespaceOption {
    NamespaceOption { pid: pid.into(), ..Default::default() }
}

fn namespace(pid: &str, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("namespace").to_string_lossy().into_owned()
}

fn with_options(name: &str, command: &[&str], options: &NamespaceOption) -> k8s_cri::v1::ContainerConfig {
    let mut config = container(name, command);
    let context = &mut config.linux.as_mut().expect("linux").security_context;
    *context = Some(k8s_cri::v1::LinuxContainerSecurityContext {
        namespace_options: Some(options.clone()),
        ..Default::default()
    });
    config
}

/// hostNetwork, hostPID and hostIPC.
pub fn of_the_node(node: &Node) {
    let node_mode = NamespaceMode::Node.into();
    let all = NamespaceOption { network: node_mode, pid: node_mode, ipc: node_mode, ..Default::default() };
    let mut config = node.pod_config("node");
    config.hostname = String::new();
    let linux = config.linux.as_mut().expect("linux");
    linux.security_context =
        Some(LinuxSandboxSecurityContext { namespace_options: Some(all.clone()), ..Default::default() });
    let mut pod = node.pod_with(config);
    let id = pod.run(with_options("host", &["sh", "-c", "sleep 4545 & sleep 4646"], &all));
    let ours = pod.output(&id, "readlink /proc/self/ns/pid; readlink /proc/self/ns/ipc");
    assert_eq!(ours, format!("{}\n{}", namespace("self", "pid"), namespace("self", "ipc")));
    let shim = crate::pods::parent(pod.pid(&id)).to_string();
    assert_eq!(pod.output(&id, "readlink /proc/self/ns/net"), namespace(&shim, "net"));
    // Its other processes end with it, although no pid namespace does it; a killed one needs a processor for that.
    let daemon = &node.containerd;
    let of_it = || leaks::processes(daemon.namespace(), daemon.dir());
    let others = || of_it().iter().filter(|(_, line)| line == "sleep 4545").count();
    poll::until("the other process", 30, others, |count| *count == 1);
    pod.stop(&id, 0);
    assert_eq!(pod.end(&id).0, 137);
    poll::until("the end of the others", 30, others, |count| *count == 0);
    pod.remove();
}

pub fn pids_of_pod_container_and_target(node: &Node) {
    let mut config = node.pod_config("pids");
    let linux = config.linux.as_mut().expect("linux");
    linux.security_context = Some(LinuxSandboxSecurityContext {
        namespace_options: Some(options(NamespaceMode::Pod)),
        ..Default::default()
    });
    let mut pod = node.pod_with(config);
    let shared = pod.run(with_options("shared", &["sleep", "4747"], &options(NamespaceMode::Pod)));
    let own = pod.run(with_options("own", &["sleep", "4050"], &options(NamespaceMode::Container)));
    let seen = pod.output(&shared, "ps -o pid,args");
    assert!(seen.contains("/bin/pause") && seen.contains("sleep 4747"), "{seen}");
    assert!(!seen.contains("sleep 4050"), "{seen}");
    assert_eq!(pod.output(&own, "tr '\\0' ' ' </proc/1/cmdline"), "sleep 4050");
    // kubectl debug: a container beside another one's processes.
    let target = NamespaceOption { target_id: own.clone(), ..options(NamespaceMode::Target) };
    let debug = pod.run(with_options("debug", &["sleep", "4848"], &target));
    let seen = pod.output(&debug, "ps -o pid,args");
    assert!(seen.contains("1 sleep 4050") && seen.contains("sleep 4848"), "{seen}");
    // What a container leaves in the pod's namespace ends with it.
    let leaver = pod.run(with_options(
        "leaver",
        &["sh", "-c", "sleep 4949 & until test -e /go; do sleep 0.05; done"],
        &options(NamespaceMode::Pod),
    ));
    poll::until("the sleeper", 30, || pod.output(&shared, "ps"), |seen| seen.contains("sleep 4949"));
    pod.output(&leaver, "touch /go");
    assert_eq!(pod.end(&leaver).0, 0);
    poll::until("its end", 30, || pod.output(&shared, "ps"), |seen| !seen.contains("sleep 4949"));
    pod.remove();
}

/// Pods with `hostUsers: false`.
pub fn a_user_namespace(node: &Node) {
    if node.release != Release::Sid {
        // 1.6 knows no such pods.
        return;
    }
    let map = IdMapping { host_id: 200_000, container_id: 0, length: 65_536 };
    let user = UserNamespace { mode: NamespaceMode::Pod.into(), uids: vec![map], gids: vec![map] };
    let options = NamespaceOption { userns_options: Some(user), ..Default::default() };
    let mut config = node.pod_config("userns");
    let linux = config.linux.as_mut().expect("linux");
    linux.security_context =
        Some(LinuxSandboxSecurityContext { namespace_options: Some(options.clone()), ..Default::default() });
    let mut pod = node.pod_with(config);
    let volume = node.containerd.dir().join("userns-volume");
    fs::create_dir(&volume).expect("volume");
    fs::write(volume.join("file"), "data").expect("file");
    let mut config = with_options(
        "mapped",
        &["sh", "-c", "echo reopened >/dev/stdout; touch /mine; sleep 4050"],
        &options,
    );
    let map = IdMapping { host_id: 200_000, container_id: 0, length: 65_536 };
    config.mounts.push(k8s_cri::v1::Mount {
        container_path: "/volume".to_owned(),
        host_path: volume.to_string_lossy().into_owned(),
        uid_mappings: vec![map],
        gid_mappings: vec![map],
        ..Default::default()
    });
    let id = pod.run(config);
    let uids = pod.output(&id, "cat /proc/self/uid_map");
    assert_eq!(uids.split_whitespace().collect::<Vec<_>>(), ["0", "200000", "65536"]);
    pod.output(&id, "until test -e /mine; do usleep 10000; done");
    // Files of the image and of the id-mapped volume are root's of the pod.
    assert_eq!(pod.output(&id, "stat -c %u /bin/busybox /mine /volume/file"), "0\n0\n0");
    pod.output(&id, "echo new >/volume/new; true");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(volume.join("new")).expect("new"));
    assert_eq!(owner, 0);
    let status = fs::read_to_string(format!("/proc/{}/status", pod.pid(&id))).expect("status");
    assert!(status.contains("Uid:\t200000\t"), "{status}");
    pod.remove();
}
