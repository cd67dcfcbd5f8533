//! Texts that reach the kernel as C strings: one that holds a NUL byte would name something else, cut short.

use oci_spec::runtime::Spec;

use super::rules::{each_hook, invalid};
use super::{Error, list};

/// No path and no name of the config holds a NUL byte. (`process` and mount options are checked where they are
/// turned into C strings.)
pub(super) fn without_nul(spec: &Spec) -> Result<(), Error> {
    let text = |field: &str, text: &str| match text.contains('\0') {
        true => invalid(format!("{field} {text:?} contains a NUL byte")),
        false => Ok(()),
    };
    let path = |field: &str, path: &std::path::Path| text(field, &path.to_string_lossy());
    if let Some(root) = spec.root() {
        path("root.path", root.path())?;
    }
    if let Some(process) = spec.process() {
        path("process.cwd", process.cwd())?;
    }
    text("hostname", spec.hostname().as_deref().unwrap_or_default())?;
    text("domainname", spec.domainname().as_deref().unwrap_or_default())?;
    for (at, mount) in list(spec.mounts()).iter().enumerate() {
        path(&format!("mounts[{at}].destination"), mount.destination())?;
        path(&format!("mounts[{at}].source"), mount.source().as_deref().unwrap_or("".as_ref()))?;
    }
    each_hook(spec, |kind, hook| path(&format!("hooks.{kind}: path"), hook.path()))?;
    let Some(linux) = spec.linux() else { return Ok(()) };
    for namespace in list(linux.namespaces()) {
        let field = format!("path of namespace {}", namespace.typ());
        path(&field, namespace.path().as_deref().unwrap_or("".as_ref()))?;
    }
    for device in list(linux.devices()) {
        path("linux.devices: path", device.path())?;
    }
    for (field, paths) in
        [("linux.maskedPaths", linux.masked_paths()), ("linux.readonlyPaths", linux.readonly_paths())]
    {
        list(paths).iter().try_for_each(|path| text(field, path))?;
    }
    Ok(())
}

/// config-linux.md "Devices": the path is required.
pub(super) fn devices(spec: &Spec) -> Result<(), Error> {
    let devices = spec.linux().as_ref().map(|linux| list(linux.devices())).unwrap_or_default();
    match devices.iter().position(|device| device.path().as_os_str().is_empty()) {
        Some(at) => invalid(format!("linux.devices[{at}]: path must not be empty")),
        None => Ok(()),
    }
}

/// config-linux.md "Seccomp": there must be somebody to ask, and to tell. NOTIFY as the default action and for
/// write(2), which runc refuses, can be handed over here.
pub(super) fn seccomp(spec: &Spec) -> Result<(), Error> {
    let Some(seccomp) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else {
        return Ok(());
    };
    let given = |text: &str| !text.is_empty();
    let path = seccomp.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    if crate::seccomp::notifies(seccomp) && !path {
        return invalid("linux.seccomp.listenerPath is required by SCMP_ACT_NOTIFY");
    }
    if seccomp.listener_metadata().as_deref().is_some_and(given) && !path {
        return invalid("linux.seccomp.listenerMetadata is set without linux.seccomp.listenerPath");
    }
    Ok(())
}
