//! Runtime options: what a user of containerd sets for this runtime.

use std::path::{Path, PathBuf};

/// Fields of containerd.runc.v1.Options that a shim uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Options {
    /// MS_MOVE instead of pivot_root.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_pivot_root: bool,
    /// No session keyring for the container.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_new_keyring: bool,
    /// Cgroup that the shim itself joins.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub shim_cgroup: String,
    /// Owner of the stdio pipes.
    pub io_uid: u32,
    /// Group of the stdio pipes.
    pub io_gid: u32,
    /// OCI runtime; empty for davit inside the shim.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub binary_name: String,
    /// State root before the namespace is appended.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub root: String,
    /// Cgroups by systemd.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub systemd_cgroup: bool,
    /// CRIU images.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub criu_image_path: String,
    /// CRIU's work directory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub criu_work_path: String,
    /// Our own, TOML only: Kill of an exec, and its end, reach its whole process group.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub exec_kill_group: bool,
}

/// Default of `Root`, where runc's users look (`runc --root /run/containerd/runc/<namespace> list`).
const DEFAULT_ROOT: &str = "/run/containerd/runc";

impl Options {
    /// State directory of a containerd namespace.
    #[must_use]
    pub fn state_root(&self, namespace: &str) -> PathBuf {
        let root = if self.root.is_empty() { DEFAULT_ROOT } else { &self.root };
        Path::new(root).join(namespace)
    }

    /// Reads the TOML that containerd writes for a runtime type of its own.
    ///
    /// It is the output of a TOML encoder for a flat table, so `Key = value` lines with strings, booleans
    /// and integers are all there is; a full TOML parser would be the shim's largest part. Keys of other
    /// runtimes are ignored, as Go's decoder does.
    ///
    /// # Errors
    /// The line that is none of these.
    pub fn from_toml(text: &str) -> Result<Options, String> {
        let mut options = Options::default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // A sub-table holds nothing of ours.
            if line.starts_with('[') {
                break;
            }
            let (key, value) = line.split_once('=').ok_or_else(|| format!("not `Key = value`: {line:?}"))?;
            options.set(key.trim().trim_matches('"'), value.trim())?;
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "BinaryName" => self.binary_name = toml_string(value)?,
            "Root" => self.root = toml_string(value)?,
            "ShimCgroup" => self.shim_cgroup = toml_string(value)?,
            "CriuImagePath" => self.criu_image_path = toml_string(value)?,
            "CriuWorkPath" => self.criu_work_path = toml_string(value)?,
            "SystemdCgroup" => self.systemd_cgroup = toml_bool(value)?,
            "NoPivotRoot" => self.no_pivot_root = toml_bool(value)?,
            "NoNewKeyring" => self.no_new_keyring = toml_bool(value)?,
            "ExecKillGroup" => self.exec_kill_group = toml_bool(value)?,
            "IoUid" => self.io_uid = toml_u32(value)?,
            "IoGid" => self.io_gid = toml_u32(value)?,
            _ => {}
        }
        Ok(())
    }
}

fn toml_bool(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| format!("not a boolean: {value}"))
}

fn toml_u32(value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| format!("not an id: {value}"))
}

fn toml_string(value: &str) -> Result<String, String> {
    if let Some(literal) = value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')) {
        return Ok(literal.to_owned());
    }
    // A basic TOML string's escapes are a superset of those that JSON has and that the encoder uses.
    serde_json::from_str(value).map_err(|_| format!("not a string: {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_of_containerd() {
        let text = "BinaryName = \"/usr/bin/no\\\"de\"\nCriuPath = \"\"\nIoGid = 0\nIoUid = 1000\nNoNewKeyring = true\nExecKillGroup = true\n\
                    Root = '/run/x'\nSystemdCgroup = false\n";
        let options = Options::from_toml(text).unwrap();
        assert_eq!(options.binary_name, "/usr/bin/no\"de");
        assert_eq!(options.root, "/run/x");
        assert_eq!(options.io_uid, 1000);
        assert!(options.no_new_keyring && options.exec_kill_group && !options.systemd_cgroup);
    }

    #[test]
    fn bad_lines_are_named() {
        assert!(Options::from_toml("BinaryName").unwrap_err().contains("BinaryName"));
        assert!(Options::from_toml("SystemdCgroup = 1").unwrap_err().contains("boolean"));
        assert!(Options::from_toml("IoUid = -1").unwrap_err().contains("-1"));
        assert!(Options::from_toml("Root = x").unwrap_err().contains("string"));
    }

    #[test]
    fn root_has_the_namespace() {
        assert_eq!(Options::default().state_root("k8s.io"), Path::new("/run/containerd/runc/k8s.io"));
        let options = Options { root: "/r".into(), ..Options::default() };
        assert_eq!(options.state_root("ns"), Path::new("/r/ns"));
    }
}
