//! A pod's life with one death in it, at a random point: what kubelet does then removes all of it.

use std::thread;

use davit_integration::deaths::{self, Death, Victim};
use davit_integration::poll;
use k8s_cri::v1::{ContainerState, ListPodSandboxRequest, NamespaceMode, NamespaceOption, PodSandboxConfig};
use nix::sys::signal::Signal;

use crate::client::Status;
use crate::node::{Node, Pod, container};

/// Deaths per release.
const ROUNDS: u64 = 4;
/// What the container under test ends with by SIGTERM.
const CODE: i32 = 9;

/// From RunPodSandbox to RemovePodSandbox; gives the exit code that was known of the container that was stopped.
fn a_life(node: &Node, config: PodSandboxConfig) -> Result<Option<i32>, Status> {
    let mut pod = node.try_pod(config)?;
    let script = format!("trap 'exit {CODE}' TERM; touch /ready; while :; do sleep 0.05; done");
    let polite = pod.try_run(container("polite", &["sh", "-c", &script]))?;
    pod.try_run(container("other", &["sleep", "1000"]))?;
    pod.exec_sync(&polite, &["sh", "-c", "until test -e /ready; do sleep 0.01; done"], 60)?;
    pod.try_stop(&polite, 60)?;
    let status = pod.try_status(&polite)?;
    let known = status.state() == ContainerState::ContainerExited;
    pod.try_remove()?;
    Ok(known.then_some(status.exit_code))
}

/// As kubelet: stops and removes each pod that is listed until there is none.
fn clean(node: &Node) -> Result<(), String> {
    let mut cri = node.cri();
    let listed = cri.list_pod_sandbox(ListPodSandboxRequest { filter: None }).map_err(|e| e.to_string())?;
    let mut refused = Vec::new();
    for sandbox in listed.items {
        let mut pod = Pod { node, cri: node.cri(), id: sandbox.id, config: PodSandboxConfig::default() };
        refused.extend(pod.try_remove().err().map(|e| e.to_string()));
    }
    if refused.is_empty() { Ok(()) } else { Err(refused.join("; ")) }
}

pub fn at_random_points(node: &mut Node) {
    deaths::each(ROUNDS, 1000, |death| one(node, death));
}

fn one(node: &mut Node, death: &Death) -> String {
    let mut config = node.pod_config("mortal");
    // The node's network: what containerd loses of a pod's own by its death is between it and CNI.
    let network = NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
    config.hostname = String::new();
    let linux = config.linux.as_mut().expect("linux");
    linux.security_context = Some(k8s_cri::v1::LinuxSandboxSecurityContext {
        namespace_options: Some(network),
        ..Default::default()
    });
    let (struck, life) = thread::scope(|scope| {
        let life = scope.spawn(|| a_life(node, config));
        (death.strike(&node.containerd), life.join().expect("life"))
    });
    if death.victim == Victim::Daemon {
        node.containerd.stop(Signal::SIGKILL);
        let release = node.release;
        node.containerd.start_again(release).expect("containerd again");
        node.wait_until_ready();
    }
    let mut last = Ok(());
    poll::within(90, || {
        last = clean(node);
        last.is_ok().then_some(())
    });
    assert!(last.is_ok(), "{death}: {last:?}\n{}", node.containerd.log());
    death.assert_nothing_left(&node.containerd);
    // Only the shim's death may take a container with it.
    if let (Ok(Some(code)), true) = (&life, death.victim != Victim::Shim) {
        assert_eq!(*code, CODE, "{death}\n{}", node.containerd.log());
    }
    format!("{struck} {}", life.map_or_else(|e| format!("{:?}", e.code()), |code| format!("{code:?}")))
}
