//! JSON as Go's encoding/json prints it, which callers compare and parse.

use serde::Serialize;
use serde_json::ser::PrettyFormatter;

/// One line without spaces, without a newline at its end.
pub(super) fn compact(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(escape_html(serde_json::to_string(value)?))
}

/// Indented, without a newline at its end.
pub(super) fn pretty(value: &impl Serialize, indent: &str) -> anyhow::Result<String> {
    let mut text = Vec::new();
    let formatter = PrettyFormatter::with_indent(indent.as_bytes());
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
    Ok(escape_html(String::from_utf8(text)?))
}

/// Go escapes these inside strings, and they occur nowhere else in JSON.
fn escape_html(text: String) -> String {
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}
