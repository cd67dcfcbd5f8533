//! Device rules on cgroup v1: one write for each change to devices.deny and devices.allow.

use std::os::fd::AsFd;

use nix::fcntl::OFlag;

use super::When;
use super::rules::{Access, Devices, Rules, Verdict};
use crate::cgroup::dir::Dir;
use crate::cgroup::error::Error;

const ALLOW: &str = "devices.allow";
const DENY: &str = "devices.deny";

/// Brings the controller from its state to `rules`.
pub(super) fn set(dir: &Dir, rules: &Rules, when: When) -> Result<(), Error> {
    if when == When::New && rules.default == Verdict::Deny {
        return rewrite(dir, rules);
    }
    let list = dir.read("devices.list")?;
    let current = Rules::parse_list(&list).ok_or_else(|| dir.content_error("devices.list", &list))?;
    match (current.default, rules.default) {
        (Verdict::Deny, Verdict::Deny) => change(dir, &current, rules),
        // A new cgroup has its parent's state; exceptions to default allow are not listed, so only a new one is
        // known to have none.
        (Verdict::Allow, Verdict::Allow) if when == When::New && rules.is_allow_all() => Ok(()),
        _ => rewrite(dir, rules),
    }
}

/// Sets the default, which drops all exceptions, then each exception.
fn rewrite(dir: &Dir, rules: &Rules) -> Result<(), Error> {
    let (default, exceptions) = match rules.default {
        Verdict::Deny => (DENY, ALLOW),
        Verdict::Allow => (ALLOW, DENY),
    };
    dir.write(default, "a")?;
    write_each(dir, exceptions, rules.exceptions.iter().map(|(devices, access)| (*devices, *access)))
}

/// Both deny by default: adds what is new first, so that nothing that both allow is denied in between.
fn change(dir: &Dir, from: &Rules, to: &Rules) -> Result<(), Error> {
    let missing = |of: &Rules, from: &Rules| -> Vec<(Devices, Access)> {
        let left = |(devices, access): (&Devices, &Access)| {
            let held = from.exceptions.get(devices).map_or(0, |held| held.0);
            (*devices, Access(access.0 & !held))
        };
        of.exceptions.iter().map(left).filter(|(_, access)| access.0 != 0).collect()
    };
    write_each(dir, ALLOW, missing(to, from).into_iter())?;
    write_each(dir, DENY, missing(from, to).into_iter())
}

/// The kernel takes one rule in each write.
fn write_each(dir: &Dir, file: &str, rules: impl Iterator<Item = (Devices, Access)>) -> Result<(), Error> {
    let mut rules = rules.peekable();
    if rules.peek().is_none() {
        return Ok(());
    }
    let fd = dir.open_file(file, OFlag::O_WRONLY)?;
    rules.try_for_each(|(devices, access)| dir.write_to(fd.as_fd(), file, &format!("{devices} {access}")))
}
