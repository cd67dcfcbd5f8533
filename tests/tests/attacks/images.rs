//! Hostile images and volumes: what lies at /dev, /dev/null, /dev/console, /dev/pts before the container is made.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

use davit_tests::tty::ConsoleSocket;
use davit_tests::{Bundle, World};
use serde_json::json;

use crate::support::{Canary, SECRET, assert_hits_old_runc, enter, has_old_runc, run, snapshot};

fn without_mounts(bundle: &mut Bundle, prefix: &str) {
    let mounts = bundle.config["mounts"].as_array().unwrap().iter();
    let under = |mount: &&serde_json::Value| !mount["destination"].as_str().unwrap().starts_with(prefix);
    let rest: Vec<_> = mounts.filter(under).cloned().collect();
    bundle.set("/mounts", json!(rest));
}

/// A memory device.
fn mknod(path: &std::path::Path, minor: &str) {
    let made = std::process::Command::new("mknod").arg(path).args(["c", "1", minor]).status().unwrap();
    assert!(made.success());
}

/// No mount on /dev, which is a link out of the image: the default devices and links go there (CVE-2026-47766 in
/// crun).
#[test]
fn cve_2026_41579_devices_are_made_in_the_root() {
    let Some(world) = enter("cve_2026_41579_devices_are_made_in_the_root") else { return };
    let image = |target: &str| {
        let mut bundle = world.bundle();
        without_mounts(&mut bundle, "/dev");
        fs::remove_dir(bundle.rootfs("dev")).unwrap();
        symlink(target, bundle.rootfs("dev")).unwrap();
        bundle.args(&["true"]).set("/root/readonly", json!(false));
        bundle
    };
    let weak = Canary::new(&world, "weak");
    let up = "../".repeat(20);
    let upwards = |canary: &Canary| format!("{up}{}", &canary.text()[1..]);
    assert_hits_old_runc(&world, &image(&upwards(&weak)), 1, |_| weak.is_touched());
    let canary = Canary::new(&world, "canary");
    for target in [canary.text().to_owned(), upwards(&canary)] {
        let bundle = image(&target);
        run(&world, &bundle);
        canary.assert_untouched();
        // A link of the image means a place in the image.
        let inside = bundle.rootfs(&canary.text()[1..]).join("null");
        assert!(inside.symlink_metadata().unwrap().file_type().is_char_device());
    }
    // Behind a tmpfs the same: the mount itself goes to the link's target inside.
    let mut bundle = image(canary.text());
    bundle.mount("/dev", "tmpfs", "tmpfs", &["mode=755"]);
    run(&world, &bundle);
    canary.assert_untouched();
}

/// /dev is a volume whose null is a link or another node. Masks made of it would show the attacker's file, writable,
/// in place of what they hide (CVE-2025-62161 in youki).
#[test]
fn cve_2025_31133_masks_are_made_of_the_real_null() {
    let Some(world) = enter("cve_2025_31133_masks_are_made_of_the_real_null") else { return };
    let volume = world.path("dev");
    fs::create_dir(&volume).unwrap();
    let mut bundle = world.bundle();
    without_mounts(&mut bundle, "/dev");
    // In place of this file an attacker has /proc/sys/kernel/core_pattern.
    fs::write(bundle.rootfs("tmp/evil"), format!("{SECRET}\n")).unwrap();
    bundle
        .mount("/dev", "bind", volume.to_str().unwrap(), &["rbind"])
        .set("/linux/maskedPaths", json!(["/proc/keys", "/etc/passwd"]))
        .script("cat /etc/passwd; for f in /proc/keys /etc/passwd; do stat -c %t:%T $f; done");
    symlink("/tmp/evil", volume.join("null")).unwrap();
    // runc 1.1.5 hides passwd behind the attacker's file.
    assert_hits_old_runc(&world, &bundle, 1, |output| output.stdout.contains(SECRET));
    let nodes: [&dyn Fn(); 4] = [
        &|| symlink("/tmp/evil", volume.join("null")).unwrap(),
        &|| symlink("/proc/sys/kernel/core_pattern", volume.join("null")).unwrap(),
        &|| fs::write(volume.join("null"), "x").unwrap(),
        // /dev/zero's numbers.
        &|| mknod(&volume.join("null"), "5"),
    ];
    for make in nodes {
        fs::remove_file(volume.join("null")).unwrap();
        make();
        assert_eq!(run(&world, &bundle).ok().stdout, "1:3\n1:3\n");
        assert!(volume.join("null").symlink_metadata().is_ok(), "the trap is still there");
    }
    // No null at all: the masks are there all the same.
    fs::remove_file(volume.join("null")).unwrap();
    assert_eq!(run(&world, &bundle).ok().stdout, "1:3\n1:3\n");
}

