//! What the attacks share: canaries on the host, racers, and the runtime that still has the hole.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use davit_tests::{Bundle, Output, RUNC, World, host, skip};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// The world of an attack on davit; a test that compares with runc calls it by itself.
pub fn enter(test: &str) -> Option<World> {
    let world = World::enter(test)?;
    if world.is_runc() {
        return skip(test, "attacks are davit's");
    }
    Some(world)
}

/// How many containers are made while a racer runs: `ATTACK_CREATES`, or few.
pub fn creates() -> usize {
    std::env::var("ATTACK_CREATES").ok().and_then(|text| text.parse().ok()).unwrap_or(25)
}

/// Longest time for a race to be met. It is no measure: a racer that gets no processor for a while loses nothing but
/// time, and most races are met in a second.
const PATIENCE: Duration = Duration::from_secs(120);

/// Tries again and again, until that has met what it is about.
#[track_caller]
pub fn until_met(what: &str, mut met: impl FnMut() -> bool) {
    let start = Instant::now();
    while !met() {
        assert!(start.elapsed() < PATIENCE, "tried for {PATIENCE:?} in vain: {what}");
    }
}

/// Makes containers one after another: as many as [`creates`] says, and more until the race was met. The closure makes
/// one and tells whether it was.
#[track_caller]
pub fn create_until_met(racer: &Racer, mut create: impl FnMut() -> bool) {
    let mut made = 0;
    until_met("both sides of the race", || {
        let met = create();
        made += 1;
        // Many swaps for each container.
        met && made >= creates() && racer.swaps() > 10 * made as u64
    });
}

/// A directory of the host that no container may reach.
pub struct Canary {
    dir: PathBuf,
    before: Vec<String>,
}

/// What its file says.
pub const SECRET: &str = "secret of the host";

impl Canary {
    /// Makes one in the world's scratch directory.
    pub fn new(world: &World, name: &str) -> Canary {
        let dir = world.path(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("secret"), format!("{SECRET}\n")).unwrap();
        fs::create_dir(dir.join("deep")).unwrap();
        let before = snapshot(&dir);
        Canary { dir, before }
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Its path as text.
    pub fn text(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    /// Whether it has changed: an entry, a mode, an owner, a byte, a time, a mount.
    pub fn is_touched(&self) -> bool {
        snapshot(&self.dir) != self.before || host::mounts().contains(self.text())
    }

    #[track_caller]
    pub fn assert_untouched(&self) {
        assert_eq!(snapshot(&self.dir), self.before, "the host was changed");
        let table = host::mounts();
        assert!(!table.contains(self.text()), "mounted on the host: {table}");
    }
}

/// A line for each file of a tree: what stat(2) says but for the time of access, and its bytes.
pub fn snapshot(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(stat) = fs::symlink_metadata(&path) else { continue };
        let bytes = if stat.is_file() { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        lines.push(format!(
            "{} {:o} {}:{} {} {}.{} {}.{} {}",
            path.display(),
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.rdev(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.ctime(),
            stat.ctime_nsec(),
            String::from_utf8_lossy(&bytes),
        ));
        if stat.is_dir() {
            todo.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    lines.sort();
    lines
}

/// Another container that shares a volume: exchanges two of its names as fast as it can.
pub struct Racer {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Racer {
    pub fn swap(one: &Path, other: &Path) -> Racer {
        let (one, other) = (one.to_owned(), other.to_owned());
        Racer::run(move || renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).is_ok())
    }

    /// Does something else again and again, which tells whether it could.
    pub fn run(act: impl Fn() -> bool + Send + 'static) -> Racer {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, count) = (Arc::clone(&stop), Arc::clone(&swaps));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                if act() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                // Both halves of a swap are to be met as often.
                std::thread::yield_now();
            }
        });
        Racer { stop, swaps, thread: Some(thread) }
    }

    /// How many swaps there were so far.
    pub fn swaps(&self) -> u64 {
        self.swaps.load(Ordering::Relaxed)
    }

    /// Ends it and tells how many swaps there were.
    pub fn stop(mut self) -> u64 {
        self.end();
        self.swaps()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.end();
    }
}

/// A volume with `sw` and `other`, one a directory, one a link to the canary: what a racer exchanges.
pub struct Volume {
    dir: PathBuf,
}

impl Volume {
    pub fn new(world: &World, name: &str, target: &Path) -> Volume {
        let dir = world.path(name);
        fs::create_dir_all(dir.join("sw/deep")).unwrap();
        symlink(target, dir.join("other")).unwrap();
        Volume { dir }
    }

    pub fn race(&self) -> Racer {
        Racer::swap(&self.dir.join("sw"), &self.dir.join("other"))
    }

    pub fn text(&self) -> &str {
        self.dir.to_str().unwrap()
    }
}

/// `run` to its end, with what is left checked.
#[track_caller]
pub fn run(world: &World, bundle: &Bundle) -> Output {
    let c = world.container(bundle);
    let output = c.run(&[]);
    c.call("delete", &["--force"], &[]).run();
    c.assert_nothing_left();
    output
}

/// `run` by Debian 12's runc 1.1.5, which has some of the holes still: `None` where it is another version.
pub fn run_by_old_runc(world: &World, bundle: &Bundle) -> Option<Output> {
    if !has_old_runc() {
        return None;
    }
    let c = world.container(bundle);
    let output = c.call("run", &[], &[]).with(Path::new(RUNC)).dir(bundle.dir()).run();
    c.call("delete", &["--force"], &[]).with(Path::new(RUNC)).run();
    Some(output)
}

/// Whether the system's runc is the one whose holes are known.
pub fn has_old_runc() -> bool {
    let version = std::process::Command::new(RUNC).arg("--version").output();
    version.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).starts_with("runc version 1.1.5"))
}

/// Asserts that the attack works on runc 1.1.5 within some tries, so that it is an attack at all.
#[track_caller]
pub fn assert_hits_old_runc(world: &World, bundle: &Bundle, tries: usize, hit: impl Fn(&Output) -> bool) {
    if !has_old_runc() {
        println!("no runc 1.1.5 here: not shown that the attack works on it");
        return;
    }
    let mut last = String::new();
    for _ in 0..tries {
        let Some(output) = run_by_old_runc(world, bundle) else { return };
        if hit(&output) {
            return;
        }
        last = format!("{}: {}{}", output.code, output.stdout, output.error());
    }
    panic!("the attack did not work on runc 1.1.5 in {tries} tries: {last}");
}
