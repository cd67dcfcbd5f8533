//! What kubelet and containerd do with systemd as the cgroup driver: containerd 1.7 and our shim, by `ctr`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use davit_tests::{Bundle, World, unique, wait_until};
use serde_json::Value;

use crate::cgroup_of;
use crate::unit::{assert_gone, load_state, show, systemd};

const CONFIG: &str = r#"version = 2
root = "/var/lib/davit-vm"
state = "/run/davit-vm"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]
[grpc]
address = "/run/davit-vm/containerd.sock"
"#;

/// The only one that ctr passes the choice of the driver to: our shim under its name.
const RUNTIME: &str = "io.containerd.runc.v2";
const SHIM: &str = "containerd-shim-runc-v2";

fn ctr(args: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "300", "ctr", "--address", "/run/davit-vm/containerd.sock"]);
    command.args(["--namespace", "davit-vm"]).args(args);
    command
}

#[track_caller]
fn ok(args: &[&str]) -> String {
    let output = ctr(args).output().unwrap();
    assert!(output.status.success(), "ctr {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Starts containerd as a service, once for all tests. Its search path has our shim first.
fn enter(test: &str) -> Option<World> {
    static DAEMON: Once = Once::new();
    let world = World::enter(test)?;
    if world.is_runc() {
        return davit_tests::skip(test, "a test of our shim");
    }
    DAEMON.call_once(|| {
        std::fs::write("/run/davit-vm.toml", CONFIG).unwrap();
        let programs = Path::new("/run/davit-vm-bin");
        std::fs::create_dir(programs).unwrap();
        let shim = world.runtime().with_file_name("containerd-shim-davit-v2");
        std::os::unix::fs::symlink(shim, programs.join(SHIM)).unwrap();
        let path = format!("PATH={}:{}", programs.display(), std::env::var("PATH").unwrap());
        // As Debian's unit: containers outlive the daemon, and its cgroup is its own business.
        let args =
            ["--unit", "davit-vm-containerd", "-E", &path, "-p", "KillMode=process", "-p", "Delegate=yes"];
        systemd("systemd-run", &[&args[..], &["containerd", "--config", "/run/davit-vm.toml"]].concat());
        wait_until("containerd", || ctr(&["version"]).output().unwrap().status.success());
    });
    Some(world)
}

/// A container in a pod of kubelet's.
struct Container {
    id: String,
    /// `kubepods-burstable-podX.slice`.
    slice: String,
}

impl Container {
    fn new() -> Container {
        // containerd wants a letter or digit at the end.
        let id = unique("vm") + "e";
        // kubelet has underscores where the pod's uid has hyphens: a slice is nested at each hyphen.
        Container { slice: format!("kubepods-burstable-pod{}.slice", id.replace('-', "_")), id }
    }

    fn unit(&self) -> String {
        format!("cri-containerd-{}.scope", self.id)
    }

    fn scope(&self) -> PathBuf {
        let slices = Path::new("/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice");
        slices.join(&self.slice).join(self.unit())
    }

    /// `ctr run`; its output when it is not detached.
    fn run(&self, bundle: &Bundle, flags: &[&str], command: &[&str]) -> std::process::Output {
        let rootfs = bundle.rootfs("").display().to_string();
        let cgroup = format!("{}:cri-containerd:{}", self.slice, self.id);
        let driver = ["--runtime", RUNTIME, "--runc-systemd-cgroup", "--cgroup", &cgroup];
        let all = [&["run", "--rootfs"], &driver[..], flags, &[&rootfs, &self.id], command].concat();
        ctr(&all).output().unwrap()
    }

    fn status(&self) -> Option<String> {
        let list = ok(&["task", "ls"]);
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(&self.id))?;
        line.split_whitespace().nth(2).map(str::to_owned)
    }

    fn pid(&self) -> i32 {
        let list = ok(&["task", "ls"]);
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(&self.id)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[track_caller]
    fn assert_gone(&self) {
        assert_gone(&self.unit());
        assert!(!self.scope().exists());
        // The pod's slice is kubelet's.
        systemd("systemctl", &["stop", &self.slice]);
    }
}

fn read(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file)).unwrap_or_else(|e| panic!("{file}: {e}")).trim_end().to_owned()
}

