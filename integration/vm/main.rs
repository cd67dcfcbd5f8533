//! Kubernetes' side where systemd makes the cgroups: containerd 1.7 with CRI as README configures it, its pods in the
//! slices that kubelet names. Runs in the virtual machine of `hack/vm`; `hack/test vm` takes it there with the images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use davit_integration::poll;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatsRequest, ContainerStatus,
    ContainerStatusRequest, CreateContainerRequest, ExecSyncRequest, ImageSpec, LinuxContainerConfig,
    LinuxContainerResources, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, RemoveContainerRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
    UpdateContainerResourcesRequest,
};

#[path = "../tests/cri/client.rs"]
#[allow(dead_code, reason = "the tests of CRI use all of it")]
mod client;

use client::{Cri, limits};

const CONFIG: &str = r#"version = 2
root = "/var/lib/davit-cri"
state = "/run/davit-cri"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
address = "/run/davit-cri/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/pause:davit"
"#;
const SOCKET: &str = "/run/davit-cri/containerd.sock";
const MIB: i64 = 1 << 20;

/// README's block for containerd 1.7, with the shim that is tested.
fn runtime_config() -> Result<String> {
    let readme = include_str!("../../README.md");
    let block = readme.split_once("containerd 1.7:\n").context("README's heading")?.1;
    let block = block.split_once("```toml\nversion = 2\n").context("README's block")?.1;
    let block = block.split_once("```").context("end of README's block")?.0;
    assert!(block.contains("SystemdCgroup = true"), "{block}");
    Ok(block.replace("/usr/local/bin/", "/davit/bin/"))
}

fn ok(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("start");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn ctr(args: &[&str]) -> String {
    ok("ctr", &[&["--address", SOCKET, "--namespace", "k8s.io"], args].concat())
}

/// Starts containerd as a service, with the images.
fn start() -> Result<Cri> {
    // Pods get a copy of these, which a minimal machine lacks.
    for (file, text) in
        [("/etc/hosts", "127.0.0.1 localhost\n"), ("/etc/resolv.conf", "nameserver 127.0.0.1\n")]
    {
        if !Path::new(file).exists() {
            fs::write(file, text)?;
        }
    }
    fs::write("/run/davit-cri.toml", format!("{CONFIG}{}", runtime_config()?))?;
    let args = ["--unit", "davit-cri", "-p", "KillMode=process", "-p", "Delegate=yes"];
    ok("systemd-run", &[&args[..], &["containerd", "--config", "/run/davit-cri.toml"]].concat());
    let status = || {
        let mut cri = Cri::connect(Path::new(SOCKET)).map_err(|e| format!("{e:#}"))?;
        cri.status(Default::default()).map_err(|e| e.to_string())
    };
    poll::until("containerd's CRI", 300, status, Result::is_ok).expect("status");
    let cri = Cri::connect(Path::new(SOCKET))?;
    for image in ["busybox", "pause"] {
        ctr(&["images", "import", &format!("/davit/data/{image}.tar")]);
    }
    Ok(cri)
}

struct Pod {
    cri: Cri,
    id: String,
    config: PodSandboxConfig,
    slice: String,
}

impl Pod {
    /// A pod of the quality of service `burstable`, in the host's network.
    fn run(mut cri: Cri, uid: &str) -> Pod {
        let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
        let options = NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
        let security = LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: "pod".to_owned(),
                uid: uid.to_owned(),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            log_directory: format!("/run/davit-cri-logs/{uid}"),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: slice.clone(),
                security_context: Some(security),
                ..Default::default()
            }),
            ..Default::default()
        };
        fs::create_dir_all(&config.log_directory).expect("log folder");
        let request =
            RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: "davit".to_owned() };
        let id = cri.run_pod_sandbox(request).expect("RunPodSandbox").pod_sandbox_id;
        Pod { cri, id, config, slice }
    }

    fn slice_dir(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice").join(&self.slice)
    }

    fn container(&mut self, name: &str, command: &[&str], resources: LinuxContainerResources) -> String {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec {
                image: "docker.io/library/busybox:davit".to_owned(),
                ..Default::default()
            }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig { resources: Some(resources), ..Default::default() }),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self.cri.create_container(request).expect("CreateContainer").container_id;
        self.cri.start_container(StartContainerRequest { container_id: id.clone() }).expect("StartContainer");
        id
    }

    fn status(&mut self, id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.cri.container_status(request).expect("ContainerStatus").status.expect("status")
    }

    /// Stops and removes a container.
    fn end(&mut self, id: &str) {
        let container_id = id.to_owned();
        self.cri
            .stop_container(StopContainerRequest { container_id: container_id.clone(), timeout: 0 })
            .expect("StopContainer");
        self.cri.remove_container(RemoveContainerRequest { container_id }).expect("RemoveContainer");
    }
}

