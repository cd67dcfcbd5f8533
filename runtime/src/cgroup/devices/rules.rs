//! Device rules folded into a default and exceptions, with the semantics of cgroup v1's controller.

use std::collections::BTreeMap;
use std::fmt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::cgroup::error::Error;

/// Accesses, in the bits of `struct bpf_cgroup_dev_ctx` (include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Access(pub(super) u8);

impl Access {
    pub(super) const MKNOD: Access = Access(1);
    pub(super) const READ: Access = Access(2);
    pub(super) const WRITE: Access = Access(4);
    pub(super) const ALL: Access = Access(7);

    pub(super) fn parse(text: &str) -> Option<Access> {
        let mut bits = 0;
        for letter in text.chars() {
            bits |= match letter {
                'm' => Access::MKNOD.0,
                'r' => Access::READ.0,
                'w' => Access::WRITE.0,
                _ => return None,
            };
        }
        (bits != 0).then_some(Access(bits))
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(Access::READ, "r"), (Access::WRITE, "w"), (Access::MKNOD, "m")] {
            if self.0 & bit.0 != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// Character or block device, numbered as in `struct bpf_cgroup_dev_ctx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Block = 1,
    Char = 2,
}

/// The devices of an exception; `None` is any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Devices {
    pub(super) kind: Kind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let kind = if self.kind == Kind::Char { 'c' } else { 'b' };
        write!(f, "{kind} {}:{}", number(self.major), number(self.minor))
    }
}

/// What happens with devices that no exception names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    Deny,
}

/// A default and the exceptions to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) default: Verdict,
    pub(super) exceptions: BTreeMap<Devices, Access>,
}

/// Allowed in every container after the rules of config.json, as in runc (specconv, AllowedDevices): mknod of
/// anything; null, zero, full, tty, random, urandom; pts, ptmx; tun.
const DEFAULT_ALLOWED: [(Kind, Option<u32>, Option<u32>, Access); 11] = [
    (Kind::Char, None, None, Access::MKNOD),
    (Kind::Block, None, None, Access::MKNOD),
    (Kind::Char, Some(1), Some(3), Access::ALL),
    (Kind::Char, Some(1), Some(8), Access::ALL),
    (Kind::Char, Some(1), Some(7), Access::ALL),
    (Kind::Char, Some(5), Some(0), Access::ALL),
    (Kind::Char, Some(1), Some(5), Access::ALL),
    (Kind::Char, Some(1), Some(9), Access::ALL),
    (Kind::Char, Some(136), None, Access::ALL),
    (Kind::Char, Some(5), Some(2), Access::ALL),
    (Kind::Char, Some(10), Some(200), Access::ALL),
];

impl Rules {
    /// Nothing allowed.
    pub(super) fn deny_all() -> Rules {
        Rules { default: Verdict::Deny, exceptions: BTreeMap::new() }
    }

    /// Denied by default, then the rules in order, then the default allow list.
    pub(super) fn fold(list: &[LinuxDeviceCgroup]) -> Result<Rules, Error> {
        let mut rules = Rules::deny_all();
        for rule in list {
            rules.add_spec(rule)?;
        }
        for (kind, major, minor, access) in DEFAULT_ALLOWED {
            rules.add(Verdict::Allow, Devices { kind, major, minor }, access)?;
        }
        Ok(rules)
    }

    fn add_spec(&mut self, rule: &LinuxDeviceCgroup) -> Result<(), Error> {
        let verdict = if rule.allow() { Verdict::Allow } else { Verdict::Deny };
        let refuse = |reason: &str| Error::DeviceRule { rule: show(rule), reason: reason.to_owned() };
        let access = rule.access().as_deref().unwrap_or_default();
        let access = Access::parse(access).ok_or_else(|| refuse("access must be some of r, w and m"))?;
        let number = |n: Option<i64>| match n {
            None | Some(-1) => Ok(None),
            Some(n) => u32::try_from(n).map(Some).map_err(|_| refuse("device number out of range")),
        };
        let (major, minor) = (number(rule.major())?, number(rule.minor())?);
        let kinds: &[Kind] = match rule.typ() {
            // The usual first rule. A denial for all types denies everything, whatever else it says, as on v1.
            None | Some(LinuxDeviceType::A)
                if verdict == Verdict::Deny || (major, minor, access) == (None, None, Access::ALL) =>
            {
                *self = Rules { default: verdict, exceptions: BTreeMap::new() };
                return Ok(());
            }
            // runc would allow everything here; we allow what the rule says.
            None | Some(LinuxDeviceType::A) => &[Kind::Char, Kind::Block],
            Some(LinuxDeviceType::C) => &[Kind::Char],
            Some(LinuxDeviceType::B) => &[Kind::Block],
            Some(_) => return Err(refuse("type must be a, b or c")),
        };
        kinds.iter().try_for_each(|kind| self.add(verdict, Devices { kind: *kind, major, minor }, access))
    }

