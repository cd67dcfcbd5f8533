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
    if let Some(number) = real_time(name) {
        return Ok(number);
    }
    // Second names of the same signals.
    let name = match name {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        name => name,
    };
    Signal::from_str(&format!("SIG{name}")).map(|signal| signal as i32).map_err(|_| unknown())
}

/// `RTMIN`, `RTMIN+n`, `RTMAX-n`, `RTMAX`. Numbers as glibc counts them, whatever this program is linked with:
/// the image that stops on `RTMIN+3` was made with its headers.
fn real_time(name: &str) -> Option<i32> {
    /// The kernel's 32 and 33 are the C library's own.
    const FIRST: i32 = 34;
    const LAST: i32 = 64;
    let offset = |text: &str, sign: char| match text.strip_prefix(sign) {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<i32>().ok(),
        Some(_) => None,
        None => text.is_empty().then_some(0),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        FIRST.checked_add(offset(rest, '+')?)?
    } else {
        LAST.checked_sub(offset(name.strip_prefix("RTMAX")?, '-')?)?
    };
    (FIRST..=LAST).contains(&number).then_some(number)
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
        for (word, number) in
            [("RTMIN", 34), ("SIGRTMIN+3", 37), ("rtmin+30", 64), ("RTMAX", 64), ("SIGRTMAX-1", 63)]
        {
            assert_eq!(parse(word).unwrap(), number, "{word}");
        }
        for word in ["RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMAX-31", "RTMIN++1", "RTMIN+", "RTMINx"] {
            assert!(parse(word).is_err(), "{word}");
        }
        for word in ["BAD", "SIG", "", "9x", "SIGSIGKILL", "0x9"] {
            assert!(parse(word).is_err(), "{word}");
        }
        assert_eq!(parse("BAD").unwrap_err().to_string(), "unknown signal \"BAD\"");
    }
}
