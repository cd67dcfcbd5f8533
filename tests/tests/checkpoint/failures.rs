//! What can't be done is said in a sentence; the container runs on, and nothing is left behind.

use std::fs;

use davit_tests::criu::{CriuWorld, count, counting, counts_on};
use davit_tests::user::Ranges;
use davit_tests::{World, wait_until};
use serde_json::json;

use super::idle;

#[test]
fn wrong_flags() {
    let Some(world) = CriuWorld::enter("checkpoint::wrong_flags") else { return };
    let bundle = idle(&world);
    let c = world.world.container(&bundle);
    world.run(&c);
    let cases: [(&[&str], &str); 10] = [
        (&["--page-server", "host"], "Use --page-server ADDRESS:PORT to specify page server"),
        (&["--page-server", "1.2.3.4:http"], "Invalid port number"),
        (&["--manage-cgroups-mode", "props"], "invalid manage-cgroups-mode value"),
        (&["--empty-ns", "mount"], "namespace \"mount\" is not supported"),
        (&["--parent-path", "/abs"], "--parent-path must be relative"),
        (&["--parent-path", "nowhere"], "invalid --parent-path"),
        (&["--network-lock", "magic"], "invalid --network-lock value"),
        (&["--status-fd", "x"], "status-fd"),
        (&["--lazy-pages"], "--lazy-pages needs --page-server"),
        (
            &["--lazy-pages", "--page-server", "127.0.0.1:9", "--status-fd", "77"],
            "invalid --status-fd argument 77",
        ),
    ];
    for (flags, words) in cases {
        let call = world.checkpoint(&c, "img", flags).run().exits(1);
        assert!(call.stderr.contains(words) || call.error().contains(words), "{flags:?}: {}", call.stderr);
    }
    let call = world.restore(&c, "img", &["--console-socket", "x"]).run().exits(1);
    assert!(!call.error().is_empty());
    c.finish();
}

#[test]
fn states_that_have_nothing_to_write() {
    let Some(world) = CriuWorld::enter("checkpoint::states_that_have_nothing_to_write") else { return };
    let mut bundle = world.world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.world.container(&bundle);
    c.create(&[]).ok();
    world.checkpoint(&c, "img", &[]).run().fails(1, "Container cannot be checkpointed in created state");
    c.simple("start").ok();
    c.stop();
    world.checkpoint(&c, "img", &[]).run().fails(1, "Container cannot be checkpointed in stopped state");
    c.simple("delete").ok();
    world.checkpoint(&c, "img", &[]).run().fails(1, "container does not exist");
    assert!(!world.world.path("img").exists(), "no directory was made");
    c.assert_nothing_left();
}

#[test]
fn without_criu() {
    let Some(world) = World::enter("checkpoint::without_criu") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    let images = world.path("img");
    let flags = ["--image-path", images.to_str().unwrap()];
    let words = "criu: executable file not found in $PATH";
    let call = c.call("checkpoint", &flags, &[]).env("PATH", "/nonexistent").run().exits(1);
    assert!(call.error().contains(words), "{}", call.error());
    assert!(!images.exists());
    assert_eq!(c.status(), "running");
    c.finish();
    let c = world.container(&bundle);
    let call = c.call("restore", &flags, &[]).dir(bundle.dir()).env("PATH", "/nonexistent").run().exits(1);
    assert!(call.error().contains(words), "{}", call.error());
    c.assert_nothing_left();
}

#[test]
fn an_ordinary_user() {
    let Some(world) = World::enter_as_user("checkpoint::an_ordinary_user", Ranges::None) else { return };
    let c = world.container(&world.bundle());
    for (command, done) in [("checkpoint", "checkpointed"), ("restore", "restored")] {
        let call = c.call(command, &[], &[]).dir(c.bundle()).run().exits(1);
        let words = format!("container cannot be {done}: that needs root");
        assert!(call.error().contains(&words), "{}", call.error());
    }
}

#[test]
fn a_full_disk() {
    let Some(world) = CriuWorld::enter("checkpoint::a_full_disk") else { return };
    let bundle = counting(&world);
    let c = world.world.container(&bundle);
    world.run(&c);
    counts_on(&bundle, 0);
    let disk = world.world.path("disk");
    fs::create_dir(&disk).unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), &disk, Some("tmpfs"), flags, Some("size=32k")).unwrap();
    let call = world.checkpoint(&c, "disk", &[]).run();
    let running = c.status();
    nix::mount::umount(&disk).unwrap();
    let call = call.exits(1);
    assert!(!call.error().is_empty());
    assert_eq!(running, "running");
    counts_on(&bundle, count(&bundle));
    c.finish();
}

