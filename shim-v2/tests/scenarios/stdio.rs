//! FIFOs, files, programs and terminals.

use crate::prelude::*;

pub fn a_megabyte_of_output_and_its_end(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let (stdout, stderr) = (io.read(1), io.read(2));
    let script = "head -c 1048577 /proc/self/exe | tee /tmp/copy; head -c 1048577 /proc/self/exe >&2";
    let mut client = daemon.created("c", script, &io);
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 0);
    let expected = &fs::read("/bin/busybox").unwrap()[..1_048_577];
    assert!(stdout.join().unwrap() == expected, "stdout is complete and ends");
    assert!(stderr.join().unwrap() == expected, "stderr is complete and ends");
    client.delete("c", "").unwrap();
}

pub fn stdin_ends_with_close_io(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let (stdout, _stderr) = (io.read(1), io.read(2));
    let mut client = daemon.created("c", "cat; exit 3", &io);
    client.start("c", "").unwrap();
    let mut stdin = io.stdin();
    stdin.write_all(b"hello").unwrap();
    drop(stdin);
    // The client's end alone is not the end: another client may attach.
    let waiting = client.send_wait("c", "");
    io.stdin().write_all(b" again").unwrap();
    assert!(!client.has_answer(waiting));
    let request = pb::CloseIORequest { id: "c".into(), stdin: true, ..Default::default() };
    client.call::<pb::Empty>("CloseIO", &request).unwrap();
    assert_eq!(client.receive::<pb::WaitResponse>(waiting).unwrap().exit_status, 3);
    assert_eq!(stdout.join().unwrap(), b"hello again");
    client.delete("c", "").unwrap();
}

pub fn terminal_has_the_size_that_came_before_start(daemon: &Daemon) {
    let io = daemon.io("c", true);
    let stdout = io.read(1);
    daemon.make_bundle("c", "stty size; exit 4", |config| config["process"]["terminal"] = true.into());
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &io).unwrap();
    let request = pb::ResizePtyRequest { id: "c".into(), width: 77, height: 33, ..Default::default() };
    client.call::<pb::Empty>("ResizePty", &request).unwrap();
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 4);
    assert_eq!(String::from_utf8(stdout.join().unwrap()).unwrap(), "33 77\r\n");
    client.delete("c", "").unwrap();
}

pub fn grandchild_that_holds_the_output_does_not_hold_delete(daemon: &Daemon) {
    let io = daemon.io("e", false);
    let (stdout, _stderr) = (io.read(1), io.read(2));
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    client.exec("c", "e", "echo said; sleep 1000 &", &io).unwrap();
    client.start("c", "e").unwrap();
    assert_eq!(client.wait("c", "e"), 0);
    client.delete("c", "e").unwrap();
    assert_eq!(stdout.join().unwrap(), b"said\n", "Delete ends the reader's FIFO");
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
}

pub fn a_reader_that_comes_back_misses_nothing(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let _stderr = io.read(2);
    let script = "echo first; cat >/dev/null; seq 100000; exit 0";
    let path = io.path(1);
    let first = std::thread::spawn(move || {
        let mut line = [0; 6];
        std::io::Read::read_exact(&mut fs::File::open(path).unwrap(), &mut line).unwrap();
        line
    });
    let mut client = daemon.created("c", script, &io);
    client.start("c", "").unwrap();
    assert_eq!(&first.join().unwrap(), b"first\n");
    // Nobody reads now, and the process goes on: its output is more than a pipe and a FIFO hold.
    let request = pb::CloseIORequest { id: "c".into(), stdin: true, ..Default::default() };
    client.call::<pb::Empty>("CloseIO", &request).unwrap();
    let waiting = client.send_wait("c", "");
    assert_eq!(client.state("c", "").unwrap().status.unwrap(), Status::RUNNING);
    let rest = io.read(1);
    assert_eq!(client.receive::<pb::WaitResponse>(waiting).unwrap().exit_status, 0, "no SIGPIPE");
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(rest.join().unwrap() == expected.as_bytes());
    client.delete("c", "").unwrap();
}

