//! Containers on kernels from 5.4 on: calls that such a kernel does not have are answered as it would answer them, by
//! strace from outside. What is seen of a container must be the same as on this kernel.

use std::fs;
use std::path::Path;

use davit_tests::{Bundle, World, skip};
use serde_json::json;

/// Calls of kernels 5.6 (openat2, pidfd_getfd), 5.8 (faccessat2), 5.9 (close_range) and 5.12 (mount_setattr).
const NEWER: &str = "openat2,pidfd_getfd,faccessat2,close_range,mount_setattr";

/// A command whose newer calls fail. Those that enter a container begin, in each process, with setns(2) by a pidfd, which
/// kernels take since 5.8; create calls it with files alone. Daemonised: the command ends as davit does, and not as the
/// container.
const OLD: &str = "case \" $* \" in \
                   *' exec '*|*' mounts '*) entering='-e inject=setns:error=EINVAL:when=1';; \
                   esac; \
                   exec strace -D -f -qq -o /dev/null -e trace=$newer,setns -e inject=$newer:error=ENOSYS $entering \"$@\"";

/// A world whose runtime believes to be on kernel 5.4.
fn enter(test: &str) -> Option<World> {
    let mut world = World::enter(test)?;
    if !Path::new("/usr/bin/strace").exists() {
        return skip(test, "no strace");
    }
    if world.is_runc() {
        return skip(test, "davit's fallbacks");
    }
    world.through(&["sh", "-c", &format!("newer={NEWER}; {OLD}"), "sh"]);
    Some(world)
}

/// The mount table without numbers, and what else the old ways make.
const SHOW: &str = "awk '{ $1 = $2 = $3 = \"\"; gsub(/:[0-9]+/, \"\"); print }' /proc/self/mountinfo | sed 's/inode64//'; \
                    ls -l /proc/self/fd | awk '{ print $9 }'; ls -l /dev | awk '{ print $1, $3, $4, $5, $6 }'; \
                    head -c 1 /proc/kcore | wc -c; echo x 2>/dev/null >/proc/sys/kernel/hostname || echo ro; pwd";

/// A change of a bundle.
type Change = fn(&World, &mut Bundle);

const BUNDLES: &[(&str, Change)] = &[
    ("default", |_, _| {}),
    ("binds", |world, b| {
        let file = world.path("file");
        fs::write(&file, "x").unwrap();
        let dir = world.path("dir");
        fs::create_dir_all(dir.join("sub")).unwrap();
        let (file, dir) = (file.to_str().unwrap(), dir.to_str().unwrap());
        b.mount("/mnt/file", "bind", file, &["bind", "ro", "nosuid"])
            .mount("/mnt/dir", "bind", dir, &["rbind", "rslave", "noexec", "nodev"])
            .mount("/mnt/plain", "bind", dir, &["bind"])
            .mount("/mnt/times", "bind", dir, &["bind", "noatime", "nodiratime"])
            .mount("/mnt/strict", "bind", dir, &["bind", "strictatime"])
            .mount("/mnt/private", "bind", dir, &["rbind", "rprivate"])
            .mount("/mnt/tmp", "tmpfs", "tmpfs", &["ro", "noexec", "size=64k"])
            .mount("/mnt/tmp2", "tmpfs", "tmpfs", &["tmpcopyup", "rshared"])
            .mount("/mnt/plain", "bind", "", &["remount", "bind", "ro", "nodev"]);
    }),
    ("no pivot", |_, b| {
        b.set("/linux/rootfsPropagation", json!("slave"));
    }),
    ("shared root", |_, b| {
        b.set("/linux/rootfsPropagation", json!("shared"));
    }),
    ("cgroup namespace", |_, b| {
        b.push("/linux/namespaces", json!({"type": "cgroup"}));
    }),
    ("user namespace", |_, b| {
        b.push("/linux/namespaces", json!({"type": "user"}));
        for ids in ["/linux/uidMappings", "/linux/gidMappings"] {
            b.set(ids, json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]));
        }
        b.for_user_namespace(100_000);
    }),
    ("root over root", |world, b| {
        let other = world.bundle();
        b.first_mount("/", "bind", other.rootfs("/").to_str().unwrap(), &["rbind", "nosuid"]);
        // Its folder must stay.
        std::mem::forget(other);
    }),
];

fn shown(world: &World, name: &str, change: Change) -> Vec<String> {
    let mut bundle = world.bundle();
    change(world, &mut bundle);
    bundle.script(SHOW);
    let c = world.container(&bundle);
    let flags: &[&str] = if name == "no pivot" { &["--no-pivot"] } else { &[] };
    let output = c.run(flags).ok().stdout;
    c.assert_nothing_left();
    let word = |text: &str| text.replace(&c.id, "ID").replace(bundle.dir().to_str().unwrap(), "BUNDLE");
    output.lines().map(|line| word(line).trim().to_owned()).collect()
}

