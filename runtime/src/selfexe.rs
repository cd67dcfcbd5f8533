//! Keeping the runtime's own binary out of a container's reach (rule 8, CVE-2019-5736).
//!
//! Until execve a container's init runs the runtime's binary, so `/proc/<pid>/exe`, or an image whose entry
//! point is `#!/proc/self/exe`, leads a container with root's uid to the file on the host, and a write to it
//! would be executed by the host next time. So whatever enters a container runs from a copy of the
//! binary's mount that is read-only and attached nowhere: the file can't be opened for writing through it,
//! and nobody can make it writable again.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::path::host;
use crate::sys::mount::{MountAttr, Reach, clone_tree, mount_setattr};
use crate::sys::process::{exec_fd, executed_by_descriptor};

const SELF: &str = "/proc/self/exe";

/// Executes this program again from [`protected`], with the same arguments and environment. Returns at
/// once when it runs from there already.
///
/// # Errors
/// When neither a read-only mount nor a sealed copy can be made: the caller must not go on to enter a
/// container then.
pub fn reexec() -> io::Result<()> {
    if is_protected()? {
        // Kernels before 6.14 name a program executed by descriptor after the descriptor's number.
        return crate::sys::prctl::set_name(c"davit");
    }
    match execute(protected()?)? {}
}

/// Executes this program by a descriptor, with the same arguments and environment.
fn execute(exe: OwnedFd) -> io::Result<std::convert::Infallible> {
    let cstring = |bytes: &[u8]| CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
    let args: Vec<CString> =
        std::env::args_os().map(|arg| cstring(arg.as_bytes())).collect::<Result<_, _>>()?;
    let env: Vec<CString> = std::env::vars_os()
        .map(|(name, value)| cstring(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<Result<_, _>>()?;
    let (args, env): (Vec<&CStr>, Vec<&CStr>) =
        (args.iter().map(CString::as_c_str).collect(), env.iter().map(CString::as_c_str).collect());
    Err(exec_fd(exe.as_fd(), &args, &env))
}

/// A descriptor to execute this program by, through which its file can't be written.
///
/// A read-only clone of the binary's mount (kernel 5.12); a sealed copy in memory where the kernel has
/// no mount_setattr(2) (ENOSYS), or the caller may not mount (EPERM) or not this mount (EINVAL); a copy in a
/// file without a name where the host forbids to execute memory (vm.memfd_noexec=2, kernel 6.3).
///
/// # Errors
/// Those of memfd_create(2) and of reading the binary.
pub fn protected() -> io::Result<OwnedFd> {
    let exe = host::open(Path::new(SELF), OFlag::O_PATH)?;
    let clone = || -> io::Result<OwnedFd> {
        let tree = clone_tree(exe.as_fd(), c"", Reach::One)?;
        let readonly = MountAttr { set: crate::plan::attr::RDONLY, ..MountAttr::default() };
        mount_setattr(tree.as_fd(), &readonly, Reach::One)?;
        Ok(tree)
    };
    match clone() {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EINVAL)) => {
            sealed_copy()
        }
        other => other,
    }
}

/// Annotation that says how the runtime's file is protected, and its values: runc's (runc #5290).
pub const ANNOTATION: &str = "org.opencontainers.runc.clone-self-exe";
const OWN_COPY: &str = "independent-data-copy";
const SHARED_PAGES: &str = "ro-shared-page";

/// What a container's annotation asks of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing that is not so.
    Met,
    /// To run from a copy ([`reexec_copy`]).
    Copy,
    /// Something unknown.
    Unknown,
}

/// Compares the annotation with how this process runs. A read-only mount shares its pages with the installed file,
/// which some kernels let a reader write to (CVE-2022-0847); a copy does not.
///
/// # Errors
/// When this process's own file can't be looked at.
pub fn demand(annotation: Option<&str>) -> io::Result<Demand> {
    Ok(match annotation {
        None | Some(SHARED_PAGES) => Demand::Met,
        Some(OWN_COPY) if is_copy(&open_self()?)? => Demand::Met,
        Some(OWN_COPY) => Demand::Copy,
        Some(_) => Demand::Unknown,
    })
}

