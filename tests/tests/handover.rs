//! What passes between the caller and a container at its start: pidfds, standard descriptors, groups, the keyring.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use davit_tests::tty::ConsoleSocket;
use davit_tests::{Bundle, World, host, wait_until};
use serde_json::json;

fn sleeping(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    bundle
}

/// The pid behind a pidfd.
fn pid_of(pidfd: &OwnedFd) -> i32 {
    use std::os::fd::AsRawFd;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    info.lines().find_map(|line| line.strip_prefix("Pid:")).expect("a pidfd").trim().parse().unwrap()
}

/// The socket of any runtime but runc 1.1, which has no such flag.
fn pidfd_socket(world: &World) -> Option<ConsoleSocket> {
    if world.runtime() == Path::new(davit_tests::RUNC) {
        return davit_tests::skip("handover", "runc 1.1 has no --pidfd-socket");
    }
    Some(ConsoleSocket::bind(&world.path("pidfd.sock")))
}

#[test]
fn pidfd_socket_of_create_run_and_exec() {
    let Some(world) = World::enter("handover::pidfd_socket_of_create_run_and_exec") else { return };
    let Some(socket) = pidfd_socket(&world) else { return };
    let path = socket.path.to_str().unwrap();
    let bundle = sleeping(&world);
    let c = world.container(&bundle);
    c.create(&["--pidfd-socket", path]).ok();
    assert_eq!(pid_of(&socket.receive().0), c.pid());
    c.finish();
    let c = world.container(&bundle);
    c.run(&["--detach", "--pidfd-socket", path]).ok();
    assert_eq!(pid_of(&socket.receive().0), c.pid());
    let pid_file = world.path("pid");
    let flags = ["--detach", "--pidfd-socket", path, "--pid-file", pid_file.to_str().unwrap()];
    c.exec(&flags, &["sleep", "1000"]).ok();
    assert_eq!(pid_of(&socket.receive().0).to_string(), fs::read_to_string(&pid_file).unwrap());
    c.exec(&["--pidfd-socket", "/nosuch.sock"], &["true"]).fails(255, "/nosuch.sock");
    c.finish();
    let c = world.container(&bundle);
    c.create(&["--pidfd-socket", "/nosuch.sock"]).fails(1, "/nosuch.sock");
    if !world.is_runc() {
        // runc 1.3 leaves the state.
        c.assert_nothing_left();
    }
}

#[test]
fn pidfd_receiver_of_the_annotation() {
    let Some(world) = World::enter("handover::pidfd_receiver_of_the_annotation") else { return };
    if world.is_runc() {
        // crun's.
        return;
    }
    let socket = ConsoleSocket::bind(&world.path("pidfd.sock"));
    let mut bundle = sleeping(&world);
    bundle.set("/annotations", json!({"run.oci.pidfd_receiver": socket.path}));
    let c = world.container(&bundle);
    c.create(&[]).ok();
    assert_eq!(pid_of(&socket.receive().0), c.pid());
    c.finish();
}

#[test]
fn groups_of_the_caller_are_kept_on_demand() {
    let Some(world) = World::enter("handover::groups_of_the_caller_are_kept_on_demand") else { return };
    if world.is_runc() {
        // crun's.
        return;
    }
    let mut bundle = world.bundle();
    bundle.args(&["id", "-G"]).set("/process/user/additionalGids", json!([77]));
    let groups = |bundle: &Bundle| {
        let c = world.container(bundle);
        let wrapper = ["setpriv", "--groups", "1234,5678"];
        let run = c.call("run", &[], &[]).dir(bundle.dir()).wrapper(&wrapper).run().ok();
        c.assert_nothing_left();
        run.stdout
    };
    assert_eq!(groups(&bundle), "0 77\n");
    bundle.set("/annotations", json!({"run.oci.keep_original_groups": "1"}));
    assert_eq!(groups(&bundle), "0 1234 5678\n");
    bundle.set("/annotations", json!({"run.oci.keep_original_groups": "0"}));
    assert_eq!(groups(&bundle), "0 77\n");
}

#[test]
fn standard_descriptors_belong_to_the_user() {
    let Some(world) = World::enter("handover::standard_descriptors_belong_to_the_user") else { return };
    let mut bundle = world.bundle();
    // Opening it anew needs the right to it.
    bundle.script("echo first > /proc/self/fd/1; echo second >> /proc/self/fd/2; stat -L -c %u /dev/fd/1");
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let c = world.container(&bundle);
    let run = c.run(&[]).ok();
    assert_eq!(run.stderr, "second\n");
    assert!(run.stdout.contains("1000\n"), "{}", run.stdout);
    c.assert_nothing_left();
    // The same of an exec, and of a user namespace: the id is the host's.
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    let exec = c.exec(&["--user", "1001"], &["stat", "-L", "-c", "%u", "/proc/self/fd/1"]).ok();
    assert_eq!(exec.stdout, "1001\n");
    c.finish();
}

