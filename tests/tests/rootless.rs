//! The runtime as an ordinary user.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use davit_tests::user::{FIRST_ID, IDS, Ranges, UID};
use davit_tests::{Bundle, World};
use serde_json::json;

/// A bundle as `spec --rootless` describes it: mapped to the user, without a network namespace.
fn rootless(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    bundle
        .without_namespace("network")
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", map(UID))
        .set("/linux/gidMappings", map(UID));
    let mounts = bundle.config.pointer_mut("/mounts").and_then(|m| m.as_array_mut()).unwrap();
    mounts.retain(|mount| mount["destination"] != "/sys");
    for mount in mounts {
        // No group but the user's is mapped.
        if let Some(options) = mount.pointer_mut("/options").and_then(|o| o.as_array_mut()) {
            options.retain(|option| option != "gid=5");
        }
    }
    bundle.mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]);
    bundle
}

/// Words of a file of /proc/PID.
fn words(pid: i32, file: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

#[test]
fn life_of_a_container_without_ranges() {
    let Some(world) = World::enter_as_user("life_of_a_container_without_ranges", Ranges::None) else {
        return;
    };
    let mut bundle = rootless(&world);
    bundle.args(&["sleep", "1000"]).set("/root/readonly", json!(false));
    let c = world.container(&bundle);
    c.create(&[]).ok();
    assert_eq!(c.status(), "created");
    c.simple("start").ok();
    assert_eq!(c.status(), "running");
    let pid = c.pid();
    assert_eq!(words(pid, "uid_map"), ["0", &UID.to_string(), "1"]);
    assert_eq!(words(pid, "gid_map"), ["0", &UID.to_string(), "1"]);
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/setgroups")).unwrap(), "deny\n");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("\nUid:\t{UID}\t{UID}\t{UID}\t{UID}\n")), "{status}");

    assert_eq!(c.sh("id -u; id -g; echo $HOME"), "0\n0\n/root");
    // All namespaces are the container's.
    for kind in ["user", "pid", "mnt", "ipc", "uts", "cgroup", "net"] {
        let theirs = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(c.sh(&format!("readlink /proc/self/ns/{kind}")), theirs.to_str().unwrap(), "{kind}");
    }
    c.exec(&[], &["sh", "-c", "exit 7"]).exits(7);
    assert_eq!(c.sh("echo x > /dev/null; head -c 3 /dev/zero | wc -c; touch /tmp/made"), "3");
    assert_eq!(fs::metadata(bundle.rootfs("tmp/made")).unwrap().uid(), UID);

    let list = world.call(&["list", "--format", "json"]).run().ok().json();
    assert_eq!(list[0]["id"], c.id.as_str());
    assert_eq!(list[0]["status"], "running");
    c.stop();
    c.simple("delete").ok();
    c.assert_nothing_left();
}

#[test]
fn oom_score_adj_can_be_raised_and_not_lowered() {
    let Some(world) = World::enter_as_user("oom_score_adj_can_be_raised_and_not_lowered", Ranges::None)
    else {
        return;
    };
    let mut bundle = rootless(&world);
    bundle.args(&["sleep", "1000"]).set("/process/oomScoreAdj", json!(300));
    let c = world.container(&bundle).started();
    assert_eq!(words(c.pid(), "oom_score_adj"), ["300"]);
    assert_eq!(c.sh("cat /proc/self/oom_score_adj"), "300", "exec");
    c.finish();

    bundle.set("/process/oomScoreAdj", json!(-300));
    let c = world.container(&bundle);
    let run = c.run(&[]);
    if world.is_runc() {
        assert_ne!(run.code, 0);
    } else {
        run.fails(1, "oom_score_adj: permission denied (lowering process.oomScoreAdj");
    }
    c.assert_nothing_left();
}

#[test]
fn ranges_are_mapped_by_the_helpers() {
    let Some(world) = World::enter_as_user("ranges_are_mapped_by_the_helpers", Ranges::Some) else { return };
    let mut bundle = rootless(&world);
    let map = |first: u32| json!([{"containerID": 0, "hostID": UID, "size": 1}, {"containerID": 1, "hostID": first, "size": IDS}]);
    bundle
        .args(&["sleep", "1000"])
        .set("/root/readonly", json!(false))
        .set("/linux/uidMappings", map(FIRST_ID))
        .set("/linux/gidMappings", map(FIRST_ID + 100_000));
    let c = world.container(&bundle).started();
    let pid = c.pid();
    let expected = |first: u32| format!("0 {UID} 1 1 {first} {IDS}");
    assert_eq!(words(pid, "uid_map").join(" "), expected(FIRST_ID));
    assert_eq!(words(pid, "gid_map").join(" "), expected(FIRST_ID + 100_000));
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/setgroups")).unwrap(), "allow\n");
    c.exec(&["--user", "1000:1000"], &["sh", "-c", "touch /tmp/made; id -u; id -g"]).ok();
    let made = fs::metadata(bundle.rootfs("tmp/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (FIRST_ID + 999, FIRST_ID + 100_999));
    c.finish();

    // Not the user's: the helper says so.
    bundle.set("/linux/uidMappings/1/hostID", json!(FIRST_ID - 1));
    let c = world.container(&bundle);
    let run = c.run(&[]);
    if world.is_runc() {
        assert_ne!(run.code, 0);
    } else {
        run.fails(1, "newuidmap: uid range [1-65537) -> [699999-765535) not allowed");
    }
    c.assert_nothing_left();
}

#[test]
fn a_missing_helper_is_named_with_its_package() {
    let Some(world) = World::enter_as_user("a_missing_helper_is_named_with_its_package", Ranges::None) else {
        return;
    };
    if world.is_runc() {
        return;
    }
    let mut bundle = rootless(&world);
    bundle.args(&["true"]).set("/linux/gidMappings/0/size", json!(2));
    let c = world.container(&bundle);
    let bundle = ["--bundle", bundle.dir().to_str().unwrap()];
    let run = c.call("run", &bundle, &[]).env("PATH", "/nowhere:.").run();
    run.fails(1, "needs the program newgidmap, and it is not in $PATH (install the package uidmap");
    c.assert_nothing_left();
}

#[test]
fn state_is_below_xdg_runtime_dir() {
    let Some(world) = World::enter_as_user("state_is_below_xdg_runtime_dir", Ranges::None) else { return };
    let mut bundle = rootless(&world);
    bundle.args(&["true"]);
    let c = world.container(&bundle);
    let xdg = world.root();
    let dir = bundle.dir().to_str().unwrap();
    let call =
        |words: &[&str]| world.call(words).without_root().env("XDG_RUNTIME_DIR", xdg.to_str().unwrap());
    call(&["create", "--bundle", dir, &c.id]).run().ok();
    let name = if world.is_runc() { "runc" } else { "davit" };
    let state = fs::metadata(xdg.join(name)).unwrap();
    assert_eq!((state.uid(), state.permissions().mode() & 0o7777), (UID, 0o1700));
    assert!(xdg.join(name).join(&c.id).join("state.json").exists());
    assert_eq!(call(&["list", "-q"]).run().ok().stdout.trim(), c.id);
    call(&["delete", "--force", &c.id]).run().ok();
    c.assert_nothing_left();
}
