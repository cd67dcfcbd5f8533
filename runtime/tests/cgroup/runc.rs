//! davit and runc on the same cgroups.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use davit::cgroup::{Cgroup, Layout, OnDenied};
use oci_spec::runtime::LinuxDeviceCgroup;
use serde_json::{Value, json};

use crate::common::{Scratch, in_pure_v2, resources, skip, until};

/// A container of runc's that sleeps; deleted at the end.
struct Runc {
    dir: tempfile::TempDir,
    id: String,
}

impl Runc {
    /// None (with the reason printed) without runc or busybox.
    fn start(id: &str, cgroups_path: Option<&str>) -> Option<Runc> {
        Runc::with(id, cgroups_path, "{}")
    }

    /// As [`Runc::start`], with `linux.resources` (runc spec's device rule stays in front).
    fn with(id: &str, cgroups_path: Option<&str>, resources: &str) -> Option<Runc> {
        let busybox = Path::new("/bin/busybox");
        if Command::new("runc").arg("--version").stdout(Stdio::null()).status().is_err() || !busybox.exists()
        {
            println!("skipped: needs runc and busybox");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        // By another process: a descriptor that is open for writing here would be in the forks of other tests for a
        // moment, and then runc could not execute the file.
        assert!(Command::new("cp").args([busybox, &bin.join("busybox")]).status().unwrap().success());
        symlink("busybox", bin.join("sleep")).unwrap();
        assert!(Command::new("runc").arg("spec").current_dir(dir.path()).status().unwrap().success());
        let config = dir.path().join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["/bin/sleep", "100"]);
        if let Some(path) = cgroups_path {
            spec["linux"]["cgroupsPath"] = json!(path);
        }
        let resources: Value = serde_json::from_str(resources).unwrap();
        for (key, value) in resources.as_object().unwrap() {
            match value.as_array().filter(|_| key == "devices") {
                Some(rules) => spec["linux"]["resources"]["devices"]
                    .as_array_mut()
                    .unwrap()
                    .extend(rules.iter().cloned()),
                None => spec["linux"]["resources"][key] = value.clone(),
            }
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

/// Limits that both must make read back the same. (`pids.limit` 0 is unset in this old runc, 1 since 1.4.)
const RESOURCES: &[&str] = &[
    "{}",
    r#"{"memory":{"limit":67108864}}"#,
    r#"{"memory":{"limit":67108864,"swap":100000000,"reservation":30000000,"swappiness":7}}"#,
    r#"{"memory":{"limit":-1,"swap":-1}}"#,
    r#"{"memory":{"limit":67108864,"disableOOMKiller":true}}"#,
    r#"{"cpu":{"shares":700,"quota":30000,"period":60000}}"#,
    r#"{"cpu":{"quota":-1,"cpus":"0","mems":"0"}}"#,
    r#"{"pids":{"limit":77}}"#,
    r#"{"pids":{"limit":-1}}"#,
    r#"{"blockIO":{"weight":200}}"#,
    r#"{"devices":[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]}"#,
    r#"{"devices":[{"allow":true,"type":"b","major":8,"access":"r"},{"allow":true,"type":"c","minor":7,"access":"w"}]}"#,
    r#"{"devices":[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"},
                   {"allow":false,"type":"c","major":10,"minor":229,"access":"w"}]}"#,
    r#"{"devices":[{"allow":true,"access":"rwm"}]}"#,
    r#"{"devices":[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":11,"access":"rwm"}]}"#,
];

/// What is set by limits, whatever runs inside.
const FILES: &[&str] = &[
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "memory.swappiness",
    "cpu.shares",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpuset.cpus",
    "cpuset.mems",
    "pids.max",
    "blkio.bfq.weight",
    "devices.list",
];

fn read_back(paths: &BTreeMap<String, PathBuf>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for dir in paths.values() {
        for file in FILES {
            let Ok(text) = fs::read_to_string(dir.join(file)) else { continue };
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            all.insert((*file).to_owned(), lines.join(","));
        }
        if let Ok(text) = fs::read_to_string(dir.join("memory.oom_control")) {
            all.insert("oom_kill_disable".to_owned(), text.lines().next().unwrap().to_owned());
        }
    }
    all
}

#[test]
fn limits_read_back_as_with_runc() {
    if crate::common::skip_unless_v1() {
        return;
    }
    for (number, json) in RESOURCES.iter().enumerate() {
        let Some(runc) = Runc::with(&format!("limits{number}"), Some("/davit-test-limits/runc"), json) else {
            return;
        };
        let scratch = Scratch::created();
        let mut resources = resources(json);
        let first: Vec<LinuxDeviceCgroup> =
            serde_json::from_str(r#"[{"allow":false,"access":"rwm"}]"#).unwrap();
        let rules = first.into_iter().chain(resources.devices().clone().unwrap_or_default()).collect();
        resources.set_devices(Some(rules));
        scratch.apply(&resources).unwrap_or_else(|e| panic!("{json}: {e}"));
        let (ours, theirs) = (read_back(&scratch.paths()), read_back(&runc.cgroup_paths()));
        assert!(ours.len() > 5, "{ours:?}");
        assert_eq!(ours, theirs, "{json}");
    }
    clean_up("/davit-test-limits");
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
