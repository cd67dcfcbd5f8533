//! Attacks on the shim: who may talk to it, what they may say, and what its containers can do to it.
//!
//! SECURITY.md has the table; the attacks on the runtime are in `tests/tests/attacks/`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends at the first surprise")]

mod harness;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use containerd_shim_protos::api as pb;
use davit::sys::mount::{MountAttr, Reach, mount_setattr};
use harness::{Client, Daemon, Io, Runtime, can_run, install, until};
use nix::fcntl::OFlag;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-davit-v2");

fn daemon(test: &str) -> Option<Daemon> {
    can_run(test, Runtime::Davit).then(|| Daemon::new(Runtime::Davit))
}

fn path_of(address: &str) -> PathBuf {
    PathBuf::from(address.strip_prefix("unix://").unwrap())
}

/// Memory of a shim that is its own, in KiB.
fn anonymous(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The socket is a file that only root can reach; an abstract one has no mode (CVE-2020-15257 of containerd).
#[test]
fn cve_2020_15257_the_socket_is_a_file_of_root() {
    let Some(daemon) = daemon("cve_2020_15257_the_socket_is_a_file_of_root") else { return };
    daemon.make_bundle("c", "true", |_| ());
    let path = path_of(&daemon.start_shim("c"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let name = path.file_name().unwrap().to_str().unwrap();
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let ours: Vec<&str> = sockets.lines().filter(|line| line.contains(name)).collect();
    assert!(!ours.is_empty() && ours.iter().all(|line| !line.contains('@')), "{ours:?}");
}

/// Another user who can reach the socket, by a mistake of the host's, is not answered.
#[test]
fn another_user_is_not_answered() {
    let Some(daemon) = daemon("another_user_is_not_answered") else { return };
    daemon.make_bundle("c", "true", |_| ());
    let address = daemon.start_shim("c");
    let path = path_of(&address);
    for part in path.ancestors().take(3) {
        fs::set_permissions(part, fs::Permissions::from_mode(0o777)).unwrap();
    }
    // A request without a service, to which there is an answer, and how many bytes of it come.
    let script = "$SIG{PIPE} = 'IGNORE'; socket(S, PF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un($ARGV[0])) or die \"connect: $!\"; \
        syswrite(S, pack('NNCC', 0, 1, 1, 0)); my $n = sysread(S, my $b, 10); print defined $n ? $n : 'reset'";
    let ask = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        let output =
            command.args(&words[1..]).args(["perl", "-MSocket", "-e", script]).arg(&path).output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr)
    };
    assert_eq!(ask(&["env"]), "10", "root is answered");
    for (uid, gid) in [("1000", "1000"), ("1000", "0"), ("0", "1000")] {
        let answer = ask(&["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups"]);
        assert!(["0", "reset"].contains(&answer.as_str()), "uid {uid} gid {gid}: {answer}");
    }
    // It goes on as before.
    assert!(Client::connect(&address).connect_task("").shim_pid > 0);
}

fn header(length: u32, stream: u32, kind: u8) -> Vec<u8> {
    [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0]].concat()
}

/// Bytes that are no ttrpc, frames that are too long, calls that are no protobuf, clients that stop in the middle and
/// clients that never read.
#[test]
fn hostile_clients_do_not_hurt_others() {
    let Some(daemon) = daemon("hostile_clients_do_not_hurt_others") else { return };
    let mut good = daemon.created("c", "exec sleep 1000", &Io::none());
    good.start("c", "").unwrap();
    let shim = good.connect_task("c").shim_pid;
    let before = anonymous(shim);
    let path = path_of(&format!("unix://{}", address_of(&daemon, "c")));
    let connect = || {
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    };
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut noise = |length: usize| (0..length).map(|_| random() as u8).collect::<Vec<u8>>();
    let mut held = Vec::new();
    for round in 0..200_u32 {
        let bytes = match round % 8 {
            0 => noise(64),
            1 => [header(u32::MAX, 1, 1), noise(256)].concat(),
            2 => header(4 << 20, 1, 1),
            3 => [header(300, 2 * round + 1, 1), noise(300)].concat(),
            4 => [header(0, 2, 1), header(0, 0, 1), header(0, u32::MAX, 1)].concat(),
            5 => [header(10, 1, 3), noise(10), header(5, 1, 2), noise(5)].concat(),
            6 => header(8, 1, 1)[..7].to_vec(),
            _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        };
        let mut stream = connect();
        // A shim that has hung up already is as good an answer.
        let _ = stream.write_all(&bytes);
        if round % 3 == 0 {
            held.push(stream);
        }
    }
    // A client that asks and never reads: it is cut off before its answers fill the shim.
    let mut deaf = connect();
    let question = header(0, 1, 1).repeat(4096);
    let start = Instant::now();
    while deaf.write_all(&question).is_ok() && start.elapsed() < Duration::from_secs(20) {}
    assert!(good.state("c", "").is_ok(), "the others are answered");
    let peak = anonymous(shim);
    assert!(peak < before + (48 << 10), "{before} KiB before, {peak} KiB after");
    drop((deaf, held));
    until("its memory to come back", || {
        assert!(good.state("c", "").is_ok());
        (anonymous(shim) < before + (4 << 10)).then_some(())
    });
    good.kill("c", "", 9).unwrap();
    good.wait("c", "");
    good.delete("c", "").unwrap();
}

