//! `davit checkpoint`.

use std::path::{Component, Path, PathBuf};

use anyhow::{anyhow, bail};
use clap::{Arg, ArgMatches, value_parser};

use super::args::{Arity, container_id, path_parser, switch, value};
use super::global::Global;
use super::{Command, errno_text, options};
use crate::container::{self, CgroupsMode, CheckpointOptions, NetworkLock};

pub(super) const COMMAND: Command = Command {
    name: "checkpoint",
    about: "write a running container to images",
    usage: "[command options] <container-id>\n\n\
            Writes the processes of a container to images with CRIU, which must be in $PATH, and removes it. \"davit\n\
            restore\" makes it again, here or on another host.",
    arity: Arity::Exactly(1),
    flags,
    run,
    failure: "",
    failure_code: 1,
};

fn flags() -> Vec<Arg> {
    let mut flags = shared_flags();
    flags.extend([
        value("parent-path", "images of an earlier --pre-dump, relative to --image-path")
            .value_parser(path_parser()),
        switch("leave-running", "leave the container running after the checkpoint"),
        switch("tcp-skip-in-flight", "leave out TCP connections that are being made"),
        switch("link-remap", "give files that were unlinked a name, so that they can be opened again"),
        value("status-fd", "file descriptor that gets a NUL byte once the server of --lazy-pages is ready")
            .value_parser(value_parser!(i32)),
        value("page-server", "ADDRESS:PORT that memory is sent to; with --lazy-pages, where it is served"),
        switch("pre-dump", "write the memory only, and leave the container running"),
        network_lock(),
    ]);
    flags
}

/// The flags that `checkpoint` and `restore` share.
pub(super) fn shared_flags() -> Vec<Arg> {
    vec![
        value("image-path", "directory of CRIU's images (default: checkpoint, in the current directory)")
            .value_parser(path_parser()),
        value("work-path", "directory of CRIU's log and statistics (default: that of the images)")
            .value_parser(path_parser()),
        switch("tcp-established", "allow open TCP connections"),
        switch("ext-unix-sk", "allow Unix sockets whose other end is outside of the container"),
        switch("shell-job", "allow a terminal and a session that are the caller's"),
        switch("lazy-pages", "restore memory as it is used, by userfaultfd(2)"),
        switch("file-locks", "allow file locks"),
        value(
            "manage-cgroups-mode",
            "what CRIU does about cgroups: soft, full, strict or ignore (default: soft)",
        ),
        value("empty-ns", "namespace whose contents are not restored; only network, which is always so"),
        switch("auto-dedup", "drop pages from the images that are not needed any more"),
    ]
}

/// `--network-lock`, crun's.
fn network_lock() -> Arg {
    value(
        "network-lock",
        "how packets are kept away meanwhile: iptables, nftables or skip (default: iptables if its programs are there)",
    )
}

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let id = container_id(matches)?;
    let image_path = image_path(matches)?;
    empty_namespace(matches)?;
    let options = CheckpointOptions {
        parent_path: options::path(matches, "parent-path")
            .map(|path| parent_path(&image_path, path))
            .transpose()?,
        image_path,
        work_path: options::path(matches, "work-path"),
        leave_running: matches.get_flag("leave-running"),
        pre_dump: matches.get_flag("pre-dump"),
        tcp_established: matches.get_flag("tcp-established"),
        tcp_skip_in_flight: matches.get_flag("tcp-skip-in-flight"),
        link_remap: matches.get_flag("link-remap"),
        ext_unix_sk: matches.get_flag("ext-unix-sk"),
        shell_job: matches.get_flag("shell-job"),
        file_locks: matches.get_flag("file-locks"),
        auto_dedup: matches.get_flag("auto-dedup"),
        lazy_pages: matches.get_flag("lazy-pages"),
        // runc's default is -1.
        status_fd: matches.get_one::<i32>("status-fd").copied().filter(|fd| *fd != -1),
        page_server: text(matches, "page-server").map(page_server).transpose()?,
        cgroups: cgroups_mode(matches)?,
        network_lock: text(matches, "network-lock").map(lock_method).transpose()?,
    };
    if options.lazy_pages && options.page_server.is_none() {
        // CRIU would wait for ever, at no address.
        bail!("--lazy-pages needs --page-server ADDRESS:PORT, where memory is served");
    }
    container::checkpoint(&global.runtime, id, &options)?;
    Ok(0)
}

