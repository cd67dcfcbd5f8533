//! Pages of the program's file that this process has mapped.

use std::io;
use std::ops::Range;

use super::check;

/// Unmaps the pages of files that this process only reads: its code and constants. They stay in the kernel's page
/// cache, and come back by a minor fault each (sixteen at a time) when they are used again. Returns how many bytes
/// of mappings were treated.
///
/// A mapping of which the process has a private copy of a page stays as it is: relocated constants that were made
/// read-only (glibc), or the breakpoints of a debugger.
///
/// # Errors
/// Reading /proc/self/smaps; EINVAL when the pages are locked in memory.
pub fn unmap_unchanged_files() -> io::Result<usize> {
    let text = std::fs::read_to_string("/proc/self/smaps")?;
    let mut bytes = 0;
    for Range { start, end } in unchanged_files(&text) {
        // SAFETY: the kernel has just said that the mapping is a file's, private, not writable, and that none of its
        // pages differs from the file's: what the next access faults in is what was there. Nobody changes that in
        // between but a thread that maps something else there, which no code of this program does.
        check(unsafe {
            libc::syscall(libc::SYS_madvise, start, end - start, libc::c_long::from(libc::MADV_DONTNEED))
        })?;
        bytes += end - start;
    }
    Ok(bytes)
}

/// The mappings in the text of smaps that are private, of a file, not writable, and without a page of their own.
fn unchanged_files(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate: Option<Range<usize>> = None;
    for line in smaps.lines() {
        if let Some(mapping) = mapping(line) {
            found.extend(candidate.take());
            candidate = mapping;
        } else if changed(line) {
            candidate = None;
        }
    }
    found.extend(candidate);
    found
}

/// The first line of a mapping: with the range if it is one of a file that is only read.
fn mapping(line: &str) -> Option<Option<Range<usize>>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let number = |hex| usize::from_str_radix(hex, 16).ok();
    let range = Range { start: number(start)?, end: number(end)? };
    let (permissions, inode) = (words.next()?, words.nth(2)?);
    let only_read = matches!(permissions, "r--p" | "r-xp") && inode != "0";
    Some(only_read.then_some(range))
}

/// Whether a mapping's line tells of pages that are not the file's any more, in memory or swapped out.
fn changed(line: &str) -> bool {
    let Some((key, value)) = line.split_once(':') else { return false };
    matches!(key, "Anonymous" | "Swap") && value.split_ascii_whitespace().next() != Some("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_still_the_file_s() {
        let block = |head: &str, anonymous: u32, swap: u32| {
            format!(
                "{head}\nSize: 4 kB\nRss: 4 kB\nAnonymous: {anonymous} kB\nSwap: {swap} kB\nVmFlags: rd ex\n"
            )
        };
        let smaps = [
            block("1000-3000 r-xp 00000000 fe:01 42 /usr/bin/shim", 0, 0),
            block("3000-4000 r--p 00002000 fe:01 42 /usr/bin/shim", 4, 0),
            block("4000-5000 r--p 00002000 fe:01 42 /usr/bin/shim", 0, 4),
            block("5000-6000 rw-p 00003000 fe:01 42 /usr/bin/shim", 0, 0),
            block("6000-7000 r-xp 00000000 00:00 0 [vdso]", 0, 0),
            block("7000-8000 r--s 00000000 fe:01 43 /some/file", 0, 0),
            block("8000-9000 r--p 00000000 fe:01 42 /a path-with: odd words", 0, 0),
        ]
        .concat();
        assert_eq!(unchanged_files(&smaps), [0x1000..0x3000, 0x8000..0x9000]);
        assert_eq!(unchanged_files("").len(), 0);
        assert_eq!(unchanged_files("1000-zz r-xp 0 0 1\nnonsense\n").len(), 0);
    }

    #[test]
    fn the_program_goes_on_without_its_pages() {
        assert!(unmap_unchanged_files().unwrap() > 0);
        assert_eq!(std::hint::black_box("still here").len(), 10);
    }
}
