//! How the root becomes the container's: propagation from and to the host, and without pivot_root.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use davit_tests::{View, World, host};
use serde_json::json;

#[track_caller]
fn succeeds(command: &[&str]) {
    assert!(Command::new(command[0]).args(&command[1..]).status().unwrap().success(), "{command:?}");
}

/// A shared tmpfs of the host's; unmounted when dropped.
struct Shared(PathBuf);

impl Shared {
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        succeeds(&["mount", "-t", "tmpfs", "tmpfs", path.to_str().unwrap()]);
        let shared = Shared(path);
        succeeds(&["mount", "--make-shared", shared.0.to_str().unwrap()]);
        shared
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-R", "-l"]).arg(&self.0).status();
    }
}

fn mounted(point: &Path) -> bool {
    host::mounts().lines().any(|line| line.split(' ').nth(4) == point.to_str())
}

/// The host's mounts in a directory; other tests change the rest of the table.
fn table(below: &Path) -> Vec<String> {
    let below = below.to_str().unwrap();
    let point = |line: &str| line.split(' ').nth(4).unwrap().to_owned();
    host::mounts().lines().filter(|line| point(line).starts_with(below)).map(str::to_owned).collect()
}

/// Docker's `-v …:rshared` and `…:rslave`: what is mounted on one side shows on the other.
#[test]
fn volumes_propagate_as_asked() {
    let Some(world) = World::enter("volumes_propagate_as_asked") else { return };
    let volume = Shared::new(world.path("volume"));
    for name in ["inside", "outside"] {
        fs::create_dir(volume.0.join(name)).unwrap();
    }
    let before = table(&world.path(""));
    for (word, reaches_host, reaches_container) in
        [("rshared", true, true), ("rslave", false, true), ("rprivate", false, false)]
    {
        let mut bundle = world.bundle();
        bundle
            .set("/linux/rootfsPropagation", json!(word))
            .mount("/mnt", "bind", volume.0.to_str().unwrap(), &["rbind", word])
            .args(&["sleep", "1000"]);
        for set in ["bounding", "effective", "permitted"] {
            bundle.set(&format!("/process/capabilities/{set}"), json!(["CAP_SYS_ADMIN"]));
        }
        let c = world.container(&bundle).started();
        c.sh("mount -t tmpfs tmpfs /mnt/inside");
        assert_eq!(mounted(&volume.0.join("inside")), reaches_host, "{word}");
        let outside = volume.0.join("outside");
        succeeds(&["mount", "-t", "tmpfs", "tmpfs", outside.to_str().unwrap()]);
        let seen = c.sh("grep -c ' /mnt/outside ' /proc/self/mountinfo || true");
        assert_eq!(seen == "1", reaches_container, "{word}");
        succeeds(&["umount", outside.to_str().unwrap()]);
        if reaches_host {
            c.sh("umount /mnt/inside");
        }
        c.finish();
        assert_eq!(table(&world.path("")), before, "{word}: nothing else has changed on the host");
    }
}

/// A rootfs in a shared mount: what is mounted in it must not show on the host (runc #4417).
#[test]
fn a_shared_parent_does_not_spread_the_containers_mounts() {
    let Some(world) = World::enter("a_shared_parent_does_not_spread_the_containers_mounts") else { return };
    let parent = Shared::new(world.path("parent"));
    for word in ["shared", "rshared", "slave", "rprivate"] {
        let mut bundle = world.bundle();
        let rootfs = parent.0.join(word);
        succeeds(&["cp", "-a", bundle.rootfs("/").to_str().unwrap(), rootfs.to_str().unwrap()]);
        bundle
            .set("/root/path", json!(rootfs))
            .set("/linux/rootfsPropagation", json!(word))
            .args(&["sleep", "1000"]);
        let before = table(&world.path(""));
        let c = world.container(&bundle).started();
        assert_eq!(table(&world.path("")), before, "{word}");
        assert_eq!(c.sh("ls / | head -n 1"), "bin");
        c.finish();
        assert_eq!(table(&world.path("")), before, "{word}");
    }
}