#[test]
fn images_that_are_broken_or_not_there() {
    let Some(world) = CriuWorld::enter("checkpoint::images_that_are_broken_or_not_there") else { return };
    let bundle = idle(&world);
    let c = world.world.container(&bundle);
    let call = world.restore(&c, "nowhere", &[]).run().exits(1);
    assert!(call.error().contains("nowhere: no such file or directory"), "{}", call.error());
    fs::create_dir(world.world.path("empty")).unwrap();
    let call = world.restore(&c, "empty", &[]).run().exits(1);
    assert!(call.error().contains("descriptors.json: no such file or directory"), "{}", call.error());
    c.assert_nothing_left();
    world.run(&c);
    world.checkpoint(&c, "img", &[]).run().ok();
    for image in ["mountpoints-", "core-1.", "pstree."] {
        let broken = world.world.path(&format!("broken-{image}"));
        let copied =
            std::process::Command::new("cp").arg("-r").arg(world.world.path("img")).arg(&broken).status();
        assert!(copied.unwrap().success());
        let found = fs::read_dir(&broken).unwrap().map(|entry| entry.unwrap().path());
        let found =
            found.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(image));
        fs::write(found.expect(image), "not an image").unwrap();
        let call = world.restore(&c, &format!("broken-{image}"), &[]).run().exits(1);
        assert!(
            call.error().contains("criu failed: type RESTORE") || call.error().contains("criu ended"),
            "{}",
            call.error()
        );
        assert!(call.error().contains("restore.log"), "{}", call.error());
        c.assert_nothing_left();
    }
    // The good ones still are.
    world.restore(&c, "img", &[]).run().ok();
    let call = world.restore(&c, "img", &[]).run().exits(1);
    assert!(call.error().contains("container with given ID already exists"), "{}", call.error());
    assert_eq!(c.status(), "running");
    c.finish();
}

#[test]
fn what_criu_would_lose_is_refused() {
    let Some(world) = CriuWorld::enter("checkpoint::what_criu_would_lose_is_refused") else { return };
    let mut bundle = world.world.bundle();
    bundle
        .args(&["sleep", "1000"])
        .set("/annotations", json!({"io.github.davit.landlock": "{\"readOnly\": [\"/\"]}"}));
    let c = world.world.container(&bundle);
    let call = c.run(&["--detach"]);
    if call.code == 0 {
        world.checkpoint(&c, "img", &[]).run().fails(1, "can't restore a Landlock domain");
        assert_eq!(c.status(), "running");
        c.finish();
    }
    // Nor is one made of images whose checkpoint did not have it.
    let bundle2 = idle(&world);
    let c = world.world.container(&bundle2);
    world.run(&c);
    world.checkpoint(&c, "img", &[]).run().ok();
    let refused = |pointer: &str, value: serde_json::Value, words: &str| {
        let mut changed = idle(&world);
        changed.set(pointer, value);
        let c = world.world.container(&changed);
        let call = world.restore(&c, "img", &[]).run().exits(1);
        assert!(call.error().contains(words), "{}", call.error());
        c.assert_nothing_left();
    };
    refused("/annotations", json!({"io.github.davit.landlock": "{\"readOnly\": [\"/\"]}"}), "Landlock");
    refused(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent",
               "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}),
        "listener",
    );
    refused(
        "/mounts/0",
        json!({"destination": "/mnt", "type": "bind", "source": "/tmp", "options": ["bind"],
               "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
               "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}]}),
        "ids mapped",
    );
    wait_until("the end", || !world.world.root().join(&c.id).exists());
}

/// What CRIU can't do here, or what is nothing to it, shows that a flag gets to it, or to the making of the container.
#[test]
fn flags_of_restore_reach_criu() {
    let Some(world) = CriuWorld::enter("checkpoint::flags_of_restore_reach_criu") else { return };
    let bundle = idle(&world);
    let c = world.world.container(&bundle);
    world.run(&c);
    world.checkpoint(&c, "img", &["--ext-unix-sk"]).run().ok();
    if !std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        // A label of a security module that this host does not have; the images have none.
        let call = world.restore(&c, "img", &["--lsm-profile", "apparmor:box"]).run();
        let log = fs::read_to_string(world.world.path("img/restore.log")).unwrap();
        assert!(call.code == 0 || call.error().contains("criu failed"), "{}", call.error());
        assert!(log.contains("apparmor:box") || log.contains("lsm"), "{log}");
        if call.code == 0 {
            c.stop();
            c.simple("delete").ok();
        }
    }
    let other = world.world.path("other.json");
    fs::copy(bundle.dir().join("config.json"), &other).unwrap();
    let socket = davit_tests::tty::ConsoleSocket::bind(&world.world.path("pidfd.sock"));
    let flags = [
        "--ext-unix-sk",
        "--no-pivot",
        "--lsm-mount-context",
        "system_u:object_r:container_file_t:s0",
        "--config",
        other.to_str().unwrap(),
        "--pidfd-socket",
        socket.path.to_str().unwrap(),
    ];
    world.restore(&c, "img", &flags).run().ok();
    let (pidfd, _) = socket.receive();
    let info =
        fs::read_to_string(format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&pidfd))).unwrap();
    assert!(info.contains(&format!("Pid:\t{}", c.pid())), "{info}");
    assert_eq!(c.status(), "running");
    c.finish();
}
