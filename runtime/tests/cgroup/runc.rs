//! davit and runc on the same cgroups.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use davit::cgroup::{Cgroup, Layout, OnDenied};
use serde_json::{Value, json};

use crate::common::{in_pure_v2, skip, until};

/// A container of runc's that sleeps; deleted at the end.
struct Runc {
    dir: tempfile::TempDir,
    id: String,
}

impl Runc {
    /// None (with the reason printed) without runc or busybox.
    fn start(id: &str, cgroups_path: Option<&str>) -> Option<Runc> {
        let busybox = Path::new("/bin/busybox");
        if Command::new("runc").arg("--version").stdout(Stdio::null()).status().is_err() || !busybox.exists()
        {
            println!("skipped: needs runc and busybox");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy(busybox, bin.join("busybox")).unwrap();
        symlink("busybox", bin.join("sleep")).unwrap();
        assert!(Command::new("runc").arg("spec").current_dir(dir.path()).status().unwrap().success());
        let config = dir.path().join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["/bin/sleep", "100"]);
        if let Some(path) = cgroups_path {
            spec["linux"]["cgroupsPath"] = json!(path);
        }
        fs::write(&config, spec.to_string()).unwrap();
        let runc = Runc { dir, id: format!("{id}-{}", std::process::id()) };
        let status = runc
            .command()
            .args(["run", "-d", "-b"])
            .arg(runc.dir.path())
            .arg(&runc.id)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "runc run");
        Some(runc)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.dir.path().join("state"));
        command
    }

    fn cgroup_paths(&self) -> BTreeMap<String, PathBuf> {
        let state = self.dir.path().join("state").join(&self.id).join("state.json");
        let state: Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
        serde_json::from_value(state["cgroup_paths"].clone()).unwrap()
    }
}

impl Drop for Runc {
    fn drop(&mut self) {
        let _ = self.command().args(["delete", "-f", &self.id]).stderr(Stdio::null()).status();
    }
}

fn same_paths() {
    for (id, path) in [
        ("absolute", Some("/davit-test-runc/a/b")),
        ("relative", Some("davit-test-runc/r")),
        ("dots", Some("../../davit-test-runc/d")),
        ("dots-absolute", Some("/davit-test-runc/../../davit-test-runc/e")),
        ("absent", None),
    ] {
        let Some(runc) = Runc::start(id, path) else { return };
        let ours = Cgroup::resolve(&Layout::detect().unwrap(), &runc.id, path.map(Path::new), OnDenied::Fail)
            .unwrap();
        assert_eq!(ours.paths(), runc.cgroup_paths(), "{id}");
    }
}

fn a_container_of_runc(top: &str) {
    let Some(runc) = Runc::start("opened", Some(&format!("{top}/opened"))) else { return };
    let cgroup = Cgroup::open(&runc.cgroup_paths()).unwrap();
    assert_eq!(cgroup.pids().unwrap().len(), 1);
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen().unwrap());
    let state = runc.command().args(["state", &runc.id]).output().unwrap().stdout;
    let state: Value = serde_json::from_slice(&state).unwrap();
    assert_eq!(state["status"], "paused");
    cgroup.thaw().unwrap();
    cgroup.stats().unwrap();
    cgroup.kill(libc::SIGKILL).unwrap();
    until("it is gone", || cgroup.pids().unwrap().is_empty());
    cgroup.remove().unwrap();
    assert!(!cgroup.exists());
}

/// runc leaves the directories above its containers' cgroups.
fn clean_up(top: &str) {
    let layout = Layout::detect().unwrap();
    Cgroup::resolve(&layout, "id", Some(Path::new(top)), OnDenied::Fail).unwrap().remove().unwrap();
}

#[test]
fn host() {
    if skip() {
        return;
    }
    same_paths();
    a_container_of_runc("/davit-test-runc");
    clean_up("/davit-test-runc");
    clean_up("davit-test-runc");
}

#[test]
fn pure_v2() {
    in_pure_v2(|| {
        // Beside runc's tests on the host's hybrid tree, which use the same cgroup2 hierarchy.
        a_container_of_runc("/davit-test-runc-v2");
        clean_up("/davit-test-runc-v2");
    });
}
