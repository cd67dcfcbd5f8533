//! Checkpoint, and Create with a checkpoint: real processes, written and brought back by CRIU of Debian unstable.

use containerd_shim_protos::shim::oci::CheckpointOptions;

use crate::prelude::*;

/// What only the memory of the shell has: where it has got to.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done";

/// Lets the shim find CRIU; false, and says why, where there is none.
fn has_criu(daemon: &Daemon, scenario: &str) -> bool {
    match davit_tests::criu::criu() {
        Ok(dir) => daemon.programs.set(dir).is_ok(),
        Err(e) => {
            eprintln!("SKIPPED {scenario}: {e}");
            false
        }
    }
}

fn exiting() -> CheckpointOptions {
    CheckpointOptions { exit: true, ..Default::default() }
}

/// A folder as containerd makes it before Checkpoint.
fn images(daemon: &Daemon) -> PathBuf {
    let dir = daemon.dir.path().join("images");
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn create_from(daemon: &Daemon, client: &mut Client, images: &Path, io: &Io) -> Result<u32, Refusal> {
    let mut request = daemon.create_request("c", io);
    request.checkpoint = images.display().to_string();
    client.call::<pb::CreateTaskResponse>("Create", &request).map(|r| r.pid)
}

/// Starts a container that counts. runc's start is answered before the program is executed, and CRIU can't write runc's
/// own: the shell is there when it has started something.
fn start_to_count(client: &mut Client) -> u32 {
    let pid = client.start("c", "").unwrap();
    until("its second process", || (client.pids("c").unwrap().len() > 1).then_some(()));
    pid
}

/// A container that has counted, written to images and deleted. `pod` keeps the shim.
fn written(daemon: &Daemon, images: &Path, script: &str, io: &Io) -> Client {
    daemon.make_bundle("c", script, |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", io).unwrap();
    start_to_count(&mut client);
    client.checkpoint("c", images, exiting()).unwrap();
    assert_eq!(client.wait("c", ""), 137);
    client.delete("c", "").unwrap();
    assert!(daemon.cgroups("c").is_empty() && !daemon.is_mounted("c") && !daemon.state_dir("c").exists());
    client
}

/// The reading end of an output, open before the shim's as containerd's is: Go's shim waits for it, and a reader that
/// waits in an open may come when the writer has been and gone.
fn reader(io: &Io, index: usize) -> fs::File {
    io.open(index)
}

/// Reads until `enough` finds something in what has come.
fn read_until<T>(output: &mut fs::File, what: &str, enough: impl Fn(&[u8]) -> Option<T>) -> T {
    let mut seen = Vec::new();
    until(what, || {
        let mut part = [0; 256];
        // EAGAIN: nothing there yet.
        let length = output.read(&mut part).unwrap_or(0);
        seen.extend(&part[..length]);
        enough(&seen)
    })
}

fn first_number(output: &mut fs::File) -> u32 {
    read_until(output, "a number", |seen| seen.contains(&b'\n').then(|| numbers(seen)[0]))
}

fn shows(output: &mut fs::File, words: &str) {
    read_until(output, words, |seen| String::from_utf8_lossy(seen).contains(words).then_some(()));
}

fn numbers(output: &[u8]) -> Vec<u32> {
    // The last line may be cut.
    String::from_utf8_lossy(output).lines().filter_map(|line| line.trim().parse().ok()).collect()
}

pub fn restored_where_it_was(daemon: &Daemon) {
    if !has_criu(daemon, "restored_where_it_was") {
        return;
    }
    let (images, first, second) = (images(daemon), daemon.io("first", false), daemon.io("second", false));
    // Go's shim waits for a reader of each.
    let (before, _errors) = (first.read(1), first.read(2));
    let mut client = written(daemon, &images, COUNT, &first);
    let before = numbers(&before.join().unwrap());

    let (mut after, _errors) = (reader(&second, 1), reader(&second, 2));
    assert_eq!(create_from(daemon, &mut client, &images, &second), Ok(0), "there is no process yet");
    let state = client.state("c", "").unwrap();
    assert_eq!((state.pid, state.status.unwrap()), (0, Status::CREATED));
    assert!(daemon.is_mounted("c"), "containerd applies the changes of the rootfs before Start");
    let refused = |answer: Result<(), Refusal>| answer.unwrap_err().text;
    assert_eq!(refused(client.exec("c", "e", "exit 4", &Io::none())), "cannot exec in a created state");
    assert_eq!(refused(client.pause("c")), "cannot pause task in created state");
    assert_eq!(refused(client.resume("c")), "cannot resume task in created state");
    let again = client.checkpoint("c", &images, exiting());
    assert_eq!(refused(again), "cannot checkpoint a task in created state");
    assert_eq!(client.kill("c", "", 15).unwrap_err().code, 5);
    let wait = client.send_wait("c", "");

    let pid = client.start("c", "").unwrap();
    let state = client.state("c", "").unwrap();
    assert_eq!((state.pid, state.status.unwrap()), (pid, Status::RUNNING));
    assert_eq!(client.connect_task("c").task_pid, pid);
    assert!(client.pids("c").unwrap().iter().any(|p| p.pid == pid));
    assert_eq!(client.start("c", "").unwrap_err().text, "cannot start a running process");
    assert_eq!(client.run_exec("c", "e", "exit 4"), 4);
    client.delete("c", "e").unwrap();
    let (last, next) = (before[before.len() - 1], first_number(&mut after));
    assert!(last > 0 && (last..=last + 1).contains(&next), "{last}, then {next}");
    client.stats("c").unwrap();
    client.pause("c").unwrap();
    assert_eq!(status(&mut client, "c", ""), Status::PAUSED);
    client.resume("c").unwrap();
    client.kill("c", "", 9).unwrap();
    assert_eq!(client.receive::<pb::WaitResponse>(wait).unwrap().exit_status, 137);
    let deleted = client.delete("c", "").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));

    assert!(!daemon.is_mounted("c") && !daemon.state_dir("c").exists() && daemon.cgroups("c").is_empty());
    let topics = || daemon.events().topics("c");
    until("both deletes", || (topics().iter().filter(|t| *t == "delete").count() == 2).then_some(()));
    let life = ["create", "start", "exit", "delete"];
    let restored = ["create", "start", "paused", "resumed", "exit", "delete"];
    assert_eq!(topics(), life.iter().chain(&restored).copied().collect::<Vec<_>>());
    let events = daemon.events().all();
    let from: Vec<_> = events.iter().filter(|e| e.topic == "/tasks/create").map(|e| &*e.checkpoint).collect();
    assert_eq!(from, ["", images.to_str().unwrap()]);
}

