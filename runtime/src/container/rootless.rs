//! What is different when an ordinary user makes a container.

use std::path::Path;

use nix::unistd::{getegid, geteuid};
use oci_spec::runtime::{Process, Spec};

use super::idmap::{find_helper, is_ordinary_user, is_own_group};
use super::{Error, Result};
use crate::spec::{self, Available, list};

/// Reads and validates a config.json. An ordinary user's gets a user namespace and maps for it where it
/// has none, as with crun: without one the user could make no container.
pub(super) fn load(config: &Path) -> Result<Spec> {
    if !is_ordinary_user() {
        return Ok(spec::load(config)?);
    }
    let mut spec: Spec = spec::parse_file(config)?;
    if spec::lacks_user_namespace(&spec) {
        complete(&mut spec);
    }
    let gids = spec.linux().as_ref().map(|linux| list(linux.gid_mappings())).unwrap_or_default();
    match spec.process() {
        Some(process) if is_own_group(gids) => check_groups(process)?,
        _ => {}
    }
    spec::validate(&spec)?;
    spec::check_mount_owners(&spec)?;
    Ok(spec)
}

/// Where the user namespace denies setgroups(2), groups that were asked for are an error; runc's words.
fn check_groups(process: &Process) -> Result<()> {
    if list(process.user().additional_gids()).is_empty() {
        return Ok(());
    }
    Err(Error::RootlessGroups)
}

/// As [`load`] for a further process of a container: its init knows whether groups can be set.
pub(super) fn check_exec(process: &Process, init: i32) -> Result<()> {
    if !is_ordinary_user() {
        return Ok(());
    }
    let denied =
        std::fs::read_to_string(format!("/proc/{init}/setgroups")).is_ok_and(|text| text.trim() == "deny");
    if denied { check_groups(process) } else { Ok(()) }
}

/// Maps from the user's ranges, or of the user's own ids alone where there are no ranges or no helpers to map them.
fn complete(spec: &mut Spec) {
    let helpers = find_helper("newuidmap").is_some() && find_helper("newgidmap").is_some();
    let ranges = |file: &str| if helpers { ranges(file) } else { Vec::new() };
    let uids = Available { own: geteuid().as_raw(), ranges: ranges("/etc/subuid") };
    let gids = Available { own: getegid().as_raw(), ranges: ranges("/etc/subgid") };
    spec::add_user_namespace(spec, &uids, &gids);
    if let Some(linux) = spec.linux() {
        log::debug!(
            "config.json has no mappings of a user namespace: uids {}, gids {}{}",
            show(list(linux.uid_mappings())),
            show(list(linux.gid_mappings())),
            if helpers { "" } else { " (no newuidmap and newgidmap in $PATH)" }
        );
    }
}

fn show(map: &[oci_spec::runtime::LinuxIdMapping]) -> String {
    let ranges = map.iter().map(|r| format!("{}:{}:{}", r.container_id(), r.host_id(), r.size()));
    ranges.collect::<Vec<_>>().join(",")
}

/// The caller's ranges in a file of the form of subuid(5). One that can't be read gives none.
pub(crate) fn ranges(file: &str) -> Vec<(u32, u32)> {
    let uid = geteuid().as_raw();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let name = user_name(&read("/etc/passwd"), uid);
    parse_ranges(&read(file), uid, name.as_deref())
}

/// The name of a uid in passwd(5). Read here, since the static binary can't load the C library's name services.
pub(super) fn user_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Lines `owner:first:count` of one owner, named by name or number.
pub(super) fn parse_ranges(text: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let is_ours = owner == number || name == Some(owner);
        (is_ours && count > 0 && first.checked_add(count).is_some()).then_some((first, count))
    };
    text.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_user_by_name_and_number() {
        let text = "root:1:2\nme:100000:65536\n1000:300000:10\nother:5:5\nme:x:1\nme:1:0\nme:4294967295:9\n";
        assert_eq!(parse_ranges(text, 1000, Some("me")), [(100_000, 65536), (300_000, 10)]);
        assert_eq!(parse_ranges(text, 1000, None), [(300_000, 10)]);
        assert_eq!(parse_ranges("", 1000, Some("me")), []);
        let passwd = "root:x:0:0:root:/root:/bin/sh\n#\nme:x:1000:1000::/:/bin/sh\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("me"));
        assert_eq!(user_name(passwd, 1001), None);
    }
}
