//! The two ways to run a container: davit inside a forked worker, or another OCI runtime's binary.
//!
//! Every function here blocks and runs in a worker, never in the reactor. State on disk is runc's in both.

pub mod checkpoint;
pub mod external;
pub mod inproc;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use davit::cgroup::{Cgroup, Layout, OnDenied};
use davit::sys::fs::WinSize;

use crate::api::Mount;
use crate::io::Owner;
use crate::io::logger::{Feed, Logger};
use crate::mount;
use crate::options::Options;

/// Longest error text that crosses from a worker to the shim, in bytes.
pub const ERROR_LIMIT: usize = 4096;

/// Which runtime a container has, and where its state is.
#[derive(Clone, Debug)]
pub struct Backend {
    kind: Kind,
    root: PathBuf,
    systemd_cgroup: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Inproc,
    External(String),
}

/// What a worker needs for create.
#[derive(Clone, Debug)]
pub struct CreateArgs {
    /// Container id.
    pub id: String,
    /// Bundle directory.
    pub bundle: PathBuf,
    /// Mounts of the rootfs.
    pub rootfs: Vec<Mount>,
    /// Runtime options.
    pub options: Options,
    /// A program that reads the output.
    pub logger: Option<LoggerArgs>,
}

/// A logging program and what it is told.
#[derive(Clone, Debug)]
pub struct LoggerArgs {
    /// The program.
    pub logger: Logger,
    /// containerd namespace.
    pub namespace: String,
    /// Owner of the pipes.
    pub owner: Owner,
    /// Who writes them.
    pub feed: Feed,
}

fn start_logger(args: Option<&LoggerArgs>, id: &str) -> Outcome<()> {
    args.map_or(Ok(()), |args| args.logger.attach(id, &args.namespace, args.owner, args.feed))
}

/// What a worker needs for exec.
#[derive(Clone, Debug)]
pub struct ExecArgs {
    /// Container id.
    pub id: String,
    /// Exec id.
    pub exec: String,
    /// Bundle directory.
    pub bundle: PathBuf,
    /// JSON of the OCI `process` object.
    pub spec: Vec<u8>,
    /// Overrides the spec's `terminal`.
    pub terminal: bool,
    /// A size of the terminal that was asked for before the start.
    pub size: Option<WinSize>,
    /// A program that reads the output.
    pub logger: Option<LoggerArgs>,
}

/// A runtime's error text, as its log gives it.
pub type Outcome<T> = Result<T, String>;

impl Backend {
    /// The backend that the options of a container in `namespace` name.
    ///
    /// No `BinaryName`, or one that is davit's own binary, is the library; any other name is executed.
    #[must_use]
    pub fn new(options: &Options, namespace: &str) -> Backend {
        let kind = match options.binary_name.as_str() {
            "" => Kind::Inproc,
            name if Path::new(name).file_name().is_some_and(|f| f == "davit") && !is_script(name) => {
                Kind::Inproc
            }
            name => Kind::External(name.to_owned()),
        };
        Backend { kind, root: options.state_root(namespace), systemd_cgroup: options.systemd_cgroup }
    }

    /// Whether the runtime is davit inside this process: a single signal then needs no worker.
    #[must_use]
    pub fn is_inproc(&self) -> bool {
        matches!(self.kind, Kind::Inproc)
    }

    /// Whether the runtime knows the container: its state directory is there.
    #[must_use]
    pub fn has_state(&self, id: &str) -> bool {
        self.state_dir(id).exists()
    }

    /// Mounts the rootfs and makes the container; the answer is init's pid.
    ///
    /// # Errors
    /// The runtime's text; mounts are undone then.
    pub fn create(&self, args: &CreateArgs, console: Option<OwnedFd>) -> Outcome<i32> {
        remember(args)?;
        start_logger(args.logger.as_ref(), &args.id)?;
        mount_rootfs(args)?;
        let created = match &self.kind {
            Kind::Inproc => inproc::create(&self.runtime(), args, console),
            Kind::External(binary) => self.external(binary, &args.bundle).create(args, console),
        };
        if created.is_err() && !args.rootfs.is_empty() {
            // The runtime's error is the one to report.
            let _ = mount::unmount_recursive(&args.bundle.join("rootfs"));
        }
        created
    }

