//! What a case varies: its bundle, the flags of the call, and what must exist on the host meanwhile.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use davit_tests::{Bundle, View, World, host};
use serde_json::{Value, json};

/// One case: its name and what it changes of the default bundle.
pub type Case = (&'static str, fn(&mut Setup<'_>));

/// What is run by both runtimes, each with a bundle of its own.
pub struct Setup<'w> {
    pub world: &'w World,
    pub bundle: Bundle,
    /// cgroup view.
    pub view: View,
    /// Flags of `run`.
    pub flags: Vec<String>,
    /// Shell commands behind the probe, in the section `extra`.
    pub extra: String,
    /// The probe runs by `exec` with these flags.
    pub exec: Option<Vec<String>>,
    /// That `exec` is detached. In the foreground runc puts pipes between the caller's descriptors and the
    /// container's, so that these are not compared.
    pub detached: bool,
    /// The process file of that `exec`; its args are set to the probe's.
    pub process: Option<Value>,
    /// What can't be compared in this case: sections by name.
    pub without: Vec<&'static str>,
    guards: Vec<Guard>,
}

/// What goes when the case has ended.
enum Guard {
    Process(Child),
    Mount(PathBuf),
    Cgroup(String),
}

impl Drop for Guard {
    fn drop(&mut self) {
        match self {
            Guard::Process(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Guard::Mount(path) => {
                let _ = Command::new("umount").args(["-R", "-l"]).arg(path).status();
            }
            Guard::Cgroup(name) => {
                for dir in host::cgroups_named(name) {
                    let _ = std::fs::remove_dir(dir);
                }
            }
        }
    }
}

impl Drop for Setup<'_> {
    fn drop(&mut self) {
        // Later mounts may lie on earlier ones.
        while self.guards.pop().is_some() {}
    }
}

impl<'w> Setup<'w> {
    pub fn new(world: &'w World) -> Self {
        let bundle = world.bundle();
        // Mapped users must be able to reach the rootfs.
        for dir in [bundle.dir().parent().unwrap(), bundle.dir()] {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Setup {
            world,
            bundle,
            view: View::Host,
            flags: Vec::new(),
            extra: String::new(),
            exec: None,
            detached: false,
            process: None,
            without: Vec::new(),
            guards: Vec::new(),
        }
    }

    /// Sets a value of config.json.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        self.bundle.set(pointer, value);
        self
    }

