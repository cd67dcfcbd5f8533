//! Id-mapped mounts: with mappings of their own, the container's, crun's option, and without support.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use davit_tests::{Bundle, World, host};
use serde_json::{Value, json};

/// A directory with files of owners 0, 1 and 1000.
fn source(world: &World, name: &str) -> PathBuf {
    let dir = world.path(name);
    fs::create_dir(&dir).unwrap();
    for id in [0, 1, 1000] {
        let file = dir.join(id.to_string());
        fs::write(&file, "").unwrap();
        chown(&file, Some(id), Some(id)).unwrap();
    }
    dir
}

fn maps(ranges: &[(u32, u32, u32)]) -> Value {
    ranges
        .iter()
        .map(|(inside, outside, size)| json!({"containerID": inside, "hostID": outside, "size": size}))
        .collect()
}

fn id_mapped(bundle: &mut Bundle, source: &str, options: &[&str], ranges: &[(u32, u32, u32)]) {
    bundle.push(
        "/mounts",
        json!({"destination": "/mnt/m", "type": "none", "source": source, "options": options,
               "uidMappings": maps(ranges), "gidMappings": maps(ranges)}),
    );
}

fn user_namespace(bundle: &mut Bundle, ranges: &[(u32, u32, u32)]) {
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", maps(ranges))
        .set("/linux/gidMappings", maps(ranges));
    give(bundle, ranges[0].1);
}

/// Gives the rootfs to the container's root.
fn give(bundle: &Bundle, id: u32) {
    let all = Command::new("chown").arg("-R").arg(format!("{id}:{id}")).arg(bundle.rootfs("/")).status();
    assert!(all.unwrap().success());
}

const OWNERS: &str = "stat -c '%n %u %g' /mnt/m/* | sed 's,.*/,,'";

#[track_caller]
fn owners(world: &World, bundle: &mut Bundle) -> Vec<String> {
    bundle.script(OWNERS);
    let c = world.container(bundle);
    let output = c.run(&[]).ok().stdout;
    c.assert_nothing_left();
    output.lines().map(str::to_owned).collect()
}

#[test]
fn own_mappings_without_a_user_namespace() {
    let Some(world) = World::enter("own_mappings_without_a_user_namespace") else { return };
    if world.is_old_runc() {
        return;
    }
    let dir = source(&world, "source");
    let mut bundle = world.bundle();
    id_mapped(&mut bundle, dir.to_str().unwrap(), &["bind", "idmap"], &[(0, 5000, 100), (1000, 7000, 1)]);
    assert_eq!(owners(&world, &mut bundle), ["0 5000 5000", "1 5001 5001", "1000 7000 7000"]);

    // What is written goes back through the map; ids outside of it can't be written.
    let mut bundle = world.bundle();
    id_mapped(&mut bundle, dir.to_str().unwrap(), &["bind", "idmap"], &[(0, 5000, 100)]);
    bundle.set("/process/user", json!({"uid": 5007, "gid": 5008})).script("touch /mnt/m/new; echo $?");
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let c = world.container(&bundle);
    assert_eq!(c.run(&[]).ok().stdout, "0\n");
    let new = fs::metadata(dir.join("new")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&new), 7);
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&new), 8);
    // Nothing of it shows on the host.
    let source = dir.to_str().unwrap();
    assert!(!host::mounts().lines().any(|line| line.contains(source) && line.contains("idmapped")));
}

#[test]
fn mappings_without_the_option_map_too() {
    let Some(world) = World::enter("mappings_without_the_option_map_too") else { return };
    if world.is_old_runc() {
        return;
    }
    let dir = source(&world, "source");
    let mut bundle = world.bundle();
    id_mapped(&mut bundle, dir.to_str().unwrap(), &["bind"], &[(0, 5000, 100)]);
    assert_eq!(owners(&world, &mut bundle)[..2], ["0 5000 5000", "1 5001 5001"]);
}

#[test]
fn the_containers_mappings() {
    let Some(world) = World::enter("the_containers_mappings") else { return };
    if world.is_old_runc() {
        return;
    }
    let dir = source(&world, "source");
    let mut bundle = world.bundle();
    user_namespace(&mut bundle, &[(0, 100_000, 65536)]);
    bundle.mount("/mnt/m", "bind", dir.to_str().unwrap(), &["bind", "idmap", "ro"]);
    // Mapped there and back: the container sees what the host has.
    assert_eq!(owners(&world, &mut bundle), ["0 0 0", "1 1 1", "1000 1000 1000"]);
    bundle.script("touch /mnt/m/x 2>/dev/null; echo $?");
    let c = world.container(&bundle);
    assert_eq!(c.run(&[]).ok().stdout, "1\n", "other options act too");
    // Without it, ids of the host are nobody's.
    let mut bundle = world.bundle();
    user_namespace(&mut bundle, &[(0, 100_000, 65536)]);
    bundle.mount("/mnt/m", "bind", dir.to_str().unwrap(), &["bind"]);
    assert_eq!(owners(&world, &mut bundle)[0], "0 65534 65534");
}

#[test]
fn own_mappings_in_a_user_namespace() {
    let Some(world) = World::enter("own_mappings_in_a_user_namespace") else { return };
    if world.is_old_runc() {
        return;
    }
    let dir = source(&world, "source");
    let mut bundle = world.bundle();
    user_namespace(&mut bundle, &[(0, 100_000, 65536)]);
    id_mapped(&mut bundle, dir.to_str().unwrap(), &["bind", "idmap"], &[(0, 100_010, 10)]);
    assert_eq!(owners(&world, &mut bundle), ["0 10 10", "1 11 11", "1000 65534 65534"]);
}

