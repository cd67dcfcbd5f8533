//! prctl(2) and credentials calls that nix lacks.

use std::ffi::CStr;
use std::io;

use super::check;

fn prctl(option: libc::c_int, a: libc::c_ulong, b: libc::c_ulong) -> io::Result<libc::c_long> {
    // SAFETY: every option passed by this module takes integers, or a pointer that outlives the call.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, a, b, 0 as libc::c_ulong, 0 as libc::c_ulong) })
}

/// PR_SET_DUMPABLE: with false the process can't be traced, nor its `/proc/<pid>` opened, by peers.
///
/// # Errors
/// None in practice.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable), 0).map(drop)
}

/// PR_SET_NAME: the thread's comm, cut to 15 bytes by the kernel.
///
/// # Errors
/// None in practice.
pub fn set_name(name: &CStr) -> io::Result<()> {
    prctl(libc::PR_SET_NAME, name.as_ptr() as libc::c_ulong, 0).map(drop)
}

/// PR_SET_NO_NEW_PRIVS (kernel 3.5).
///
/// # Errors
/// None in practice.
pub fn set_no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// PR_SET_PDEATHSIG: the signal that this process gets when its parent thread ends; 0 for none.
///
/// # Errors
/// EINVAL for a bad signal.
pub fn set_pdeathsig(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, 0).map(drop)
}

/// Ends this process with SIGKILL when the thread that forked it ends. `parent` is the number of that thread's process,
/// which is asked for before the fork, and in the same pid namespace.
///
/// # Errors
/// ESRCH when the parent had ended before: it would never be told then.
pub fn die_with(parent: i32) -> io::Result<()> {
    set_pdeathsig(libc::SIGKILL)?;
    // SAFETY: takes nothing and can't fail.
    let now = unsafe { libc::getppid() };
    if now == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

/// PR_SET_CHILD_SUBREAPER (kernel 3.4).
///
/// # Errors
/// None in practice.
pub fn set_child_subreaper(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, libc::c_ulong::from(on), 0).map(drop)
}

/// PR_SET_KEEPCAPS: keep permitted capabilities across the next setuid.
///
/// # Errors
/// EPERM when locked by securebits.
pub fn set_keepcaps(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(on), 0).map(drop)
}

/// PR_SET_THP_DISABLE (kernel 3.15): no transparent huge pages, inherited through exec.
///
/// # Errors
/// None in practice.
pub fn set_thp_disable(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(on), 0).map(drop)
}

/// PR_CAPBSET_DROP: drops capability number `cap` from the bounding set.
///
/// # Errors
/// EINVAL past the kernel's last capability, EPERM without CAP_SETPCAP.
pub fn bounding_drop(cap: u32) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(cap), 0).map(drop)
}

/// PR_CAPBSET_READ: whether capability number `cap` is in the bounding set.
///
/// # Errors
/// EINVAL past the kernel's last capability.
pub fn bounding_has(cap: u32) -> io::Result<bool> {
    prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(cap), 0).map(|v| v == 1)
}

/// PR_CAP_AMBIENT_RAISE (kernel 4.3).
///
/// # Errors
/// EPERM unless the capability is permitted and inheritable.
pub fn ambient_raise(cap: u32) -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, libc::c_ulong::from(cap))
        .map(drop)
}

/// PR_CAP_AMBIENT_CLEAR_ALL (kernel 4.3).
///
/// # Errors
/// None in practice.
pub fn ambient_clear() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0).map(drop)
}

/// Three capability masks, bit n for capability number n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapSets {
    /// Effective set.
    pub effective: u64,
    /// Permitted set.
    pub permitted: u64,
    /// Inheritable set.
    pub inheritable: u64,
}

const CAP_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

/// capset(2) on the calling thread: all three sets in one call.
///
/// # Errors
/// EPERM for a set that the rules of capabilities(7) forbid.
pub fn capset(sets: CapSets) -> io::Result<()> {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let half = |shift: u32| {
        [
            (sets.effective >> shift) as u32,
            (sets.permitted >> shift) as u32,
            (sets.inheritable >> shift) as u32,
        ]
    };
    let data: [[u32; 3]; 2] = [half(0), half(32)];
    // SAFETY: header and data have the layout of version 3 and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// capget(2) on the calling thread.
///
/// # Errors
/// None in practice.
pub fn capget() -> io::Result<CapSets> {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [[0u32; 3]; 2];
    // SAFETY: header and data have the layout of version 3; the kernel fills data.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    let [low, high] = data;
    let join = |lo: u32, hi: u32| u64::from(lo) | (u64::from(hi) << 32);
    let ([e0, p0, i0], [e1, p1, i1]) = (low, high);
    Ok(CapSets { effective: join(e0, e1), permitted: join(p0, p1), inheritable: join(i0, i1) })
}

/// keyctl(KEYCTL_JOIN_SESSION_KEYRING): a new session keyring of this name; returns its serial.
///
/// # Errors
/// ENOSYS without CONFIG_KEYS, EDQUOT, EPERM under a seccomp filter.
pub fn join_session_keyring(name: &CStr) -> io::Result<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: name is a C string that outlives the call.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })
        .map(|v| v as i32)
}

/// keyctl(KEYCTL_DESCRIBE): `type;uid;gid;perm;description` of a key, at most 511 bytes.
///
/// # Errors
/// ENOKEY, EACCES.
pub fn keyctl_describe(serial: i32) -> io::Result<String> {
    const KEYCTL_DESCRIBE: libc::c_int = 6;
    let mut buf = [0u8; 512];
    // SAFETY: the kernel writes at most buf.len() bytes.
    let n = check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_DESCRIBE, serial, buf.as_mut_ptr(), buf.len())
    })?;
    let end = usize::try_from(n).unwrap_or(0).min(buf.len()).saturating_sub(1);
    Ok(String::from_utf8_lossy(buf.get(..end).unwrap_or_default()).into_owned())
}

/// keyctl(KEYCTL_SETPERM): permissions of a key.
///
/// # Errors
/// EACCES.
pub fn keyctl_setperm(serial: i32, perm: u32) -> io::Result<()> {
    const KEYCTL_SETPERM: libc::c_int = 5;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, serial, perm) }).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, id};

    /// As if the parent had ended between the fork and the call, and the child had another one now.
    #[test]
    fn a_parent_that_is_gone_already_is_noticed() {
        let run_below = |parent: i32| {
            let mut command = Command::new("true");
            // SAFETY: in the forked child: two system calls, no allocation, no lock.
            unsafe { command.pre_exec(move || super::die_with(parent)) };
            command.status().map(|status| status.success()).map_err(|error| error.raw_os_error())
        };
        assert_eq!(run_below(id() as i32), Ok(true));
        assert_eq!(run_below(-1), Err(Some(libc::ESRCH)));
    }
}
