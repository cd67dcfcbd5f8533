//! `linux.resources` as properties of a unit (systemd.resource-control(5)), by runc's rules. What systemd has no
//! property for is left to the writes to the cgroup's files, which follow in any case.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::Property;
use super::wire::Value;
use crate::cgroup::error::Error;
use crate::cgroup::layout::Mode;
use crate::cgroup::{convert, devices};
use crate::sorted::map_of;

/// systemd's infinity.
const INFINITY: u64 = u64::MAX;
/// The kernel's default period of the CPU quota, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;
/// systemd keeps the quota in percent of a CPU: a hundredth of a second per second.
const PERCENT: u64 = 10_000;

/// Which properties the manager acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    /// cgroup v2.
    Unified,
    /// v1 and hybrid, whose controllers are v1's. systemd up to 257.
    Legacy,
}

impl Tree {
    /// That of a host's layout.
    pub(super) fn of(mode: Mode) -> Tree {
        if mode == Mode::V2 { Tree::Unified } else { Tree::Legacy }
    }

    /// What turns the accounting of every container on, so that its counters are there.
    pub(super) fn accounting(self) -> [&'static str; 4] {
        let io = if self == Tree::Unified { "IOAccounting" } else { "BlockIOAccounting" };
        ["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"]
    }
}

/// Versions that brought a property.
mod since {
    pub(super) const CPU_QUOTA_PERIOD: u32 = 242;
    pub(super) const ALLOWED_CPUS: u32 = 244;
    /// CPUWeight 0, shown as `idle`.
    pub(super) const CPU_IDLE: u32 = 252;
}

fn number(name: &str, n: u64) -> Property {
    (name.to_owned(), Value::U64(n))
}

fn text(name: &str, text: &str) -> Property {
    (name.to_owned(), Value::Text(text.to_owned()))
}

/// The properties; `version` asks systemd for its version and is called only where it matters.
pub(super) fn of_resources(
    resources: &LinuxResources,
    tree: Tree,
    version: &mut dyn FnMut() -> Result<u32, Error>,
) -> Result<Vec<Property>, Error> {
    let mut properties = Vec::new();
    if let Some(memory) = resources.memory() {
        properties.extend(match tree {
            Tree::Unified => of_memory(memory)?,
            Tree::Legacy => signed("MemoryLimit", memory.limit()).into_iter().collect(),
        });
    }
    if let Some(cpu) = resources.cpu() {
        properties.extend(match tree {
            Tree::Unified => cpu_weight(cpu, version)?,
            Tree::Legacy => cpu_shares(cpu),
        });
        properties.extend(of_cpu(cpu, version)?);
    }
    if let Some(pids) = resources.pids() {
        properties.push(number("TasksMax", limit(&convert::pids_max(pids.limit()))?));
    }
    if tree == Tree::Legacy {
        let weight = resources.block_io().as_ref().and_then(|io| io.weight()).filter(|weight| *weight != 0);
        properties.extend(weight.map(|weight| number("BlockIOWeight", u64::from(weight))));
        // `unified` is refused on v1 when the limits are written.
        return Ok(properties);
    }
    // By name, so that the same config gives the same call.
    let unified: BTreeMap<_, _> = map_of(resources.unified().iter().flatten());
    for (key, value) in &unified {
        let idle = || unified.get(&"cpu.idle".to_owned()).is_some_and(|idle| idle.trim() == "1");
        if *key != "cpu.weight" || !idle() {
            properties.extend(of_file(key, value.trim(), version)?);
        }
    }
    Ok(properties)
}

/// Which devices systemd's own filter lets through, so that a reload of systemd does not take any away. Filters
/// of one cgroup all have to agree, so a list that systemd cannot express (allowed but for some) leaves it to
/// ours alone.
pub(super) fn of_devices(resources: &LinuxResources) -> Result<Vec<Property>, Error> {
    let entries = devices::for_systemd(resources.devices().as_deref().unwrap_or_default())?;
    let policy = if entries.is_some() { "strict" } else { "auto" };
    let pair = |(path, access): (String, String)| Value::Tuple(vec![Value::Text(path), Value::Text(access)]);
    let list = |entries: Vec<(String, String)>| {
        let array = Value::Array("(ss)".to_owned(), entries.into_iter().map(pair).collect());
        ("DeviceAllow".to_owned(), array)
    };
    // An empty list forgets what was there.
    let mut properties = vec![text("DevicePolicy", policy), list(Vec::new())];
    properties.extend(entries.map(list));
    Ok(properties)
}

