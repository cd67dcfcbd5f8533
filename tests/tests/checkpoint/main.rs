//! `checkpoint` and `restore` with real CRIU: what goes on where it was, what is refused, and what is left behind.

mod attacks;
mod failures;
mod interop;
mod options;

use std::fs;
use std::path::Path;

use davit_tests::criu::{CriuWorld, NAP, count, counting, counts_on};
use davit_tests::tty::{ConsoleSocket, Terminal};
use davit_tests::{Bundle, wait_until};
use serde_json::json;

/// A program that does nothing.
fn idle(world: &CriuWorld) -> Bundle {
    let mut bundle = world.world.bundle();
    bundle.args(&["sleep", "1000"]);
    bundle
}

#[test]
fn a_program_goes_on_where_it_was() {
    let Some(world) = CriuWorld::enter("checkpoint::a_program_goes_on_where_it_was") else { return };
    let mut bundle = counting(&world);
    bundle.set("/annotations", json!({"k": "v"}));
    let c = world.world.container(&bundle);
    world.run(&c);
    counts_on(&bundle, 5);
    let work = world.world.path("work");
    let work = work.to_str().unwrap();
    world.checkpoint(&c, "img", &["--work-path", work]).run().ok();
    c.assert_nothing_left();
    let reached = count(&bundle);
    assert!(reached > 5);
    assert!(world.world.path("work/dump.log").exists() && world.world.path("img/descriptors.json").exists());
    c.simple("state").fails(1, "container does not exist");

    let pid_file = world.world.path("pid");
    let flags = ["--work-path", work, "--pid-file", pid_file.to_str().unwrap()];
    world.restore(&c, "img", &flags).run().ok();
    counts_on(&bundle, reached);
    assert!(world.world.path("work/restore.log").exists());
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), c.pid().to_string());

    // It is a container as any other.
    let state = c.state();
    assert_eq!((&state["status"], &state["annotations"]["k"]), (&json!("running"), &json!("v")));
    assert!(world.world.call(&["list", "-q"]).run().ok().stdout.contains(&c.id));
    assert_eq!(c.sh("hostname; cat /proc/1/comm"), "box\nsh");
    let stats = c.call("events", &["--stats"], &[]).run().ok().json();
    assert!(stats["data"]["pids"]["current"].as_u64().unwrap() >= 1, "{stats}");
    c.simple("pause").ok();
    assert_eq!(c.status(), "paused");
    c.simple("resume").ok();
    // The loopback device works again: runc leaves it down.
    assert!(c.sh("busybox ifconfig lo").contains("UP"));
    c.stop();
    c.simple("delete").ok();
    c.assert_nothing_left();
}

#[test]
fn in_the_foreground_its_exit_code_is_told() {
    let Some(world) = CriuWorld::enter("checkpoint::in_the_foreground_its_exit_code_is_told") else { return };
    let mut bundle = world.world.bundle();
    let script = format!(
        "busybox mkfifo /tmp/never; exec 9<>/tmp/never; : >/tmp/ready; until test -e /tmp/go; do {NAP}; done; exit 7"
    );
    bundle.script(&script).set("/root/readonly", json!(false));
    let c = world.world.container(&bundle);
    world.run(&c);
    wait_until("the loop", || bundle.rootfs("/tmp/ready").exists());
    world.checkpoint(&c, "img", &[]).run().ok();
    fs::write(bundle.rootfs("/tmp/go"), "").unwrap();
    let images = world.world.path("img");
    let flags = ["--no-subreaper", "--image-path", images.to_str().unwrap()];
    world.call(&c, "restore", &flags).dir(bundle.dir()).run().exits(7);
    c.assert_nothing_left();
}

#[test]
fn leaving_it_running_or_paused() {
    let Some(world) = CriuWorld::enter("checkpoint::leaving_it_running_or_paused") else { return };
    let bundle = counting(&world);
    let c = world.world.container(&bundle);
    world.run(&c);
    counts_on(&bundle, 0);
    world.checkpoint(&c, "img", &["--leave-running"]).run().ok();
    assert_eq!(c.status(), "running");
    counts_on(&bundle, count(&bundle));
    c.simple("pause").ok();
    world.checkpoint(&c, "again", &["--leave-running"]).run().ok();
    assert_eq!(c.status(), "paused");
    c.simple("resume").ok();
    c.stop();
    c.simple("delete").ok();
    // An image is good for more than one container, and for one with another id.
    let bundle = idle(&world);
    let c = world.world.container(&bundle);
    world.run(&c);
    world.checkpoint(&c, "idle", &[]).run().ok();
    let (first, second) = (world.world.container(&bundle), world.world.container(&bundle));
    for copy in [&first, &second] {
        world.restore(copy, "idle", &[]).run().ok();
        assert_eq!(copy.sh("cat /proc/1/comm"), "sleep");
    }
    first.finish();
    second.finish();
}

