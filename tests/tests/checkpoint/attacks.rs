//! Images may come from anybody (CVE-2026-53489): they write nowhere, and give no process more than config.json does.

use std::fs;
use std::os::unix::fs::symlink;

use davit_tests::criu::CriuWorld;
use serde_json::json;

use super::idle;

/// Links in the directory of images are not followed, by davit nor by CRIU.
#[test]
fn links_among_the_images() {
    let Some(world) = CriuWorld::enter("checkpoint::links_among_the_images") else { return };
    let bundle = idle(&world);
    let c = world.world.container(&bundle);
    world.run(&c);
    world.checkpoint(&c, "img", &[]).run().ok();
    let target = world.world.path("target");
    for name in ["restore.log", "stats-restore"] {
        fs::write(&target, "precious").unwrap();
        let path = world.world.path("img").join(name);
        let _ = fs::remove_file(&path);
        symlink(&target, &path).unwrap();
        world.restore(&c, "img", &[]).run().ok();
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious", "{name}");
        assert!(!path.is_symlink(), "{name}");
        c.stop();
        c.simple("delete").ok();
    }
    // What is no small file is not read.
    let descriptors = world.world.path("img/descriptors.json");
    let kept = fs::read(&descriptors).unwrap();
    fs::remove_file(&descriptors).unwrap();
    fs::write(&target, &kept).unwrap();
    symlink(&target, &descriptors).unwrap();
    let call = world.restore(&c, "img", &[]).run().exits(1);
    assert!(call.error().contains("descriptors.json"), "{}", call.error());
    fs::remove_file(&descriptors).unwrap();
    nix::unistd::mkfifo(&descriptors, nix::sys::stat::Mode::S_IRWXU).unwrap();
    world.restore(&c, "img", &[]).run().exits(1);
    fs::remove_file(&descriptors).unwrap();
    fs::write(&descriptors, format!("[\"{}\"]", "x".repeat(1 << 20))).unwrap();
    world.restore(&c, "img", &[]).run().exits(1);
    c.assert_nothing_left();
    // A checkpoint into a directory of somebody's replaces such a link.
    fs::remove_file(&descriptors).unwrap();
    fs::write(&target, "precious").unwrap();
    let again = world.world.path("again");
    fs::create_dir(&again).unwrap();
    symlink(&target, again.join("descriptors.json")).unwrap();
    let c = world.world.container(&bundle);
    world.run(&c);
    world.checkpoint(&c, "again", &[]).run().ok();
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}

/// Processes that were less isolated than the config says do not run: images say by themselves what they have.
#[test]
fn images_with_more_rights() {
    let Some(world) = CriuWorld::enter("checkpoint::images_with_more_rights") else { return };
    let restored_by =
        |change: &dyn for<'b> Fn(&'b mut davit_tests::Bundle) -> &'b mut davit_tests::Bundle, words: &str| {
            let mut open = idle(&world);
            change(&mut open);
            let c = world.world.container(&open);
            world.run(&c);
            let images = davit_tests::unique("img");
            world.checkpoint(&c, &images, &[]).run().ok();
            let strict = idle(&world);
            let c = world.world.container(&strict);
            let call = world.restore(&c, &images, &[]).run().exits(1);
            assert!(call.error().contains(words), "{}", call.error());
            c.assert_nothing_left();
        };
    restored_by(&|bundle| bundle.remove("/hostname").without_namespace("uts"), "the host's uts namespace");
    restored_by(&|bundle| bundle.without_namespace("network"), "the host's net namespace");
    restored_by(&|bundle| bundle.without_namespace("ipc"), "the host's ipc namespace");
    // CRIU refuses by itself where somebody has that pid.
    restored_by(&|bundle| bundle.without_namespace("pid"), "");
    restored_by(
        &|bundle| bundle.push("/process/capabilities/bounding", json!("CAP_SYS_ADMIN")),
        "capabilities in the bounding set",
    );
    restored_by(&|bundle| bundle.set("/process/noNewPrivileges", json!(false)), "no noNewPrivileges");
    // Init is as it should be, its child is not.
    let mut open = idle(&world);
    open.set("/process/noNewPrivileges", json!(false));
    open.script("sleep 1000 & exec busybox setpriv --nnp sleep 1000");
    let c = world.world.container(&open);
    world.run(&c);
    let status = || fs::read_to_string(format!("/proc/{}/status", c.pid())).unwrap();
    davit_tests::wait_until("init's new rights", || status().contains("NoNewPrivs:\t1"));
    world.checkpoint(&c, "two", &[]).run().ok();
    let strict = idle(&world);
    let c = world.world.container(&strict);
    let call = world.restore(&c, "two", &[]).run().exits(1);
    assert!(call.error().contains("no noNewPrivileges"), "{}", call.error());
    c.assert_nothing_left();
}

/// A restore by runc that was killed leaves the root file system mounted in the state directory.
#[test]
fn a_left_over_mount_of_the_root() {
    let Some(world) = davit_tests::World::enter("checkpoint::a_left_over_mount_of_the_root") else { return };
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    let c = world.container(&bundle);
    c.create(&[]).ok();
    let root = world.root().join(&c.id).join("criu-root");
    fs::create_dir(&root).unwrap();
    let flags = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(&bundle.rootfs("/")), &root, None::<&str>, flags, None::<&str>).unwrap();
    c.call("delete", &["--force"], &[]).run().ok();
    assert!(bundle.rootfs("/bin/busybox").exists(), "the root file system is still there");
    c.assert_nothing_left();
}
