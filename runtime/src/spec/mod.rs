//! config.json: reading, repairing what the parser is stricter about than runc, and validating.
//!
//! Pure but for [`load`]'s one read.

pub mod bits;
mod id_maps;
mod linux;
mod place;
mod repair;
mod rules;
mod scheduling;
mod text;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};

pub use id_maps::{
    Available, add_user_namespace, check_mapped, check_mount_owners, ensure_user_namespace, host_id,
    id_range, lacks_user_namespace,
};
pub use linux::{sysctl_namespace, sysctl_path};
pub use place::ParseError;
pub use repair::scheduler_flag;
pub use rules::{check_process, validate};
pub use scheduling::{cpu_affinity, memory_nodes};

/// The newest runtime-spec that davit implements.
pub const OCI_VERSION: &str = "1.3.0";

/// What is wrong with a bundle's config.json.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no config.json.
    #[error("JSON specification file {0} not found")]
    Missing(PathBuf),
    /// It can't be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// It is not JSON, or not a config: the field, and the parser's words with line and column.
    #[error("{path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The field and the parser's words.
        source: ParseError,
    },
    /// A rule of the runtime-spec, or of runc, is broken.
    #[error("{0}")]
    Invalid(String),
    /// The field is not implemented.
    #[error("config.json: {0} is not supported yet")]
    Unsupported(&'static str),
}

/// Reads and validates a config.json.
///
/// # Errors
/// Any [`Error`].
pub fn load(path: &Path) -> Result<Spec, Error> {
    let spec: Spec = parse_file(path)?;
    validate(&spec)?;
    Ok(spec)
}

/// Reads a JSON file of the runtime-spec: config.json, or the process.json of `exec --process`.
///
/// # Errors
/// [`Error::Missing`], [`Error::Read`], [`Error::Parse`].
pub fn parse_file<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = std::fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::Missing(path.to_owned()),
        _ => Error::Read { path: path.to_owned(), source },
    })?;
    parse(&text).map_err(|source| Error::Parse { path: path.to_owned(), source })
}

/// Parses the text of a JSON file of the runtime-spec.
///
/// # Errors
/// The parser's, with the field.
pub fn parse<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, ParseError> {
    serde_json::from_slice(text)
        .or_else(|first| repair::parse(text).ok_or_else(|| ParseError::new(text, first)))
}

/// The namespace of a kind in the config: `None` when the container shares the runtime's.
#[must_use]
pub fn namespace(spec: &Spec, kind: LinuxNamespaceType) -> Option<&oci_spec::runtime::LinuxNamespace> {
    spec.linux().as_ref()?.namespaces().as_ref()?.iter().find(|ns| ns.typ() == kind)
}

/// The value of an optional list, or the empty one.
#[must_use]
pub fn list<T>(items: &Option<Vec<T>>) -> &[T] {
    items.as_deref().unwrap_or_default()
}
