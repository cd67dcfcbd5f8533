//! Loop devices: a file as a block device. Layout and numbers: linux/loop.h.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use super::check;

/// `struct loop_config` with its `struct loop_info64` spelled out.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    /// lo_device, lo_inode, lo_rdevice, lo_offset, lo_sizelimit.
    head: [u64; 5],
    /// lo_number, lo_encrypt_type, lo_encrypt_key_size.
    numbers: [u32; 3],
    flags: u32,
    /// lo_file_name, lo_crypt_name, lo_encrypt_key.
    names: [u8; 160],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// Whether a loop device may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopAccess {
    /// LO_FLAGS_READ_ONLY.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// Makes a free loop device show `file`, until nothing holds the device any more (LO_FLAGS_AUTOCLEAR): keep the
/// answer open until the device is mounted. LOOP_CONFIGURE needs kernel 5.8.
///
/// # Errors
/// ENOENT without /dev/loop-control, EINVAL before 5.8, EBUSY when others take every free device first.
pub fn attach(file: BorrowedFd<'_>, access: LoopAccess) -> io::Result<(File, PathBuf)> {
    const LOOP_CTL_GET_FREE: u32 = 0x4c82;
    const LOOP_CONFIGURE: u32 = 0x4c0a;
    const READ_ONLY: u32 = 1;
    const AUTOCLEAR: u32 = 4;
    const TRIES: u32 = 100;
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    let flags = if access == LoopAccess::ReadOnly { READ_ONLY | AUTOCLEAR } else { AUTOCLEAR };
    let config = LoopConfig {
        fd: file.as_raw_fd() as u32,
        block_size: 0,
        head: [0; 5],
        numbers: [0; 3],
        flags,
        names: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    for _ in 0..TRIES {
        // SAFETY: the call takes no argument.
        let number =
            check(unsafe { libc::syscall(libc::SYS_ioctl, control.as_raw_fd(), LOOP_CTL_GET_FREE) })?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = OpenOptions::new().read(true).write(access == LoopAccess::ReadWrite).open(&path)?;
        let pointer = std::ptr::from_ref(&config);
        // SAFETY: config has the kernel's layout and outlives the call.
        let done =
            check(unsafe { libc::syscall(libc::SYS_ioctl, device.as_raw_fd(), LOOP_CONFIGURE, pointer) });
        match done {
            Ok(_) => return Ok((device, path)),
            // Somebody else took the free one meanwhile.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_the_kernels() {
        assert_eq!(size_of::<LoopConfig>(), 304);
        assert_eq!(std::mem::offset_of!(LoopConfig, flags), 60);
    }
}