/// The scope that kubelet and its tools look for.
fn unit(id: &str) -> String {
    format!("cri-containerd-{id}.scope")
}

/// The cgroup of a task's first process.
fn cgroup_of(id: &str) -> PathBuf {
    let list = ctr(&["task", "ls"]);
    let line = list.lines().find(|line| line.starts_with(id)).expect("the task");
    let pid = line.split_whitespace().nth(1).expect("pid");
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup");
    Path::new("/sys/fs/cgroup").join(text.trim().strip_prefix("0::/").expect("cgroup v2"))
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_else(|e| panic!("{file}: {e}")).trim_end().to_owned()
}

fn property(unit: &str, name: &str) -> String {
    ok("systemctl", &["show", "-p", name, "--value", unit]).trim().to_owned()
}

#[test]
fn a_pod_in_kubelets_slices() {
    let mut pod = Pod::run(start().expect("containerd"), "0a1b-22");
    assert_eq!(cgroup_of(&pod.id), pod.slice_dir().join(unit(&pod.id)));
    let id =
        pod.container("box", &["sh", "-c", "while :; do :; done & sleep 1000"], limits(64 * MIB, 20_000));
    let scope = pod.slice_dir().join(unit(&id));
    assert_eq!(cgroup_of(&id), scope);
    let shown = |dir: &Path| ["memory.max", "cpu.max", "cpu.weight"].map(|file| read(dir, file));
    assert_eq!(shown(&scope), ["67108864", "20000 100000", "59"]);
    assert_eq!(property(&unit(&id), "MemoryMax"), "67108864");

    let request = ExecSyncRequest {
        container_id: id.clone(),
        cmd: ["cat", "/proc/self/cgroup"].map(str::to_owned).to_vec(),
        timeout: 0,
    };
    let exec = pod.cri.exec_sync(request).expect("ExecSync");
    assert_eq!((exec.exit_code, String::from_utf8_lossy(&exec.stdout).trim()), (0, "0::/"));
    let statistics = || {
        let request = ContainerStatsRequest { container_id: id.clone() };
        let stats = pod.cri.container_stats(request).expect("ContainerStats").stats.expect("stats");
        let memory = stats.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |n| n.value);
        let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).map_or(0, |n| n.value);
        (memory, cpu)
    };
    poll::until("statistics", 300, statistics, |(memory, cpu)| *memory > 0 && *cpu > 0);
    let request = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(limits(96 * MIB, 40_000)),
        ..Default::default()
    };
    pod.cri.update_container_resources(request).expect("UpdateContainerResources");
    ok("systemctl", &["daemon-reload"]);
    assert_eq!(shown(&scope), ["100663296", "40000 100000", "59"]);
    assert_eq!(property(&unit(&id), "MemoryMax"), "100663296");
    assert_eq!(property(&unit(&id), "CPUQuotaPerSecUSec"), "400ms");

    // What kubelet reads of one that needed too much.
    let hog = ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"];
    let hungry = pod.container("hungry", &hog, limits(32 * MIB, 0));
    // containerd hears of the kill and of the end on two ways, and may show the end for a moment without its reason.
    let killed = |status: &ContainerStatus| {
        status.state() == ContainerState::ContainerExited && status.reason == "OOMKilled"
    };
    let status = poll::until("its end", 300, || pod.status(&hungry), killed);
    assert_eq!(status.exit_code, 137);

    for container in [&id, &hungry] {
        pod.end(container);
        assert_eq!(property(&unit(container), "LoadState"), "not-found");
    }
    pod.cri
        .stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() })
        .expect("StopPodSandbox");
    pod.cri
        .remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() })
        .expect("RemovePodSandbox");
    assert_eq!(property(&unit(&pod.id), "LoadState"), "not-found");
    let left: Vec<_> = fs::read_dir(pod.slice_dir()).into_iter().flatten().flatten().collect();
    assert!(left.iter().all(|entry| !entry.path().is_dir()), "{left:?}");
    let shims = || ok("sh", &["-c", "ps -eo comm,args | grep '^containerd-shim.*davit-cri' || true"]);
    poll::until("the shim's end", 300, shims, String::is_empty);
    ok("systemctl", &["stop", &pod.slice, "davit-cri"]);
}
