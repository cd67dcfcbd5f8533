//! POSIX extended regular expressions of the C library: those that crun's `--regex` takes.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

/// A compiled expression.
pub struct Regex(libc::regex_t);

impl Regex {
    /// Compiles an extended regular expression (regex(7)).
    ///
    /// # Errors
    /// The library's words for what is wrong with it.
    pub fn extended(pattern: &CStr) -> Result<Self, String> {
        let mut regex = MaybeUninit::<libc::regex_t>::zeroed();
        let flags = libc::REG_EXTENDED | libc::REG_NOSUB;
        // SAFETY: regcomp reads the C string and fills the structure when it returns 0.
        let code = unsafe { libc::regcomp(regex.as_mut_ptr(), pattern.as_ptr(), flags) };
        if code == 0 {
            // SAFETY: filled, as above.
            return Ok(Regex(unsafe { regex.assume_init() }));
        }
        let mut text = [0 as c_char; 128];
        // SAFETY: regerror writes at most that many bytes and ends them with NUL.
        unsafe { libc::regerror(code, regex.as_ptr(), text.as_mut_ptr(), text.len()) };
        // SAFETY: NUL-terminated by regerror, and zeroed before.
        Err(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
    }

    /// Whether it matches anywhere in the text.
    #[must_use]
    pub fn is_match(&self, text: &CStr) -> bool {
        // SAFETY: a compiled expression and a C string; no place for sub-matches is given, nor asked for.
        unsafe { libc::regexec(&raw const self.0, text.as_ptr(), 0, std::ptr::null_mut(), 0) == 0 }
    }
}

impl Drop for Regex {
    fn drop(&mut self) {
        // SAFETY: compiled once, freed once.
        unsafe { libc::regfree(&raw mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_grep_e() {
        let regex = Regex::extended(c"^ab?c+$").unwrap();
        assert!(regex.is_match(c"acc") && !regex.is_match(c"xacc"));
        assert!(Regex::extended(c"b").unwrap().is_match(c"abc"));
        assert!(!Regex::extended(c"(").err().unwrap().is_empty());
    }
}
