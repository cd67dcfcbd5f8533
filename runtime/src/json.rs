//! One type made of another that has the same JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Through text: `to_value` and `from_value` would compile every type that goes through them a second time, the spec
/// with its 300 KB among them.
///
/// # Errors
/// The parser's words without its line and column, which are of a text that nobody has seen.
pub(crate) fn convert<T: DeserializeOwned>(value: &impl Serialize) -> Result<T, String> {
    let without_place = |error: serde_json::Error| {
        let words = error.to_string();
        words.rsplit_once(" at line ").map_or(words.clone(), |(words, _)| words.to_owned())
    };
    let text = serde_json::to_vec(value).map_err(without_place)?;
    serde_json::from_slice(&text).map_err(without_place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_made_of_another_or_the_field_told_without_a_place() {
        assert_eq!(convert::<u8>(&serde_json::json!(7)), Ok(7));
        let error = convert::<Vec<u8>>(&["a"]).unwrap_err();
        assert_eq!(error, r#"invalid type: string "a", expected u8"#);
    }
}
