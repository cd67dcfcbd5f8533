//! The sink of the `log` crate: one object per line, in the two formats of runc's `--log-format`.
//!
//! containerd decodes the log as concatenated JSON objects and takes `msg` of the last one whose
//! `level` is `error`; conmon and podman do the same. So each fatal error is written exactly once, as
//! one object, by [`fatal`]; everything else logs at a lower level.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
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

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard error.
    Stderr,
    /// A file, appended to and made with mode 0644.
    File(PathBuf),
    /// systemd's journal under this identifier, by its native protocol.
    Journald(String),
    /// syslogd under this identifier.
    Syslog(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Stderr => f.write_str("standard error"),
            Target::File(path) => path.display().fmt(f),
            Target::Journald(_) => f.write_str(JOURNAL),
            Target::Syslog(_) => f.write_str(SYSLOG),
        }
    }
}

const JOURNAL: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";

/// An open [`Target`].
#[derive(Debug)]
enum Output {
    Stderr,
    File(File),
    Journald(UnixDatagram, String),
    Syslog(UnixDatagram, String),
}

impl Output {
    fn open(target: &Target) -> io::Result<Output> {
        let socket = |path| {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            Ok::<_, io::Error>(socket)
        };
        Ok(match target {
            Target::Stderr => Output::Stderr,
            Target::File(path) => {
                Output::File(OpenOptions::new().append(true).create(true).mode(0o644).open(path)?)
            }
            Target::Journald(id) => Output::Journald(socket(JOURNAL)?, id.clone()),
            Target::Syslog(id) => Output::Syslog(socket(SYSLOG)?, id.clone()),
        })
    }

    /// One message. A log that can't be written is no reason to fail the container.
    fn write(&self, format: Format, level: &str, message: &str) {
        match self {
            Output::Stderr => write_line(io::stderr(), &line(format, level, message)),
            Output::File(file) => write_line(file, &line(format, level, message)),
            Output::Journald(socket, id) => drop(socket.send(&journal_entry(id, level, message))),
            Output::Syslog(socket, id) => drop(socket.send(syslog_line(id, level, message).as_bytes())),
        }
    }
}

#[derive(Debug)]
struct Sink {
    format: Format,
    output: Output,
}

struct Logger;

static LOGGER: Logger = Logger;
static SINK: OnceLock<Sink> = OnceLock::new();

/// Installs the sink.
///
/// # Errors
/// When the target can't be opened.
pub fn init(format: Format, target: &Target, level: LevelFilter) -> io::Result<()> {
    let output = Output::open(target)?;
    if SINK.set(Sink { format, output }).is_ok() && log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
    Ok(())
}

/// Reports the error that ends the command: one message with level error in the log and, when that is not
/// stderr, the bare sentence on stderr as runc does. On stderr there is only one of both:
/// `davit: sentence`, or the JSON object when JSON was asked for.
pub fn fatal(sentence: &str) {
    let sink = SINK.get();
    let elsewhere = sink.filter(|sink| !matches!(sink.output, Output::Stderr));
    if let Some(Sink { format, output }) = elsewhere {
        output.write(*format, "error", sentence);
    }
    let text = match sink {
        Some(Sink { output: Output::Stderr, format: Format::Json }) => line(Format::Json, "error", sentence),
        _ if elsewhere.is_some() => format!("{sentence}\n"),
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
        sink.output.write(sink.format, level_word(record.level()), &record.args().to_string());
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

/// syslog(3)'s number for a level.
fn severity(level: &str) -> u8 {
    match level {
        "error" => 3,
        "warning" => 4,
        "info" => 6,
        _ => 7,
    }
}

/// An entry of systemd's native protocol: a field with a line break in it is written with its length.
fn journal_entry(id: &str, level: &str, message: &str) -> Vec<u8> {
    let mut entry = Vec::new();
    let priority = severity(level).to_string();
    for (field, value) in [("MESSAGE", message), ("PRIORITY", &priority), ("SYSLOG_IDENTIFIER", id)] {
        entry.extend(field.bytes());
        if value.contains('\n') {
            entry.push(b'\n');
            entry.extend((value.len() as u64).to_le_bytes());
        } else {
            entry.push(b'=');
        }
        entry.extend(value.bytes());
        entry.push(b'\n');
    }
    entry
}

/// What syslog(3) sends, without the time: syslogd takes that of the arrival.
fn syslog_line(id: &str, level: &str, message: &str) -> String {
    /// LOG_USER of syslog(3).
    const USER: u8 = 1 << 3;
    format!("<{}>{id}[{}]: {message}", USER | severity(level), std::process::id())
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
    fn journal_entries_carry_line_breaks() {
        let entry = journal_entry("d", "warning", "one");
        assert_eq!(entry, b"MESSAGE=one\nPRIORITY=4\nSYSLOG_IDENTIFIER=d\n");
        let entry = journal_entry("d", "error", "a\nb");
        assert!(entry.starts_with(b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nPRIORITY=3\n"));
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
