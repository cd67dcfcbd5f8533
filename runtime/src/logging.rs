//! The sink of the `log` crate: one object per line, in the two formats of runc's `--log-format`.
//!
//! containerd decodes the log as concatenated JSON objects and takes `msg` of the last one whose
//! `level` is `error`; conmon and podman do the same. So each fatal error is written exactly once, as
//! one object, by [`fatal`]; everything else logs at a lower level.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `time="…" level=… msg=…`, the default.
    Text,
    /// `{"level":"…","msg":"…","time":"…"}`.
    Json,
}

#[derive(Debug)]
struct Sink {
    format: Format,
    /// `None` is stderr.
    file: Option<File>,
}

struct Logger;

static LOGGER: Logger = Logger;
static SINK: OnceLock<Sink> = OnceLock::new();

/// Installs the sink. `file` is appended to and made with mode 0644; without it lines go to stderr.
///
/// # Errors
/// When the file can't be opened.
pub fn init(format: Format, file: Option<&Path>, level: LevelFilter) -> io::Result<()> {
    let file = match file {
        None => None,
        Some(path) => Some(OpenOptions::new().append(true).create(true).mode(0o644).open(path)?),
    };
    if SINK.set(Sink { format, file }).is_ok() && log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
    Ok(())
}

/// Reports the error that ends the command: one object with level error in the log and, when that is a
/// file, the bare sentence on stderr as runc does. Without a log file stderr gets only one of both:
/// `davit: sentence`, or the JSON object when JSON was asked for.
pub fn fatal(sentence: &str) {
    let sink = SINK.get();
    if let Some(Sink { format, file: Some(file) }) = sink {
        write_line(file, &line(*format, "error", sentence));
    }
    let text = match sink {
        Some(Sink { file: None, format: Format::Json }) => line(Format::Json, "error", sentence),
        Some(Sink { file: Some(_), .. }) => format!("{sentence}\n"),
        // "davit create failed: …" names the program already.
        _ if sentence.starts_with("davit") => format!("{sentence}\n"),
        _ => format!("davit: {sentence}\n"),
    };
    write_line(io::stderr(), &text);
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let Some(sink) = SINK.get() else { return };
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = line(sink.format, level_word(record.level()), &record.args().to_string());
        match &sink.file {
            Some(file) => write_line(file, &text),
            None => write_line(io::stderr(), &text),
        }
    }

    fn flush(&self) {}
}

/// One write(2), so that lines of several processes do not mix. A log that can't be written is no
/// reason to fail the container.
fn write_line(mut to: impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
}

/// logrus's words.
fn level_word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

fn line(format: Format, level: &str, message: &str) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let time = crate::time::rfc3339(i64::try_from(seconds).unwrap_or(i64::MAX));
    match format {
        Format::Text => format!("time=\"{time}\" level={level} msg={}\n", text_value(message)),
        Format::Json => {
            let message = serde_json::Value::from(message).to_string();
            format!("{{\"level\":\"{level}\",\"msg\":{message},\"time\":\"{time}\"}}\n")
        }
    }
}

/// A message as logrus's text formatter writes it: bare when it is one plain word, else quoted.
fn text_value(message: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if !message.is_empty() && message.chars().all(plain) {
        return message.to_owned();
    }
    let mut quoted = String::with_capacity(message.len() + 2);
    quoted.push('"');
    for c in message.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_logrus_does() {
        assert_eq!(text_value("started"), "started");
        assert_eq!(text_value(""), "\"\"");
        assert_eq!(text_value("a b"), "\"a b\"");
        assert_eq!(text_value("exec: \"x\"\n"), "\"exec: \\\"x\\\"\\n\"");
    }

    #[test]
    fn json_is_one_object() {
        let text = line(Format::Json, "error", "exec: \"x\": not found\n");
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "exec: \"x\": not found\n");
    }
}
