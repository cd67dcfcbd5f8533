//! Checkpoint and restore as `ctr`, docker and podman do them, with CRIU of Debian unstable.

use std::fs;
use std::path::PathBuf;

use davit_integration::containerd::{Containerd, Options};
use davit_integration::docker::{Docker, Through};
use davit_integration::podman::Podman;
use davit_integration::setup::{self, Release};
use davit_integration::{poll, skip};

/// What only the memory of the shell has: where it has got to. The file tells it to those outside.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i >/count; usleep 50000; done";

/// The folder of CRIU, where all that a test needs is there.
fn criu(releases: &[Release]) -> Result<PathBuf, String> {
    if let Some(reason) = setup::missing() {
        return Err(reason);
    }
    for release in releases {
        release.bin().map_err(|e| format!("packages of {release:?}: {e:#}"))?;
    }
    setup::criu().map_err(|e| format!("CRIU: {e:#}"))
}

fn count(said: &str) -> Option<u32> {
    said.trim().parse().ok()
}

/// The annotation that names a file of CRIU's options, for runc and davit.
fn annotation(daemon: &Containerd) -> String {
    format!("org.criu.config={}", daemon.dir().join("criu.conf").display())
}

/// `ctr`: a container with its memory and its files becomes an image, and another container is made of it.
fn by_ctr(release: Release, runtime_config: &str) {
    let programs = match criu(&[release]) {
        Ok(programs) => programs,
        Err(reason) => skip!("{reason}"),
    };
    let options_of_daemon =
        Options { programs: Some(programs), own_temporary_files: true, ..Options::default() };
    let daemon = Containerd::with(release, options_of_daemon).expect("containerd");
    let (id, other) = (daemon.id(), daemon.id());
    let (mut options, config) = (vec!["-d", "--null-io"], daemon.dir().join("runtime.toml"));
    let config_path = config.display().to_string();
    let (criu_config, annotation) = (daemon.dir().join("criu.conf"), annotation(&daemon));
    if !runtime_config.is_empty() {
        fs::write(&config, runtime_config).expect("runtime.toml");
        options.extend(["--runtime-config-path", &config_path]);
        // Without iptables. davit sees to that itself.
        fs::write(criu_config, "network-lock nftables\n").expect("criu.conf");
        options.extend(["--annotation", &annotation]);
    }
    let started = daemon.run(&options, &id, &["sh", "-c", COUNT]);
    assert_eq!(started.code, 0, "{}\n{}", started.err, daemon.log());
    let exec = |id: &str, round: usize| {
        let exec = format!("exec{round}");
        count(&daemon.ctr(&["task", "exec", "--exec-id", &exec, id, "cat", "/count"]).out)
    };
    let mut round = 0;
    let mut count_of = |id: &str, least: u32| {
        let next = || {
            round += 1;
            exec(id, round)
        };
        poll::until("the count", 30, next, |seen| seen.is_some_and(|count| count >= least)).expect("a number")
    };
    let before = count_of(&id, 5);
    let reference = format!("{id}-checkpoint");
    daemon.ok(&["containers", "checkpoint", "--task", "--rw", "--image", &id, &reference]);
    assert_eq!(daemon.status(&id).as_deref(), Some("RUNNING"), "{}", daemon.log());
    let later = count_of(&id, before + 5);
    daemon.remove(&id);
    daemon.ok(&["containers", "restore", "--rw", "--live", &other, &reference]);
    assert_eq!(daemon.status(&other).as_deref(), Some("RUNNING"), "{}", daemon.log());
    let restored = count_of(&other, before);
    assert!(restored > 0, "{before}, {later}, {restored}");
    count_of(&other, restored + 5);
    // One that ends with its checkpoint.
    let taken = daemon.ctr(&["tasks", "checkpoint", "--exit", &other]);
    // Its memory is written; containerd 1.7 then finds that the checkpoint from before has brought the spec already.
    let again = taken.err.contains("already exists");
    assert!(taken.code == 0 || again, "{}\n{}", taken.err, daemon.log());
    if release == Release::Trixie && setup::is_davit() {
        // ctr 1.7 sends options of a checkpoint to runtimes of runc's type only.
        assert_eq!(daemon.status(&other).as_deref(), Some("RUNNING"), "{}", daemon.log());
        daemon.remove(&other);
    } else {
        daemon.wait_for_end(&other);
        daemon.ctr(&["task", "rm", &other]);
        daemon.ok(&["container", "rm", &other]);
    }
    daemon.assert_nothing_left();
}

#[test]
fn ctr_1_7() {
    by_ctr(Release::Trixie, "");
}

#[test]
fn ctr_2_1() {
    by_ctr(Release::Sid, "");
}

/// Another runtime under our shim.
#[test]
fn ctr_2_1_with_runc() {
    if !setup::is_davit() {
        skip!("of our shim");
    }
    by_ctr(Release::Sid, "BinaryName = \"runc\"\n");
}

