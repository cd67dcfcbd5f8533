//! `restore`: a container is made of a bundle and of the processes in CRIU's images.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources};

use super::checkpoint::{
    CONFIG_ANNOTATION, EMPTY_NAMESPACES, Images, clear, config_file, external_key, find_criu, needs_root,
    read_descriptors, refuse, with_log,
};
use super::create::{Making, cgroup_views, make};
use super::criu_mounts::{RestoreMounts, obstacles};
use super::dir::CRIU_ROOT;
use super::isolation;
use super::state::{Namespace, State, namespace_name};
use super::{CreateOptions, Error, Result, Runtime, Started};
use crate::cgroup::{Layout, Mode as CgroupMode};
use crate::criu::{
    self, CgroupsMode, Criu, Features, Kind, Mounts, Notification, Options, Request, Setup, Stdio, Swrk,
};
use crate::init::Context;
use crate::plan::Step;
use crate::resctrl::Group;
use crate::spec::{list, namespace};
use crate::sys::process::{pidfd_open, pidfd_send_signal};

/// CRIU's log of a restore.
const LOG: &str = "restore.log";
/// What CRIU writes beside it.
const STATISTICS: &str = "stats-restore";

/// Arguments of [`super::restore`], besides those of a `create`.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// `--image-path`: directory of the images. What is in it may be hostile.
    pub image_path: PathBuf,
    /// `--work-path`: directory of CRIU's log and statistics; the images' when not given. Made if it is missing.
    pub work_path: Option<PathBuf>,
    /// `--tcp-established`: restore open TCP connections.
    pub tcp_established: bool,
    /// `--tcp-close` (crun's): restore them closed.
    pub tcp_close: bool,
    /// `--ext-unix-sk`: Unix sockets whose other end is outside.
    pub ext_unix_sk: bool,
    /// `--shell-job`: the session and the terminal are the caller's.
    pub shell_job: bool,
    /// `--file-locks`.
    pub file_locks: bool,
    /// `--auto-dedup`: drop pages from the images once they are in memory.
    pub auto_dedup: bool,
    /// `--lazy-pages`: memory comes from a `criu lazy-pages` daemon, as it is used.
    pub lazy_pages: bool,
    /// `--manage-cgroups-mode`.
    pub cgroups: CgroupsMode,
    /// `--lsm-profile`: another security label, `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// `--lsm-mount-context`: another SELinux label for mounts.
    pub lsm_mount_context: Option<String>,
}

pub(super) fn restore(
    runtime: &Runtime,
    create: &CreateOptions,
    options: &RestoreOptions,
) -> Result<Started> {
    needs_root("restored")?;
    let criu = find_criu()?;
    if options.lazy_pages {
        criu.ensure_features(Features { mem_track: false, lazy_pages: true })?;
    }
    let images = Images::open(&options.image_path, options.work_path.as_deref())?;
    let stdio = read_descriptors(&images)?;
    make(runtime, create, |making, console| {
        refuse("restored", &obstacles(making.spec))?;
        let restoring = Restoring { making, options, images: &images, console };
        restoring.run(&criu, &stdio)
    })
}

struct Restoring<'a> {
    making: &'a Making<'a>,
    options: &'a RestoreOptions,
    images: &'a Images,
    /// The console socket, with a terminal.
    console: Option<OwnedFd>,
}

