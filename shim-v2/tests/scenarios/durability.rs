//! Killed shims, and what delete finds.

use crate::prelude::*;

pub fn exit_code_outlives_a_killed_shim(daemon: &Daemon) {
    let mut client = daemon.created("c", "exit 3", &Io::none());
    let pid = client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 3);
    kill_shim(&mut client);
    let deleted = daemon.delete_command("c");
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 3));
    assert!(!daemon.is_mounted("c") && !daemon.state_dir("c").exists());
}

pub fn running_container_of_a_killed_shim_is_removed(daemon: &Daemon) {
    let address = {
        daemon.make_bundle("c", "sleep 1000", |_| ());
        daemon.start_shim("c")
    };
    let mut client = Client::connect(&address);
    let pid = daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    kill_shim(&mut client);
    assert_eq!(daemon.delete_command("c").exit_status, 137);
    until("the end of the container", || (!alive(pid)).then_some(()));
    assert!(!daemon.is_mounted("c") && !daemon.state_dir("c").exists());
    assert!(!Path::new(address.strip_prefix("unix://").unwrap()).exists(), "dead socket left behind");
    assert_eq!(daemon.delete_command("c").pid, pid, "on a clean bundle it is quiet");
}

/// #13293: the shim of a pod is killed; `delete` of each of its containers cleans up, and only after itself.
pub fn killed_shim_of_a_pod(daemon: &Daemon) {
    let ids = ["pod", "a", "b"];
    for id in ids {
        daemon.make_bundle(id, if id == "b" { "exit 5" } else { "sleep 1000" }, |config| {
            config["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": "pod"});
        });
    }
    let address = daemon.start_shim("pod");
    let mut client = Client::connect(&address);
    let mut pids = Vec::new();
    for id in ids {
        daemon.start_shim(id);
        pids.push(daemon.create(&mut client, id, &Io::none()).unwrap());
        client.start(id, "").unwrap();
    }
    assert_eq!(client.wait("b", ""), 5);
    kill_shim(&mut client);
    assert_eq!(daemon.delete_command("a").exit_status, 137);
    until("the end of a", || (!alive(pids[1])).then_some(()));
    assert!(alive(pids[0]), "a sibling's delete does not end the pod");
    assert!(daemon.bundle("a").exists(), "the bundle is containerd's");
    let deleted = daemon.delete_command("b");
    assert_eq!((deleted.exit_status, deleted.pid), (5, pids[2]));
    assert_eq!(daemon.delete_command("pod").exit_status, 137);
    for (id, pid) in ids.into_iter().zip(pids) {
        until("the end of all", || (!alive(pid)).then_some(()));
        assert!(!daemon.is_mounted(id) && !daemon.state_dir(id).exists() && daemon.cgroups(id).is_empty());
    }
    assert!(!Path::new(address.strip_prefix("unix://").unwrap()).exists(), "the dead socket is left behind");
}

/// #13049, runc#4045: a pid of the bundle's file that is somebody else's by now.
pub fn delete_kills_nobody_else(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let mut stranger = Stranger::new();
    fs::write(daemon.bundle("c").join("init.pid"), stranger.pid().to_string()).unwrap();
    daemon.delete_command("c");
    assert!(!stranger.has_ended());
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    kill_shim(&mut client);
    let state = daemon.state_dir("c").join("state.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    let init = json["init_process_pid"].as_u64().unwrap() as u32;
    json["init_process_pid"] = stranger.pid().into();
    fs::write(&state, json.to_string()).unwrap();
    daemon.delete_command("c");
    assert!(!stranger.has_ended(), "its start time is not the container's");
    // It has ended where `delete` has killed the cgroup.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(init as i32), Signal::SIGKILL);
}

/// After an ordinary Delete containerd runs `delete` too: quiet, quick, and it changes nothing.
pub fn delete_of_a_clean_bundle(daemon: &Daemon) {
    let mut client = daemon.created("c", "exit 3", &Io::none());
    client.start("c", "").unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
    client.shutdown();
    for _ in 0..2 {
        daemon.delete_command("c");
    }
    assert!(daemon.bundle("c").join("config.json").exists());
}

/// #14113: the end was known, and not yet deleted, when the shim was killed. Also with execs that delay its event.
pub fn exit_code_that_waits_for_an_exec_is_recorded(daemon: &Daemon) {
    daemon.make_bundle("c", "read x </tmp/gate; exit 21", |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    });
    nix::unistd::mkfifo(&daemon.rootfs.join("tmp/gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    client.exec("c", "e", "sleep 1000", &Io::none()).unwrap();
    client.start("c", "e").unwrap();
    fs::write(daemon.rootfs.join("tmp/gate"), "go\n").unwrap();
    assert_eq!(client.wait("c", ""), 21);
    kill_shim(&mut client);
    assert_eq!(daemon.delete_command("c").exit_status, 21);
}

/// A shim that was killed right in Create: `delete` finds all of it.
pub fn killed_shim_in_the_middle_of_create(daemon: &Daemon) {
    for round in 0..8_u64 {
        let id = format!("c{round}");
        daemon.make_bundle(&id, "sleep 1000", |_| ());
        let mut client = Client::connect(&daemon.start_shim(&id));
        let shim = client.shim_pid();
        client.send(V2, "Create", &daemon.create_request(&id, &Io::none()));
        std::thread::sleep(Duration::from_millis(2 * round));
        signal(shim, Signal::SIGKILL);
        until("the end of the shim", || (!alive(shim)).then_some(()));
        until("a clean bundle", || {
            daemon.delete_command(&id);
            // A runc that is killed before it has a state leaves empty cgroups, which config.json alone names.
            (daemon.cgroups(&id).is_empty() && !daemon.is_mounted(&id) && !daemon.state_dir(&id).exists())
                .then_some(())
        });
    }
}

/// Churn leaves no socket, no process and no directory.
pub fn churn_leaves_nothing(daemon: &Daemon) {
    let mut addresses = Vec::new();
    for n in 0..20 {
        let id = format!("c{n}");
        let mut client = daemon.created(&id, "exit 0", &Io::none());
        client.start(&id, "").unwrap();
        client.wait(&id, "");
        client.delete(&id, "").unwrap();
        addresses.push((client.shim_pid(), daemon.address()));
        client.shutdown();
    }
    for (pid, address) in addresses {
        daemon.assert_gone(pid, &address);
    }
    assert!(fs::read_dir(daemon.state_dir("c0").parent().unwrap()).map_or(0, Iterator::count) == 0);
}

/// Invariant 15, #12404: after the last Delete and Shutdown the process is gone at once.
pub fn shutdown_is_prompt(daemon: &Daemon) {
    let mut client = daemon.created("c", "exit 0", &Io::none());
    client.start("c", "").unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
    daemon.events().wait("/tasks/delete", "c");
    let shim = client.shim_pid();
    client.shutdown();
    let begun = Instant::now();
    until("the end of the shim", || (!alive(shim)).then_some(()));
    // One that waits for something it does not get takes 5 s.
    assert!(begun.elapsed() < Duration::from_millis(4500), "{:?}", begun.elapsed());
}

/// `delete` of a later binary reads what an earlier one, or Go's shim, has written.
pub fn delete_reads_the_recorded_options(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    let bundle = daemon.bundle("c");
    let options: serde_json::Value =
        serde_json::from_slice(&fs::read(bundle.join("options.json")).unwrap()).unwrap();
    assert_eq!(options["root"], daemon.dir.path().join("state").display().to_string());
    assert!(bundle.join("runtime").exists());
    kill_shim(&mut client);
    daemon.delete_command("c");
    assert!(!daemon.state_dir("c").exists());
}
