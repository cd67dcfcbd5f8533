//! One container of a test.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Bundle, Call, Output, View, World, host, wait_until};

/// A container id with its bundle; the container is deleted by force when this is dropped.
#[derive(Debug)]
pub struct Container<'w> {
    world: &'w World,
    bundle: PathBuf,
    /// Its id.
    pub id: String,
    /// cgroup view of its calls.
    pub view: View,
}

impl<'w> Container<'w> {
    pub(crate) fn new(world: &'w World, bundle: &Bundle, id: String) -> Self {
        bundle.write();
        Container { world, bundle: bundle.dir().to_owned(), id, view: View::Host }
    }

    /// The bundle directory.
    #[must_use]
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// `COMMAND FLAGS… ID REST…`.
    #[must_use]
    pub fn call(&self, command: &str, flags: &[&str], rest: &[&str]) -> Call<'w> {
        let words: Vec<&str> = [&[command][..], flags, &[self.id.as_str()], rest].concat();
        self.world.call(&words).view(self.view)
    }

    /// A command that takes only the id.
    pub fn simple(&self, command: &str) -> Output {
        self.call(command, &[], &[]).run()
    }

    /// `create`, in the bundle directory.
    pub fn create(&self, flags: &[&str]) -> Output {
        self.call("create", flags, &[]).dir(&self.bundle).run()
    }

    /// `run`, in the bundle directory, to its end.
    pub fn run(&self, flags: &[&str]) -> Output {
        self.call("run", flags, &[]).dir(&self.bundle).run()
    }

    /// `create` and `start`, until the program is what /proc tells of init.
    #[track_caller]
    pub fn started(self) -> Self {
        self.create(&[]).ok();
        let pid = self.recorded_pid();
        let runtimes = host::command_line(pid);
        self.simple("start").ok();
        wait_until("the program", || {
            let now = host::command_line(pid);
            !now.is_empty() && now != runtimes || !host::is_alive(pid)
        });
        self
    }

    /// Pid of its init by state.json, without a call of the runtime.
    #[track_caller]
    fn recorded_pid(&self) -> i32 {
        let file = self.world.root().join(&self.id).join("state.json");
        let state: Value = serde_json::from_slice(&std::fs::read(file).expect("state.json")).expect("JSON");
        i32::try_from(state["init_process_pid"].as_i64().expect("init_process_pid")).expect("pid")
    }

    /// `exec` of a command line.
    pub fn exec(&self, flags: &[&str], command: &[&str]) -> Output {
        self.call("exec", flags, command).run()
    }

    /// `exec` of a shell script; its standard output without the last newline.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.exec(&[], &["sh", "-c", script]).ok().stdout.trim_end().to_owned()
    }

    /// `state` as JSON.
    #[track_caller]
    pub fn state(&self) -> Value {
        self.simple("state").ok().json()
    }

    /// The status word.
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().expect("status").to_owned()
    }

    /// Pid of its init; 0 when it has stopped.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.state()["pid"].as_i64().expect("pid")).expect("pid")
    }

    /// Waits for a status.
    #[track_caller]
    pub fn wait_for(&self, status: &str) {
        wait_until(&format!("status {status} of {}", self.id), || self.status() == status);
    }

    /// Kills it and waits until it has stopped.
    #[track_caller]
    pub fn stop(&self) {
        self.call("kill", &[], &["KILL"]).run().ok();
        self.wait_for("stopped");
    }

    /// Deletes it, by force, and asserts that nothing of it is left.
    #[track_caller]
    pub fn finish(self) {
        self.call("delete", &["--force"], &[]).run().ok();
        self.assert_nothing_left();
    }

    /// Asserts that the host has no state directory, cgroup, process or mount of it.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        assert_nothing_left(&self.world.root(), &self.id, &self.bundle);
    }
}

#[track_caller]
fn assert_nothing_left(root: &Path, id: &str, bundle: &Path) {
    assert!(!root.join(id).exists(), "state directory of {id} is left");
    let processes = host::processes_in_cgroup(id);
    assert!(processes.is_empty(), "processes of {id} are left: {processes:?}");
    let cgroups = host::cgroups_named(id);
    assert!(cgroups.is_empty(), "cgroups of {id} are left: {cgroups:?}");
    let bundle = bundle.to_str().expect("UTF-8");
    let mounts = host::mounts();
    let left: Vec<_> = mounts.lines().filter(|line| line.contains(bundle)).collect();
    assert!(left.is_empty(), "mounts of {id} are left: {left:?}");
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if self.world.root().join(&self.id).exists() {
            self.call("delete", &["--force"], &[]).run();
        }
    }
}
