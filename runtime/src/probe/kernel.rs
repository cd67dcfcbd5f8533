//! The kernel: its version, calls and namespaces.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use super::{Finding, Verdict, read};
use crate::sys::probe::{Call, exists};
use crate::sys::process::{
    CLONE_INTO_CGROUP, Fork, WaitFor, WaitMode, clone3, exit_now, fork, unshare, wait,
};

pub(super) fn findings() -> Vec<Finding> {
    let mut all = vec![version()];
    all.extend(calls());
    all.push(into_cgroup());
    all.extend(namespaces());
    all.push(proc_is_visible());
    all
}

/// Major and minor number.
fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn version() -> Finding {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (verdict, consequence) = match parse_version(&release) {
        Some(version) if version >= (5, 14) => (Verdict::Ok, "has everything that davit uses by default"),
        Some(version) if version >= (5, 12) => (
            Verdict::Limited,
            "older than 5.14: containers are killed by freezing them and signalling each process",
        ),
        Some(version) if version >= (5, 4) => (
            Verdict::Limited,
            "older than 5.12: no id-mapped mounts and recursive mount options; mounts are changed once they are \
             attached",
        ),
        _ => (Verdict::Missing, "older than 5.4: davit needs pidfds and the new mount calls"),
    };
    Finding::new("kernel", verdict, release, consequence)
}

fn calls() -> Vec<Finding> {
    let call = |name, call, with: &str, without: &str| Finding::there(name, exists(call), with, without);
    vec![
        call("clone3", Call::Clone3, "containers are made by one call", "no container can be made").needed(),
        call(
            "pidfd",
            Call::PidfdOpen,
            "processes are named without a race",
            "containers can't be waited for and signalled",
        )
        .needed(),
        call(
            "openat2",
            Call::Openat2,
            "paths of a container never lead out of its root, by one call",
            "paths of a container are walked component by component",
        ),
        call("new mount calls", Call::Fsopen, "mounts are made by descriptor", "no mount can be made")
            .needed(),
        call("open_tree", Call::OpenTree, "bind mounts are made by descriptor", "no bind mount can be made")
            .needed(),
        call(
            "mount_setattr",
            Call::MountSetattr,
            "recursive read-only and id-mapped mounts work where the filesystem allows them",
            "mounts can't be id-mapped, nor changed with all below them",
        ),
        call(
            "close_range",
            Call::CloseRange,
            "no descriptor of the runtime reaches a container, by one call",
            "descriptors are closed one by one",
        ),
        call(
            "pidfd_getfd",
            Call::PidfdGetfd,
            "descriptors of a container can be taken over",
            "LISTEN_FDS may fail",
        ),
        call("keyrings", Call::Keyctl, "each container gets a session keyring", "use --no-new-keyring"),
        call(
            "NUMA policies",
            Call::SetMempolicy,
            "linux.memoryPolicy works",
            "linux.memoryPolicy is refused",
        ),
        memfd(),
    ]
}

fn memfd() -> Finding {
    let name = "memfd";
    if !exists(Call::MemfdCreate) {
        return Finding::there(name, false, "", "the runtime's binary is protected by a mount only");
    }
    match read("/proc/sys/vm/memfd_noexec").as_deref() {
        Some("2") => Finding::new(
            name,
            Verdict::Limited,
            "vm.memfd_noexec=2",
            "executable memfds are refused: the runtime's binary is protected by a mount only",
        ),
        _ => Finding::there(
            name,
            true,
            "a sealed copy can protect the runtime's binary where mounts can't",
            "",
        ),
    }
}

/// With a descriptor that is no cgroup the kernel makes nothing: EBADF when it knows the flag.
fn into_cgroup() -> Finding {
    let known =
        File::open("/dev/null").is_ok_and(|file| match clone3(CLONE_INTO_CGROUP, Some(file.as_fd())) {
            Ok(Fork::Child) => exit_now(0),
            Ok(Fork::Parent { .. }) => false,
            Err(error) => error.raw_os_error() == Some(libc::EBADF),
        });
    Finding::there(
        "CLONE_INTO_CGROUP",
        known,
        "containers start inside their cgroup (v2)",
        "containers are moved into their cgroup after the start",
    )
}

