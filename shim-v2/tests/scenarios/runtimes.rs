//! Other runtimes, and workers that fail.

use crate::prelude::*;

pub fn a_killed_worker_leaves_nothing_behind(daemon: &Daemon) {
    daemon.make_bundle("c", "exit 0", |_| ());
    let address = daemon.start_shim("c");
    let mut client = Client::connect(&address);
    let shim = client.connect_task("c").shim_pid;
    // A runtime that never comes to its end.
    let script = daemon.dir.path().join("stuck-runtime");
    install(&script, "#!/bin/sh\nexec sleep 1000\n");
    let mut request = daemon.create_request("c", &Io::none());
    request.options = protobuf::MessageField::some(daemon.options_with(&script.display().to_string()));
    let create = client.send(V2, "Create", &request);
    let children = |pid: u32| -> Vec<u32> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().map(|word| word.parse().unwrap()).collect()
    };
    let worker = until("the worker", || children(shim).first().copied());
    let runtime = until("the runtime", || children(worker).first().copied());
    let kill = |pid: u32| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
    };
    kill(worker);
    let refusal = client.receive::<pb::CreateTaskResponse>(create).unwrap_err();
    assert!(refusal.text.contains("the worker was killed by signal 9"), "{}", refusal.text);
    assert!(!daemon.is_mounted("c"));
    // What it had started ends with it: nobody would take its result.
    until("the runtime's end", || (!alive(runtime)).then_some(()));
    until("the orphan's end", || children(shim).is_empty().then_some(()));
    client.shutdown();
    daemon.assert_gone(shim, &address);
}

