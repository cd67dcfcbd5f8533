//! The user's program: where it is, its environment, and execve.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat, stat};
use nix::unistd::{AccessFlags, access};

use super::Failure;
use crate::path::{Descriptors, RootDir};
use crate::plan::Program;

/// Finds the program as Go's exec.LookPath does, as the user that will run it.
///
/// # Errors
/// In runc's words, from which Docker and Podman tell exit codes 126 and 127.
pub fn find(program: &Program) -> Result<CString, Failure> {
    let Some(name) = program.args.first() else {
        return Err(Failure::other("exec", "", "no program given"));
    };
    if name.to_bytes().contains(&b'/') {
        return match check(name) {
            Ok(()) => Ok(name.clone()),
            Err(libc::ENOENT) => {
                Err(failure(name, format!("stat {}: no such file or directory", name.to_string_lossy())))
            }
            Err(errno) => Err(failure(name, super::reason(errno))),
        };
    }
    let path = program.env.iter().rev().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
    let mut denied = false;
    for dir in path.unwrap_or_default().split(|byte| *byte == b':') {
        // An empty entry means the working directory (execvp(3)), which Go refuses to use.
        if dir.is_empty() || !dir.starts_with(b"/") {
            continue;
        }
        let Ok(candidate) = CString::new([dir, b"/", name.to_bytes()].concat()) else { continue };
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(libc::EACCES) => denied = true,
            Err(_) => {}
        }
    }
    let reason = if denied { "permission denied" } else { "executable file not found in $PATH" };
    Err(failure(name, reason))
}

fn failure(name: &CStr, reason: impl Into<String>) -> Failure {
    Failure::other("exec", name.to_string_lossy(), reason)
}

/// Whether a path can be executed: a file, not a directory, with the permission.
#[allow(clippy::disallowed_methods, reason = "looked up as execve does, as the program's user")]
fn check(path: &CStr) -> Result<(), i32> {
    let found = stat(path).map_err(|e| e as i32)?;
    if found.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(libc::EISDIR);
    }
    access(path, AccessFlags::X_OK).map_err(|e| e as i32)
}

/// Executes the program. Returns only on failure.
pub fn exec(path: &CStr, program: &Program, env: &[CString]) -> Failure {
    let args: Vec<&CStr> = program.args.iter().map(CString::as_c_str).collect();
    let env: Vec<&CStr> = env.iter().map(CString::as_c_str).collect();
    let error = crate::sys::process::exec(path, &args, &env);
    let failed = Failure::new("exec", path.to_string_lossy(), &error);
    match (error.raw_os_error(), interpreter(path)) {
        // The file is there, so what is missing is what runs it.
        (Some(libc::ENOENT), Some(name)) => failed.with_detail(format!("its interpreter {name} is missing")),
        (Some(libc::ENOENT), None) => failed.with_detail("its dynamic loader is missing"),
        (Some(libc::ENOEXEC), _) => failed.with_detail("not a program of this machine, and no #! line"),
        _ => failed,
    }
}

/// The interpreter of a `#!` line.
#[allow(clippy::disallowed_methods, reason = "looked up as execve does, as the program's user")]
fn interpreter(path: &CStr) -> Option<String> {
    // What could not be executed a moment ago may be a FIFO now.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = File::from(nix::fcntl::open(path, flags, Mode::empty()).ok()?);
    let mut line = String::new();
    BufReader::new(file.take(256)).read_line(&mut line).ok()?;
    line.strip_prefix("#!")?.split_whitespace().next().map(str::to_owned)
}

/// The largest passwd file that is read: it is the image's, and hostile.
const MAX_PASSWD: u64 = 1 << 20;

/// The home directory of a user by the container's /etc/passwd; `/` when there is none.
#[must_use]
pub fn home(root: &RootDir, fds: &Descriptors, uid: u32) -> String {
    // Looked at before it is opened: a FIFO or a device in its place must do nothing.
    let Ok(file) = root.open(Path::new("/etc/passwd"), OFlag::O_PATH) else { return "/".to_owned() };
    if fstat(&file).map_or(true, |stat| stat.st_mode & libc::S_IFMT != libc::S_IFREG) {
        return "/".to_owned();
    }
    let Ok(file) = fds.reopen(file.as_fd(), OFlag::O_RDONLY) else { return "/".to_owned() };
    let mut text = Vec::new();
    if File::from(file).take(MAX_PASSWD).read_to_end(&mut text).is_err() {
        return "/".to_owned();
    }
    passwd_home(&text, uid).unwrap_or_else(|| "/".to_owned())
}

/// The sixth field of the first passwd(5) line with this uid.
pub(crate) fn passwd_home(text: &[u8], uid: u32) -> Option<String> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let id = std::str::from_utf8(fields.nth(2)?).ok()?;
        // parse() takes a leading plus sign, passwd(5) does not.
        if !id.bytes().all(|byte| byte.is_ascii_digit()) || id.parse::<u32>().ok()? != uid {
            return None;
        }
        let home = std::str::from_utf8(fields.nth(2)?).ok()?;
        (!home.is_empty()).then(|| home.to_owned())
    })
}

/// A directory of the calling process's root.
///
/// # Errors
/// Those of open(2).
#[allow(clippy::disallowed_methods, reason = "the root of the calling process")]
pub fn current_root() -> std::io::Result<RootDir> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(RootDir::new(nix::fcntl::open("/", flags, Mode::empty())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines() {
        let text = b"root:x:0:0:root:/root:/bin/sh\nbad\n1000:x:0:0::/evil:\nu:x:+5:5::/plus:\nv:x:1000:1000::/home/v:/bin/sh\nw:x:7:7:::\n";
        assert_eq!(passwd_home(text, 0).unwrap(), "/root");
        assert_eq!(passwd_home(text, 1000).unwrap(), "/home/v");
        assert_eq!(passwd_home(text, 5), None);
        assert_eq!(passwd_home(text, 7), None);
        assert_eq!(passwd_home(b"\xff:\xff:\xff", 1), None);
    }

    #[test]
    fn lookup_words() {
        let program = |name: &str, path: &str| Program {
            args: vec![CString::new(name).unwrap()],
            env: vec![CString::new(format!("PATH={path}")).unwrap()],
            set_home: false,
            terminal: false,
        };
        assert_eq!(find(&program("sh", "/nowhere:/bin")).unwrap(), c"/bin/sh".to_owned());
        let text = |name, path| find(&program(name, path)).unwrap_err().to_string();
        assert_eq!(text("nope-x", "/bin"), "exec: \"nope-x\": executable file not found in $PATH");
        assert_eq!(text("/nope", ""), "exec: \"/nope\": stat /nope: no such file or directory");
        assert_eq!(text("/etc", ""), "exec: \"/etc\": is a directory");
        assert_eq!(text("/etc/passwd", ""), "exec: \"/etc/passwd\": permission denied");
        assert_eq!(text("passwd", "/etc"), "exec: \"passwd\": permission denied");
    }
}
