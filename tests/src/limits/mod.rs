//! `linux.resources`, field by field: what is set at create and changed by `update` reads back from the files of the
//! cgroup as runc makes it read back, on the same machine with the same config.
//!
//! [`rows`](rows::rows) is the table, [`DIFFERENCES`](differences::DIFFERENCES) what is meant to differ, with the
//! reason. Any other difference fails, and so does an entry that no longer occurs. The same table runs on the host's
//! v1 or hybrid tree, on pure v2 and in the virtual machine: see [`compare`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::{Bundle, Call, Container, Output, View, World, host};

pub mod differences;
pub mod disk;
pub mod rows;

pub use differences::Difference;
pub use disk::Disks;
pub use rows::Row;

/// Which runc is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// 1.1, of Debian 12 and 13.
    Old,
    /// 1.2 and newer.
    New,
}

/// A runc to compare with.
#[derive(Clone, Debug)]
pub struct Oracle {
    program: PathBuf,
    age: Age,
    version: String,
}

impl Oracle {
    /// Asks a runc for its version.
    ///
    /// # Panics
    /// When it can't be run.
    #[must_use]
    pub fn new(program: &Path) -> Oracle {
        let output = Command::new(program).arg("--version").output().expect("runc --version");
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().next().unwrap_or_default().trim_start_matches("runc version ").to_owned();
        let age = if version.starts_with("1.1.") { Age::Old } else { Age::New };
        Oracle { program: program.to_owned(), age, version }
    }
}

/// The kind of cgroup tree that a table is run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// cgroup v1, or v1 with some controllers on v2.
    V1,
    /// cgroup v2 that has hugetlb alone: the rest of this machine's controllers are on v1.
    BareV2,
    /// cgroup v2 with all controllers, made by the runtime itself.
    V2,
    /// cgroup v2 with all controllers, made by systemd.
    Systemd,
}

/// Where and how the containers are made.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'w> {
    /// State, scratch files and davit.
    pub world: &'w World,
    /// What is at /sys/fs/cgroup.
    pub view: View,
    /// Its kind.
    pub tree: Tree,
    /// Flags before the command: `--systemd-cgroup`.
    pub global: &'w [&'w str],
}

/// What was seen after a step.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// The error, when the step failed.
    error: Option<String>,
    /// The settings, by hierarchy and file.
    files: BTreeMap<String, String>,
}

/// Runs each row with davit and with each runc, and returns what differs without a reason, a line each.
#[must_use]
pub fn compare(setting: Setting<'_>, oracles: &[Oracle], rows: &[Row]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut used = BTreeSet::new();
    // One for all: its root filesystem is copied.
    let mut bundle = setting.world.bundle();
    bundle.args(&["sleep", "1000"]);
    for row in rows {
        let ours = run(setting, &mut bundle, row, setting.world.runtime());
        for oracle in oracles {
            let theirs = run(setting, &mut bundle, row, &oracle.program);
            for (step, (our, their)) in ours.iter().zip(&theirs).enumerate() {
                for (file, davit, runc) in differing(our, their) {
                    let found = differences::find(setting.tree, oracle.age, row.name, &file, [&davit, &runc]);
                    match found {
                        Some(entry) => drop(used.insert(entry)),
                        None => {
                            let problem = format!(
                                "{}: step {step}: {file}: davit {davit:?}, runc {} {runc:?}",
                                row.name, oracle.version
                            );
                            // At once too: the table takes long.
                            println!("{problem}");
                            problems.push(problem);
                        }
                    }
                }
            }
        }
    }
    let ages: Vec<Age> = oracles.iter().map(|oracle| oracle.age).collect();
    let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
    problems.extend(differences::stale(setting.tree, &ages, &names, &used));
    problems
}

/// The files whose content differs, with both contents, and whether the step succeeded.
fn differing(ours: &Seen, theirs: &Seen) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    if ours.error.is_some() != theirs.error.is_some() {
        let shown = |seen: &Seen| seen.error.clone().unwrap_or_else(|| "succeeds".to_owned());
        all.push(("error".to_owned(), shown(ours), shown(theirs)));
    }
    // A container that was not created has no files.
    if ours.files.is_empty() || theirs.files.is_empty() {
        return all;
    }
    let names: BTreeSet<&String> = ours.files.keys().chain(theirs.files.keys()).collect();
    for name in names {
        let of = |seen: &Seen| seen.files.get(name).cloned().unwrap_or_else(|| "no file".to_owned());
        let (our, their) = (of(ours), of(theirs));
        if our != their {
            all.push((name.clone(), our, their));
        }
    }
    all
}

