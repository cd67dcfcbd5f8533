//! ExecSync, which kubelet's probes and hooks are.

use std::fs;
use std::thread;

use davit_integration::poll;
use tonic::Code;

use crate::node::{Node, Pod};
use crate::pods::parent;

pub fn results_time_outs_and_limits(node: &Node) {
    let mut pod = node.pod("sync");
    let id = pod.script("sleeper", "sleep 1000");
    let both = pod.exec_sync(&id, &["sh", "-c", "echo out; echo err >&2; exit 7"], 60).expect("exec");
    assert_eq!(both, (7, "out\n".to_owned(), "err\n".to_owned()));
    let killed = pod.exec_sync(&id, &["sh", "-c", "kill -9 $$"], 60).expect("exec");
    assert_eq!(killed.0, 137);
    let missing = pod.exec_sync(&id, &["/no/such/program"], 60).expect_err("no such program");
    assert!(missing.message().contains("no such file or directory"), "{missing}");
    // Out of time: the process is killed, and what it has left does not keep the call.
    let late = pod.exec_sync(&id, &["sh", "-c", "echo said; sleep 4141"], 1).expect_err("time-out");
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    let own = || pod.output(&id, "ps -o args | grep -c '^sh -c echo said' || true");
    poll::until("the end of what was late", 30, own, |count| count == "0");
    // A grandchild that holds the pipe open: an exec that ends well is answered once the pipe is closed.
    let left = pod.exec_sync(&id, &["sh", "-c", "sleep 1 & echo parent"], 60).expect("exec");
    assert_eq!(left, (0, "parent\n".to_owned(), String::new()));
    // No more than 16 MiB are kept, and the rest does not stop the process.
    let flood = "head -c 20000000 /dev/zero | tr '\\0' f; echo done >&2";
    let (code, out, err) = pod.exec_sync(&id, &["sh", "-c", flood], 60).expect("exec");
    assert_eq!((code, out.len(), err.as_str()), (0, 16 << 20, "done\n"));
    pod.stop(&id, 0);
    let ended = pod.exec_sync(&id, &["true"], 60).expect_err("not running");
    assert!(ended.message().contains("CONTAINER_EXITED state"), "{ended}");
    pod.remove();
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub descriptors: usize,
    pub threads: usize,
    /// Anonymous memory in KiB.
    pub memory: u64,
}

pub fn size(pid: i32) -> Size {
    let count = |dir: &str| fs::read_dir(format!("/proc/{pid}/{dir}")).expect("process").count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let rss = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    let memory = rss.split_whitespace().next().and_then(|n| n.parse().ok()).expect("KiB");
    Size { descriptors: count("fd"), threads: count("task"), memory }
}

pub fn a_storm_of_probes(node: &Node) {
    let mut pod = node.pod("storm");
    let id = pod.script("probed", "sleep 4051");
    let shim = parent(pod.pid(&id));
    pod.output(&id, "true");
    let before = size(shim);
    let (pod_id, config) = (pod.id.clone(), pod.config.clone());
    thread::scope(|scope| {
        for worker in 0..6 {
            let (id, pod_id, config) = (&id, pod_id.clone(), config.clone());
            scope.spawn(move || {
                let mut pod = Pod { node, cri: node.cri(), id: pod_id, config };
                for round in 0..15 {
                    let code = (worker + round) % 3;
                    let script = format!("echo {worker} {round}; exit {code}");
                    let answer = pod.exec_sync(id, &["sh", "-c", &script], 60).expect("exec");
                    assert_eq!(answer, (code, format!("{worker} {round}\n"), String::new()));
                }
            });
        }
    });
    // The same descriptors and threads as before; memory as before but for a few pages.
    let mut after = before;
    let same = |after: &Size| (after.descriptors, after.threads) == (before.descriptors, before.threads);
    poll::within(30, || {
        after = size(shim);
        same(&after).then_some(())
    });
    assert!(same(&after) && after.memory <= before.memory + 128, "{before:?} {after:?}");
    assert_eq!(pod.output(&id, "ps | grep -c '[s]leep 4051'"), "1");
    pod.remove();
}
