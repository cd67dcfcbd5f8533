//! A private dockerd on a private containerd, with our command line program as one of its runtimes.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::containerd::{Call, Containerd};
use crate::poll;
use crate::setup::{self, Release};

/// The image's name as docker shows it.
pub const IMAGE: &str = "busybox:davit";

/// A running dockerd without network, so that the machine's firewall and bridges stay as they are.
pub struct Docker {
    daemon: Child,
    programs: PathBuf,
    /// The containerd below it.
    pub containerd: Containerd,
}

impl Docker {
    /// Starts dockerd 20.10 of Debian 12 and loads the image.
    pub fn start() -> Result<Docker> {
        let containerd = Containerd::start(Release::Bookworm)?;
        let programs = Release::Bookworm.bin()?;
        let dir = containerd.dir().join("docker");
        fs::create_dir(&dir)?;
        let config = serde_json::json!({ "runtimes": { "davit": { "path": setup::runtime() } } });
        fs::write(dir.join("daemon.json"), config.to_string())?;
        let log = File::create(dir.join("log"))?;
        let daemon = Command::new(programs.join("dockerd"))
            .arg("--config-file")
            .arg(dir.join("daemon.json"))
            .arg("--containerd")
            .arg(containerd.socket())
            .args(["--containerd-namespace", containerd.namespace()])
            .args(["--containerd-plugins-namespace", &format!("{}-plugins", containerd.namespace())])
            .arg("--data-root")
            .arg(dir.join("data"))
            .arg("--exec-root")
            .arg(dir.join("exec"))
            .arg("--pidfile")
            .arg(dir.join("pid"))
            .arg(format!("--host=unix://{}", dir.join("docker.sock").display()))
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"])
            .args(["--cgroup-parent", &format!("/{}", containerd.namespace())])
            .env("PATH", containerd.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let docker = Docker { daemon, programs, containerd };
        if poll::within(60, || (docker.docker(&["version"]).code == 0).then_some(())).is_none() {
            bail!("dockerd did not come up: {}", docker.log());
        }
        let image = setup::image()?.to_string_lossy();
        let load = docker.docker(&["load", "--quiet", "--input", &image]);
        if load.code != 0 {
            bail!("docker load: {}", load.err);
        }
        Ok(docker)
    }

    /// Runs the docker client to its end.
    pub fn docker(&self, args: &[&str]) -> Call {
        let socket = self.containerd.dir().join("docker/docker.sock");
        // A call that hangs is a failed test and not a hanging one.
        let mut command = Command::new("timeout");
        command.args(["--foreground", "120"]).arg(self.programs.join("docker"));
        command.arg(format!("--host=unix://{}", socket.display())).args(args).stdin(Stdio::null());
        // The client's own settings would be those of the person who runs the tests.
        command.env("DOCKER_CONFIG", self.containerd.dir()).env("PATH", self.containerd.path());
        match command.output() {
            Ok(output) => output.into(),
            Err(e) => Call { code: -1, out: String::new(), err: e.to_string() },
        }
    }

    /// `docker run` with our runtime and without network.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Call {
        let mut args = vec!["run", "--runtime", "davit", "--network", "none"];
        args.extend(options);
        args.push(IMAGE);
        args.extend(command);
        self.docker(&args)
    }

    /// The end of the daemon's log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.containerd.dir().join("docker/log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(15)).copied().collect::<Vec<_>>().join("\n")
    }
}

impl Docker {
    /// Ends the daemon; panics if its containers left anything.
    pub fn finish(mut self) {
        self.stop();
        self.containerd.assert_nothing_left();
    }

    fn stop(&mut self) {
        let _ = kill(Pid::from_raw(self.daemon.id() as i32), Signal::SIGTERM);
        let gone = poll::within(20, || self.daemon.try_wait().ok().flatten());
        if gone.is_none() {
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.stop();
    }
}
