//! SECURITY.md against the tests: each row names tests that exist, each attack is in the document, and every hole that
//! is known to concern a runtime has a row.

use std::collections::BTreeSet;
use std::fs;

use davit_tests::sources::{Source, root};

/// Holes of runc, crun and youki, and those of containerd and moby that reach a runtime or a shim.
const HOLES: [&str; 43] = [
    // runc
    "CVE-2016-3697",
    "CVE-2016-8867",
    "CVE-2016-9962",
    "CVE-2019-5736",
    "CVE-2019-16884",
    "CVE-2019-19921",
    "CVE-2021-30465",
    "CVE-2021-43784",
    "CVE-2022-24769",
    "CVE-2022-29162",
    "CVE-2023-25809",
    "CVE-2023-27561",
    "CVE-2023-28642",
    "GHSA-5g49-rx9x-qfc6",
    "CVE-2024-21626",
    "CVE-2024-45310",
    "CVE-2025-31133",
    "CVE-2025-52565",
    "CVE-2025-52881",
    "CVE-2026-41579",
    "runc#5272",
    // crun
    "CVE-2019-18837",
    "CVE-2022-27650",
    "CVE-2025-24965",
    "CVE-2026-30892",
    "CVE-2026-47766",
    "crun 1.28",
    "crun atou",
    "crun#331",
    "crun#2262",
    // youki
    "CVE-2025-27612",
    "CVE-2025-54867",
    "CVE-2025-62161",
    "CVE-2025-62596",
    // containerd and moby
    "CVE-2020-15257",
    "CVE-2021-41103",
    "CVE-2022-31030",
    "CVE-2023-25173",
    "CVE-2024-25621",
    "CVE-2024-40635",
    "CVE-2025-47291",
    "CVE-2026-46680",
    "moby GHSA-6fw5-f8r9-fgfm",
];

/// Where the attacks are: folders and files from the repository's root.
const SHIM: &str = "shim-v2/tests/attacks.rs";
const HERE: &str = "tests/tests/attacks";

fn document() -> String {
    fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md")
}

/// Every `file.rs::test` of the document.
fn named(text: &str) -> BTreeSet<(String, String)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let pairs = quoted.filter_map(|word| word.split_once("::"));
    pairs
        .filter(|(file, _)| file.ends_with(".rs"))
        .map(|(file, test)| {
            let file = if file.contains('/') { file.to_owned() } else { format!("{HERE}/{file}") };
            (file, test.to_owned())
        })
        .collect()
}

fn rows(text: &str) -> Vec<Vec<String>> {
    let table = text.split("## Holes, rules, tests").nth(1).expect("the table");
    let table = table.split("\n## ").next().expect("the table");
    let lines = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| hole |"));
    lines
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

#[test]
fn every_hole_has_a_row_with_a_rule_and_a_test() {
    let text = document();
    let rows = rows(&text);
    for row in &rows {
        assert_eq!(row.len(), 4, "hole, rule, test, shown on: {row:?}");
        assert!(row.iter().all(|cell| !cell.is_empty()), "{row:?}");
        assert!(!named(&row[2]).is_empty(), "{} names no test", row[0]);
        for rule in row[1].split(", ").filter(|rule| *rule != "none") {
            assert!(text.contains(&format!("\n{rule}. **")), "{}: there is no rule {rule}", row[0]);
        }
    }
    for hole in HOLES {
        let found = rows.iter().filter(|row| row[0] == hole || row[0].starts_with(&format!("{hole} (")));
        assert_eq!(found.count(), 1, "rows of {hole}");
    }
    assert_eq!(rows.len(), HOLES.len(), "a row that this test does not know");
}

#[test]
fn the_document_names_tests_that_exist_and_all_attacks() {
    let text = document();
    let named = named(&text);
    for (file, test) in &named {
        let source = Source::read(file).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(source.has_test(test), "{file} has no test {test}");
    }
    let folder = fs::read_dir(root().join(HERE)).expect("attacks").flatten();
    let files = folder.map(|entry| format!("{HERE}/{}", entry.file_name().to_string_lossy()));
    for file in files.chain([SHIM.to_owned()]).filter(|file| !file.ends_with("/table.rs")) {
        for test in Source::read(&file).expect("a source").tests() {
            assert!(named.contains(&(file.clone(), test.to_owned())), "{file}::{test} is not in SECURITY.md");
        }
    }
}
