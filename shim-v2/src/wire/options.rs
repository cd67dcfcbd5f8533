//! Runtime options in their two forms: runc's message, and TOML inside runtimeoptions.v1.Options.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use containerd_shim_protos::shim::oci::{CheckpointOptions as RuncCheckpoint, Options as RuncOptions};
use protobuf::{CodedInputStream, Message};

use crate::api::{Any, ApiError, CheckpointOptions, Code};
use crate::options::Options;

/// Most bytes of a file of options.
const FILE_LIMIT: u64 = 1 << 20;

/// Decodes the Any that Create, `start` and `-info` get. An empty Any is the default.
///
/// # Errors
/// InvalidArgument for an unknown type or malformed bytes.
pub fn decode(any: &Any) -> Result<Options, ApiError> {
    match name(any) {
        "" => Ok(Options::default()),
        "containerd.runc.v1.Options" => Ok(from_runc(parse(&any.value, "runtime options")?)),
        "runtimeoptions.v1.Options" => {
            let failed = |e: String| invalid(format!("runtime options: {e}"));
            let toml = toml(&any.value).map_err(|e| failed(e.to_string()))?;
            Options::from_toml(&toml).map_err(failed)
        }
        other => Err(invalid(format!("unsupported runtime options type {other:?}"))),
    }
}

/// Decodes the Any of Checkpoint. An empty Any is the default.
///
/// # Errors
/// InvalidArgument for an unknown type or malformed bytes.
pub fn decode_checkpoint(any: &Any) -> Result<CheckpointOptions, ApiError> {
    match name(any) {
        "" => Ok(CheckpointOptions::default()),
        "containerd.runc.v1.CheckpointOptions" => {
            let m: RuncCheckpoint = parse(&any.value, "checkpoint options")?;
            Ok(CheckpointOptions {
                exit: m.exit,
                open_tcp: m.open_tcp,
                external_unix_sockets: m.external_unix_sockets,
                terminal: m.terminal,
                file_locks: m.file_locks,
                empty_namespaces: m.empty_namespaces,
                cgroups_mode: m.cgroups_mode,
                work_path: m.work_path,
            })
        }
        other => Err(invalid(format!("unsupported checkpoint options type {other:?}"))),
    }
}

/// The type's name. Anys of other languages carry a prefix: type.googleapis.com/containerd.runc.v1.Options.
fn name(any: &Any) -> &str {
    any.url.rsplit('/').next().unwrap_or_default()
}

fn invalid(text: String) -> ApiError {
    ApiError::new(Code::InvalidArgument, text)
}

fn parse<M: Message>(bytes: &[u8], what: &str) -> Result<M, ApiError> {
    M::parse_from_bytes(bytes).map_err(|e| invalid(format!("{what}: {e}")))
}

fn from_runc(m: RuncOptions) -> Options {
    Options {
        exec_kill_group: false,
        no_pivot_root: m.no_pivot_root,
        no_new_keyring: m.no_new_keyring,
        shim_cgroup: m.shim_cgroup,
        io_uid: m.io_uid,
        io_gid: m.io_gid,
        binary_name: m.binary_name,
        root: m.root,
        systemd_cgroup: m.systemd_cgroup,
        criu_image_path: m.criu_image_path,
        criu_work_path: m.criu_work_path,
    }
}

/// runtimeoptions.v1.Options, which containerd-shim-protos lacks: field 3 is the TOML (`config_body`, what containerd's
/// CRI sends), field 2 a file of it (`config_path`: `ConfigPath` among a runtime's options in dockerd's daemon.json).
fn toml(bytes: &[u8]) -> protobuf::Result<String> {
    let mut input = CodedInputStream::from_bytes(bytes);
    let (mut path, mut body) = (String::new(), String::new());
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        let field = tag >> 3;
        // Every field of the message is length-delimited (wire type 2).
        if tag & 7 != 2 {
            return Err(std::io::Error::other(format!("field {field} has wire type {}", tag & 7)).into());
        }
        let value = input.read_bytes()?;
        match field {
            2 => path = String::from_utf8_lossy(&value).into_owned(),
            3 => body = String::from_utf8_lossy(&value).into_owned(),
            _ => {}
        }
    }
    if !body.is_empty() || path.is_empty() {
        return Ok(body);
    }
    read(&path).map_err(|e| std::io::Error::other(format!("read {path}: {e}")).into())
}

/// The text of a regular file: the reactor must not wait for a FIFO.
fn read(path: &str) -> std::io::Result<String> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    std::io::read_to_string(file.take(FILE_LIMIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_give_the_same() {
        let runc =
            RuncOptions { binary_name: "crun".into(), systemd_cgroup: true, io_uid: 7, ..Default::default() };
        let one = Any { url: "containerd.runc.v1.Options".into(), value: runc.write_to_bytes().unwrap() };
        let toml = b"BinaryName = \"crun\"\nSystemdCgroup = true\nIoUid = 7\n";
        let mut value = vec![0x0a, 1, b'x', 0x1a, toml.len() as u8];
        value.extend(toml);
        let two = Any { url: "type.googleapis.com/runtimeoptions.v1.Options".into(), value };
        let options = decode(&one).unwrap();
        assert_eq!(options, decode(&two).unwrap());
        assert_eq!((options.binary_name.as_str(), options.systemd_cgroup, options.io_uid), ("crun", true, 7));
    }

    #[test]
    fn options_of_a_checkpoint() {
        let runc = RuncCheckpoint {
            exit: true,
            empty_namespaces: vec!["network".into()],
            cgroups_mode: "soft".into(),
            work_path: "/w".into(),
            ..Default::default()
        };
        let value = runc.write_to_bytes().unwrap();
        let any = |url: &str| Any { url: url.into(), value: value.clone() };
        let options =
            decode_checkpoint(&any("type.googleapis.com/containerd.runc.v1.CheckpointOptions")).unwrap();
        assert!(options.exit && !options.open_tcp);
        assert_eq!((options.cgroups_mode.as_str(), options.work_path.as_str()), ("soft", "/w"));
        assert_eq!(options.empty_namespaces, ["network"]);
        assert_eq!(decode_checkpoint(&Any::default()).unwrap(), CheckpointOptions::default());
        let other = decode_checkpoint(&any("containerd.runc.v1.Options")).unwrap_err();
        assert_eq!(other.code, Code::InvalidArgument);
    }

    #[test]
    fn a_file_of_options_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "ExecKillGroup = true\n").unwrap();
        let any = |path: &str| {
            let mut value = vec![0x12, path.len() as u8];
            value.extend(path.bytes());
            Any { url: "runtimeoptions.v1.Options".into(), value }
        };
        assert!(decode(&any(file.path().to_str().unwrap())).unwrap().exec_kill_group);
        assert!(decode(&any("/dev/null")).unwrap_err().text.contains("not a regular file"));
        assert!(decode(&any("/nonexistent/x")).unwrap_err().text.contains("read /nonexistent/x"));
    }

    #[test]
    fn empty_is_default_and_unknown_is_refused() {
        assert_eq!(decode(&Any::default()).unwrap(), Options::default());
        let odd = Any { url: "kata.Options".into(), value: Vec::new() };
        assert!(decode(&odd).unwrap_err().text.contains("kata.Options"));
        let cut = Any { url: "runtimeoptions.v1.Options".into(), value: vec![0x1a, 9, b'B'] };
        assert_eq!(decode(&cut).unwrap_err().code, Code::InvalidArgument);
    }
}
