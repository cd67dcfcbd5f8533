//! The `syscalls` crate's tables in a form for look-ups by name: made by the compiler, sorted, and without pointers.
//!
//! The crate's own `FromStr` compares with one name after the other, and it and the jumps to the names take 90 KB
//! of each program, some of it addresses that the start of every davit and every shim would have to relocate.
#![allow(
    clippy::indexing_slicing,
    reason = "the compiler's interpreter: an index that is wrong does not compile"
)]

use std::cmp::Ordering;
use std::str::from_utf8;

use syscalls::{aarch64, arm, x86, x86_64};

/// One architecture's calls, sorted by name.
#[derive(Debug)]
pub(super) struct Table {
    /// The names, one after the other.
    text: &'static [u8],
    /// Where each name ends in the text; it begins where the one before ends.
    ends: &'static [u16],
    /// Their numbers.
    numbers: &'static [u16],
}

impl Table {
    /// The number of a call.
    pub fn number(&self, name: &str) -> Option<u32> {
        let (mut low, mut high) = (0, self.numbers.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.bytes(middle)?.cmp(name.as_bytes()) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return self.numbers.get(middle).copied().map(u32::from),
            }
        }
        None
    }

    /// The name of a call number.
    pub fn name(&self, number: u32) -> Option<&'static str> {
        let at = self.numbers.iter().position(|known| u32::from(*known) == number)?;
        from_utf8(self.bytes(at)?).ok()
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        (0..self.numbers.len()).filter_map(|at| from_utf8(self.bytes(at)?).ok())
    }

    fn bytes(&self, at: usize) -> Option<&'static [u8]> {
        let start = if at == 0 { 0 } else { *self.ends.get(at - 1)? };
        self.text.get(usize::from(start)..usize::from(*self.ends.get(at)?))
    }
}

/// A call while the compiler sorts.
type Call = (&'static [u8], u16);

/// A name as the kernel has it: one that is a keyword of Rust begins with `r#` in the crate.
const fn plain(name: &'static str) -> &'static [u8] {
    match name.as_bytes() {
        [b'r', b'#', rest @ ..] => rest,
        all => all,
    }
}

#[allow(clippy::indexing_slicing, reason = "the compiler runs this: a wrong index does not compile")]
const fn is_before(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() {
        if one[at] != other[at] {
            return one[at] < other[at];
        }
        at += 1;
    }
    one.len() < other.len()
}

/// Shell's sort: short, and quick enough for the compiler's interpreter.
#[allow(clippy::indexing_slicing, reason = "the compiler runs this: a wrong index does not compile")]
const fn sort(calls: &mut [Call]) {
    let mut gap = calls.len() / 2;
    while gap > 0 {
        let mut at = gap;
        while at < calls.len() {
            let call = calls[at];
            let mut to = at;
            while to >= gap && is_before(call.0, calls[to - gap].0) {
                calls[to] = calls[to - gap];
                to -= gap;
            }
            calls[to] = call;
            at += 1;
        }
        gap /= 2;
    }
}

macro_rules! table {
    ($name:ident, $calls:ident) => {
        #[allow(clippy::indexing_slicing, reason = "the compiler runs this: a wrong index does not compile")]
        pub(super) static $name: Table = {
            use $calls::Sysno;
            const COUNT: usize = Sysno::count();
            const CALLS: [Call; COUNT] = {
                let mut calls: [Call; COUNT] = [(b"", 0); COUNT];
                let (mut count, mut id) = (0, 0);
                while id < Sysno::table_size() {
                    if let Some(call) = Sysno::new(id) {
                        calls[count] = (plain(call.name()), id as u16);
                        count += 1;
                    }
                    id += 1;
                }
                assert!(count == COUNT, "numbers begin at 0");
                sort(&mut calls);
                calls
            };
            const ENDS: [u16; COUNT] = {
                let mut ends = [0; COUNT];
                let (mut at, mut end) = (0, 0);
                while at < COUNT {
                    end += CALLS[at].0.len() as u16;
                    ends[at] = end;
                    at += 1;
                }
                ends
            };
            const NUMBERS: [u16; COUNT] = {
                let mut numbers = [0; COUNT];
                let mut at = 0;
                while at < COUNT {
                    numbers[at] = CALLS[at].1;
                    at += 1;
                }
                numbers
            };
            const TEXT: [u8; ENDS[COUNT - 1] as usize] = {
                let mut text = [0; ENDS[COUNT - 1] as usize];
                let (mut call, mut to) = (0, 0);
                while call < COUNT {
                    let mut from = 0;
                    while from < CALLS[call].0.len() {
                        text[to] = CALLS[call].0[from];
                        to += 1;
                        from += 1;
                    }
                    call += 1;
                }
                text
            };
            Table { text: &TEXT, ends: &ENDS, numbers: &NUMBERS }
        };
    };
}

table!(X86_64, x86_64);
table!(X86, x86);
table!(AARCH64, aarch64);
table!(ARM, arm);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_what_the_crate_has() {
        for call in x86_64::Sysno::iter() {
            assert_eq!(X86_64.number(call.name()), Some(call as u32), "{call}");
            assert_eq!(X86_64.name(call as u32), Some(call.name()));
        }
        for call in arm::Sysno::iter() {
            assert_eq!(ARM.number(call.name()), Some(call as u32), "{call}");
        }
        assert_eq!(X86.number("break"), Some(17));
        assert_eq!(X86_64.names().count(), x86_64::Sysno::count());
        for absent in ["", "a", "zz", "rea", "readd"] {
            assert_eq!(AARCH64.number(absent), None, "{absent}");
        }
    }
}
