//! The id maps of a new user namespace (user_namespaces(7)): written directly where the kernel lets us, else
//! by the setuid helpers newuidmap(1) and newgidmap(1), which know the ranges of /etc/subuid and /etc/subgid.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::{Uid, fchown, getegid, geteuid};
use oci_spec::runtime::{LinuxIdMapping, Process, Spec};
use serde::{Deserialize, Serialize};

use crate::init::{Context, Failure};
use crate::plan::IdMaps;
use crate::spec::{self, list};

/// A range of a user namespace's map as state.json has it, in runc's words.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct IdRange {
    /// First id in the container.
    pub container_id: u32,
    /// First id outside.
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

impl IdRange {
    /// A map in runc's words; none for an empty one.
    pub fn list(map: &[LinuxIdMapping]) -> Option<Vec<IdRange>> {
        let range = |r: &LinuxIdMapping| IdRange {
            container_id: r.container_id(),
            host_id: r.host_id(),
            size: r.size(),
        };
        (!map.is_empty()).then(|| map.iter().map(range).collect())
    }

    /// The map that [`IdRange::list`] was given.
    pub fn map(ranges: Option<&Vec<IdRange>>) -> Vec<LinuxIdMapping> {
        let range = |r: &IdRange| spec::id_range(r.container_id, r.host_id, r.size);
        ranges.into_iter().flatten().map(range).collect()
    }
}

/// Whether this process can't act on other processes' /proc files unless they are dumpable: proc_pid(5) gives
/// those of an undumpable process to root.
pub(super) fn is_ordinary_user() -> bool {
    static ORDINARY: OnceLock<bool> = OnceLock::new();
    // Asked for several times by each command.
    *ORDINARY.get_or_init(|| !geteuid().is_root())
}

/// Writes both maps of a process that was just made in a new user namespace. When the caller is an ordinary
/// user, the process must be dumpable.
///
/// # Errors
/// EINVAL for maps that overlap or are too many, EPERM for ids that the caller may not give away, or a helper's
/// own words.
pub(super) fn write(pid: i32, maps: &IdMaps) -> Result<(), Failure> {
    // runc's rule: groups can be changed in the container unless its one group is the caller's own, which is what
    // an ordinary user may map without a helper, at this price.
    if is_ordinary_user() && is_own_group(&maps.gids) {
        let path = format!("/proc/{pid}/setgroups");
        std::fs::write(&path, "deny").during("write", || format!("\"deny\" to {path}"))?;
    }
    Map { pid, file: "gid_map", helper: "newgidmap", ranges: "/etc/subgid", ids: &maps.gids }.write()?;
    Map { pid, file: "uid_map", helper: "newuidmap", ranges: "/etc/subuid", ids: &maps.uids }.write()
}

/// Whether this is the one map of groups that an ordinary user can write without newgidmap(1).
pub(super) fn is_own_group(gids: &[LinuxIdMapping]) -> bool {
    matches!(gids, [one] if one.size() == 1 && one.host_id() == getegid().as_raw())
}

/// user_namespaces(7): a write of a map must be shorter than a page, the smallest of which is this.
const PAGE: usize = 4096;
/// Longest map that an error shows.
const SHOWN_LINES: usize = 5;

/// One of the two maps.
struct Map<'a> {
    pid: i32,
    file: &'static str,
    helper: &'static str,
    /// Where an administrator gives ranges to users.
    ranges: &'static str,
    ids: &'a [LinuxIdMapping],
}

impl Map<'_> {
    fn write(&self) -> Result<(), Failure> {
        let text = text(self.ids);
        let path = format!("/proc/{}/{}", self.pid, self.file);
        // A long map would hide the rest of the sentence.
        let shown = match text.lines().count() {
            ..=SHOWN_LINES => format!("{:?}", text.trim_end()),
            count => format!("{count} lines of {} bytes", text.len()),
        };
        let failed = |error: &io::Error| Failure::new("write", format!("{shown} to {path}"), error);
        match std::fs::write(&path, &text) {
            Ok(()) => Ok(()),
            // An ordinary user may map but one id, its own.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) && is_ordinary_user() => self.by_helper(),
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => Err(failed(&e).with_detail(format!(
                "some of these host ids are not davit's to give: see /proc/self/{}",
                self.file
            ))),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && text.len() >= PAGE => {
                Err(failed(&e).with_detail("the kernel takes less than a page"))
            }
            Err(e) => Err(failed(&e)),
        }
    }

    /// `newuidmap PID ID HOST-ID SIZE…`, with nothing of the caller's environment.
    fn by_helper(&self) -> Result<(), Failure> {
        let Some(program) = find_helper(self.helper) else {
            return Err(Failure::other(
                "write",
                format!("{} of the container", self.file),
                format!(
                    "more than the caller's own id is mapped, which needs the program {}, and it is not in $PATH \
                     (install the package uidmap, shadow-utils or shadow)",
                    self.helper
                ),
            ));
        };
        log::debug!("{} for process {}: {}", program.display(), self.pid, text(self.ids).trim_end());
        let mut command = Command::new(&program);
        command.arg(self.pid.to_string());
        for id in self.ids {
            command.args([id.container_id(), id.host_id(), id.size()].map(|number| number.to_string()));
        }
        command.env_clear().current_dir("/").stdin(Stdio::null());
        let output = command.output().during("start", || program.display().to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(Failure::other(
            "write",
            format!("{:?} to {} with {}", text(self.ids).trim_end(), self.file, program.display()),
            format!("{}: {said} (uid {} needs these ids in {})", output.status, geteuid(), self.ranges),
        ))
    }
}

