//! Limits, their update, and what comes of a container that needs more.

use std::fs;
use std::path::{Path, PathBuf};

use davit_integration::docker::{Docker, Through};
use davit_integration::poll;

use crate::life::start;

pub fn out_of_memory(docker: &Docker) {
    let eat = || {
        // tail keeps the last line, which never ends.
        let limits = ["--name", "oom", "--memory", "24m", "--memory-swap", "24m"];
        let call = docker.run(&limits, &["tail", "/dev/zero"]);
        let (killed, code) =
            (docker.inspect("oom", ".State.OOMKilled"), docker.inspect("oom", ".State.ExitCode"));
        docker.ok(&["rm", "oom"]);
        assert_eq!((code.as_str(), call.code), ("137", 137), "{} {}", call.out, call.err);
        killed == "true"
    };
    // docker's own shim may tell of the kill after the end, which is too late for dockerd; ours never does.
    let tries = if docker.through() == Through::Path { 5 } else { 1 };
    assert!((0..tries).any(|_| eat()), "OOMKilled is false");
}

/// The file of a limit of the container's first process, of whichever hierarchy has it.
fn limit(pid: &str, v1: (&str, &str), v2: &str) -> String {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroups");
    let find = |controller: &str| {
        table.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (names, path) = (parts.next()?, parts.next()?);
            names.split(',').any(|n| n == controller).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let file: PathBuf = match find(v1.0) {
        Some(path) => Path::new("/sys/fs/cgroup").join(v1.0).join(path).join(v1.1),
        None => Path::new("/sys/fs/cgroup").join(find("").expect("v2")).join(v2),
    };
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim_end().to_owned()
}

pub fn limits_and_their_update(docker: &Docker) {
    let options = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "--cpu-shares", "512"];
    start(docker, "limits", &options, "sleep 1000");
    let pid = docker.inspect("limits", ".State.Pid");
    let memory = || limit(&pid, ("memory", "memory.limit_in_bytes"), "memory.max");
    let quota = || limit(&pid, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    let pids = || limit(&pid, ("pids", "pids.max"), "pids.max");
    assert_eq!(memory(), (64 << 20).to_string());
    assert!(quota().starts_with("50000"), "{}", quota());
    assert_eq!(pids(), "50");
    // The client shows zeros for what it has not got after two seconds.
    let stats = || docker.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "limits"]);
    poll::until("statistics", 60, stats, |seen| seen.ends_with("/ 64MiB"));
    let change = ["--memory", "96m", "--memory-swap", "96m", "--cpus", "1.5", "--pids-limit", "60"];
    docker.ok(&[&["update"], &change[..], &["limits"]].concat());
    assert_eq!(memory(), (96 << 20).to_string());
    assert!(quota().starts_with("150000"), "{}", quota());
    poll::until("the new limit of processes", 30, pids, |seen| seen == "60");
    // More processes than allowed.
    let bomb = "for i in $(seq 100); do sleep 5 & done; wait";
    let call = docker.run(&["--rm", "--pids-limit", "20"], &["sh", "-c", bomb]);
    assert!(call.err.contains("can't fork"), "{}", call.err);
    docker.ok(&["rm", "--force", "limits"]);
}
