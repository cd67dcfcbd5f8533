//! The root filesystem: mounts, binds, devices, masks.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use davit_tests::{Bundle, World, host};
use serde_json::json;

/// Standard output of a script in a new container.
#[track_caller]
fn inside(world: &World, bundle: &mut Bundle, script: &str) -> String {
    bundle.script(script);
    let c = world.container(bundle);
    let output = c.run(&[]).ok().stdout.trim_end().to_owned();
    c.assert_nothing_left();
    output
}

/// Options of a mount, per mount and of its superblock, from the container's table.
const OPTIONS_OF: &str = "o() { awk -v p=\"$1\" '$5 == p { split($0, a, \" - \"); n = split(a[2], b, \" \"); \
                          print $6 \" \" b[1] \" \" b[3] }' /proc/self/mountinfo | tail -n 1; }; ";

#[test]
fn read_only_root() {
    let Some(world) = World::enter("read_only_root") else { return };
    let mut bundle = world.bundle();
    assert_eq!(inside(&world, &mut bundle, "touch /x 2>/dev/null; echo $?"), "1");
    bundle.set("/root/readonly", json!(false));
    assert_eq!(inside(&world, &mut bundle, "touch /x; echo $?"), "0");
    assert!(bundle.rootfs("x").exists());
}

#[test]
fn binds_of_directories_and_files() {
    let Some(world) = World::enter("binds_of_directories_and_files") else { return };
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let source = source.to_str().unwrap();
    let file = format!("{source}/file");
    let mut bundle = world.bundle();
    bundle
        .mount("/mnt/dir", "bind", source, &["rbind", "rw"])
        .mount("/mnt/ro", "none", source, &["bind", "ro", "nosuid", "nodev", "noexec"])
        .mount("/mnt/deep/er/file", "bind", &file, &["bind"]);
    let script = format!(
        "{OPTIONS_OF} cat /mnt/dir/file /mnt/deep/er/file; echo; echo new > /mnt/dir/new; \
         touch /mnt/ro/x 2>/dev/null; echo $?; o /mnt/ro"
    );
    let output = inside(&world, &mut bundle, &script);
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(&lines[..2], ["contentcontent", "1"]);
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(lines[2].split([',', ' ']).any(|o| o == option), "{option}: {}", lines[2]);
    }
    assert_eq!(fs::read_to_string(format!("{source}/new")).unwrap(), "new\n");
    assert!(bundle.rootfs("mnt/deep/er/file").is_file(), "mount points are made in the rootfs");
}

#[test]
fn recursive_binds_and_recursive_read_only() {
    let Some(world) = World::enter("recursive_binds_and_recursive_read_only") else { return };
    let source = world.path("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    let sub = source.join("sub");
    let mount =
        |args: &[&str]| std::process::Command::new(args[0]).args(&args[1..]).status().unwrap().success();
    assert!(mount(&["mount", "-t", "tmpfs", "tmpfs", sub.to_str().unwrap()]));
    fs::write(sub.join("file"), "below").unwrap();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut bundle = world.bundle();
        let source = source.to_str().unwrap();
        bundle
            .mount("/mnt/r", "bind", source, &["rbind", "ro"])
            .mount("/mnt/rro", "bind", source, &["rbind", "rro"])
            .mount("/mnt/one", "bind", source, &["bind"]);
        let script = "cat /mnt/r/sub/file; echo; ls /mnt/one/sub | wc -l; touch /mnt/r/x 2>/dev/null; echo $?; \
                      touch /mnt/r/sub/x; echo $?; touch /mnt/rro/sub/x 2>/dev/null; echo $?";
        // Plain ro is for the top mount only; rro for all of them.
        assert_eq!(inside(&world, &mut bundle, script), "below\n0\n1\n0\n1");
    }));
    // Lazily: a descriptor of the file in it may be in the fork of another test for a moment.
    assert!(mount(&["umount", "-l", sub.to_str().unwrap()]));
    result.unwrap();
}

