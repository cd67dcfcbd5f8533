//! A word of memory that a process shares with the children it clones: it can be told something there without a
//! system call.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering};

/// One `i32` in a page of its own, the same for the process that made it and all that it clones afterwards.
#[derive(Debug)]
pub struct SharedWord {
    at: NonNull<AtomicI32>,
}

impl SharedWord {
    /// Makes one that holds 0.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new() -> io::Result<SharedWord> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(SharedWord { at })
    }

    /// What it holds; all that its writer did before is seen afterwards.
    #[must_use]
    pub fn get(&self) -> i32 {
        // SAFETY: the mapping is aligned, zeroed by the kernel and lives as long as self; all access is atomic.
        unsafe { self.at.as_ref() }.load(Ordering::Acquire)
    }

    /// Replaces it.
    pub fn set(&self, value: i32) {
        // SAFETY: as in `get`.
        unsafe { self.at.as_ref() }.store(value, Ordering::Release);
    }
}

/// Bytes asked for; the kernel rounds up to a page.
const SIZE: usize = std::mem::size_of::<AtomicI32>();

impl Drop for SharedWord {
    fn drop(&mut self) {
        // SAFETY: the mapping is self's own, and nobody can use it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), SIZE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::{Fork, WaitFor, WaitMode, exit_now, fork, wait};

    #[test]
    fn a_child_is_heard_without_a_call() {
        use std::os::fd::AsFd;
        let word = SharedWord::new().unwrap();
        assert_eq!(word.get(), 0);
        match fork().unwrap() {
            Fork::Child => {
                word.set(7);
                exit_now(0)
            }
            Fork::Parent { pidfd, .. } => {
                wait(WaitFor::Pidfd(pidfd.as_fd()), WaitMode::Block).unwrap();
                assert_eq!(word.get(), 7);
            }
        }
    }
}