pub fn checkpoint_that_leaves_it_running(daemon: &Daemon) {
    if !has_criu(daemon, "checkpoint_that_leaves_it_running") {
        return;
    }
    let mut client = daemon.created("c", COUNT, &Io::none());
    let images = images(daemon);
    let refused = client.checkpoint("c", &images, CheckpointOptions::default()).unwrap_err();
    assert_eq!(refused.text, "cannot checkpoint a task in created state");
    start_to_count(&mut client);
    for _ in 0..2 {
        client.checkpoint("c", &images, CheckpointOptions::default()).unwrap();
        assert_eq!(status(&mut client, "c", ""), Status::RUNNING);
        assert!(images.join("inventory.img").exists());
        assert_eq!(client.run_exec("c", "e", "exit 4"), 4);
        client.delete("c", "e").unwrap();
    }
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    let refused = client.checkpoint("c", &images, CheckpointOptions::default()).unwrap_err();
    assert_eq!(refused.text, "cannot checkpoint a stopped container");
    client.delete("c", "").unwrap();
    let refused = client.checkpoint("c", &images, CheckpointOptions::default()).unwrap_err();
    assert_eq!(refused.code, 5);
}

/// What containerd's client does: Pause, Checkpoint, Resume.
pub fn checkpoint_of_a_paused_container(daemon: &Daemon) {
    if !has_criu(daemon, "checkpoint_of_a_paused_container") {
        return;
    }
    let mut client = daemon.created("c", COUNT, &Io::none());
    start_to_count(&mut client);
    let images = images(daemon);
    client.pause("c").unwrap();
    client.checkpoint("c", &images, CheckpointOptions::default()).unwrap();
    assert_eq!(status(&mut client, "c", ""), Status::PAUSED);
    client.resume("c").unwrap();
    assert_eq!(client.run_exec("c", "e", "exit 4"), 4);
    client.delete("c", "e").unwrap();
    // With exit there is nothing left to resume.
    client.pause("c").unwrap();
    client.checkpoint("c", &images, exiting()).unwrap();
    assert_eq!(client.wait("c", ""), 137);
    client.resume("c").unwrap_err();
    assert_eq!(client.delete("c", "").unwrap().exit_status, 137);
    assert!(!daemon.is_mounted("c") && !daemon.state_dir("c").exists() && daemon.cgroups("c").is_empty());
}

