//! File descriptor calls that nix lacks.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// What [`close_range`] does to the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseRange {
    /// Close them.
    Close,
    /// Set close-on-exec (kernel 5.11).
    CloseOnExec,
}

/// close_range(2) from `first` to the highest descriptor (kernel 5.9).
///
/// # Errors
/// ENOSYS before 5.9, EINVAL for CloseOnExec before 5.11.
pub fn close_range(first: u32, what: CloseRange) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    let flags = match what {
        CloseRange::Close => 0,
        CloseRange::CloseOnExec => CLOSE_RANGE_CLOEXEC,
    };
    // SAFETY: integers only. Closing descriptors that Rust objects own is the caller's contract: it is
    // called right before exec or exit, or with CloseOnExec.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) }).map(drop)
}

/// Sets close-on-exec from `first` to the highest descriptor. `list` opens `/proc/self/fd` for reading; it is asked for
/// where close_range(2) can't do it: ENOSYS before kernel 5.9, EINVAL before 5.11.
///
/// # Errors
/// Those of `list` and of reading the directory.
pub fn close_on_exec_from(first: u32, list: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<()> {
    match close_range(first, CloseRange::CloseOnExec) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {}
        other => return other,
    }
    let mut dir = nix::dir::Dir::from_fd(list()?)?;
    for entry in dir.iter() {
        let name = entry?;
        let Some(fd) = name.file_name().to_str().ok().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        if fd.unsigned_abs() >= first {
            // SAFETY: integers only; the flag is of no consequence to an object that owns the descriptor.
            check(libc::c_long::from(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }))?;
        }
    }
    Ok(())
}

/// Takes ownership of a descriptor number that this process was given by its caller (`LISTEN_FDS`,
/// `--preserve-fds`, fd 3 of the shim).
///
/// # Errors
/// EBADF when it is not open.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    check(libc::c_long::from(unsafe { libc::fcntl(fd, libc::F_GETFD) }))?;
    // SAFETY: the descriptor is open, and by the function's contract nothing else here owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Borrows one of the standard descriptors 0, 1, 2 (or any that stays open for the process's life).
#[must_use]
pub fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: callers pass standard descriptors, which nothing in davit closes.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// `f_flag` of fstatvfs(3): ST_* of the mount that a descriptor is on, all of them. nix's type drops the bits that
/// it has no names for with musl.
///
/// # Errors
/// EBADF, ENOSYS of a filesystem without it.
pub fn mount_flags(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut buffer = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the descriptor is open, the buffer has the size of the structure.
    check(libc::c_long::from(unsafe { libc::fstatvfs(fd.as_raw_fd(), buffer.as_mut_ptr()) }))?;
    // SAFETY: fstatvfs succeeded, so it has filled the buffer.
    Ok(unsafe { buffer.assume_init() }.f_flag)
}

/// dup3(2) onto an exact number, close-on-exec cleared.
///
/// # Errors
/// EBADF, EBUSY.
pub fn dup_onto(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == target {
        // SAFETY: integers only.
        return check(libc::c_long::from(unsafe { libc::fcntl(target, libc::F_SETFD, 0) })).map(drop);
    }
    // SAFETY: integers only; target is a standard descriptor or one the caller set aside.
    check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), target) })).map(drop)
}

/// Opens the slave of the pty whose master is `master`, without a path (TIOCGPTPEER, kernel 4.13).
///
/// # Errors
/// EIO, or ENOTTY when it is not a pty master.
pub fn pty_peer(master: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: TIOCGPTPEER takes open flags by value and returns a new descriptor.
    let fd = check(libc::c_long::from(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }))?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Size of a terminal window in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WinSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// TIOCSWINSZ.
///
/// # Errors
/// ENOTTY.
pub fn set_winsize(tty: BorrowedFd<'_>, size: WinSize) -> io::Result<()> {
    let ws = libc::winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one winsize through the pointer.
    check(libc::c_long::from(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &raw const ws) }))
        .map(drop)
}

/// TIOCGWINSZ.
///
/// # Errors
/// ENOTTY.
pub fn winsize(tty: BorrowedFd<'_>) -> io::Result<WinSize> {
    let mut ws = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one winsize through the pointer.
    check(libc::c_long::from(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, &raw mut ws) }))?;
    Ok(WinSize { rows: ws.ws_row, cols: ws.ws_col })
}

/// TIOCSCTTY: makes the terminal the controlling one of the calling session leader.
///
/// # Errors
/// EPERM when not a session leader or the terminal belongs to another session.
pub fn set_controlling_tty(tty: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument is an integer.
    check(libc::c_long::from(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSCTTY, 0) })).map(drop)
}

/// Brings the loopback interface of the calling thread's network namespace up (SIOCSIFFLAGS on `lo`).
///
/// # Errors
/// EPERM without CAP_NET_ADMIN in the namespace's owner.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: integers only.
    let fd = check(libc::c_long::from(unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    }))?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    // SAFETY: ifreq is plain data for which all-zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads the ifreq, whose name is NUL-terminated by the zeroing.
    check(libc::c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request)
    }))
    .map(drop)
}

/// Owns a descriptor that recvmsg(2) has just delivered by SCM_RIGHTS.
#[must_use]
pub fn received(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed it for this message; the caller reads each message once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// TIOCSPTLCK with 0: lets the slave of a new pty be opened.
///
/// # Errors
/// ENOTTY when it is not a pty master.
pub fn pty_unlock(master: BorrowedFd<'_>) -> io::Result<()> {
    let unlock: libc::c_int = 0;
    // SAFETY: the kernel reads one int through the pointer.
    check(libc::c_long::from(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) }))
        .map(drop)
}

/// TIOCGPTN: the number of a pty, as in /dev/pts/<n>.
///
/// # Errors
/// ENOTTY when it is not a pty master.
pub fn pty_number(master: BorrowedFd<'_>) -> io::Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: the kernel writes one unsigned int through the pointer.
    check(libc::c_long::from(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) }))?;
    Ok(number)
}