#[test]
fn containers_look_the_same_on_an_old_kernel() {
    let test = "containers_look_the_same_on_an_old_kernel";
    let Some(old) = enter(test) else { return };
    let Some(new) = World::enter(test) else { return };
    for (name, change) in BUNDLES {
        let scratch = |world: &World| world.path("").to_str().unwrap().trim_end_matches('/').to_owned();
        let lines = |world: &World| -> Vec<String> {
            let lines = shown(world, name, *change);
            let mut lines: Vec<_> =
                lines.iter().map(|line| line.replace(&scratch(world), "SCRATCH")).collect();
            lines.iter_mut().for_each(|line| *line = without_bundle_number(line));
            lines
        };
        let (theirs, ours) = (lines(&new), lines(&old));
        assert!(theirs.len() > 20, "{name}: {theirs:?}");
        assert_eq!(ours, theirs, "{name}");
    }
}

/// Folders of bundles are numbered.
fn without_bundle_number(line: &str) -> String {
    let words = line.split('/').map(|word| if word.starts_with("bundle-") { "bundle" } else { word });
    words.collect::<Vec<_>>().join("/")
}

#[test]
fn processes_enter_a_container_on_an_old_kernel() {
    let Some(world) = enter("processes_enter_a_container_on_an_old_kernel") else { return };
    for user_namespace in [false, true] {
        let mut bundle = world.bundle();
        if user_namespace {
            BUNDLES.iter().find(|(name, _)| *name == "user namespace").unwrap().1(&world, &mut bundle);
        }
        bundle.set("/root/readonly", json!(false)).args(&["sleep", "1000"]);
        let c = world.container(&bundle);
        c.create(&[]).ok();
        c.simple("start").ok();
        c.wait_for("running");
        let same = c.sh("for n in cgroup ipc mnt net pid user uts; do \
                         [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n; done; id -u");
        assert_eq!(same, "0");
        // Nothing of the runtime's reaches it: stdio, and what lists it.
        assert_eq!(c.sh("ls /proc/self/fd | wc -l"), "4");
        let file = world.path("mounts.json");
        fs::write(
            &file,
            r#"[{"destination": "/late", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]}]"#,
        )
        .unwrap();
        world.call(&["mounts", "add", &c.id, file.to_str().unwrap()]).run().ok();
        assert!(c.sh("grep ' /late ' /proc/self/mountinfo").contains(" ro,"));
        // The container must not see a bind before it is read-only.
        let dir = world.path("bound");
        fs::create_dir_all(&dir).unwrap();
        let add = |options: serde_json::Value| {
            let mount = json!([{"destination": "/bound", "type": "bind", "source": dir, "options": options}]);
            fs::write(&file, mount.to_string()).unwrap();
            world.call(&["mounts", "add", &c.id, file.to_str().unwrap()]).run()
        };
        for options in [json!(["bind", "ro"]), json!(["bind"])] {
            add(options).fails(1, "a bind into a running container needs mount_setattr(2), kernel 5.12");
        }
        assert_eq!(c.sh("grep -c ' /bound ' /proc/self/mountinfo || true"), "0");
        c.finish();
    }
}

#[test]
fn what_an_old_kernel_can_not_do_is_said() {
    let Some(world) = enter("what_an_old_kernel_can_not_do_is_said") else { return };
    let dir = world.path("dir");
    fs::create_dir(&dir).unwrap();
    let mut bundle = world.bundle();
    bundle.mount("/mnt", "bind", dir.to_str().unwrap(), &["bind"]).args(&["true"]);
    bundle.without_namespace("mount").remove("/linux/maskedPaths").remove("/linux/readonlyPaths");
    let c = world.container(&bundle);
    c.run(&[]).fails(1, "a bind without a mount namespace needs mount_setattr(2), kernel 5.12");
    c.assert_nothing_left();
    let mut bundle = world.bundle();
    bundle.mount("/mnt", "bind", dir.to_str().unwrap(), &["rbind", "rro"]).args(&["true"]);
    let c = world.container(&bundle);
    c.run(&[]).fails(1, "attributes of a whole tree of mounts need mount_setattr(2), kernel 5.12");
    c.assert_nothing_left();
    let mut bundle = world.bundle();
    bundle.mount("/mnt", "bind", dir.to_str().unwrap(), &["bind"]).args(&["true"]);
    bundle.set("/mounts/7/uidMappings", json!([{"containerID": 0, "hostID": 1000, "size": 1}]));
    bundle.set("/mounts/7/gidMappings", json!([{"containerID": 0, "hostID": 1000, "size": 1}]));
    let c = world.container(&bundle);
    c.run(&[]).fails(1, "kernel 5.12");
    c.assert_nothing_left();
}