/// /dev is the image's: its null must be the null device, or nothing is made.
#[test]
fn a_null_of_the_image_is_verified() {
    let Some(world) = enter("a_null_of_the_image_is_verified") else { return };
    let canary = Canary::new(&world, "canary");
    let mut bundle = world.bundle();
    without_mounts(&mut bundle, "/dev");
    bundle.args(&["true"]).set("/root/readonly", json!(false));
    symlink(canary.path().join("secret"), bundle.rootfs("dev/null")).unwrap();
    run(&world, &bundle).fails(1, "make device /dev/null: something else is there");
    fs::remove_file(bundle.rootfs("dev/null")).unwrap();
    fs::write(bundle.rootfs("dev/null"), "").unwrap();
    run(&world, &bundle).fails(1, "make device /dev/null: something else is there");
    canary.assert_untouched();
}

fn terminal<'w>(world: &'w World, bundle: &mut Bundle) -> davit_tests::Container<'w> {
    bundle.set("/process/terminal", json!(true));
    world.container(bundle)
}

/// /dev/console and the slave's name are links of a volume: the terminal would be mounted on their targets, or their
/// targets on the console.
#[test]
fn cve_2025_52565_the_console_follows_no_link() {
    let Some(world) = enter("cve_2025_52565_the_console_follows_no_link") else { return };
    let volume = world.path("dev");
    fs::create_dir_all(volume.join("pts")).unwrap();
    let target = "/proc/sys/kernel/core_pattern";
    let shape = |bundle: &mut Bundle| {
        without_mounts(bundle, "/dev");
        let pts = ["newinstance", "ptmxmode=0666", "mode=0620"];
        bundle
            .mount("/dev", "bind", volume.to_str().unwrap(), &["rbind"])
            .mount("/dev/pts", "devpts", "devpts", &pts)
            .args(&["sleep", "1000"]);
    };
    symlink(target, volume.join("console")).unwrap();
    symlink("pts/ptmx", volume.join("ptmx")).unwrap();
    mknod(&volume.join("null"), "3");
    let socket = ConsoleSocket::bind(&world.path("console.sock"));
    let flags = ["--console-socket", socket.path.to_str().unwrap()];
    let mut bundle = world.bundle();
    shape(&mut bundle);
    if has_old_runc() {
        let c = terminal(&world, &mut bundle);
        let create = c.call("create", &flags, &[]).with(std::path::Path::new(davit_tests::RUNC));
        create.dir(bundle.dir()).run().ok();
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", c.pid())).unwrap();
        assert!(table.contains(target), "runc 1.1.5 mounts the terminal on the link's target: {table}");
        c.call("delete", &["--force"], &[]).with(std::path::Path::new(davit_tests::RUNC)).run();
    }
    let c = terminal(&world, &mut bundle);
    c.create(&flags).fails(1, "/dev/console");
    c.assert_nothing_left();
    fs::remove_file(volume.join("console")).unwrap();
    // The slave's name is never used: it comes from its master. A link at the ptmx of a directory that is no devpts
    // leads nowhere.
    let socket = ConsoleSocket::bind(&world.path("second.sock"));
    let flags = ["--console-socket", socket.path.to_str().unwrap()];
    symlink(target, volume.join("pts/0")).unwrap();
    symlink("/dev/tty", volume.join("pts/ptmx")).unwrap();
    let c = terminal(&world, &mut bundle);
    c.create(&flags).ok();
    let table = fs::read_to_string(format!("/proc/{}/mountinfo", c.pid())).unwrap();
    assert!(!table.contains("core_pattern"), "{table}");
    let (_, name) = socket.receive();
    assert_eq!(name, "/dev/pts/0");
    c.finish();
    let mut bundle = world.bundle();
    shape(&mut bundle);
    let mounts = bundle.config["mounts"].as_array().unwrap().clone();
    let others: Vec<_> = mounts.into_iter().filter(|mount| mount["destination"] != "/dev/pts").collect();
    bundle.set("/mounts", json!(others));
    let c = terminal(&world, &mut bundle);
    assert_ne!(c.create(&flags).code, 0, "a ptmx that is none");
    c.assert_nothing_left();
}

