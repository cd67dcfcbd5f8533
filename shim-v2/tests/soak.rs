//! Soak: pods come and go, execs run by the thousand, and the shim is afterwards what it was before.
//!
//! `SOAK_PODS` and `SOAK_EXECS` say how many, `SOAK_ABREAST` how many at a time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first surprise"
)]

mod harness;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use harness::*;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// What a process holds: anonymous memory in KB, descriptors, threads.
fn holdings(pid: u32) -> (u64, usize, usize) {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| -> u64 {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (field("RssAnon:"), open_files(pid), field("Threads:") as usize)
}

fn no_zombie_of(pid: u32) {
    until("no zombie", || children(pid).into_iter().all(alive).then_some(()));
}

#[test]
fn execs_leave_the_shim_as_it_was() {
    if !can_run("execs_leave_the_shim_as_it_was", Runtime::Davit) {
        return;
    }
    let (total, abreast) = (number("SOAK_EXECS", 700), number("SOAK_ABREAST", 8));
    let daemon = Daemon::new(Runtime::Davit);
    let mut client = daemon.created("c", "sleep 100000", &Io::none());
    client.start("c", "").unwrap();
    let address = daemon.address();
    let (next, begun) = (AtomicUsize::new(0), Instant::now());
    let run = |until: usize| {
        std::thread::scope(|scope| {
            for _ in 0..abreast {
                scope.spawn(|| {
                    let mut client = Client::connect(&address);
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= until {
                            return;
                        }
                        let exec = format!("e{n}");
                        assert_eq!(client.run_exec("c", &exec, &format!("exit {}", n % 200)), n as u32 % 200);
                        client.delete("c", &exec).unwrap();
                    }
                });
            }
        });
        next.store(until, Ordering::Relaxed);
    };
    // The tombstones of the first ones fill their table.
    run(350.min(total / 2));
    let shim = client.shim_pid();
    let before = holdings(shim);
    run(total);
    daemon.events().wait("/tasks/exit", &format!("e{}", total - 1));
    until("an end to all connections", || (holdings(shim).1 <= before.1).then_some(()));
    let after = holdings(shim);
    println!(
        "{total} execs, {abreast} at a time, in {:?}: (KB, descriptors, threads) {before:?} -> {after:?}",
        begun.elapsed()
    );
    no_zombie_of(shim);
    // The descriptors before may be more: a connection whose end the shim had not seen yet.
    assert_eq!((after.2, before.2), (1, 1));
    assert!(after.0 <= before.0 + 256, "{before:?} -> {after:?}: 256 KB are allowed, whatever the number");
    client.finish("c");
    let exits = || daemon.events().all().iter().filter(|e| e.topic == "/tasks/exit").count();
    until("all exits", || (exits() > total).then_some(()));
    assert_eq!(exits(), total + 1, "one exit for each process");
}

/// One pod: two containers in one shim, an exec in each, and its end.
fn pod(daemon: &Daemon, n: usize) -> (u32, String) {
    let names = [format!("p{n}"), format!("p{n}-app")];
    for name in &names {
        daemon.make_bundle(name, "sleep 100000", |config| {
            config["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": names[0]});
        });
    }
    let address = daemon.start_shim(&names[0]);
    assert_eq!(daemon.start_shim(&names[1]), address);
    let mut client = Client::connect(&address);
    for name in &names {
        daemon.create(&mut client, name, &Io::none()).unwrap();
        client.start(name, "").unwrap();
        assert_eq!(client.run_exec(name, "probe", "exit 3"), 3);
        client.delete(name, "probe").unwrap();
    }
    for name in names.iter().rev() {
        assert_eq!(client.finish(name).exit_status, 137);
        assert!(!daemon.is_mounted(name));
    }
    let shim = client.shim_pid();
    client.shutdown();
    // containerd's own cleanup.
    for name in &names {
        daemon.delete_command(name);
        fs::remove_dir_all(daemon.bundle(name)).unwrap();
    }
    (shim, address)
}

#[test]
fn pods_leave_nothing() {
    if !can_run("pods_leave_nothing", Runtime::Davit) {
        return;
    }
    let (total, abreast) = (number("SOAK_PODS", 24), number("SOAK_ABREAST", 8));
    let daemon = Daemon::new(Runtime::Davit);
    let (next, begun) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..abreast {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= total {
                        return;
                    }
                    let (shim, address) = pod(&daemon, n);
                    daemon.assert_gone(shim, &address);
                }
            });
        }
    });
    println!("{total} pods, {abreast} at a time, in {:?}", begun.elapsed());
    let sockets = fs::read_dir(daemon.dir.path().join("s")).unwrap().count();
    assert_eq!(sockets, 0, "sockets are left");
    let state = daemon.state_dir("x").parent().unwrap().to_owned();
    assert_eq!(fs::read_dir(state).map_or(0, Iterator::count), 0, "state is left");
    let mark = format!("\0{}\0", daemon.namespace);
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains(&mark), "{:?} is left", process.path());
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let dir = hierarchy.path().join(&daemon.namespace);
        let inner = fs::read_dir(&dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
        assert_eq!(inner.map(|e| e.path()).collect::<Vec<_>>(), [] as [&Path; 0]);
    }
    let exits = || daemon.events().all().iter().filter(|e| e.topic == "/tasks/exit").count();
    until("all exits", || (exits() >= total * 4).then_some(()));
    assert_eq!(exits(), total * 4, "one exit for each process");
}
