//! Black-box tests of the davit binary with real containers.
//!
//! A test starts with [`World::enter`]: a state directory, a scratch directory and the runtime under test.
//! It makes [`Bundle`]s, calls the runtime with [`Call`], and ends each container with
//! [`Container::finish`], which asserts that nothing of it is left on the host.
//!
//! The runtime is `$DAVIT_RUNTIME` if set (`DAVIT_RUNTIME=/usr/sbin/runc` shows that the tests ask for what
//! runc does), else `$DAVIT_BIN`, else what `hack/build` has made last.
//! A test that can't run here prints `SKIPPED <test>: <reason>` and passes; `hack/test` counts those lines.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub mod agent;
mod bundle;
mod call;
pub mod calls;
pub mod cases;
mod container;
pub mod criu;
pub mod device_rules;
#[cfg(target_arch = "x86_64")]
pub mod errnos;
pub mod fuse;
pub mod host;
pub mod limits;
pub mod sources;
#[cfg(target_arch = "x86_64")]
pub mod tracer;
pub mod tty;
pub mod user;

pub use bundle::Bundle;
pub use call::{Call, Output, Running, View};
pub use container::Container;

/// The peer that is the oracle.
pub const RUNC: &str = "/usr/sbin/runc";

/// The runc of Debian unstable, unpacked on first use: the newest oracle. Tests that ask for it are skipped
/// with the reason when it can't be had.
///
/// # Errors
/// Why not, in the last words of `hack/debian-tree`.
pub fn newest_runc() -> Result<PathBuf, String> {
    static RUNC: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let unpack = || {
        // The packages that hack/test and the integration tests ask for, so that all share one tree.
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/debian-tree");
        let packages = ["sid", "containerd", "runc", "crun"];
        let output = Command::new(script).args(packages).output().map_err(|e| format!("{script}: {e}"))?;
        match output.status.success() {
            true => Ok(Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("bin/runc")),
            false => {
                let text = String::from_utf8_lossy(&output.stderr);
                Err(text.lines().last().unwrap_or("hack/debian-tree failed").to_owned())
            }
        }
    };
    RUNC.get_or_init(unpack).clone()
}

/// Longest time that anything awaited may take: more in the virtual machine, whose processor is emulated.
pub const DEADLINE: Duration = Duration::from_secs(if cfg!(feature = "vm") { 300 } else { 60 });

/// What one test works with: removed when dropped.
#[derive(Debug)]
pub struct World {
    runtime: PathBuf,
    scratch: TempDir,
    /// Words that run a command as an ordinary user.
    user: Option<Vec<String>>,
    _cgroup: host::OwnCgroup,
}

impl World {
    /// The world of a test that needs root, or `None` after saying why it can't run.
    #[must_use]
    pub fn enter(test: &str) -> Option<World> {
        if !nix::unistd::geteuid().is_root() {
            return skip(test, "not root");
        }
        if !Path::new(bundle::BUSYBOX).exists() {
            return skip(test, "no static busybox: apt-get install busybox-static");
        }
        let scratch = tempfile::Builder::new().prefix("davit-test-").tempdir().expect("scratch directory");
        std::fs::create_dir(scratch.path().join("root")).expect("state directory");
        let (runtime, user) = (runtime_under_test(), None);
        Some(World { runtime, scratch, user, _cgroup: host::OwnCgroup::enter() })
    }

    /// As [`World::enter`] for a test that compares with runc.
    #[must_use]
    pub fn enter_with_runc(test: &str) -> Option<World> {
        if !Path::new(RUNC).exists() {
            return skip(test, "no runc: apt-get install runc");
        }
        World::enter(test)
    }

    /// As [`World::enter`] with all calls of the runtime made by an ordinary user, who owns the bundles.
    #[must_use]
    pub fn enter_as_user(test: &str, ranges: user::Ranges) -> Option<World> {
        let mut world = World::enter(test)?;
        world.user = Some(user::words(world.scratch.path(), ranges));
        // The build may be below a directory that the user may not enter.
        let own = world.path("bin").join(world.runtime.file_name().expect("a file"));
        std::fs::create_dir(world.path("bin")).expect("bin");
        copy_program(&world.runtime, &own);
        world.runtime = own;
        Some(world)
    }

