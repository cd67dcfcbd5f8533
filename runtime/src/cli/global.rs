//! The flags before the command word, and what they say about the runtime.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::{Arg, ArgMatches};
use log::LevelFilter;
use nix::unistd::geteuid;

use super::args::{go_bool, path_parser, switch, value};
use super::errno_text;
use crate::container::{CgroupManager, Runtime};
use crate::logging::{self, Format, Target};

/// Long names of the global flags that take a value, in the order of [`flags`].
pub(super) const WITH_VALUE: [&str; 7] =
    ["log", "log-format", "log-level", "root", "cgroup-manager", "rootless", "criu"];

/// Name of the state directory below /run or `$XDG_RUNTIME_DIR`.
const DIRECTORY: &str = "davit";

/// What the global flags say.
#[derive(Debug)]
pub(super) struct Global {
    /// State directory and cgroup driver.
    pub runtime: Runtime,
}

/// The global flags.
pub(super) fn flags() -> Vec<Arg> {
    vec![
        switch("debug", "enable debug logging"),
        value("log", "append davit's log to [file:]PATH, or send it to journald:ID or syslog:ID (default: standard error)")
            .value_parser(path_parser()),
        value("log-format", "format of the log: text or json (default: text)"),
        value("log-level", "log messages of this level and above: error, warning, info or debug (default: info)"),
        value("root", "directory for the state of containers; it should be on a tmpfs (default: /run/davit)")
            .value_parser(path_parser()),
        switch(
            "systemd-cgroup",
            "let systemd make the cgroups; cgroupsPath has the form \"slice:prefix:name\"",
        ),
        value("cgroup-manager", "who makes cgroups: cgroupfs, systemd, or disabled for none (default: cgroupfs)"),
        value("rootless", "ignore cgroup permission errors: true, false or auto (default: auto)"),
        value("criu", "ignored").hide(true),
        switch("version", "print the version").short('v').visible_short_alias('V'),
    ]
}

impl Global {
    /// Starts the log, then reads the other flags, so that their errors are in it.
    pub(super) fn new(matches: &ArgMatches) -> anyhow::Result<Self> {
        start_log(matches)?;
        if matches.contains_id("criu") {
            log::warn!("--criu is ignored: criu is looked up in $PATH");
        }
        let root = match matches.get_one::<PathBuf>("root") {
            Some(root) => given_root(root)?,
            None => default_root()?,
        };
        let runtime = Runtime { root, cgroups: cgroup_manager(matches)?, rootless: rootless(matches)? };
        Ok(Global { runtime })
    }
}

fn start_log(matches: &ArgMatches) -> anyhow::Result<()> {
    let format = match matches.get_one::<String>("log-format").map(String::as_str) {
        None | Some("text" | "") => Format::Text,
        Some("json") => Format::Json,
        Some(other) => bail!("invalid log-format: {other}"),
    };
    let level = log_level(matches)?;
    let target = matches.get_one::<PathBuf>("log").map_or(Ok(Target::Stderr), |log| log_target(log))?;
    logging::init(format, &target, level).map_err(|e| anyhow!("open {target}: {}", errno_text(&e)))
}

fn log_level(matches: &ArgMatches) -> anyhow::Result<LevelFilter> {
    let level = match matches.get_one::<String>("log-level").map(String::as_str) {
        Some("error") => LevelFilter::Error,
        Some("warning") => LevelFilter::Warn,
        Some("debug") => LevelFilter::Debug,
        None | Some("info" | "") => LevelFilter::Info,
        Some(other) => {
            bail!("invalid log-level: {other:?}: it must be error, warning, info or debug")
        }
    };
    // runc's switch and crun's flag mean the same: the more talkative one wins.
    Ok(if matches.get_flag("debug") { LevelFilter::Debug } else { level })
}

/// Where `--log` leads: crun's prefixes, else a path.
fn log_target(log: &Path) -> anyhow::Result<Target> {
    let Some((kind, rest)) = log.to_str().and_then(|text| text.split_once(':')) else {
        return Ok(file_target(log));
    };
    match kind {
        "file" => Ok(file_target(Path::new(rest))),
        "journald" | "syslog" if rest.is_empty() => bail!("--log {kind}: needs an identifier, {kind}:ID"),
        "journald" => Ok(Target::Journald(rest.to_owned())),
        "syslog" => Ok(Target::Syslog(rest.to_owned())),
        _ => Ok(file_target(log)),
    }
}