/// `docker checkpoint`: experimental since docker 1.13.
fn by_docker(release: Release, through: Through, network: &str) {
    let programs = match criu(&[release]) {
        Ok(programs) => programs,
        Err(reason) => skip!("{reason}"),
    };
    let docker = Docker::experimental(release, through, programs).expect("dockerd");
    let started = docker.run(&["-d", "--name", "one", "--network", network], &["sh", "-c", COUNT]);
    assert_eq!(started.code, 0, "{}", started.err);
    let count_of = |least: u32| {
        let next = || count(&docker.docker(&["exec", "one", "cat", "/count"]).out);
        poll::until("the count", 30, next, |seen| seen.is_some_and(|count| count >= least)).expect("a number")
    };
    let before = count_of(5);
    docker.ok(&["checkpoint", "create", "--leave-running", "one", "first"]);
    assert_eq!(docker.inspect("one", ".State.Status"), "running");
    count_of(before + 5);
    collect_garbage(&docker.containerd);
    docker.ok(&["checkpoint", "create", "one", "second"]);
    if !tells_to_exit(through) {
        docker.ok(&["kill", "one"]);
    }
    poll::until("its end", 30, || docker.inspect("one", ".State.Status"), |status| status == "exited");
    collect_garbage(&docker.containerd);
    docker.ok(&["start", "--checkpoint", "second", "one"]);
    assert_eq!(docker.inspect("one", ".State.Status"), "running");
    let restored = count_of(before + 5);
    count_of(restored + 5);
    docker.ok(&["rm", "--force", "one"]);
    docker.finish();
}

/// containerd's client sends options of a checkpoint to runtimes of runc's type only (`WithExit`): one of another type
/// is not told to end its container.
fn tells_to_exit(through: Through) -> bool {
    through != Through::RuntimeType
}

/// Docker stores a checkpoint in containerd, which may still have a copy of it, and then refuses it (moby #42900): a
/// removal that waits for the collection of garbage takes the copy away.
fn collect_garbage(containerd: &Containerd) {
    containerd.ok(&["images", "tag", setup::IMAGE, "local/garbage:1"]);
    containerd.ok(&["images", "rm", "--sync", "local/garbage:1"]);
}

/// With any other network dockerd 28 looks for that of process 0, with runc and its shim too: what is to be restored
/// has no process before it runs.
#[test]
fn docker_28_by_runtime_type() {
    by_docker(Release::SidDocker, Through::RuntimeType, "host");
}

#[test]
fn docker_28_by_path() {
    by_docker(Release::SidDocker, Through::Path, "host");
}

#[test]
fn docker_20_by_path() {
    by_docker(Release::Bookworm, Through::Path, "none");
}

#[test]
fn docker_20_in_place_of_runc() {
    by_docker(Release::Bookworm, Through::DropIn, "none");
}

/// `podman container checkpoint` and `restore` call the runtime's commands.
fn by_podman(release: Release) {
    let programs = match criu(&[release]) {
        Ok(programs) => programs,
        Err(reason) => skip!("{reason}"),
    };
    let podman = Podman::finding(release, setup::runtime(), Some(programs)).expect("podman");
    let started = podman.run(&["-d", "--name", "one"], &["sh", "-c", COUNT]);
    assert_eq!(started.code, 0, "{}", started.err);
    let count_of = |least: u32| {
        let next = || count(&podman.podman(&["exec", "one", "cat", "/count"]).out);
        poll::until("the count", 30, next, |seen| seen.is_some_and(|count| count >= least)).expect("a number")
    };
    let ok = |args: &[&str]| {
        let call = podman.podman(args);
        assert_eq!(call.code, 0, "podman {args:?}: {}", call.err);
    };
    let before = count_of(5);
    ok(&["container", "checkpoint", "--leave-running", "one"]);
    count_of(before + 5);
    ok(&["container", "checkpoint", "one"]);
    assert_eq!(podman.podman(&["inspect", "--format", "{{.State.Status}}", "one"]).out, "exited\n");
    ok(&["container", "restore", "one"]);
    let restored = count_of(before + 5);
    count_of(restored + 5);
    // To a file, and from it under another name.
    let archive = podman.dir().join("one.tar").display().to_string();
    ok(&["container", "checkpoint", "--export", &archive, "one"]);
    ok(&["rm", "one"]);
    ok(&["container", "restore", "--import", &archive]);
    count_of(restored + 5);
    ok(&["rm", "--force", "--time", "0", "one"]);
    let mut left = Vec::new();
    poll::within(60, || {
        left = podman.left();
        left.is_empty().then_some(())
    });
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn podman_4() {
    by_podman(Release::Bookworm);
}

#[test]
fn podman_5() {
    by_podman(Release::SidPodman);
}