    /// More words between the user and the runtime, of every call: a program like nsenter.
    pub fn through(&mut self, words: &[&str]) {
        self.user.get_or_insert_default().extend(words.iter().map(|&word| word.to_owned()));
    }

    /// The words that run a command as the user of [`World::enter_as_user`].
    #[must_use]
    pub fn user_words(&self) -> &[String] {
        self.user.as_deref().unwrap_or_default()
    }

    /// The runtime under test.
    #[must_use]
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// Whether the tests run against runc, whose words differ in places.
    #[must_use]
    pub fn is_runc(&self) -> bool {
        self.runtime.file_name().is_some_and(|name| name == "runc")
    }

    /// Whether the tests run against runc 1.1, which lacks much of what runc 1.2 brought.
    #[must_use]
    pub fn is_old_runc(&self) -> bool {
        let version = std::process::Command::new(&self.runtime).arg("--version").output();
        version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with("runc version 1.1."))
    }

    /// The state directory, `--root`.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    /// A path in the scratch directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A new bundle with a busybox rootfs and the configuration of `davit spec`, without a terminal.
    #[must_use]
    pub fn bundle(&self) -> Bundle {
        let bundle = Bundle::new(&self.path(&unique("bundle")));
        if self.user.is_some() {
            user::give(bundle.dir());
        }
        bundle
    }

    /// A call of the runtime with these arguments after the global ones.
    #[must_use]
    pub fn call(&self, args: &[&str]) -> Call<'_> {
        Call::new(self, args)
    }

    /// A container id that no other test uses, with the guard that removes the container. Writes
    /// the bundle's config.json.
    #[must_use]
    pub fn container(&self, bundle: &Bundle) -> Container<'_> {
        Container::new(self, bundle, unique("davit-test"))
    }
}

/// The davit binary (what `hack/build` made last, or `DAVIT_BIN`), also when the tests run against another runtime.
#[must_use]
pub fn davit() -> PathBuf {
    match std::env::var_os("DAVIT_BIN") {
        Some(path) => PathBuf::from(path),
        None => built(),
    }
}

/// What `hack/build` has made last.
fn built() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/bin/davit")
}

/// Copies a program that is to be executed.
///
/// By another process: a descriptor that is open for writing here would be in the forks of other tests for a moment,
/// and execve(2) would say ETXTBSY.
///
/// # Panics
/// When it can't be copied.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().expect("cp");
    assert!(copied.success(), "cp {} {}", from.display(), to.display());
}

/// Writes a program that is to be executed, by another process as in [`copy_program`].
///
/// # Panics
/// When it can't be written.
pub fn write_program(path: &Path, bytes: &(impl AsRef<[u8]> + ?Sized)) {
    let mut shell = Command::new("sh")
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh");
    shell.stdin.take().expect("pipe").write_all(bytes.as_ref()).expect("script");
    assert!(shell.wait().expect("sh").success(), "{}", path.display());
}

/// Prints the line that the test script counts.
pub fn skip<T>(test: &str, reason: &str) -> Option<T> {
    println!("SKIPPED {test}: {reason}");
    None
}

/// A name that is unique on this host.
#[must_use]
pub fn unique(stem: &str) -> String {
    static COUNTER: AtomicUsize = AtomicUsize::new(0);
    // The end mark keeps 4 from being a part of 41 where names are searched for; with the zeros names that are made
    // later come later in a list, and are as long.
    format!("{stem}-{}-{:05}_", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Asks until the answer is yes.
///
/// # Panics
/// When it is still no after [`DEADLINE`].
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn runtime_under_test() -> PathBuf {
    let given = std::env::var_os("DAVIT_RUNTIME").or_else(|| std::env::var_os("DAVIT_BIN"));
    let path = match given {
        Some(path) => PathBuf::from(path),
        None => built(),
    };
    assert!(path.exists(), "{} does not exist: run hack/build first", path.display());
    path
}
