//! Capabilities: five masks, the bounding set's drops, one capset, ambient raises.
//!
//! The order around them is runc's: bounding set first (it takes CAP_SETPCAP), PR_SET_KEEPCAPS, groups and
//! user, then [`apply`].

use std::io;

use caps::Capability as Cap;
use nix::errno::Errno;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::sys::prctl::{self, CapSets};

/// The highest number that fits the kernel's sets.
const MAX_CAP: u32 = 63;

/// The five capability sets as masks: bit n is capability number n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// What execve may give at most.
    pub bounding: u64,
    /// What counts in permission checks.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What files' inheritable sets give at execve.
    pub inheritable: u64,
    /// What stays at execve of a program without capabilities of its own (kernel 4.3).
    pub ambient: u64,
}

impl Sets {
    /// The sets of a config; an absent set is empty.
    #[must_use]
    pub fn from_spec(caps: &LinuxCapabilities) -> Sets {
        let mask = |set: &Option<Capabilities>| {
            set.iter().flatten().fold(0, |mask, cap| mask | known(*cap).bitmask())
        };
        Sets {
            bounding: mask(caps.bounding()),
            effective: mask(caps.effective()),
            permitted: mask(caps.permitted()),
            inheritable: mask(caps.inheritable()),
            ambient: mask(caps.ambient()),
        }
    }
}

/// The kernel's last capability, by asking for bits until it knows no more (no `/proc` is needed).
#[must_use]
pub fn last_cap() -> u32 {
    let (mut known, mut unknown) = (0, MAX_CAP.saturating_add(1));
    while unknown.saturating_sub(known) > 1 {
        let middle = known.midpoint(unknown);
        if prctl::bounding_has(middle).is_ok() { known = middle } else { unknown = middle }
    }
    known
}

/// All that have a name, in the kernel's order.
#[must_use]
pub fn named() -> Vec<Cap> {
    let all = caps::all();
    (0..=MAX_CAP as u8).filter_map(|index| all.iter().find(|cap| cap.index() == index).copied()).collect()
}

/// CAP_CHECKPOINT_RESTORE (kernel 5.9), the last one today: older kernels may say EINVAL below.
const KNOWN_CAP: u32 = 40;

/// Drops everything that is not in `sets.bounding` from the bounding set, capabilities that this program
/// has no name for included: the loop ends where the kernel knows no more (EINVAL).
///
/// Dropping an absent capability costs the same call as asking for it, and is no error.
///
/// # Errors
/// EPERM where something would have to be dropped and CAP_SETPCAP is missing.
pub fn drop_bounding(sets: &Sets) -> io::Result<()> {
    for cap in (0..=MAX_CAP).filter(|cap| sets.bounding & (1 << cap) == 0) {
        match prctl::bounding_drop(cap) {
            Ok(()) => {}
            Err(error) if cap > KNOWN_CAP && error.raw_os_error() == Some(libc::EINVAL) => break,
            // Only the kernel's word that there is no such capability ends the loop: one that stayed would be the
            // container's.
            Err(error) => match prctl::bounding_has(cap) {
                Ok(false) => {}
                // Past the last one: without CAP_SETPCAP that is not what the drop complains of.
                Err(unknown) if unknown.raw_os_error() == Some(libc::EINVAL) => break,
                Ok(true) | Err(_) => return Err(error),
            },
        }
    }
    Ok(())
}

/// Sets effective, permitted and inheritable set at once, then the ambient set, after the user is set.
///
/// A capability that can't be made ambient is left out with a warning: it is not both permitted and
/// inheritable, and runc always let such configs pass.
///
/// # Errors
/// EPERM for a set that the kernel refuses (capabilities(7)).
pub fn apply(sets: &Sets) -> io::Result<()> {
    prctl::capset(CapSets {
        effective: sets.effective,
        permitted: sets.permitted,
        inheritable: sets.inheritable,
    })?;
    prctl::ambient_clear()?;
    for cap in (0..=MAX_CAP).filter(|cap| sets.ambient & (1 << cap) != 0) {
        if let Err(error) = prctl::ambient_raise(cap) {
            log::warn!(
                "can't raise ambient capability {}: {}",
                name(cap),
                Errno::from_raw(error.raw_os_error().unwrap_or(0)).desc()
            );
        }
    }
    Ok(())
}

/// The name of a capability number, or the number.
fn name(cap: u32) -> String {
    let known = caps::all().into_iter().find(|known| u32::from(known.index()) == cap);
    known.map_or_else(|| cap.to_string(), |known| known.to_string())
}

