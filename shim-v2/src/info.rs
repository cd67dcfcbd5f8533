//! `-info`: what this runtime can do. containerd 2.2 and later asks on every create of a runtime type of its own,
//! so nothing is read or probed.

use std::io::{self, Read, Write};

use anyhow::{Context, Result};

use crate::wire::info;

/// Name and version for people.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Answers `-info`.
///
/// # Errors
/// stdin or stdout fails.
pub fn run() -> Result<()> {
    let mut stdin = Vec::new();
    io::stdin().take(10 << 20).read_to_end(&mut stdin).context("read stdin")?;
    io::stdout().write_all(&info::encode(&stdin, VERSION, &features())).context("write to stdout")
}

/// The runtime's features: containerd and CRI look at its namespaces and mount options.
fn features() -> String {
    davit::cli::features_document().to_string()
}

/// Prints `-v`.
///
/// # Errors
/// stdout fails.
pub fn version() -> Result<()> {
    let name = std::env::args().next().unwrap_or_default();
    let revision = option_env!("DAVIT_COMMIT").unwrap_or("unknown");
    writeln!(io::stdout(), "{name}:\n  Version:  {VERSION}\n  Revision: {revision}")
        .context("write to stdout")
}

#[cfg(test)]
mod tests {
    #[test]
    fn features_are_json_with_what_callers_read() {
        let value: serde_json::Value = serde_json::from_str(&super::features()).unwrap();
        let has = |list: &serde_json::Value, word: &str| list.as_array().unwrap().iter().any(|v| v == word);
        assert!(has(&value["linux"]["namespaces"], "user"));
        assert!(value["ociVersionMin"].is_string());
    }
}
