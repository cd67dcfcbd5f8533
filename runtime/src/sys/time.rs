//! Time calls that nix lacks.

/// Parts of a local date and time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalTime {
    /// Year of the common era.
    pub year: i32,
    /// Month, 0 to 11.
    pub month: i32,
    /// Day of the month, from 1.
    pub day: i32,
    /// Hour.
    pub hour: i32,
    /// Minute.
    pub minute: i32,
}

/// localtime_r(3): a time in seconds since 1970 in the caller's time zone; all zero when it is out of range.
#[must_use]
pub fn local_time(seconds: u64) -> LocalTime {
    let Ok(seconds) = seconds.try_into() else { return LocalTime::default() };
    // SAFETY: tm is plain data for which all-zero is valid (its zone name pointer is not read).
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call; the process has one thread, so nothing changes TZ.
    if unsafe { libc::localtime_r(&raw const seconds, &raw mut tm) }.is_null() {
        return LocalTime::default();
    }
    LocalTime {
        year: tm.tm_year + 1900,
        month: tm.tm_mon,
        day: tm.tm_mday,
        hour: tm.tm_hour,
        minute: tm.tm_min,
    }
}
