//! podman of Debian 12 with our command line program as its runtime, and storage of its own.

use std::fs;
use std::path::PathBuf;
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
}

impl Podman {
    /// Prepares podman's folders and loads the image.
    pub fn start() -> Result<Podman> {
        setup::own_memory_cgroup();
        let podman = Podman { dir: TempDir::with_prefix("davit-it-")?, programs: Release::Bookworm.bin()? };
        let config = podman.dir.path().join("home/.config/containers");
        fs::create_dir_all(&config)?;
        fs::write(config.join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)?;
        let image = setup::image()?.to_string_lossy();
        let load = podman.podman(&["load", "--quiet", "--input", &image]);
        if load.code != 0 {
            bail!("podman load: {}", load.err);
        }
        Ok(podman)
    }

    /// The word that this podman's containers carry in their cgroups and folders.
    pub fn word(&self) -> String {
        self.dir.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Runs podman to its end with the runtime under test.
    pub fn podman(&self, args: &[&str]) -> Call {
        let dir = self.dir.path();
        // A call that hangs is a failed test and not a hanging one.
        let mut command = Command::new("timeout");
        command.args(["--foreground", "120"]).arg(self.programs.join("podman"));
        command.arg("--root").arg(dir.join("root")).arg("--runroot").arg(dir.join("run"));
        command.arg("--tmpdir").arg(dir.join("tmp")).arg("--conmon").arg(self.programs.join("conmon"));
        command.arg("--runtime").arg(setup::runtime());
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "vfs"]);
        command.args(args).stdin(Stdio::null());
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("HOME", dir.join("home")).env("PATH", format!("{}:{path}", self.programs.display()));
        match command.output() {
            Ok(output) => output.into(),
            Err(e) => Call { code: -1, out: String::new(), err: e.to_string() },
        }
    }

    /// `podman run` without network, which would need network helpers on the machine, and with low limits: podman's
    /// default ones can be above those of this process, which no runtime may set without CAP_SYS_RESOURCE.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Call {
        let parent = format!("/{}", self.word());
        let mut args = vec!["run", "--network", "none", "--cgroup-parent", &parent];
        args.extend(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
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

impl Drop for Podman {
    fn drop(&mut self) {
        self.podman(&["rm", "--all", "--force", "--time", "0"]);
        for target in leaks::mounts(&self.word(), self.dir.path()).iter().rev() {
            let _ = nix::mount::umount2(target.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
        leaks::remove_cgroup_parents(&self.word());
    }
}