#[test]
fn a_pipe_is_the_new_callers() {
    let Some(world) = CriuWorld::enter("checkpoint::a_pipe_is_the_new_callers") else { return };
    let mut bundle = world.world.bundle();
    let script = format!(
        "busybox mkfifo /tmp/never; exec 9<>/tmp/never; i=0; while :; do i=$((i+1)); echo $i; {NAP}; done"
    );
    bundle.script(&script).set("/root/readonly", json!(false));
    let c = world.world.container(&bundle);
    // In a pipeline of a shell, which the call does not wait for. It notes the end of davit, and of the pipe.
    let piped = |command: &str, flags: &[&str], out: &Path| {
        let script = format!(
            "({{ \"$@\" 2>&1 </dev/null; : >{0}.called; }} | {{ cat >{0}; : >{0}.end; }}) >/dev/null 2>&1 &",
            out.display()
        );
        world.call(&c, command, flags).wrapper(&["sh", "-c", &script, "sh"]).run().ok();
        wait_until("output", || fs::read_to_string(out).is_ok_and(|text| text.lines().count() > 5));
        wait_until("the end of davit", || out.with_extension("called").exists());
    };
    let (first, second) = (world.world.path("first"), world.world.path("second"));
    let dir = bundle.dir().to_str().unwrap();
    piped("run", &["--detach", "--bundle", dir], &first);
    world.checkpoint(&c, "img", &[]).run().ok();
    wait_until("the end of the pipe", || first.with_extension("end").exists());
    assert!(fs::read_to_string(world.world.path("img/descriptors.json")).unwrap().contains("pipe:["));
    let images = world.world.path("img");
    piped("restore", &["--detach", "--bundle", dir, "--image-path", images.to_str().unwrap()], &second);
    let number = |line: Option<&str>| line.expect("a line").parse::<u64>().expect("a number");
    let last = number(fs::read_to_string(&first).unwrap().lines().last());
    let next = number(fs::read_to_string(&second).unwrap().lines().next());
    assert_eq!(next, last + 1);
    c.finish();
}

#[test]
fn a_terminal_comes_over_the_console_socket() {
    let Some(world) = CriuWorld::enter("checkpoint::a_terminal_comes_over_the_console_socket") else {
        return;
    };
    let mut bundle = world.world.bundle();
    bundle.script("while read x; do echo got $x; done").set("/process/terminal", json!(true));
    let c = world.world.container(&bundle);
    let socket = ConsoleSocket::bind(&world.world.path("first.sock"));
    c.run(&["--detach", "--console-socket", socket.path.to_str().unwrap()]).ok();
    let mut terminal = Terminal::new(socket.receive().0);
    terminal.send("one\n");
    terminal.expect("got one");
    world.checkpoint(&c, "img", &[]).run().ok();
    drop(terminal);

    // Without a socket, no terminal.
    world.restore(&c, "img", &[]).run().exits(1);
    c.assert_nothing_left();
    let socket = ConsoleSocket::bind(&world.world.path("second.sock"));
    world.restore(&c, "img", &["--console-socket", socket.path.to_str().unwrap()]).run().ok();
    let mut terminal = Terminal::new(socket.receive().0);
    terminal.send("two\n");
    terminal.expect("got two");
    c.finish();
}

#[test]
fn mounts_masks_and_limits_are_there_again() {
    let Some(world) = CriuWorld::enter("checkpoint::mounts_masks_and_limits_are_there_again") else { return };
    let mut bundle = counting(&world);
    let (dir, file) = (world.world.path("shared"), world.world.path("file"));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("inside"), "shared").unwrap();
    fs::write(&file, "one file").unwrap();
    // By a link of the root file system, as images have them.
    std::os::unix::fs::symlink("/mnt", bundle.rootfs("/link")).unwrap();
    bundle.mount("/link/dir", "bind", dir.to_str().unwrap(), &["bind", "ro"]);
    bundle.mount("/link/dir/inside", "bind", file.to_str().unwrap(), &["bind"]);
    bundle.mount("/tmp/memory", "tmpfs", "tmpfs", &["size=1m"]);
    bundle.set("/linux/maskedPaths", json!(["/proc/keys", "/proc/acpi", "/sys/firmware"]));
    bundle.set("/linux/resources/pids", json!({"limit": 77}));
    let c = world.world.container(&bundle);
    world.run(&c);
    counts_on(&bundle, 0);
    let seen = "cat /mnt/dir/inside /tmp/memory/kept; echo; wc -c </proc/keys; ls /sys/firmware | wc -l; \
                touch /mnt/dir/x 2>&1; awk '{print $5, $6}' /proc/self/mountinfo | sort";
    c.sh("echo kept >/tmp/memory/kept");
    let before = c.sh(seen);
    // Its own: somebody else may mount a hierarchy at any time.
    let cgroups = |c: &davit_tests::Container<'_>| {
        let all = davit_tests::host::cgroups_of(c.pid()).into_iter();
        all.filter(|(_, dir)| dir.to_string_lossy().contains(&c.id)).collect::<Vec<_>>()
    };
    let places = cgroups(&c);
    assert!(!places.is_empty());
    world.checkpoint(&c, "img", &[]).run().ok();
    c.assert_nothing_left();
    world.restore(&c, "img", &[]).run().ok();
    assert_eq!(c.sh(seen), before);
    assert!(
        before.contains("one file") && before.contains("kept") && before.contains("Read-only"),
        "{before}"
    );
    assert_eq!(cgroups(&c), places);
    let pids =
        places.iter().find(|(kind, _)| kind == "pids" || kind.is_empty()).expect("pids").1.join("pids.max");
    if pids.exists() {
        assert_eq!(fs::read_to_string(pids).unwrap().trim(), "77");
    }
    c.finish();
}

