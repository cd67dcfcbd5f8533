//! Mounts: each type, each family of options.

use serde_json::json;

use crate::setup::{Case, Setup};

/// Options of a tmpfs at /mnt.
fn tmpfs(s: &mut Setup<'_>, options: &[&str]) {
    s.mount("/mnt", "tmpfs", "tmpfs", options);
    s.look("stat -c '%a %u %g' /mnt; ls -A /mnt");
}

pub const CASES: &[Case] = &[
    ("bind", |s| {
        s.bind("/mnt", &["bind"]);
    }),
    ("rbind, read-only", |s| {
        s.bind("/mnt", &["rbind", "ro"]);
    }),
    ("bind without a type", |s| {
        let source = s.dir("source");
        s.bundle
            .push("/mounts", json!({"destination": "/mnt", "source": source, "options": ["rbind", "rw"]}));
    }),
    ("bind with every flag", |s| {
        s.bind("/mnt", &["bind", "ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"]);
    }),
    ("bind with contrary flags", |s| {
        s.bind("/mnt", &["bind", "ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec"]);
    }),
    ("bind keeps the source's flags", |s| {
        let source = s.mounted("nosuid,noexec,nodev,noatime");
        s.mount("/mnt", "bind", source.to_str().unwrap(), &["bind"]);
    }),
    ("bind clears the source's flags", |s| {
        let source = s.mounted("nosuid,noexec,nodev,noatime");
        s.mount("/mnt", "bind", source.to_str().unwrap(), &["bind", "suid", "exec", "dev", "atime"]);
    }),
    ("read-write bind of a restricted source", |s| {
        let source = s.mounted("nosuid,noexec,nodev,noatime");
        s.mount("/mnt", "bind", source.to_str().unwrap(), &["rbind", "rw"]);
    }),
    ("read-only bind keeps the source's flags", |s| {
        let source = s.mounted("nosuid,noexec,nodev,nodiratime");
        s.mount("/mnt", "bind", source.to_str().unwrap(), &["bind", "ro"]);
    }),
    ("bind of a mount with submounts", |s| {
        let source = s.mounted("size=1m");
        s.mounted_at(source.join("below"), "size=2m");
        let source = source.to_str().unwrap().to_owned();
        s.mount("/mnt", "bind", &source, &["rbind", "ro"]).mount("/tmp", "bind", &source, &["bind", "ro"]);
    }),
    ("recursive read-only", |s| {
        let source = s.mounted("size=1m");
        s.mounted_at(source.join("below"), "size=2m");
        s.mount("/mnt", "bind", source.to_str().unwrap(), &["rbind", "rro", "rnosuid", "rnodev", "rnoexec"]);
    }),
    ("recursive times", |s| {
        let source = s.mounted("size=1m");
        s.mounted_at(source.join("below"), "size=2m,noatime");
        s.mount("/mnt", "bind", source.to_str().unwrap(), &["rbind", "rnoatime", "rnodiratime"]);
        s.mount("/tmp", "bind", source.to_str().unwrap(), &["rbind", "rstrictatime", "rnosymfollow"]);
    }),
    ("bind of a file", |s| {
        let file = s.dir("source").join("file");
        s.mount("/etc/file", "bind", file.to_str().unwrap(), &["bind", "ro"])
            .set("/root/readonly", json!(false));
    }),
    ("bind over a file", |s| {
        let file = s.dir("source").join("file");
        s.mount("/etc/passwd", "bind", file.to_str().unwrap(), &["bind"]);
    }),
    ("bind of a device", |s| {
        s.mount("/dev/mine", "bind", "/dev/null", &["bind"]);
    }),
    ("bind below /dev", |s| {
        s.bind("/dev/shm/below", &["rbind"]).bind("/dev/dir", &["rbind"]);
    }),
    ("destination that is made", |s| {
        s.bind("/a/b/c", &["bind"]).set("/root/readonly", json!(false));
    }),
    ("relative destination", |s| {
        s.bind("a/b", &["bind"]).set("/root/readonly", json!(false));
    }),
    ("destination with dots", |s| {
        s.bind("/mnt/../tmp/./x/", &["bind"]).set("/root/readonly", json!(false));
    }),
    ("destination behind a link", |s| {
        std::os::unix::fs::symlink("/tmp", s.bundle.rootfs("link")).unwrap();
        s.bind("/link/x", &["bind"]).set("/root/readonly", json!(false));
    }),
    ("destination behind a link that leads out", |s| {
        std::os::unix::fs::symlink("../../../../../tmp", s.bundle.rootfs("link")).unwrap();
        s.bind("/link", &["bind"]);
    }),
    ("relative source", |s| {
        s.dir("source");
        s.mount("/mnt", "bind", "source", &["bind"]);
    }),
    ("two mounts on one place", |s| {
        s.bind("/mnt", &["bind"]).mount("/mnt", "tmpfs", "second", &[]);
    }),
    ("propagation of binds", |s| {
        let source = s.mounted("size=1m");
        s.propagation(&source, "shared");
        let source = source.to_str().unwrap().to_owned();
        for (at, option) in
            [("/mnt/a", "rprivate"), ("/mnt/b", "rslave"), ("/mnt/c", "shared"), ("/mnt/d", "unbindable")]
        {
            s.mount(at, "bind", &source, &["rbind", option]);
        }
        s.mount("/mnt/e", "bind", &source, &["bind", "private"]).mount(
            "/mnt/f",
            "bind",
            &source,
            &["bind", "slave"],
        );
        s.mount("/mnt/g", "bind", &source, &["rbind"]).set("/root/readonly", json!(false));
    }),
    ("tmpfs", |s| tmpfs(s, &[])),
    ("tmpfs with options", |s| {
        tmpfs(
            s,
            &["nosuid", "nodev", "noexec", "size=1m", "mode=700", "uid=1000", "gid=1001", "strictatime"],
        );
    }),
    ("tmpfs, read-only", |s| tmpfs(s, &["ro", "mode=1777"])),
    ("tmpfs with sync, lazytime, mand", |s| tmpfs(s, &["sync", "dirsync", "nr_inodes=10k"])),
    ("tmpfs takes the mode of what it covers", |s| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(s.bundle.rootfs("mnt"), std::fs::Permissions::from_mode(0o2751)).unwrap();
        tmpfs(s, &[]);
    }),
    ("tmpfs on a destination that is made", |s| {
        s.mount("/made/here", "tmpfs", "tmpfs", &["size=4k"]).set("/root/readonly", json!(false));
        s.look("stat -c '%a %u %g' /made /made/here");
    }),
    ("tmpcopyup", |s| {
        let rootfs = s.bundle.rootfs("mnt");
        std::fs::create_dir(rootfs.join("dir")).unwrap();
        std::fs::write(rootfs.join("dir/file"), "text").unwrap();
        std::os::unix::fs::symlink("dir/file", rootfs.join("link")).unwrap();
        s.mount("/mnt", "tmpfs", "tmpfs", &["tmpcopyup", "mode=755"]);
        s.look("find /mnt | sort | while read f; do stat -c '%a %u %g %N' $f; done; cat /mnt/link");
    }),
    ("tmpcopyup, read-only", |s| {
        s.mount("/etc", "tmpfs", "tmpfs", &["tmpcopyup", "ro"]);
        s.look("find /etc | sort | while read f; do stat -c '%a %u %g %N' $f; done; cat /etc/passwd");
    }),
    ("second proc", |s| {
        s.mount("/mnt", "proc", "proc", &["nosuid", "noexec", "nodev", "ro", "hidepid=2"]);
    }),
    ("second sysfs and devpts", |s| {
        s.mount("/mnt/sys", "sysfs", "sysfs", &["ro"]).set("/root/readonly", json!(false));
        s.mount("/mnt/pts", "devpts", "devpts", &["newinstance", "mode=0600", "ptmxmode=0600"]);
        s.look("stat -c '%a %u %g' /mnt/pts /mnt/pts/ptmx");
    }),
    ("mqueue", |s| {
        s.mount("/mnt", "mqueue", "mqueue", &["nosuid"]);
    }),
    ("overlay", |s| {
        let (lower, upper, work) = (s.dir("lower"), s.dir("upper"), s.dir("work"));
        std::fs::remove_file(work.join("file")).unwrap();
        let data = [("lowerdir", lower), ("upperdir", upper), ("workdir", work)]
            .map(|(key, dir)| format!("{key}={}", dir.display()));
        let options: Vec<&str> = data.iter().map(String::as_str).collect();
        s.mount("/mnt", "overlay", "overlay", &options);
        // Its options are in another order with the new mount API.
        s.look("ls /mnt");
    }),
    ("no mounts at all", |s| {
        s.set("/mounts", json!([{"destination": "/proc", "type": "proc", "source": "proc"}]));
        s.set("/root/readonly", json!(false));
    }),
    ("no /dev mount", |s| {
        s.bundle.config["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
        s.set("/root/readonly", json!(false));
    }),
    ("/dev is bound from the host", |s| {
        s.bundle.config["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
        s.mount("/dev", "bind", "/dev", &["bind"]);
    }),
    ("allowed binds below /proc", |s| {
        let file = s.dir("source").join("file");
        s.mount("/proc/uptime", "bind", file.to_str().unwrap(), &["bind", "ro"]);
        s.mount("/proc/meminfo", "bind", file.to_str().unwrap(), &["bind"]);
    }),
    ("id-mapped bind", |s| {
        s.user_namespace(100_000, 200_000);
        let source = s.dir("source");
        let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 65536}]);
        s.bundle.push("/mounts", json!({"destination": "/mnt", "type": "bind", "source": source, "options": ["bind", "ro", "idmap"],
            "uidMappings": map(100_000), "gidMappings": map(200_000)}));
        s.look("stat -c '%u %g' /mnt /mnt/file");
    }),
    ("id-mapped bind without a user namespace", |s| {
        let source = s.dir("source");
        let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 65536}]);
        s.bundle.push(
            "/mounts",
            json!({"destination": "/mnt", "type": "bind", "source": source, "options": ["rbind", "ridmap"],
            "uidMappings": map(5000), "gidMappings": map(6000)}),
        );
        s.look("stat -c '%u %g' /mnt /mnt/file");
    }),
    ("id-mapped with the container's mappings", |s| {
        s.user_namespace(100_000, 200_000);
        s.bind("/mnt", &["bind", "idmap"]);
        s.look("stat -c '%u %g' /mnt /mnt/file");
    }),
    ("bind keeps locked flags in a user namespace", |s| {
        s.user_namespace(100_000, 200_000);
        let source = s.mounted("nosuid,noexec,nodev,mode=755");
        s.mount("/mnt", "bind", source.to_str().unwrap(), &["bind", "ro"]);
    }),
    ("tmpfs in a user namespace", |s| {
        s.user_namespace(100_000, 200_000);
        tmpfs(s, &["mode=750", "uid=1000", "gid=5", "size=8k"]);
    }),
];
