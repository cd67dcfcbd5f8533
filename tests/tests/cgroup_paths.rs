//! Where the cgroup of a container is, on layouts that this machine does not have by itself: joint controllers, named
//! hierarchies, threaded cgroups, a runtime inside of a container.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use davit_tests::{Bundle, RUNC, View, World, host, skip, unique, wait_until};
use serde_json::json;

/// A mount namespace in which net_cls and net_prio are one v1 hierarchy, beside the host's own and one without
/// controllers. The kernel has both controllers and nobody uses them: what is mounted here is real, and goes with it.
struct Joint {
    keeper: Child,
    name: String,
}

const JOINT: &str = r#"
set -e
mount -t tmpfs tmpfs /sys/fs/cgroup
for c in cpu cpuacct cpuset memory devices freezer blkio pids net_cls,net_prio; do
    mkdir /sys/fs/cgroup/$c; mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c
done
for name in systemd "$1"; do
    mkdir /sys/fs/cgroup/$name; mount -t cgroup -o none,name=$name cgroup /sys/fs/cgroup/$name
done
mkdir /sys/fs/cgroup/unified; mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
echo ready
exec cat
"#;

impl Joint {
    fn mount() -> Result<Joint, String> {
        let name = unique("davit-test-named");
        let mut keeper = Command::new("unshare")
            .args(["-m", "sh", "-c", JOINT, "sh", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut line = String::new();
        let mut out = std::io::BufReader::new(keeper.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).map_err(|e| e.to_string())?;
        if line == "ready\n" {
            return Ok(Joint { keeper, name });
        }
        let out = keeper.wait_with_output().map_err(|e| e.to_string())?;
        Err(String::from_utf8_lossy(&out.stderr).trim().to_owned())
    }

    /// A hierarchy's directory, seen from outside.
    fn dir(&self, hierarchy: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/sys/fs/cgroup/{hierarchy}", self.keeper.id()))
    }
}

impl Drop for Joint {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        // Others compare what /proc/PID/cgroup says. The kernel keeps a hierarchy whose last mount goes while a cgroup
        // below it is still on its way out: mounted and unmounted once more, it goes as well.
        const AGAIN: &str = "mount -t cgroup -o $1 cgroup /mnt && umount /mnt";
        for options in ["net_cls,net_prio".to_owned(), format!("none,name={}", self.name)] {
            let name = options.rsplit('=').next().unwrap_or_default();
            // Seldom: the kernel needs a moment, and a mount that comes too soon finds the hierarchy again.
            let mut again = Instant::now() + Duration::from_millis(500);
            wait_until("the end of the hierarchies", || {
                let gone = !fs::read_to_string("/proc/self/cgroup").unwrap().contains(name);
                if !gone && Instant::now() > again {
                    let _ = Command::new("unshare").args(["-m", "sh", "-c", AGAIN, "sh", &options]).status();
                    again = Instant::now() + Duration::from_millis(500);
                }
                gone
            });
        }
    }
}

fn sleeping(world: &World) -> Bundle {
    let mut bundle = world.bundle();
    bundle.args(&["sleep", "1000"]);
    bundle
}

/// Path of a process in a hierarchy, by its name in /proc/PID/cgroup.
fn path_in(pid: i32, hierarchy: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let line = text.lines().find(|line| line.split(':').nth(1) == Some(hierarchy)).unwrap();
    line.splitn(3, ':').nth(2).unwrap().to_owned()
}

#[test]
fn joint_controllers_and_named_hierarchies() {
    let test = "cgroup_paths::joint_controllers_and_named_hierarchies";
    let Some(mut world) = World::enter_with_runc(test) else { return };
    if !host::has_v1() {
        return skip(test, "no cgroup v1 hierarchies").unwrap_or_default();
    }
    let joint = match Joint::mount() {
        Ok(joint) => joint,
        Err(reason) => return skip(test, &reason).unwrap_or_default(),
    };
    let keeper = joint.keeper.id().to_string();
    world.through(&["nsenter", "-t", &keeper, "-m"]);
    let mut bundle = sleeping(&world);
    let network = json!({"classID": 1_048_577, "priorities": [{"name": "lo", "priority": 5}]});
    bundle.set("/linux/resources/network", network);
    for runtime in [world.runtime().to_owned(), PathBuf::from(RUNC)] {
        let c = world.container(&bundle);
        c.call("create", &["--bundle", bundle.dir().to_str().unwrap()], &[]).with(&runtime).run().ok();
        let pid = c.pid();
        let own = path_in(pid, "net_cls,net_prio");
        assert_eq!(own, format!("/{}", c.id), "{}", runtime.display());
        let dir = joint.dir("net_cls,net_prio").join(own.trim_start_matches('/'));
        let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
        assert_eq!(read("net_cls.classid").trim(), "1048577");
        assert!(
            read("net_prio.ifpriomap").lines().any(|line| line == "lo 5"),
            "{}",
            read("net_prio.ifpriomap")
        );
        assert_eq!(read("cgroup.procs").trim(), pid.to_string());
        // A hierarchy that only has a name: systemd's is joined, others are not.
        assert!(path_in(pid, "name=systemd").ends_with(&c.id));
        assert_eq!(path_in(pid, &format!("name={}", joint.name)), "/");
        let paths = fs::read(world.root().join(&c.id).join("state.json")).unwrap();
        let paths: serde_json::Value = serde_json::from_slice(&paths).unwrap();
        for controller in ["net_cls", "net_prio"] {
            let expected = format!("/sys/fs/cgroup/net_cls,net_prio/{}", c.id);
            assert_eq!(paths["cgroup_paths"][controller], expected, "{}", runtime.display());
        }
        if runtime == world.runtime() {
            let update = json!({"network": {"classID": 7, "priorities": [{"name": "lo", "priority": 9}]}});
            c.call("update", &["-r", "-"], &[]).stdin(update.to_string().as_bytes()).run().ok();
            assert_eq!(read("net_cls.classid").trim(), "7");
            assert!(read("net_prio.ifpriomap").lines().any(|line| line == "lo 9"));
            // The kernel's refusal names file, value and reason.
            let update = json!({"network": {"priorities": [{"name": "nosuch", "priority": 9}]}});
            let refused = c.call("update", &["-r", "-"], &[]).stdin(update.to_string().as_bytes()).run();
            refused.fails(1, "write nosuch 9 to net_prio.ifpriomap of /sys/fs/cgroup/net_cls,net_prio/");
            c.simple("start").ok();
            // Inside, each controller has its name.
            assert_eq!(c.sh("readlink /sys/fs/cgroup/net_cls"), "net_cls,net_prio");
            assert_eq!(c.sh("cat /sys/fs/cgroup/net_cls/net_cls.classid"), "7");
        }
        c.call("delete", &["--force"], &[]).with(&runtime).run().ok();
        c.assert_nothing_left();
        assert!(!dir.exists());
    }
}

/// A container whose cgroup is below a threaded one: created by the runtime, which makes its cgroup threaded too.
#[test]
fn below_a_threaded_cgroup() {
    let Some(world) = World::enter("cgroup_paths::below_a_threaded_cgroup") else { return };
    if world.is_runc() {
        return;
    }
    let root = Path::new("/sys/fs/cgroup/unified");
    let root = if root.exists() { root } else { Path::new("/sys/fs/cgroup") };
    let name = unique("davit-test-threaded");
    let top = root.join(&name);
    fs::create_dir_all(top.join("t")).unwrap();
    let made = fs::write(top.join("t/cgroup.type"), "threaded");
    let mut bundle = sleeping(&world);
    bundle.set("/linux/cgroupsPath", json!(format!("/{name}/t/c")));
    let mut c = world.container(&bundle);
    c.view = View::PureV2;
    if made.is_ok() {
        c.create(&[]).ok();
        assert_eq!(fs::read_to_string(top.join("t/c/cgroup.type")).unwrap().trim(), "threaded");
        assert_eq!(path_in(c.pid(), ""), format!("/{name}/t/c"));
        c.simple("start").ok();
        c.simple("pause").ok();
        assert_eq!(c.status(), "paused");
        c.simple("resume").ok();
        c.call("kill", &[], &["KILL"]).run().ok();
        c.wait_for("stopped");
    }
    c.call("delete", &["--force"], &[]).run();
    for dir in [top.join("t"), top] {
        host::remove_when_empty(&dir);
        assert!(!dir.exists(), "{}", dir.display());
    }
    c.assert_nothing_left();
    made.unwrap();
}

/// A runtime in a container makes its containers below that container's cgroup, and they go with it.
#[test]
fn nested_in_a_container() {
    let Some(world) = World::enter("cgroup_paths::nested_in_a_container") else { return };
    if world.is_runc() {
        return;
    }
    let inner = sleeping(&world);
    inner.write();
    let mut bundle = world.bundle();
    let all = [
        "CAP_SYS_ADMIN",
        "CAP_MKNOD",
        "CAP_DAC_OVERRIDE",
        "CAP_SETPCAP",
        "CAP_SYS_CHROOT",
        "CAP_CHOWN",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_NET_ADMIN",
        "CAP_BPF",
        "CAP_SYS_PTRACE",
        "CAP_AUDIT_WRITE",
        "CAP_NET_BIND_SERVICE",
    ];
    bundle
        .args(&["sleep", "1000"])
        .set("/process/capabilities", json!({"bounding": all, "effective": all, "permitted": all}))
        .set("/root/readonly", json!(false))
        .set("/linux/resources/devices", json!([{"allow": true, "access": "rwm"}]))
        .remove("/linux/maskedPaths")
        .remove("/linux/readonlyPaths")
        .push("/linux/namespaces", json!({"type": "cgroup"}))
        .mount("/inner", "bind", inner.dir().to_str().unwrap(), &["rbind"])
        .mount("/davit", "bind", world.runtime().to_str().unwrap(), &["bind", "ro"])
        .mount("/run", "tmpfs", "tmpfs", &["nosuid"]);
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    let mount = mounts.iter_mut().find(|mount| mount["type"] == "cgroup").unwrap();
    mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
    let mut outer = world.container(&bundle);
    outer.view = View::PureV2;
    let outer = outer.started();
    let davit = |words: &[&str]| outer.exec(&[], &[&["/davit", "--root", "/run/d"], words].concat());
    let run = davit(&["run", "--detach", "--bundle", "/inner", "in"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let state = davit(&["state", "in"]).ok().json();
    assert_eq!(state["status"], "running");
    let processes = host::processes_in_cgroup(&outer.id);
    let below =
        processes.iter().filter(|pid| path_in(**pid, "").ends_with(&format!("{}/in", outer.id))).count();
    assert_eq!(below, 1, "{processes:?}");
    davit(&["pause", "in"]).ok();
    davit(&["resume", "in"]).ok();
    outer.finish();
}
