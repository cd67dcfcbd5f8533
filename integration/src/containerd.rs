//! A private containerd of one Debian release, and `ctr` for it.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::leaks;
use crate::net::PrivateNet;
use crate::poll;
use crate::setup::{self, Release};

/// What a `ctr` call gave.
#[derive(Debug)]
pub struct Call {
    /// The exit code; -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Call {
    fn from(output: Output) -> Call {
        Call {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// How a daemon is started.
#[derive(Default)]
pub struct Options {
    /// The namespace that the daemon, its shims and containers on the host's network are in; the machine's without.
    pub net: Option<Arc<PrivateNet>>,
    /// The shim and the runtime under test are found under the names of runc's: what uses the default uses ours.
    pub drop_in: bool,
    /// Replaces the configuration: `DIR` stands for the daemon's folder.
    pub config: Option<String>,
    /// Programs that the daemon and its runtimes find besides.
    pub programs: Option<PathBuf>,
    /// Temporary files are in the daemon's folder: containerd leaves there for ever what it restores a container from.
    pub own_temporary_files: bool,
}

/// A running daemon. Its end removes all that its tests left, so that one failure does not cause the next.
pub struct Containerd {
    daemon: Child,
    dir: TempDir,
    programs: PathBuf,
    options: Options,
    namespace: String,
    ids: AtomicU32,
}

const CONFIG: &str = r#"version = 2
root = "DIR/root"
state = "DIR/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
    "io.containerd.nri.v1.nri"]
[grpc]
address = "DIR/containerd.sock"
"#;

impl Containerd {
    /// Starts this release's containerd with its own folders and imports the image.
    pub fn start(release: Release) -> Result<Containerd> {
        Containerd::with(release, Options::default())
    }

    /// As [`Containerd::start`], in other ways.
    pub fn with(release: Release, options: Options) -> Result<Containerd> {
        setup::own_memory_cgroup();
        let programs = release.bin()?;
        let dir = TempDir::with_prefix("davit-it-")?;
        // Where user namespaces are used, their root has to get through to what is mounted below.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
        let namespace = dir.path().file_name().context("folder name")?.to_string_lossy().into_owned();
        leaks::own_sockets(dir.path())?;
        let config = options.config.as_deref().unwrap_or(CONFIG);
        fs::write(dir.path().join("config.toml"), config.replace("DIR", &dir.path().to_string_lossy()))?;
        if options.drop_in {
            let names = dir.path().join("drop-in");
            fs::create_dir(&names)?;
            symlink(setup::bin().join("containerd-shim-davit-v2"), names.join("containerd-shim-runc-v2"))?;
            symlink(setup::runtime(), names.join("runc"))?;
        }
        let daemon = spawn(&programs, dir.path(), &options)?;
        let daemon = Containerd { daemon, dir, programs, options, namespace, ids: AtomicU32::new(0) };
        daemon.wait_until_up()?;
        daemon.import(&daemon.namespace, setup::image()?)?;
        Ok(daemon)
    }

    fn wait_until_up(&self) -> Result<()> {
        if poll::within(180, || (self.ctr(&["version"]).code == 0).then_some(())).is_none() {
            bail!("containerd did not come up: {}", self.log());
        }
        Ok(())
    }

    /// Imports an image archive into a containerd namespace.
    pub fn import(&self, namespace: &str, archive: &Path) -> Result<()> {
        let import = self.ctr(&["--namespace", namespace, "images", "import", &archive.to_string_lossy()]);
        if import.code != 0 {
            bail!("ctr images import: {} {}", import.err, self.log());
        }
        Ok(())
    }

    /// Ends the daemon, its shims left running: orderly by SIGTERM, or as a crash does by SIGKILL.
    pub fn stop(&mut self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.daemon.id() as i32), signal);
        let _ = self.daemon.wait();
    }

    /// Starts the daemon again on its folders, perhaps another release's.
    pub fn start_again(&mut self, release: Release) -> Result<()> {
        self.programs = release.bin()?;
        self.daemon = spawn(&self.programs, self.dir.path(), &self.options)?;
        self.wait_until_up()
    }

