//! Tests as text: which test functions the tree has, and which words each one uses.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The repository's root folder.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Tables that several test programs run: what a test names of them counts as its own.
const TABLES: [(&str, &str); 2] = [
    ("limits::rows::rows", "tests/src/limits/rows.rs"),
    ("device_rules::{lists", "tests/src/device_rules.rs"),
];

/// One item of a source file: a function, a constant…
#[derive(Debug)]
struct Item {
    name: String,
    text: String,
    is_test: bool,
}

/// A source file with tests in it.
#[derive(Debug)]
pub struct Source {
    items: Vec<Item>,
}

impl Source {
    /// Reads a file, given as `hooks.rs` (below `tests/tests`) or by its path from the repository's root.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read(name: &str) -> std::io::Result<Source> {
        let path = if name.contains('/') { PathBuf::from(name) } else { Path::new("tests/tests").join(name) };
        let mut text = fs::read_to_string(root().join(path))?;
        for (module, file) in TABLES {
            if text.contains(module) {
                text.push_str(&fs::read_to_string(root().join(file))?);
            }
        }
        Ok(Source::parse(&text))
    }

    fn parse(text: &str) -> Source {
        let mut items: Vec<Item> = Vec::new();
        let mut is_test = false;
        for line in text.lines() {
            let code = line.trim_start();
            if code.starts_with("#[test]") {
                is_test = true;
            }
            if let Some(name) = item_name(code) {
                items.push(Item { name: name.to_owned(), text: String::new(), is_test });
                is_test = false;
            }
            if let Some(item) = items.last_mut() {
                item.text.push_str(line);
                item.text.push('\n');
            }
        }
        Source { items }
    }

    /// Whether it has this test function.
    #[must_use]
    pub fn has_test(&self, name: &str) -> bool {
        self.items.iter().any(|item| item.is_test && item.name == name)
    }

    /// Names of its test functions.
    pub fn tests(&self) -> impl Iterator<Item = &str> {
        self.items.iter().filter(|item| item.is_test).map(|item| item.name.as_str())
    }

    /// The text of a test and of the functions and constants of its file that it uses, directly or not.
    #[must_use]
    pub fn text_of(&self, test: &str) -> String {
        let by_name: HashMap<&str, &Item> = self.items.iter().map(|i| (i.name.as_str(), i)).collect();
        let mut wanted = vec![test];
        let mut seen: Vec<&str> = Vec::new();
        let mut text = String::new();
        while let Some(name) = wanted.pop() {
            let Some(item) = by_name.get(name).filter(|_| !seen.contains(&name)) else { continue };
            seen.push(name);
            text.push_str(&item.text);
            wanted.extend(words(&item.text).filter(|word| by_name.contains_key(word)));
        }
        text
    }
}

fn item_name(code: &str) -> Option<&str> {
    let code = code.strip_prefix("pub ").unwrap_or(code);
    let rest =
        ["fn ", "const ", "static ", "struct ", "impl "].iter().find_map(|word| code.strip_prefix(word))?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    rest.get(..end).filter(|name| !name.is_empty())
}

/// Identifiers in a text.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}
