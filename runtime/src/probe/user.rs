//! The caller, helper programs, and places on the host.

use std::path::{Path, PathBuf};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::geteuid;

use super::{Finding, Verdict, read};
use crate::container::{find_helper, id_ranges};
use crate::criu::{Criu, Features};

pub(super) fn findings() -> Vec<Finding> {
    let mut all = vec![caller()];
    if !geteuid().is_root() {
        all.push(id_maps());
    }
    all.extend([state(), keys(), criu(), resctrl()]);
    all
}

fn caller() -> Finding {
    match geteuid().is_root() {
        true => Finding::new("user", Verdict::Ok, "root", "containers of every kind can be made"),
        false => Finding::new(
            "user",
            Verdict::Limited,
            format!("uid {}", geteuid()),
            "containers get a user namespace, in which this user is root",
        ),
    }
}

/// subuid(5) ranges and the programs that map them.
fn id_maps() -> Finding {
    let name = "id ranges";
    let lacking: Vec<_> =
        ["newuidmap", "newgidmap"].into_iter().filter(|p| find_helper(p).is_none()).collect();
    let count = |file| id_ranges(file).iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
    let (uids, gids) = (count("/etc/subuid"), count("/etc/subgid"));
    let only_own = "only the user's own uid and gid can be mapped";
    if !lacking.is_empty() {
        return Finding::new(name, Verdict::Limited, format!("no {}", lacking.join(", ")), only_own);
    }
    match uids.min(gids) {
        0 => Finding::new(name, Verdict::Limited, "none in /etc/subuid and /etc/subgid", only_own),
        _ => Finding::new(
            name,
            Verdict::Ok,
            format!("{uids} uids, {gids} gids"),
            "containers can have more than one user",
        ),
    }
}

/// Where state is kept: the directory or, before the first container, the one above it.
fn state() -> Finding {
    let name = "state directory";
    let dir = match std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !geteuid().is_root()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from("/run"),
    };
    let shown = dir.display().to_string();
    let Ok(found) = statvfs(&dir) else {
        return Finding::new(name, Verdict::Missing, shown, "it is not there: name another by --root");
    };
    let free = found.blocks_available().saturating_mul(found.fragment_size()) >> 20;
    let tmpfs = statfs(&dir).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC);
    if nix::unistd::access(&dir, nix::unistd::AccessFlags::W_OK).is_err() {
        let text = "it is not writable: name another by --root, or set XDG_RUNTIME_DIR";
        return Finding::new(name, Verdict::Limited, shown, text);
    }
    let noexec = if found.flags().contains(FsFlags::ST_NOEXEC) { ", noexec" } else { "" };
    let shown = format!("{shown}, {free} MiB free{noexec}");
    match (free, tmpfs) {
        (0, _) => Finding::new(name, Verdict::Limited, shown, "it is full: no container can be made"),
        (_, false) => Finding::new(
            name,
            Verdict::Limited,
            shown,
            "it is no tmpfs: state of containers outlives a reboot",
        ),
        _ => Finding::new(name, Verdict::Ok, shown, "state needs a few KiB per container, and no execution"),
    }
}

/// Each container holds one key; the kernel counts them per user.
fn keys() -> Finding {
    let name = "keys";
    let uid = geteuid();
    let users = read("/proc/key-users").unwrap_or_default();
    let line = users.lines().find(|line| line.trim_start().starts_with(&format!("{uid}:")));
    // `uid: usage nkeys/nikeys qnkeys/maxkeys qnbytes/maxbytes`
    let quota = line.and_then(|line| line.split_whitespace().nth(3)).unwrap_or_default();
    let numbers = quota
        .split_once('/')
        .and_then(|(used, most)| Some((used.parse::<u64>().ok()?, most.parse::<u64>().ok()?)));
    match numbers {
        None => Finding::new(name, Verdict::Ok, "no quota seen", "each container holds one session keyring"),
        Some((used, most)) if most.saturating_sub(used) < 10 => Finding::new(
            name,
            Verdict::Limited,
            format!("{used} of {most}"),
            "session keyrings are about to fail: raise kernel.keys.maxkeys, or use --no-new-keyring",
        ),
        Some((used, most)) => Finding::new(
            name,
            Verdict::Ok,
            format!("{used} of {most}"),
            "each container holds one session keyring",
        ),
    }
}

fn criu() -> Finding {
    let name = "criu";
    let Some(path) = find_helper(name) else {
        return Finding::there(name, false, "", "no checkpoint and restore");
    };
    let shown = path.display().to_string();
    if !geteuid().is_root() {
        return Finding::new(name, Verdict::Limited, shown, "checkpoint and restore need root");
    }
    let criu = Criu::at(path);
    match criu.version().and_then(|version| criu.ensure_usable().map(|()| version)) {
        Ok((major, minor, sublevel)) => {
            let features = Features { mem_track: true, lazy_pages: false };
            let without = match criu.ensure_features(features) {
                Ok(()) => "",
                Err(_) => "; without --pre-dump: the kernel does not track written pages",
            };
            let found = format!("{shown} {major}.{minor}.{sublevel}");
            Finding::new(name, Verdict::Ok, found, format!("there for checkpoint and restore{without}"))
        }
        Err(error) => {
            Finding::new(name, Verdict::Limited, shown, format!("no checkpoint and restore: {error}"))
        }
    }
}

fn resctrl() -> Finding {
    let name = "resctrl";
    let known =
        read("/proc/filesystems").is_some_and(|text| text.lines().any(|line| line.ends_with("\tresctrl")));
    let mounted = Path::new("/sys/fs/resctrl/schemata").exists();
    match (known, mounted) {
        (_, true) => Finding::there(name, true, "linux.intelRdt works", ""),
        (true, false) => {
            Finding::new(name, Verdict::Limited, "not mounted", "linux.intelRdt needs it on /sys/fs/resctrl")
        }
        (false, false) => Finding::there(name, false, "", "linux.intelRdt is refused"),
    }
}
