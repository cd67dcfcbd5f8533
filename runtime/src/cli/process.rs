//! The process that `exec` starts: from `--process FILE`, or config.json's with the flags merged in.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{anyhow, bail};
use clap::ArgMatches;
use oci_spec::runtime::{Capability, LinuxCapabilities, Process};

use super::args::{go_bool, positionals};
use super::errno_text;

/// Reads and checks process.json.
pub(super) fn from_file(file: &Path) -> anyhow::Result<Process> {
    let bytes = std::fs::read(file).map_err(|e| anyhow!("open {}: {}", file.display(), errno_text(&e)))?;
    let process = crate::spec::parse(&bytes).map_err(|e| anyhow!("{}: {e}", file.display()))?;
    check(&process)?;
    Ok(process)
}

/// The container's own process with the flags and the command line of `exec`.
pub(super) fn from_flags(mut process: Process, matches: &ArgMatches) -> anyhow::Result<Process> {
    let mut words = positionals(matches).skip(1).peekable();
    // runc's manual page has `exec ID [--] COMMAND`.
    words.next_if(|word| *word == "--");
    let args = words
        .map(|word| {
            word.to_str().map(str::to_owned).ok_or_else(|| anyhow!("argument is not UTF-8: {word:?}"))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    if args.is_empty() {
        bail!("process args cannot be empty");
    }
    process.set_args(Some(args));
    let text = |flag| matches.get_one::<String>(flag).filter(|text| !text.is_empty());
    if let Some(cwd) = text("cwd") {
        process.set_cwd(PathBuf::from(cwd));
    }
    if let Some(profile) = text("apparmor") {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = text("process-label") {
        process.set_selinux_label(Some(label.clone()));
    }
    if let Some(value) = matches.get_one::<String>("no-new-privs") {
        let on = go_bool(value.as_bytes())
            .ok_or_else(|| anyhow!("invalid boolean value {value:?} for -no-new-privs: parse error"))?;
        process.set_no_new_privileges(Some(on));
    }
    process.set_terminal(Some(matches.get_flag("tty")));
    let many = |flag| matches.get_many::<String>(flag).into_iter().flatten();
    process.env_mut().get_or_insert_default().extend(many("env").cloned());
    add_capabilities(&mut process, many("cap"));
    set_user(&mut process, matches)?;
    check(&process)?;
    Ok(process)
}

/// runc's checks of a process.
fn check(process: &Process) -> anyhow::Result<()> {
    if process.cwd().as_os_str().is_empty() {
        bail!("Cwd property must not be empty");
    }
    if !process.cwd().is_absolute() {
        bail!("Cwd must be an absolute path");
    }
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        bail!("args must not be empty");
    }
    Ok(())
}

fn set_user(process: &mut Process, matches: &ArgMatches) -> anyhow::Result<()> {
    let user = process.user_mut();
    if let Some(text) = matches.get_one::<String>("user") {
        let (uid, gid) = parse_user(text)?;
        user.set_uid(uid);
        if let Some(gid) = gid {
            user.set_gid(gid);
        }
    }
    for text in matches.get_many::<String>("additional-gids").into_iter().flatten() {
        let gid = parse_id(text, "additional gid")?;
        user.additional_gids_mut().get_or_insert_default().push(gid);
    }
    Ok(())
}

/// `UID[:GID]`, both whole decimal numbers: a mistake must never become another user (CVE-2026-30892).
pub(crate) fn parse_user(text: &str) -> anyhow::Result<(u32, Option<u32>)> {
    match text.split_once(':') {
        None => Ok((parse_id(text, "uid")?, None)),
        Some((uid, gid)) => Ok((parse_id(uid, "uid")?, Some(parse_id(gid, "gid")?))),
    }
}

/// A user or group id. 4294967295 is refused too: the kernel reads it as "leave unchanged".
fn parse_id(text: &str, what: &str) -> anyhow::Result<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u32>() {
        Ok(id) if digits && id != u32::MAX => Ok(id),
        _ => bail!("parsing {text:?} as {what} failed: it must be a number from 0 to 4294967294"),
    }
}

/// Adds to the bounding, effective and permitted sets only. Not to the inheritable one: that would hand
/// the capability to any program with inheritable file capabilities (CVE-2022-29162).
fn add_capabilities<'a>(process: &mut Process, names: impl Iterator<Item = &'a String>) {
    let mut added = HashSet::new();
    for name in names {
        let upper = name.to_ascii_uppercase();
        match Capability::from_str(upper.strip_prefix("CAP_").unwrap_or(&upper)) {
            Ok(capability) => drop(added.insert(capability)),
            Err(_) => log::warn!("ignoring unknown or unavailable capabilities: [{name}]"),
        }
    }
    if added.is_empty() {
        return;
    }
    let mut sets = process.capabilities().clone().unwrap_or_else(no_capabilities);
    let union = |set: &Option<HashSet<Capability>>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(&added);
        Some(set)
    };
    let (bounding, effective, permitted) =
        (union(sets.bounding()), union(sets.effective()), union(sets.permitted()));
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    process.set_capabilities(Some(sets));
}

