//! podman and buildah with our command line program, or a peer, as their runtime, and storage of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::containerd::Call;
use crate::leaks;
use crate::setup::{self, Release};

/// The image's name as podman shows it.
pub const IMAGE: &str = setup::IMAGE;

/// A podman with folders of its own.
pub struct Podman {
    dir: TempDir,
    programs: PathBuf,
    runtime: PathBuf,
    /// Programs that podman and the runtime find besides.
    more: Option<PathBuf>,
}

impl Podman {
    /// Podman of Debian 12 with the runtime under test.
    pub fn start() -> Result<Podman> {
        Podman::with(Release::Bookworm, setup::runtime())
    }

    /// Prepares podman's folders and loads the image.
    pub fn with(release: Release, runtime: PathBuf) -> Result<Podman> {
        Podman::finding(release, runtime, None)
    }

    /// As [`Podman::with`], with these programs besides.
    pub fn finding(release: Release, runtime: PathBuf, more: Option<PathBuf>) -> Result<Podman> {
        setup::own_memory_cgroup();
        let dir = TempDir::with_prefix("davit-it-")?;
        let podman = Podman { dir, programs: release.bin()?, runtime, more };
        // Root of a container's user namespace, somebody else here, has to get through to what podman mounts below.
        fs::set_permissions(podman.dir.path(), fs::Permissions::from_mode(0o711))?;
        let config = podman.dir.path().join("home/.config/containers");
        fs::create_dir_all(&config)?;
        fs::write(config.join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)?;
        fs::write(podman.dir.path().join("containers.conf"), podman.config())?;
        let image = setup::image()?.to_string_lossy();
        let load = podman.podman(&["load", "--quiet", "--input", &image]);
        if load.code != 0 {
            bail!("podman load: {}", load.err);
        }
        Ok(podman)
    }

    /// The tree's own helpers, and limits that need no CAP_SYS_RESOURCE: podman's default ones can be above those
    /// of this process.
    fn config(&self) -> String {
        let tree = self.programs.parent().unwrap_or(&self.programs).display();
        format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             init_path = \"{tree}/usr/bin/catatonit\"\n\
             [engine]\nconmon_path = [\"{tree}/bin/conmon\"]\n\
             helper_binaries_dir = [\"{tree}/usr/libexec/podman\", \"{tree}/usr/lib/podman\"]\n\
             runtime_supports_json = [\"davit\", \"runc\"]\n\
             runtime_supports_nocgroup = [\"davit\"]\n"
        )
    }

    /// This podman's own folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Whether the tree has podman's program for `--init`.
    pub fn has_init(&self) -> bool {
        self.programs.parent().is_some_and(|tree| tree.join("usr/bin/catatonit").exists())
    }

    /// The word that this podman's containers carry in their cgroups and folders.
    pub fn word(&self) -> String {
        self.dir.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Runs podman to its end with the runtime under test.
    pub fn podman(&self, args: &[&str]) -> Call {
        finish(&mut self.line(args))
    }

    /// The command line of `podman` with the runtime under test.
    pub fn line(&self, args: &[&str]) -> Command {
        let mut command = self.command("podman");
        command.arg("--tmpdir").arg(self.dir.path().join("tmp"));
        command.arg("--conmon").arg(self.programs.join("conmon")).arg("--runtime").arg(&self.runtime);
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        command.args(args);
        command
    }

    /// Runs buildah to its end.
    pub fn buildah(&self, subcommand: &str, args: &[&str]) -> Call {
        let mut command = self.command("buildah");
        command.arg(subcommand);
        if matches!(subcommand, "run" | "build") {
            command.arg("--runtime").arg(&self.runtime).args(["--isolation", "oci", "--network", "none"]);
        }
        finish(command.args(args))
    }

    /// A program of the tree with this podman's storage. One that hangs is a failed test and not a hanging one.
    fn command(&self, program: &str) -> Command {
        let dir = self.dir.path();
        let mut command = Command::new("timeout");
        command.args(["--foreground", "120"]).arg(self.programs.join(program));
        command.arg("--root").arg(dir.join("root")).arg("--runroot").arg(dir.join("run"));
        command.args(["--storage-driver", "vfs"]).stdin(Stdio::null());
        let path = std::env::var("PATH").unwrap_or_default();
        let more = self.more.as_ref().map_or_else(String::new, |more| format!("{}:", more.display()));
        let path = format!("{}:{more}{path}", self.programs.display());
        command.env("HOME", dir.join("home")).env("PATH", path);
        command.env("CONTAINERS_CONF", dir.join("containers.conf"));
        command.env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1").env("TMPDIR", dir);
        command
    }

    /// `podman run` without network, which would need network helpers on the machine.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Call {
        let parent = format!("/{}", self.word());
        let mut args = vec!["run", "--cgroup-parent", &parent];
        if !options.contains(&"--network") && !options.contains(&"--pod") {
            args.extend(["--network", "none"]);
        }
        args.extend(options);
        args.push(IMAGE);
        args.extend(command);
        self.podman(&args)
    }

    /// Processes and cgroups of this podman's containers.
    pub fn left(&self) -> Vec<String> {
        let word = self.word();
        let processes = leaks::processes(&word, self.dir.path());
        let mut found: Vec<String> =
            processes.into_iter().map(|(pid, line)| format!("process {pid}: {line}")).collect();
        found.extend(leaks::cgroups(&word).into_iter().map(|c| format!("cgroup {}", c.display())));
        found
    }
}

fn finish(command: &mut Command) -> Call {
    match command.output() {
        Ok(output) => output.into(),
        Err(e) => Call { code: -1, out: String::new(), err: e.to_string() },
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.podman(&["rm", "--all", "--force", "--time", "0"]);
        for target in leaks::mounts(&self.word(), self.dir.path()).iter().rev() {
            let _ = nix::mount::umount2(target.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
        leaks::remove_cgroup_parents(&self.word());
    }
}
