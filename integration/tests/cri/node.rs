//! A Kubernetes node's half of the runtime: containerd with its CRI plugin, CNI, images; and pods on it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use davit_integration::containerd::{Containerd, Options};
use davit_integration::net::PrivateNet;
use davit_integration::poll;
use davit_integration::setup::{self, Release};
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerStatus, ContainerStatusRequest, CreateContainerRequest,
    ExecSyncRequest, ImageSpec, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata,
    RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopContainerRequest,
    StopPodSandboxRequest,
};

use crate::client::{Cri, Status};

/// The configuration before the runtime's part, which is README's own. `DIR` is the daemon's folder, `CNI` that of
/// the plugins. With the default size of messages the most that ExecSync keeps would not go through.
const VERSION_2: &str = r#"version = 2
root = "DIR/root"
state = "DIR/state"
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
address = "DIR/containerd.sock"
max_send_message_size = 41943040
[plugins."io.containerd.internal.v1.opt"]
path = "DIR/opt"
[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/pause:davit"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "CNI"
conf_dir = "DIR/cni"
"#;

const VERSION_3: &str = r#"version = 3
root = "DIR/root"
state = "DIR/state"
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.tracing"]
[grpc]
address = "DIR/containerd.sock"
max_send_message_size = 41943040
[plugins.'io.containerd.internal.v1.opt']
path = "DIR/opt"
[plugins.'io.containerd.nri.v1.nri']
disable = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "docker.io/library/pause:davit"
[plugins.'io.containerd.grpc.v1.cri']
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["CNI"]
conf_dir = "DIR/cni"
"#;

const NETWORK: &str = r#"{"cniVersion": "0.4.0", "name": "davit", "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true,
     "ipam": {"type": "host-local", "subnet": "10.88.0.0/16", "dataDir": "DIR/addresses"}}]}"#;

/// containerd with CRI.
pub struct Node {
    pub containerd: Containerd,
    pub net: Arc<PrivateNet>,
    pub release: Release,
    names: AtomicU32,
}

/// README's configuration of this release, for this machine: the programs under test, no systemd.
fn readme(release: Release) -> Result<String> {
    let (heading, version) = match release {
        Release::Bookworm => ("containerd 1.6 knows no", 2),
        Release::Trixie => ("containerd 1.7:", 2),
        _ => ("containerd 2.x (version 3):", 3),
    };
    let text = fs::read_to_string(setup::root().join("README.md"))?;
    let text = text.split_once(heading).with_context(|| format!("README has no {heading:?}"))?.1;
    let block = text
        .split_once("```toml\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .context("README's block")?
        .0;
    let block = block.strip_prefix(&format!("version = {version}\n")).context("version of README's block")?;
    let (path, systemd) = ("/usr/local/bin/containerd-shim-davit-v2", "SystemdCgroup = true");
    let known = release == Release::Bookworm || (block.contains(path) && block.contains(systemd));
    ensure!(known, "README's block has changed: {block}");
    let shim = setup::bin().join("containerd-shim-davit-v2");
    Ok(block.replace(path, &shim.to_string_lossy()).replace(systemd, "SystemdCgroup = false"))
}

/// Where CNI's plugins are.
pub fn plugins() -> Result<PathBuf> {
    Ok(Release::Cni.bin()?.parent().context("tree")?.join("usr/lib/cni"))
}

/// CRIU, where containerd's CRI has checkpoints: from 2.0 on.
pub fn criu(release: Release) -> Result<PathBuf> {
    ensure!(release == Release::Sid, "CRI of {release:?} has no checkpoints");
    setup::criu()
}

impl Node {
    pub fn start(release: Release) -> Result<Node> {
        let base = if release == Release::Sid { VERSION_3 } else { VERSION_2 };
        let config = base.replace("CNI", &plugins()?.to_string_lossy()) + &readme(release)?;
        let net = Arc::new(PrivateNet::new()?);
        // The test of checkpoints says why they can't be had.
        let programs = criu(release).ok();
        let net_option = Some(Arc::clone(&net));
        let options = Options { net: net_option, config: Some(config), programs, ..Options::default() };
        let containerd = Containerd::with(release, options)?;
        let network = NETWORK.replace("DIR", &containerd.dir().to_string_lossy());
        fs::create_dir_all(containerd.dir().join("cni"))?;
        fs::write(containerd.dir().join("cni/davit.conflist"), network)?;
        containerd.import("k8s.io", setup::image()?)?;
        containerd.import("k8s.io", setup::pause_image()?)?;
        let node = Node { containerd, net, release, names: AtomicU32::new(0) };
        node.wait_until_ready();
        Ok(node)
    }

    /// A connection of its own, for one thread.
    pub fn cri(&self) -> Cri {
        Cri::connect(&self.containerd.socket()).expect("CRI's socket")
    }

    /// Until the network's configuration is read.
    pub fn wait_until_ready(&self) {
        let ready = || {
            let mut cri = Cri::connect(&self.containerd.socket()).ok()?;
            let status = cri.status(Default::default()).ok()?.status?;
            status.conditions.iter().all(|condition| condition.status).then_some(())
        };
        if poll::within(180, ready).is_none() {
            panic!("CRI is not ready: {}", self.containerd.log());
        }
    }

    /// A pod's configuration with a name of its own.
    pub fn pod_config(&self, name: &str) -> PodSandboxConfig {
        let uid = format!("{name}-{}", self.names.fetch_add(1, Ordering::Relaxed));
        let logs = self.containerd.dir().join("logs").join(&uid);
        fs::create_dir_all(&logs).expect("log folder");
        let metadata =
            PodSandboxMetadata { name: name.to_owned(), uid, namespace: "default".to_owned(), attempt: 0 };
        PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory: logs.to_string_lossy().into_owned(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", self.containerd.namespace()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Runs a pod of the RuntimeClass `davit`.
    pub fn pod(&self, name: &str) -> Pod<'_> {
        self.pod_with(self.pod_config(name))
    }

    pub fn pod_with(&self, config: PodSandboxConfig) -> Pod<'_> {
        self.try_pod(config).unwrap_or_else(|e| panic!("RunPodSandbox: {e}\n{}", self.containerd.log()))
    }

    pub fn try_pod(&self, config: PodSandboxConfig) -> Result<Pod<'_>, Status> {
        let mut cri = self.cri();
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler() };
        let id = cri.run_pod_sandbox(request)?.pod_sandbox_id;
        Ok(Pod { node: self, cri, id, config })
    }
}

