//! Where in a JSON text a parser's error is: serde_json knows the line and column, a person looks for the field.
//!
//! Only after an error, so that a good config costs nothing.

/// A parser's error with the field that it is about.
#[derive(Debug, thiserror::Error)]
#[error("{place}{source}")]
pub struct ParseError {
    /// `process.user.uid: `, or empty where there is no field to name.
    place: String,
    /// The parser's words, with line and column.
    source: serde_json::Error,
}

impl ParseError {
    pub(super) fn new(text: &[u8], source: serde_json::Error) -> Self {
        let place = match field_of(text, &source) {
            // A syntax error is in no field: line and column say all.
            path if path.is_empty() || source.is_syntax() || source.is_eof() => String::new(),
            path => format!("{path}: "),
        };
        ParseError { place, source }
    }
}

/// An object or array that is open at a place.
enum Frame {
    Object(Option<String>),
    Array(usize),
}

/// The path of the value that was parsed last when the error came up: serde_json says where that ended. For a
/// missing field it is the object.
fn field_of(text: &[u8], error: &serde_json::Error) -> String {
    let line = error.line().saturating_sub(1);
    let start: usize = text.split_inclusive(|byte| *byte == b'\n').take(line).map(<[u8]>::len).sum();
    let seen = text.get(..start.saturating_add(error.column())).unwrap_or(text);
    path_of(&walk(seen))
}

/// The objects and arrays that are open at the end of a text, each with the key or index of what came last.
fn walk(text: &[u8]) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut string: Option<Vec<u8>> = None;
    let mut last_string = String::new();
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if let Some(open) = string.as_mut() {
            match byte {
                b'"' => {
                    last_string = String::from_utf8_lossy(&string.take().unwrap_or_default()).into_owned()
                }
                b'\\' => open.extend(bytes.next()),
                _ => open.push(byte),
            }
            continue;
        }
        match byte {
            b'"' => string = Some(Vec::new()),
            b'{' => frames.push(Frame::Object(None)),
            b'[' => frames.push(Frame::Array(0)),
            b'}' | b']' => drop(frames.pop()),
            b':' => {
                if let Some(Frame::Object(key)) = frames.last_mut() {
                    *key = Some(std::mem::take(&mut last_string));
                }
            }
            b',' => match frames.last_mut() {
                Some(Frame::Object(key)) => *key = None,
                Some(Frame::Array(index)) => *index += 1,
                None => {}
            },
            _ => {}
        }
    }
    frames
}

/// `process.rlimits[0].type`.
fn path_of(frames: &[Frame]) -> String {
    let mut path = String::new();
    for frame in frames {
        match frame {
            Frame::Object(Some(key)) if path.is_empty() => path.push_str(key),
            Frame::Object(Some(key)) => {
                path.push('.');
                path.push_str(key);
            }
            Frame::Object(None) => {}
            Frame::Array(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Spec;

    fn error(text: &str) -> String {
        let source = serde_json::from_str::<Spec>(text).unwrap_err();
        ParseError::new(text.as_bytes(), source).to_string()
    }

    #[test]
    fn the_field_is_named() {
        let cases = [
            (r#"{"ociVersion": 1}"#, "ociVersion: invalid type"),
            (
                r#"{"ociVersion": "1.0.2", "process": {"cwd": "/", "user": {"uid": "root", "gid": 0}}}"#,
                "process.user.uid: invalid type",
            ),
            (
                r#"{"ociVersion": "1.0.2", "process": {"user": {"uid": 0, "gid": 0}}}"#,
                "process: missing field `cwd`",
            ),
            (
                r#"{"ociVersion": "1.0.2", "process": {"args": ["a\"b:,{", 1]}}"#,
                "process.args[1]: invalid type",
            ),
            (
                "{\"ociVersion\": \"1.0.2\",\n \"linux\": {\"namespaces\": [{\"type\": \"pid\"},\n {\"type\": \"x\"}]}}",
                "linux.namespaces[1].type: unknown variant",
            ),
            (
                r#"{"ociVersion": "1.0.2", "hooks": {"prestart": [{"args": []}]}}"#,
                "hooks.prestart[0]: missing field",
            ),
        ];
        for (text, words) in cases {
            let said = error(text);
            assert!(said.starts_with(words), "{text}: {said:?}");
        }
    }

    #[test]
    fn what_is_not_json_has_no_field() {
        assert!(error("{\"ociVersion\": ]").starts_with("expected value at line 1"));
        assert!(error("{\"ociVersion\": \"1").starts_with("EOF"));
        assert!(error("\"text\"").starts_with("invalid type"));
    }
}