fn of_memory(memory: &LinuxMemory) -> Result<Vec<Property>, Error> {
    let swap = convert::swap_max(memory.swap(), memory.limit())?;
    let values = [
        ("MemoryMax", convert::limit(memory.limit())),
        ("MemoryLow", convert::limit(memory.reservation())),
        ("MemorySwapMax", swap),
    ];
    let set = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
    set.map(|(name, value)| Ok(number(name, limit(&value)?))).collect()
}

/// A limit of v1's kind: 0 is none, and any negative number no limit.
fn signed(name: &str, limit: Option<i64>) -> Option<Property> {
    let limit = limit.filter(|limit| *limit != 0)?;
    Some(number(name, u64::try_from(limit).unwrap_or(INFINITY)))
}

fn cpu_weight(
    cpu: &LinuxCpu,
    version: &mut dyn FnMut() -> Result<u32, Error>,
) -> Result<Option<Property>, Error> {
    let weight = if cpu.idle() == Some(1) && version()? >= since::CPU_IDLE {
        Some(0)
    } else {
        cpu.shares().and_then(convert::cpu_weight)
    };
    Ok(weight.map(|weight| number("CPUWeight", weight)))
}

/// systemd refuses what the kernel puts into its range.
fn cpu_shares(cpu: &LinuxCpu) -> Option<Property> {
    let shares = cpu.shares().filter(|shares| *shares != 0)?;
    Some(number("CPUShares", shares.clamp(2, 262_144)))
}

fn of_cpu(cpu: &LinuxCpu, version: &mut dyn FnMut() -> Result<u32, Error>) -> Result<Vec<Property>, Error> {
    let mut properties = quota(cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0), version)?;
    for (field, name, list) in [
        ("linux.resources.cpu.cpus", "AllowedCPUs", cpu.cpus()),
        ("linux.resources.cpu.mems", "AllowedMemoryNodes", cpu.mems()),
    ] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
            properties.extend(set_of(field, name, list, version)?);
        }
    }
    Ok(properties)
}

/// Quota and period, 0 for unset. The exact quota is written to the file afterwards.
fn quota(
    quota: i64,
    period: u64,
    version: &mut dyn FnMut() -> Result<u32, Error>,
) -> Result<Vec<Property>, Error> {
    let mut properties = Vec::new();
    if period != 0 && version()? >= since::CPU_QUOTA_PERIOD {
        properties.push(number("CPUQuotaPeriodUSec", period));
    }
    if quota != 0 || period != 0 {
        let period = if period == 0 { DEFAULT_PERIOD } else { period };
        let per_second = match u64::try_from(quota) {
            Ok(0) | Err(_) => INFINITY,
            // Up: a sub-cgroup may be given as much as config.json says.
            Ok(quota) => (quota.saturating_mul(1_000_000) / period).div_ceil(PERCENT).saturating_mul(PERCENT),
        };
        properties.push(number("CPUQuotaPerSecUSec", per_second));
    }
    Ok(properties)
}

/// A list like `0-2,7` as a little-endian mask.
fn set_of(
    field: &'static str,
    name: &str,
    list: &str,
    version: &mut dyn FnMut() -> Result<u32, Error>,
) -> Result<Option<Property>, Error> {
    let mask = mask(list)
        .ok_or_else(|| Error::InvalidValue { field, reason: format!("{list:?} is not a list of numbers") })?;
    Ok((version()? >= since::ALLOWED_CPUS).then(|| (name.to_owned(), Value::bytes(&mask))))
}

fn mask(list: &str) -> Option<Vec<u8>> {
    /// More than any kernel has.
    const MOST: usize = 1 << 16;
    let mut mask = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        mask.resize(mask.len().max(last / 8 + 1), 0);
        for n in first..=last {
            *mask.get_mut(n / 8)? |= 1 << (n % 8);
        }
    }
    (!mask.is_empty()).then_some(mask)
}