#[test]
fn a_container_in_a_pods_slice() {
    let Some(world) = enter("vm::kubelet::a_container_in_a_pods_slice") else { return };
    let (bundle, container) = (world.bundle(), Container::new());
    let limits = ["-d", "--memory-limit", "67108864", "--cpu-quota", "25000", "--cpu-period", "50000"];
    let output = container.run(&bundle, &limits, &["/bin/sleep", "1000"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Which shim it is: the Go program has threads. A worker of it may still be about to end.
    let threads = |pid: &str| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    wait_until("one shim, of one thread", || {
        let shims = systemd("pgrep", &["-f", &format!("{SHIM}.*{}", container.id)]);
        shims.lines().map(threads).eq([1])
    });
    let scope = cgroup_of(container.pid());
    assert_eq!(scope, container.scope());
    assert_eq!([read(&scope, "memory.max"), read(&scope, "cpu.max")], ["67108864", "25000 50000"]);
    let properties = show(&container.unit());
    assert_eq!([&properties["MemoryMax"], &properties["CPUQuotaPerSecUSec"]], ["67108864", "500ms"]);
    assert_eq!(properties["Slice"], container.slice);
    let inside = ok(&["task", "exec", "--exec-id", "one", &container.id, "/bin/cat", "/proc/self/cgroup"]);
    let path = scope.strip_prefix("/sys/fs/cgroup").unwrap();
    // ctr gives no cgroup namespace.
    assert!(inside.trim() == format!("0::/{}", path.display()) || inside.trim() == "0::/", "{inside}");
    let metric = |name: &str| {
        let metrics = ok(&["task", "metrics", &container.id]);
        metrics.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    assert_eq!(metric("memory.usage_limit").as_deref(), Some("67108864"));
    wait_until("one process", || metric("pids.current").as_deref() == Some("1"));
    // systemd leaves the container alone.
    systemd("systemctl", &["daemon-reload"]);
    assert_eq!([read(&scope, "memory.max"), read(&scope, "cpu.max")], ["67108864", "25000 50000"]);
    ok(&["task", "pause", &container.id]);
    assert!(read(&scope, "cgroup.events").contains("frozen 1"));
    ok(&["task", "resume", &container.id]);
    ok(&["task", "kill", "--signal", "KILL", &container.id]);
    wait_until("its end", || container.status().as_deref() == Some("STOPPED"));
    ok(&["task", "rm", &container.id]);
    ok(&["container", "rm", &container.id]);
    container.assert_gone();
}

#[test]
fn a_failed_start_under_containerd_leaves_no_unit() {
    let Some(world) = enter("vm::kubelet::a_failed_start_under_containerd_leaves_no_unit") else { return };
    let (bundle, container) = (world.bundle(), Container::new());
    let output = container.run(&bundle, &["--rm"], &["/no/such/program"]);
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("/no/such/program"), "{error}");
    wait_until("the unit is gone", || load_state(&container.unit()) == "not-found");
    container.assert_gone();
}

/// The topics of containerd's events for one container, in order.
fn topics(events: &str, id: &str) -> Vec<String> {
    let of_it = events.lines().filter(|line| line.contains(id));
    of_it
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("/tasks/")))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_oom_kill_is_told_before_the_exit() {
    let Some(world) = enter("vm::kubelet::every_oom_kill_is_told_before_the_exit") else { return };
    let log = world.path("events");
    let mut events = ctr(&["events"]).stdout(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let seen = || std::fs::read_to_string(&log).unwrap();
    let bundle = world.bundle();
    // The stream has begun once an event of it is seen.
    let first = Container::new();
    wait_until("containerd's events", || {
        first.run(&bundle, &["--rm"], &["/bin/true"]);
        seen().contains(&first.id)
    });
    first.assert_gone();
    for _ in 0..8 {
        let container = Container::new();
        let hog = ["/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"];
        let output = container.run(&bundle, &["--memory-limit", "33554432"], &hog);
        assert_eq!(output.status.code(), Some(137), "{}", String::from_utf8_lossy(&output.stderr));
        ok(&["container", "rm", &container.id]);
        wait_until("the task's end is told", || {
            topics(&seen(), &container.id).contains(&"/tasks/delete".to_owned())
        });
        let order = topics(&seen(), &container.id);
        let at = |topic: &str| order.iter().position(|seen| seen == topic);
        assert!(at("/tasks/oom").is_some_and(|oom| Some(oom) < at("/tasks/exit")), "{order:?}");
        container.assert_gone();
    }
    events.kill().unwrap();
    events.wait().unwrap();
}

#[test]
fn metrics_of_the_last_moment_outlive_the_scope() {
    let Some(world) = enter("vm::kubelet::metrics_of_the_last_moment_outlive_the_scope") else { return };
    let bundle = world.bundle();
    let mut read_in_time = 0;
    for _ in 0..5 {
        let container = Container::new();
        let hog = ["/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"];
        let output = container.run(&bundle, &["-d", "--memory-limit", "33554432"], &hog);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        wait_until("its end", || container.status().as_deref() == Some("STOPPED"));
        // systemd takes it away as soon as it is empty.
        wait_until("the scope is gone", || !container.scope().exists());
        let metrics = ok(&["task", "metrics", "--format", "json", &container.id]);
        let metrics: Value = serde_json::from_str(&metrics).unwrap();
        assert_eq!(metrics["memory_events"]["oom_kill"], 1, "{metrics}");
        // The rest is a race with systemd, which the shim wins where it gets a processor in time.
        read_in_time += usize::from(metrics["memory"]["usage_limit"] == 33_554_432);
        ok(&["task", "rm", &container.id]);
        ok(&["container", "rm", &container.id]);
        container.assert_gone();
    }
    println!("{read_in_time} of 5 were read in time");
}