    /// What Create does for a container that Start restores: mounts the rootfs.
    ///
    /// # Errors
    /// The mount that failed; the others are undone then.
    pub fn prepare(&self, args: &CreateArgs) -> Outcome<()> {
        remember(args)?;
        mount_rootfs(args)
    }

    /// Starts the user's program.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn start(&self, id: &str, bundle: &Path) -> Outcome<()> {
        match &self.kind {
            Kind::Inproc => inproc::start(&self.runtime(), id, bundle),
            Kind::External(binary) => self.external(binary, bundle).simple(&["start", id]),
        }
    }

    /// Starts a further process; the answer is its pid.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn exec(&self, args: &ExecArgs, console: Option<OwnedFd>) -> Outcome<i32> {
        start_logger(args.logger.as_ref(), &args.id)?;
        match &self.kind {
            Kind::Inproc => inproc::exec(&self.runtime(), args, console),
            Kind::External(binary) => self.external(binary, &args.bundle).exec(args, console),
        }
    }

    /// Sends a signal to init.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn kill(&self, id: &str, bundle: &Path, signal: i32) -> Outcome<()> {
        match &self.kind {
            Kind::Inproc => inproc::kill(&self.runtime(), id, signal, inproc::INIT),
            Kind::External(binary) => {
                self.external(binary, bundle).simple(&["kill", id, &signal.to_string()])
            }
        }
    }

    /// Sends a signal to every process of the container.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn kill_all(&self, id: &str, bundle: &Path, signal: i32) -> Outcome<()> {
        match &self.kind {
            Kind::Inproc => inproc::kill(&self.runtime(), id, signal, inproc::ALL),
            Kind::External(binary) => {
                self.external(binary, bundle).simple(&["kill", "--all", id, &signal.to_string()])
            }
        }
    }

    /// Freezes.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn pause(&self, id: &str, bundle: &Path) -> Outcome<()> {
        match &self.kind {
            Kind::Inproc => inproc::pause(&self.runtime(), id),
            Kind::External(binary) => self.external(binary, bundle).simple(&["pause", id]),
        }
    }

    /// Thaws.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn resume(&self, id: &str, bundle: &Path) -> Outcome<()> {
        match &self.kind {
            Kind::Inproc => inproc::resume(&self.runtime(), id),
            Kind::External(binary) => self.external(binary, bundle).simple(&["resume", id]),
        }
    }

    /// Removes the container (by force unless it is stopped) and its rootfs mounts. A container that the
    /// runtime does not know is no error: somebody removed it behind our back.
    ///
    /// # Errors
    /// The runtime's text, or the unmount that failed.
    pub fn delete(&self, id: &str, bundle: &Path, force: Force) -> Outcome<()> {
        self.remove(id, bundle, force)?;
        mount::unmount_recursive(&bundle.join("rootfs")).map_err(|e| e.to_string())
    }

    /// As [`Backend::delete`] without the mounts.
    fn remove(&self, id: &str, bundle: &Path, force: Force) -> Outcome<()> {
        let removed = match &self.kind {
            Kind::Inproc => inproc::delete(&self.runtime(), id, force).or_else(|text| match force {
                // Init ended without a shim, and in a pid namespace that is not the container's own the others
                // live on: nobody else will end them.
                Force::Yes if inproc::kill_cgroup(&self.state_dir(id)) => {
                    inproc::delete(&self.runtime(), id, force)
                }
                _ => Err(text),
            }),
            Kind::External(binary) => match force {
                // runc that was killed in a restore leaves the rootfs mounted in its state, and its delete then removes
                // all files of the rootfs.
                Force::Yes => mount::unmount_recursive(&self.state_dir(id))
                    .map_err(|e| e.to_string())
                    .and_then(|()| self.external(binary, bundle).simple(&["delete", "--force", id])),
                Force::No => self.external(binary, bundle).simple(&["delete", id]),
            },
        };
        match removed {
            Err(text) if !text.contains("does not exist") => Err(text),
            _ => Ok(()),
        }
    }

    /// Removes whatever there is of a container, by force; nothing is fine too.
    ///
    /// # Errors
    /// As [`Backend::delete`].
    pub fn clean_up(&self, id: &str, bundle: &Path) -> Outcome<()> {
        if self.has_state(id) {
            return self.delete(id, bundle, Force::Yes);
        }
        if !self.is_inproc() {
            remove_empty_cgroups(id, bundle);
        }
        mount::unmount_recursive(&bundle.join("rootfs")).map_err(|e| e.to_string())
    }

    /// Changes limits; `resources` is JSON of the spec's LinuxResources.
    ///
    /// # Errors
    /// The runtime's text.
    pub fn update(&self, id: &str, bundle: &Path, resources: &[u8]) -> Outcome<()> {
        match &self.kind {
            Kind::Inproc => inproc::update(&self.runtime(), id, resources),
            Kind::External(binary) => self.external(binary, bundle).update(id, resources),
        }
    }

    /// The runtime's directory for the container.
    #[must_use]
    pub fn state_dir(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    fn runtime(&self) -> davit::container::Runtime {
        use davit::container::CgroupManager;
        davit::container::Runtime {
            root: self.root.clone(),
            cgroups: if self.systemd_cgroup { CgroupManager::Systemd } else { CgroupManager::Cgroupfs },
            rootless: false,
        }
    }

    fn external<'a>(&'a self, binary: &'a str, bundle: &Path) -> external::External<'a> {
        external::External {
            binary,
            root: &self.root,
            log: bundle.join("log.json"),
            systemd_cgroup: self.systemd_cgroup,
        }
    }
}