#[test]
fn tmpfs_with_options() {
    let Some(world) = World::enter("tmpfs_with_options") else { return };
    let mut bundle = world.bundle();
    bundle
        .mount(
            "/mnt/t",
            "tmpfs",
            "tmpfs",
            &["nosuid", "nodev", "noexec", "size=64k", "mode=1770", "uid=5", "gid=6"],
        )
        .mount("/mnt/ro", "tmpfs", "tmpfs", &["ro"]);
    let script =
        format!("{OPTIONS_OF} stat -c '%a %u %g' /mnt/t; o /mnt/t; touch /mnt/ro/x 2>/dev/null; echo $?");
    let output = inside(&world, &mut bundle, &script);
    let lines: Vec<_> = output.lines().collect();
    assert_eq!((lines[0], lines[2]), ("1770 5 6", "1"));
    assert!(lines[1].starts_with("rw,nosuid,nodev,noexec,relatime tmpfs "), "{}", lines[1]);
    assert!(lines[1].contains("size=64k"), "{}", lines[1]);
}

#[test]
fn tmpfs_takes_over_the_mount_points_mode_and_contents() {
    let Some(world) = World::enter("tmpfs_takes_over_the_mount_points_mode_and_contents") else { return };
    let mut bundle = world.bundle();
    fs::create_dir(bundle.rootfs("mnt/d")).unwrap();
    fs::set_permissions(bundle.rootfs("mnt/d"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(bundle.rootfs("mnt/d/file"), "kept").unwrap();
    bundle.mount("/mnt/d", "tmpfs", "tmpfs", &["tmpcopyup"]);
    assert_eq!(
        inside(&world, &mut bundle, "stat -c %a /mnt/d; cat /mnt/d/file; echo x > /mnt/d/file"),
        "750\nkept"
    );
    assert_eq!(fs::read_to_string(bundle.rootfs("mnt/d/file")).unwrap(), "kept");
}

#[test]
fn default_devices_and_links() {
    let Some(world) = World::enter("default_devices_and_links") else { return };
    let mut bundle = world.bundle();
    let script = "for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a %u %g' /dev/$d; done; \
                  for l in fd stdin stdout stderr ptmx core; do echo \"$l $(readlink /dev/$l)\" | sed 's/ *$//'; done";
    let output = inside(&world, &mut bundle, script);
    let mut expected = Vec::new();
    for (name, numbers) in [
        ("null", "1:3"),
        ("zero", "1:5"),
        ("full", "1:7"),
        ("random", "1:8"),
        ("urandom", "1:9"),
        ("tty", "5:0"),
    ] {
        expected.push(format!("/dev/{name} character special file {numbers} 666 0 0"));
    }
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
        // Only where the kernel has it.
        ("core", if Path::new("/proc/kcore").exists() { "/proc/kcore" } else { "" }),
    ];
    expected.extend(links.map(|(name, target)| format!("{name} {target}").trim_end().to_owned()));
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn configured_devices_obey_the_cgroup() {
    let Some(world) = World::enter("configured_devices_obey_the_cgroup") else { return };
    let mut bundle = world.bundle();
    let device = |path: &str, minor: u32| json!({"path": path, "type": "c", "major": 1, "minor": minor, "fileMode": 0o640, "uid": 7, "gid": 8});
    bundle
        .push("/linux/devices", device("/dev/mine", 5))
        .push("/linux/devices", device("/dev/sub/denied", 11))
        .push("/linux/devices", json!({"path": "/dev/pipe", "type": "p", "fileMode": 0o600}))
        .push(
            "/linux/resources/devices",
            json!({"allow": true, "type": "c", "major": 1, "minor": 5, "access": "r"}),
        )
        .set("/process/capabilities/bounding", json!(["CAP_DAC_OVERRIDE", "CAP_MKNOD"]))
        .set("/process/capabilities/effective", json!(["CAP_DAC_OVERRIDE", "CAP_MKNOD"]))
        .set("/process/capabilities/permitted", json!(["CAP_DAC_OVERRIDE", "CAP_MKNOD"]));
    let script = "stat -c '%F %t:%T %a %u %g' /dev/mine /dev/pipe; head -c 2 /dev/mine | wc -c; \
                  head -c 1 /dev/sub/denied 2>&1 | tail -c 24; mknod /dev/kmsg2 c 1 11; echo $?";
    let output = inside(&world, &mut bundle, script);
    let expected = "character special file 1:5 640 7 8\nfifo 0:0 600 0 0\n2\nOperation not permitted\n0";
    assert_eq!(output, expected);
}

#[test]
fn masked_and_read_only_paths() {
    let Some(world) = World::enter("masked_and_read_only_paths") else { return };
    let mut bundle = world.bundle();
    fs::create_dir(bundle.rootfs("mnt/secret")).unwrap();
    fs::write(bundle.rootfs("mnt/secret/file"), "hidden").unwrap();
    fs::write(bundle.rootfs("mnt/file"), "hidden").unwrap();
    fs::create_dir(bundle.rootfs("mnt/fixed")).unwrap();
    bundle
        .set("/root/readonly", json!(false))
        .push("/linux/maskedPaths", json!("/mnt/secret"))
        .push("/linux/maskedPaths", json!("/mnt/file"))
        .push("/linux/maskedPaths", json!("/nosuch"))
        .push("/linux/readonlyPaths", json!("/mnt/fixed"))
        .push("/linux/readonlyPaths", json!("/nosuch/either"));
    let script = "ls /mnt/secret | wc -l; touch /mnt/secret/x 2>/dev/null; echo $?; cat /mnt/file | wc -c; \
                  touch /mnt/fixed/x 2>/dev/null; echo $?; cat /proc/kcore | wc -c; ls -A /sys/firmware | wc -l; \
                  echo 1 2>/dev/null > /proc/sys/kernel/hostname; echo h 2>/dev/null > /proc/sysrq-trigger; echo $?";
    let output = inside(&world, &mut bundle, &format!("({script}) 2>/dev/null"));
    assert_eq!(output, "0\n1\n0\n1\n0\n0\n1");
}

#[test]
fn destinations_stay_in_the_root() {
    let Some(world) = World::enter("destinations_stay_in_the_root") else { return };
    let outside = world.path("outside");
    fs::create_dir(&outside).unwrap();
    let mut bundle = world.bundle();
    // Links of a hostile image: absolute, and upwards.
    symlink(&outside, bundle.rootfs("mnt/absolute")).unwrap();
    symlink("../../../../../../../../../../tmp", bundle.rootfs("mnt/up")).unwrap();
    bundle
        .set("/root/readonly", json!(false))
        .mount("/mnt/absolute/a", "tmpfs", "tmpfs", &[])
        .mount("/mnt/up/b", "tmpfs", "tmpfs", &[])
        .mount("/../../c", "tmpfs", "tmpfs", &[]);
    let output = inside(&world, &mut bundle, "grep -c -e ' /tmp/b ' -e ' /c ' /proc/self/mountinfo");
    assert_eq!(output, "2");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing is made outside");
    for destination in ["/tmp/b", "/c"] {
        let table = host::mounts();
        assert!(
            !table.lines().any(|line| line.split(' ').nth(4) == Some(destination)),
            "{destination}: {table}"
        );
    }
}

#[test]
fn proc_and_sys_must_be_directories() {
    let Some(world) = World::enter("proc_and_sys_must_be_directories") else { return };
    // CVE-2019-19921, CVE-2023-27561, CVE-2025-54867; runc 1.1.5 has the check but misses this case.
    let names: &[&str] = if world.is_runc() { &[] } else { &["proc", "sys"] };
    for name in names {
        let mut bundle = world.bundle();
        fs::remove_dir(bundle.rootfs(name)).unwrap();
        fs::create_dir(bundle.rootfs("tmp/fake")).unwrap();
        symlink("/tmp/fake", bundle.rootfs(name)).unwrap();
        bundle.args(&["true"]);
        let c = world.container(&bundle);
        c.run(&[]).fails(1, &format!("/{name}"));
        c.assert_nothing_left();
    }
    if world.is_runc() {
        // Nor does it see that /proc/self/attr is below /proc.
        return;
    }
    // Nothing may cover a part of it.
    let mut bundle = world.bundle();
    bundle.args(&["true"]).mount("/proc/self/attr", "tmpfs", "tmpfs", &[]);
    let c = world.container(&bundle);
    c.run(&[]).fails(1, "/proc");
    c.assert_nothing_left();
}

#[test]
fn propagation_modes() {
    let Some(world) = World::enter("propagation_modes") else { return };
    for (mode, mark) in
        [("private", ""), ("slave", "master:"), ("shared", "shared:"), ("unbindable", "unbindable")]
    {
        if world.is_runc() && mode == "unbindable" {
            // It binds the rootfs onto itself after having made it unbindable.
            continue;
        }
        let mut bundle = world.bundle();
        bundle
            .set("/linux/rootfsPropagation", json!(mode))
            .script("grep ' / / \\| / rw\\|/rootfs / ' /proc/self/mountinfo | head -1");
        let c = world.container(&bundle);
        let run = c.run(&[]);
        if run.code != 0 && mode == "shared" {
            // The rootfs' parent mount on this host decides whether that can be had.
            run.fails(1, "");
            continue;
        }
        let line = run.ok().stdout;
        // runc 1.1.5 leaves the root private.
        if mode != "slave" && !mark.is_empty() && !(world.is_runc() && mode == "shared") {
            assert!(line.contains(mark), "{mode}: {line}");
        }
        if mode == "private" {
            assert!(!line.contains("shared:"), "{mode}: {line}");
        }
        c.assert_nothing_left();
    }
    // A mount's own flag.
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    let mut bundle = world.bundle();
    bundle
        .mount("/mnt/p", "bind", source.to_str().unwrap(), &["bind", "private"])
        .mount("/mnt/u", "bind", source.to_str().unwrap(), &["bind", "unbindable"])
        .mount("/mnt/s", "bind", source.to_str().unwrap(), &["bind", "shared"]);
    let script =
        "for m in p u s; do awk -v p=/mnt/$m '$5 == p { print $7 }' /proc/self/mountinfo | cut -d: -f1; done";
    assert_eq!(inside(&world, &mut bundle, script), "-\nunbindable\nshared");
}

#[test]
fn no_pivot() {
    let Some(world) = World::enter("no_pivot") else { return };
    let mut bundle = world.bundle();
    bundle.script("ls / | tr '\\n' ' '; grep -c . /proc/self/mountinfo");
    let c = world.container(&bundle);
    let with = c.run(&["--no-pivot"]).ok().stdout;
    assert!(with.starts_with("bin dev etc "), "{with}");
    c.assert_nothing_left();
}

#[test]
fn working_directory_is_made_in_the_root() {
    let Some(world) = World::enter("working_directory_is_made_in_the_root") else { return };
    let mut bundle = world.bundle();
    bundle.set("/root/readonly", json!(false)).set("/process/cwd", json!("/made/for/it"));
    assert_eq!(inside(&world, &mut bundle, "pwd"), "/made/for/it");
    assert!(bundle.rootfs("made/for/it").is_dir());
}

#[test]
fn cve_2024_21626_no_descriptor_leads_out() {
    let Some(world) = World::enter("cve_2024_21626_no_descriptor_leads_out") else { return };
    let mut bundle = world.bundle();
    // Where it leads to a directory at all, that must be below the container's root: up from there is it.
    let script =
        "for i in 1 2 3 4 5 6 7 8 9 10; do cd -P ..; done; test $(stat -c %d:%i .) = $(stat -c %d:%i /)";
    bundle.script(&format!("{script} && echo inside"));
    for fd in 3..30 {
        bundle.set("/process/cwd", json!(format!("/proc/self/fd/{fd}")));
        let c = world.container(&bundle);
        let run = c.run(&[]);
        assert!(run.code != 0 || run.stdout == "inside\n", "cwd /proc/self/fd/{fd}: {}", run.stdout);
        c.assert_nothing_left();
    }
    bundle.set("/process/cwd", json!("/")).args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    for fd in 3..30 {
        let exec = c.exec(
            &["--cwd", &format!("/proc/self/fd/{fd}")],
            &["sh", "-c", &format!("{script} && echo inside")],
        );
        assert!(
            exec.code != 0 || exec.stdout == "inside\n",
            "exec --cwd /proc/self/fd/{fd}: {}",
            exec.stdout
        );
    }
    c.finish();
}
