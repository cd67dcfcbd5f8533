//! Start: replies, sockets, groups, what the daemon inherits.

use crate::prelude::*;

pub fn shim_joins_the_cgroup_of_its_option(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let cgroup = format!("/{}/shim", daemon.namespace);
    let options =
        containerd_shim_protos::shim::oci::Options { shim_cgroup: cgroup.clone(), ..Default::default() };
    let any = protobuf::well_known_types::any::Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: options.write_to_bytes().unwrap(),
        ..Default::default()
    };
    let stdin = any.write_to_bytes().unwrap();
    let refused = daemon.shim("c", "start", &stdin, &[]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && text.contains(&format!("failed to load cgroup {cgroup}")), "{text}");
    assert_eq!(refused.stdout, b"");
    let base = Path::new("/sys/fs/cgroup");
    let memory = if base.join("memory").exists() { base.join("memory") } else { base.to_owned() };
    fs::create_dir_all(memory.join(&cgroup[1..])).unwrap();
    let output = daemon.shim("c", "start", &stdin, &[]);
    let address = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{address} {}", String::from_utf8_lossy(&output.stderr));
    let mut client = Client::connect(&address);
    let shim = client.connect_task("").shim_pid;
    let groups = fs::read_to_string(format!("/proc/{shim}/cgroup")).unwrap();
    assert_eq!(groups.lines().filter(|line| line.ends_with(&cgroup)).count(), 1, "{groups}");
    let score = |pid: u32| -> i32 {
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
    };
    assert_eq!(score(shim), (score(std::process::id()) + 1).min(1000));
    client.shutdown();
    daemon.assert_gone(shim, &address);
}

pub fn reply_follows_the_daemon_s_generation(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let any = daemon.options_with("").write_to_bytes().unwrap();
    let plain = daemon.shim("c", "start", &any, &[]);
    let address = String::from_utf8(plain.stdout).unwrap();
    assert!(address.starts_with("unix:///run/containerd/s/"), "{address}");
    assert_eq!(fs::read_to_string(daemon.bundle("c").join("address")).unwrap(), address);
    // The shim is there: the next start finds it.
    let json = daemon.shim("c", "start", &any, &[("MAX_SHIM_VERSION", "2")]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value, serde_json::json!({"version": 2, "address": address, "protocol": "ttrpc"}));
    let mut client = Client::connect(&address);
    let shim = client.connect_task("").shim_pid;
    assert_eq!(fs::read_dir(format!("/proc/{shim}/task")).unwrap().count(), 1, "one thread");
    let null = Path::new("/dev/null");
    assert!((0..3).all(|fd| fs::read_link(format!("/proc/{shim}/fd/{fd}")).unwrap() == null));
    client.shutdown();
    daemon.assert_gone(shim, &address);
    let proto = daemon.start_shim("c");
    assert!(proto.contains(&daemon.dir.path().display().to_string()), "socket_dir is honoured: {proto}");
}

pub fn containers_of_a_group_share_a_shim(daemon: &Daemon) {
    for id in ["pod", "app"] {
        daemon.make_bundle(id, "sleep 1000", |config| {
            config["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": "pod"});
        });
    }
    let address = daemon.start_shim("pod");
    assert_eq!(daemon.start_shim("app"), address);
    let (mut pod, mut app) = (Client::connect(&address), Client::connect(&address));
    daemon.create(&mut pod, "pod", &Io::none()).unwrap();
    daemon.create(&mut app, "app", &Io::none()).unwrap();
    pod.start("pod", "").unwrap();
    app.start("app", "").unwrap();
    app.kill("app", "", 9).unwrap();
    assert_eq!(app.wait("app", ""), 137);
    app.delete("app", "").unwrap();
    app.shutdown();
    assert_eq!(pod.state("pod", "").unwrap().status.unwrap(), Status::RUNNING, "the shim stays for the pod");
    // containerd runs `delete` for the app when its connection closes: the living socket must stay.
    daemon.delete_command("app");
    pod.kill("pod", "", 9).unwrap();
    pod.wait("pod", "");
    pod.delete("pod", "").unwrap();
    let shim = pod.connect_task("").shim_pid;
    pod.shutdown();
    daemon.assert_gone(shim, &address);
}

/// containerd 1.6: options or nothing on stdin, no MAX_SHIM_VERSION, a plain address.
pub fn reply_to_1_6_is_the_plain_address(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    for stdin in [Vec::new(), daemon.options_with("").write_to_bytes().unwrap()] {
        let output = daemon.shim("c", "start", &stdin, &[]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.starts_with("unix:///"), "{text}");
        assert_eq!(fs::read_to_string(daemon.bundle("c").join("address")).unwrap(), text);
    }
}