/// A process in a user namespace with mappings; ended when dropped.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_mappings_of_a_joined_user_namespace() {
    let Some(world) = World::enter("the_mappings_of_a_joined_user_namespace") else { return };
    if world.is_old_runc() {
        return;
    }
    let dir = source(&world, "source");
    let mut child = Command::new("unshare")
        .args(["--user", "sh", "-c", "echo ready; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = child.stdout.take().unwrap();
    let holder = Holder(child);
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    let pid = holder.0.id();
    for file in ["gid_map", "uid_map"] {
        fs::write(format!("/proc/{pid}/{file}"), "0 200000 65536").unwrap();
    }
    let mut bundle = world.bundle();
    bundle.push("/linux/namespaces", json!({"type": "user", "path": format!("/proc/{pid}/ns/user")}));
    give(&bundle, 200_000);
    bundle.mount("/mnt/m", "bind", dir.to_str().unwrap(), &["bind", "idmap"]);
    assert_eq!(owners(&world, &mut bundle), ["0 0 0", "1 1 1", "1000 1000 1000"]);
}

#[test]
fn one_mount_or_the_tree() {
    let Some(world) = World::enter("one_mount_or_the_tree") else { return };
    if world.is_old_runc() {
        return;
    }
    let dir = source(&world, "source");
    let sub = dir.join("sub");
    fs::create_dir(&sub).unwrap();
    let _mounted = Mounted::tmpfs(&sub);
    fs::write(sub.join("file"), "").unwrap();
    for (option, expected) in [("idmap", "0"), ("ridmap", "5000")] {
        let mut bundle = world.bundle();
        id_mapped(&mut bundle, dir.to_str().unwrap(), &["rbind", option], &[(0, 5000, 100)]);
        bundle.script("stat -c %u /mnt/m/0 /mnt/m/sub/file");
        let c = world.container(&bundle);
        assert_eq!(c.run(&[]).ok().stdout, format!("5000\n{expected}\n"), "{option}");
        c.assert_nothing_left();
    }
}

/// A mount that is undone when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(path: &std::path::Path) -> Self {
        let ok = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(path).status().unwrap().success();
        assert!(ok);
        Mounted(path.to_owned())
    }

    fn overlay(lower: &std::path::Path, path: &std::path::Path) -> Self {
        let options = format!("lowerdir={}:/usr", lower.display());
        let mut mount = Command::new("mount");
        assert!(
            mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(path).status().unwrap().success()
        );
        Mounted(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn the_option_of_crun() {
    let Some(world) = World::enter("the_option_of_crun") else { return };
    if world.is_runc() {
        return;
    }
    let dir = source(&world, "source");
    let dir = dir.to_str().unwrap();
    let mut bundle = world.bundle();
    bundle.mount("/mnt/m", "bind", dir, &["bind", "idmap=uids=0-5000-2#1000-9-1;gids=0-6000-100"]);
    let expected = ["0 5000 6000", "1 5001 6001", "1000 9 65534"];
    assert_eq!(owners(&world, &mut bundle), expected);
    // Relative to the container's namespace.
    let mut bundle = world.bundle();
    user_namespace(&mut bundle, &[(0, 100_000, 65536)]);
    bundle.mount("/mnt/m", "bind", dir, &["bind", "idmap=uids=@0-10-2;gids=@0-20-2"]);
    assert_eq!(owners(&world, &mut bundle)[..2], ["0 10 20", "1 11 21"]);
    // Any filesystem, as in crun.
    let mut bundle = world.bundle();
    bundle
        .mount("/mnt/m", "tmpfs", "tmpfs", &["idmap=uids=0-5000-100;gids=0-6000-100"])
        .script("stat -c '%u %g' /mnt/m");
    let c = world.container(&bundle);
    assert_eq!(c.run(&[]).ok().stdout, "5000 6000\n");
}

#[test]
fn what_is_wrong_is_named() {
    let Some(world) = World::enter("what_is_wrong_is_named") else { return };
    if world.is_runc() {
        return;
    }
    let dir = source(&world, "source");
    fs::create_dir(world.path("merged")).unwrap();
    let overlay = Mounted::overlay(&dir, &world.path("merged"));
    let fails = |options: &[&str], source: &str, words: &str| {
        let mut bundle = world.bundle();
        bundle.mount("/mnt/m", "none", source, options).args(&["true"]);
        let c = world.container(&bundle);
        c.run(&[]).fails(1, words);
        c.assert_nothing_left();
    };
    let dir = dir.to_str().unwrap();
    fails(&["bind", "idmap"], dir, "/mnt/m: id-mapped mounts must have both uid and gid mappings specified");
    let mapped = "idmap=uids=0-1-1;gids=0-1-1";
    fails(
        &["bind", mapped],
        overlay.0.to_str().unwrap(),
        "its filesystem overlay does not support id-mapped mounts",
    );
    fails(&["bind", mapped], "/nosuch", "no such file or directory");
    fails(&["bind", "idmap=uids=0-1"], dir, "want uids=FROM-TO-SIZE");
    fails(&["bind", "idmap=uids=0-1-1#0-5-1;gids=0-1-1"], dir, "invalid argument");
}