/// The spec's capability as the kernel numbers it.
fn known(cap: Capability) -> Cap {
    match cap {
        Capability::AuditControl => Cap::CAP_AUDIT_CONTROL,
        Capability::AuditRead => Cap::CAP_AUDIT_READ,
        Capability::AuditWrite => Cap::CAP_AUDIT_WRITE,
        Capability::BlockSuspend => Cap::CAP_BLOCK_SUSPEND,
        Capability::Bpf => Cap::CAP_BPF,
        Capability::CheckpointRestore => Cap::CAP_CHECKPOINT_RESTORE,
        Capability::Chown => Cap::CAP_CHOWN,
        Capability::DacOverride => Cap::CAP_DAC_OVERRIDE,
        Capability::DacReadSearch => Cap::CAP_DAC_READ_SEARCH,
        Capability::Fowner => Cap::CAP_FOWNER,
        Capability::Fsetid => Cap::CAP_FSETID,
        Capability::IpcLock => Cap::CAP_IPC_LOCK,
        Capability::IpcOwner => Cap::CAP_IPC_OWNER,
        Capability::Kill => Cap::CAP_KILL,
        Capability::Lease => Cap::CAP_LEASE,
        Capability::LinuxImmutable => Cap::CAP_LINUX_IMMUTABLE,
        Capability::MacAdmin => Cap::CAP_MAC_ADMIN,
        Capability::MacOverride => Cap::CAP_MAC_OVERRIDE,
        Capability::Mknod => Cap::CAP_MKNOD,
        Capability::NetAdmin => Cap::CAP_NET_ADMIN,
        Capability::NetBindService => Cap::CAP_NET_BIND_SERVICE,
        Capability::NetBroadcast => Cap::CAP_NET_BROADCAST,
        Capability::NetRaw => Cap::CAP_NET_RAW,
        Capability::Perfmon => Cap::CAP_PERFMON,
        Capability::Setgid => Cap::CAP_SETGID,
        Capability::Setfcap => Cap::CAP_SETFCAP,
        Capability::Setpcap => Cap::CAP_SETPCAP,
        Capability::Setuid => Cap::CAP_SETUID,
        Capability::SysAdmin => Cap::CAP_SYS_ADMIN,
        Capability::SysBoot => Cap::CAP_SYS_BOOT,
        Capability::SysChroot => Cap::CAP_SYS_CHROOT,
        Capability::SysModule => Cap::CAP_SYS_MODULE,
        Capability::SysNice => Cap::CAP_SYS_NICE,
        Capability::SysPacct => Cap::CAP_SYS_PACCT,
        Capability::SysPtrace => Cap::CAP_SYS_PTRACE,
        Capability::SysRawio => Cap::CAP_SYS_RAWIO,
        Capability::SysResource => Cap::CAP_SYS_RESOURCE,
        Capability::SysTime => Cap::CAP_SYS_TIME,
        Capability::SysTtyConfig => Cap::CAP_SYS_TTY_CONFIG,
        Capability::Syslog => Cap::CAP_SYSLOG,
        Capability::WakeAlarm => Cap::CAP_WAKE_ALARM,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::str::FromStr;

    use super::*;
    use crate::sys::process::set_uid;

    const KILL: u64 = 1 << 5;
    const SETPCAP: u64 = 1 << 8;
    const NET_BIND_SERVICE: u64 = 1 << 10;
    const NET_RAW: u64 = 1 << 13;

    /// CapInh, CapPrm, CapEff, CapBnd, CapAmb of this thread.
    fn status() -> [u64; 5] {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(|field| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        })
    }

    /// Capabilities belong to threads: a thread that changes its own touches no other test. None where
    /// the test has no capabilities to change.
    fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let needed = KILL | SETPCAP | NET_BIND_SERVICE | NET_RAW | 1 << 7;
        if status()[2] & needed != needed {
            println!("skipped: needs root's capabilities");
            return None;
        }
        Some(std::thread::spawn(work).join().unwrap())
    }

    #[test]
    fn masks_follow_the_kernels_numbers() {
        for cap in caps::all() {
            let name = cap.to_string();
            let spec = Capability::from_str(name.strip_prefix("CAP_").unwrap()).unwrap();
            let json = format!(r#"{{"effective": ["{name}"], "ambient": ["{name}"]}}"#);
            let sets = Sets::from_spec(&serde_json::from_str(&json).unwrap());
            let bit = 1 << cap.index();
            assert_eq!(sets, Sets { effective: bit, ambient: bit, ..Sets::default() }, "{name}");
            assert_eq!(known(spec), cap);
        }
        let both: HashSet<Capability> = [Capability::Kill, Capability::NetRaw].into();
        let mut spec = LinuxCapabilities::default();
        spec.set_bounding(Some(both)).set_permitted(None).set_inheritable(None);
        let sets = Sets::from_spec(&spec);
        assert_eq!((sets.bounding, sets.permitted, sets.inheritable), (KILL | NET_RAW, 0, 0));
    }

    #[test]
    fn the_last_capability_is_the_kernels() {
        let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
        assert_eq!(last_cap().to_string(), last.trim());
    }

    #[test]
    fn names_are_the_kernels_or_numbers() {
        assert_eq!((name(5).as_str(), name(63).as_str()), ("CAP_KILL", "63"));
    }

    #[test]
    fn only_the_bounding_set_stays() {
        let kept = KILL | NET_RAW | 1 << last_cap();
        let before = status();
        let seen = in_thread(move || {
            drop_bounding(&Sets { bounding: kept, ..Sets::default() }).unwrap();
            let first = status();
            drop_bounding(&Sets::default()).unwrap();
            (first, status())
        });
        let Some((first, second)) = seen else { return };
        assert_eq!(first[3], before[3] & kept);
        assert_eq!(first[1], before[1]);
        assert_eq!(second[3], 0);
    }

    #[test]
    fn bounding_without_setpcap_fails_only_where_something_must_go() {
        let seen = in_thread(|| {
            drop_bounding(&Sets { bounding: KILL | SETPCAP, ..Sets::default() }).unwrap();
            apply(&Sets { effective: KILL, permitted: KILL, ..Sets::default() }).unwrap();
            let enough = drop_bounding(&Sets { bounding: KILL | SETPCAP, ..Sets::default() });
            let less = drop_bounding(&Sets { bounding: KILL, ..Sets::default() });
            (enough.is_ok(), less.unwrap_err().raw_os_error())
        });
        if let Some(seen) = seen {
            assert_eq!(seen, (true, Some(libc::EPERM)));
        }
    }

    #[test]
    fn sets_are_applied_as_root() {
        let seen = in_thread(|| {
            let sets = Sets {
                bounding: KILL | NET_RAW,
                effective: KILL,
                permitted: KILL | NET_RAW,
                inheritable: NET_RAW,
                ambient: NET_RAW | KILL | 1 << 63,
            };
            drop_bounding(&sets).unwrap();
            apply(&sets).unwrap();
            status()
        });
        if let Some(seen) = seen {
            // KILL is not inheritable, 63 does not exist: neither becomes ambient.
            assert_eq!(seen, [NET_RAW, KILL | NET_RAW, KILL, KILL | NET_RAW, NET_RAW]);
        }
    }

    #[test]
    fn sets_are_applied_after_setuid() {
        let seen = in_thread(|| {
            let wanted = NET_BIND_SERVICE | KILL;
            let sets = Sets {
                bounding: wanted,
                effective: wanted,
                permitted: wanted,
                inheritable: wanted,
                ambient: KILL,
            };
            drop_bounding(&sets).unwrap();
            prctl::set_keepcaps(true).unwrap();
            set_uid(4242).unwrap();
            apply(&sets).unwrap();
            status()
        });
        if let Some(seen) = seen {
            let wanted = NET_BIND_SERVICE | KILL;
            assert_eq!(seen, [wanted, wanted, wanted, wanted, KILL]);
        }
    }

    #[test]
    fn ambient_capabilities_of_the_caller_are_cleared() {
        let seen = in_thread(|| {
            let all = KILL | NET_RAW;
            let with = Sets { effective: all, permitted: all, inheritable: all, ambient: all, bounding: all };
            apply(&with).unwrap();
            let before = status()[4];
            apply(&Sets { ambient: KILL, ..with }).unwrap();
            (before, status()[4])
        });
        if let Some(seen) = seen {
            assert_eq!(seen, (KILL | NET_RAW, KILL));
        }
    }

    #[test]
    fn what_is_not_permitted_is_refused() {
        let seen = in_thread(|| {
            apply(&Sets { effective: KILL, permitted: KILL, ..Sets::default() }).unwrap();
            let more = Sets { effective: NET_RAW, permitted: NET_RAW, ..Sets::default() };
            apply(&more).unwrap_err().raw_os_error()
        });
        if let Some(seen) = seen {
            assert_eq!(seen, Some(libc::EPERM));
        }
    }
}