fn file_target(path: &Path) -> Target {
    if path.as_os_str().is_empty() || path == Path::new("/dev/stderr") {
        return Target::Stderr;
    }
    Target::File(path.to_owned())
}

/// runc's switch and crun's flag, which must not contradict each other.
fn cgroup_manager(matches: &ArgMatches) -> anyhow::Result<CgroupManager> {
    let systemd = matches.get_flag("systemd-cgroup");
    let named = match matches.get_one::<String>("cgroup-manager").map(String::as_str) {
        None | Some("") => return Ok(if systemd { CgroupManager::Systemd } else { CgroupManager::Cgroupfs }),
        Some("cgroupfs") => CgroupManager::Cgroupfs,
        Some("systemd") => CgroupManager::Systemd,
        Some("disabled") => CgroupManager::Disabled,
        Some(other) => {
            bail!("invalid --cgroup-manager value {other:?}: it must be cgroupfs, systemd or disabled")
        }
    };
    if systemd && named != CgroupManager::Systemd {
        bail!("--systemd-cgroup contradicts --cgroup-manager");
    }
    Ok(named)
}

fn given_root(root: &Path) -> anyhow::Result<PathBuf> {
    if root.as_os_str().is_empty() {
        bail!("option --root argument must not be empty");
    }
    let absolute = std::path::absolute(root).with_context(|| format!("resolve --root {}", root.display()))?;
    // Container ids are names in this directory: `delete` must never meet /etc.
    if absolute.components().count() == 1 {
        bail!("option --root argument should not be set to /");
    }
    Ok(absolute)
}

/// /run/davit, or for those who are not root of the host's user namespace `$XDG_RUNTIME_DIR/davit`, with
/// the sticky bit that keeps tmp cleaners away from it.
fn default_root() -> anyhow::Result<PathBuf> {
    let system = Path::new("/run").join(DIRECTORY);
    if geteuid().is_root()
        && (!in_user_namespace() || std::env::var_os("USER").is_some_and(|user| user == "root"))
    {
        return Ok(system);
    }
    let Some(base) = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) else {
        return Ok(system);
    };
    let root = Path::new(&base).join(DIRECTORY);
    make_sticky(&root).map_err(|e| {
        anyhow!(
            "the path in $XDG_RUNTIME_DIR must be writable by the user: {}: {}",
            root.display(),
            errno_text(&e)
        )
    })?;
    Ok(root)
}

fn make_sticky(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o1700))
}

fn rootless(matches: &ArgMatches) -> anyhow::Result<bool> {
    let text = matches.get_one::<String>("rootless").map_or("auto", String::as_str);
    match text {
        "auto" | "" => Ok(!geteuid().is_root() || in_user_namespace()),
        other => go_bool(other.as_bytes())
            .ok_or_else(|| anyhow!("invalid --rootless value {other:?}: it must be true, false or auto")),
    }
}

/// Whether ids are mapped, which they are not in the host's user namespace. Read once.
fn in_user_namespace() -> bool {
    static MAPPED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *MAPPED.get_or_init(ids_are_mapped)
}

fn ids_are_mapped() -> bool {
    // Longer than the host's one line, which is all that matters here.
    let mut map = [0u8; 64];
    let read = std::fs::File::open("/proc/self/uid_map").and_then(|mut file| file.read(&mut map));
    let Ok(length) = read else { return false };
    let words =
        map.get(..length).unwrap_or_default().split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    !words.eq([&b"0"[..], b"0", b"4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_directory_of_the_host_is_refused() {
        for root in ["/", "//", "/.", "/./"] {
            assert!(given_root(Path::new(root)).is_err(), "{root}");
        }
        assert_eq!(given_root(Path::new("/run/x/")).unwrap(), Path::new("/run/x"));
        assert!(given_root(Path::new("x")).unwrap().is_absolute());
    }
}
