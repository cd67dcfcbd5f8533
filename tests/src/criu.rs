//! CRIU of Debian unstable, for tests of checkpoint and restore.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::json;

use crate::{Bundle, Call, Container, World, skip, wait_until};

/// The directory of CRIU, unpacked on first use, once `criu check` says that it works here.
///
/// # Errors
/// Why not: the last words of `hack/debian-tree`, or what CRIU misses.
pub fn criu() -> Result<PathBuf, String> {
    static CRIU: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    CRIU.get_or_init(find).clone()
}

fn find() -> Result<PathBuf, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/debian-tree");
    if !Path::new(script).exists() {
        // Away from the sources, in the virtual machine: the one that is installed there.
        return works(Path::new("/usr/sbin"));
    }
    let output = Command::new(script)
        .args(["--name", "criu-sid", "sid", "criu"])
        .output()
        .map_err(|e| format!("{script}: {e}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(text.lines().last().unwrap_or("hack/debian-tree failed").to_owned());
    }
    let dir = Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("bin");
    works(&dir)
}

fn works(dir: &Path) -> Result<PathBuf, String> {
    let check = Command::new(dir.join("criu")).arg("check").output().map_err(|e| format!("criu: {e}"))?;
    match check.status.success() {
        true => Ok(dir.to_owned()),
        false => {
            let text = String::from_utf8_lossy(&check.stderr);
            let error = text.lines().find(|line| line.contains("Error")).unwrap_or("it does not say why");
            Err(format!("criu check fails: {error}"))
        }
    }
}

/// A world with CRIU: what each test of checkpoints works with.
#[derive(Debug)]
pub struct CriuWorld {
    /// The world.
    pub world: World,
    /// `$PATH` of the calls.
    path: String,
}

/// What runs a call whose container must not have the test's files as stdio: a file is restored only at its old size.
pub const QUIET: [&str; 4] = ["sh", "-c", "exec \"$@\" >/dev/null 2>&1", "sh"];

impl CriuWorld {
    /// As [`World::enter`]; `None` after saying why CRIU is not there.
    #[must_use]
    pub fn enter(test: &str) -> Option<CriuWorld> {
        let world = World::enter(test)?;
        match criu() {
            Ok(dir) => {
                let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap_or_default());
                Some(CriuWorld { world, path })
            }
            Err(reason) => skip(test, &reason),
        }
    }

    /// A command with CRIU in `$PATH`.
    #[must_use]
    pub fn call<'w>(&self, c: &Container<'w>, command: &str, flags: &[&str]) -> Call<'w> {
        c.call(command, flags, &[]).env("PATH", &self.path)
    }

    /// `run --detach` with /dev/null as stdio.
    pub fn run(&self, c: &Container<'_>) {
        self.call(c, "run", &["--detach", "--bundle", &c.bundle().to_string_lossy()])
            .wrapper(&QUIET)
            .run()
            .ok();
    }

    /// `checkpoint` into a directory of the world.
    #[must_use]
    pub fn checkpoint<'w>(&self, c: &Container<'w>, images: &str, flags: &[&str]) -> Call<'w> {
        let images = self.world.path(images);
        self.call(c, "checkpoint", &[&["--image-path", &images.to_string_lossy()], flags].concat())
    }

    /// `restore --detach` from there, with /dev/null as stdio.
    #[must_use]
    pub fn restore<'w>(&self, c: &Container<'w>, images: &str, flags: &[&str]) -> Call<'w> {
        let images = self.world.path(images);
        let (images, bundle) = (images.to_string_lossy(), c.bundle().to_string_lossy());
        let own = ["--detach", "--bundle", &bundle, "--image-path", &images];
        self.call(c, "restore", &[&own[..], flags].concat()).wrapper(&QUIET)
    }

    /// `criu page-server` that writes to this directory, for one dump.
    #[must_use]
    pub fn page_server(&self, images: &Path) -> Criu {
        let port = free_port();
        let port_word = port.to_string();
        let words = ["page-server", "--address", "127.0.0.1", "--port", &port_word, "--images-dir"];
        let server = self.daemon(&words, images, port);
        // Not by connecting: it serves one client.
        let listening = format!(":{port:04X} 00000000:0000 0A ");
        wait_until("the page server", || {
            std::fs::read_to_string("/proc/net/tcp").is_ok_and(|table| table.contains(&listening))
        });
        server
    }

    fn daemon(&self, words: &[&str], images: &Path, port: u16) -> Criu {
        let program =
            self.path.split(':').next().map(|dir| Path::new(dir).join("criu")).expect("a directory");
        let log = self.world.path(&format!("{}.log", words[0]));
        let child = Command::new(program)
            .args(words)
            .arg(images)
            .arg("--work-dir")
            .arg(images)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&log).expect("log"))
            .stderr(Stdio::null())
            .spawn()
            .expect("criu");
        Criu { child, port }
    }
}

/// Waits a moment without another process: nothing ever comes through this FIFO. CRIU may stumble over processes that
/// end while it stops them.
pub const NAP: &str = "read -t 0.02 x <&9";

/// A program that counts, a line each (once it has started: see [`counts_on`]), in /tmp/count of its root file system.
/// It opens the file for a moment each time, and CRIU restores an open file only as it was: what is restored more than
/// once, or elsewhere, is to be a program that does nothing.
#[must_use]
pub fn counting(world: &CriuWorld) -> Bundle {
    let mut bundle = world.world.bundle();
    bundle.set("/root/readonly", json!(false)).script(&format!(
        "busybox mkfifo /tmp/never; exec 9<>/tmp/never; i=0; \
         while :; do i=$((i+1)); echo $i >>/tmp/count; {NAP}; done"
    ));
    bundle
}

/// Where a [`counting`] program is.
#[must_use]
pub fn count(bundle: &Bundle) -> u64 {
    let text = std::fs::read_to_string(bundle.rootfs("/tmp/count")).unwrap_or_default();
    // What follows the last line break is being written.
    let lines = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    lines.lines().last().map_or(0, |line| line.parse().expect("a number"))
}

/// Waits until it has counted on from here.
#[track_caller]
pub fn counts_on(bundle: &Bundle, from: u64) {
    wait_until("the program counts on", || count(bundle) > from + 2);
}

/// A CRIU that serves; ended when dropped.
#[derive(Debug)]
pub struct Criu {
    child: Child,
    /// Its port.
    pub port: u16,
}

impl Criu {
    /// Waits until it has ended by itself.
    pub fn wait(&mut self) {
        wait_until("criu's end", || self.child.try_wait().expect("wait").is_some());
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on.
#[must_use]
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address").port()
}
