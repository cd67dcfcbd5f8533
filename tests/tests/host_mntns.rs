//! Containers without a mount namespace: what they mount is on the host until they are deleted.
//!
//! The host is a mount namespace of the test's own, whose mounts are shared among themselves as systemd's are: one
//! process holds it, and every call of the runtime is made in it.

use std::process::{Child, Command, Stdio};

use davit_tests::host::command_line;
use davit_tests::{Bundle, World, wait_until};
use serde_json::json;

struct Host {
    holder: Child,
    world: World,
}

impl Host {
    fn enter(test: &str) -> Option<Host> {
        let mut world = World::enter(test)?;
        let script = "mount --make-rshared / && echo ready && exec cat";
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut ready = [0; 6];
        std::io::Read::read_exact(holder.stdout.as_mut().expect("pipe"), &mut ready).expect("holder");
        let pid = holder.id().to_string();
        // The working directory is found again in there: nsenter leaves it at the namespace's root.
        let within = r#"cd "$0" && exec "$@""#;
        let call = format!(r#"exec nsenter --target {pid} --mount -- sh -c '{within}' "$PWD" "$@""#);
        world.through(&["sh", "-c", &call, "sh"]);
        Some(Host { holder, world })
    }

    /// Mount points, propagation and file systems, without the ids. Those of other tests go when their directories
    /// do.
    fn mounts(&self) -> Vec<String> {
        let path = format!("/proc/{}/mountinfo", self.holder.id());
        let table = std::fs::read_to_string(path).expect("mount table");
        let scratch = self.world.path("").display().to_string();
        let ours = |line: &&str| !line.contains(" /tmp/") || line.contains(&scratch);
        table.lines().filter(ours).map(|line| line.split(' ').skip(2).collect::<Vec<_>>().join(" ")).collect()
    }

    fn sh(&self, script: &str) {
        let pid = self.holder.id().to_string();
        let status = Command::new("nsenter")
            .args(["--target", &pid, "--mount", "--", "sh", "-c", script])
            .status()
            .expect("nsenter");
        assert!(status.success(), "{script}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.holder.kill().expect("kill");
        self.holder.wait().expect("wait");
    }
}

/// The configuration of `davit spec` but for the mount namespace and what needs one.
fn bundle(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.without_namespace("mount").remove("/linux/maskedPaths").remove("/linux/readonlyPaths");
    bundle
}

#[test]
fn a_life_without_a_mount_namespace() {
    let Some(host) = Host::enter("a_life_without_a_mount_namespace") else { return };
    let world = &host.world;
    let before = host.mounts();
    let mut bundle = bundle(world);
    bundle.set("/root/readonly", json!(true)).args(&["sleep", "1000"]);
    let container = world.container(&bundle);
    container.create(&[]).ok();
    assert_eq!(container.status(), "created");
    container.simple("start").ok();
    wait_until("the program", || command_line(container.pid()).starts_with("sleep"));

    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("namespace");
    assert_eq!(namespace(container.pid().unsigned_abs()), namespace(host.holder.id()));
    // Exec is in the root of the container, with its mounts.
    let seen = container
        .sh("ls -d /proc/1 /dev/null /dev/pts/ptmx /etc/passwd; touch /etc/x 2>&1; cat /proc/1/comm");
    assert!(seen.starts_with("/dev/null\n/dev/pts/ptmx\n/etc/passwd\n/proc/1\n"), "{seen}");
    assert!(seen.contains("Read-only file system") && seen.ends_with("sleep"), "{seen}");
    let root = bundle.rootfs("").display().to_string();
    let root = root.trim_end_matches('/');
    let during = host.mounts();
    let (own, others): (Vec<_>, Vec<_>) = during.iter().partition(|line| line.contains(root));
    assert!(others.into_iter().eq(&before), "the host's own mounts have changed: {during:?}");
    assert!(own.len() > 5 && own.iter().all(|line| !line.contains("shared:")), "{own:?}");
    // Each once: nothing has come back by propagation.
    assert_eq!(own.iter().filter(|line| line.contains("/rootfs/proc ")).count(), 1, "{own:?}");

    container.stop();
    container.simple("delete").ok();
    container.assert_nothing_left();
    assert_eq!(host.mounts(), before);
}

#[test]
fn nothing_mounted_with_the_host_pids() {
    let Some(host) = Host::enter("nothing_mounted_with_the_host_pids") else { return };
    let before = host.mounts();
    let mut bundle = bundle(&host.world);
    bundle
        .set("/mounts", json!([]))
        .without_namespace("pid")
        .script("pwd; ls -d /*/passwd; sleep 1000 & echo x");
    std::fs::create_dir_all(bundle.rootfs("dev")).expect("dev");
    let container = host.world.container(&bundle);
    let output = container.run(&[]).ok();
    assert_eq!(output.stdout, "/\n/etc/passwd\nx\n");
    container.assert_nothing_left();
    assert_eq!(host.mounts(), before);
}

#[test]
fn a_mount_in_a_bound_tree_of_the_host() {
    let Some(host) = Host::enter("a_mount_in_a_bound_tree_of_the_host") else { return };
    let world = &host.world;
    let source = world.path("source");
    std::fs::create_dir_all(source.join("inner")).expect("source");
    let source = source.to_str().expect("UTF-8").to_owned();
    // Shared, with a shared mount in it: an unmount in a copy that is its peer would unmount the host's.
    host.sh(&format!(
        "mount -t tmpfs a {source} && mkdir {source}/inner {source}/more && mount -t tmpfs b {source}/inner"
    ));
    let before = host.mounts();
    let mut bundle = bundle(world);
    bundle.mount("/tree", "bind", &source, &["rbind"]).mount("/tree/more", "tmpfs", "c", &[]).script("cat");
    let container = world.container(&bundle);
    container.create(&[]).ok();
    let lines = host.mounts();
    let more: Vec<_> = lines.iter().filter(|line| line.contains("/more ")).collect();
    assert!(more.len() == 1 && more[0].contains("/rootfs/tree/more "), "{more:?}");
    container.call("delete", &["--force"], &[]).run().ok();
    container.assert_nothing_left();
    assert_eq!(host.mounts(), before);
}

#[test]
fn a_failed_create_unmounts() {
    let Some(host) = Host::enter("a_failed_create_unmounts") else { return };
    let before = host.mounts();
    let mut bundle = bundle(&host.world);
    bundle.args(&["/no/such/program"]);
    let container = host.world.container(&bundle);
    container.create(&[]).fails(1, "no such file or directory");
    container.assert_nothing_left();
    assert_eq!(host.mounts(), before);
}

#[test]
fn only_the_own_mount_goes() {
    let Some(host) = Host::enter("only_the_own_mount_goes") else { return };
    let world = &host.world;
    let mut bundle = bundle(world);
    let root = bundle.rootfs("").display().to_string();
    // An engine's mount of the rootfs.
    host.sh(&format!("mount --bind {root} {root}"));
    bundle.args(&["sleep", "1000"]);
    // What is mounted on this one goes below it as well, and takes it along when it is unmounted.
    world.container(&bundle).create(&[]).fails(1, "is a shared mount on itself");
    host.sh(&format!("mount --make-private {root}"));
    let before = host.mounts();
    let first = world.container(&bundle).started();
    let second = world.container(&bundle).started();
    let refused = first.call("delete", &["--force"], &[]).run();
    refused.fails(1, "below another");
    assert_eq!(second.sh("cat /proc/1/comm"), "sleep");
    second.call("delete", &["--force"], &[]).run().ok();
    first.call("delete", &["--force"], &[]).run().ok();
    assert_eq!(host.mounts(), before);
    host.sh(&format!("umount {root}"));
    first.assert_nothing_left();
    second.assert_nothing_left();
}

#[test]
fn a_killed_create_is_cleaned_up() {
    let Some(host) = Host::enter("a_killed_create_is_cleaned_up") else { return };
    let before = host.mounts();
    let mut bundle = bundle(&host.world);
    let mark = host.world.path("mark");
    let script = format!("echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000", mark.display());
    bundle.push(
        "/hooks/createRuntime",
        json!({"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1000}),
    );
    let container = host.world.container(&bundle);
    let create = container.call("create", &["--bundle", bundle.dir().to_str().expect("UTF-8")], &[]).spawn();
    wait_until("the hook", || mark.exists());
    assert_ne!(host.mounts(), before);
    kill(create.pid());
    create.wait();
    container.call("delete", &["--force"], &[]).run().ok();
    // The hook is the caller's, and outlives the runtime.
    kill(std::fs::read_to_string(&mark).expect("mark").trim().parse().expect("pid"));
    container.assert_nothing_left();
    assert_eq!(host.mounts(), before);
}

/// Each word before the runtime executes the next: one pid.
fn kill(pid: i32) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().expect("kill").success());
}

#[test]
fn what_would_change_the_host_is_refused() {
    let Some(host) = Host::enter("what_would_change_the_host_is_refused") else { return };
    let world = &host.world;
    let before = host.mounts();
    let refused = |change: &dyn Fn(&mut Bundle), words: &str| {
        let mut bundle = bundle(world);
        change(&mut bundle);
        let container = world.container(&bundle);
        container.create(&[]).fails(1, words);
        container.assert_nothing_left();
        assert_eq!(host.mounts(), before);
    };
    let private = "unable to restrict sys entries without a private MNT namespace";
    refused(
        &|b| {
            b.set("/linux/maskedPaths", json!(["/proc/kcore"]));
        },
        private,
    );
    refused(
        &|b| {
            b.set("/linux/readonlyPaths", json!(["/proc/sys"]));
        },
        private,
    );
    refused(
        &|b| {
            b.set("/linux/rootfsPropagation", json!("rprivate"));
        },
        "would change the host's mounts",
    );
    refused(
        &|b| {
            b.set("/root/path", json!("/"));
        },
        "root.path / needs a mount namespace",
    );
    let mut own = vec![format!("/proc/{}/ns/mnt", host.holder.id())];
    // The machine's first process may be out of reach even for root.
    own.extend(std::fs::metadata("/proc/1/ns/mnt").ok().map(|_| "/proc/1/ns/mnt".to_owned()));
    for path in own {
        let join = json!({"type": "mount", "path": path});
        let join = |b: &mut Bundle| {
            b.push("/linux/namespaces", join.clone());
        };
        refused(&join, "is the host's, whose root would change");
    }
}

#[test]
fn the_hosts_root_with_a_mount_namespace() {
    let Some(host) = Host::enter("the_hosts_root_with_a_mount_namespace") else { return };
    let before = host.mounts();
    let mut bundle = host.world.bundle();
    let mark = bundle.dir().join("mark");
    std::fs::write(&mark, "here").expect("mark");
    bundle.set("/root/path", json!("/")).args(&[
        "/bin/sh",
        "-c",
        "cat \"$0\"; echo $$",
        mark.to_str().expect("UTF-8"),
    ]);
    let container = host.world.container(&bundle);
    assert_eq!(container.run(&[]).ok().stdout, "here1\n");
    container.assert_nothing_left();
    assert_eq!(host.mounts(), before);
}