pub fn terminal_of_a_restored_container(daemon: &Daemon) {
    if !has_criu(daemon, "terminal_of_a_restored_container") {
        return;
    }
    let (images, first, second) = (images(daemon), daemon.io("first", true), daemon.io("second", true));
    let (mut before, mut after) = (reader(&first, 1), reader(&second, 1));
    let script = "while read -r line; do echo \"got $line\"; done";
    daemon.make_bundle("c", script, |config| config["process"]["terminal"] = true.into());
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &first).unwrap();
    client.start("c", "").unwrap();
    let mut stdin = first.stdin();
    stdin.write_all(b"one\n").unwrap();
    shows(&mut before, "got one");
    client.checkpoint("c", &images, exiting()).unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
    drop(stdin);

    assert_eq!(create_from(daemon, &mut client, &images, &second), Ok(0));
    client.resize("c", "", 99, 33).unwrap();
    client.start("c", "").unwrap();
    let mut stdin = second.stdin();
    stdin.write_all(b"two\n").unwrap();
    client.resize("c", "", 100, 40).unwrap();
    shows(&mut after, "got two");
    client.finish("c");
}

/// A file that has another name than it was opened by is what CRIU refuses.
pub fn failed_checkpoint_names_criu_s_log(daemon: &Daemon) {
    if !has_criu(daemon, "failed_checkpoint_names_criu_s_log") {
        return;
    }
    let script = "exec 9>/tmp/a; echo x >&9; busybox ln /tmp/a /tmp/b; rm /tmp/a; mkdir /tmp/done; while :; do sleep 0.05; done";
    let mut client = daemon.created("c", script, &Io::none());
    client.start("c", "").unwrap();
    until("the file", || daemon.rootfs.join("tmp/done").exists().then_some(()));
    let images = images(daemon);
    let refusal = client.checkpoint("c", &images, exiting()).unwrap_err();
    let log = daemon.bundle("c").join("criu-dump.log");
    assert_eq!(refusal.code, 2);
    assert!(refusal.text.contains("criu failed"), "{}", refusal.text);
    assert!(refusal.text.ends_with(&format!(" path= {}", log.display())), "{}", refusal.text);
    assert!(fs::read_to_string(&log).unwrap().contains("Error (criu/"));
    assert!(!daemon.bundle("c").join("work/criu-work").exists());
    // It runs on, though it was to end.
    assert_eq!(status(&mut client, "c", ""), Status::RUNNING);
    assert_eq!(client.run_exec("c", "e", "exit 4"), 4);
    client.delete("c", "e").unwrap();
    client.finish("c");
}

/// The work directory of a checkpoint is kept where one is named; CriuWorkPath is that of a restore.
pub fn work_directories_of_criu(daemon: &Daemon) {
    if !has_criu(daemon, "work_directories_of_criu") {
        return;
    }
    let mut client = daemon.created("c", COUNT, &Io::none());
    start_to_count(&mut client);
    let (images, work) = (images(daemon), daemon.dir.path().join("criu"));
    client.checkpoint("c", &images, CheckpointOptions::default()).unwrap();
    assert!(!daemon.bundle("c").join("work/criu-work").exists());
    let work_path = work.display().to_string();
    client
        .checkpoint("c", &images, CheckpointOptions { work_path, exit: true, ..Default::default() })
        .unwrap();
    assert!(work.join("dump.log").exists());
    client.wait("c", "");
    client.delete("c", "").unwrap();

    assert_eq!(create_from(daemon, &mut client, &images, &Io::none()), Ok(0));
    client.start("c", "").unwrap();
    assert!(daemon.bundle("c").join("work/restore.log").exists());
    client.finish("c");

    let mut request = daemon.create_request("c", &Io::none());
    request.checkpoint = images.display().to_string();
    let mut options =
        containerd_shim_protos::shim::oci::Options::parse_from_bytes(&request.options.value).unwrap();
    options.criu_work_path = work.display().to_string();
    request.options =
        MessageField::some(any("containerd.runc.v1.Options", options.write_to_bytes().unwrap()));
    client.call::<pb::CreateTaskResponse>("Create", &request).unwrap();
    client.start("c", "").unwrap();
    assert!(work.join("restore.log").exists());
    client.finish("c");
}

