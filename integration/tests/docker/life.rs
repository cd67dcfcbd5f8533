//! A container's life by docker's commands.

use std::time::{SystemTime, UNIX_EPOCH};

use davit_integration::containerd::Call;
use davit_integration::docker::Docker;
use davit_integration::{leaks, poll};

/// `State.Status` and `State.ExitCode`.
fn state(docker: &Docker, name: &str) -> String {
    docker.ok(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name])
}

/// Starts a container in the background that has said `ready`.
pub fn start(docker: &Docker, name: &str, options: &[&str], script: &str) {
    let script = format!("echo ready; {script}");
    let started = docker.run(&[&["-d", "--name", name], options].concat(), &["sh", "-c", &script]);
    assert_eq!(started.code, 0, "{name}: {}\n{}", started.err, docker.log());
    let words = || docker.ok(&["logs", name]);
    poll::until(&format!("the first word of {name}"), 30, words, |seen| seen.contains("ready"));
}

pub fn from_run_to_rm(docker: &Docker) {
    let hello = docker.run_heard(docker.runtime(), &[], &["echo", "hello"]);
    assert_eq!((hello.code, hello.out.as_str()), (0, "hello\n"), "{}", hello.err);
    let script = "trap 'echo ending; exit 5' TERM; echo in the log; echo as an error >&2
        while :; do sleep 0.05; done";
    start(docker, "life", &[], script);
    let logs = || docker.docker(&["logs", "life"]);
    let all = |logs: &Call| logs.out == "ready\nin the log\n" && logs.err == "as an error\n";
    poll::until("both streams in the log", 30, logs, all);
    assert_eq!(docker.inspect("life", ".HostConfig.LogConfig.Type"), "json-file");
    let last = docker.ok(&["logs", "--timestamps", "--tail", "1", "life"]);
    assert!(last.is_empty() || last.starts_with("20") && last.ends_with(" in the log"), "{last}");
    // A signal that it does not mind.
    docker.ok(&["kill", "--signal", "WINCH", "life"]);
    assert_eq!(state(docker, "life"), "running 0");
    assert!(docker.ok(&["top", "life"]).contains("while :"), "{}", docker.ok(&["top", "life"]));
    let options = ["exec", "--user", "3", "--env", "A=b", "--workdir", "/tmp", "life"];
    let exec = docker.docker(&[&options[..], &["sh", "-c", "echo $(id -u) $A $PWD; exit 3"]].concat());
    assert_eq!((exec.code, exec.out.as_str()), (3, "3 b /tmp\n"), "{}", exec.err);
    // In the background, and seen by what it does.
    docker.ok(&["exec", "-d", "life", "touch", "/tmp/seen"]);
    let test = || docker.docker(&["exec", "life", "test", "-e", "/tmp/seen"]);
    poll::until("the exec in the background", 30, test, |call| call.code == 0);
    // The client shows zeros for what it has not got after two seconds.
    let words = ["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}", "life"];
    poll::until(
        "statistics",
        60,
        || docker.ok(&words),
        |stats| {
            let pids: u32 = stats.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
            stats.starts_with("life ") && pids > 0 && !stats.contains(" 0B /")
        },
    );
    docker.ok(&["pause", "life"]);
    assert_eq!(state(docker, "life"), "paused 0");
    // The words for an exec in a paused container are dockerd's own.
    assert_ne!(docker.docker(&["exec", "life", "true"]).code, 0);
    docker.ok(&["unpause", "life"]);
    assert_eq!(state(docker, "life"), "running 0");
    docker.ok(&["stop", "--time", "60", "life"]);
    assert_eq!(state(docker, "life"), "exited 5");
    docker.ok(&["start", "life"]);
    docker.ok(&["restart", "--time", "1", "life"]);
    assert_eq!(state(docker, "life"), "running 0");
    docker.ok(&["kill", "life"]);
    assert_eq!(docker.ok(&["wait", "life"]), "137");
    // A second kill and stop of what has ended.
    assert_ne!(docker.docker(&["kill", "life"]).code, 0);
    docker.ok(&["stop", "life"]);
    docker.ok(&["rm", "life"]);
    // Paused, killed and removed by force.
    start(docker, "paused", &[], "sleep 1000");
    docker.ok(&["pause", "paused"]);
    docker.ok(&["rm", "--force", "paused"]);
}