/// A file of `unified`; nothing for those that systemd does not know.
fn of_file(
    file: &str,
    value: &str,
    version: &mut dyn FnMut() -> Result<u32, Error>,
) -> Result<Vec<Property>, Error> {
    const FIELD: &str = "linux.resources.unified";
    let invalid = || Error::InvalidValue { field: FIELD, reason: format!("{file} can't be {value:?}") };
    let plain = |name: &str| limit(value).map(|n| vec![number(name, n)]).map_err(|_| invalid());
    match file {
        "memory.high" => plain("MemoryHigh"),
        "memory.low" => plain("MemoryLow"),
        "memory.min" => plain("MemoryMin"),
        "memory.max" => plain("MemoryMax"),
        "memory.swap.max" => plain("MemorySwapMax"),
        "pids.max" => plain("TasksMax"),
        "cpu.weight" => plain("CPUWeight"),
        "cpu.idle" if value == "1" && version()? >= since::CPU_IDLE => Ok(vec![number("CPUWeight", 0)]),
        "cpu.max" => {
            let mut words = value.split_ascii_whitespace();
            let amount = match words.next().ok_or_else(invalid)? {
                "max" => 0,
                amount => amount.parse().map_err(|_| invalid())?,
            };
            let period = words.next().map_or(Ok(DEFAULT_PERIOD), str::parse).map_err(|_| invalid())?;
            quota(amount, period, version)
        }
        "cpuset.cpus" => Ok(set_of(FIELD, "AllowedCPUs", value, version)?.into_iter().collect()),
        "cpuset.mems" => Ok(set_of(FIELD, "AllowedMemoryNodes", value, version)?.into_iter().collect()),
        "memory.oom.group" => Ok(match value {
            "0" => vec![text("OOMPolicy", "continue")],
            "1" => vec![text("OOMPolicy", "kill")],
            _ => Vec::new(),
        }),
        _ => Ok(Vec::new()),
    }
}