/// Another runtime that was killed in its create may have made cgroups and no state that names them. Only what is empty
/// goes. (davit writes its state first. systemd ends a scope whose last process is gone by itself.)
fn remove_empty_cgroups(id: &str, bundle: &Path) {
    let Some(cgroup) = cgroup_of_config(id, bundle) else { return };
    if let Err(e) = cgroup.remove_empty() {
        // An empty cgroup harms nobody; the container's end is what counts.
        log::warn!("{id}: remove what a killed runtime has left: {e}");
    }
}

/// The cgroup that config.json names by an absolute path.
fn cgroup_of_config(id: &str, bundle: &Path) -> Option<Cgroup> {
    let path = crate::config::cgroups_path(bundle)?;
    let found = Layout::detect()
        .and_then(|layout| Cgroup::resolve(&layout, id, Some(&path), OnDenied::Fail))
        .inspect_err(|e| log::warn!("{id}: find the cgroup {}: {e}", path.display()));
    found.ok()
}

/// Whether a path leads to a script: a wrapper that is called davit is not davit.
fn is_script(path: &str) -> bool {
    use std::io::Read;
    let mut start = [0; 2];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == *b"#!"
}

/// Whether a container is killed before it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// SIGKILL first.
    Yes,
    /// Refuse a running one.
    No,
}

fn mount_rootfs(args: &CreateArgs) -> Outcome<()> {
    if args.rootfs.is_empty() {
        return Ok(());
    }
    let rootfs = args.bundle.join("rootfs");
    mount::make_rootfs(&rootfs).map_err(|e| e.to_string())?;
    mount::mount_all(&args.rootfs, &rootfs).map_err(|e| e.to_string())
}

/// Records the options for the `delete` command of a later shim binary: the files of Go's shim.
fn remember(args: &CreateArgs) -> Outcome<()> {
    let json = serde_json::to_vec(&args.options).map_err(|e| e.to_string())?;
    for (name, content) in
        [("options.json", json.as_slice()), ("runtime", args.options.binary_name.as_bytes())]
    {
        write_private(&args.bundle.join(name), content)
            .map_err(|e| format!("write {}: {e}", args.bundle.join(name).display()))?;
    }
    Ok(())
}

/// Writes a file of mode 0600 whole.
fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(content)
}

/// Reads back what [`Backend::create`] recorded; a bundle without it has default options.
#[must_use]
pub fn remembered(bundle: &Path) -> Options {
    let mut options: Options = std::fs::read(bundle.join("options.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    // Go's shim of the same node, before davit was installed, records the name here.
    if let Ok(name) = std::fs::read_to_string(bundle.join("runtime")) {
        options.binary_name = name.trim().to_owned();
    }
    options
}
