//! A private dockerd on a private containerd, with our programs as its runtimes.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::containerd::{Call, Containerd, Options};
use crate::net::PrivateNet;
use crate::poll;
use crate::setup::{self, Release};

/// The image's name as docker shows it.
pub const IMAGE: &str = "busybox:davit";

/// How dockerd reaches the programs under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// `runtimes.davit.path`: the command line program, below docker's own shim.
    Path,
    /// `runtimes.davit.runtimeType`: our shim (docker 23 and newer).
    RuntimeType,
    /// Our programs under the names of runc's and its shim's, for versions that know no `runtimeType`.
    DropIn,
}

/// A running dockerd. Its networks are in a namespace of its own, so that the machine's firewall and bridges stay
/// as they are.
pub struct Docker {
    daemon: Child,
    programs: PathBuf,
    net: Arc<PrivateNet>,
    through: Through,
    /// Whose dockerd it is.
    pub release: Release,
    /// The containerd below it.
    pub containerd: Containerd,
}

impl Docker {
    /// Starts dockerd with our runtime by the name `davit` beside its own, as the default, and loads the image. The
    /// drop-in has runc's name.
    pub fn start(release: Release, through: Through) -> Result<Docker> {
        Docker::with(release, through, None)
    }

    /// As [`Docker::start`], with docker's experimental features and these programs besides.
    pub fn experimental(release: Release, through: Through, programs: PathBuf) -> Result<Docker> {
        Docker::with(release, through, Some(programs))
    }

    fn with(release: Release, through: Through, more: Option<PathBuf>) -> Result<Docker> {
        let mut daemon_json = config(through);
        daemon_json["experimental"] = json!(more.is_some());
        let net = Arc::new(PrivateNet::new()?);
        let drop_in = through == Through::DropIn;
        let options = Options {
            net: Some(Arc::clone(&net)),
            drop_in,
            config: None,
            own_temporary_files: more.is_some(),
            programs: more,
        };
        let containerd = Containerd::with(release, options)?;
        let programs = release.bin()?;
        let dir = containerd.dir().join("docker");
        fs::create_dir(&dir)?;
        fs::write(dir.join("daemon.json"), daemon_json.to_string())?;
        let daemon = spawn(&containerd, &net, &programs)?;
        let docker = Docker { daemon, programs, net, through, release, containerd };
        docker.wait_until_up()?;
        let image = setup::image()?.to_string_lossy();
        let load = docker.docker(&["load", "--quiet", "--input", &image]);
        if load.code != 0 {
            bail!("docker load: {}", load.err);
        }
        Ok(docker)
    }

    fn wait_until_up(&self) -> Result<()> {
        if poll::within(180, || (self.docker(&["version"]).code == 0).then_some(())).is_none() {
            bail!("dockerd did not come up: {}", self.log());
        }
        Ok(())
    }

    /// Ends dockerd alone, by this signal, and starts it again after `while_away`: with live-restore its containers
    /// run on.
    pub fn restart(&mut self, signal: Signal, while_away: impl FnOnce()) -> Result<()> {
        self.stop(signal);
        while_away();
        self.daemon = spawn(&self.containerd, &self.net, &self.programs)?;
        self.wait_until_up()
    }

    /// How it reaches the programs under test.
    pub fn through(&self) -> Through {
        self.through
    }

    /// The client's command line. A call that hangs is a failed test and not a hanging one.
    pub fn line(&self, args: &[&str]) -> Command {
        let socket = self.containerd.dir().join("docker/docker.sock");
        let mut command = Command::new("timeout");
        command.args(["--foreground", "120"]).arg(self.programs.join("docker"));
        command.arg(format!("--host=unix://{}", socket.display())).args(args).stdin(Stdio::null());
        // The client's own settings would be those of the person who runs the tests.
        command.env("DOCKER_CONFIG", self.containerd.dir()).env("PATH", self.containerd.path());
        command
    }

    /// Runs the docker client to its end.
    pub fn docker(&self, args: &[&str]) -> Call {
        match self.line(args).output() {
            Ok(output) => output.into(),
            Err(e) => Call { code: -1, out: String::new(), err: e.to_string() },
        }
    }

