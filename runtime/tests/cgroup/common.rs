//! What the tests share: a cgroup that cleans up after itself, processes to put into it, polling.

use std::fs;
use std::io::Write;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use davit::cgroup::{Cgroup, Layout, OnDenied};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::LinuxResources;

/// Prints why and returns true when a test can't run.
pub fn skip() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    !root
}

/// As [`skip`], and the host must not be pure v2.
pub fn skip_unless_v1() -> bool {
    if skip() {
        return true;
    }
    let v2 = Layout::detect().unwrap().mode() == davit::cgroup::Mode::V2;
    if v2 {
        println!("skipped: the host has no cgroup v1");
    }
    v2
}

/// A cgroup whose processes are killed and whose directories are removed at the end of the test.
pub struct Scratch {
    cgroup: Cgroup,
    top: String,
}

impl Scratch {
    /// A path that no other test uses; nothing is made.
    pub fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let top = format!("davit-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Scratch { cgroup: resolve(&format!("/{top}/c")), top: format!("/{top}") }
    }

    pub fn created() -> Scratch {
        let scratch = Scratch::new();
        scratch.create().unwrap();
        scratch
    }

    /// A second object for the same cgroup, as another davit process would have.
    pub fn again(&self) -> Cgroup {
        resolve(&format!("{}/c", self.top))
    }

    /// The directory of a controller (`""` for v2).
    pub fn dir(&self, controller: &str) -> PathBuf {
        self.paths()[controller].clone()
    }

    /// Content of a control file.
    pub fn read(&self, controller: &str, file: &str) -> String {
        fs::read_to_string(self.dir(controller).join(file)).unwrap().trim_end().to_owned()
    }

    pub fn apply_json(&self, json: &str) -> Result<(), davit::cgroup::Error> {
        self.apply(&resources(json))
    }

    pub fn update_json(&self, json: &str) -> Result<(), davit::cgroup::Error> {
        self.again().update(&resources(json))
    }
}

impl Deref for Scratch {
    type Target = Cgroup;
    fn deref(&self) -> &Cgroup {
        &self.cgroup
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.cgroup.kill(libc::SIGKILL);
        if let Err(e) = self.cgroup.remove() {
            eprintln!("cleaning up: {e}");
        }
        let _ = resolve(&self.top).remove();
    }
}

pub fn resolve(path: &str) -> Cgroup {
    Cgroup::resolve(&Layout::detect().unwrap(), "id", Some(Path::new(path)), OnDenied::Fail).unwrap()
}

pub fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

/// A shell that waits for a line before it runs a script; killed and reaped at the end.
pub struct Shell(Option<Child>);

impl Shell {
    pub fn waiting(script: &str) -> Shell {
        let child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Shell(Some(child))
    }

    pub fn pid(&self) -> i32 {
        self.0.as_ref().unwrap().id() as i32
    }

    /// Lets it go on.
    pub fn go(&mut self) {
        self.0.as_mut().unwrap().stdin.take().unwrap().write_all(b"\n").unwrap();
    }

    /// Lets it go on and returns what it printed.
    pub fn output(mut self) -> String {
        self.go();
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits for its end: the signal that killed it.
    pub fn killed_by(mut self) -> Option<i32> {
        std::os::unix::process::ExitStatusExt::signal(&self.0.take().unwrap().wait().unwrap())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until a condition holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a test on a thread whose mount namespace has only cgroup2 at /sys/fs/cgroup.
pub fn in_pure_v2(test: impl FnOnce() + Send + 'static) {
    if skip() {
        return;
    }
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH).unwrap();
        mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), None::<&str>).unwrap();
        test();
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Tries to open device nodes for reading from inside a cgroup: `name=yes` or `name=no` each.
pub fn openable(cgroup: &Cgroup, nodes: &[&str]) -> Vec<bool> {
    let script = format!("for n in {}; do (: <$n) 2>/dev/null && echo y || echo n; done", nodes.join(" "));
    let shell = Shell::waiting(&script);
    cgroup.attach(shell.pid()).unwrap();
    shell.output().lines().map(|line| line == "y").collect()
}
