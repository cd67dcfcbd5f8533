//! Opening containerd's FIFOs: never blocking, both ends held.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::IoError;
use super::stream::Sink;

fn open(path: &Path, write: bool) -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.read(!write).write(write).custom_flags(libc::O_NONBLOCK);
    options.open(path).map(OwnedFd::from)
}

/// The read end of a stdin FIFO, and a write end that keeps it from ending until CloseIO.
///
/// # Errors
/// [`IoError::Open`].
pub fn open_stdin(path: &Path) -> Result<(OwnedFd, OwnedFd), IoError> {
    let fail = |source| IoError::Open { path: path.to_owned(), source };
    // Opening the read end first lets the write end open at once.
    let read = open(path, false).map_err(fail)?;
    let hold = open(path, true).map_err(fail)?;
    Ok((read, hold))
}

/// The write end of an output FIFO, or the end of a file that is no FIFO.
///
/// When nobody reads yet the sink waits for the reader: data that we put into the FIFO and closed before
/// the reader's open would be lost, and that open would hang.
///
/// # Errors
/// [`IoError::Open`].
pub fn open_output(path: &Path) -> Result<Sink, IoError> {
    let fail = |source| IoError::Open { path: path.to_owned(), source };
    let is_fifo = std::fs::metadata(path).map_err(fail)?.file_type().is_fifo();
    if !is_fifo {
        let file = OpenOptions::new().append(true).open(path).map_err(fail)?;
        return Ok(Sink::ready(file.into()));
    }
    try_output(path).map_err(fail)
}

/// Tries to open an output FIFO: waits for a reader that is not there yet.
///
/// # Errors
/// Any but ENXIO (no reader).
pub fn try_output(path: &Path) -> io::Result<Sink> {
    match open(path, true) {
        // The read end makes the FIFO survive a reader's restart: without it a write gives EPIPE.
        Ok(write) => Ok(Sink::Fifo { write, _hold: open(path, false)? }),
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(Sink::Absent(path.to_owned())),
        Err(e) => Err(e),
    }
}

/// Opens an output FIFO without a reader: what is written waits in the kernel until one comes.
///
/// # Errors
/// Any of open(2).
pub fn force_output(path: &Path) -> io::Result<Sink> {
    let hold = open(path, false)?;
    Ok(Sink::Fifo { write: open(path, true)?, _hold: hold })
}
