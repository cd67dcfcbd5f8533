//! What `create` and `start` would do with a bundle, in order, without doing it.

use std::path::Path;

use oci_spec::runtime::{Hook, Process, Spec};

use super::create::{Planned, absolute, planned};
use super::dir::Dir;
use super::{CreateOptions, Result, Runtime};
use crate::cgroup::{Cgroup, Mode};
use crate::plan::{Description, Plan, Step, exec_plan};
use crate::sorted::list_of;
use crate::spec::list;

/// The steps for a bundle. Only `id`, `bundle`, `config`, `root_switch` and `new_keyring` of the options count.
///
/// # Errors
/// What is wrong with the config.
pub fn explain(runtime: &Runtime, options: &CreateOptions) -> Result<Vec<Description>> {
    let bundle = absolute(&options.bundle)?;
    let Planned { spec, cgroup, plan } = planned(runtime, options, &bundle, &Dir::of(runtime, &options.id)?)?;
    let mut all = before(&spec, &cgroup);
    let entry = plan.describe_entry();
    all.extend(entry);
    all.extend(after_clone(&spec, &cgroup, &plan));
    let steps = plan.describe_steps();
    for (at, description) in steps.into_iter().enumerate() {
        let hooks = matches!(plan.steps.get(at), Some(Step::RuntimeHooks));
        all.push(description);
        if hooks {
            all.extend(runtime_hooks(&spec));
        }
    }
    let poststart = spec.hooks().as_ref().map(|hooks| list(hooks.poststart())).unwrap_or_default();
    all.extend(run_hooks("poststart", poststart));
    Ok(all)
}

/// The steps of `exec` for a process in this bundle's container.
///
/// # Errors
/// What is wrong with the config or the process.
pub fn explain_exec(options: &CreateOptions, process: &Process) -> Result<Vec<Description>> {
    let bundle = absolute(&options.bundle)?;
    let spec = crate::spec::load(&config_path(options, &bundle))?;
    let plan = exec_plan(&spec, process, &options.id, options.new_keyring)?;
    let mut all = vec![
        Description::by_runtime("join namespaces", "of the container's init", &["setns"]),
        Description::by_runtime("join cgroup", "of the container", &["write"]),
    ];
    all.extend(plan.describe_entry());
    all.extend(compile_seccomp(&spec));
    all.extend(plan.describe_steps());
    Ok(all)
}

fn config_path(options: &CreateOptions, bundle: &Path) -> std::path::PathBuf {
    options.config.clone().unwrap_or_else(|| bundle.join("config.json"))
}

/// What the runtime does before there is a process.
fn before(spec: &Spec, cgroup: &Cgroup) -> Vec<Description> {
    let paths = cgroup.paths();
    if paths.is_empty() {
        return vec![Description::by_runtime("stay in the caller's cgroup", "", &[])];
    }
    let mut dirs = list_of(paths.values().map(|path| path.display().to_string()));
    dirs.dedup();
    let mut all = vec![Description::by_runtime("make cgroup", dirs.join(" "), &["mkdirat", "write"])];
    if cgroup.mode() != Mode::V2 {
        all.push(Description::by_runtime("write device rules", rules(spec), &["write"]));
    }
    all
}

/// What the runtime does while init mounts.
fn after_clone(spec: &Spec, cgroup: &Cgroup, plan: &Plan) -> Vec<Description> {
    let mut all = Vec::new();
    if let Some(config) = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()) {
        let group = crate::resctrl::clos_id(config).unwrap_or("of its own");
        all.push(Description::by_runtime("join resctrl group", group, &["mkdir", "write"]));
    }
    let (has_cgroup, is_v2) = (!cgroup.paths().is_empty(), cgroup.mode() == Mode::V2);
    if has_cgroup && !is_v2 {
        all.push(Description::by_runtime("join cgroup", "in every hierarchy", &["write"]));
    }
    if plan.namespaces.network_apart {
        let calls = &["unshare", "socket", "ioctl", "setns", "sendmsg"];
        all.push(Description::by_runtime("make network namespace", "with lo up", calls));
    }
    if has_cgroup {
        if is_v2 {
            // clone3 has put the process there.
            all.push(Description::by_runtime("load device rules", rules(spec), &["bpf"]));
        }
        let limits = limits(spec);
        if !limits.is_empty() {
            all.push(Description::by_runtime("write limits", limits, &["write"]));
        }
    }
    all.extend(compile_seccomp(spec));
    all
}

fn rules(spec: &Spec) -> String {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let count = resources.map_or(0, |resources| list(resources.devices()).len());
    format!("{count} of the config and the default ones")
}

/// The keys of linux.resources that are set, without the devices.
fn limits(spec: &Spec) -> String {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let Some(Ok(serde_json::Value::Object(map))) = resources.map(serde_json::to_value) else {
        return String::new();
    };
    let set = map.iter().filter(|(key, value)| *key != "devices" && !value.is_null());
    list_of(set.map(|(key, value)| format!("{key} {value}"))).join(", ")
}

fn compile_seccomp(spec: &Spec) -> Option<Description> {
    let seccomp = spec.linux().as_ref()?.seccomp().as_ref()?;
    let object = format!("{} rules", list(seccomp.syscalls()).len());
    Some(Description::by_runtime("compile and send the seccomp filter", object, &["sendmsg"]))
}

fn runtime_hooks(spec: &Spec) -> Vec<Description> {
    let Some(hooks) = spec.hooks() else { return Vec::new() };
    // The spec deprecates prestart; Docker still uses it.
    #[allow(deprecated)]
    let prestart = run_hooks("prestart", list(hooks.prestart()));
    prestart.into_iter().chain(run_hooks("createRuntime", list(hooks.create_runtime()))).collect()
}

fn run_hooks(kind: &str, hooks: &[Hook]) -> Option<Description> {
    let paths: Vec<_> = hooks.iter().map(|hook| hook.path().display().to_string()).collect();
    let object = format!("{kind}: {}", paths.join(" "));
    (!paths.is_empty()).then(|| Description::by_runtime("run hooks", object, &["execve"]))
}
