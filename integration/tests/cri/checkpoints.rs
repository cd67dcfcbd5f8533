//! Kubelet's checkpoint of a running container, for those who want to look into it.

use std::process::Command;

use davit_integration::setup;
use davit_integration::{poll, skip};
use k8s_cri::v1::CheckpointContainerRequest;

use crate::node::{self, Node};

/// What only the memory of the shell has: where it has got to.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i >/count; usleep 50000; done";

pub fn taken_of_a_running_container(node: &mut Node) {
    if let Err(e) = node::criu(node.release) {
        skip!("no CRIU: {e:#}");
    }
    let mut pod = node.pod("checkpoints");
    let id = pod.script("one", COUNT);
    let count = |pod: &mut node::Pod<'_>, id: &str, least: u32| {
        let next =
            || pod.exec_sync(id, &["cat", "/count"], 0).ok().and_then(|(_, out, _)| out.trim().parse().ok());
        poll::until("the count", 30, next, |seen: &Option<u32>| seen.is_some_and(|count| count >= least))
            .unwrap_or(0)
    };
    let before = count(&mut pod, &id, 5);
    let location = node.containerd.dir().join("one.tar").to_string_lossy().into_owned();
    let request =
        CheckpointContainerRequest { container_id: id.clone(), location: location.clone(), timeout: 60 };
    pod.cri
        .checkpoint_container(request)
        .unwrap_or_else(|e| panic!("CheckpointContainer: {e}\n{}", node.containerd.log()));
    // It runs on.
    let later = count(&mut pod, &id, before + 5);
    let listed = setup::run(Command::new("tar").args(["-tf", &location])).expect("tar");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in ["checkpoint/inventory.img", "config.dump", "spec.dump", "stats-dump", "dump.log"] {
        assert!(listed.lines().any(|line| line.trim_start_matches("./") == name), "{name}: {listed}");
    }
    assert!(later > before);
    // A container made of it needs a registry: containerd 2.1 pulls the image anew, though it is there.
    pod.remove();
}
