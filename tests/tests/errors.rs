//! Wrong bundles: one clear sentence on stderr and in the log, a non-zero code, and nothing left behind.

use std::fs;
use std::process::Command;

use davit_tests::{Bundle, World};
use serde_json::json;

/// What is wrong, and the words that must be in the sentence: davit's, and runc's where it says it another
/// way.
type Case = (&'static str, fn(&mut Bundle) -> &mut Bundle, &'static str, Option<&'static str>);

const CASES: &[Case] = &[
    ("missing program", |b| b.args(&["nosuch"]), "\"nosuch\": executable file not found in $PATH", None),
    ("missing path", |b| b.args(&["/bin/nosuch"]), "/bin/nosuch: no such file or directory", None),
    ("directory as program", |b| b.args(&["/etc"]), "\"/etc\": is a directory", Some("permission denied")),
    ("no args", |b| b.set("/process/args", json!([])), "args must not be empty", None),
    ("no process", |b| b.remove("/process"), "process property must not be empty", None),
    ("relative cwd", |b| b.set("/process/cwd", json!("tmp")), "Cwd must be an absolute path", None),
    ("empty cwd", |b| b.set("/process/cwd", json!("")), "Cwd property must not be empty", None),
    ("missing rootfs", |b| b.set("/root/path", json!("nosuch")), "nosuch: no such file or directory", None),
    ("no root", |b| b.remove("/root"), "root", None),
    ("rootfs is a file", |b| b.set("/root/path", json!("config.json")), "not a directory", None),
    (
        "uid is text",
        |b| b.set("/process/user/uid", json!("root")),
        "\"root\", expected u32 at line",
        Some("uid"),
    ),
    ("uid too big", |b| b.set("/process/user/uid", json!(4_294_967_296_u64)), "4294967296", None),
    ("negative gid", |b| b.set("/process/user/gid", json!(-1)), "-1", None),
    ("unknown namespace", |b| b.set("/linux/namespaces/0/type", json!("bogus")), "bogus", None),
    (
        "namespace twice",
        |b| b.push("/linux/namespaces", json!({"type": "pid"})),
        "malformed spec file: duplicated n",
        None,
    ),
    (
        "namespace path is missing",
        |b| b.set("/linux/namespaces/1/path", json!("/nosuch/net")),
        "/nosuch/net",
        None,
    ),
    ("unknown rlimit", |b| b.set("/process/rlimits/0/type", json!("RLIMIT_BOGUS")), "RLIMIT_BOGUS", None),
    (
        "environment without =",
        |b| b.push("/process/env", json!("NOVALUE")),
        "invalid environment variable",
        None,
    ),
    (
        "environment with NUL",
        |b| b.push("/process/env", json!("A=b\0c")),
        "invalid environment variable",
        Some("null"),
    ),
    (
        "mount source is missing",
        |b| b.mount("/mnt", "bind", "/nosuch/source", &["rbind"]),
        "/nosuch/source",
        None,
    ),
    ("unknown file system", |b| b.mount("/mnt", "bogusfs", "x", &[]), "bogusfs", Some("no such device")),
    (
        "hostname without a namespace",
        |b| b.without_namespace("uts"),
        "unable to set hostname",
        Some("hostname"),
    ),
    ("sysctl of the host", |b| b.set("/linux/sysctl", json!({"kernel.panic": "1"})), "kernel.panic", None),
    (
        "malformed device number",
        |b| b.push("/linux/devices", json!({"path": "/dev/x", "type": "q", "major": 1, "minor": 3})),
        "q",
        None,
    ),
    (
        "seccomp action",
        |b| b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_BOGUS"})),
        "SCMP_ACT_BOGUS",
        None,
    ),
    (
        "hook that is missing",
        |b| b.set("/hooks", json!({"prestart": [{"path": "/nosuch/hook"}]})),
        "/nosuch/hook",
        None,
    ),
    ("hook with a relative path", |b| b.set("/hooks", json!({"prestart": [{"path": "hook"}]})), "hook", None),
    (
        "cgroup path with dots",
        |b| b.set("/linux/resources/unified", json!({"../x": "1"})),
        "unified",
        Some(""),
    ),
    (
        "terminal without a socket",
        |b| b.set("/process/terminal", json!(true)),
        "cannot allocate tty if",
        None,
    ),
];

#[test]
fn wrong_bundles() {
    let Some(world) = World::enter("wrong_bundles") else { return };
    let mut failures = Vec::new();
    for (what, spoil, words, runc_words) in CASES {
        let mut bundle = world.bundle();
        spoil(&mut bundle);
        let c = world.container(&bundle);
        let expected = if world.is_runc() { runc_words.unwrap_or(words) } else { words };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let create = c.create(&[]);
            assert_eq!(create.stdout, "");
            create.fails(1, expected);
            c.assert_nothing_left();
        }));
        if let Err(panic) = result {
            let text = panic.downcast_ref::<String>().map_or("", String::as_str).to_owned();
            failures.push(format!("{what}: {text}"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn missing_or_broken_config() {
    let Some(world) = World::enter("missing_or_broken_config") else { return };
    let bundle = world.bundle();
    let c = world.container(&bundle);
    let file = bundle.dir().join("config.json");
    fs::remove_file(&file).unwrap();
    c.create(&[]).fails(1, "config.json not found");
    c.call("create", &["--bundle", "/nosuch"], &[]).run().fails(1, "/nosuch: no such file or directory");
    for (text, place) in [
        ("", "line 1 column 0"),
        ("{bad", "line 1 column 2"),
        ("{\n  \"ociVersion\": \"1.0.2\",\n  ]\n}", "line 3 column 3"),
        ("{\"ociVersion\": \"1.0.2\"", "line 1 column 22"),
        ("\"text\"", "line 1 column 6"),
    ] {
        fs::write(&file, text).unwrap();
        let create = c.create(&[]);
        let error = create.error();
        create.fails(1, "");
        if !world.is_runc() {
            assert!(error.contains("config.json") && error.contains(place), "{text:?}: {error}");
        }
        c.assert_nothing_left();
    }
}

#[test]
fn wrong_flags_of_create() {
    let Some(world) = World::enter("wrong_flags_of_create") else { return };
    let bundle = world.bundle();
    let c = world.container(&bundle);
    c.create(&["--console-socket", "/nosuch"]).fails(1, "cannot use console socket if");
    c.run(&["--console-socket", "/nosuch"]).fails(1, "cannot use console socket if");
    c.create(&["--preserve-fds", "50"]).fails(1, "preserve");
    let pid_file = world.path("nosuch/pid");
    c.create(&["--pid-file", pid_file.to_str().unwrap()]).fails(1, "no such file or directory");
    c.assert_nothing_left();
}

/// A tmpfs that is unmounted when dropped.
struct Tmpfs<'p>(&'p std::path::Path);

impl<'p> Tmpfs<'p> {
    fn mount(at: &'p std::path::Path, options: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status().unwrap();
        assert!(status.success());
        Tmpfs(at)
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_for_the_state() {
    let Some(world) = World::enter("a_full_disk_for_the_state") else { return };
    let bundle = world.bundle();
    let c = world.container(&bundle);
    let root = world.root();
    // No block is free: directories can be made, file contents can not.
    let _tmpfs = Tmpfs::mount(&root, "size=4k");
    fs::write(root.join("filler"), [0u8; 4096]).unwrap();
    // runc formats this error wrongly.
    let words = if world.is_runc() { "unable to store init state" } else { "no space left on device" };
    c.create(&[]).fails(1, words);
    c.assert_nothing_left();
    c.run(&[]).fails(1, words);
    c.assert_nothing_left();
    drop(_tmpfs);
    // No inode is free: not even the directory can be made.
    let _tmpfs = Tmpfs::mount(&root, "nr_inodes=1");
    c.create(&[]).fails(1, "no space left on device");
    c.assert_nothing_left();
}
