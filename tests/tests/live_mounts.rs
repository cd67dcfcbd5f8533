//! `mounts add` and `mounts remove` on running containers.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::Command;

use davit_tests::{Bundle, Container, Output, World, host};
use serde_json::{Value, json};

/// `mounts ACTION` with a file that holds this.
fn mounts(world: &World, c: &Container<'_>, action: &str, content: &Value) -> Output {
    let file = world.path("mounts.json");
    fs::write(&file, content.to_string()).unwrap();
    world.call(&["mounts", action, &c.id, file.to_str().unwrap()]).run()
}

fn enter(test: &str) -> Option<World> {
    // runc has no such command.
    World::enter(test).filter(|world| !world.is_runc())
}

fn source(world: &World) -> String {
    let dir = world.path("source");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("file"), "content").unwrap();
    dir.to_str().unwrap().to_owned()
}

fn sleeper(bundle: &mut Bundle) -> &mut Bundle {
    bundle.set("/root/readonly", json!(false)).args(&["sleep", "1000"])
}

#[test]
fn mounts_are_added_and_removed() {
    let Some(world) = enter("mounts_are_added_and_removed") else { return };
    let source = source(&world);
    let mut bundle = world.bundle();
    let c = world.container(sleeper(&mut bundle)).started();
    let before = c.sh("cat /proc/self/mountinfo | wc -l");
    let content = json!([
        {"destination": "/mnt/new/dir", "source": source, "options": ["rbind", "ro", "nosuid"]},
        {"destination": "/mnt/file", "source": format!("{source}/file"), "type": "bind", "options": ["bind"]},
        {"destination": "/mnt/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "mode=1770", "nodev"]},
        {"destination": "/mnt/proc2", "type": "proc", "source": "proc"},
        {"destination": "/mnt/mapped", "source": source, "options": ["bind", "idmap=uids=0-7-1;gids=0-8-1"]},
    ]);
    mounts(&world, &c, "add", &content).ok();
    let seen = c.sh(
        "cat /mnt/new/dir/file /mnt/file; echo; touch /mnt/new/dir/x 2>/dev/null; echo $?; stat -c %a /mnt/tmp; \
         head -n 1 /mnt/proc2/1/status | tr '\\t' ' '; stat -c '%u %g' /mnt/mapped/file; \
         awk '$5 == \"/mnt/new/dir\" { print $6 }' /proc/self/mountinfo",
    );
    assert_eq!(seen, "contentcontent\n1\n1770\nName: sleep\n7 8\nro,nosuid,relatime");
    for destination in ["/mnt/new/dir", "/mnt/tmp"] {
        let on_host = host::mounts().lines().any(|line| line.split(' ').nth(4) == Some(destination));
        assert!(!on_host, "{destination}: {}", host::mounts());
    }
    // What the container mounts there does not show on the host.
    let shown = host::mounts().lines().filter(|line| line.contains(&source)).count();
    assert_eq!(shown, 0);
    mounts(&world, &c, "remove", &content).ok();
    assert_eq!(c.sh("cat /proc/self/mountinfo | wc -l"), before);
    mounts(&world, &c, "remove", &content).fails(1, "nothing is mounted there");
    c.finish();
}

#[test]
fn all_of_them_or_none() {
    let Some(world) = enter("all_of_them_or_none") else { return };
    let mut bundle = world.bundle();
    let c = world.container(sleeper(&mut bundle)).started();
    let before = c.sh("cat /proc/self/mountinfo");
    let content = json!([
        {"destination": "/mnt/a", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/mnt/b", "type": "tmpfs", "source": "tmpfs", "options": ["nonsense=1"]},
    ]);
    mounts(&world, &c, "add", &content).fails(1, "Unknown parameter 'nonsense'");
    assert_eq!(c.sh("cat /proc/self/mountinfo"), before);
    c.finish();
}

#[test]
fn in_a_user_namespace() {
    let Some(world) = enter("in_a_user_namespace") else { return };
    let source = source(&world);
    let mut bundle = world.bundle();
    let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    sleeper(&mut bundle)
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", maps.clone())
        .set("/linux/gidMappings", maps);
    let owner = Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.rootfs("/")).status();
    assert!(owner.unwrap().success());
    chown(bundle.dir(), Some(100_000), Some(100_000)).unwrap();
    let c = world.container(&bundle).started();
    let content = json!([
        {"destination": "/mnt/mapped", "source": source, "options": ["bind", "idmap"]},
        {"destination": "/mnt/plain", "source": source, "options": ["bind", "ro"]},
        {"destination": "/mnt/tmp", "type": "tmpfs", "source": "tmpfs"},
    ]);
    mounts(&world, &c, "add", &content).ok();
    let owners = c.sh("stat -c %u /mnt/mapped/file /mnt/plain/file /mnt/tmp");
    assert_eq!(owners, "0\n65534\n0");
    mounts(&world, &c, "remove", &content).ok();
    assert_eq!(c.sh("grep -c /mnt/ /proc/self/mountinfo || true"), "0");
    c.finish();
}

#[test]
fn a_hostile_root_stays_the_root() {
    let Some(world) = enter("a_hostile_root_stays_the_root") else { return };
    let outside = world.path("outside");
    fs::create_dir(&outside).unwrap();
    let mut bundle = world.bundle();
    symlink(&outside, bundle.rootfs("mnt/absolute")).unwrap();
    symlink("../../../../../../../../etc", bundle.rootfs("mnt/up")).unwrap();
    let c = world.container(sleeper(&mut bundle)).started();
    let content = json!([
        {"destination": "/mnt/absolute/x", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/mnt/up", "type": "tmpfs", "source": "tmpfs"},
    ]);
    mounts(&world, &c, "add", &content).ok();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(c.sh("ls /etc | wc -l; grep -c ' /etc ' /proc/self/mountinfo"), "0\n1");
    assert!(Path::new("/etc/passwd").exists());
    mounts(&world, &c, "add", &json!([{"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs"}]))
        .fails(1, "inside /proc");
    mounts(&world, &c, "remove", &json!([{"destination": "/"}])).fails(1, "that is the container's root");
    c.finish();
}

#[test]
fn what_can_not_be_done_is_said() {
    let Some(world) = enter("what_can_not_be_done_is_said") else { return };
    let mut bundle = world.bundle();
    let c = world.container(sleeper(&mut bundle));
    let tmpfs = json!([{"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}]);
    mounts(&world, &c, "add", &tmpfs).fails(1, "container does not exist");
    let c = c.started();
    let bind = json!([{"destination": "/mnt", "source": "/nosuch", "options": ["bind"]}]);
    mounts(&world, &c, "add", &bind).fails(1, "open source /nosuch: no such file or directory");
    let cgroup = json!([{"destination": "/mnt", "type": "cgroup", "source": "cgroup"}]);
    mounts(&world, &c, "add", &cgroup).fails(1, "a cgroup mount can only be made at create");
    mounts(&world, &c, "add", &json!([])).fails(1, "no mounts");
    mounts(&world, &c, "add", &json!({"x": 1})).fails(1, "want a JSON array of mounts");
    mounts(&world, &c, "change", &tmpfs).fails(1, "want add or remove");
    // The mounts section as an object is read too; a paused container is no obstacle.
    c.simple("pause").ok();
    mounts(&world, &c, "add", &json!({"mounts": tmpfs})).ok();
    c.simple("resume").ok();
    assert_eq!(c.sh("grep -c ' /mnt ' /proc/self/mountinfo"), "1");
    c.stop();
    mounts(&world, &c, "add", &tmpfs).fails(1, "container not running");
    mounts(&world, &c, "remove", &tmpfs).fails(1, "container not running");
    c.finish();
}