#[test]
fn null_is_the_containers() {
    let Some(world) = World::enter("handover::null_is_the_containers") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle);
    let wrapper = ["sh", "-c", "exec \"$@\" </dev/null >/dev/null 2>/dev/null", "sh"];
    c.call("run", &["--detach"], &[]).dir(bundle.dir()).wrapper(&wrapper).run().ok();
    let outside = fs::metadata("/dev/null").unwrap();
    for fd in 0..3 {
        let inside = fs::metadata(format!("/proc/{}/fd/{fd}", c.pid())).unwrap();
        assert_eq!(inside.rdev(), outside.rdev());
        assert_ne!(inside.dev(), outside.dev(), "descriptor {fd} is the host's /dev/null");
    }
    c.finish();
    assert_eq!(fs::metadata("/dev/null").unwrap().uid(), 0, "its owner is not changed");
}

#[test]
fn the_program_gets_no_other_descriptor() {
    let Some(world) = World::enter("handover::the_program_gets_no_other_descriptor") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let hook = json!([{"path": "/bin/true"}]);
    bundle.set("/hooks", json!({"createRuntime": hook, "createContainer": hook, "startContainer": hook}));
    let rule = json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"});
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
    let open = |pid: i32| {
        // runc's start does not wait for the program.
        wait_until("the program", || host::command_line(pid).starts_with("sleep"));
        let mut names: Vec<i32> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        names.sort_unstable();
        names
    };
    let wrapper = ["sh", "-c", "exec \"$@\" 3</dev/null 4</etc 7</etc/passwd", "sh"];
    // run, and create with start: both ways to the program.
    let c = world.container(&bundle);
    c.call("run", &["--detach"], &[]).dir(bundle.dir()).wrapper(&wrapper).run().ok();
    assert_eq!(open(c.pid()), [0, 1, 2]);
    let pid_file = world.path("pid");
    let flags = ["--detach", "--preserve-fds", "1", "--pid-file", pid_file.to_str().unwrap()];
    c.call("exec", &flags, &["sleep", "1000"]).wrapper(&wrapper).run().ok();
    assert_eq!(open(fs::read_to_string(&pid_file).unwrap().parse().unwrap()), [0, 1, 2, 3]);
    c.finish();
    let c = world.container(&bundle);
    c.call("create", &["--preserve-fds", "2"], &[]).dir(bundle.dir()).wrapper(&wrapper).run().ok();
    c.simple("start").ok();
    assert_eq!(open(c.pid()), [0, 1, 2, 3, 4]);
    c.finish();
}

#[test]
fn without_a_new_keyring_the_callers_is_kept() {
    let Some(world) = World::enter("handover::without_a_new_keyring_the_callers_is_kept") else { return };
    let mut bundle = world.bundle();
    // /proc/keys is masked, and shows the keys that the reader possesses.
    bundle.args(&["cat", "/proc/keys"]).remove("/linux/maskedPaths");
    let keys = |flags: &[&str]| {
        let c = world.container(&bundle);
        let create = c.create(flags).ok();
        c.simple("start").ok();
        c.wait_for("stopped");
        let shown = create.stdout_now().contains(&format!("_ses.{}", c.id));
        c.finish();
        shown
    };
    assert!(keys(&[]));
    assert!(!keys(&["--no-new-keyring"]));
}

#[test]
fn flags_that_mean_nothing_here_are_taken() {
    let Some(world) = World::enter("handover::flags_that_mean_nothing_here_are_taken") else { return };
    if world.is_runc() {
        // Gone from runc; callers of older ones still pass it.
        return;
    }
    let bundle = sleeping(&world);
    let c = world.container(&bundle).started();
    assert_eq!(c.exec(&["--no-subreaper"], &["echo", "hi"]).ok().stdout, "hi\n");
    c.finish();
}

#[test]
fn an_orphan_has_the_runtime_as_its_reaper() {
    let Some(world) = World::enter("handover::an_orphan_has_the_runtime_as_its_reaper") else { return };
    let mut bundle = world.bundle();
    // In the host's pid namespace. The child's parent has ended by the second line.
    bundle.without_namespace("pid").script("(sleep 1000 & echo $!); echo alone; exec sleep 1000");
    let parent = |flags: &[&str]| {
        let c = world.container(&bundle);
        let run = c.call("run", flags, &[]).dir(bundle.dir()).spawn();
        wait_until("the orphan", || run.stdout().ends_with("alone\n"));
        let orphan = run.stdout().lines().next().unwrap().to_owned();
        let status = fs::read_to_string(format!("/proc/{orphan}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        let reaped = line.trim() == run.pid().to_string();
        c.call("kill", if world.is_runc() { &["--all"] } else { &[] }, &["KILL"]).run().ok();
        run.wait().exits(137);
        wait_until("the orphan's end", || !host::is_alive(orphan.parse().unwrap()));
        c.assert_nothing_left();
        reaped
    };
    assert!(parent(&[]));
    assert!(!parent(&["--no-subreaper"]));
}