#[test]
fn unknown_propagation_is_refused() {
    let Some(world) = World::enter("unknown_propagation_is_refused") else { return };
    let mut bundle = world.bundle();
    bundle.set("/linux/rootfsPropagation", json!("sometimes")).args(&["true"]);
    let c = world.container(&bundle);
    c.run(&[]).fails(1, "rootfsPropagation=sometimes is not supported");
    c.assert_nothing_left();
    bundle.set("/linux/rootfsPropagation", json!("private"));
    let c = world.container(&bundle);
    c.run(&["--no-pivot"]).fails(1, "rootfsPropagation of [r]private is not safe without pivot_root");
    c.assert_nothing_left();
}

/// Without pivot_root the host's mounts stay in the namespace. Were its procfs among them, the kernel would let
/// the container mount one of its own without masks.
#[test]
fn no_pivot_hides_the_hosts_proc() {
    let Some(world) = World::enter("no_pivot_hides_the_hosts_proc") else { return };
    if world.is_old_runc() {
        return;
    }
    let mut bundle = world.bundle();
    let script = "unshare -Urmpf busybox mount -t proc proc /mnt 2>&1; echo $?";
    let busybox = bundle.rootfs("bin/unshare");
    symlink("busybox", busybox).unwrap();
    bundle.script(script).set("/process/user", json!({"uid": 1000, "gid": 1000}));
    for flags in [&[][..], &["--no-pivot"]] {
        let c = world.container(&bundle);
        let code = c.run(flags).ok().stdout;
        assert!(code.contains("permission denied") && code.ends_with("1\n"), "{flags:?}: {code}");
        c.assert_nothing_left();
    }
    // It is the masks that are in the way: without them, and with pivot_root, it works.
    bundle.set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]));
    let c = world.container(&bundle);
    assert_eq!(c.run(&[]).ok().stdout, "0\n");
}

#[test]
fn a_root_that_is_a_link_is_refused() {
    let Some(world) = World::enter("a_root_that_is_a_link_is_refused") else { return };
    let mut bundle = world.bundle();
    symlink("rootfs", bundle.dir().join("link")).unwrap();
    bundle.set("/root/path", json!("link")).args(&["true"]);
    let c = world.container(&bundle);
    c.run(&[]).fails(1, "invalid rootfs: not an absolute path, or a symlink");
    c.assert_nothing_left();
}

/// Message queues of a new user namespace belong to its root.
#[test]
fn message_queues_belong_to_the_containers_root() {
    // runc's belong to a group of the host.
    let Some(world) = World::enter("message_queues_belong_to_the_containers_root").filter(|w| !w.is_runc())
    else {
        return;
    };
    let mut bundle = world.bundle();
    let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", maps.clone())
        .set("/linux/gidMappings", maps)
        .script("stat -c '%u %g' /dev/mqueue; readlink /proc/self/ns/ipc");
    let owner = Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.rootfs("/")).status();
    assert!(owner.unwrap().success());
    chown(bundle.dir(), Some(100_000), Some(100_000)).unwrap();
    let c = world.container(&bundle);
    let output = c.run(&[]).ok().stdout;
    let own = fs::read_link("/proc/self/ns/ipc").unwrap();
    let (owner, ipc) = output.trim_end().split_once('\n').unwrap();
    assert_eq!(owner, "0 0");
    assert_ne!(Path::new(ipc), own);
    c.assert_nothing_left();
}

/// The old root must become a slave before it is dropped: on hosts whose / is shared, its end would reach the host.
/// Such a host is made in a private mount namespace here.
#[test]
fn a_shared_host_keeps_its_mounts() {
    let Some(world) = World::enter("a_shared_host_keeps_its_mounts") else { return };
    for word in ["shared", "rshared"] {
        let mut bundle = world.bundle();
        bundle.set("/linux/rootfsPropagation", json!(word)).args(&["true"]);
        let c = world.container(&bundle);
        // Mounts below the directory for temporary files go when their own do: those of other tests.
        let (own, temporary) = (world.path("").display().to_string(), std::env::temp_dir());
        let count = format!(
            "awk 'index($5, \"{}/\") != 1 || index($0, \"{own}\")' /proc/self/mountinfo | sed 's/.* - //' | sort | md5sum",
            temporary.display()
        );
        let script = format!(
            "mount --make-rshared / && before=$({count}) && \"$@\" && test \"$before\" = \"$({count})\" || exit 7"
        );
        let run = c.call("run", &[], &[]).dir(bundle.dir());
        run.wrapper(&["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"]).run().ok();
        c.assert_nothing_left();
    }
}

