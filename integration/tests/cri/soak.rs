//! Pods come and go by the thousand beside one that stays and is probed by the thousand: its shim is afterwards what it
//! was before, and nothing of the others is left.
//!
//! `SOAK_PODS` and `SOAK_EXECS` say how many, `SOAK_ABREAST` how many at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use davit_integration::deaths::{children, from_environment};
use davit_integration::{leaks, poll};
use k8s_cri::v1::{LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption};

use crate::execs::{Size, size};
use crate::node::{Node, Pod};
use crate::pods::parent;

/// Memory in KiB that a shim may have gained, whatever the number.
const SLACK: u64 = 256;

pub fn pods_and_execs(node: &mut Node) {
    let (pods, execs) = (from_environment("SOAK_PODS", 16), from_environment("SOAK_EXECS", 100));
    let node = &*node;
    let mut stays = node.pod("stays");
    let id = stays.script("probed", "sleep 1000000");
    let shim = parent(stays.pid(&id));
    let probe = |n: u64| {
        let mut pod = Pod { node, cri: node.cri(), id: stays.id.clone(), config: stays.config.clone() };
        let answer = pod.exec_sync(&id, &["sh", "-c", &format!("echo {n}; exit {}", n % 3)], 60);
        assert_eq!(answer.expect("exec"), ((n % 3) as i32, format!("{n}\n"), String::new()));
    };
    // The shim remembers the last execs it had: that table fills first.
    abreast(350.min(execs), probe);
    let (before, daemon) = (size(shim), size(node.containerd.pid()));
    let start = Instant::now();
    abreast(pods, |n| a_cycle(node, n));
    let cycled = start.elapsed();
    abreast(execs, probe);
    let execed = start.elapsed() - cycled;
    let mut after = before;
    let same = |after: &Size| (after.descriptors, after.threads) == (before.descriptors, before.threads);
    poll::within(30, || {
        after = size(shim);
        same(&after).then_some(())
    });
    assert!(same(&after) && after.memory <= before.memory + SLACK, "{before:?} {after:?}");
    // The container's and the sandbox's first processes, both alive.
    poll::until("no zombie", 30, || zombies(shim), Vec::is_empty);
    poll::until("no worker", 30, || children(shim), |seen| seen.len() == 2);
    // One shim, one socket.
    poll::until("the other shims' end", 30, || node.containerd.shims(), |seen| *seen == [shim]);
    let left = || leaks::left(node.containerd.namespace(), node.containerd.dir());
    let sockets = |left: &Vec<String>| left.iter().filter(|line| line.starts_with("socket ")).count() == 1;
    poll::until("one socket", 30, left, sockets);
    println!(
        "{pods} pods in {cycled:?}, {execs} execs in {execed:?}; the shim before {before:?}, after {after:?}; \
         containerd before {daemon:?}, after {:?}",
        size(node.containerd.pid())
    );
    stays.remove();
}

/// Does `work` for 0 to `total`, some at a time.
fn abreast(total: u64, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..from_environment("SOAK_ABREAST", 8) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= total {
                        return;
                    }
                    work(n);
                }
            });
        }
    });
}

/// A pod's life: two containers, one of which ends by itself, an exec, a stop.
fn a_cycle(node: &Node, n: u64) {
    let mut config = node.pod_config("cycle");
    if n % 8 != 0 {
        // Most without a network of their own, which would be a test of CNI's plugins.
        config.hostname = String::new();
        let network = NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
        let context = LinuxSandboxSecurityContext { namespace_options: Some(network), ..Default::default() };
        config.linux.as_mut().expect("linux").security_context = Some(context);
    }
    let mut pod = node.pod_with(config);
    let code = (n % 100) as i32;
    let ends = pod.script("ends", &format!("echo pod {n}; exit {code}"));
    let stays = pod.script("stays", "sleep 1000000");
    assert_eq!(pod.output(&stays, "echo inside"), "inside");
    assert_eq!(pod.end(&ends).0, code, "pod {n}");
    // containerd writes the log on a thread of its own.
    let line = format!(" stdout F pod {n}\n");
    poll::until(&format!("the log of pod {n}"), 30, || pod.log("ends"), |seen| seen.ends_with(&line));
    pod.stop(&stays, 0);
    assert_eq!(pod.end(&stays).0, 137, "pod {n}");
    pod.remove();
}

/// Children that have ended and are not reaped.
fn zombies(shim: i32) -> Vec<i32> {
    let state = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    children(shim).into_iter().filter(|pid| state(pid).contains(") Z")).collect()
}