    /// As [`Docker::docker`]; panics unless it succeeds. Gives its output without the last line's end.
    pub fn ok(&self, args: &[&str]) -> String {
        let call = self.docker(args);
        assert_eq!(call.code, 0, "docker {args:?}: {}\n{}", call.err, self.log());
        call.out.trim_end().to_owned()
    }

    /// One value of `docker inspect`.
    pub fn inspect(&self, container: &str, format: &str) -> String {
        self.ok(&["inspect", "--format", &format!("{{{{{format}}}}}"), container])
    }

    /// The words of `docker run` with a runtime and without network.
    pub fn run_words<'a>(&self, runtime: &'a str, options: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["run", "--runtime", runtime];
        if !options.iter().any(|option| option.starts_with("--network")) {
            args.extend(["--network", "none"]);
        }
        args.extend(options);
        args.push(IMAGE);
        args.extend(command);
        args
    }

    /// The name of the runtime under test.
    pub fn runtime(&self) -> &'static str {
        if self.through == Through::DropIn { "runc" } else { "davit" }
    }

    /// `docker run` with our runtime and without network.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Call {
        self.docker(&self.run_words(self.runtime(), options, command))
    }

    /// `docker run --rm` of what says something. On a busy machine all output of a short life can be lost, once in
    /// hundreds, where docker's own shim and dockerd carry it (which waits for two seconds after the end): asked again
    /// where not a word came.
    pub fn run_heard(&self, runtime: &str, options: &[&str], command: &[&str]) -> Call {
        let words = [&["--rm"], options].concat();
        let call = self.docker(&self.run_words(runtime, &words, command));
        let by_our_shim = runtime == self.runtime() && self.through != Through::Path;
        if by_our_shim || call.code != 0 || !call.out.is_empty() || !call.err.is_empty() {
            return call;
        }
        eprintln!("no output, and again: {options:?} {command:?}");
        self.docker(&self.run_words(runtime, &words, command))
    }

    /// The end of the daemon's log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.containerd.dir().join("docker/log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(15)).copied().collect::<Vec<_>>().join("\n")
    }

    /// Ends the daemon; panics if its containers left anything.
    pub fn finish(mut self) {
        self.stop(Signal::SIGTERM);
        // dockerd's own: its data folder, made shared by a mount, and the host's network namespace.
        for own in ["data", "exec/netns/default"] {
            let point = self.containerd.dir().join("docker").join(own);
            let _ = nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH);
        }
        self.containerd.assert_nothing_left();
    }

    fn stop(&mut self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.daemon.id() as i32), signal);
        let gone = poll::within(30, || self.daemon.try_wait().ok().flatten());
        if gone.is_none() {
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
    }
}

/// daemon.json.
fn config(through: Through) -> Value {
    let mut config = json!({ "live-restore": true });
    match through {
        Through::Path => {
            config["runtimes"] = json!({ "davit": { "path": setup::runtime() } });
            config["default-runtime"] = json!("davit");
        }
        Through::RuntimeType => {
            let shim = setup::bin().join("containerd-shim-davit-v2");
            config["runtimes"] = json!({ "davit": { "runtimeType": shim } });
            config["default-runtime"] = json!("davit");
        }
        Through::DropIn => {}
    }
    config
}

fn spawn(containerd: &Containerd, net: &PrivateNet, programs: &std::path::Path) -> Result<Child> {
    let dir = containerd.dir().join("docker");
    let log = File::options().create(true).append(true).open(dir.join("log"))?;
    let child = net
        .command(&programs.join("dockerd"))
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
        .arg("--init-path")
        .arg(programs.join("docker-init"))
        .args(["--iptables=false", "--ip6tables=false", "--ip-masq=false", "--userland-proxy=false"])
        .arg("--storage-driver=overlay2")
        .args(["--cgroup-parent", &format!("/{}", containerd.namespace())])
        .env("PATH", containerd.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    Ok(child)
}

impl Drop for Docker {
    fn drop(&mut self) {
        // With live-restore its containers would stay until the containerd below is cleaned up.
        self.stop(Signal::SIGTERM);
    }
}
