//! `org.systemd.property.*` annotations: properties of the unit in GVariant's text format, as runc takes them. Pure.

use super::wire::Value;
use crate::cgroup::error::Error;

const KEY: &str = "org.systemd.property.";

/// The property that an annotation sets; None for any other annotation.
pub(super) fn property(key: &str, text: &str) -> Result<Option<(String, Value)>, Error> {
    let Some(name) = key.strip_prefix(KEY) else { return Ok(None) };
    if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(Error::InvalidName { what: "systemd property in annotation", name: key.to_owned() });
    }
    let invalid = || Error::Annotation { key: key.to_owned(), value: text.to_owned() };
    let value = parse(text).ok_or_else(invalid)?;
    // The files of units say TimeoutStopSec, the bus says TimeoutStopUSec.
    match name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase())) {
        Some(stem) => Ok(Some((format!("{stem}USec"), microseconds(&value).ok_or_else(invalid)?))),
        None => Ok(Some((name.to_owned(), value))),
    }
}

fn microseconds(seconds: &Value) -> Option<Value> {
    let whole = |n: u64| n.checked_mul(1_000_000).map(Value::U64);
    match seconds {
        Value::Byte(n) => whole(u64::from(*n)),
        Value::I16(n) => whole(u64::try_from(*n).ok()?),
        Value::U16(n) => whole(u64::from(*n)),
        Value::I32(n) => whole(u64::try_from(*n).ok()?),
        Value::U32(n) => whole(u64::from(*n)),
        Value::I64(n) => whole(u64::try_from(*n).ok()?),
        Value::U64(n) => whole(*n),
        // Beyond 2^53 a double has no microseconds.
        Value::Double(n) if *n >= 0.0 && *n < 9.0e9 => Some(Value::U64((*n * 1e6).round() as u64)),
        _ => None,
    }
}

/// A whole value.
fn parse(text: &str) -> Option<Value> {
    let mut parser = Parser { rest: text };
    let value = parser.value(None)?;
    parser.skip_space();
    parser.rest.is_empty().then_some(value)
}

/// How deep arrays and tuples may be nested.
const DEPTH: usize = 8;

struct Parser<'t> {
    rest: &'t str,
}

impl<'t> Parser<'t> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, sign: &str) -> bool {
        self.skip_space();
        let found = self.rest.strip_prefix(sign);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    /// Text up to the first character that is not of a word or number.
    fn word(&mut self) -> &'t str {
        self.skip_space();
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c)));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    fn value(&mut self, signature: Option<&str>) -> Option<Value> {
        self.nested(signature, 0)
    }

    /// A value of this type, or of the type that the text has by itself.
    fn nested(&mut self, signature: Option<&str>, depth: usize) -> Option<Value> {
        if depth > DEPTH {
            return None;
        }
        self.skip_space();
        match self.rest.chars().next()? {
            '@' => {
                self.rest = self.rest.get(1..)?;
                let end = self.rest.find(char::is_whitespace)?;
                let (given, rest) = self.rest.split_at(end);
                self.rest = rest;
                self.nested(Some(given), depth + 1)
            }
            '[' => self.array(signature, depth),
            '(' => self.tuple(signature, depth),
            quote @ ('\'' | '"') => {
                self.rest = self.rest.get(1..)?;
                let text = self.quoted(quote)?;
                typed_text(signature.unwrap_or("s"), text)
            }
            _ => match self.word() {
                "true" if matches!(signature, None | Some("b")) => Some(Value::Bool(true)),
                "false" if matches!(signature, None | Some("b")) => Some(Value::Bool(false)),
                word => match keyword(word) {
                    Some(given) => self.nested(Some(given), depth + 1),
                    None => number(signature, word),
                },
            },
        }
    }

    fn array(&mut self, signature: Option<&str>, depth: usize) -> Option<Value> {
        self.eat("[").then_some(())?;
        let mut element = match signature {
            Some(signature) => Some(signature.strip_prefix('a')?.to_owned()),
            None => None,
        };
        let mut items = Vec::new();
        while !self.eat("]") {
            if !items.is_empty() && !self.eat(",") {
                return None;
            }
            let item = self.nested(element.as_deref(), depth + 1)?;
            // The first element says what the others are.
            if *element.get_or_insert_with(|| item.signature()) != item.signature() {
                return None;
            }
            items.push(item);
        }
        Some(Value::Array(element?, items))
    }

    fn tuple(&mut self, signature: Option<&str>, depth: usize) -> Option<Value> {
        self.eat("(").then_some(())?;
        let mut items = Vec::new();
        while !self.eat(")") {
            if !items.is_empty() && !self.eat(",") {
                return None;
            }
            items.push(self.nested(None, depth + 1)?);
        }
        let tuple = Value::Tuple(items);
        signature.is_none_or(|signature| signature == tuple.signature()).then_some(tuple)
    }

    fn quoted(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.rest = self.rest.get(at + 1..)?;
                    return Some(text);
                }
                '\\' => text.push(match chars.next()?.1 {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other @ ('\\' | '\'' | '"') => other,
                    _ => return None,
                }),
                '\0' => return None,
                _ => text.push(c),
            }
        }
        None
    }
}