/// Creates a container of a row and makes its updates; what was seen after each step.
fn run(setting: Setting<'_>, bundle: &mut Bundle, row: &Row, runtime: &Path) -> Vec<Seen> {
    let mut resources = row.create.clone();
    if resources.get("devices").is_none() {
        resources["devices"] = json!([{"allow": false, "access": "rwm"}]);
    }
    bundle.set("/linux/resources", resources);
    let container = setting.world.container(bundle);
    let call = |words: &[&str]| setting.call(&[words, &[container.id.as_str()]].concat(), runtime);
    let create = call(&["create"]).dir(bundle.dir()).run();
    let mut steps = vec![setting.seen(&create, &container)];
    let cgroups = setting.pid(&container).map(host::cgroups_of).unwrap_or_default();
    if create.code == 0 {
        for update in &row.updates {
            let input = update.to_string();
            let output = call(&["update", "-r", "-"]).stdin(input.as_bytes()).run();
            steps.push(setting.seen(&output, &container));
        }
    }
    // By davit whoever made it, which takes less time.
    let davit = setting.world.runtime();
    let deleted = setting.call(&["delete", "--force", &container.id], davit).run();
    assert_eq!(deleted.code, 0, "{}: delete: {}", row.name, deleted.stderr);
    assert!(setting.state(&container).is_none(), "{}: its state is left", row.name);
    // A search of everything takes long where processors are slow.
    let own = cgroups.iter().map(|(_, dir)| dir).filter(|dir| dir.to_string_lossy().contains(&container.id));
    let left: Vec<_> = own.filter(|dir| dir.exists()).collect();
    assert!(left.is_empty(), "{}: {left:?} are left", row.name);
    if cgroups.is_empty() {
        container.assert_nothing_left();
    }
    steps
}

impl Setting<'_> {
    fn call(&self, words: &[&str], runtime: &Path) -> Call<'_> {
        self.world.call(&[self.global, words].concat()).with(runtime).view(self.view)
    }

    /// Its state.json, read here: asking the runtime costs a process.
    fn state(&self, container: &Container<'_>) -> Option<Value> {
        let bytes = fs::read(self.world.root().join(&container.id).join("state.json")).ok()?;
        Some(serde_json::from_slice(&bytes).expect("state.json"))
    }

    /// Its first process.
    fn pid(&self, container: &Container<'_>) -> Option<i32> {
        let pid = self.state(container)?["init_process_pid"].as_i64().expect("init_process_pid");
        Some(i32::try_from(pid).expect("pid"))
    }

    fn seen(&self, output: &Output, container: &Container<'_>) -> Seen {
        let error = (output.code != 0).then(|| output.error());
        Seen { error, files: self.pid(container).map(settings).unwrap_or_default() }
    }
}

/// The content of every file of a process's cgroups that is a setting.
#[must_use]
pub fn settings(pid: i32) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (hierarchy, dir) in host::cgroups_of(pid) {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let wanted = |file: &fs::Metadata| file.is_file() && is_setting(&name, file.permissions().mode());
            if entry.metadata().is_ok_and(|file| wanted(&file)) {
                all.extend(content(&dir.join(&name)).map(|text| (format!("{hierarchy}/{name}"), text)));
            }
        }
    }
    all
}

/// Files that can be written and read are settings, but for members and counters that a write resets.
fn is_setting(name: &str, mode: u32) -> bool {
    const LISTS: [&str; 3] = ["devices.list", "cgroup.controllers", "cgroup.type"];
    const MEMBERS: [&str; 4] = ["cgroup.procs", "cgroup.threads", "tasks", "cpuacct.usage"];
    const COUNTERS: [&str; 4] = ["failcnt", "max_usage_in_bytes", ".pressure", ".peak"];
    let both = mode & 0o400 != 0 && mode & 0o200 != 0;
    LISTS.contains(&name)
        || both && !MEMBERS.contains(&name) && !COUNTERS.iter().any(|end| name.ends_with(end))
}

/// Lines in a fixed order: the one of the writes means nothing.
fn content(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.sort_unstable();
    Some(lines.join("; "))
}

/// A value with several limits in it, for tests of what is left alone.
#[must_use]
pub fn several() -> Value {
    json!({"pids": {"limit": 100}, "cpu": {"shares": 512}, "memory": {"limit": 64 << 20}})
}
