//! What a service manager hands over: `LISTEN_FDS` (sd_listen_fds(3)) and `NOTIFY_SOCKET` (sd_notify(3)).

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use davit_tests::{Bundle, DEADLINE, World, wait_until};
use serde_json::json;

const SHOW: &str = "ls /proc/self/fd | tr '\\n' ' '; cat <&3; cat <&4; echo $LISTEN_FDS,$LISTEN_PID";

/// A shell that opens descriptors 3 to 5 and says that the first two are for the program that it becomes.
fn with_sockets(pid: &str) -> String {
    format!(
        "export LISTEN_FDS=2 LISTEN_PID={pid} LISTEN_FDNAMES=a:b; \
         exec \"$@\" 3<<A 4<<B 5<<C\nthree\nA\nfour\nB\nfive\nC\n"
    )
}

#[test]
fn listening_sockets_are_passed_on() {
    let Some(world) = World::enter("activation::listening_sockets_are_passed_on") else { return };
    let mut bundle = world.bundle();
    bundle.script(SHOW).push("/process/env", json!("LISTEN_FDS=9"));
    let script = with_sockets("$$");
    let wrapper = ["sh", "-c", &script, "sh"];
    let c = world.container(&bundle);
    let run = c.call("run", &[], &[]).dir(bundle.dir()).wrapper(&wrapper).run().ok();
    assert_eq!(run.stdout, "0 1 2 3 4 5 three\nfour\n2,1\n");
    c.assert_nothing_left();

    // Those of --preserve-fds follow them.
    bundle.script("cat <&5; echo $LISTEN_FDS,$LISTEN_FDNAMES");
    let c = world.container(&bundle);
    let run = c.call("run", &["--preserve-fds", "1"], &[]).dir(bundle.dir()).wrapper(&wrapper).run().ok();
    // runc drops the names.
    assert_eq!(run.stdout, if world.is_runc() { "five\n2,\n" } else { "five\n2,a:b\n" });
    c.assert_nothing_left();
}

#[test]
fn create_takes_them_for_start() {
    let Some(world) = World::enter("activation::create_takes_them_for_start") else { return };
    let mut bundle = world.bundle();
    bundle.script(SHOW);
    let c = world.container(&bundle);
    let script = with_sockets("$$");
    let create =
        c.call("create", &[], &[]).dir(bundle.dir()).wrapper(&["sh", "-c", &script, "sh"]).run().ok();
    c.simple("start").ok();
    c.wait_for("stopped");
    assert_eq!(create.stdout_now(), "0 1 2 3 4 5 three\nfour\n2,1\n");
    c.finish();
}

#[test]
fn sockets_meant_for_another_process_are_not() {
    let Some(world) = World::enter("activation::sockets_meant_for_another_process_are_not") else { return };
    let mut bundle = world.bundle();
    bundle.script("ls /proc/self/fd | tr '\\n' ' '; echo \"${LISTEN_FDS-none}\"");
    for pid in ["1", "", "x"] {
        let c = world.container(&bundle);
        let script = with_sockets(pid);
        let run = c.call("run", &[], &[]).dir(bundle.dir()).wrapper(&["sh", "-c", &script, "sh"]).run().ok();
        assert_eq!(run.stdout, "0 1 2 3 none\n", "LISTEN_PID={pid:?}");
        c.assert_nothing_left();
    }
}

#[test]
fn a_socket_that_is_not_there_is_an_error() {
    let Some(world) = World::enter("activation::a_socket_that_is_not_there_is_an_error") else { return };
    if world.is_runc() {
        // runc starts the program with other descriptors in their place.
        return;
    }
    let bundle = world.bundle();
    let c = world.container(&bundle);
    let wrapper = ["sh", "-c", "export LISTEN_FDS=2 LISTEN_PID=$$; exec \"$@\" 3</dev/null", "sh"];
    let run = c.call("run", &[], &[]).dir(bundle.dir()).wrapper(&wrapper).run();
    run.fails(1, "unable to preserve fd 4: it is not open");
    c.assert_nothing_left();
}

/// A program that says on its NOTIFY_SOCKET that it is ready and lives on for a while. busybox has no datagrams.
fn notifying(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    let python = "import os,socket,sys,time\n\
         s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
         s.connect(os.environ['NOTIFY_SOCKET'])\n\
         s.send(b'STATUS=on the way')\n\
         print(os.environ['NOTIFY_SOCKET'], flush=True)\n\
         s.send(b'READY=1\\nSTATUS=there')\n\
         time.sleep(float(sys.argv[1]))\n";
    std::fs::write(bundle.rootfs("notify.py"), python).unwrap();
    // The host's Python with its libraries.
    for dir in ["usr", "lib", "lib64"] {
        let from = format!("/{dir}");
        if std::path::Path::new(&from).exists() {
            std::fs::create_dir_all(bundle.rootfs(dir)).unwrap();
            bundle.mount(&from, "bind", &from, &["rbind", "ro"]);
        }
    }
    std::fs::create_dir_all(bundle.rootfs("run/notify")).unwrap();
    // Any user may write to it.
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    bundle
}