fn typed_text(signature: &str, text: String) -> Option<Value> {
    match signature {
        "s" => Some(Value::Text(text)),
        "o" if text.starts_with('/') => Some(Value::Path(text)),
        "g" if text.len() <= 255 => Some(Value::Signature(text)),
        _ => None,
    }
}

fn keyword(word: &str) -> Option<&'static str> {
    Some(match word {
        "boolean" => "b",
        "byte" => "y",
        "int16" => "n",
        "uint16" => "q",
        "int32" | "handle" => "i",
        "uint32" => "u",
        "int64" => "x",
        "uint64" => "t",
        "double" => "d",
        "string" => "s",
        "objectpath" => "o",
        "signature" => "g",
        _ => return None,
    })
}

/// Decimal, octal with 0 or hexadecimal with 0x; int32 unless a type is given or it has a point.
fn number(signature: Option<&str>, word: &str) -> Option<Value> {
    let is_double = !word.starts_with("0x") && word.contains(['.', 'e', 'E']);
    let signature = signature.unwrap_or(if is_double { "d" } else { "i" });
    if signature == "d" {
        return word.parse().ok().map(Value::Double);
    }
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let magnitude = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None if digits.len() > 1 && digits.starts_with('0') => u64::from_str_radix(digits, 8).ok()?,
        None => digits.parse().ok()?,
    };
    let n = sign * i128::from(magnitude);
    match signature {
        "y" => n.try_into().ok().map(Value::Byte),
        "n" => n.try_into().ok().map(Value::I16),
        "q" => n.try_into().ok().map(Value::U16),
        "i" => n.try_into().ok().map(Value::I32),
        "u" => n.try_into().ok().map(Value::U32),
        "x" => n.try_into().ok().map(Value::I64),
        "t" => n.try_into().ok().map(Value::U64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_values() {
        let text = |text: &str| Value::Text(text.to_owned());
        let table = [
            ("true", Value::Bool(true)),
            ("'it\\'s'", text("it's")),
            ("\"two words\"", text("two words")),
            ("5", Value::I32(5)),
            ("-5", Value::I32(-5)),
            ("0x10", Value::I32(16)),
            ("010", Value::I32(8)),
            ("uint64 18446744073709551615", Value::U64(u64::MAX)),
            ("@t 7", Value::U64(7)),
            ("byte 0xff", Value::Byte(255)),
            ("1.5", Value::Double(1.5)),
            ("objectpath '/a'", Value::Path("/a".to_owned())),
            ("['a', 'b']", Value::strings(&["a", "b"])),
            ("@as []", Value::strings(&[])),
            ("@ay [1, 2]", Value::bytes(&[1, 2])),
            (
                "[('a', uint32 1)]",
                Value::Array("(su)".to_owned(), vec![Value::Tuple(vec![text("a"), Value::U32(1)])]),
            ),
            (" 'x' ", text("x")),
        ];
        for (given, expected) in table {
            assert_eq!(parse(given), Some(expected), "{given}");
        }
        let deep = "[".repeat(10_000);
        for bad in
            ["", "abc", "'a", "[", "[1, 'a']", "[]", "5 5", "byte 256", "uint32 -1", "@as [1]", "(1", &deep]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn annotations_become_properties() {
        let of = |name: &str, text: &str| property(&format!("{KEY}{name}"), text).unwrap().unwrap();
        assert_eq!(property("org.opencontainers.x", "1").unwrap(), None);
        assert_eq!(of("CollectMode", "'inactive'").0, "CollectMode");
        assert_eq!(of("TimeoutStopSec", "uint64 2"), ("TimeoutStopUSec".to_owned(), Value::U64(2_000_000)));
        assert_eq!(of("TimeoutStopSec", "1.5"), ("TimeoutStopUSec".to_owned(), Value::U64(1_500_000)));
        // Not a unit of time: no lower case before it.
        assert_eq!(of("FOOSec", "1").0, "FOOSec");
        for (name, text) in [("A", "1"), ("Two.Words", "1"), ("MemoryMax", "lots"), ("TimeoutSec", "'1'")] {
            assert!(property(&format!("{KEY}{name}"), text).is_err(), "{name}={text}");
        }
    }
}