impl Restoring<'_> {
    fn run(self, criu: &Criu, stdio: &[String]) -> Result<Started> {
        let making = self.making;
        let mut state = making.initial_state()?;
        // Before anything else is made: were this process killed now, `delete --force` finds what to remove.
        making.dir.write(&state)?;
        making.cgroup.create()?;
        making.group.as_ref().map_or(Ok(()), Group::make)?;
        let none = LinuxResources::default();
        let resources = making.resources().unwrap_or(&none);
        if making.cgroup.mode() != CgroupMode::V2 && making.has_cgroup() {
            making.cgroup.apply_devices(resources)?;
        }
        let root = making.dir.path().join(CRIU_ROOT);
        std::fs::create_dir(&root).map_err(|e| Error::io("make directory", &root, e))?;
        clear(self.images, &[LOG, STATISTICS])?;
        let (namespaces, fds) = self.joined_namespaces()?;
        let mounts = Mounts::OwnWith(making.plan.rootfs.clone(), root.clone());
        // A restore that nobody takes is to be gone.
        let setup = Setup { stdio: Stdio::Inherit, fds, mounts, dies_with_caller: true };
        let mut swrk = criu.start(&setup)?;
        drop(setup);
        let mut init = None;
        let restored = self.talk(&mut swrk, stdio, &namespaces, &root, &mut state, &mut init);
        let ended = swrk.finish();
        let removed = std::fs::remove_dir(&root).map_err(|e| Error::io("remove", &root, e));
        let restored = restored.and_then(|()| match ended {
            Ok(status) if status.success() => removed,
            Ok(status) => Err(criu::Error::Ended(status.to_string()).into()),
            Err(error) => Err(criu::Error::Talk(error).into()),
        });
        let started = restored.and_then(|()| {
            let (pid, pidfd) = init.take().ok_or(criu::Error::Unexpected)?;
            making.hand_over(pid, pidfd.as_fd()).inspect_err(|_| end(&pidfd))?;
            Ok(Started { pid, pidfd, notify: None })
        });
        started.map_err(|error| {
            if let Some((_, pidfd)) = &init {
                end(pidfd);
            }
            if !making.cgroup.is_absent() {
                // What CRIU had made already, in a container that shares a pid namespace too.
                let _ = making.cgroup.kill(libc::SIGKILL);
            }
            with_log(error, self.images.log(LOG))
        })
    }

    fn talk(
        &self,
        swrk: &mut Swrk,
        stdio: &[String],
        namespaces: &Joined,
        root: &Path,
        state: &mut State,
        init: &mut Option<(i32, OwnedFd)>,
    ) -> Result<()> {
        let making = self.making;
        let criu = swrk.pid();
        self.enter_cgroup(criu)?;
        state.cgroup_paths = making.cgroup.paths();
        let images = self.images.seen_by(swrk.pid())?;
        let request = self.request(swrk.pid(), &images, stdio, namespaces, root)?;
        criu::call(swrk, &Request::with_options(Kind::Restore, request), |notification: Notification| {
            match notification.script.as_str() {
                "setup-namespaces" => {
                    self.bring_up_loopback(notification.pid)?;
                    super::netdevices::take(notification.pid, making.plan)?;
                    making.run_hooks(notification.pid)
                }
                "orphan-pts-master" => self.send_terminal(notification.fd.as_ref()),
                "post-restore" => {
                    let pid = notification.pid;
                    let pidfd = pidfd_open(pid).during("open pidfd of", || pid.to_string())?;
                    *init = Some((pid, pidfd));
                    isolation::namespaces(making.spec, pid)?;
                    self.record(pid, state)
                }
                // Credentials and filters are restored last of all; nothing has run yet.
                "pre-resume" => match &init {
                    Some((pid, pidfd)) => self.check_isolation(criu, *pid).inspect_err(|_| end(pidfd)),
                    None => Err(criu::Error::Unexpected.into()),
                },
                _ => Ok(()),
            }
        })
        .map(drop)
    }

    /// Every restored process is as isolated as the config says: init, and what else is in the cgroup but CRIU and its
    /// helpers.
    fn check_isolation(&self, criu: i32, init: i32) -> Result<()> {
        let making = self.making;
        let mut pids = if making.has_cgroup() { making.cgroup.pids()? } else { vec![init] };
        pids.retain(|pid| *pid == init || !isolation::descends(*pid, criu));
        if !pids.contains(&init) {
            return Err(criu::Error::Unexpected.into());
        }
        pids.into_iter().try_for_each(|pid| isolation::process(making.spec, init, pid))
    }

    /// CRIU goes in first, so that all that it makes is in.
    fn enter_cgroup(&self, pid: i32) -> Result<()> {
        let making = self.making;
        making.cgroup.attach(pid)?;
        let mut groups = making.group.iter().flat_map(Group::dirs);
        groups.try_for_each(|dir| crate::resctrl::add_process(dir, pid))?;
        let none = LinuxResources::default();
        let resources = making.resources().unwrap_or(&none);
        match making.cgroup.mode() {
            _ if !making.has_cgroup() => {}
            CgroupMode::V2 => making.cgroup.apply(resources)?,
            _ => making.cgroup.apply_limits(resources)?,
        }
        Ok(())
    }

    fn request(
        &self,
        pid: i32,
        images: &Images,
        stdio: &[String],
        namespaces: &Joined,
        root: &Path,
    ) -> Result<Options> {
        let (making, options) = (self.making, self.options);
        let views = cgroup_views(making.runtime, &Layout::detect()?, making.cgroup);
        let annotations = making.spec.annotations().as_ref();
        let devices = making.plan.steps.iter().filter_map(|step| match step {
            Step::Device(device) => Some(device.path.clone()),
            _ => None,
        });
        let mounts = RestoreMounts {
            spec: making.spec,
            bundle: making.bundle,
            rootfs: &making.plan.rootfs,
            cgroups: &views,
            devices: devices.collect(),
        };
        let mut inherit_fds = namespaces.inherited.clone();
        for (fd, key) in (0..3).zip(stdio) {
            // The rest is looked up by its name in the container.
            if key.starts_with("pipe:") || key.starts_with("file[") {
                inherit_fds.push((key.clone(), fd));
            }
        }
        Ok(Options {
            images_dir: images.dir.as_raw_fd(),
            work_dir: images.work.as_ref().map(AsRawFd::as_raw_fd),
            log_file: LOG,
            root: root.to_owned(),
            sibling: true,
            evasive_devices: true,
            shell_job: options.shell_job,
            ext_unix_sk: options.ext_unix_sk,
            tcp_established: options.tcp_established,
            tcp_close: options.tcp_close,
            file_locks: options.file_locks,
            auto_dedup: options.auto_dedup,
            lazy_pages: options.lazy_pages,
            cgroups: options.cgroups,
            empty_ns: EMPTY_NAMESPACES,
            ext_mounts: mounts.prepare()?,
            cgroup_roots: cgroup_roots(pid)?,
            inherit_fds,
            join_ns: namespaces.joined.clone(),
            config_file: config_file(annotations.and_then(|all| all.get(CONFIG_ANNOTATION))),
            lsm_profile: options.lsm_profile.clone(),
            lsm_mount_context: options.lsm_mount_context.clone(),
            ..Options::default()
        })
    }

    /// Namespaces that the config gives by their paths: those that were external when dumped, and others.
    fn joined_namespaces(&self) -> Result<(Joined, Vec<OwnedFd>)> {
        let (mut joined, mut fds) = (Joined::default(), Vec::new());
        let all = self.making.spec.linux().as_ref().map(|linux| list(linux.namespaces())).unwrap_or_default();
        for namespace in all {
            let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) else {
                continue;
            };
            let Some((name, word)) = namespace_name(namespace.typ()) else { continue };
            if let Some((_, key)) = external_key(name) {
                let file = File::open(path).map_err(|e| Error::io("open namespace", path, e))?;
                let fd = OwnedFd::from(file);
                joined.inherited.push((key.to_owned(), fd.as_raw_fd()));
                fds.push(fd);
            } else if matches!(namespace.typ(), LinuxNamespaceType::Cgroup | LinuxNamespaceType::Time) {
                let why = format!("CRIU can't join a {word} namespace ({})", path.display());
                return Err(Error::Refused { action: "restored", why });
            } else {
                joined.joined.push((word, path.clone()));
            }
        }
        Ok((joined, fds))
    }

    /// A new network namespace is empty, as CRIU leaves it; what TCP connections are restored over has to be up.
    /// (runc leaves `lo` down.)
    fn bring_up_loopback(&self, pid: i32) -> Result<()> {
        if !self.making.plan.steps.iter().any(|step| matches!(step, Step::LoopbackUp | Step::JoinNetwork)) {
            return Ok(());
        }
        let path = format!("/proc/{pid}/ns/net");
        let open = File::open(&path).and_then(|target| crate::net::loopback_up(target.as_fd()));
        Ok(open.during("bring up", || "lo")?)
    }

    /// Writes the state, now that there is an init.
    fn record(&self, pid: i32, state: &mut State) -> Result<()> {
        state.set_init(pid)?;
        state.restored = true;
        // CRIU restores into a time namespace, so that the monotonic clock goes on where it was (runc notes it too).
        if namespace(self.making.spec, LinuxNamespaceType::Time).is_none()
            && Path::new("/proc/self/ns/time").exists()
        {
            let time = Namespace { kind: "NEWTIME".to_owned(), path: String::new() };
            state.config.namespaces.get_or_insert_default().push(time);
        }
        self.making.delegate(state)?;
        self.making.dir.write(state)
    }

    fn send_terminal(&self, master: Option<&OwnedFd>) -> Result<()> {
        let refused = |why: &str| Err(Error::Refused { action: "restored", why: why.to_owned() });
        match (master, &self.console) {
            (Some(master), Some(socket)) => send_terminal(socket.as_fd(), master.as_fd()),
            (None, _) => refused("CRIU sent no terminal"),
            (_, None) => {
                refused("its images have a terminal, and config.json asks for none (process.terminal)")
            }
        }
    }
}

/// What [`Restoring::joined_namespaces`] finds.
#[derive(Debug, Default)]
struct Joined {
    /// Keys, and descriptors of CRIU.
    inherited: Vec<(String, i32)>,
    /// Kinds and paths.
    joined: Vec<(&'static str, PathBuf)>,
}

/// The cgroups that CRIU is in: what the images say is relative to them.
fn cgroup_roots(pid: i32) -> Result<Vec<(String, String)>> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let mut roots = Vec::new();
    for line in text.lines() {
        // `4:cpu,cpuacct:/path`; v2 has no controllers.
        let mut fields = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(place)) = (fields.next(), fields.next()) {
            // As runc: each by itself.
            roots.extend(controllers.split(',').map(|one| (one.to_owned(), place.to_owned())));
        }
    }
    Ok(roots)
}

/// Sends the master of a terminal over the console socket, with a name as runc does.
fn send_terminal(socket: BorrowedFd<'_>, master: BorrowedFd<'_>) -> Result<()> {
    let fds = [master.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let parts = [IoSlice::new(b"orphan-pts-master")];
    sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None)
        .during("send terminal to console socket", String::new)?;
    Ok(())
}

fn end(pidfd: &OwnedFd) {
    let _ = pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
}
