//! Each flag of the two commands: what it allows, and what is said without it.

use std::fs;

use davit_tests::criu::{CriuWorld, count, counting, counts_on};
use davit_tests::{Container, wait_until};
use serde_json::json;

use super::idle;

/// A checkpoint is refused, the container runs on, and with the flag it and the restore work.
fn needs(world: &CriuWorld, c: &Container<'_>, flag: &str, restores: bool) {
    let call = world.checkpoint(c, "without", &["--leave-running"]).run().exits(1);
    assert!(call.error().contains("criu failed: type DUMP errno"), "{}", call.error());
    assert!(call.error().contains("dump.log"), "{}", call.error());
    assert_eq!(c.status(), "running");
    if restores {
        world.checkpoint(c, "with", &[flag]).run().ok();
        c.assert_nothing_left();
        world.restore(c, "with", &[flag]).run().ok();
    } else {
        world.checkpoint(c, "with", &["--leave-running", flag]).run().ok();
    }
    assert_eq!(c.status(), "running");
}

#[test]
fn tcp_connections() {
    let Some(world) = CriuWorld::enter("checkpoint::tcp_connections") else { return };
    let mut bundle = world.world.bundle();
    bundle.set("/root/readonly", json!(false)).script(
        "busybox mkfifo /tmp/say /tmp/idle; exec 7<>/tmp/say 8<>/tmp/idle; \
         busybox nc -l -p 5000 <&8 >/tmp/heard & \
         until busybox nc 127.0.0.1 5000 <&7 >/dev/null; do sleep 0.1; done",
    );
    let c = world.world.container(&bundle);
    world.run(&c);
    let heard = || fs::read_to_string(bundle.rootfs("/tmp/heard")).unwrap_or_default();
    // The FIFO is opened by the exec, not waited for.
    wait_until("a connection", || {
        c.exec(&[], &["sh", "-c", "busybox netstat -tn 2>/dev/null | grep -q ESTABLISHED"]).code == 0
    });
    c.sh("echo one >/tmp/say");
    wait_until("the first line", || heard() == "one\n");
    needs(&world, &c, "--tcp-established", true);
    c.sh("echo two >/tmp/say");
    wait_until("the second line", || heard() == "one\ntwo\n");
    // Closed, as crun's flag has it; connections that are just being made are left out.
    world.checkpoint(&c, "closed", &["--tcp-established", "--tcp-skip-in-flight"]).run().ok();
    world.restore(&c, "closed", &["--tcp-close"]).run().ok();
    c.finish();
}

#[test]
fn file_locks() {
    let Some(world) = CriuWorld::enter("checkpoint::file_locks") else { return };
    let mut bundle = world.world.bundle();
    // busybox has no flock(1): the host's, with its libraries.
    bundle.script("exec /usr/bin/flock /tmp/lock sleep 1000").set("/root/readonly", json!(false));
    bundle.mount("/usr", "bind", "/usr", &["rbind", "ro"]);
    for name in ["lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), bundle.rootfs(name)).unwrap();
    }
    let c = world.world.container(&bundle);
    world.run(&c);
    let free = |c: &Container<'_>| c.exec(&[], &["/usr/bin/flock", "-n", "/tmp/lock", "true"]).code == 0;
    wait_until("the lock", || bundle.rootfs("/tmp/lock").exists() && !free(&c));
    needs(&world, &c, "--file-locks", true);
    assert!(!free(&c), "the lock is held again");
    c.finish();
}