/// The RuntimeClass's handler: `davit`, or another to prove the tests with.
pub fn handler() -> String {
    std::env::var("DAVIT_CRI_HANDLER").unwrap_or_else(|_| "davit".to_owned())
}

/// A pod and a connection to work with it.
pub struct Pod<'a> {
    pub node: &'a Node,
    pub cri: Cri,
    pub id: String,
    pub config: PodSandboxConfig,
}

/// What a container of the tests is made of.
pub fn container(name: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: setup::IMAGE.to_owned(), ..Default::default() }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(Default::default()),
        ..Default::default()
    }
}

impl Pod<'_> {
    /// Creates a container; gives its id.
    pub fn create(&mut self, config: ContainerConfig) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        Ok(self.cri.create_container(request)?.container_id)
    }

    /// Creates and starts a container; gives its id.
    pub fn try_run(&mut self, config: ContainerConfig) -> Result<String, Status> {
        let id = self.create(config)?;
        self.cri.start_container(StartContainerRequest { container_id: id.clone() })?;
        Ok(id)
    }

    pub fn run(&mut self, config: ContainerConfig) -> String {
        self.try_run(config).unwrap_or_else(|e| panic!("start: {e}\n{}", self.node.containerd.log()))
    }

    /// A container that runs a script.
    pub fn script(&mut self, name: &str, script: &str) -> String {
        self.run(container(name, &["sh", "-c", script]))
    }

    pub fn status(&mut self, id: &str) -> ContainerStatus {
        self.try_status(id).expect("status")
    }

    pub fn try_status(&mut self, id: &str) -> Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        Ok(self.cri.container_status(request)?.status.expect("status"))
    }

    /// Waits for a container's end; gives its exit code and the reason.
    pub fn end(&mut self, id: &str) -> (i32, String) {
        let ended = |seen: &ContainerStatus| seen.state() == k8s_cri::v1::ContainerState::ContainerExited;
        let status = poll::until("a container's end", 60, || self.status(id), ended);
        (status.exit_code, status.reason)
    }

    pub fn exec_sync(
        &mut self,
        id: &str,
        command: &[&str],
        seconds: i64,
    ) -> Result<(i32, String, String), Status> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: seconds,
        };
        let reply = self.cri.exec_sync(request)?;
        let text = |data: Vec<u8>| String::from_utf8_lossy(&data).into_owned();
        Ok((reply.exit_code, text(reply.stdout), text(reply.stderr)))
    }

    /// What a script that has to succeed prints in a container.
    pub fn output(&mut self, id: &str, script: &str) -> String {
        let (code, out, err) = self.exec_sync(id, &["sh", "-c", script], 0).expect("ExecSync");
        assert_eq!(code, 0, "{script}: {out}{err}");
        out.trim_end().to_owned()
    }

    pub fn stop(&mut self, id: &str, seconds: i64) {
        self.try_stop(id, seconds).unwrap_or_else(|e| panic!("stop: {e}\n{}", self.node.containerd.log()));
    }

    pub fn try_stop(&mut self, id: &str, seconds: i64) -> Result<(), Status> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout: seconds };
        self.cri.stop_container(request).map(drop)
    }

    /// The host's pid of a container's (or the sandbox's) first process.
    pub fn pid(&self, id: &str) -> i32 {
        let output = self.node.containerd.ok(&["--namespace", "k8s.io", "task", "ls"]);
        let line = output.lines().find(|line| line.starts_with(id)).expect("the task");
        line.split_whitespace().nth(1).and_then(|pid| pid.parse().ok()).expect("pid")
    }

    /// The text of a container's log.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(format!("{}/{name}.log", self.config.log_directory)).unwrap_or_default()
    }

    /// Stops and removes the pod, once.
    pub fn try_remove(&mut self) -> Result<(), Status> {
        self.cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: self.id.clone() })?;
        let request = RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.cri.remove_pod_sandbox(request).map(drop)
    }

    /// Stops and removes the pod, each twice as kubelet may.
    pub fn remove(mut self) {
        for _ in 0..2 {
            let id = self.id.clone();
            self.cri
                .stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id })
                .unwrap_or_else(|e| panic!("StopPodSandbox: {e}\n{}", self.node.containerd.log()));
        }
        for _ in 0..2 {
            let id = self.id.clone();
            self.cri
                .remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id })
                .unwrap_or_else(|e| panic!("RemovePodSandbox: {e}\n{}", self.node.containerd.log()));
        }
    }
}

impl Node {
    /// Panics if anything is left of the pods, the network's records among it.
    pub fn finish(self) {
        self.containerd.assert_nothing_left();
        let addresses = Command::new("find")
            .arg(self.containerd.dir().join("addresses"))
            .args(["-name", "10.88.*"])
            .output()
            .expect("find");
        assert!(addresses.stdout.is_empty(), "addresses: {}", String::from_utf8_lossy(&addresses.stdout));
    }
}