pub fn output_without_a_reader_waits_for_one(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let mut client = daemon.created("c", "echo late; echo bad >&2", &io);
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 0, "nothing waits for the FIFO's reader");
    let (stdout, stderr) = (io.read(1), io.read(2));
    assert_eq!((stdout.join().unwrap(), stderr.join().unwrap()), (b"late\n".to_vec(), b"bad\n".to_vec()));
    client.delete("c", "").unwrap();
}

pub fn a_reader_that_sleeps_does_not_hold_delete(daemon: &Daemon) {
    let io = daemon.io("c", false);
    // Open, and not read until the end.
    let open = |index| {
        let path = io.path(index);
        std::thread::spawn(move || fs::File::open(path).unwrap())
    };
    let (stdout, stderr) = (open(1), open(2));
    let mut client = daemon.created("c", "for i in $(seq 200); do echo line $i; sleep 0; done", &io);
    client.start("c", "").unwrap();
    let (mut stdout, _stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    assert_eq!(client.wait("c", ""), 0);
    client.delete("c", "").unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut text).unwrap();
    let expected: String = (1..=200).map(|n| format!("line {n}\n")).collect();
    assert_eq!(text, expected, "the FIFO has kept every line");
}

pub fn output_goes_to_a_file_or_a_logging_program(daemon: &Daemon) {
    daemon.make_bundle("c", "echo out; echo err >&2; exit 2", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut run = |stdout: &str| {
        let mut request = daemon.create_request("c", &Io::none());
        request.stdout = stdout.to_owned();
        client.call::<pb::CreateTaskResponse>("Create", &request)?;
        client.start("c", "").unwrap();
        assert_eq!(client.wait("c", ""), 2);
        client.delete("c", "").map(drop)
    };
    let file = daemon.dir.path().join("logs/c.log");
    run(&format!("file://{}", file.display())).unwrap();
    let mut lines: Vec<String> = fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);

    // A program and a log for each: the shell of one may read its script's end later than the next is written.
    let path = |name: &str| daemon.dir.path().join(name);
    let script = |ready: &str| {
        format!("#!/bin/sh\n{ready}\nexec 5>&-\n(echo $CONTAINER_ID $1 $2; cat <&3; cat <&4; echo end) >$2\n")
    };
    for (scheme, ready) in [("binary", ""), ("binary-v2", "printf r >&5")] {
        let (program, log) = (path(&format!("{scheme}-logger")), path(&format!("{scheme}-log")));
        install(&program, &script(ready));
        run(&format!("{scheme}://{}?to={}", program.display(), log.display())).unwrap();
        let expected = format!("c to {}\nout\nerr\nend\n", log.display());
        until("the whole log", || (fs::read_to_string(&log).ok()? == expected).then_some(()));
    }
    install(&path("ends"), "#!/bin/sh\nexit 1\n");
    let refusal = run(&format!("binary-v2://{}", path("ends").display())).unwrap_err();
    assert!(refusal.text.contains("ended before it was ready"), "{}", refusal.text);
    let refusal = run("kafka://topic").unwrap_err();
    assert!(refusal.text.contains("unknown STDIO scheme \"kafka\""), "{}", refusal.text);
}