#[test]
fn unix_sockets_of_others() {
    let Some(world) = CriuWorld::enter("checkpoint::unix_sockets_of_others") else { return };
    let mut bundle = counting(&world);
    // CRIU knows the sockets of the container's network namespace only.
    bundle.without_namespace("network");
    let c = world.world.container(&bundle);
    // One that is connected to somebody outside is its stdin.
    let script = "import os,socket,subprocess,sys\n\
                  ours=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\n\
                  ours.bind(os.environ['ADDRESS'])\n\
                  theirs=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\n\
                  theirs.connect(os.environ['ADDRESS'])\n\
                  null=open('/dev/null','w')\n\
                  code=subprocess.call(sys.argv[1:],stdin=theirs,stdout=null,stderr=null)\n\
                  theirs.close()\n\
                  if code or os.fork(): os._exit(code)\n\
                  os.setsid(); os.dup2(null.fileno(),1); os.dup2(null.fileno(),2)\n\
                  [None for _ in iter(lambda: ours.recv(9), b'end')]\n";
    let address = world.world.path("address");
    let dir = bundle.dir().to_str().unwrap();
    let words = ["python3", "-c", script];
    let call = world.call(&c, "run", &["--detach", "--bundle", dir]).wrapper(&words);
    call.env("ADDRESS", address.to_str().unwrap()).run().ok();
    counts_on(&bundle, 0);
    needs(&world, &c, "--ext-unix-sk", false);
    std::os::unix::net::UnixDatagram::unbound().unwrap().send_to(b"end", &address).unwrap();
    c.finish();
}

#[test]
fn unlinked_files() {
    let Some(world) = CriuWorld::enter("checkpoint::unlinked_files") else { return };
    let mut bundle = world.world.bundle();
    // A file that is gone under this name and there under another.
    bundle.set("/root/readonly", json!(false)).script(
        "echo kept >/tmp/first; exec 8</tmp/first; ln /tmp/first /tmp/second; rm /tmp/first; \
         busybox mkfifo /tmp/never; exec 9<>/tmp/never; : >/tmp/ready; \
         until test -e /tmp/go; do read -t 0.02 x <&9; done; cat <&8 >/tmp/read; sleep 1000",
    );
    let c = world.world.container(&bundle);
    world.run(&c);
    wait_until("the file", || bundle.rootfs("/tmp/ready").exists());
    needs(&world, &c, "--link-remap", false);
    world.checkpoint(&c, "img", &["--link-remap"]).run().ok();
    world.restore(&c, "img", &[]).run().ok();
    fs::write(bundle.rootfs("/tmp/go"), "").unwrap();
    wait_until("the text", || {
        fs::read_to_string(bundle.rootfs("/tmp/read")).is_ok_and(|text| text == "kept\n")
    });
    c.finish();
}

#[test]
fn modes_of_cgroups() {
    let Some(world) = CriuWorld::enter("checkpoint::modes_of_cgroups") else { return };
    let bundle = counting(&world);
    let c = world.world.container(&bundle);
    world.run(&c);
    for mode in ["soft", "full", "ignore"] {
        counts_on(&bundle, count(&bundle));
        let flags = ["--manage-cgroups-mode", mode, "--empty-ns", "network", "--auto-dedup", "--shell-job"];
        world.checkpoint(&c, mode, &flags).run().ok();
        world.restore(&c, mode, &flags).run().ok();
        assert!(!davit_tests::host::processes_in_cgroup(&c.id).is_empty(), "{mode}");
    }
    // The container's cgroup is made before CRIU starts, so that this fails with runc as well.
    world.checkpoint(&c, "strict", &["--manage-cgroups-mode", "strict"]).run().ok();
    let call = world.restore(&c, "strict", &["--manage-cgroups-mode", "strict"]).run().exits(1);
    assert!(call.error().contains("Abort restore of existing cgroups"), "{}", call.error());
    c.assert_nothing_left();
    world.restore(&c, "strict", &["--manage-cgroups-mode", "soft"]).run().ok();
    c.finish();
}

