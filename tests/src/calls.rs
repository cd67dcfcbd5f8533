//! A program for containers that makes system calls by number (`calls.c`), so that a filter's effect is seen call by
//! call.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::Bundle;

/// Instruction set of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// The machine's own.
    Native,
    /// 32-bit x86, on x86_64.
    X86,
}

/// Puts the program into a bundle as `/bin/call`, or `/bin/call32`.
///
/// # Errors
/// Why it can't be built.
///
/// # Panics
/// When it can't be copied.
pub fn install(bundle: &Bundle, bits: Bits) -> Result<&'static str, String> {
    static NATIVE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    static X86: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let (cell, name) = match bits {
        Bits::Native => (&NATIVE, "/bin/call"),
        Bits::X86 => (&X86, "/bin/call32"),
    };
    let program = cell.get_or_init(|| build(bits)).as_ref().map_err(Clone::clone)?;
    crate::copy_program(program, &bundle.rootfs(name));
    Ok(name)
}

fn build(bits: Bits) -> Result<PathBuf, String> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/calls.c");
    let (flag, name) = match bits {
        Bits::Native => (None, "call"),
        Bits::X86 => (Some("-m32"), "call32"),
    };
    // In a place of its own: test programs run side by side.
    let dir =
        tempfile::Builder::new().prefix("davit-calls-").tempdir_in(target()).map_err(|e| e.to_string())?;
    let made = dir.path().join(name);
    let options =
        ["-O1", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie"];
    let output = Command::new("cc")
        .args(flag)
        .args(options)
        .arg("-o")
        .arg(&made)
        .arg(source)
        .output()
        .map_err(|e| format!("cc: {e}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cc {}: {}", flag.unwrap_or_default(), text.lines().next().unwrap_or("failed")));
    }
    let kept = target().join(format!("davit-{name}"));
    std::fs::rename(&made, &kept).map_err(|e| e.to_string())?;
    Ok(kept)
}

/// The directory of the test program.
fn target() -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    test.parent().expect("directory").to_owned()
}

/// The program's words for calls, each a list of words: `--` between them.
#[must_use]
pub fn words(program: &str, calls: &[&[&str]]) -> Vec<String> {
    let mut words = vec![program.to_owned()];
    for (at, call) in calls.iter().enumerate() {
        if at > 0 {
            words.push("--".into());
        }
        words.extend(call.iter().map(|&word| word.to_owned()));
    }
    words
}