/// docker/cli#4338, moby#27289: the end of the output, at sizes around those of pipes.
pub fn the_tail_of_every_size(daemon: &Daemon) {
    daemon.make_bundle("c", "", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    for size in [0, 1, 4095, 4097, 65_535, 65_536, 65_537, 1 << 20, (1 << 20) + 1] {
        let io = daemon.io(&format!("c{size}"), false);
        let (stdout, _stderr) = (io.read(1), io.read(2));
        daemon.make_bundle("c", &format!("head -c {size} /dev/zero"), |config| {
            let zero = serde_json::json!({"path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 438});
            config["linux"]["devices"] = serde_json::json!([zero]);
        });
        daemon.create(&mut client, "c", &io).unwrap();
        client.start("c", "").unwrap();
        assert_eq!(client.wait("c", ""), 0);
        client.delete("c", "").unwrap();
        assert_eq!(stdout.join().unwrap().len(), size);
    }
}

/// #4107, #3738: a terminal whose stdin is closed at once.
pub fn terminal_output_goes_on_after_stdin_s_end(daemon: &Daemon) {
    let io = daemon.io("c", true);
    let stdout = io.read(1);
    daemon.make_bundle("c", "seq 50000", |config| config["process"]["terminal"] = true.into());
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &io).unwrap();
    drop(io.stdin());
    client.close_stdin("c", "").unwrap();
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 0);
    client.delete("c", "").unwrap();
    let expected: String = (1..=50_000).map(|n| format!("{n}\r\n")).collect();
    assert!(stdout.join().unwrap() == expected.as_bytes());
}

/// #11160, #11168: a terminal's descriptors go with its process, though a client still holds stdin open.
pub fn terminal_is_closed_though_stdin_is_held(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    daemon.events().wait("/tasks/start", "c");
    let shim = client.shim_pid();
    let before = open_files(shim);
    let mut held = Vec::new();
    for n in 0..5 {
        let (io, exec) = (daemon.io(&format!("e{n}"), true), format!("e{n}"));
        let stdout = io.read(1);
        client.exec("c", &exec, "echo hello", &io).unwrap();
        client.start("c", &exec).unwrap();
        held.push(fs::OpenOptions::new().read(true).write(true).open(io.path(0)).unwrap());
        assert_eq!(client.wait("c", &exec), 0);
        client.delete("c", &exec).unwrap();
        stdout.join().unwrap();
    }
    until("the descriptors' end", || (open_files(shim) <= before).then_some(()));
    client.finish("c");
}

/// #13377: a grandchild that writes and writes does not keep Delete: the shim waits 9 s, less than CRI's patience.
pub fn grandchild_that_writes_on_and_on(daemon: &Daemon) {
    let io = daemon.io("e", false);
    let (stdout, _stderr) = (io.read(1), io.read(2));
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    client.exec("c", "e", "(while true; do echo tick; sleep 1; done) & exit 0", &io).unwrap();
    client.start("c", "e").unwrap();
    assert_eq!(client.wait("c", "e"), 0);
    let begun = Instant::now();
    client.delete("c", "e").unwrap();
    // With what a busy machine adds.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    client.finish("c");
    assert!(stdout.join().unwrap().starts_with(b"tick\n"));
}

pub fn five_megabytes_of_input(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let (stdout, _stderr) = (io.read(1), io.read(2));
    let mut client = daemon.created("c", "cat", &io);
    client.start("c", "").unwrap();
    let bytes: Vec<u8> = (0..5_000_000_u32).flat_map(|n| [(n % 251) as u8]).collect();
    let (mut stdin, copy) = (fs::OpenOptions::new().write(true).open(io.path(0)).unwrap(), bytes.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&copy).unwrap());
    writer.join().unwrap();
    client.close_stdin("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 0);
    client.delete("c", "").unwrap();
    assert!(stdout.join().unwrap() == bytes);
}

/// The process reads one line and ends; the client writes on.
pub fn input_that_nobody_reads(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let (stdout, _stderr) = (io.path(1), io.read(2));
    let output = std::thread::spawn(move || {
        let (mut stdout, mut line) = (fs::File::open(stdout).unwrap(), [0; 5]);
        stdout.read_exact(&mut line).unwrap();
        (stdout, line)
    });
    let mut client = daemon.created("c", "head -n 1; exec <&-; sleep 1000", &io);
    client.start("c", "").unwrap();
    let mut stdin = io.stdin();
    stdin.write_all(b"line\n").unwrap();
    for _ in 0..100 {
        // The FIFO may be full, or without a reader: the shim must only live.
        let _ = stdin.write(&[b'x'; 4096]);
    }
    assert_eq!(status(&mut client, "c", ""), Status::RUNNING);
    // Open to the end, so that nothing but the input is at fault.
    let (_stdout, line) = output.join().unwrap();
    assert_eq!(&line, b"line\n");
    client.finish("c");
}

pub fn close_io_without_stdin_is_nothing(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let (stdout, _stderr) = (io.read(1), io.read(2));
    let mut client = daemon.created("c", "cat", &io);
    client.start("c", "").unwrap();
    let request = pb::CloseIORequest { id: "c".into(), stdin: false, ..Default::default() };
    client.call::<pb::Empty>("CloseIO", &request).unwrap();
    io.stdin().write_all(b"still").unwrap();
    client.close_stdin("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 0);
    client.delete("c", "").unwrap();
    assert_eq!(stdout.join().unwrap(), b"still");
}

pub fn terminal_is_resized_while_it_runs(daemon: &Daemon) {
    let io = daemon.io("c", true);
    let stdout = io.read(1);
    daemon.make_bundle("c", "read x; stty size", |config| config["process"]["terminal"] = true.into());
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &io).unwrap();
    client.start("c", "").unwrap();
    client.resize("c", "", 123, 45).unwrap();
    io.stdin().write_all(b"go\n").unwrap();
    assert_eq!(client.wait("c", ""), 0);
    client.delete("c", "").unwrap();
    let text = String::from_utf8(stdout.join().unwrap()).unwrap();
    assert!(text.ends_with("45 123\r\n"), "{text:?}");
}

pub fn resize_without_a_terminal_is_nothing(daemon: &Daemon) {
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    client.resize("c", "", 10, 10).unwrap();
    assert_eq!(client.run_exec("c", "e", "exit 0"), 0);
    assert_eq!(client.resize("c", "e", 10, 10).unwrap_err().text, "cannot resize a stopped container");
    client.finish("c");
}

/// The hang-up of a terminal reaches what runs in it.
pub fn terminal_hangs_up_at_its_end(daemon: &Daemon) {
    let io = daemon.io("e", true);
    let stdout = io.read(1);
    let mut client = daemon.created("c", "sleep 1000", &Io::none());
    client.start("c", "").unwrap();
    // The child says when it is ready for the signal; its parent, the session's leader, ends then.
    let child = "(trap 'echo hup >/tmp/hup; exit 0' HUP; echo >/tmp/ready; while true; do sleep 0.1; done) &";
    let script = format!("{child} until test -e /tmp/ready; do sleep 0.1; done; trap '' HUP; exit 0");
    client.exec("c", "e", &script, &io).unwrap();
    client.start("c", "e").unwrap();
    assert_eq!(client.wait("c", "e"), 0);
    client.delete("c", "e").unwrap();
    stdout.join().unwrap();
    until("the hang-up", || daemon.rootfs.join("tmp/hup").exists().then_some(()));
    client.finish("c");
}

pub fn terminal_reader_that_comes_back(daemon: &Daemon) {
    let io = daemon.io("c", true);
    let path = io.path(1);
    let first = std::thread::spawn(move || {
        let mut line = [0; 7];
        fs::File::open(path).unwrap().read_exact(&mut line).unwrap();
        line
    });
    daemon.make_bundle("c", "echo first; read x; seq 20000", |config| {
        config["process"]["terminal"] = true.into()
    });
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &io).unwrap();
    client.start("c", "").unwrap();
    assert_eq!(&first.join().unwrap(), b"first\r\n");
    io.stdin().write_all(b"go\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let rest = io.read(1);
    assert_eq!(client.wait("c", ""), 0);
    client.delete("c", "").unwrap();
    let text = String::from_utf8(rest.join().unwrap()).unwrap();
    let expected: String = (1..=20_000).map(|n| format!("{n}\r\n")).collect();
    assert!(text.ends_with(&expected), "{} bytes", text.len());
}

/// A terminal's output to a logging program: one input, the second ends at once.
pub fn terminal_to_a_logging_program(daemon: &Daemon) {
    let (program, log) = (daemon.dir.path().join("logger"), daemon.dir.path().join("log"));
    install(&program, &format!("#!/bin/sh\nexec 5>&-\n(cat <&3; cat <&4; echo end) >{}\n", log.display()));
    daemon.make_bundle("c", "echo out; echo err >&2; tty", |config| {
        config["process"]["terminal"] = true.into()
    });
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut request = daemon.create_request("c", &Io::none());
    request.terminal = true;
    request.stdout = format!("binary://{}", program.display());
    client.call::<pb::CreateTaskResponse>("Create", &request).unwrap();
    client.start("c", "").unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
    until("the whole log", || {
        fs::read_to_string(&log)
            .ok()
            .filter(|text| text.starts_with("out\r\nerr\r\n") && text.ends_with("end\n"))
    });
}

/// #12490: a logging program that crashes is not taken for one that is ready.
pub fn logging_program_that_crashes(daemon: &Daemon) {
    let program = daemon.dir.path().join("logger");
    install(&program, "#!/bin/sh\nexit 1\n");
    daemon.make_bundle("c", "echo out", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut request = daemon.create_request("c", &Io::none());
    request.stdout = format!("binary-v2://{}", program.display());
    assert!(client.call::<pb::CreateTaskResponse>("Create", &request).is_err());
    assert_eq!(client.state("c", "").unwrap_err().code, 5);
}

/// A logging program gets nothing but what it needs, and is reaped.
pub fn logging_program_s_environment_and_end(daemon: &Daemon) {
    let (program, log) = (daemon.dir.path().join("logger"), daemon.dir.path().join("log"));
    install(
        &program,
        &format!(
            "#!/bin/sh\n(echo $CONTAINER_ID $CONTAINER_NAMESPACE $TTRPC_ADDRESS; ls /proc/self/fd | wc -l) >{}\nexec 5>&-\nexec cat <&3 >/dev/null\n",
            log.display()
        ),
    );
    daemon.make_bundle("c", "echo out", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let shim = client.shim_pid();
    let mut request = daemon.create_request("c", &Io::none());
    request.stdout = format!("binary://{}", program.display());
    client.call::<pb::CreateTaskResponse>("Create", &request).unwrap();
    client.start("c", "").unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
    let text = fs::read_to_string(&log).unwrap();
    // 0 to 5, and what ls opens itself.
    assert_eq!(text, format!("c {}\n7\n", daemon.namespace));
    until("no child", || children(shim).is_empty().then_some(()));
}

pub fn output_to_a_file_is_appended(daemon: &Daemon) {
    let file = daemon.dir.path().join("deep/er/c.log");
    daemon.make_bundle("c", "echo out; echo err >&2", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    for _ in 0..2 {
        let mut request = daemon.create_request("c", &Io::none());
        request.stdout = format!("file://{}", file.display());
        client.call::<pb::CreateTaskResponse>("Create", &request).unwrap();
        client.start("c", "").unwrap();
        client.wait("c", "");
        client.delete("c", "").unwrap();
    }
    let mut lines: Vec<String> = fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "err", "out", "out"]);
}

/// A path that is no FIFO, the same for both: appended, nothing overwrites the other.
pub fn both_outputs_into_one_plain_file(daemon: &Daemon) {
    let file = daemon.dir.path().join("plain");
    fs::write(&file, "before\n").unwrap();
    daemon.make_bundle("c", "echo out; echo err >&2", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut request = daemon.create_request("c", &Io::none());
    (request.stdout, request.stderr) = (file.display().to_string(), file.display().to_string());
    client.call::<pb::CreateTaskResponse>("Create", &request).unwrap();
    client.start("c", "").unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
    let mut lines: Vec<String> = fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["before", "err", "out"]);
}

pub fn a_scheme_that_there_is_not(daemon: &Daemon) {
    daemon.make_bundle("c", "true", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut request = daemon.create_request("c", &Io::none());
    request.stdout = "kafka://topic".into();
    let refusal = client.call::<pb::CreateTaskResponse>("Create", &request).unwrap_err();
    assert!(refusal.text.contains("unknown STDIO scheme"), "{}", refusal.text);
    assert!(!daemon.is_mounted("c"));
}

/// IoUid and IoGid: the pipes' owner, so that an ordinary user can reopen /dev/stdout.
pub fn owner_of_the_pipes(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let (stdout, _stderr) = (io.read(1), io.read(2));
    // The runtime gives the pipes to the process's user, and leaves the group as the shim has set it.
    daemon.make_bundle("c", "stat -L -c '%u %g' /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2", |config| {
        config["process"]["user"]["uid"] = 1234.into();
    });
    let mut client = Client::connect(&daemon.start_shim("c"));
    let mut request = daemon.create_request("c", &io);
    let mut options =
        containerd_shim_protos::shim::oci::Options::parse_from_bytes(&request.options.value).unwrap();
    (options.io_uid, options.io_gid) = (1234, 567);
    request.options =
        MessageField::some(any("containerd.runc.v1.Options", options.write_to_bytes().unwrap()));
    client.call::<pb::CreateTaskResponse>("Create", &request).unwrap();
    client.start("c", "").unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
    assert_eq!(String::from_utf8(stdout.join().unwrap()).unwrap(), "1234 567\n".repeat(3));
}

/// dockerd's options of its own runtime types say nothing of ids: the mapping of the spec's user does.
pub fn owner_of_the_pipes_in_a_user_namespace(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let (stdout, _stderr) = (io.read(1), io.read(2));
    daemon.make_bundle("c", "echo again >/proc/self/fd/1", |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(serde_json::json!({"type": "user"}));
        let map = serde_json::json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
    });
    Command::new("chmod").arg("-R").arg("a+rX").arg(daemon.dir.path()).status().unwrap();
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &io).unwrap();
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 0);
    client.delete("c", "").unwrap();
    assert_eq!(stdout.join().unwrap(), b"again\n");
}

