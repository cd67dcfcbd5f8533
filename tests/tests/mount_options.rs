//! Every option of a mount that runc and crun know, by what it does.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use davit::sys::xattr;
use davit_tests::{Bundle, World};
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

/// The options of the mount at /mnt, then those of its superblock.
const SHOW: &str = "awk '$5 == \"/mnt\" { n = split($0, a, \" - \"); split(a[2], b, \" \"); sub(\",mode=755\", \"\", b[3]); \
                    print $6 \" \" b[3] }' /proc/self/mountinfo | tail -n 1";

/// A mount of the host's with options; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(path: PathBuf, options: &str) -> Self {
        fs::create_dir_all(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path);
        assert!(mount.status().unwrap().success());
        Mounted(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn user_namespace(bundle: &mut Bundle) {
    let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", maps.clone())
        .set("/linux/gidMappings", maps);
    let owner = Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.dir()).status();
    assert!(owner.unwrap().success());
}

#[test]
fn words_on_a_new_filesystem() {
    let Some(world) = World::enter("words_on_a_new_filesystem") else { return };
    for (words, mount, superblock) in [
        (&["noatime"][..], "rw,noatime", "rw"),
        (&["noatime", "atime"], "rw,relatime", "rw"),
        (&["strictatime"], "rw", "rw"),
        (&["strictatime", "noatime"], "rw", "rw"),
        (&["nodiratime", "norelatime", "nostrictatime"], "rw,nodiratime,relatime", "rw"),
        (&["nosuid", "suid", "nodev", "dev", "noexec", "exec", "ro", "rw", "diratime"], "rw,relatime", "rw"),
        (&["nosymfollow"], "rw,relatime,nosymfollow", "rw"),
        (&["sync", "dirsync"], "rw,relatime", "rw,sync,dirsync"),
        (
            &["sync", "async", "lazytime", "silent", "loud", "iversion", "noiversion"],
            "rw,relatime",
            "rw,lazytime",
        ),
        (&["lazytime", "nolazytime", "nomand"], "rw,relatime", "rw"),
    ] {
        if words.contains(&"nosymfollow") && world.is_old_runc() {
            continue;
        }
        let mut bundle = world.bundle();
        bundle.mount("/mnt", "tmpfs", "tmpfs", words);
        assert_eq!(inside(&world, &mut bundle, SHOW), format!("{mount} {superblock}"), "{words:?}");
    }
    if world.is_runc() {
        return;
    }
    // crun's recursive forms.
    for (word, mount, superblock) in [
        ("defaults", "rw,relatime", "rw"),
        ("rsync", "rw,relatime", "rw,sync"),
        ("rdirsync", "rw,relatime", "rw,dirsync"),
        ("rasync", "rw,relatime", "rw"),
        ("rnomand", "rw,relatime", "rw"),
        ("rnoexec", "rw,noexec,relatime", "rw"),
    ] {
        let mut bundle = world.bundle();
        bundle.mount("/mnt", "tmpfs", "tmpfs", &[word]);
        assert_eq!(inside(&world, &mut bundle, SHOW), format!("{mount} {superblock}"), "{word}");
    }
}

#[test]
fn words_on_a_bind() {
    let Some(world) = World::enter("words_on_a_bind") else { return };
    if world.is_old_runc() {
        return;
    }
    let source = Mounted::tmpfs(world.path("source"), "nosuid,nodev,noatime");
    fs::create_dir(source.0.join("sub")).unwrap();
    let path = source.0.to_str().unwrap();
    for (words, mount) in [
        (&["bind"][..], "rw,nosuid,nodev,noatime"),
        (&["bind", "ro"], "ro,noatime"),
        (&["bind", "rw"], "rw,noatime"),
        (&["bind", "noexec", "relatime"], "rw,noexec,relatime"),
        // The superblock is not the bind's to change, but a flag is named.
        (&["bind", "sync", "dirsync"], "rw,noatime"),
        (&["bind", "nosymfollow"], "rw,noatime,nosymfollow"),
        (&["bind", "rro"], "ro,nosuid,nodev,noatime"),
        (&["bind", "rsuid", "rdev", "rnoexec"], "rw,noexec,noatime"),
        (&["bind", "rrelatime", "rnodiratime"], "rw,nosuid,nodev,nodiratime,relatime"),
        (&["bind", "rstrictatime"], "rw,nosuid,nodev"),
    ] {
        let mut bundle = world.bundle();
        bundle.mount("/mnt", "none", path, words);
        let shown = inside(&world, &mut bundle, SHOW);
        assert_eq!(shown.split(' ').next().unwrap(), mount, "{words:?}");
    }
    let mut bundle = world.bundle();
    bundle.mount("/mnt", "none", path, &["bind", "size=4k"]).args(&["true"]);
    world
        .container(&bundle)
        .run(&[])
        .fails(1, "bind mounts cannot have any filesystem-specific options applied");
}

