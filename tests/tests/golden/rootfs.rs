//! The root file system: its mode and propagation, devices, masked and read-only paths, sysctls.

use serde_json::json;

use crate::setup::Case;

pub const CASES: &[Case] = &[
    ("writable root", |s| {
        s.set("/root/readonly", json!(false));
        s.look("touch /made; stat -c '%a %u %g' /made");
    }),
    ("root is a mount", |s| {
        s.mounted_rootfs();
    }),
    ("root behind a link", |s| {
        std::os::unix::fs::symlink("rootfs", s.bundle.dir().join("link")).unwrap();
        s.set("/root/path", json!("link"));
    }),
    ("absolute root", |s| {
        let rootfs = s.bundle.rootfs("").to_str().unwrap().trim_end_matches('/').to_owned();
        s.set("/root/path", json!(rootfs));
    }),
    ("no pivot", |s| {
        s.flags.push("--no-pivot".to_owned());
    }),
    ("rootfsPropagation private", |s| {
        s.set("/linux/rootfsPropagation", json!("private"));
    }),
    ("rootfsPropagation rprivate", |s| {
        s.set("/linux/rootfsPropagation", json!("rprivate"));
    }),
    ("rootfsPropagation slave", |s| {
        s.set("/linux/rootfsPropagation", json!("slave"));
    }),
    ("rootfsPropagation rslave", |s| {
        s.set("/linux/rootfsPropagation", json!("rslave"));
    }),
    ("rootfsPropagation shared", |s| {
        s.set("/linux/rootfsPropagation", json!("shared"));
    }),
    ("rootfsPropagation rshared", |s| {
        s.set("/linux/rootfsPropagation", json!("rshared"));
    }),
    ("rootfsPropagation unbindable", |s| {
        s.set("/linux/rootfsPropagation", json!("unbindable"));
    }),
    ("devices", |s| {
        s.set("/linux/devices", json!([
            {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"path": "/dev/sub/dir/zero", "type": "c", "major": 1, "minor": 5},
            {"path": "/dev/block", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600},
            {"path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 9, "fileMode": 0o666},
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o622}
        ]));
        s.set("/linux/resources/devices", json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "b", "major": 7, "minor": 0, "access": "rwm"}]));
    }),
    ("device in place of a default one", |s| {
        s.set("/linux/devices", json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 1, "gid": 2}]));
        // runc allows the default devices only where the config does not name them itself.
        s.set(
            "/linux/resources/devices",
            json!([{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]),
        );
    }),
    ("device outside of /dev", |s| {
        s.set(
            "/linux/devices",
            json!([{"path": "/opt/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o604}]),
        );
        s.set("/root/readonly", json!(false));
    }),
    ("devices in a user namespace", |s| {
        s.user_namespace(100_000, 200_000);
        s.set(
            "/linux/devices",
            json!([{"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o666}]),
        );
    }),
    ("devices are used", |s| {
        s.look("echo x > /dev/null && echo null; dd if=/dev/zero bs=4 count=1 2>/dev/null | wc -c; echo x 2>&1 > /dev/full; dd if=/dev/urandom bs=3 count=1 2>/dev/null | wc -c; mknod /dev/shm/m c 1 3 2>&1");
    }),
    ("no masked and no read-only paths", |s| {
        s.set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]));
    }),
    ("masked files and directories", |s| {
        s.set(
            "/linux/maskedPaths",
            json!([
                "/proc/keys",
                "/proc/timer_list",
                "/proc/acpi",
                "/etc",
                "/etc/passwd",
                "/nosuch/path",
                "/sys/firmware",
                "/mnt"
            ]),
        );
        s.look("ls -A /etc /mnt; cat /proc/keys; stat -c '%F %t:%T %a %u %g' /proc/keys");
    }),
    ("masked paths behind links", |s| {
        std::os::unix::fs::symlink("/mnt", s.bundle.rootfs("link")).unwrap();
        s.set("/linux/maskedPaths", json!(["/link", "/proc/self/environ"]));
    }),
    ("read-only paths", |s| {
        s.set("/root/readonly", json!(false));
        s.set("/linux/readonlyPaths", json!(["/proc/sys", "/etc", "/etc/passwd", "/nosuch", "/proc/sys"]));
        s.look("touch /etc/x 2>&1; touch /made && echo made");
    }),
    ("read-only path keeps its flags", |s| {
        let source = s.mounted("nosuid,noexec,noatime");
        s.mount("/mnt", "bind", source.to_str().unwrap(), &["bind"]);
        s.set("/linux/readonlyPaths", json!(["/mnt"]));
    }),
    ("masked and read-only paths in a user namespace", |s| {
        s.user_namespace(100_000, 200_000);
        s.set("/linux/maskedPaths", json!(["/proc/keys", "/sys/firmware"]))
            .set("/linux/readonlyPaths", json!(["/proc/sys", "/mnt"]));
    }),
    ("sysctls", |s| {
        s.set("/linux/sysctl", json!({
            "net.ipv4.ip_unprivileged_port_start": "80", "net.ipv4.ping_group_range": "0 100", "net/ipv4/ip_forward": "1",
            "kernel.msgmax": "9000", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "20", "kernel.domainname": "by.sysctl"
        }));
    }),
    ("sysctls with a user namespace", |s| {
        s.user_namespace(100_000, 200_000);
        s.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "user.max_net_namespaces": "77"}));
    }),
];
