//! docs/features.md against the runtime-spec's JSON schema, against the help of runc, crun and davit, and against
//! the tests that it names. A field or flag without a row fails, and so does a row that belongs to nothing or
//! whose test does not exist or never mentions what the row is about.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use davit_tests::skip;
use davit_tests::sources::{Source, root, words};
use serde_json::Value;

/// What may stand in the test column in place of tests, with the reason.
const INSTEAD_OF_TESTS: [(&str, &str); 1] =
    [("other platform", "the schema has it for Windows; on Linux it is not read, like every unknown key")];

/// Fields that runtime-spec 1.3.0 added to 1.2.1, the schema that Debian has.
const ADDED_IN_1_3: [&str; 8] = [
    "linux.intelRdt.enableMonitoring",
    "linux.intelRdt.schemata",
    "linux.memoryPolicy",
    "linux.memoryPolicy.flags",
    "linux.memoryPolicy.mode",
    "linux.memoryPolicy.nodes",
    "linux.netDevices",
    "linux.netDevices{}.name",
];

/// Flags that no help shows: callers still pass them.
const HIDDEN: [&str; 6] = [
    "--criu",
    "create --no-subreaper",
    "exec --no-subreaper",
    "restore --network-lock",
    "update --kernel-memory",
    "update --kernel-memory-tcp",
];

#[derive(Debug)]
struct Row {
    feature: String,
    /// `file.rs::function`, or one entry of [`INSTEAD_OF_TESTS`].
    tests: Vec<String>,
}

/// Rows of docs/features.md, by section: the table's lines below its heading.
fn rows(section: &str) -> Vec<Row> {
    let text = fs::read_to_string(root().join("docs/features.md")).expect("docs/features.md");
    let heading = format!("## {section}");
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let table = lines.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `"));
    let rows: Vec<Row> = table
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            assert_eq!(cells.len(), 3, "three columns: {line}");
            assert!(!cells[1].is_empty(), "a spec section: {line}");
            let tests = cells[2].split(", ").map(|test| test.trim_matches('`').to_owned()).collect();
            Row { feature: cells[0].trim_matches('`').to_owned(), tests }
        })
        .collect();
    assert!(!rows.is_empty(), "no table below {heading:?}");
    rows
}

fn features(rows: &[Row]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for row in rows {
        assert!(all.insert(row.feature.clone()), "{}: two rows", row.feature);
    }
    all
}

#[track_caller]
fn assert_same(what: &str, real: &BTreeSet<String>, table: &BTreeSet<String>) {
    let missing: Vec<_> = real.difference(table).collect();
    assert!(missing.is_empty(), "{what}: no row in docs/features.md: {missing:#?}");
    let stale: Vec<_> = table.difference(real).collect();
    assert!(stale.is_empty(), "{what}: rows that belong to nothing: {stale:#?}");
}

/// Unpacks packages of Debian unstable, as the integration tests do.
fn sid(test: &str, words: &[&str]) -> Option<PathBuf> {
    let out = Command::new(root().join("hack/debian-tree")).args(words).output().expect("hack/debian-tree");
    if !out.status.success() {
        return skip(test, String::from_utf8_lossy(&out.stderr).lines().last().unwrap_or("no package"));
    }
    Some(PathBuf::from(String::from_utf8(out.stdout).expect("a path").trim()))
}

/// The JSON schema's files, by name.
struct Schema(BTreeMap<String, Value>);

impl Schema {
    fn read(dir: &Path) -> Schema {
        let names = ["config-schema.json", "config-linux.json", "defs.json", "defs-linux.json"];
        let read = |name: &str| {
            let text = fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            (name.to_owned(), serde_json::from_str(&text).expect("JSON"))
        };
        Schema(names.into_iter().map(read).collect())
    }