/// newuidmap(1) or newgidmap(1), from $PATH.
pub(crate) fn find_helper(name: &str) -> Option<PathBuf> {
    find(name, std::env::var_os("PATH").as_deref())
}

/// The first executable of this name in the absolute directories of a search path. Relative ones are left out,
/// so that the bundle or the current directory never provides it.
fn find(name: &str, search: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    /// Where distributions put it, for callers without a PATH.
    const DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";
    let search = search.filter(|path| !path.is_empty()).unwrap_or(DEFAULT.as_ref());
    let executable = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(search)
        .filter(|dir| dir.is_absolute())
        .map(|dir: PathBuf| dir.join(Path::new(name)))
        .find(executable)
}

/// The maps of a process's user namespace, as this process's own sees them; `None` when it has ended.
pub(super) fn read(pid: i32) -> Option<IdMaps> {
    let map = |file: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        Some(parse(&text)).filter(|map| !map.is_empty())
    };
    Some(IdMaps { uids: map("uid_map")?, gids: map("gid_map")? })
}

pub(super) fn parse(text: &str) -> Vec<LinuxIdMapping> {
    let range = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse);
        Some(spec::id_range(numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    text.lines().filter_map(range).collect()
}

/// Compares the maps of a joined user namespace with those of the config, if there are some (containerd and
/// CRI-O give both), and with the process's ids. runc's words.
pub(super) fn check_joined(spec: &Spec, maps: &IdMaps) -> super::Result<()> {
    let given = spec.linux().as_ref().map(|linux| (list(linux.uid_mappings()), list(linux.gid_mappings())));
    if let Some((uids, gids)) = given.filter(|(uids, gids)| !uids.is_empty() || !gids.is_empty()) {
        if !is_same(uids, &maps.uids) || !is_same(gids, &maps.gids) {
            return Err(super::Error::UserNamespaceMaps);
        }
        log::warn!(
            "config.json has both a userns path to join and a matching userns mapping specified -- you may only \
             provide one"
        );
    }
    match spec.process() {
        Some(process) => Ok(spec::check_mapped(process, &maps.uids, &maps.gids)?),
        None => Ok(()),
    }
}

/// Gives the pipes among the standard descriptors to the program's user: in its user namespace init can't, when
/// they are root's, and a program that opens /dev/stdout anew needs it. Files and terminals have other users too
/// and keep their owner.
pub(super) fn give_pipes(process: &Process, uids: &[LinuxIdMapping]) {
    /// PIPEFS_MAGIC of `linux/magic.h`: pipes without a name.
    const PIPEFS_MAGIC: FsType = FsType(0x5049_5045);
    let Some(owner) = spec::host_id(uids, process.user().uid()) else { return };
    if process.terminal() == Some(true) {
        return;
    }
    for number in 0..=2 {
        let fd = crate::sys::fs::borrow(number);
        if fstatfs(fd).is_ok_and(|fs| fs.filesystem_type() == PIPEFS_MAGIC) {
            if let Err(e) = fchown(fd, Some(Uid::from_raw(owner)), None) {
                // EPERM: an ordinary user gives nothing away.
                log::debug!("descriptor {number} keeps its owner: {e}");
            }
        }
    }
}

/// The order of ranges means nothing.
fn is_same(one: &[LinuxIdMapping], other: &[LinuxIdMapping]) -> bool {
    one.len() == other.len() && one.iter().all(|range| other.contains(range))
}

/// As the kernel wants it: a line for each range.
fn text(ids: &[LinuxIdMapping]) -> String {
    use std::fmt::Write;
    ids.iter().fold(String::new(), |mut text, map| {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{} {} {}", map.container_id(), map.host_id(), map.size());
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_one_line_for_each_range() {
        let map: Vec<LinuxIdMapping> = serde_json::from_str(
            r#"[{"containerID":0,"hostID":1000,"size":1},{"containerID":1,"hostID":100000,"size":65536}]"#,
        )
        .unwrap();
        assert_eq!(text(&map), "0 1000 1\n1 100000 65536\n");
    }

    #[test]
    fn helpers_are_found_in_absolute_directories_only() {
        let dir = tempfile::tempdir().unwrap();
        let helper = dir.path().join("newuidmap");
        std::fs::write(&helper, "").unwrap();
        let search = dir.path().as_os_str();
        assert_eq!(find("newuidmap", Some(search)), None, "not executable");
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("newuidmap", Some(search)), Some(helper));
        let up = "../".repeat(64);
        let relative = format!("{up}{}", dir.path().display());
        assert!(Path::new(&relative).join("newuidmap").exists());
        assert_eq!(find("newuidmap", Some(relative.as_ref())), None);
    }
}