pub fn state_answers_while_create_is_slow(daemon: &Daemon) {
    daemon.make_bundle("c", "exit 0", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    // A runtime that waits for our word.
    let gate = daemon.dir.path().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = daemon.dir.path().join("slow-runtime");
    install(&script, &format!("#!/bin/sh\nread x < {}\nexec runc \"$@\"\n", gate.display()));
    let mut request = daemon.create_request("c", &Io::none());
    request.options = protobuf::MessageField::some(daemon.options_with(&script.display().to_string()));
    let create = client.send(V2, "Create", &request);
    assert_eq!(client.state("c", "").unwrap_err().code, 5);
    assert_eq!(client.connect_task("c").task_pid, 0);
    assert!(!client.has_answer(create), "State and Connect did not wait for Create");
    fs::write(&gate, "go\n").unwrap();
    client.receive::<pb::CreateTaskResponse>(create).unwrap();
    assert_eq!(client.state("c", "").unwrap().status.unwrap(), Status::CREATED);
    // The gate is for every call of the runtime.
    let delete = client.send(V2, "Delete", &pb::DeleteRequest { id: "c".into(), ..Default::default() });
    fs::write(&gate, "go\n").unwrap();
    client.receive::<pb::DeleteResponse>(delete).unwrap();
}

/// A runtime that is killed before it has a state: what names its cgroups then is config.json alone.
pub fn a_killed_runtime_leaves_no_empty_cgroup(daemon: &Daemon) {
    let base = [Path::new("/sys/fs/cgroup/pids"), Path::new("/sys/fs/cgroup")];
    let base = base.into_iter().find(|dir| dir.join("cgroup.procs").exists()).unwrap();
    let script = daemon.dir.path().join("mortal-runtime");
    let create = |id: &str, below: &str| {
        let dir = base.join(&daemon.namespace).join(id);
        install(&script, &format!("#!/bin/sh\nmkdir -p {}{below}\nkill -9 $$\n", dir.display()));
        daemon.make_bundle(id, "exit 0", |_| ());
        let mut client = Client::connect(&daemon.start_shim(id));
        let mut request = daemon.create_request(id, &Io::none());
        request.options = MessageField::some(daemon.options_with(&script.display().to_string()));
        client.call::<pb::CreateTaskResponse>("Create", &request).unwrap_err();
        assert!(!daemon.is_mounted(id));
        client.shutdown();
        dir
    };
    assert!(!create("empty", "").exists());
    let held = create("held", "/inner");
    assert!(held.join("inner").exists(), "one that somebody uses stays");
    fs::remove_dir(held.join("inner")).unwrap();
    daemon.delete_command("held");
    assert!(!held.exists(), "delete removes it once it is empty");
}

pub fn missing_runtime_is_named(daemon: &Daemon) {
    daemon.make_bundle("c", "exit 0", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut request = daemon.create_request("c", &Io::none());
    request.options = protobuf::MessageField::some(daemon.options_with("no-runc"));
    let refusal = client.call::<pb::CreateTaskResponse>("Create", &request).unwrap_err();
    assert!(refusal.text.contains("\"no-runc\": executable file not found in $PATH"), "{}", refusal.text);
}

fn life_with(daemon: &Daemon, options: protobuf::well_known_types::any::Any) {
    let io = daemon.io("c", false);
    let (stdout, stderr) = (io.read(1), io.read(2));
    daemon.make_bundle("c", "echo out; echo err >&2; cat; exit 7", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut request = daemon.create_request("c", &io);
    request.options = MessageField::some(options);
    client.call::<pb::CreateTaskResponse>("Create", &request).unwrap();
    client.start("c", "").unwrap();
    assert_eq!(client.run_exec("c", "e", "exit 4"), 4);
    client.delete("c", "e").unwrap();
    client.pause("c").unwrap();
    assert_eq!(status(&mut client, "c", ""), Status::PAUSED);
    client.resume("c").unwrap();
    // On a busy machine the shell was frozen before it had started cat.
    until("its second process", || (client.pids("c").unwrap().len() > 1).then_some(()));
    client.stats("c").unwrap();
    client.close_stdin("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 7);
    client.delete("c", "").unwrap();
    assert_eq!((stdout.join().unwrap(), stderr.join().unwrap()), (b"out\n".to_vec(), b"err\n".to_vec()));
    assert!(!daemon.is_mounted("c") && !daemon.state_dir("c").exists() && daemon.cgroups("c").is_empty());
    daemon.events().wait("/tasks/delete", "c");
    assert_eq!(daemon.events().topics("c"), ["create", "start", "paused", "resumed", "exit", "delete"]);
}

fn newest(program: &str) -> Option<PathBuf> {
    let dir = go_dir().ok()?;
    Some(dir.join(program)).filter(|path| path.exists())
}

/// crun refuses a machine with both kinds of cgroups: on such one the shim gets a view of cgroup v2 alone.
pub fn crun_by_binary_name(daemon: &Daemon) {
    let Some(crun) = newest("crun") else {
        eprintln!("SKIPPED crun_by_binary_name: no crun of Debian unstable");
        return;
    };
    let mut view = Daemon::with(daemon.shim.clone(), daemon.runtime);
    let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"];
    view.through = words.map(str::to_owned).to_vec();
    life_with(&view, view.options_with(&crun.display().to_string()));
}

pub fn newest_runc_by_binary_name(daemon: &Daemon) {
    let Some(runc) = newest("runc") else {
        eprintln!("SKIPPED newest_runc_by_binary_name: no runc of Debian unstable");
        return;
    };
    life_with(daemon, daemon.options_with(&runc.display().to_string()));
}

/// dockerd's `runtimeArgs` and nvidia's runtime are wrappers.
pub fn wrapper_script_by_binary_name(daemon: &Daemon) {
    let (script, trace) = (daemon.dir.path().join("wrapper"), daemon.dir.path().join("trace"));
    install(&script, &format!("#!/bin/sh\necho \"$@\" >>{}\nexec runc \"$@\"\n", trace.display()));
    life_with(daemon, daemon.options_with(&script.display().to_string()));
    let text = fs::read_to_string(trace).unwrap();
    for word in [" create ", " start c", " exec ", " pause c", " resume c", " delete c"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(text.lines().all(|l| l.starts_with("--root ") && l.contains("--log-format json")), "{text}");
}

/// A wrapper that is called davit is executed, not taken for the library.
pub fn wrapper_script_of_davit_s_name(daemon: &Daemon) {
    let (script, trace) = (daemon.dir.path().join("davit"), daemon.dir.path().join("trace"));
    install(&script, &format!("#!/bin/sh\necho \"$@\" >>{}\nexec runc \"$@\"\n", trace.display()));
    life_with(daemon, daemon.options_with(&script.display().to_string()));
    assert!(fs::read_to_string(trace).unwrap().contains(" create "));
}

/// What CRI and dockerd send for a runtime type of its own: TOML in runtimeoptions.v1.
pub fn options_as_toml(daemon: &Daemon) {
    life_with(daemon, daemon.toml("IoUid = 0\nIoGid = 0\nNoNewKeyring = true\n"));
}

pub fn runtime_of_the_toml_options(daemon: &Daemon) {
    life_with(daemon, daemon.toml("BinaryName = \"runc\"\n"));
}

/// moby#40817: a runtime that says a megabyte.
pub fn runtime_that_talks_too_much(daemon: &Daemon) {
    let script = daemon.dir.path().join("talker");
    install(&script, "#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' x >&2\nexit 1\n");
    daemon.make_bundle("c", "true", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut request = daemon.create_request("c", &Io::none());
    request.options = MessageField::some(daemon.options_with(&script.display().to_string()));
    let refusal = client.call::<pb::CreateTaskResponse>("Create", &request).unwrap_err();
    assert!(
        refusal.text.starts_with("OCI runtime create failed: ") && refusal.text.len() < 8192,
        "{}",
        refusal.text.len()
    );
    assert!(!daemon.is_mounted("c"));
    client.shutdown();
}

/// The last error of the runtime's log is the error.
pub fn runtime_s_last_error_is_the_answer(daemon: &Daemon) {
    let script = daemon.dir.path().join("failing");
    let log = daemon.bundle("c").join("log.json");
    install(
        &script,
        &format!(
            "#!/bin/sh\nfor m in first second; do echo \"{{\\\"level\\\":\\\"error\\\",\\\"msg\\\":\\\"$m thing\\\"}}\" >>{}; done\nexit 1\n",
            log.display()
        ),
    );
    daemon.make_bundle("c", "true", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut request = daemon.create_request("c", &Io::none());
    request.options = MessageField::some(daemon.options_with(&script.display().to_string()));
    let refusal = client.call::<pb::CreateTaskResponse>("Create", &request).unwrap_err();
    assert_eq!(refusal.text, "OCI runtime create failed: second thing");
}

/// A pause that fails after it has frozen the container (the runtime is killed, the freezer is slow) is undone: the
/// container is said to run, and what is said to run is not resumed.
pub fn a_failed_pause_leaves_nothing_frozen(daemon: &Daemon) {
    daemon.make_bundle("c", "sleep 1000", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let script = daemon.dir.path().join("failing-pause");
    install(&script, "#!/bin/sh\nrunc \"$@\" || exit\ncase \" $* \" in *\" pause \"*) exit 1 ;; esac\n");
    let mut request = daemon.create_request("c", &Io::none());
    request.options = MessageField::some(daemon.options_with(&script.display().to_string()));
    client.call::<pb::CreateTaskResponse>("Create", &request).unwrap();
    client.start("c", "").unwrap();
    assert!(client.pause("c").unwrap_err().text.contains("pause"));
    assert_eq!(status(&mut client, "c", ""), Status::RUNNING);
    assert_eq!(client.run_exec("c", "e", "exit 4"), 4);
    client.kill("c", "", 9).unwrap();
    assert_eq!(client.wait("c", ""), 137);
    client.delete("c", "").unwrap();
}