    /// Adds the paths of all properties below a node: `mounts[].options`, `linux.rdma{}.hcaHandles`.
    fn walk(&self, file: &str, node: &Value, path: &str, found: &mut BTreeSet<String>) {
        if let Some(reference) = node["$ref"].as_str() {
            let (other, pointer) = reference.split_once('#').expect("a reference");
            let file = if other.is_empty() { file } else { other };
            // Files of other platforms are not read.
            if let Some(node) = self.0.get(file).and_then(|document| document.pointer(pointer)) {
                self.walk(file, node, path, found);
            }
            return;
        }
        for word in ["allOf", "anyOf", "oneOf"] {
            for part in node[word].as_array().into_iter().flatten() {
                self.walk(file, part, path, found);
            }
        }
        for (key, inner) in node["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            if !["solaris", "windows", "vm", "zos", "freebsd"].contains(&path.as_str()) {
                self.walk(file, inner, &path, found);
                found.insert(path);
            }
        }
        if node["items"].is_object() {
            self.walk(file, &node["items"], &format!("{path}[]"), found);
        }
        for inner in node["patternProperties"].as_object().into_iter().flatten().map(|(_, inner)| inner) {
            self.walk(file, inner, &format!("{path}{{}}"), found);
        }
        if node["additionalProperties"].is_object() {
            self.walk(file, &node["additionalProperties"], &format!("{path}{{}}"), found);
        }
    }
}

#[test]
fn every_field_of_the_schema_has_a_row() {
    let test = "every_field_of_the_schema_has_a_row";
    let packages = ["--name", "specs", "sid", "golang-github-opencontainers-specs-dev"];
    let Some(tree) = sid(test, &packages) else { return };
    let dir = tree.join("usr/share/gocode/src/github.com/opencontainers/runtime-spec/schema");
    let schema = Schema::read(&dir);
    let mut fields: BTreeSet<String> = ADDED_IN_1_3.map(str::to_owned).into();
    schema.walk("config-schema.json", &schema.0["config-schema.json"], "", &mut fields);
    assert!(fields.len() > 200, "{}", fields.len());
    assert_same("config.json", &fields, &features(&rows("Fields of config.json")));
}