/// A number of a v2 file.
fn limit(value: &str) -> Result<u64, Error> {
    match value {
        "max" => Ok(INFINITY),
        n => n.parse().map_err(|_| Error::InvalidValue {
            field: "linux.resources",
            reason: format!("{n:?} is not a limit"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(resources: serde_json::Value) -> Result<Vec<Property>, Error> {
        of_resources(&serde_json::from_value(resources).unwrap(), Tree::Unified, &mut || Ok(257))
    }

    fn numbers(list: &[(&str, u64)]) -> Vec<Property> {
        list.iter().map(|(name, n)| number(name, *n)).collect()
    }

    #[test]
    fn fields_become_properties() {
        let table = [
            (json!({"memory": {"limit": 64, "reservation": 32}}), vec![("MemoryMax", 64), ("MemoryLow", 32)]),
            (json!({"memory": {"limit": 64, "swap": 96}}), vec![("MemoryMax", 64), ("MemorySwapMax", 32)]),
            (json!({"memory": {"limit": -1}}), vec![("MemoryMax", INFINITY), ("MemorySwapMax", INFINITY)]),
            (json!({"cpu": {"shares": 1024}}), vec![("CPUWeight", 100)]),
            (json!({"cpu": {"idle": 1, "shares": 1024}}), vec![("CPUWeight", 0)]),
            (json!({"cpu": {"quota": 25_000}}), vec![("CPUQuotaPerSecUSec", 250_000)]),
            // A third of a CPU, up to whole percents.
            (
                json!({"cpu": {"quota": 10_000, "period": 30_000}}),
                vec![("CPUQuotaPeriodUSec", 30_000), ("CPUQuotaPerSecUSec", 340_000)],
            ),
            (json!({"cpu": {"quota": -1}}), vec![("CPUQuotaPerSecUSec", INFINITY)]),
            (json!({"pids": {"limit": 50}}), vec![("TasksMax", 50)]),
            (json!({"pids": {"limit": -1}}), vec![("TasksMax", INFINITY)]),
            (json!({"pids": {"limit": 0}}), vec![("TasksMax", 1)]),
            (
                json!({"unified": {"memory.high": "5", "pids.max": "max", "hugetlb.2MB.max": "0"}}),
                vec![("MemoryHigh", 5), ("TasksMax", INFINITY)],
            ),
            (
                json!({"unified": {"cpu.max": "50000 100000"}}),
                vec![("CPUQuotaPeriodUSec", 100_000), ("CPUQuotaPerSecUSec", 500_000)],
            ),
            (json!({}), vec![]),
        ];
        for (resources, expected) in table {
            let shown = resources.to_string();
            assert_eq!(of(resources).unwrap(), numbers(&expected), "{shown}");
        }
        let cpus = of(json!({"cpu": {"cpus": "0-2,9"}})).unwrap();
        assert_eq!(cpus, [("AllowedCPUs".to_owned(), Value::bytes(&[0b111, 0b10]))]);
        let policy = of(json!({"unified": {"memory.oom.group": "1"}})).unwrap();
        assert_eq!(policy, [text("OOMPolicy", "kill")]);
    }

    #[test]
    fn an_old_systemd_is_not_asked_for_what_it_lacks() {
        let resources = json!({"cpu": {"quota": 10, "period": 100, "cpus": "0", "idle": 1, "shares": 2}});
        let resources = serde_json::from_value(resources).unwrap();
        let old = of_resources(&resources, Tree::Unified, &mut || Ok(241)).unwrap();
        assert_eq!(old, numbers(&[("CPUWeight", 1), ("CPUQuotaPerSecUSec", 100_000)]));
    }

    #[test]
    fn v1_has_properties_of_its_own() {
        let table = [
            (json!({"memory": {"limit": 64, "reservation": 32, "swap": 96}}), vec![("MemoryLimit", 64)]),
            (json!({"memory": {"limit": -1}}), vec![("MemoryLimit", INFINITY)]),
            (json!({"memory": {"limit": 0}}), vec![]),
            (
                json!({"cpu": {"shares": 1024, "quota": 25_000}}),
                vec![("CPUShares", 1024), ("CPUQuotaPerSecUSec", 250_000)],
            ),
            (json!({"cpu": {"shares": 1}}), vec![("CPUShares", 2)]),
            (json!({"blockIO": {"weight": 300}}), vec![("BlockIOWeight", 300)]),
            (json!({"pids": {"limit": 50}}), vec![("TasksMax", 50)]),
            (json!({"unified": {"memory.max": "5"}}), vec![]),
        ];
        for (resources, expected) in table {
            let shown = resources.to_string();
            let resources = serde_json::from_value(resources).unwrap();
            let got = of_resources(&resources, Tree::Legacy, &mut || Ok(257)).unwrap();
            assert_eq!(got, numbers(&expected), "{shown}");
        }
        assert_eq!(Tree::of(Mode::Hybrid).accounting()[2], "BlockIOAccounting");
    }

    #[test]
    fn refused() {
        for bad in [
            json!({"cpu": {"cpus": "a"}}),
            json!({"cpu": {"mems": "3-1"}}),
            json!({"cpu": {"cpus": "0-99999999"}}),
            json!({"unified": {"memory.max": "lots"}}),
            json!({"unified": {"cpu.max": ""}}),
            json!({"memory": {"swap": 5}}),
        ] {
            let shown = bad.to_string();
            assert!(matches!(of(bad), Err(Error::InvalidValue { .. })), "{shown}");
        }
    }

    #[test]
    fn devices_are_listed_for_systemd() {
        let rules = json!({"devices": [{"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]});
        let properties = of_devices(&serde_json::from_value(rules).unwrap()).unwrap();
        assert_eq!(properties[0], text("DevicePolicy", "strict"));
        let Value::Array(_, entries) = &properties[2].1 else { panic!("{properties:?}") };
        let has = |path: &str, access: &str| {
            entries.contains(&Value::Tuple(vec![Value::Text(path.into()), Value::Text(access.into())]))
        };
        assert!(has("/dev/char/10:229", "rw") && has("/dev/char/1:3", "rwm"));
        assert!(has("char-*", "m") && has("block-*", "m") && has("char-136", "rwm"));
        let all = json!({"devices": [{"allow": true, "access": "rwm"}]});
        let properties = of_devices(&serde_json::from_value(all).unwrap()).unwrap();
        assert_eq!(properties.len(), 2);
        assert_eq!(properties[0], text("DevicePolicy", "auto"));
    }
}
