//! `mounts` of the config → [`Mount`] steps.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount as SpecMount, Spec};

use super::{Facts, Mount, MountSource, Options};
use crate::spec::{Error, list, namespace};
use crate::sys::mount::Reach;

/// A path without leading slashes and `.` components, for comparing.
pub(super) fn normal(path: &Path) -> PathBuf {
    path.components().filter(|c| matches!(c, std::path::Component::Normal(_))).collect()
}

pub(super) fn plan_mount(
    spec: &Spec,
    mount: &SpecMount,
    bundle: &Path,
    facts: &Facts,
) -> Result<Mount, Error> {
    let destination = mount.destination().clone();
    let name = destination.display();
    let options = Options::parse(list(mount.options()))
        .map_err(|e| Error::Invalid(format!("mounts[]: {name}: {e}")))?;
    if normal(&destination).as_os_str().is_empty() {
        return Err(Error::Invalid(format!("mounts[]: {name}: mounting over / is not allowed")));
    }
    let cstring = |text: &Path| {
        crate::sys::cstring(text)
            .map_err(|_| Error::Invalid(format!("mounts[]: {name}: NUL byte in {text:?}")))
    };
    let kind = mount.typ().as_deref().unwrap_or_default();
    let source = mount.source().clone().unwrap_or_default();
    let source = if let Some(reach) = options.bind.or((kind == "bind").then_some(Reach::Tree)) {
        if !options.data.is_empty() {
            let words: Vec<_> = options.data.iter().map(|(key, _)| key.to_string_lossy()).collect();
            return Err(Error::Invalid(format!(
                "mounts[]: {name}: bind mounts cannot have filesystem options: {}",
                words.join(",")
            )));
        }
        MountSource::Bind { path: bundle.join(source), reach }
    } else if kind == "cgroup" && !facts.cgroup_v1.is_empty() {
        let namespaced = namespace(spec, LinuxNamespaceType::Cgroup).is_some();
        MountSource::CgroupV1 { views: facts.cgroup_v1.clone(), namespaced }
    } else if kind == "cgroup" {
        MountSource::Filesystem { kind: c"cgroup2".to_owned(), source: c"cgroup".to_owned() }
    } else if kind.is_empty() {
        return Err(Error::Invalid(format!(
            "mounts[]: {name}: type is required unless bind or rbind is an option"
        )));
    } else {
        MountSource::Filesystem { kind: cstring(Path::new(kind))?, source: cstring(&source)? }
    };
    Ok(Mount { destination, source, options })
}
