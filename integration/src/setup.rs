//! What all tests share: the programs under test, the trees of Debian packages, the image, a cgroup of our own.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, bail};

/// The image that `hack/busybox-image` makes.
pub const IMAGE: &str = "docker.io/library/busybox:davit";

/// The Debian release whose packages a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Release {
    /// Debian 12: containerd 1.6, dockerd 20.10, podman 4.3.
    Bookworm,
    /// Debian 13: containerd 1.7.
    Trixie,
    /// Debian unstable: containerd 2.1.
    Sid,
    /// Debian unstable: podman 5 and buildah, in a tree of their own.
    SidPodman,
    /// Debian unstable: dockerd 28, in a tree of its own with containerd 2.1.
    SidDocker,
    /// Debian unstable: CRIU 4, in a tree of its own.
    Criu,
    /// Debian 12: the plugins that make the networks of Kubernetes' pods.
    Cni,
}

impl Release {
    /// The suite's name and the packages wanted from it. `hack/test` asks for the same, so that trees are shared.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Release::Bookworm => &["bookworm", "containerd", "runc", "crun", "docker.io", "podman"],
            Release::Trixie => &["trixie", "containerd", "runc", "crun"],
            Release::Sid => &["sid", "containerd", "runc", "crun"],
            Release::SidDocker => &["--name", "docker-sid", "sid", "docker.io", "docker-cli"],
            Release::Criu => &["--name", "criu-sid", "sid", "criu"],
            Release::Cni => &["--name", "cni", "bookworm", "containernetworking-plugins"],
            Release::SidPodman => &[
                "--name",
                "podman-sid",
                "sid",
                "podman",
                "crun",
                "runc",
                "conmon",
                "netavark",
                "catatonit",
                "buildah",
            ],
        }
    }

    /// The folder with this release's programs, unpacked on first use.
    pub fn bin(self) -> Result<PathBuf> {
        static TREES: Mutex<Option<HashMap<Release, PathBuf>>> = Mutex::new(None);
        let mut trees = TREES.lock().unwrap_or_else(|e| e.into_inner());
        let trees = trees.get_or_insert_with(HashMap::new);
        if let Some(bin) = trees.get(&self) {
            return Ok(bin.clone());
        }
        let out = Command::new(root().join("hack/debian-tree")).args(self.packages()).output()?;
        if !out.status.success() {
            bail!("{}", last_line(&out.stderr));
        }
        let bin = PathBuf::from(String::from_utf8(out.stdout)?.trim()).join("bin");
        trees.insert(self, bin.clone());
        Ok(bin)
    }
}

/// The folder of CRIU, once it says that it works here.
pub fn criu() -> Result<PathBuf> {
    let bin = Release::Criu.bin()?;
    let check = Command::new(bin.join("criu")).arg("check").output().context("criu check")?;
    if !check.status.success() {
        bail!("criu check fails: {}", last_line(&check.stderr));
    }
    Ok(bin)
}

fn last_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).lines().last().unwrap_or("no message").to_owned()
}

/// The repository's root folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Where `hack/build` links the programs under test.
pub fn bin() -> PathBuf {
    root().join("target/bin")
}

/// The shim under test, by the name containerd knows it.
pub fn runtime_type() -> String {
    std::env::var("DAVIT_RUNTIME_TYPE").unwrap_or_else(|_| "io.containerd.davit.v2".to_owned())
}

/// Whether the shim under test is ours, so that promises which only ours makes can be checked.
pub fn is_davit() -> bool {
    runtime_type().contains("davit")
}

/// The command line runtime under test.
pub fn runtime() -> PathBuf {
    std::env::var_os("DAVIT_RUNTIME").map_or_else(|| bin().join("davit"), PathBuf::from)
}

/// Why these tests cannot run on this machine, if they cannot.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    if is_davit() && !bin().join("containerd-shim-davit-v2").exists() {
        return Some("target/bin is empty: run hack/build first".to_owned());
    }
    None
}

/// The image archive, made on first use.
pub fn image() -> Result<&'static Path> {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    made_once(&FILE, "busybox-image", &[])
}

/// The archive of the image that a pod's first container runs.
pub fn pause_image() -> Result<&'static Path> {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    made_once(&FILE, "pause-image", &["pause"])
}

fn made_once(made: &'static OnceLock<PathBuf>, name: &str, words: &[&str]) -> Result<&'static Path> {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one = MAKING.lock().unwrap_or_else(|e| e.into_inner());
    if made.get().is_none() {
        let file = root().join("target").join(name).with_extension("tar");
        let fresh = file.with_extension(format!("{}", std::process::id()));
        run(Command::new(root().join("hack/busybox-image")).arg(&fresh).args(words))?;
        // Renamed, so that test programs running at the same time never see half an archive.
        fs::rename(&fresh, &file)?;
        let _ = made.set(file);
    }
    made.get().map(PathBuf::as_path).context("image archive")
}

/// Runs a command to its end and fails with its stderr when it fails.
pub fn run(command: &mut Command) -> Result<Output> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !out.status.success() {
        bail!("{command:?}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(out)
}

/// On cgroup v1 a runtime may put containers below its caller's own cgroup. Where the tests start in somebody
/// else's memory cgroup (a CI job's), they move to one of their own first, which goes with the test process.
pub fn own_memory_cgroup() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let mine = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let inside =
            mine.lines().filter_map(|l| l.split_once(":memory:")).map(|(_, path)| path.to_owned()).next();
        match inside.as_deref() {
            None | Some("/") => return,
            // hack/test has moved already.
            Some(path) if path.starts_with("/davit-") => return,
            Some(_) => {}
        }
        let own = v1.join(format!("davit-it-{}", std::process::id()));
        if fs::create_dir(&own).is_err() || fs::write(own.join("cgroup.procs"), "0").is_err() {
            return;
        }
        remove_when_we_end(&own);
    });
}

/// A shell outside the cgroup waits for the end of our pipe to it, which comes with our end, and removes it.
fn remove_when_we_end(cgroup: &Path) {
    let script = r#"echo $$ >/sys/fs/cgroup/memory/cgroup.procs; read -r _
        n=0; until rmdir "$0" 2>/dev/null; do n=$((n+1)); [ $n -lt 100 ] || exit 1; sleep 0.1; done"#;
    let child = Command::new("sh")
        .args(["-c", script])
        .arg(cgroup)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    if let Ok(child) = child {
        // Not waited for and not closed: it must outlive every test.
        std::mem::forget(child);
    }
}