    fn add(&mut self, verdict: Verdict, devices: Devices, access: Access) -> Result<(), Error> {
        if verdict == self.default {
            return self.remove(verdict, devices, access);
        }
        let entry = self.exceptions.entry(devices).or_insert(Access(0));
        entry.0 |= access.0;
        Ok(())
    }

    /// Takes an exception back. A hole in a wider exception can't be expressed on v1, where the kernel would
    /// ignore the request, so it is refused on both versions, as runc does.
    fn remove(&mut self, verdict: Verdict, devices: Devices, access: Access) -> Result<(), Error> {
        for (major, minor) in [(None, devices.minor), (devices.major, None), (None, None)] {
            let wider = Devices { major, minor, ..devices };
            let Some(held) = self.exceptions.get(&wider).filter(|_| wider != devices) else { continue };
            if held.0 & access.0 != 0 {
                let word = if verdict == Verdict::Allow { "allow" } else { "deny" };
                return Err(Error::DeviceRule {
                    rule: format!("{word} {devices} {access}"),
                    reason: format!("cannot punch hole in existing wildcard rule {wider} {held}"),
                });
            }
        }
        if let Some(held) = self.exceptions.get_mut(&devices) {
            held.0 &= !access.0;
            if held.is_empty() {
                self.exceptions.remove(&devices);
            }
        }
        Ok(())
    }

    /// The text of devices.list: `a *:* rwm` is allowed by default (its exceptions are not shown).
    pub(super) fn parse_list(text: &str) -> Option<Rules> {
        let mut rules = Rules::deny_all();
        for line in text.lines() {
            let mut fields = line.split([' ', ':']);
            let kind = match fields.next()? {
                "a" => return Some(Rules { default: Verdict::Allow, exceptions: BTreeMap::new() }),
                "c" => Kind::Char,
                "b" => Kind::Block,
                _ => return None,
            };
            let mut number = || match fields.next()? {
                "*" => Some(None),
                n => n.parse().ok().map(Some),
            };
            let (major, minor) = (number()?, number()?);
            rules.exceptions.insert(Devices { kind, major, minor }, Access::parse(fields.next()?)?);
        }
        Some(rules)
    }

    /// Whether everything is allowed.
    pub(super) fn is_allow_all(&self) -> bool {
        self.default == Verdict::Allow && self.exceptions.is_empty()
    }

    /// The verdict of the kernel's v1 controller: with default deny one exception must cover the whole request,
    /// with default allow none may touch it. The oracle of the tests.
    #[cfg(test)]
    pub(super) fn allows(&self, kind: Kind, major: u32, minor: u32, request: Access) -> bool {
        let applies = |d: &Devices| {
            d.kind == kind && d.major.is_none_or(|n| n == major) && d.minor.is_none_or(|n| n == minor)
        };
        let mut of_device =
            self.exceptions.iter().filter(|(devices, _)| applies(devices)).map(|(_, access)| access);
        match self.default {
            Verdict::Deny => of_device.any(|access| request.0 & !access.0 == 0),
            Verdict::Allow => !of_device.any(|access| request.0 & access.0 != 0),
        }
    }
}

