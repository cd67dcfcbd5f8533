//! Log lines for containerd: logrus text into the bundle's `log` FIFO, never waiting for its reader.
//!
//! A shim that blocks in write(2) on a log that nobody reads hangs its containers (containerd #4509).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::api::Stamp;

static LOG: OnceLock<File> = OnceLock::new();

struct Fifo;

impl Log for Fifo {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let Some(mut file) = LOG.get() else { return };
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug | Level::Trace => "debug",
        };
        let message = record.args().to_string();
        let line = format!(
            "time={:?} level={level} msg={message:?} runtime=davit\n",
            davit::time::rfc3339(Stamp::now().seconds)
        );
        // One write below PIPE_BUF is whole or refused (EAGAIN, EPIPE): a refused line is lost.
        let _ = file.write(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Logs into `fifo`, if it has a reader.
pub fn start(fifo: &Path, debug: bool) {
    let opened = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(fifo);
    if let Ok(file) = opened {
        if LOG.set(file).is_ok() && log::set_logger(&Fifo).is_ok() {
            log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
        }
    }
    std::panic::set_hook(Box::new(|info| log::error!("{info}")));
}