#[test]
fn the_network_lock() {
    let Some(world) = CriuWorld::enter("checkpoint::the_network_lock") else { return };
    let bundle = idle(&world);
    let c = world.world.container(&bundle);
    world.run(&c);
    for method in ["nftables", "skip"] {
        world.checkpoint(&c, method, &["--network-lock", method, "--leave-running"]).run().ok();
    }
    c.stop();
    c.simple("delete").ok();
    // CRIU takes the method of the checkpoint.
    world.restore(&c, "skip", &["--network-lock", "nftables"]).run().ok();
    c.finish();
}

#[test]
fn memory_goes_to_a_page_server() {
    let Some(world) = CriuWorld::enter("checkpoint::memory_goes_to_a_page_server") else { return };
    let bundle = idle(&world);
    let c = world.world.container(&bundle);
    world.run(&c);
    let images = world.world.path("img");
    fs::create_dir(&images).unwrap();
    let mut server = world.page_server(&images);
    let address = format!("127.0.0.1:{}", server.port);
    world.checkpoint(&c, "img", &["--leave-running", "--page-server", &address]).run().ok();
    server.wait();
    let names: Vec<_> = fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().any(|name| name.to_str().unwrap().starts_with("pages-")), "{names:?}");
    c.stop();
    c.simple("delete").ok();
    world.restore(&c, "img", &[]).run().ok();
    assert_eq!(c.sh("cat /proc/1/comm"), "sleep");
    c.finish();
}

/// Where the kernel does not track written pages, that is said in runc's words.
#[test]
fn a_dump_after_a_pre_dump() {
    let test = "checkpoint::a_dump_after_a_pre_dump";
    let Some(world) = CriuWorld::enter(test) else { return };
    let bundle = counting(&world);
    let c = world.world.container(&bundle);
    world.run(&c);
    counts_on(&bundle, 0);
    let call = world.checkpoint(&c, "img/pre", &["--pre-dump"]).run();
    assert_eq!(c.status(), "running");
    if call.code != 0 {
        assert_eq!(call.error(), "criu is missing features: [MemTrack]");
        c.finish();
        davit_tests::skip::<()>(
            test,
            "criu: this kernel does not track written pages (CONFIG_MEM_SOFT_DIRTY)",
        );
        return;
    }
    counts_on(&bundle, count(&bundle));
    world.checkpoint(&c, "img/full", &["--parent-path", "../pre"]).run().ok();
    world.restore(&c, "img/full", &[]).run().ok();
    counts_on(&bundle, count(&bundle));
    c.finish();
}

/// The whole way, a restore whose memory comes as it is used, fails in CRIU 4.2.1 itself, with runc too
/// (`page-pipe: splice: Bad file descriptor`).
#[test]
fn a_server_of_lazy_pages_says_that_it_is_ready() {
    let test = "checkpoint::a_server_of_lazy_pages_says_that_it_is_ready";
    let Some(world) = CriuWorld::enter(test) else { return };
    let bundle = counting(&world);
    let c = world.world.container(&bundle);
    world.run(&c);
    counts_on(&bundle, 0);
    let port = davit_tests::criu::free_port();
    let status = world.world.path("status");
    let script = format!("exec 3>{}; exec \"$@\"", status.display());
    let words = ["sh", "-c", script.as_str(), "sh"];
    let address = format!("127.0.0.1:{port}");
    let flags = ["--lazy-pages", "--page-server", &address, "--status-fd", "3"];
    let dump = world.checkpoint(&c, "img", &flags).wrapper(&words).spawn();
    wait_until("the byte that says so", || fs::read(&status).is_ok_and(|bytes| bytes == [0]));
    // It serves one that restores, and then the container is gone from here.
    drop(std::net::TcpStream::connect(&address).unwrap());
    dump.wait().ok();
    c.assert_nothing_left();
    // Without a daemon that fetches them there is no restore.
    let other = world.world.container(&bundle);
    let call = world.restore(&other, "img", &["--lazy-pages"]).run().exits(1);
    assert!(call.error().contains("criu failed: type RESTORE"), "{}", call.error());
    other.assert_nothing_left();
}