/// Executes this program again from a sealed copy. Returns only when that fails: there is no fallback.
#[must_use]
pub fn reexec_copy() -> io::Error {
    match sealed_copy().and_then(execute) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

/// A sealed copy to execute this program by.
///
/// # Errors
/// As [`protected`].
pub fn own_copy() -> io::Result<OwnedFd> {
    sealed_copy()
}

fn open_self() -> io::Result<OwnedFd> {
    host::open(Path::new(SELF), OFlag::O_RDONLY)
}

/// Whether this process runs from [`protected`].
fn is_protected() -> io::Result<bool> {
    // Cheap for the first run; can't be claimed by a file's name or the environment alone.
    if !executed_by_descriptor() {
        return Ok(false);
    }
    let exe = open_self()?;
    if fstatvfs(&exe)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(true);
    }
    is_copy(&exe)
}

fn is_copy(exe: &OwnedFd) -> io::Result<bool> {
    let seals = fcntl(exe, FcntlArg::F_GET_SEALS).unwrap_or(0);
    if SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE) {
        return Ok(true);
    }
    let stat = fstat(exe)?;
    Ok(stat.st_nlink == 0 && stat.st_mode & 0o7777 == COPY_MODE.bits())
}

fn sealed_copy() -> io::Result<OwnedFd> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    /// MFD_EXEC (kernel 6.3).
    const EXEC: MFdFlags = MFdFlags::from_bits_retain(0x10);
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let copy = match memfd_create(c"davit", flags | EXEC) {
        // Before kernel 6.3 every memfd can be executed.
        Err(Errno::EINVAL) => memfd_create(c"davit", flags)?,
        // vm.memfd_noexec is 2: none can.
        Err(Errno::EACCES) => return unnamed_copy(),
        other => other?,
    };
    let mut copy = std::fs::File::from(copy);
    io::copy(&mut std::fs::File::open(SELF)?, &mut copy)?;
    let seals =
        SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(copy.into())
}

/// Mode of [`unnamed_copy`], by which it is told from an unsealed memfd.
const COPY_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IXUSR);

/// A copy in a file without a name: who writes to it harms no later run.
fn unnamed_copy() -> io::Result<OwnedFd> {
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let places = given.into_iter().chain([PathBuf::from("/tmp"), PathBuf::from("/var/tmp")]);
    let mut last = io::Error::from_raw_os_error(libc::EACCES);
    for dir in places {
        match unnamed_copy_in(&dir) {
            Err(e) => last = e,
            copy => return copy,
        }
    }
    Err(io::Error::other(format!(
        "vm.memfd_noexec is 2, and no file can be executed in $XDG_RUNTIME_DIR, /tmp or /var/tmp: {last}"
    )))
}

fn unnamed_copy_in(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let mut copy = std::fs::File::from(open(dir, flags, COPY_MODE)?);
    if fstatvfs(&copy)?.flags().contains(FsFlags::ST_NOEXEC) {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    io::copy(&mut std::fs::File::open(SELF)?, &mut copy)?;
    // Whatever the umask is.
    fchmod(&copy, COPY_MODE)?;
    // A file that is open for writing can't be executed (ETXTBSY).
    let again = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Ok(open(again.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_protected_binary_can_not_be_opened_for_writing() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!(
                "SKIPPED a_protected_binary_can_not_be_opened_for_writing: needs root to clone a mount"
            );
            return;
        }
        let clone = protected().unwrap();
        assert!(fstatvfs(&clone).unwrap().flags().contains(FsFlags::ST_RDONLY));
        for (fd, refusals) in
            [(clone, [libc::EROFS, libc::ETXTBSY]), (sealed_copy().unwrap(), [libc::EPERM; 2])]
        {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let written = std::fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|file| nix::unistd::write(&file, b"x").map_err(Into::into));
            // A memfd opens, and refuses the write; this very program is busy as well.
            let errno = written.unwrap_err().raw_os_error().unwrap();
            assert!(refusals.contains(&errno), "{errno}");
            let mut magic = [0; 4];
            std::fs::File::open(&path).unwrap().read_exact(&mut magic).unwrap();
            assert_eq!(&magic, b"\x7fELF");
        }
    }
}