#[test]
fn remounts_change_what_is_there() {
    let Some(world) = World::enter("remounts_change_what_is_there") else { return };
    if world.is_runc() {
        // It resolves the source of the bind; the rest is alike.
        return;
    }
    let mut bundle = world.bundle();
    bundle.mount("/mnt", "tmpfs", "tmpfs", &["size=64k", "nosuid"]).mount(
        "/mnt",
        "tmpfs",
        "tmpfs",
        &["remount", "size=128k", "nodev"],
    );
    assert_eq!(inside(&world, &mut bundle, SHOW), "rw,nodev,relatime rw,size=128k");
    let mut bundle = world.bundle();
    bundle.mount("/mnt", "tmpfs", "tmpfs", &["nosuid"]).mount(
        "/mnt",
        "bind",
        "/mnt",
        &["bind", "remount", "ro"],
    );
    assert_eq!(inside(&world, &mut bundle, SHOW), "ro,relatime rw");
    let mut bundle = world.bundle();
    bundle.mount("/mnt", "tmpfs", "tmpfs", &["remount"]).args(&["true"]);
    world.container(&bundle).run(&[]).fails(1, "invalid argument");
}

/// In a user namespace the flags of the host's mounts are locked: they stay, unless the config wants them off.
#[test]
fn locked_flags_stay() {
    let Some(world) = World::enter("locked_flags_stay") else { return };
    if world.is_old_runc() {
        return;
    }
    let source = Mounted::tmpfs(world.path("source"), "nosuid,nodev,noexec,noatime,mode=755");
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let path = source.0.to_str().unwrap();
    for (words, mount) in [
        (&["bind"][..], Some("rw,nosuid,nodev,noexec,noatime")),
        (&["bind", "ro"], Some("ro,nosuid,nodev,noexec,noatime")),
        (&["bind", "noatime"], Some("rw,nosuid,nodev,noexec,noatime")),
        (&["bind", "exec"], None),
        (&["bind", "ro", "dev"], None),
        (&["bind", "relatime"], None),
    ] {
        let mut bundle = world.bundle();
        user_namespace(&mut bundle);
        bundle.mount("/mnt", "none", path, words);
        match mount {
            Some(mount) => {
                let shown = inside(&world, &mut bundle, SHOW);
                assert_eq!(shown.split(' ').next().unwrap(), mount, "{words:?}");
            }
            None => {
                bundle.args(&["true"]);
                let c = world.container(&bundle);
                c.run(&[]).fails(1, "operation not permitted");
                c.assert_nothing_left();
            }
        }
    }
}