    /// The daemon's own folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The address of the daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("containerd.sock")
    }

    /// The search path the daemon runs with: the programs under test first.
    pub fn path(&self) -> String {
        path(&self.programs, self.dir(), &self.options)
    }

    /// The containerd namespace of this daemon's tests; every id and cgroup carries it.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A new container id.
    pub fn id(&self) -> String {
        format!("{}-{}", self.namespace, self.ids.fetch_add(1, Ordering::Relaxed))
    }

    /// A `ctr` command line for this daemon. It ends after two minutes with code 124, so that a call that hangs is
    /// a failed test and not a hanging one.
    pub fn ctr_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--foreground", "120"]).arg(self.programs.join("ctr"));
        command.arg("--address").arg(self.socket()).args(["--namespace", &self.namespace]).args(args);
        command.env("PATH", self.path()).stdin(Stdio::null());
        command
    }

    /// Runs `ctr` to its end.
    pub fn ctr(&self, args: &[&str]) -> Call {
        match self.ctr_command(args).output() {
            Ok(output) => output.into(),
            Err(e) => Call { code: -1, out: String::new(), err: e.to_string() },
        }
    }

    /// Runs `ctr` and panics unless it succeeds; gives its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let call = self.ctr(args);
        assert_eq!(call.code, 0, "ctr {args:?}: {}\n{}", call.err, self.log());
        call.out
    }

    /// `ctr run` with the runtime under test: options, a new id, and the command.
    pub fn run_command(&self, options: &[&str], id: &str, command: &[&str]) -> Command {
        let kind = setup::runtime_type();
        let mut args = vec!["run", "--runtime", &kind];
        args.extend(options);
        args.extend([setup::IMAGE, id]);
        args.extend(command);
        self.ctr_command(&args)
    }

    /// `ctr run` to its end.
    pub fn run(&self, options: &[&str], id: &str, command: &[&str]) -> Call {
        match self.run_command(options, id, command).output() {
            Ok(output) => output.into(),
            Err(e) => Call { code: -1, out: String::new(), err: e.to_string() },
        }
    }

    /// The status word that `ctr task ls` shows for this container.
    pub fn status(&self, id: &str) -> Option<String> {
        let list = self.ctr(&["task", "ls"]).out;
        let line = list.lines().find(|l| l.split_whitespace().next() == Some(id))?;
        line.split_whitespace().nth(2).map(str::to_owned)
    }

    /// The pid of a container's first process.
    pub fn pid_of(&self, id: &str) -> Option<i32> {
        let list = self.ctr(&["task", "ls"]).out;
        let line = list.lines().find(|l| l.split_whitespace().next() == Some(id))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// The daemon's pid.
    pub fn pid(&self) -> i32 {
        self.daemon.id() as i32
    }

    /// Waits until a container's `until-term` ends by SIGTERM as it should.
    #[track_caller]
    pub fn wait_for_trap(&self, id: &str) {
        poll::until_trapped(self.pid_of(id).expect("pid"));
    }

    /// Waits until `ctr` shows that the container has ended.
    #[track_caller]
    pub fn wait_for_end(&self, id: &str) {
        let ended = |status: &Option<String>| status.as_deref() == Some("STOPPED");
        poll::until(&format!("the end of {id}"), 60, || self.status(id), ended);
    }

    /// Kills a container, waits for its end, and removes task and container.
    pub fn remove(&self, id: &str) {
        self.ctr(&["task", "kill", "-s", "KILL", id]);
        self.wait_for_end(id);
        self.ctr(&["task", "rm", id]);
        self.ok(&["container", "rm", id]);
    }

    /// Pids of this daemon's shims.
    pub fn shims(&self) -> Vec<i32> {
        leaks::shims(self.dir())
    }

    /// The pid of the shim that was started for this container.
    pub fn shim_of(&self, id: &str) -> Option<i32> {
        let shims = leaks::shims(self.dir());
        shims.into_iter().find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|&byte| byte == 0).any(|word| word == id.as_bytes())
        })
    }

    /// Panics if anything of this daemon's containers is left. Shims end a little after the last call.
    pub fn assert_nothing_left(&self) {
        let mut left = Vec::new();
        poll::within(60, || {
            left = leaks::left(&self.namespace, self.dir());
            left.is_empty().then_some(())
        });
        assert!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), self.log());
    }

    /// The end of the daemon's log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.dir().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(15)).copied().collect::<Vec<_>>().join("\n")
    }
}

fn path(programs: &Path, dir: &Path, options: &Options) -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    let more =
        options.programs.as_ref().map_or_else(String::new, |programs| format!("{}:", programs.display()));
    let rest = format!("{}:{}:{more}{own}", setup::bin().display(), programs.display());
    match options.drop_in {
        true => format!("{}:{rest}", dir.join("drop-in").display()),
        false => rest,
    }
}

fn spawn(programs: &Path, dir: &Path, options: &Options) -> Result<Child> {
    let log = File::options().create(true).append(true).open(dir.join("log"))?;
    let program = programs.join("containerd");
    let mut command = match &options.net {
        Some(net) => net.command(&program),
        None => Command::new(&program),
    };
    command.arg("--config").arg(dir.join("config.toml")).env("PATH", path(programs, dir, options));
    if options.own_temporary_files {
        command.env("TMPDIR", dir).env_remove("XDG_RUNTIME_DIR");
    }
    Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.stop(Signal::SIGTERM);
        for (pid, _) in leaks::processes(&self.namespace, self.dir()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // A killed process holds its mounts and its cgroup until it is reaped.
        poll::within(10, || leaks::processes(&self.namespace, self.dir()).is_empty().then_some(()));
        for target in leaks::mounts(&self.namespace, self.dir()).iter().rev() {
            let _ = nix::mount::umount2(target.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
        for cgroup in leaks::cgroups(&self.namespace).iter().rev() {
            let _ = fs::remove_dir(cgroup);
        }
        leaks::remove_cgroup_parents(&self.namespace);
    }
}