/// containerd 1.7 to 2.2: MAX_SHIM_VERSION, JSON.
pub fn reply_to_1_7_is_json(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let output = daemon.shim("c", "start", b"", &[("MAX_SHIM_VERSION", "2")]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["protocol"], "ttrpc");
    assert!(value["address"].as_str().unwrap().starts_with("unix:///"));
}

/// #5195: containerd reads `address` as soon as the shim can be connected.
pub fn address_file_is_there_before_the_shim(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let address = daemon.start_shim("c");
    let written = fs::read_to_string(daemon.bundle("c").join("address")).unwrap();
    assert_eq!(written, address);
}

/// Two `start`s of a group at once make one shim.
pub fn starts_of_a_group_at_once(daemon: &Daemon) {
    let ids: Vec<String> = (0..6).map(|n| format!("c{n}")).collect();
    for id in &ids {
        daemon.make_bundle(id, "true", |config| {
            config["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": "pod"});
        });
    }
    let addresses: Vec<String> = std::thread::scope(|scope| {
        let starts: Vec<_> = ids.iter().map(|id| scope.spawn(|| daemon.start_shim(id))).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert!(addresses.iter().all(|address| *address == addresses[0]), "{addresses:?}");
    let mut pids: Vec<u32> = addresses.iter().map(|a| Client::connect(a).shim_pid()).collect();
    pids.dedup();
    assert_eq!(pids.len(), 1);
    assert_eq!(Client::connect(&addresses[0]).connect_task("").shim_pid, pids[0]);
}

/// Annotation of runc's shim first, then CRI's.
pub fn group_of_the_first_annotation(daemon: &Daemon) {
    daemon.make_bundle("a", "true", |c| {
        c["annotations"] =
            serde_json::json!({"io.containerd.runc.v2.group": "g", "io.kubernetes.cri.sandbox-id": "x"});
    });
    daemon.make_bundle("b", "true", |c| {
        c["annotations"] = serde_json::json!({"io.containerd.runc.v2.group": "g"})
    });
    daemon.make_bundle("c", "true", |_| ());
    let (a, b, c) = (daemon.start_shim("a"), daemon.start_shim("b"), daemon.start_shim("c"));
    assert_eq!(a, b);
    assert_ne!(a, c);
}

/// A socket file whose shim is dead is replaced.
pub fn a_dead_socket_is_replaced(daemon: &Daemon) {
    daemon.make_bundle("c", "exit 3", |_| ());
    let address = daemon.start_shim("c");
    kill_shim(&mut Client::connect(&address));
    assert!(Path::new(address.strip_prefix("unix://").unwrap()).exists());
    assert_eq!(daemon.start_shim("c"), address);
    let mut client = Client::connect(&address);
    daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 3);
    client.delete("c", "").unwrap();
}

pub fn socket_is_for_its_owner_only(daemon: &Daemon) {
    use std::os::unix::fs::PermissionsExt;
    daemon.make_bundle("c", "true", |_| ());
    let address = daemon.start_shim("c");
    let path = Path::new(address.strip_prefix("unix://").unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(path), mode(path.parent().unwrap())), (0o600, 0o700));
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()), "sha256: {name}");
}

/// #11292: a path that no socket can have.
pub fn socket_path_that_is_too_long(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let mut params =
        containerd_shim_protos::bootstrap_api::BootstrapParams::parse_from_bytes(&daemon.params("c"))
            .unwrap();
    params.socket_dir = Some(format!("{}/{}", daemon.dir.path().display(), "long/".repeat(20)));
    let output = daemon.shim("c", "start", &params.write_to_bytes().unwrap(), &[]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("socket path") && text.lines().count() == 1, "{text}");
    assert_eq!(output.stdout, b"");
}