/// The service manager's side: what it was sent, with the barrier's descriptor closed by not taking it.
fn received(manager: &UnixDatagram) -> Vec<String> {
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut messages = Vec::new();
    while messages.last().is_none_or(|last| last != "BARRIER=1") {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).unwrap();
        messages.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
    }
    manager.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(manager.recv(&mut [0; 256]).is_err(), "nothing follows the barrier");
    messages
}

fn manager(world: &World) -> Option<(UnixDatagram, String)> {
    if !std::path::Path::new("/usr/bin/python3").exists() {
        return davit_tests::skip("activation", "no python3");
    }
    let path = world.path("manager.sock");
    Some((UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()))
}

#[test]
fn readiness_of_a_detached_container_is_passed_on() {
    let Some(world) = World::enter("activation::readiness_of_a_detached_container_is_passed_on") else {
        return;
    };
    let Some((manager, address)) = manager(&world) else { return };
    let mut bundle = notifying(&world);
    bundle.args(&["/usr/bin/python3", "/notify.py", "1000"]);
    let c = world.container(&bundle);
    let run = c.call("run", &["--detach"], &[]).dir(bundle.dir()).env("NOTIFY_SOCKET", &address).spawn();
    let messages = received(&manager);
    let run = run.wait().ok();
    assert_eq!(messages, ["READY=1\n".to_owned(), format!("MAINPID={}\n", c.pid()), "BARRIER=1".to_owned()]);
    assert_eq!(run.stdout_now(), "/run/notify/notify.sock\n");
    c.finish();
}

#[test]
fn start_passes_it_on_for_create() {
    let Some(world) = World::enter("activation::start_passes_it_on_for_create") else { return };
    let Some((manager, address)) = manager(&world) else { return };
    let mut bundle = notifying(&world);
    bundle.args(&["/usr/bin/python3", "/notify.py", "1000"]);
    let c = world.container(&bundle);
    c.call("create", &[], &[]).dir(bundle.dir()).env("NOTIFY_SOCKET", &address).run().ok();
    let start = c.call("start", &[], &[]).env("NOTIFY_SOCKET", &address).spawn();
    let messages = received(&manager);
    start.wait().ok();
    assert_eq!(messages[1], format!("MAINPID={}\n", c.pid()));
    c.finish();
}

#[test]
fn a_foreground_run_names_itself() {
    let Some(world) = World::enter("activation::a_foreground_run_names_itself") else { return };
    let Some((manager, address)) = manager(&world) else { return };
    let mut bundle = notifying(&world);
    bundle.args(&["/usr/bin/python3", "/notify.py", "0.3"]);
    let c = world.container(&bundle);
    let run = c.call("run", &[], &[]).dir(bundle.dir()).env("NOTIFY_SOCKET", &address).spawn();
    let pid = run.pid();
    assert_eq!(received(&manager)[1], format!("MAINPID={pid}\n"));
    run.wait().ok();
    c.assert_nothing_left();
}

#[test]
fn a_detached_container_that_ends_without_a_word_is_not_waited_for() {
    let test = "activation::a_detached_container_that_ends_without_a_word_is_not_waited_for";
    let Some(world) = World::enter(test) else { return };
    if world.is_runc() {
        // runc waits for ever: the process is its own zombie.
        return;
    }
    let Some((_manager, address)) = manager(&world) else { return };
    let mut bundle = world.bundle();
    std::fs::create_dir_all(bundle.rootfs("run/notify")).unwrap();
    bundle.args(&["sh", "-c", "test -S /run/notify/notify.sock"]);
    let c = world.container(&bundle);
    c.call("run", &["--detach"], &[]).dir(bundle.dir()).env("NOTIFY_SOCKET", &address).run().ok();
    c.finish();
}

#[test]
fn start_without_a_socket_of_the_containers_goes_on() {
    let Some(world) = World::enter("activation::start_without_a_socket_of_the_containers_goes_on") else {
        return;
    };
    if world.is_runc() {
        // runc's start fails, and leaves the container created.
        return;
    }
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle);
    c.create(&[]).ok();
    let start = c.call("start", &[], &[]).env("NOTIFY_SOCKET", "/nosuch").run().ok();
    assert!(start.log.contains("NOTIFY_SOCKET is not passed on"), "{}", start.log);
    wait_until("running", || c.status() == "running");
    c.finish();
}