fn address_of(daemon: &Daemon, id: &str) -> String {
    let address = fs::read_to_string(daemon.bundle(id).join("address")).unwrap();
    address.strip_prefix("unix://").unwrap().to_owned()
}

/// Ids that are paths, bundles that are none, requests that are cut short.
#[test]
fn hostile_requests_are_refused() {
    let Some(daemon) = daemon("hostile_requests_are_refused") else { return };
    let canary = daemon.dir.path().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("config.json"), "{}").unwrap();
    daemon.make_bundle("c", "exec sleep 1000", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    for id in ["../canary", "..", "", "a/b", "/etc", "a\nb", &"x".repeat(5000)] {
        let mut request = daemon.create_request("c", &Io::none());
        request.id = id.to_owned();
        let answer = client.call::<pb::CreateTaskResponse>("Create", &request);
        assert!(answer.is_err(), "{id:?}");
    }
    for bundle in ["/nosuch", "", "relative", "/etc/passwd"] {
        let mut request = daemon.create_request("c", &Io::none());
        request.bundle = bundle.to_owned();
        assert!(client.call::<pb::CreateTaskResponse>("Create", &request).is_err(), "{bundle}");
    }
    daemon.create(&mut client, "c", &Io::none()).unwrap();
    client.start("c", "").unwrap();
    for spec in [&b"{"[..], b"", b"[]", b"null", b"{\"args\": 1}", b"\xff\xfe"] {
        let any = Any { type_url: "spec".into(), value: spec.to_vec(), ..Default::default() };
        let request = pb::ExecProcessRequest {
            id: "c".into(),
            exec_id: "e".into(),
            spec: MessageField::some(any),
            ..Default::default()
        };
        if client.call::<pb::Empty>("Exec", &request).is_ok() {
            assert!(client.start("c", "e").is_err(), "{spec:?}");
            client.delete("c", "e").unwrap();
        }
    }
    // Fields that are cut short, and numbers of no enum.
    let whole = daemon.create_request("c", &Io::none()).write_to_bytes().unwrap();
    for method in ["Create", "Start", "Exec", "Kill", "Update", "Delete", "Nosuch", ""] {
        let cut = Any { value: whole[..whole.len() / 2].to_vec(), ..Default::default() };
        let answer = client.call::<pb::Empty>(method, &cut);
        assert!(answer.is_err(), "{method}");
    }
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 1);
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    client.delete("c", "").unwrap();
}

/// Standard streams that are something else than a FIFO with a reader: an error or a stream, never a shim that hangs.
#[test]
fn hostile_streams_and_log_uris() {
    let Some(daemon) = daemon("hostile_streams_and_log_uris") else { return };
    let dir = daemon.dir.path().join("streams");
    fs::create_dir(&dir).unwrap();
    let at = |name: &str| dir.join(name).display().to_string();
    std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
    std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    daemon.make_bundle("c", "echo out; exec true", |_| ());
    let mut client = Client::connect(&daemon.start_shim("c"));
    let long = format!("/{}", "x".repeat(5000));
    let bad = [
        at("loop"),
        at("dangling"),
        at("socket"),
        at("missing"),
        dir.display().to_string(),
        long.clone(),
        format!("file://{long}"),
        "file:///proc/nosuch/x".into(),
        format!("file://{}", dir.display()),
        "binary:///nosuch".into(),
        "binary://".into(),
        format!("binary://{}", dir.display()),
        "kafka://x".into(),
        "://".into(),
        "unix:///x".into(),
        "a\u{0}b".into(),
    ];
    for stdout in bad {
        let mut request = daemon.create_request("c", &Io::none());
        request.stdout.clone_from(&stdout);
        let answer = client.call::<pb::CreateTaskResponse>("Create", &request);
        let shown: String = stdout.chars().take(60).collect();
        assert!(answer.is_err(), "{shown:?}");
    }
    assert!(!Path::new(&at("nowhere")).exists(), "nothing is made through a link");
    // A FIFO that nobody opens does not hold the container.
    let io = daemon.io("c", false);
    daemon.create(&mut client, "c", &io).unwrap();
    client.start("c", "").unwrap();
    assert_eq!(client.wait("c", ""), 0);
    client.delete("c", "").unwrap();
}

