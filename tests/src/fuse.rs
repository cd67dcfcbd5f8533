//! A FUSE file system that answers nothing: whoever looks into it sleeps uninterruptibly until it is let go.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mounted file system whose requests are read and never answered (but for the first, which the kernel needs to
/// take it as mounted). Its end lets all who wait go on, with an error.
#[derive(Debug)]
pub struct Silent {
    dir: PathBuf,
    reader: Option<JoinHandle<()>>,
    asked: Arc<AtomicUsize>,
}

impl Silent {
    /// Mounts it at a new directory.
    ///
    /// # Errors
    /// Why this machine has no FUSE.
    pub fn mount(dir: &Path) -> Result<Silent, String> {
        fs::create_dir(dir).map_err(|e| e.to_string())?;
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let device = device.map_err(|e| format!("/dev/fuse: {e}"))?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        mount(Some("silent"), dir, Some("fuse"), MsFlags::empty(), Some(options.as_str()))
            .map_err(|e| format!("mount fuse: {e}"))?;
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let reader = std::thread::spawn(move || answer_nothing(device, &count));
        Ok(Silent { dir: dir.to_owned(), reader: Some(reader), asked })
    }

    /// How many requests were read. One that was not is dropped when its process gets a fatal signal, which then does
    /// not sleep uninterruptibly.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Lets everybody go.
    pub fn abort(&mut self) {
        // MNT_FORCE aborts the connection, which also ends the reader.
        let _ = umount2(&self.dir, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Reads requests until the connection is aborted; answers FUSE_INIT (linux/fuse.h, `fuse_init_out` of 7.31).
fn answer_nothing(mut device: File, asked: &AtomicUsize) {
    const INIT: u32 = 26;
    let mut request = vec![0u8; 1 << 17];
    while let Ok(length) = device.read(&mut request) {
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().expect("four bytes"));
        if length < 40 || word(4) != INIT {
            asked.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let mut answer = vec![0u8; 16 + 64];
        let size = u32::try_from(answer.len()).expect("size");
        answer[..4].copy_from_slice(&size.to_le_bytes());
        answer[8..16].copy_from_slice(&request[8..16]);
        for (at, value) in [(16, 7u32), (20, 31), (36, 1 << 16)] {
            answer[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let _ = device.write_all(&answer);
    }
}
