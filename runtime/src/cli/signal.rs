//! Signal names.

use std::str::FromStr;

use anyhow::anyhow;
use nix::sys::signal::Signal;

/// A signal's number from its number or its name, in any case, with or without `SIG`.
///
/// Numbers are not checked here: the kernel knows which exist (0 asks whether the process is there).
pub(super) fn parse(word: &str) -> anyhow::Result<i32> {
    if let Ok(number) = word.parse::<i32>() {
        return Ok(number);
    }
    let unknown = || anyhow!("unknown signal {word:?}");
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // Second names of the same signals.
    let name = match name {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        name => name,
    };
    Signal::from_str(&format!("SIG{name}")).map(|signal| signal as i32).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (word, number) in
            [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("sigkill", 9), ("term", 15), ("0", 0), ("64", 64)]
        {
            assert_eq!(parse(word).unwrap(), number, "{word}");
        }
        for word in ["BAD", "SIG", "", "9x", "SIGSIGKILL", "0x9"] {
            assert!(parse(word).is_err(), "{word}");
        }
        assert_eq!(parse("BAD").unwrap_err().to_string(), "unknown signal \"BAD\"");
    }
}
