//! Namespaces of the node, the pod, a container, another container.

use std::fs;

use k8s_cri::v1::{LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption};

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
    // Its other processes end with it, although no pid namespace does it.
    pod.stop(&id, 0);
    assert_eq!(pod.end(&id).0, 137);
    let left = std::process::Command::new("pgrep").args(["-f", "^sleep 4545$"]).output().expect("pgrep");
    assert!(left.stdout.is_empty(), "{left:?}");
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
    assert!(pod.output(&shared, "ps").contains("sleep 4949"));
    pod.output(&leaver, "touch /go");
    assert_eq!(pod.end(&leaver).0, 0);
    assert!(!pod.output(&shared, "ps").contains("sleep 4949"));
    pod.remove();
}
