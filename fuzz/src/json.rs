//! Changes of a JSON document that keep it one: most random changes of its bytes would not get past the parser.

use serde_json::{Value, json};

/// A source of choices: xorshift64*.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The same choices for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`, 0 for no limit.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16;
        usize::try_from(word).unwrap_or(0) % limit.max(1)
    }
}

/// Values at which numbers, paths and names break.
fn interesting(random: &mut Random) -> Value {
    let all = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(65536),
        json!(1_048_576),
        json!(i32::MAX),
        json!(i32::MIN),
        json!(u32::MAX),
        json!(u64::from(u32::MAX) + 1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(0.5),
        json!(1e300),
        json!(""),
        json!("/"),
        json!(".."),
        json!("../../x"),
        json!("/proc/self/fd/7"),
        json!("a\u{0}b"),
        json!("a\nb"),
        json!("0-3,7"),
        json!("0-18446744073709551615"),
        json!("system.slice:a:b"),
        json!("-.slice"),
        json!("rwm"),
        json!("*"),
        json!("é€😀"),
        json!([]),
        json!({}),
        json!(["ro", "rbind", "idmap=uids=0-1000-10"]),
        json!("SCMP_ACT_ERRNO"),
        json!("SCMP_CMP_MASKED_EQ"),
        json!("user"),
        json!("1000:1000"),
    ];
    all.get(random.below(all.len())).cloned().unwrap_or_default()
}

/// How many values a document has in all.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// The value of a number, counted from the root.
fn nth(value: &mut Value, n: usize) -> Option<&mut Value> {
    if n == 0 {
        return Some(value);
    }
    let children: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    };
    let mut left = n - 1;
    for child in children {
        let size = count(child);
        if left < size {
            return nth(child, left);
        }
        left -= size;
    }
    None
}

/// One change.
fn change(document: &mut Value, random: &mut Random) {
    let total = count(document);
    let other = nth(document, random.below(total)).map(|value| value.clone()).unwrap_or_default();
    let Some(place) = nth(document, random.below(total)) else { return };
    match (random.below(8), place) {
        (0, Value::Array(items)) if !items.is_empty() => drop(items.remove(random.below(items.len()))),
        (1, Value::Array(items)) if items.len() < 64 => items.push(other),
        (2, Value::Array(items)) if (1..64).contains(&items.len()) => {
            let copy = items.get(random.below(items.len())).cloned().unwrap_or_default();
            items.push(copy);
        }
        (0, Value::Object(map)) if !map.is_empty() => {
            let key = map.keys().nth(random.below(map.len())).cloned().unwrap_or_default();
            map.remove(&key);
        }
        (3, Value::Number(number)) => {
            let near =
                number.as_i64().unwrap_or(0).wrapping_add(i64::try_from(random.below(5)).unwrap_or(0) - 2);
            *number = near.into();
        }
        (3, Value::String(text)) => {
            text.extend(["/", "..", ":", "-", "0", ",", "\u{7f}"].get(random.below(7)).copied());
        }
        (4, Value::String(text)) => drop(text.pop()),
        (5, place) => *place = other,
        (_, place) => *place = interesting(random),
    }
}

/// The document with a few changes; `None` for bytes that are none.
#[must_use]
pub fn changed(bytes: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(bytes).ok()?;
    for _ in 0..=random.below(4) {
        change(&mut document, random);
    }
    serde_json::to_vec(&document).ok()
}