/// crun's options about links.
#[test]
fn links_at_source_and_destination() {
    let Some(world) = World::enter("links_at_source_and_destination") else { return };
    if world.is_runc() {
        return;
    }
    let dir = world.path("source");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "content").unwrap();
    symlink("file", dir.join("link")).unwrap();
    let link = dir.join("link");
    let link = link.to_str().unwrap();
    let mut bundle = world.bundle();
    symlink("other", bundle.rootfs("mnt/there")).unwrap();
    symlink("file", bundle.rootfs("mnt/same")).unwrap();
    fs::write(bundle.rootfs("mnt/other"), "other").unwrap();
    bundle
        .mount("/mnt/copied", "none", link, &["bind", "copy-symlink"])
        .mount("/mnt/same", "none", link, &["bind", "copy-symlink"])
        .mount("/mnt/nolink", "none", dir.join("file").to_str().unwrap(), &["bind", "copy-symlink"])
        .mount("/mnt/itself", "none", link, &["bind", "src-nofollow"])
        .mount("/mnt/there", "none", link, &["bind", "src-nofollow", "dest-nofollow"]);
    let script = "readlink /mnt/copied /mnt/itself; readlink /mnt/there; cat /mnt/nolink; echo; cat /mnt/other; echo; \
                  grep -c -e ' /mnt/itself ' -e ' /mnt/there ' -e ' /mnt/copied ' /proc/self/mountinfo";
    let output = inside(
        &world,
        &mut bundle,
        &script.replace("readlink /mnt/copied /mnt/itself", "readlink /mnt/copied; readlink /mnt/itself"),
    );
    assert_eq!(output, "file\nfile\nfile\ncontent\nother\n2");
    let mut bundle = world.bundle();
    symlink("elsewhere", bundle.rootfs("mnt/x")).unwrap();
    bundle.mount("/mnt/x", "none", link, &["bind", "copy-symlink"]).args(&["true"]);
    world.container(&bundle).run(&[]).fails(1, "file exists");
    let mut bundle = world.bundle();
    bundle.mount("/mnt/x", "none", link, &["bind", "copy-symlink", "src-nofollow"]).args(&["true"]);
    world.container(&bundle).run(&[]).fails(1, "mutually exclusive");
}