fn namespaces() -> Vec<Finding> {
    let file = |name: &str| Path::new("/proc/self/ns").join(name).exists();
    let missing: Vec<_> =
        ["cgroup", "ipc", "mnt", "net", "pid", "uts"].into_iter().filter(|name| !file(name)).collect();
    let basic = match missing.is_empty() {
        true => {
            Finding::there("namespaces", true, "mount, pid, network, ipc, uts and cgroup namespaces work", "")
        }
        false => Finding::new(
            "namespaces",
            Verdict::Limited,
            format!("not {}", missing.join(", ")),
            "configs that ask for these fail",
        ),
    };
    vec![
        basic,
        Finding::there(
            "time namespaces",
            file("time"),
            "linux.timeOffsets works",
            "linux.timeOffsets is refused",
        ),
        user_namespaces(),
    ]
}

/// Tried in a child, as the kernel has several switches for it.
fn user_namespaces() -> Finding {
    let name = "user namespaces";
    let refused =
        match try_in_child(|| unshare(libc::CLONE_NEWUSER as u64).err().and_then(|e| e.raw_os_error())) {
            Some(errno) => errno,
            None => {
                return Finding::there(
                    name,
                    true,
                    "containers with uid and gid mappings work, rootless ones too",
                    "",
                );
            }
        };
    let switches = [
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ];
    let off = switches.iter().filter(|(path, value)| read(path).as_deref() == Some(*value));
    let words: Vec<_> = off.map(|(path, value)| format!("{path} is {value}")).collect();
    let reason = nix::errno::Errno::from_raw(refused).desc();
    let found = if words.is_empty() { reason.to_owned() } else { format!("{reason}: {}", words.join(", ")) };
    let finding =
        Finding::new(name, Verdict::Missing, found, "no uid and gid mappings, no rootless containers");
    // Without root nothing else gives the right to make the other namespaces.
    if nix::unistd::geteuid().is_root() { finding } else { finding.needed() }
}

/// What a child says by its exit code: 0 for `None`.
fn try_in_child(probe: impl FnOnce() -> Option<i32>) -> Option<i32> {
    match fork() {
        Ok(Fork::Child) => exit_now(probe().unwrap_or(0)),
        Ok(Fork::Parent { pidfd, .. }) => match wait(WaitFor::Pidfd(pidfd.as_fd()), WaitMode::Block) {
            Ok(Some((_, exit))) => Some(exit.shell_code()).filter(|code| *code != 0),
            _ => Some(libc::ECHILD),
        },
        Err(error) => Some(error.raw_os_error().unwrap_or(libc::EAGAIN)),
    }
}

/// A new procfs in a user namespace is refused where mounts hide parts of the one that is there.
fn proc_is_visible() -> Finding {
    let table = read("/proc/self/mountinfo");
    let Some(table) = table else {
        return Finding::new("/proc", Verdict::Missing, "not mounted", "no container can be made").needed();
    };
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let hidden: Vec<_> =
        points.filter(|point| point.starts_with("/proc/") && *point != "/proc/sys/fs/binfmt_misc").collect();
    match hidden.first() {
        None => Finding::there("/proc", true, "nothing hides parts of it", ""),
        Some(first) => Finding::new(
            "/proc",
            Verdict::Limited,
            format!("{} mounts below it, {first} first", hidden.len()),
            "rootless containers can't mount a new one (this is a container itself?)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("6.18.5-cloud"), Some((6, 18)));
        assert_eq!(parse_version("5.4"), Some((5, 4)));
        assert_eq!(parse_version("x"), None);
    }

    #[test]
    fn a_child_tells_what_it_found() {
        assert_eq!(try_in_child(|| None), None);
        assert_eq!(try_in_child(|| Some(libc::EPERM)), Some(libc::EPERM));
    }
}
