//! Containers whose cgroups a real systemd makes, and what systemd says of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use davit_tests::{Bundle, Container, Output, RUNC, World, unique};
use serde_json::{Value, json};

/// A command of systemd's; its standard output.
#[track_caller]
pub fn systemd(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// All properties of a unit. What stands on several lines, as each device does, has a space between its values.
pub fn show(unit: &str) -> BTreeMap<String, String> {
    let text = systemd("systemctl", &["show", "--all", unit]);
    let mut properties = BTreeMap::<String, String>::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        properties
            .entry(key.to_owned())
            .and_modify(|values| {
                values.push(' ');
                values.push_str(value);
            })
            .or_insert_with(|| value.to_owned());
    }
    properties
}

pub fn load_state(unit: &str) -> String {
    systemd("systemctl", &["show", "-p", "LoadState", "--value", unit]).trim().to_owned()
}

#[track_caller]
pub fn assert_gone(unit: &str) {
    assert_eq!(load_state(unit), "not-found", "{unit} is left");
}

/// A container whose unit systemd makes.
pub struct Unit<'w> {
    pub container: Container<'w>,
    pub bundle: &'w Path,
    pub world: &'w World,
    pub name: String,
}

impl<'w> Unit<'w> {
    /// In `system.slice`, with this prefix.
    pub fn new(world: &'w World, bundle: &'w mut Bundle, prefix: &str) -> Unit<'w> {
        let id = unique("vm");
        let name = format!("{prefix}-{id}.scope");
        bundle.set("/linux/cgroupsPath", json!(format!("system.slice:{prefix}:{id}")));
        let bundle: &Bundle = bundle;
        Unit { container: world.container(bundle), bundle: bundle.dir(), world, name }
    }

    pub fn call(&self, runtime: &Path, words: &[&str]) -> Output {
        let mut all = vec!["--systemd-cgroup"];
        all.extend(words);
        self.world.call(&all).with(runtime).dir(self.bundle).run()
    }

    pub fn davit(&self, words: &[&str]) -> Output {
        self.call(self.world.runtime(), words)
    }

    #[track_caller]
    pub fn create(&self) -> &Self {
        self.davit(&["create", &self.container.id]).ok();
        self
    }

    #[track_caller]
    pub fn finish(self) {
        self.davit(&["delete", "--force", &self.container.id]).ok();
        assert_gone(&self.name);
        self.container.assert_nothing_left();
    }
}

/// Properties that differ between any two units, or that say how they are used at the moment.
fn is_particular(name: &str) -> bool {
    const NAMES: [&str; 8] = [
        "Id",
        "Names",
        "Description",
        "ControlGroup",
        "ControlGroupId",
        "InvocationID",
        "Controller",
        "Transient",
    ];
    NAMES.contains(&name)
        || ["Timestamp", "Current", "Peak", "NSec", "Usage", "Bytes", "Packets", "Operations", "Available"]
            .iter()
            .any(|part| name.contains(part))
        || name.starts_with("Effective")
        // runc sets limits after the start, which makes a file for each.
        || matches!(name, "DropInPaths" | "FragmentPath")
}

/// What davit sets otherwise than Debian 13's runc, and why.
const DIFFERENT: [(&str, &str); 4] = [
    ("CollectMode", "a unit that failed must not keep its name taken"),
    ("CPUWeight", "runc 1.1 has the linear conversion of shares, runc 1.4 the quadratic one"),
    ("DeviceAllow", "compared apart: the order is no matter"),
    ("NeedDaemonReload", "says whether files changed, not what was set"),
];

/// Makes the same container with davit and with runc: the units' properties must be the same, but for what is
/// explained. Davit's are returned.
#[track_caller]
pub fn properties_as_under_runc(
    world: &World,
    resources: &Value,
    annotations: &Value,
) -> BTreeMap<String, String> {
    let shown = |runtime: &Path, prefix: &str| {
        let mut bundle = world.bundle();
        bundle.set("/linux/resources", resources.clone()).set("/annotations", annotations.clone());
        let unit = Unit::new(world, &mut bundle, prefix);
        unit.call(runtime, &["create", &unit.container.id]).ok();
        let properties = show(&unit.name);
        unit.call(runtime, &["delete", "--force", &unit.container.id]).ok();
        assert_gone(&unit.name);
        properties
    };
    let (davit, runc) = (shown(world.runtime(), "vmd"), shown(RUNC.as_ref(), "vmr"));
    assert_eq!(devices(&davit), devices(&runc));
    let keys: std::collections::BTreeSet<_> = davit.keys().chain(runc.keys()).collect();
    let mut wrong = Vec::new();
    for key in keys.into_iter().filter(|key| !is_particular(key)) {
        let explained = DIFFERENT.iter().any(|(name, _)| name == key);
        if davit.get(key) != runc.get(key) && !explained {
            wrong.push(format!("{key}: davit {:?} runc {:?}", davit.get(key), runc.get(key)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    davit
}

/// DeviceAllow's pairs of device and access, sorted. For all devices of a driver runc gives the driver's name in
/// /proc/devices (and nothing if it is not loaded), davit its number, which systemd takes since 240.
fn devices(properties: &BTreeMap<String, String>) -> Vec<String> {
    let words: Vec<&str> = properties["DeviceAllow"].split(' ').collect();
    let number = |pair: String| pair.replace("char-pts", "char-136").replace("block-blkext", "block-259");
    let mut pairs: Vec<_> = words.chunks(2).map(|pair| number(pair.join(" "))).collect();
    pairs.sort();
    pairs
}