#[test]
fn tmpcopyup_copies_all_kinds() {
    let Some(world) = World::enter("tmpcopyup_copies_all_kinds") else { return };
    let mut bundle = world.bundle();
    let at = |name: &str| bundle.rootfs(&format!("mnt/{name}"));
    fs::create_dir_all(at("dir/deep")).unwrap();
    fs::write(at("dir/deep/file"), "x".repeat(100_000)).unwrap();
    fs::set_permissions(at("dir/deep/file"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(at("dir/deep"), Some(12), Some(34)).unwrap();
    std::os::unix::fs::lchown(at("dir/deep/file"), Some(0), Some(34)).unwrap();
    symlink("/nowhere", at("link")).unwrap();
    fs::set_permissions(at("dir/deep/file"), fs::Permissions::from_mode(0o4750)).unwrap();
    bundle.mount("/mnt", "tmpfs", "tmpfs", &["tmpcopyup", "ro", "size=1m"]);
    let script = "stat -c '%n %a %u %g %s' /mnt/dir/deep/file; stat -c '%a' /mnt/dir; stat -c '%u %g' /mnt/dir/deep; \
                  readlink /mnt/link; touch /mnt/x 2>/dev/null; echo $?";
    let output = inside(&world, &mut bundle, script);
    let lines: Vec<_> = output.lines().collect();
    // runc loses the set-user-ID bit by its chown.
    let mode = if world.is_runc() { "750" } else { "4750" };
    assert!(lines[0].ends_with(&format!("{mode} 0 34 100000")), "{}", lines[0]);
    assert_eq!(lines[1..], ["1777", "12 34", "/nowhere", "1"]);
    // Too small for the copy.
    let mut small = world.bundle();
    fs::write(small.rootfs("mnt/big"), "x".repeat(100_000)).unwrap();
    small.mount("/mnt", "tmpfs", "tmpfs", &["tmpcopyup", "size=16k"]).args(&["true"]);
    let c = world.container(&small);
    c.run(&[]).fails(1, "no space left on device");
    c.assert_nothing_left();
}

#[test]
fn tmpcopyup_copies_extended_attributes() {
    let Some(world) = World::enter("tmpcopyup_copies_extended_attributes") else { return };
    if world.is_runc() {
        // runc leaves them behind, and with them the capabilities of the image's programs.
        return;
    }
    let mut bundle = world.bundle();
    let at = |name: &str| bundle.rootfs(&format!("mnt/{name}"));
    fs::create_dir_all(at("dir")).unwrap();
    fs::write(at("dir/program"), "x").unwrap();
    fs::set_permissions(at("dir/program"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::lchown(at("dir/program"), Some(12), Some(34)).unwrap();
    // struct vfs_cap_data (capability(7)): revision 2 with the effective bit, CAP_NET_BIND_SERVICE permitted.
    let mut capabilities = [0_u8; 20];
    (capabilities[0], capabilities[3], capabilities[5]) = (1, 2, 0x04);
    let attributes = [
        ("dir/program", c"security.capability", capabilities.to_vec()),
        ("dir/program", c"trusted.large", vec![b'x'; 3000]),
        ("dir", c"trusted.empty", vec![]),
    ];
    for (name, attribute, value) in &attributes {
        xattr::set(fs::File::open(at(name)).unwrap().as_fd(), attribute, value).unwrap();
    }
    bundle.mount("/mnt", "tmpfs", "tmpfs", &["tmpcopyup"]).args(&["sleep", "1000"]);
    let c = world.container(&bundle).started();
    for (name, attribute, value) in &attributes {
        let copy = fs::File::open(format!("/proc/{}/root/mnt/{name}", c.pid())).unwrap();
        let mut buffer = vec![0; 4000];
        let length = xattr::get(copy.as_fd(), attribute, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], value, "{attribute:?} of {name}");
    }
    c.finish();
}

#[test]
fn relative_destinations_are_warned_about() {
    let Some(world) = World::enter("relative_destinations_are_warned_about") else { return };
    let mut bundle = world.bundle();
    bundle.mount("mnt", "tmpfs", "tmpfs", &[]).args(&["grep", "-c", " /mnt ", "/proc/self/mountinfo"]);
    let c = world.container(&bundle);
    let run = c.run(&[]).ok();
    assert_eq!(run.stdout, "1\n");
    if !world.is_old_runc() {
        assert!(run.log.contains("mount destination mnt is not absolute"), "{}", run.log);
    }
}

/// Layers of an overlay are often more than fsconfig(2) takes in one value.
#[test]
fn an_overlay_with_long_options() {
    let Some(world) = World::enter("an_overlay_with_long_options") else { return };
    let mut lower = Vec::new();
    for number in 0..8 {
        let dir = world.path(&format!("a-layer-with-a-rather-long-name-{number}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(number.to_string()), "").unwrap();
        lower.push(dir.to_str().unwrap().to_owned());
    }
    let option = format!("lowerdir={}", lower.join(":"));
    assert!(option.len() > 300);
    let mut bundle = world.bundle();
    bundle.mount("/mnt", "overlay", "overlay", &[&option, "nosuid", "private"]);
    let shown = inside(&world, &mut bundle, &format!("ls /mnt | tr -d '\\n'; echo; {SHOW} | cut -c1-19"));
    assert_eq!(shown, "01234567\nrw,nosuid,relatime");
}

#[test]
fn only_a_procfs_covers_proc() {
    let Some(world) = World::enter("only_a_procfs_covers_proc") else { return };
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    for (kind, from, options) in [("tmpfs", "tmpfs", &[][..]), ("none", source.to_str().unwrap(), &["bind"])]
    {
        let mut bundle = world.bundle();
        bundle.mount("/proc", kind, from, options).args(&["true"]);
        let c = world.container(&bundle);
        c.run(&[]).fails(1, "cannot be mounted because it is not of type proc");
        c.assert_nothing_left();
    }
    assert!(Path::new("/proc/self").exists());
}

/// A source that only the host's root can reach is opened outside of the user namespace.
#[test]
fn sources_behind_closed_doors() {
    let Some(world) = World::enter("sources_behind_closed_doors") else { return };
    let closed = world.path("closed");
    fs::create_dir_all(closed.join("source")).unwrap();
    fs::write(closed.join("source/file"), "content").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let mut bundle = world.bundle();
    user_namespace(&mut bundle);
    bundle.mount("/mnt", "none", closed.join("source").to_str().unwrap(), &["bind", "ro"]);
    let output = inside(&world, &mut bundle, "cat /mnt/file; echo; touch /mnt/x 2>/dev/null; echo $?");
    assert_eq!(output, "content\n1");
}