/// The crate's default has some capabilities.
fn no_capabilities() -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(None).set_effective(None).set_inheritable(None).set_permitted(None).set_ambient(None);
    sets
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::{args, exec};
    use super::*;

    fn merged(template: &str, words: &[&str]) -> Result<Process, String> {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        let matches = args::parse_command(&exec::COMMAND, &words).unwrap();
        from_flags(serde_json::from_str(template).unwrap(), &matches).map_err(|e| e.to_string())
    }

    const TEMPLATE: &str = r#"{"terminal":true,"cwd":"/","args":["sh"],"env":["A=1"],"noNewPrivileges":true,
        "user":{"uid":7,"gid":8,"additionalGids":[9]}}"#;

    #[test]
    fn flags_are_merged_into_the_template() {
        let p = merged(
            TEMPLATE,
            &[
                "-e",
                "B=2",
                "--cwd",
                "/x",
                "-u",
                "1:2",
                "-g",
                "3",
                "--no-new-privs=false",
                "--apparmor",
                "p",
                "c1",
                "--",
                "ls",
                "-l",
            ],
        )
        .unwrap();
        assert_eq!(p.args().as_deref().unwrap(), ["ls", "-l"]);
        assert_eq!(p.env().as_deref().unwrap(), ["A=1", "B=2"]);
        assert_eq!((p.cwd().to_str(), p.terminal()), (Some("/x"), Some(false)));
        assert_eq!((p.user().uid(), p.user().gid()), (1, 2));
        assert_eq!(p.user().additional_gids().as_deref().unwrap(), [9, 3]);
        assert_eq!(p.no_new_privileges(), Some(false));
        assert_eq!(p.apparmor_profile().as_deref(), Some("p"));
    }

    #[test]
    fn a_uid_alone_keeps_the_gid() {
        let p = merged(TEMPLATE, &["-u", "1", "-t", "c1", "ls"]).unwrap();
        assert_eq!((p.user().uid(), p.user().gid(), p.terminal()), (1, 8, Some(true)));
    }

    #[test]
    fn cve_2026_30892_users_are_parsed_strictly() {
        for text in [
            "",
            "1:",
            ":1",
            ":",
            "-1",
            "+1",
            "4294967295",
            "4294967296",
            "0x1",
            " 1",
            "1 ",
            "1:2:3",
            "root",
            "1:-1",
        ] {
            assert!(parse_user(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_user("0").unwrap(), (0, None));
        assert_eq!(parse_user("4294967294:0").unwrap(), (4_294_967_294, Some(0)));
    }

    #[test]
    fn cve_2022_29162_added_capabilities_are_not_inheritable() {
        let p = merged(TEMPLATE, &["-c", "CAP_SYS_ADMIN", "--cap", "kill", "--cap", "CAP_FOO", "c1", "ls"])
            .unwrap();
        let sets = p.capabilities().as_ref().unwrap();
        let both = HashSet::from([Capability::SysAdmin, Capability::Kill]);
        for set in [sets.bounding(), sets.effective(), sets.permitted()] {
            assert_eq!(set.as_ref(), Some(&both));
        }
        assert!(sets.inheritable().is_none() && sets.ambient().is_none());
    }

    #[test]
    fn an_empty_command_line_is_refused() {
        assert_eq!(merged(TEMPLATE, &["c1"]).unwrap_err(), "process args cannot be empty");
        assert_eq!(
            merged(TEMPLATE, &["--cwd", "rel", "c1", "ls"]).unwrap_err(),
            "Cwd must be an absolute path"
        );
    }
}