pub fn failed_restore_leaves_nothing(daemon: &Daemon) {
    if !has_criu(daemon, "failed_restore_leaves_nothing") {
        return;
    }
    let images = images(daemon);
    // What was /dev/null stays that.
    let first = daemon.io("first", false);
    let _readers = [first.read(1), first.read(2)];
    let mut client = written(daemon, &images, COUNT, &first);
    let hidden = images.join("pstree.hidden");
    fs::rename(images.join("pstree.img"), &hidden).unwrap();
    let io = daemon.io("c", false);
    create_from(daemon, &mut client, &images, &io).unwrap();
    let refusal = client.start("c", "").unwrap_err();
    assert_eq!(refusal.code, 2);
    assert!(refusal.text.starts_with("OCI runtime restore failed: "), "{}", refusal.text);
    let state = client.state("c", "").unwrap();
    assert_eq!((state.pid, state.status.unwrap()), (0, Status::CREATED));
    assert!(!daemon.state_dir("c").exists() && daemon.cgroups("c").is_empty());
    let shim = client.shim_pid();
    until("the end of all children", || children(shim).is_empty().then_some(()));
    // What was missing is there: the next Start finds all it needs.
    fs::rename(&hidden, images.join("pstree.img")).unwrap();
    let (mut output, _errors) = (reader(&io, 1), reader(&io, 2));
    client.start("c", "").unwrap();
    assert_eq!(client.run_exec("c", "e", "exit 4"), 4);
    client.delete("c", "e").unwrap();
    assert!(first_number(&mut output) > 0);
    client.finish("c");
}

pub fn created_checkpoint_that_is_deleted(daemon: &Daemon) {
    daemon.make_bundle("c", COUNT, |_| ());
    let address = daemon.start_shim("c");
    let mut client = Client::connect(&address);
    let io = daemon.io("c", false);
    let (mut output, _errors) = (reader(&io, 1), reader(&io, 2));
    assert_eq!(create_from(daemon, &mut client, &images(daemon), &io), Ok(0));
    let (shim, wait) = (client.shim_pid(), client.send_wait("c", ""));
    let deleted = client.delete("c", "").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status, deleted.exited_at.seconds), (0, 0, -62_135_596_800));
    client.receive::<pb::WaitResponse>(wait).unwrap();
    assert_eq!(output.read(&mut [0; 8]).unwrap(), 0, "the end of output that has never been");
    assert!(!daemon.is_mounted("c") && !daemon.state_dir("c").exists());
    daemon.events().wait("/tasks/delete", "c");
    assert_eq!(daemon.events().topics("c"), ["create", "delete"]);
    client.shutdown();
    daemon.assert_gone(shim, &address);
}