    /// Adds a mount.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) -> &mut Self {
        self.bundle.mount(destination, kind, source, options);
        self
    }

    /// Adds a bind mount of a new directory that holds `file`.
    pub fn bind(&mut self, destination: &str, options: &[&str]) -> &mut Self {
        let source = self.dir("source");
        self.mount(destination, "bind", source.to_str().unwrap(), options)
    }

    /// A directory beside the rootfs, with a file in it.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.bundle.dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("file"), "x").unwrap();
        dir
    }

    /// A directory that is a mount with these mount(8) options. Not in the bundle, where no mount may be left.
    pub fn mounted(&mut self, options: &str) -> PathBuf {
        let dir = self.world.path(&davit_tests::unique("mounted"));
        self.mounted_at(dir, options)
    }

    /// As [`Setup::mounted`], at a place.
    pub fn mounted_at(&mut self, dir: PathBuf, options: &str) -> PathBuf {
        std::fs::create_dir_all(&dir).unwrap();
        self.guard_mount(&dir, &["-t", "tmpfs", "-o", options, "tmpfs"]);
        std::fs::write(dir.join("file"), "x").unwrap();
        dir
    }

    fn guard_mount(&mut self, at: &Path, args: &[&str]) {
        assert!(Command::new("mount").args(args).arg(at).status().unwrap().success());
        self.guards.push(Guard::Mount(at.to_owned()));
    }

    /// Makes a mount with a propagation, as `mount --make-<propagation>`.
    pub fn propagation(&mut self, at: &Path, propagation: &str) {
        let flag = format!("--make-{propagation}");
        assert!(Command::new("mount").arg(flag).arg(at).status().unwrap().success());
    }

    /// Makes the rootfs a mount of its own: a tmpfs with the same content.
    pub fn mounted_rootfs(&mut self) {
        let at = self.mounted("mode=755");
        let from = format!("{}.", self.bundle.rootfs("").display());
        assert!(Command::new("cp").args(["-a", &from]).arg(&at).status().unwrap().success());
        self.set("/root/path", json!(at));
    }

    /// Name of a cgroup to be the container's parent. Both runtimes make it and leave it.
    pub fn cgroup_parent(&mut self) -> String {
        let name = davit_tests::unique("davit-golden");
        self.guards.push(Guard::Cgroup(name.clone()));
        name
    }

    /// Commands whose output is compared.
    pub fn look(&mut self, script: &str) -> &mut Self {
        self.extra.push_str(script);
        self.extra.push('\n');
        self
    }

    /// A new namespace, as a path that lives as long as the case.
    pub fn namespace(&mut self, kind: &str, unshare: &[&str]) -> String {
        let child = Command::new("unshare")
            .args(unshare)
            .args(["sh", "-c", "echo ready; exec sleep 1000"])
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        self.guards.push(Guard::Process(child));
        let Some(Guard::Process(child)) = self.guards.last_mut() else { unreachable!() };
        let mut line = String::new();
        let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        assert_eq!(line, "ready\n", "unshare {unshare:?}");
        format!("/proc/{pid}/ns/{kind}")
    }

    /// A new user namespace with mappings, as [`Setup::namespace`].
    pub fn mapped_user_namespace(&mut self, uid: u32, gid: u32) -> String {
        let path = self.namespace("user", &["--user"]);
        for (file, host) in [("gid_map", gid), ("uid_map", uid)] {
            std::fs::write(path.replace("ns/user", file), format!("0 {host} 65536")).unwrap();
        }
        path
    }

    /// Joins a namespace by path.
    pub fn join(&mut self, kind: &str, path: &str) -> &mut Self {
        self.bundle.without_namespace(kind);
        self.bundle.push("/linux/namespaces", json!({"type": kind, "path": path}));
        self
    }

    /// A user namespace of its own with these mappings of ids 0 to 65535; the rootfs belongs to its root.
    pub fn user_namespace(&mut self, uid: u32, gid: u32) -> &mut Self {
        let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 65536}]);
        self.bundle.push("/linux/namespaces", json!({"type": "user"}));
        self.set("/linux/uidMappings", map(uid)).set("/linux/gidMappings", map(gid));
        self.chown_rootfs(uid, gid);
        self
    }

    /// Gives the rootfs to a user.
    pub fn chown_rootfs(&self, uid: u32, gid: u32) {
        let owner = format!("{uid}:{gid}");
        assert!(
            Command::new("chown")
                .args(["-R", &owner])
                .arg(self.bundle.rootfs(""))
                .status()
                .unwrap()
                .success()
        );
    }

    /// The probe runs by `exec`, in a container that sleeps.
    pub fn exec(&mut self, flags: &[&str]) -> &mut Self {
        self.exec = Some(flags.iter().map(|flag| (*flag).to_owned()).collect());
        self.without.push("descriptors");
        self
    }

    /// As [`Setup::exec`], detached.
    pub fn exec_detached(&mut self, flags: &[&str]) -> &mut Self {
        self.exec(flags);
        self.without.clear();
        self.detached = true;
        self
    }

    /// The probe runs by `exec --process`, with the container's own process as it is changed here.
    pub fn exec_process(&mut self, change: fn(&mut Value)) -> &mut Self {
        let mut process = self.bundle.config["process"].clone();
        change(&mut process);
        self.process = Some(process);
        self.exec(&[])
    }
}