/// Whatever the runtime might write to is a link in this image (CVE-2025-24965 of crun: a file in the root that its
/// handler wrote through a link).
#[test]
fn cve_2025_24965_nothing_is_written_through_links() {
    let Some(world) = enter("cve_2025_24965_nothing_is_written_through_links") else { return };
    let canary = Canary::new(&world, "canary");
    let mut bundle = world.bundle();
    let names = [
        ".krun_config.json",
        "etc/mtab",
        "etc/hostname",
        "etc/hosts",
        "etc/resolv.conf",
        "etc/passwd",
        "etc/group",
        "dev/console",
        "dev/ptmx",
        "dev/null",
        "dev/fd",
        "dev/stdin",
        "run",
        "run/.containerenv",
        ".dockerenv",
        "tmp/x",
        "exec.fifo",
        "config.json",
        "state.json",
        "log.json",
    ];
    let target = canary.path().join("secret");
    for name in names {
        let path = bundle.rootfs(name);
        let _ = fs::remove_file(&path);
        if path.parent().unwrap().is_dir() {
            symlink(&target, &path).unwrap();
            assert!(fs::read_to_string(&path).unwrap().contains(SECRET), "{name} leads to the canary");
        }
    }
    bundle.script("true").set("/root/readonly", json!(false));
    let before = snapshot(&bundle.rootfs(""));
    run(&world, &bundle).ok();
    assert_eq!(snapshot(&bundle.rootfs("")), before, "the image is as it was");
    canary.assert_untouched();
}

/// A set-uid program of an image gains nothing under no_new_privs, and without it no more than the bounding set has.
#[test]
fn set_uid_helpers_gain_nothing() {
    let Some(world) = enter("set_uid_helpers_gain_nothing") else { return };
    let mut bundle = world.bundle();
    let helper = bundle.rootfs("bin/pause-helper");
    crate::program::install(&helper);
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o4755)).unwrap();
    let caps = json!(["CAP_KILL"]);
    bundle
        .args(&["/bin/pause-helper"])
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set("/process/capabilities", json!({"bounding": caps, "effective": [], "permitted": []}));
    for (no_new_privileges, uids, permitted) in
        [(true, "1000 1000 1000 1000", 0_u64), (false, "1000 0 0 0", 0x20)]
    {
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        let c = world.container(&bundle).started();
        let value = |key: &str| {
            let status = fs::read_to_string(format!("/proc/{}/status", c.pid())).unwrap();
            let line = status.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
            line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        crate::program::wait_for(c.pid());
        // Without the flag the trap does work, within the bounding set.
        assert_eq!(value("Uid:"), uids, "noNewPrivileges {no_new_privileges}");
        assert_eq!(u64::from_str_radix(&value("CapPrm:"), 16).unwrap(), permitted);
        c.finish();
    }
}