/// A reader that sleeps fills the FIFO and stops its container, and nobody else.
pub fn a_stalled_reader_stops_its_own_container_only(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let path = io.path(1);
    let opener = std::thread::spawn(move || fs::File::open(path).unwrap());
    let _stderr = io.read(2);
    let mut client = daemon.created("c", "yes", &io);
    client.start("c", "").unwrap();
    let _sleeper = opener.join().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let other = daemon.io("e", false);
    let (stdout, _e) = (other.read(1), other.read(2));
    client.exec("c", "e", "echo quick", &other).unwrap();
    client.start("c", "e").unwrap();
    assert_eq!(client.wait("c", "e"), 0);
    client.delete("c", "e").unwrap();
    assert_eq!(stdout.join().unwrap(), b"quick\n");
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
}

/// #9217's kind for stdio: half a gigabyte (`STDIO_MEGABYTES`) through, and the shim is as small as before.
pub fn bulk_output_leaves_no_memory(daemon: &Daemon) {
    let megabytes: u64 = std::env::var("STDIO_MEGABYTES").ok().and_then(|n| n.parse().ok()).unwrap_or(512);
    let io = daemon.io("c", false);
    let path = io.path(1);
    let reader = std::thread::spawn(move || {
        std::io::copy(&mut fs::File::open(path).unwrap(), &mut std::io::sink()).unwrap()
    });
    let _stderr = io.read(2);
    daemon.make_bundle("c", &format!("dd if=/dev/zero bs=1M count={megabytes} 2>/dev/null"), |config| {
        let zero =
            serde_json::json!({"path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 438});
        config["linux"]["devices"] = serde_json::json!([zero]);
    });
    let mut client = Client::connect(&daemon.start_shim("c"));
    daemon.create(&mut client, "c", &io).unwrap();
    let shim = client.shim_pid();
    let before = anonymous_kb(shim);
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 0);
    assert_eq!(reader.join().unwrap(), megabytes << 20);
    client.delete("c", "").unwrap();
    let after = anonymous_kb(shim);
    assert!(after <= before + 128, "{before} KB before, {after} KB after");
}

pub fn stdin_without_a_writer_holds_nobody(daemon: &Daemon) {
    let io = daemon.io("c", false);
    let (_stdout, _stderr) = (io.read(1), io.read(2));
    let mut client = daemon.created("c", "cat; exit 2", &io);
    client.start("c", "").unwrap();
    client.close_stdin("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 2);
    client.delete("c", "").unwrap();
}

pub fn no_stdio_is_dev_null(daemon: &Daemon) {
    let script = "exec 9>/tmp/stdio; ls -l /proc/$$/fd >&9; sleep 1000";
    let mut client = daemon.created("c", script, &Io::none());
    client.start("c", "").unwrap();
    let text = until("the listing", || {
        fs::read_to_string(daemon.rootfs.join("tmp/stdio")).ok().filter(|t| t.contains(" 9 -> "))
    });
    assert_eq!(text.matches("/dev/null").count(), 3, "{text}");
    client.finish("c");
}