fn text<'a>(matches: &'a ArgMatches, flag: &str) -> Option<&'a str> {
    matches.get_one::<String>(flag).map(String::as_str).filter(|text| !text.is_empty())
}

/// `--image-path`, made absolute.
pub(super) fn image_path(matches: &ArgMatches) -> anyhow::Result<PathBuf> {
    let path = options::path(matches, "image-path").unwrap_or_else(|| PathBuf::from("checkpoint"));
    std::path::absolute(&path).map_err(|e| anyhow!("{}: {}", path.display(), errno_text(&e)))
}

/// runc's rules: relative to the images, and there. Their directory itself need not be: it is about to be made.
fn parent_path(images: &Path, path: PathBuf) -> anyhow::Result<PathBuf> {
    if path.is_absolute() {
        bail!("--parent-path must be relative");
    }
    let parent = images.join(&path);
    let parent = if images.exists() { parent } else { without_parents(&parent) };
    match std::fs::metadata(parent) {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => bail!("invalid --parent-path: {}: not a directory", path.display()),
        Err(e) => bail!("invalid --parent-path: {}: {}", path.display(), errno_text(&e)),
    }
}

/// The path without its `..`, as if nothing in it were a link.
fn without_parents(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(clean.pop()),
            other => clean.push(other),
        }
    }
    clean
}

/// `ADDRESS:PORT`; an IPv6 address is in brackets.
fn page_server(text: &str) -> anyhow::Result<(String, u16)> {
    let (address, port) = text
        .rsplit_once(':')
        .filter(|(address, port)| !address.is_empty() && !port.is_empty())
        .ok_or_else(|| anyhow!("Use --page-server ADDRESS:PORT to specify page server"))?;
    let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
    let port = port.parse().map_err(|_| anyhow!("Invalid port number"))?;
    Ok((bare.unwrap_or(address).to_owned(), port))
}

/// `--manage-cgroups-mode`.
pub(super) fn cgroups_mode(matches: &ArgMatches) -> anyhow::Result<CgroupsMode> {
    let name = text(matches, "manage-cgroups-mode").unwrap_or_default();
    CgroupsMode::named(name).ok_or_else(|| {
        anyhow!("invalid manage-cgroups-mode value {name:?}: it must be soft, full, strict or ignore")
    })
}

/// `--empty-ns`: as in runc, network is the only one, and the contents of that are never restored.
pub(super) fn empty_namespace(matches: &ArgMatches) -> anyhow::Result<()> {
    match text(matches, "empty-ns") {
        None | Some("network") => Ok(()),
        Some(other) => bail!("namespace {other:?} is not supported"),
    }
}

fn lock_method(text: &str) -> anyhow::Result<NetworkLock> {
    match text {
        "iptables" => Ok(NetworkLock::Iptables),
        "nftables" => Ok(NetworkLock::Nftables),
        "skip" => Ok(NetworkLock::Skip),
        other => bail!("invalid --network-lock value {other:?}: it must be iptables, nftables or skip"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_beside_images_that_are_not_made_yet() {
        // This file's directory has one beside it.
        let cli = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli");
        for images in ["explain", "not-there"] {
            let beside = parent_path(&cli.join(images), "../explain".into());
            assert_eq!(beside.unwrap(), Path::new("../explain"), "{images}");
            let missing = parent_path(&cli.join(images), "../nowhere".into()).unwrap_err().to_string();
            assert_eq!(missing, "invalid --parent-path: ../nowhere: no such file or directory", "{images}");
        }
    }

    #[test]
    fn page_servers() {
        assert_eq!(page_server("127.0.0.1:99").unwrap(), ("127.0.0.1".to_owned(), 99));
        assert_eq!(page_server("[::1]:99").unwrap(), ("::1".to_owned(), 99));
        for wrong in ["x", ":80", "host:", "host:http", "host:65536"] {
            assert!(page_server(wrong).is_err(), "{wrong}");
        }
    }
}
