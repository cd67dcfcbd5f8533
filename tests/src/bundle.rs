//! Bundles: a busybox rootfs and a config.json.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// The host's static busybox.
pub const BUSYBOX: &str = "/bin/busybox";

const APPLETS: [&str; 38] = [
    "sh", "cat", "echo", "sleep", "true", "false", "id", "env", "ls", "stat", "readlink", "kill", "hostname",
    "tty", "stty", "touch", "test", "grep", "awk", "sed", "head", "printf", "dd", "mount", "umount", "ps",
    "wc", "tr", "sort", "mkdir", "rm", "chmod", "pwd", "seq", "date", "find", "ln", "mknod",
];

/// A bundle directory; `config` is written by each call that uses the bundle.
#[derive(Debug)]
pub struct Bundle {
    dir: PathBuf,
    /// config.json.
    pub config: Value,
}

impl Bundle {
    pub(crate) fn new(dir: &Path) -> Self {
        let rootfs = dir.join("rootfs");
        for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "mnt"] {
            fs::create_dir_all(rootfs.join(name)).expect("rootfs");
        }
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod");
        crate::copy_program(Path::new(BUSYBOX), &rootfs.join("bin/busybox"));
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet)).expect("applet");
        }
        fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        )
        .expect("passwd");
        fs::write(rootfs.join("etc/group"), "root:x:0:\nuser:x:1000:\n").expect("group");
        let config = serde_json::from_str(include_str!("config.json")).expect("template");
        Bundle { dir: dir.to_owned(), config }
    }

    /// The bundle directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in the root filesystem.
    #[must_use]
    pub fn rootfs(&self, path: &str) -> PathBuf {
        self.dir.join("rootfs").join(path.trim_start_matches('/'))
    }

    /// Sets the command line.
    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.set("/process/args", json!(args))
    }

    /// Sets the command line to a shell script.
    pub fn script(&mut self, script: &str) -> &mut Self {
        self.args(&["sh", "-c", script])
    }

    /// Sets a value of the configuration; objects on the way to it are made.
    ///
    /// # Panics
    /// When the pointer leads through something that is no object or array, or past an array's end.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        let mut at = &mut self.config;
        for key in pointer.split('/').skip(1) {
            at = match at {
                Value::Array(items) => &mut items[key.parse::<usize>().expect("index")],
                Value::Object(map) => map.entry(key).or_insert(Value::Null),
                _ => panic!("{pointer}: nothing to set in"),
            };
            if at.is_null() {
                *at = json!({});
            }
        }
        *at = value;
        self
    }

    /// Appends to a list of the configuration, which is made if it is missing.
    pub fn push(&mut self, pointer: &str, value: Value) -> &mut Self {
        let mut list = self.config.pointer(pointer).cloned().unwrap_or_else(|| json!([]));
        list.as_array_mut().expect("a list").push(value);
        self.set(pointer, list)
    }

    /// Removes a key of an object.
    pub fn remove(&mut self, pointer: &str) -> &mut Self {
        let (parent, key) = pointer.rsplit_once('/').expect("pointer");
        if let Some(Value::Object(map)) = self.config.pointer_mut(parent) {
            map.remove(key);
        }
        self
    }

    /// Removes a namespace, so that the container shares the host's.
    pub fn without_namespace(&mut self, kind: &str) -> &mut Self {
        let list =
            self.config.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut).expect("namespaces");
        list.retain(|namespace| namespace["type"] != kind);
        self
    }

    /// Adds a mount.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) -> &mut Self {
        self.push(
            "/mounts",
            json!({"destination": destination, "type": kind, "source": source, "options": options}),
        )
    }

    /// As [`Bundle::mount`], before all others.
    pub fn first_mount(
        &mut self,
        destination: &str,
        kind: &str,
        source: &str,
        options: &[&str],
    ) -> &mut Self {
        self.mount(destination, kind, source, options);
        if let Some(Value::Array(mounts)) = self.config.pointer_mut("/mounts") {
            mounts.rotate_right(1);
        }
        self
    }

    /// Lets root of a user namespace, this uid and gid on the host, reach the rootfs and make mount points in
    /// it.
    ///
    /// # Panics
    /// When the owner can't be changed.
    pub fn for_user_namespace(&self, host_id: u32) -> &Self {
        for dir in [self.dir.parent().expect("parent"), &self.dir, &self.rootfs("")] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        let owner = format!("{host_id}:{host_id}");
        let status = Command::new("chown").args(["-R", &owner]).arg(self.rootfs("")).status().expect("chown");
        assert!(status.success());
        self
    }

    /// Writes config.json.
    pub fn write(&self) {
        fs::write(self.dir.join("config.json"), serde_json::to_vec_pretty(&self.config).expect("JSON"))
            .expect("config.json");
    }
}