/// A rule for messages: `allow c 1:3 rwm`.
fn show(rule: &LinuxDeviceCgroup) -> String {
    let number = |n: Option<i64>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
    format!(
        "{} {} {}:{} {}",
        if rule.allow() { "allow" } else { "deny" },
        rule.typ().as_ref().map_or("a", |t| t.as_str()),
        number(rule.major()),
        number(rule.minor()),
        rule.access().as_deref().unwrap_or_default(),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Rules from JSON, as in config.json.
    pub(in crate::cgroup::devices) fn fold(json: &str) -> Result<Rules, Error> {
        Rules::fold(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap())
    }

    #[test]
    fn defaults_are_runcs() {
        let rules = fold(r#"[{"allow":false,"access":"rwm"}]"#).unwrap();
        assert_eq!(rules, fold("[]").unwrap());
        let lines: Vec<String> = rules.exceptions.iter().map(|(d, a)| format!("{d} {a}")).collect();
        let expected = "b *:* m|c *:* m|c 1:3 rwm|c 1:5 rwm|c 1:7 rwm|c 1:8 rwm|c 1:9 rwm|c 5:0 rwm|c 5:2 rwm|\
                        c 10:200 rwm|c 136:* rwm";
        assert_eq!(lines.join("|"), expected);
    }

    #[test]
    fn privileged_allows_all() {
        let rules = fold(r#"[{"allow":false,"access":"rwm"},{"allow":true,"access":"rwm"}]"#).unwrap();
        assert!(rules.is_allow_all());
        assert!(rules.allows(Kind::Block, 8, 0, Access::ALL));
    }

    #[test]
    fn exceptions_merge_and_are_taken_back() {
        let rules = fold(
            r#"[{"allow":false,"access":"rwm"},
                {"allow":true,"type":"c","major":10,"minor":229,"access":"r"},
                {"allow":true,"type":"c","major":10,"minor":229,"access":"w"},
                {"allow":true,"type":"b","major":8,"minor":0,"access":"rw"},
                {"allow":false,"type":"b","major":8,"minor":0,"access":"w"}]"#,
        )
        .unwrap();
        assert!(rules.allows(Kind::Char, 10, 229, Access(Access::READ.0 | Access::WRITE.0)));
        assert!(rules.allows(Kind::Block, 8, 0, Access::READ));
        assert!(!rules.allows(Kind::Block, 8, 0, Access::WRITE));
        assert!(!rules.allows(Kind::Block, 8, 1, Access::READ));
        assert!(rules.allows(Kind::Block, 8, 1, Access::MKNOD));
    }

    #[test]
    fn denied_from_allow_all() {
        let rules =
            fold(r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8,"access":"rw"}]"#)
                .unwrap();
        assert!(!rules.allows(Kind::Block, 8, 5, Access::READ));
        assert!(!rules.allows(Kind::Block, 8, 5, Access(Access::READ.0 | Access::MKNOD.0)));
        assert!(rules.allows(Kind::Block, 8, 5, Access::MKNOD));
        assert!(rules.allows(Kind::Char, 8, 5, Access::ALL));
    }

    #[test]
    fn partial_all_types() {
        let rules = fold(r#"[{"allow":true,"type":"a","major":99,"minor":1,"access":"rw"}]"#).unwrap();
        assert_eq!(rules.default, Verdict::Deny);
        assert!(
            rules.allows(Kind::Char, 99, 1, Access::READ) && rules.allows(Kind::Block, 99, 1, Access::WRITE)
        );
        assert!(!rules.allows(Kind::Char, 99, 2, Access::READ));
        let rules = fold(
            r#"[{"allow":true,"type":"c","major":1,"minor":11,"access":"rwm"},{"allow":false,"access":"m"}]"#,
        );
        assert_eq!(rules.unwrap(), fold("[]").unwrap());
    }

    #[test]
    fn refused() {
        for json in [
            r#"[{"allow":true,"type":"c","major":1,"minor":3}]"#,
            r#"[{"allow":true,"type":"c","major":1,"minor":3,"access":"x"}]"#,
            r#"[{"allow":true,"type":"p","access":"r"}]"#,
            r#"[{"allow":true,"type":"c","major":-5,"access":"r"}]"#,
            r#"[{"allow":true,"type":"c","major":4294967296,"access":"r"}]"#,
            r#"[{"allow":true,"type":"c","major":10,"access":"r"},{"allow":false,"type":"c","major":10,"minor":1,"access":"r"}]"#,
        ] {
            assert!(matches!(fold(json), Err(Error::DeviceRule { .. })), "{json}");
        }
    }

    #[test]
    fn devices_list() {
        let rules = fold("[]").unwrap();
        let text: String = rules.exceptions.iter().map(|(d, a)| format!("{d} {a}\n")).collect();
        assert_eq!(Rules::parse_list(&text), Some(rules));
        assert!(Rules::parse_list("a *:* rwm\n").unwrap().is_allow_all());
        assert_eq!(Rules::parse_list("x 1:2 r"), None);
    }
}