/// A container that forks and writes as fast as it can, on both of its streams, which nobody reads.
#[test]
fn a_container_that_forks_and_writes_as_fast_as_it_can() {
    let Some(daemon) = daemon("a_container_that_forks_and_writes_as_fast_as_it_can") else { return };
    // Ten that write, ten that fork, always below the limit: a shell that can't fork says so and ends.
    let script = "flood() { while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; echo e >&2; done; }; \
        churn() { while :; do (true); done; }; \
        for i in 0 1 2 3 4 5 6 7 8 9; do flood & churn & done; wait";
    daemon.make_bundle("c", script, |config| {
        config["linux"]["resources"] = serde_json::json!({"pids": {"limit": 40}});
    });
    let mut client = Client::connect(&daemon.start_shim("c"));
    // One that is read slowly, one that is not read.
    let io = daemon.io("c", false);
    daemon.create(&mut client, "c", &io).unwrap();
    let shim = client.connect_task("c").shim_pid;
    // Nobody reads the one stream, so at some time nobody can write to it, and the other one ends too.
    let mut reader =
        OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(io.path(1)).unwrap();
    client.start("c", "").unwrap();
    let before = anonymous(shim);
    let mut slowest = Duration::ZERO;
    let (mut buffer, mut received) = (vec![0; 64 << 10], 0);
    let mut read = || match reader.read(&mut buffer) {
        Ok(length) => length,
        Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
        Err(e) => panic!("{e}"),
    };
    for _ in 0..100 {
        let start = Instant::now();
        client.state("c", "").unwrap();
        slowest = slowest.max(start.elapsed());
        received += read();
    }
    until("output", || {
        received += read();
        (received > 0).then_some(())
    });
    until("its processes", || (client.pids("c").unwrap().len() > 20).then_some(()));
    println!("slowest answer {slowest:?}, {} KiB more", anonymous(shim).saturating_sub(before));
    assert!(anonymous(shim) < before + 2048, "what nobody reads is not kept");
    let kill = pb::KillRequest { id: "c".into(), signal: 9, all: true, ..Default::default() };
    client.call::<pb::Empty>("Kill", &kill).unwrap();
    assert_eq!(client.wait("c", ""), 137);
    drop(reader);
    client.delete("c", "").unwrap();
}

/// The shim's own file: its forked workers are what a container sees until its program runs (CVE-2019-5736).
#[test]
fn cve_2019_5736_the_shims_file_is_out_of_reach() {
    let Some(daemon) = daemon("cve_2019_5736_the_shims_file_is_out_of_reach") else { return };
    let installed = fs::read(SHIM).unwrap();
    // An entry point whose interpreter is whatever executes it, which then waits for its standard input.
    let image = daemon.dir.path().join("image");
    install(&image.join("entry"), "#!/proc/self/exe -info\n");
    daemon.make_bundle("c", "", |config| {
        config["process"]["args"] = serde_json::json!(["/entry"]);
        // The shim of a test build needs its loader and libraries.
        for dir in ["/lib", "/lib64", "/usr/lib"].into_iter().filter(|dir| Path::new(dir).exists()) {
            let bind = serde_json::json!({"destination": dir, "type": "bind", "source": dir, "options": ["rbind", "ro"]});
            config["mounts"].as_array_mut().unwrap().push(bind);
        }
    });
    let mut client = Client::connect(&daemon.start_shim("c"));
    let io = daemon.io("c", false);
    let pid = daemon.create(&mut client, "c", &io).unwrap();
    let mut held = vec![take_hold(pid, installed.len())];
    client.start("c", "").unwrap();
    until("the shim's program in the container", || {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).ok().filter(|line| line.contains("-info"))
    });
    held.push(take_hold(pid, installed.len()));
    let spec = serde_json::json!({"args": ["/entry"], "cwd": "/", "env": [], "user": {"uid": 0, "gid": 0}});
    let any = Any { type_url: "spec".into(), value: spec.to_string().into_bytes(), ..Default::default() };
    let exec_io = daemon.io("e", false);
    let request = pb::ExecProcessRequest {
        id: "c".into(),
        exec_id: "e".into(),
        stdin: exec_io.path(0).display().to_string(),
        spec: MessageField::some(any),
        ..Default::default()
    };
    client.call::<pb::Empty>("Exec", &request).unwrap();
    let pid = client.start("c", "e").unwrap();
    held.push(take_hold(pid, installed.len()));
    client.kill("c", "e", 9).unwrap();
    client.wait("c", "e");
    client.kill("c", "", 9).unwrap();
    client.wait("c", "");
    for file in held {
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        // Busy while any shim runs.
        let error = OpenOptions::new().write(true).open(&again).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::ExecutableFileBusy));
        assert!(fstatvfs(&file).unwrap().flags().contains(FsFlags::ST_RDONLY));
        // The shim still runs from the mount: should somebody clear its flag, that is not this descriptor's.
        let writable = MountAttr { clear: davit::plan::attr::RDONLY, ..MountAttr::default() };
        assert!(mount_setattr(file.as_fd(), &writable, Reach::One).is_err());
    }
    client.delete("c", "e").unwrap();
    client.delete("c", "").unwrap();
    assert!(fs::read(SHIM).unwrap() == installed, "the shim's file was changed");
}

/// Opens the file that a process executes, which is the shim's, and which can not be opened for writing.
fn take_hold(pid: u32, length: usize) -> File {
    let exe = format!("/proc/{pid}/exe");
    let file = File::open(&exe).unwrap();
    assert_eq!(file.metadata().unwrap().len(), length as u64, "it is the shim");
    let error = OpenOptions::new().write(true).open(&exe).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::ExecutableFileBusy), "{error}");
    file
}