/// Kernels without SELinux do not know `context=`: a label is an error that says so, as in runc. Filesystems that
/// SELinux does not label so are mounted.
#[test]
fn mount_labels_need_selinux() {
    let Some(world) = World::enter("mount_labels_need_selinux") else { return };
    if Path::new("/sys/fs/selinux/enforce").exists() {
        davit_tests::skip::<()>("mount_labels_need_selinux", "this kernel has SELinux");
        return;
    }
    let mut bundle = world.bundle();
    bundle.set("/linux/mountLabel", json!("system_u:object_r:container_file_t:s0")).args(&["true"]);
    let c = world.container(&bundle);
    let words = if world.is_runc() { "context=" } else { "mountLabel" };
    c.run(&[]).fails(1, words);
    c.assert_nothing_left();
    let kinds = json!([{"destination": "/proc", "type": "proc", "source": "proc"},
                       {"destination": "/mnt", "type": "none", "source": "/tmp", "options": ["bind"]}]);
    bundle.set("/mounts", kinds).remove("/linux/devices");
    for list in ["maskedPaths", "readonlyPaths"] {
        bundle.set(&format!("/linux/{list}"), json!([]));
    }
    let c = world.container(&bundle);
    c.run(&[]).ok();
    c.assert_nothing_left();
}

/// Without a cgroup namespace a user namespace sees cgroups that are not its own to change (CVE-2023-25809).
#[test]
fn cve_2023_25809_cgroups_are_read_only_in_a_user_namespace() {
    let Some(world) = World::enter("cve_2023_25809_cgroups_are_read_only_in_a_user_namespace") else {
        return;
    };
    if world.is_runc() {
        return;
    }
    for view in [View::Host, View::PureV2] {
        let mut bundle = world.bundle();
        let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        bundle
            .without_namespace("cgroup")
            .push("/linux/namespaces", json!({"type": "user"}))
            .set("/linux/uidMappings", maps.clone())
            .set("/linux/gidMappings", maps)
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "nodev", "noexec", "rw"])
            .script(
                "awk '$5 ~ \"^/sys/fs/cgroup\" && / - cgroup/ { print substr($6, 1, 2) }' /proc/self/mountinfo | \
                 sort -u; find /sys/fs/cgroup -type d -name 'davit-test*' | wc -l",
            );
        let owner = Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.dir()).status();
        assert!(owner.unwrap().success());
        let mut c = world.container(&bundle);
        c.view = view;
        // Read-only, and no cgroup below the container's.
        assert_eq!(c.run(&[]).ok().stdout, "ro\n0\n", "{view:?}");
        c.assert_nothing_left();
    }
}

/// A user namespace without a network and a pid namespace of its own may not mount sysfs and proc: it gets the
/// host's, with the options of the config (crun #2178). runc refuses.
#[test]
fn sysfs_and_proc_of_the_host_in_a_user_namespace() {
    let Some(world) = World::enter("sysfs_and_proc_of_the_host_in_a_user_namespace") else { return };
    if world.is_runc() {
        return;
    }
    let mut bundle = world.bundle();
    let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle
        .without_namespace("network")
        .without_namespace("pid")
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", maps.clone())
        .set("/linux/gidMappings", maps)
        .script(
            "awk '$5 == \"/sys\" || $5 == \"/proc\" { n = split($0, a, \" - \"); split(a[2], b, \" \"); \
             print b[1] \" \" $6 }' /proc/self/mountinfo; test -e /proc/$$/status && echo own",
        );
    let owner = Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.dir()).status();
    assert!(owner.unwrap().success());
    let c = world.container(&bundle);
    let output = c.run(&[]).ok().stdout;
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines, ["proc rw,relatime", "sysfs ro,nosuid,nodev,noexec,relatime", "own"]);
    c.assert_nothing_left();
}

/// Where the host's /proc is partly hidden (the runtime runs in a container), the kernel refuses a new procfs to a
/// user namespace. A container with a pid namespace of its own must not get the host's then.
#[test]
fn the_hosts_processes_are_not_shown_in_a_pid_namespace() {
    let Some(world) = World::enter("the_hosts_processes_are_not_shown_in_a_pid_namespace") else { return };
    let mut bundle = world.bundle();
    let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", maps.clone())
        .set("/linux/gidMappings", maps)
        .args(&["true"]);
    let owner = Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.dir()).status();
    assert!(owner.unwrap().success());
    let c = world.container(&bundle);
    let hide = "mount -t tmpfs tmpfs /proc/sys && exec \"$@\"";
    let words = ["unshare", "-m", "--propagation", "private", "sh", "-c", hide, "sh"];
    let run = c.call("run", &[], &[]).dir(bundle.dir()).wrapper(&words).run();
    assert_ne!(run.code, 0);
    if !world.is_runc() {
        let error = run.error();
        assert!(error.contains("proc") && error.contains("operation not permitted"), "{error}");
    }
    c.assert_nothing_left();
}