/// #386, #8285: what start says on a failure is the user's error: one line.
pub fn start_without_a_bundle_says_why(daemon: &Daemon) {
    fs::create_dir_all(daemon.bundle("c")).unwrap();
    let output = daemon.shim("c", "start", &daemon.params("c"), &[]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("config.json"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

pub fn flags_of_go_s_kind(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let run = |args: &[&str]| {
        let output = daemon.command().args(args).current_dir(daemon.bundle("c")).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    };
    let (ok, text) = run(&["-frobnicate"]);
    assert!(!ok && text.contains("flag provided but not defined: -frobnicate"), "{text}");
    for flag in ["-v", "--version", "-version=true"] {
        let (ok, text) = run(&[flag]);
        assert!(ok && text.contains("Version:"), "{text}");
    }
    let (ok, text) = run(&["-namespace", "n", "start"]);
    assert!(!ok && text.contains("id"), "{text}");
    let (ok, text) = run(&["-id", "x", "start"]);
    assert!(!ok && text.contains("namespace"), "{text}");
}

/// containerd 2.2 asks on every create of a runtime type of its own; CRI looks for `rro` and user namespaces.
pub fn info_names_what_callers_look_for(daemon: &Daemon) {
    use containerd_shim_protos::protobuf::Message as _;
    daemon.make_bundle("c", "true", |_| ());
    let mut command = daemon.command();
    let mut child = command
        .arg("-info")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&daemon.options_with("").write_to_bytes().unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    // RuntimeInfo{1 name, 2 version, 3 options, 4 features Any}: read as the first message that has those fields.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("types.containerd.io/opencontainers/runtime-spec/1/features/Features"), "{text}");
    let json = &text[text.find("{\"").unwrap()..=text.rfind('}').unwrap()];
    let features: serde_json::Value = serde_json::from_str(json).unwrap();
    let has = |list: &serde_json::Value, word: &str| list.as_array().unwrap().iter().any(|v| v == word);
    assert!(has(&features["mountOptions"], "rro"), "{features}");
    assert!(has(&features["linux"]["namespaces"], "user"));
    assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
}

/// The daemon must not stay in the bundle (its mount would be pinned), nor hold start's stdio.
pub fn daemon_lets_go_of_bundle_and_stdio(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    let shim = client.shim_pid();
    assert_eq!(fs::read_link(format!("/proc/{shim}/cwd")).unwrap(), Path::new("/"));
    for fd in 0..3 {
        assert_eq!(fs::read_link(format!("/proc/{shim}/fd/{fd}")).unwrap(), Path::new("/dev/null"));
    }
    let stat = fs::read_to_string(format!("/proc/{shim}/stat")).unwrap();
    let group: u32 = stat.rsplit(") ").next().unwrap().split(' ').nth(2).unwrap().parse().unwrap();
    assert_eq!(group, shim, "a process group of its own");
    client.delete("c", "").unwrap();
}

/// SCHED_CORE: the kernel has core scheduling or says that it has not; the shim follows.
pub fn core_scheduling_is_asked_for(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let output = daemon.shim("c", "start", b"", &[("SCHED_CORE", "1")]);
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() || (text.contains("core sched") || text.contains("sched core")),
        "{text}"
    );
}

/// #4509, #4546: nobody reads the log FIFO.
pub fn a_full_log_holds_nobody(daemon: &Daemon) {
    daemon.make_bundle("c", "sleep 1000", |_| ());
    let log = daemon.bundle("c").join("log");
    assert!(log.exists(), "a FIFO that the harness holds open and does not read");
    daemon.debug.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    for n in 0..150 {
        assert_eq!(client.run_exec("c", &format!("{}{n}", "long".repeat(30)), "exit 0"), 0);
    }
    client.finish("c");
}

/// Lines of the shim are logrus text, which containerd copies into its own log.
pub fn log_lines_are_containerd_s_kind(daemon: &Daemon) {
    daemon.make_bundle("c", "sleep 1000", |_| ());
    let log = daemon.bundle("c").join("log");
    let mut containerd = fs::OpenOptions::new().read(true).write(true).open(&log).unwrap();
    daemon.debug.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    client.finish("c");
    let mut text = vec![0; 60_000];
    let size = containerd.read(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text[..size]).into_owned();
    assert!(
        text.lines().all(|l| l.starts_with("time=\"") && l.contains(" level=") && l.contains(" msg=\"")),
        "{text}"
    );
    assert!(text.contains("level=debug"), "{text}");
}

/// #5502: the host goes down.
pub fn sigterm_ends_the_shim_and_its_socket(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    daemon.events().wait("/tasks/start", "c");
    let (shim, address) = (client.shim_pid(), daemon.address());
    signal(shim, Signal::SIGTERM);
    daemon.assert_gone(shim, &address);
    assert_eq!(daemon.delete_command("c").exit_status, 137);
}

/// Everybody can be told to connect; only the owner is let in (SO_PEERCRED).
pub fn a_peer_of_another_user_is_refused(daemon: &Daemon) {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    daemon.make_bundle("c", "true", |_| ());
    let address = daemon.start_shim("c");
    let path = Path::new(address.strip_prefix("unix://").unwrap());
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    let connect = |uid: u32| {
        let socket = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).unwrap();
        let mut command = Command::new("/proc/self/exe");
        command.args(["--exact", "peer_program", "--nocapture"]).env("DAVIT_SHIM_PEER", "1");
        command.stdin(socket).uid(uid).gid(uid);
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(connect(0).contains("peer: answered"), "{}", connect(0));
    assert!(connect(65534).contains("peer: refused"), "{}", connect(65534));
    Client::connect(&address).shim_pid();
}
