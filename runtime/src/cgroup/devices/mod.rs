//! Which devices a container may open and create: `linux.resources.devices` and runc's default allow list.
//!
//! The rules are folded into the state that cgroup v1's device controller would have: a default verdict and
//! exceptions to it. On v1 it is written to devices.deny and devices.allow, on v2 it becomes an eBPF program
//! (kernel 4.15). Both give the same verdicts, which are those of runc.

#[cfg(feature = "fuzz")]
pub(super) mod fuzz;
mod program;
mod rules;
mod systemd;
mod v1;
mod v2;

use oci_spec::runtime::LinuxDeviceCgroup;

use super::error::Error;
use super::layout::read_proc;
use super::{Cgroup, OnDenied};
use rules::Rules;

/// Sets the rules of a cgroup that was just made.
pub(super) fn apply(cgroup: &Cgroup, rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    set(cgroup, rules, When::New)
}

/// Changes the rules of a cgroup in use, without a moment in which more or less than both states is allowed.
pub(super) fn update(cgroup: &Cgroup, rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    set(cgroup, rules, When::InUse)
}

/// The rules for systemd's own filter: see [`systemd::entries`].
pub(super) fn for_systemd(rules: &[LinuxDeviceCgroup]) -> Result<Option<Vec<(String, String)>>, Error> {
    Ok(systemd::entries(&Rules::fold(rules)?))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    New,
    InUse,
}

fn set(cgroup: &Cgroup, rules: &[LinuxDeviceCgroup], when: When) -> Result<(), Error> {
    let rules = Rules::fold(rules)?;
    let member = cgroup.v1("devices").or_else(|| cgroup.v2());
    let result = match member.filter(|member| !member.is_denied()) {
        None if cgroup.rootless == OnDenied::Ignore => return Ok(()),
        None => Err(Error::NoController("devices")),
        Some(member) => {
            let when = if member.is_fresh() { when } else { When::InUse };
            match member.version() {
                super::Version::V1 => member.dir().and_then(|dir| v1::set(dir, &rules, when)),
                super::Version::V2 => member.dir().and_then(|dir| v2::set(dir, &rules, when)),
            }
        }
    };
    match result {
        // As in runc: without privilege over the host nothing can be set, and nothing needs to be, since neither
        // mknod nor the host's device nodes are open to such a caller.
        Err(e) if e.is_denied() && (cgroup.rootless == OnDenied::Ignore || in_user_namespace()) => {
            log::debug!("without device rules: {e}");
            Ok(())
        }
        result => result,
    }
}

/// Whether this process is in a user namespace other than the first. Asked only after a refusal.
fn in_user_namespace() -> bool {
    const INITIAL: [&str; 3] = ["0", "0", "4294967295"];
    read_proc("/proc/self/uid_map").is_ok_and(|map| !map.split_ascii_whitespace().eq(INITIAL))
}