/// A mount over `/` takes the rootfs's place, for what is mounted, made and hidden after it too (crun's; runc
/// refuses it).
#[test]
fn a_mount_over_the_root_replaces_it() {
    let Some(world) = World::enter("a_mount_over_the_root_replaces_it").filter(|w| !w.is_runc()) else {
        return;
    };
    let other = world.bundle();
    fs::write(other.rootfs("/marker"), "").unwrap();
    let flags: [(&[&str], &str); 3] = [(&[], "private"), (&["--no-pivot"], "slave"), (&[], "shared")];
    for (flags, propagation) in flags {
        let mut bundle = world.bundle();
        fs::write(bundle.rootfs("/below"), "").unwrap();
        bundle
            .first_mount("/", "bind", other.rootfs("/").to_str().unwrap(), &["rbind", "nosuid"])
            .set("/linux/rootfsPropagation", json!(propagation))
            .args(&["sleep", "1000"]);
        let c = world.container(&bundle);
        c.create(flags).ok();
        c.simple("start").ok();
        c.wait_for("running");
        assert_eq!(c.sh("ls -d /marker /below /proc/1 2>/dev/null || true"), "/marker\n/proc/1");
        assert_eq!(c.sh("touch /x 2>&1 || true"), "touch: /x: Read-only file system", "root.readonly");
        assert_eq!(c.sh("head -c1 /proc/kcore | wc -c"), "0", "masked");
        assert!(c.sh("grep ' / ro' /proc/self/mountinfo").contains("nosuid"));
        c.finish();
        assert!(!bundle.rootfs("/dev/null").exists(), "nothing is made in what is covered");
    }
}

/// A tmpfs for a root, filled by binds.
#[test]
fn a_root_can_be_a_new_filesystem() {
    let Some(world) = World::enter("a_root_can_be_a_new_filesystem").filter(|w| !w.is_runc()) else { return };
    let mut bundle = world.bundle();
    // Not in the rootfs, which is covered by then.
    let other = world.bundle();
    let bin = other.rootfs("/bin");
    bundle
        .first_mount("/bin", "bind", bin.to_str().unwrap(), &["bind", "ro"])
        .first_mount("/", "tmpfs", "tmpfs", &["ro", "mode=711"])
        .script("stat -c %a /; ls /; touch /x 2>&1");
    let c = world.container(&bundle);
    let output = c.run(&[]).exits(1).stdout;
    assert_eq!(output, "711\nbin\ndev\nproc\nsys\ntouch: /x: Read-only file system\n");
    c.assert_nothing_left();
}

#[test]
fn what_can_not_be_a_root_is_refused() {
    let Some(world) = World::enter("what_can_not_be_a_root_is_refused").filter(|w| !w.is_runc()) else {
        return;
    };
    let long = format!("x={}", "y".repeat(300));
    let cases: [(&str, &[&str], &str); 4] = [
        ("proc", &[], "only a bind or a filesystem of its own can be mounted over /"),
        ("cgroup", &[], "only a bind or a filesystem of its own can be mounted over /"),
        ("tmpfs", &["remount"], "only a bind or a filesystem of its own can be mounted over /"),
        ("tmpfs", &[&long], "an option of a mount over / is longer than 255 bytes"),
    ];
    for (kind, options, reason) in cases {
        let mut bundle = world.bundle();
        bundle.mount("/", kind, kind, options).args(&["true"]);
        let c = world.container(&bundle);
        c.run(&[]).fails(1, &format!("mounts[]: /: {reason}"));
        c.assert_nothing_left();
    }
    let mut bundle = world.bundle();
    bundle.without_namespace("mount").remove("/linux/maskedPaths").remove("/linux/readonlyPaths");
    bundle.mount("/", "tmpfs", "tmpfs", &[]).args(&["true"]);
    let c = world.container(&bundle);
    c.run(&[]).fails(1, "mounts[]: /: mounting over / needs a mount namespace");
    c.assert_nothing_left();
}