pub fn a_deaf_container_is_killed(docker: &Docker) {
    start(docker, "deaf", &[], "trap '' TERM; echo deaf; while :; do sleep 0.05; done");
    poll::until("the trap", 30, || docker.ok(&["logs", "deaf"]), |seen| seen.contains("deaf"));
    docker.ok(&["stop", "--time", "1", "deaf"]);
    assert_eq!(state(docker, "deaf"), "exited 137");
    docker.ok(&["rm", "deaf"]);
    // With the host's processes, all of the container's own end with its first.
    start(docker, "hostpid", &["--pid", "host"], "sleep 4242 & sleep 4343");
    poll::until("the sleeper", 30, || docker.ok(&["top", "hostpid"]), |seen| seen.contains("sleep 4242"));
    docker.ok(&["kill", "hostpid"]);
    docker.ok(&["rm", "hostpid"]);
    // A killed one needs a processor to go.
    let of_it = || leaks::processes(docker.containerd.namespace(), docker.containerd.dir());
    let others = || of_it().iter().filter(|(_, line)| line == "sleep 4242").count();
    poll::until("its end", 30, others, |count| *count == 0);
}

pub fn events_in_order(docker: &Docker) {
    let since = seconds();
    start(docker, "events", &[], "trap 'exit 4' TERM; echo trapped; while :; do sleep 0.05; done");
    poll::until("the trap", 30, || docker.ok(&["logs", "events"]), |seen| seen.contains("trapped"));
    assert_eq!(docker.docker(&["exec", "events", "sh", "-c", "exit 3"]).code, 3);
    docker.ok(&["pause", "events"]);
    docker.ok(&["unpause", "events"]);
    docker.ok(&["stop", "--time", "60", "events"]);
    docker.ok(&["rm", "events"]);
    let (since, until) = (format!("{since:.3}"), format!("{:.3}", seconds() + 0.1));
    let format = "{{.Action}} {{.Actor.Attributes.exitCode}}";
    let words = ["--filter", "container=events", "--filter", "type=container", "--format", format];
    let shown = docker.ok(&[&["events", "--since", &since, "--until", &until][..], &words[..]].concat());
    let told: Vec<&str> = shown.lines().map(|line| line.trim_end_matches(" <no value>").trim_end()).collect();
    // The command of an exec follows its word after a colon.
    let told: Vec<&str> = told.iter().map(|line| line.split(": ").next().unwrap_or(line)).collect();
    // dockerd tells of its stop and of the end in either order.
    let (told, end) = told.split_at(told.len().saturating_sub(3));
    let wanted = ["create", "start", "exec_create", "exec_start", "exec_die 3", "pause", "unpause", "kill"];
    assert_eq!(told, wanted, "{shown}");
    assert!(
        [["die 4", "stop", "destroy"], ["stop", "die 4", "destroy"]].iter().any(|order| end == order),
        "{shown}"
    );
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_secs_f64()
}

/// Docker's own network set-up is a hook of the runtime's or works by the namespace's path.
pub fn a_bridge_between_two(docker: &Docker) {
    start(docker, "server", &["--network", "bridge"], "nc -l -p 80 -e echo from the server");
    let address = docker.inspect("server", ".NetworkSettings.Networks.bridge.IPAddress");
    let listening = ["exec", "server", "grep", "-q", ":0050 .* 0A ", "/proc/net/tcp", "/proc/net/tcp6"];
    poll::until("the server to listen", 30, || docker.docker(&listening), |call| call.code == 0);
    let asked = docker.run(&["--rm", "--network", "bridge"], &["nc", &address, "80"]);
    assert_eq!((asked.code, asked.out.as_str()), (0, "from the server\n"), "{address}: {}", asked.err);
    docker.ok(&["rm", "--force", "server"]);
}