/// The output of a help call.
fn help(program: &Path, words: &[&str]) -> String {
    let out = Command::new(program).args(words).arg("--help").output().expect("help");
    assert!(out.status.success(), "{} {words:?}", program.display());
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// Command names of a help text: `   create   create a container`, or crun's `\tcreate      - create…`.
fn commands(text: &str) -> Vec<String> {
    let lines = text.lines().skip_while(|line| *line != "COMMANDS:").skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .map(|word| word.trim_end_matches(',').to_owned())
        .filter(|word| word != "help")
        .collect()
}

/// A flag: its long name without dashes, and its short one.
type Flag = (String, Option<String>);

/// Flags of a help text: lines that begin with a dash, `--all, -a` or `-a, --all=X` or `-e, --env <value>`.
fn flags(text: &str) -> Vec<Flag> {
    let mut all = Vec::new();
    for line in text.lines().map(str::trim_start).filter(|line| line.starts_with('-')) {
        let front = line.split("  ").next().unwrap_or_default();
        let names = front.split([',', ' ', '=', '[', '<']).filter(|word| word.starts_with('-'));
        let (long, short): (Vec<&str>, Vec<&str>) = names.partition(|name| name.starts_with("--"));
        let short = short.first().map(|name| name.trim_start_matches('-').to_owned());
        if let Some(long) = long.first().map(|name| name.trim_start_matches('-')) {
            // crun's argp adds --usage to everything, which prints less than --help.
            if !long.is_empty() && !["help", "usage"].contains(&long) {
                all.push((long.to_owned(), short));
            }
        }
    }
    all
}

/// `exec --env`, or `--root` for a global one; each with its short name.
fn command_line(program: &Path) -> BTreeMap<String, Option<String>> {
    let text = help(program, &[]);
    let mut all: BTreeMap<String, Option<String>> =
        flags(&text).into_iter().map(|(long, short)| (format!("--{long}"), short)).collect();
    for command in commands(&text) {
        let own = flags(&help(program, &[&command]));
        all.extend(own.into_iter().map(|(long, short)| (format!("{command} --{long}"), short)));
        all.insert(command, None);
    }
    all
}

fn davit() -> PathBuf {
    davit_tests::davit()
}

#[test]
fn every_command_and_flag_has_a_row() {
    let test = "every_command_and_flag_has_a_row";
    let Some(tree) = sid(test, &["sid", "containerd", "runc", "crun"]) else { return };
    let ours = command_line(&davit());
    let runc = command_line(&tree.join("bin/runc"));
    let crun = command_line(&tree.join("bin/crun"));
    assert!(runc.len() > 100 && crun.len() > 60, "{} {}", runc.len(), crun.len());
    let mut all: BTreeSet<String> = HIDDEN.map(str::to_owned).into();
    all.extend(ours.keys().chain(runc.keys()).chain(crun.keys()).cloned());
    assert_same("commands and flags", &all, &features(&rows("Commands and flags")));
    // What a peer has, davit has, short names too; or the table says that it is still to come.
    let table = rows("Commands and flags");
    let to_come = |feature: &str| {
        let row = table.iter().find(|row| row.feature == feature);
        row.is_some_and(|row| {
            row.tests.iter().any(|test| INSTEAD_OF_TESTS.iter().any(|(word, _)| word == test))
        })
    };
    for (name, peer) in [("runc", &runc), ("crun", &crun)] {
        for (flag, short) in
            peer.iter().filter(|(flag, _)| !to_come(flag) && !HIDDEN.contains(&flag.as_str()))
        {
            let own = ours.get(flag).unwrap_or_else(|| panic!("{name} has {flag}"));
            assert!(short.is_none() || own == short, "{name} has {flag} as -{short:?}, davit as {own:?}");
        }
    }
}

/// Whether a test's text has what a row is about: the field's key, the flag by either name, the command's word.
fn mentions(text: &str, feature: &str, shorts: &BTreeMap<String, Option<String>>) -> bool {
    if let Some((_, flag)) = feature.rsplit_once("--") {
        let short = shorts.get(feature).cloned().flatten();
        let has = |name: String| {
            text.contains(&format!("{name}\""))
                || text.contains(&format!("{name}="))
                || text.contains(&format!("{name} "))
        };
        return has(format!("-{flag}")) || short.is_some_and(|short| has(format!("\"-{short}")));
    }
    let key = feature.rsplit(['.', ' ']).next().unwrap_or_default();
    words(text).any(|word| word == key)
}

#[test]
fn the_named_tests_exist_and_mention_their_feature() {
    let shorts = command_line(&davit());
    let mut sources: BTreeMap<String, Option<Source>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for row in rows("Fields of config.json").iter().chain(&rows("Commands and flags")) {
        for test in &row.tests {
            if INSTEAD_OF_TESTS.iter().any(|(word, _)| word == test) {
                continue;
            }
            let Some((file, function)) = test.split_once("::") else {
                wrong.push(format!("{}: {test:?} is neither file.rs::test nor a known word", row.feature));
                continue;
            };
            let source = sources.entry(file.to_owned()).or_insert_with(|| Source::read(file).ok());
            match source {
                None => wrong.push(format!("{}: no file {file}", row.feature)),
                Some(source) if !source.has_test(function) => {
                    wrong.push(format!("{}: {file} has no test {function}", row.feature));
                }
                Some(source) if !mentions(&source.text_of(function), &row.feature, &shorts) => {
                    wrong.push(format!("{}: {test} never mentions it", row.feature));
                }
                Some(_) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn words_in_place_of_tests_are_explained_in_the_document() {
    let text = fs::read_to_string(root().join("docs/features.md")).expect("docs/features.md");
    for (word, reason) in INSTEAD_OF_TESTS {
        assert!(text.contains(&format!("- `{word}`: {reason}")), "{word}");
    }
}
