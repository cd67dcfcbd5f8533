//! Lists of numbers as the kernel's cpuset files have them: `0-3,7`.

/// Numbers as a bit mask: bit n of word m is number 64m+n. Empty for an empty list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// The words; what is behind the last is 0.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    /// How many numbers there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    fn set(&mut self, number: usize) {
        let word = number / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << (number % 64);
        }
    }
}

/// Reads a list of numbers below `limit`. As in runc, spaces around an element and empty elements are
/// skipped; anything else that is no number or ascending range is an error, given as a phrase.
///
/// # Errors
/// The phrase, without the field's name.
pub fn parse(list: &str, limit: usize) -> Result<Bits, String> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<usize>() {
            Ok(number) if digits && number < limit => Ok(number),
            _ if digits => Err(format!("{text} is larger than {}", limit.saturating_sub(1))),
            _ => Err(format!("{text:?} is not a number")),
        }
    };
    let mut bits = Bits::default();
    for element in list.split(',').map(str::trim).filter(|element| !element.is_empty()) {
        let (first, last) = match element.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(element)?, number(element)?),
        };
        if first > last {
            return Err(format!("invalid range {element}"));
        }
        (first..=last).for_each(|at| bits.set(at));
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        assert_eq!(parse("0-3,7", 1024).unwrap().words(), [0b1000_1111]);
        assert_eq!(parse("0-3,7", 1024).unwrap().count(), 5);
        assert_eq!(parse(" 1 ,,64", 1024).unwrap().words(), [2, 1]);
        assert!(parse("", 1024).unwrap().words().is_empty());
        let far = parse("8191", 8192).unwrap();
        assert_eq!((far.words().len(), far.count()), (128, 1));
    }

    #[test]
    fn everything_else_is_refused() {
        for (list, words) in [
            ("a", "\"a\" is not a number"),
            ("-1", "\"\" is not a number"),
            ("+1", "\"+1\" is not a number"),
            ("1-", "\"\" is not a number"),
            ("0x1", "not a number"),
            ("1 2", "not a number"),
            ("1-2-3", "not a number"),
            ("3-1", "invalid range 3-1"),
            ("8192", "8192 is larger than 8191"),
            ("99999999999999999999999", "is larger than 8191"),
        ] {
            let error = parse(list, 8192).unwrap_err();
            assert!(error.contains(words), "{list}: {error}");
        }
    }
}