pub fn created_checkpoint_of_a_killed_shim(daemon: &Daemon) {
    daemon.make_bundle("c", COUNT, |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    create_from(daemon, &mut client, &images(daemon), &Io::none()).unwrap();
    assert!(daemon.is_mounted("c"));
    kill_shim(&mut client);
    assert_eq!(daemon.delete_command("c").exit_status, 137);
    assert!(!daemon.is_mounted("c"));
}

/// CRIU, which has lost its runtime, lets go of what it was writing.
pub fn killed_checkpoint_worker_leaves_it_running(daemon: &Daemon) {
    if !has_criu(daemon, "killed_checkpoint_worker_leaves_it_running") {
        return;
    }
    let images = images(daemon);
    let mut client = daemon.created("c", COUNT, &Io::none());
    let init = start_to_count(&mut client);
    let shim = client.shim_pid();
    let request = pb::CheckpointTaskRequest {
        id: "c".into(),
        path: images.display().to_string(),
        ..Default::default()
    };
    let mut killed = 0;
    for round in 0..kills() {
        let checkpoint = client.send(V2, "Checkpoint", &request);
        let worker = until("the worker", || children(shim).into_iter().find(|pid| *pid != init));
        std::thread::sleep(Duration::from_millis(16 * round));
        // It may have ended, and be reaped.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker as i32), Signal::SIGKILL);
        if let Err(refusal) = client.receive::<pb::Empty>(checkpoint) {
            assert!(refusal.text.contains("the worker was killed by signal 9"), "{}", refusal.text);
            killed += 1;
        }
        assert_eq!(status(&mut client, "c", ""), Status::RUNNING, "after {round} rounds");
        assert_eq!(client.run_exec("c", "e", "exit 4"), 4, "after {round} rounds");
        client.delete("c", "e").unwrap();
        until("the end of what it had started", || (children(shim) == [init]).then_some(()));
    }
    assert!(killed > 0, "every worker was quicker");
    if daemon.shim.is_davit() && daemon.runtime == crate::harness::Runtime::Davit {
        assert_eq!(daemon.mounts_of_criu(), Vec::<PathBuf>::new());
    }
    client.checkpoint("c", &images, CheckpointOptions::default()).unwrap();
    client.finish("c");
}

/// Whatever the worker was about: no process, state or cgroup is left, and the next Start does it.
pub fn killed_restore_worker_leaves_nothing(daemon: &Daemon) {
    if !has_criu(daemon, "killed_restore_worker_leaves_nothing") {
        return;
    }
    let images = images(daemon);
    let mut client = written(daemon, &images, COUNT, &Io::none());
    let shim = client.shim_pid();
    create_from(daemon, &mut client, &images, &Io::none()).unwrap();
    let request = pb::StartRequest { id: "c".into(), ..Default::default() };
    let mut killed = 0;
    for round in 0..kills() {
        let start = client.send(V2, "Start", &request);
        let worker = until("the worker", || children(shim).first().copied());
        std::thread::sleep(Duration::from_millis(16 * round));
        // It may have ended, and be reaped.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker as i32), Signal::SIGKILL);
        match client.receive::<pb::StartResponse>(start) {
            Err(refusal) => {
                assert!(refusal.text.contains("the worker was killed by signal 9"), "{}", refusal.text);
                killed += 1;
            }
            Ok(_) => {
                client.finish("c");
                create_from(daemon, &mut client, &images, &Io::none()).unwrap();
            }
        }
        until("the end of all children", || children(shim).is_empty().then_some(()));
        assert!(!daemon.state_dir("c").exists(), "state after {round} rounds");
        // runc mounts the rootfs into its state and, killed, leaves it there, to be deleted with it.
        assert!(daemon.rootfs.join("bin/busybox").exists(), "the rootfs after {round} rounds");
        assert!(daemon.cgroups("c").is_empty(), "cgroups after {round} rounds");
        assert_eq!(status(&mut client, "c", ""), Status::CREATED);
    }
    assert!(killed > 0, "every worker was quicker");
    client.start("c", "").unwrap();
    assert_eq!(client.run_exec("c", "e", "exit 4"), 4);
    client.delete("c", "e").unwrap();
    client.finish("c");
}

/// How many workers or shims are killed, each 16 ms later than the one before.
fn kills() -> u64 {
    std::env::var("RESTORE_KILLS").map_or(8, |text| text.parse().unwrap())
}

/// The same when the shim is killed, and `delete` comes.
pub fn killed_shim_in_the_middle_of_restore(daemon: &Daemon) {
    if !has_criu(daemon, "killed_shim_in_the_middle_of_restore") {
        return;
    }
    let images = images(daemon);
    let mut client = written(daemon, &images, COUNT, &Io::none());
    let first = client.shim_pid();
    client.shutdown();
    // Else the next one takes its place at an address that is about to go.
    daemon.assert_gone(first, &daemon.address());
    let request = pb::StartRequest { id: "c".into(), ..Default::default() };
    for round in 0..kills() {
        let mut client = Client::connect(&daemon.start_shim("c"));
        let shim = client.shim_pid();
        create_from(daemon, &mut client, &images, &Io::none()).unwrap();
        client.send(V2, "Start", &request);
        std::thread::sleep(Duration::from_millis(16 * round));
        let workers = children(shim);
        signal(shim, Signal::SIGKILL);
        until("the end of the shim", || (!alive(shim)).then_some(()));
        daemon.delete_command("c");
        assert!(!daemon.state_dir("c").exists() && !daemon.is_mounted("c"), "after {round} rounds");
        assert!(daemon.cgroups("c").is_empty(), "cgroups after {round} rounds");
        assert!(daemon.rootfs.join("bin/busybox").exists(), "the rootfs after {round} rounds");
        until("the end of its children", || workers.iter().all(|pid| !alive(*pid)).then_some(()));
    }
}

/// The runtime removes the cgroup with the container; its metrics are there until Delete all the same.
pub fn metrics_after_a_checkpoint_that_ends_it(daemon: &Daemon) {
    if !has_criu(daemon, "metrics_after_a_checkpoint_that_ends_it") {
        return;
    }
    let mut client = daemon.created("c", COUNT, &Io::none());
    start_to_count(&mut client);
    client.checkpoint("c", &images(daemon), exiting()).unwrap();
    client.wait("c", "");
    assert!(!client.stats("c").unwrap().value.is_empty());
    client.delete("c", "").unwrap();
}

/// The words are those of Go's shim (go-runc).
pub fn words_for_the_runtime(daemon: &Daemon) {
    let (script, trace) = (daemon.dir.path().join("wrapper"), daemon.dir.path().join("trace"));
    let text = "#!/bin/sh\ncase \" $* \" in *\" checkpoint \"*|*\" restore \"*) echo \"$@\" >>TRACE; exit 1 ;; esac\nexec runc \"$@\"\n";
    install(&script, &text.replace("TRACE", &trace.display().to_string()));
    daemon.make_bundle("c", "sleep 1000", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut request = daemon.create_request("c", &Io::none());
    request.options = MessageField::some(daemon.options_with(&script.display().to_string()));
    client.call::<pb::CreateTaskResponse>("Create", &request).unwrap();
    client.start("c", "").unwrap();
    let all = CheckpointOptions {
        exit: true,
        open_tcp: true,
        external_unix_sockets: true,
        terminal: true,
        file_locks: true,
        empty_namespaces: vec!["network".into(), "ipc".into()],
        work_path: "/w".into(),
        ..Default::default()
    };
    client.checkpoint("c", Path::new("/i"), all).unwrap_err();
    client.checkpoint("c", Path::new("/i"), CheckpointOptions::default()).unwrap_err();
    client.finish("c");
    request.checkpoint = "/i".into();
    client.call::<pb::CreateTaskResponse>("Create", &request).unwrap();
    client.start("c", "").unwrap_err();
    client.delete("c", "").unwrap();

    let text = fs::read_to_string(trace).unwrap();
    let words = |line: usize, command: &str| -> Vec<String> {
        let line: Vec<&str> = text.lines().nth(line).unwrap().split(' ').collect();
        let from = line.iter().position(|word| *word == command).unwrap();
        // Go's package takes one dash as two.
        line[from..]
            .iter()
            .map(|word| word.replace("-no-subreaper", "--no-subreaper").replace("---", "--"))
            .collect()
    };
    let sorted = |mut words: Vec<String>| {
        words.sort();
        words
    };
    let expected = |text: &str| sorted(text.split(' ').map(str::to_owned).collect());
    let bundle = daemon.bundle("c").display().to_string();
    assert_eq!(
        sorted(words(0, "checkpoint")),
        expected(
            "checkpoint --image-path /i --work-path /w --tcp-established --ext-unix-sk --shell-job --file-locks --empty-ns network --empty-ns ipc c"
        )
    );
    assert_eq!(
        sorted(words(1, "checkpoint")),
        expected(&format!(
            "checkpoint --image-path /i --work-path {bundle}/work/criu-work --leave-running c"
        ))
    );
    assert_eq!(
        sorted(words(2, "restore")),
        expected(&format!(
            "restore --image-path /i --work-path {bundle}/work --detach --pid-file {bundle}/init.pid --no-subreaper --bundle {bundle} c"
        ))
    );
}