#[test]
fn namespaces_by_path_are_joined_again() {
    let Some(world) = CriuWorld::enter("checkpoint::namespaces_by_path_are_joined_again") else { return };
    let holder = world.world.bundle();
    let mut holder = { holder };
    holder.args(&["sleep", "1000"]);
    let h = world.world.container(&holder).started();
    let mut bundle = counting(&world);
    let namespace =
        |kind: &str, file: &str| json!({"type": kind, "path": format!("/proc/{}/ns/{file}", h.pid())});
    for (kind, file) in [("network", "net"), ("ipc", "ipc")] {
        bundle.without_namespace(kind);
        bundle.push("/linux/namespaces", namespace(kind, file));
    }
    let c = world.world.container(&bundle);
    world.run(&c);
    counts_on(&bundle, 0);
    let inode = |pid: i32, file: &str| fs::read_link(format!("/proc/{pid}/ns/{file}")).unwrap();
    assert_eq!(inode(c.pid(), "net"), inode(h.pid(), "net"));
    world.checkpoint(&c, "img", &[]).run().ok();
    world.restore(&c, "img", &[]).run().ok();
    assert_eq!(inode(c.pid(), "net"), inode(h.pid(), "net"));
    assert_eq!(inode(c.pid(), "ipc"), inode(h.pid(), "ipc"));
    assert_ne!(inode(c.pid(), "mnt"), inode(h.pid(), "mnt"));
    counts_on(&bundle, count(&bundle));
    c.finish();
    h.finish();
}

#[test]
fn hooks_run_where_they_do_at_create() {
    let Some(world) = CriuWorld::enter("checkpoint::hooks_run_where_they_do_at_create") else { return };
    let mut bundle = counting(&world);
    let log = world.world.path("hooks");
    let hook = |name: &str| {
        let script = format!("jq -c '[\"{name}\",.status,.pid>0]' >>{}", log.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}])
    };
    bundle.set("/hooks", json!({
        "prestart": hook("prestart"), "createRuntime": hook("createRuntime"), "poststop": hook("poststop"),
    }));
    let c = world.world.container(&bundle);
    world.run(&c);
    counts_on(&bundle, 0);
    fs::remove_file(&log).unwrap();
    world.checkpoint(&c, "img", &[]).run().ok();
    assert_eq!(fs::read_to_string(&log).unwrap(), "[\"poststop\",\"stopped\",false]\n");
    fs::remove_file(&log).unwrap();
    world.restore(&c, "img", &[]).run().ok();
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        "[\"prestart\",\"creating\",true]\n[\"createRuntime\",\"creating\",true]\n"
    );
    c.finish();
}

#[test]
fn a_user_namespace() {
    let Some(world) = CriuWorld::enter("checkpoint::a_user_namespace") else { return };
    const ROOT: u32 = 200_000;
    let mut bundle = counting(&world);
    let map = json!([{"containerID": 0, "hostID": ROOT, "size": 65536}]);
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .push("/linux/namespaces", json!({"type": "cgroup"}));
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    bundle.for_user_namespace(ROOT);
    let c = world.world.container(&bundle);
    world.run(&c);
    counts_on(&bundle, 0);
    world.checkpoint(&c, "img", &[]).run().ok();
    // CRIU reads them as root of the container, or as nobody's before that has its ids.
    let readable =
        std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(world.world.path("img")).status();
    assert!(readable.unwrap().success());
    let reached = count(&bundle);
    world.restore(&c, "img", &[]).run().ok();
    counts_on(&bundle, reached);
    assert_eq!(c.sh("cat /proc/self/uid_map | tr -s ' '"), format!(" 0 {ROOT} 65536"));
    c.finish();
}

#[test]
fn a_cgroup_namespace() {
    let Some(world) = CriuWorld::enter("checkpoint::a_cgroup_namespace") else { return };
    let mut bundle = counting(&world);
    bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    let c = world.world.container(&bundle);
    world.run(&c);
    counts_on(&bundle, 0);
    let before = c.sh("cat /proc/self/cgroup");
    assert!(!before.contains(&c.id), "{before}");
    world.checkpoint(&c, "img", &[]).run().ok();
    let reached = count(&bundle);
    world.restore(&c, "img", &[]).run().ok();
    counts_on(&bundle, reached);
    assert_eq!(c.sh("cat /proc/self/cgroup"), before);
    c.finish();
}
