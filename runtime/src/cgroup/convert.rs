//! Values of config.json in the units of cgroup v2. Pure; each rule is runc's (github.com/opencontainers/cgroups).

use super::error::Error;

/// `cpu.shares` (2…262144, default 1024) to `cpu.weight` (1…10000, default 100): the quadratic curve through
/// those three points that runc uses since 1.4 and crun since 1.23. 0 is unset.
pub(super) fn cpu_weight(shares: u64) -> Option<u64> {
    const MIN: u64 = 2;
    const MAX: u64 = 262_144;
    match shares {
        0 => None,
        1..=MIN => Some(1),
        MAX.. => Some(10_000),
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            Some(10_f64.powf(exponent).ceil() as u64)
        }
    }
}

/// `blkio.weight` (10…1000) to `io.weight` (1…10000). 0 is unset.
pub(super) fn io_weight(weight: u16) -> Option<u64> {
    (weight != 0).then(|| 1 + u64::from(weight.saturating_sub(10)) * 9999 / 990)
}

/// A limit of bytes for a v2 file: 0 is unset, -1 is `max`.
pub(super) fn limit(value: Option<i64>) -> Option<String> {
    match value? {
        0 => None,
        -1 => Some("max".to_owned()),
        bytes => Some(bytes.to_string()),
    }
}

/// config.json's `swap` is memory and swap together, v2's `memory.swap.max` is swap alone. `memory` is the limit
/// that goes with it, `None` or 0 for unset.
pub(super) fn swap_max(swap: Option<i64>, memory: Option<i64>) -> Result<Option<String>, Error> {
    let invalid = |reason: &str| Error::InvalidValue { field: SWAP, reason: reason.to_owned() };
    match (swap.unwrap_or(0), memory.unwrap_or(0)) {
        // Unlimited memory with swap unset: swap is unlimited as well.
        (0, -1) => Ok(Some("max".to_owned())),
        (0, _) => Ok(None),
        (-1, _) => Ok(Some("max".to_owned())),
        (swap, -1) => Ok(Some(swap.to_string())),
        (_, 0) => Err(invalid("unable to set swap limit without memory limit")),
        (_, memory) if memory < 0 => Err(invalid(&format!("invalid memory value: {memory}"))),
        (swap, memory) if swap < memory => Err(invalid("memory+swap limit should be >= memory limit")),
        (swap, memory) => Ok(Some((swap - memory).to_string())),
    }
}

const SWAP: &str = "linux.resources.memory.swap";

/// `pids.max`: negative is no limit; the kernel takes 0, but a container needs one process, so runc writes 1.
pub(super) fn pids_max(limit: i64) -> String {
    match limit {
        i64::MIN..=-1 => "max".to_owned(),
        0 => "1".to_owned(),
        _ => limit.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_to_weight() {
        // From runc's conversion: minimum, default, maximum, and what Docker and Kubernetes commonly ask for.
        let table = [
            (0, None),
            (1, Some(1)),
            (2, Some(1)),
            (10, Some(4)),
            (102, Some(17)),
            (512, Some(59)),
            (1024, Some(100)),
            (2048, Some(174)),
            (262_143, Some(10_000)),
            (262_144, Some(10_000)),
            (300_000, Some(10_000)),
        ];
        for (shares, weight) in table {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
    }

    #[test]
    fn shares_to_weight_never_falls() {
        let mut last = 0;
        for shares in 1..=262_200 {
            let weight = cpu_weight(shares).unwrap();
            assert!(weight >= last && (1..=10_000).contains(&weight), "{shares}: {weight}");
            last = weight;
        }
    }

    #[test]
    fn block_weight() {
        let table = [
            (0, None),
            (5, Some(1)),
            (10, Some(1)),
            (100, Some(910)),
            (500, Some(4950)),
            (1000, Some(10_000)),
        ];
        for (weight, io) in table {
            assert_eq!(io_weight(weight), io, "{weight}");
        }
    }

    #[test]
    fn swap() {
        let ok = |swap, memory| swap_max(swap, memory).unwrap();
        assert_eq!(ok(None, None), None);
        assert_eq!(ok(None, Some(100)), None);
        assert_eq!(ok(None, Some(-1)).as_deref(), Some("max"));
        assert_eq!(ok(Some(-1), Some(100)).as_deref(), Some("max"));
        assert_eq!(ok(Some(300), Some(100)).as_deref(), Some("200"));
        assert_eq!(ok(Some(100), Some(100)).as_deref(), Some("0"));
        assert_eq!(ok(Some(300), Some(-1)).as_deref(), Some("300"));
        assert!(swap_max(Some(300), None).is_err());
        assert!(swap_max(Some(50), Some(100)).is_err());
        assert!(swap_max(Some(50), Some(-2)).is_err());
    }

    #[test]
    fn limits() {
        assert_eq!(limit(None), None);
        assert_eq!(limit(Some(0)), None);
        assert_eq!(limit(Some(-1)).as_deref(), Some("max"));
        assert_eq!(limit(Some(4096)).as_deref(), Some("4096"));
        assert_eq!([pids_max(-1), pids_max(0), pids_max(7)], ["max", "1", "7"]);
    }
}
