//! Names of units: `linux.cgroupsPath` in the form `slice:prefix:name`, and where a slice's cgroup is. Pure.

use std::path::{Path, PathBuf};

use crate::cgroup::error::Error;

/// Prefix of a scope's name when config.json has no cgroupsPath.
const PREFIX: &str = "davit";

/// The unit of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitName {
    /// The slice that it is in; empty for the default.
    pub slice: String,
    /// What a scope's name starts with.
    pub prefix: String,
    /// The container's part of the name, or the whole name of a slice.
    pub name: String,
}

impl UnitName {
    /// From config.json, by runc's rules.
    pub(super) fn parse(id: &str, cgroups_path: Option<&Path>) -> Result<UnitName, Error> {
        let Some(path) = cgroups_path.filter(|path| !path.as_os_str().is_empty()) else {
            return Ok(UnitName { slice: String::new(), prefix: PREFIX.to_owned(), name: id.to_owned() });
        };
        let text = path.to_str().unwrap_or_default();
        let mut parts = text.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(slice), Some(prefix), Some(name), None) if !name.is_empty() => {
                let unit =
                    UnitName { slice: slice.to_owned(), prefix: prefix.to_owned(), name: name.to_owned() };
                if !is_valid(&unit.unit()) {
                    return Err(Error::InvalidName { what: "systemd unit", name: unit.unit() });
                }
                expand_slice(if slice.is_empty() { "system.slice" } else { slice })?;
                Ok(unit)
            }
            _ => Err(Error::NotSystemdPath(path.to_owned())),
        }
    }

    /// The unit's name: a scope, unless the name says that it is a slice.
    pub(super) fn unit(&self) -> String {
        match (self.is_slice(), self.prefix.as_str()) {
            (true, _) => self.name.clone(),
            (false, prefix) => format!("{prefix}-{}.scope", self.name),
        }
    }

    pub(super) fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }

    /// The slice, `default` where config.json names none.
    pub(super) fn slice_or<'n>(&'n self, default: &'n str) -> &'n str {
        if self.slice.is_empty() { default } else { &self.slice }
    }
}

/// systemd.unit(5): letters, digits and a few signs, at most 255 bytes. No `/`, so that it names one directory.
fn is_valid(name: &str) -> bool {
    let sign = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    !name.is_empty() && name.len() <= 255 && name.chars().all(sign)
}

/// Where a slice's cgroup is: `a-b.slice` is in `a.slice`.
pub(super) fn expand_slice(slice: &str) -> Result<PathBuf, Error> {
    let invalid = || Error::InvalidName { what: "slice name", name: slice.to_owned() };
    let stem = slice.strip_suffix(".slice").filter(|_| is_valid(slice)).ok_or_else(invalid)?;
    let mut path = PathBuf::new();
    if stem == "-" {
        return Ok(path);
    }
    let mut name = String::new();
    for part in stem.split('-') {
        if part.is_empty() {
            return Err(invalid());
        }
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(part);
        path.push(format!("{name}.slice"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Result<UnitName, Error> {
        UnitName::parse("id", Some(Path::new(path)))
    }

    #[test]
    fn forms_of_cgroups_path() {
        assert_eq!(UnitName::parse("id", None).unwrap().unit(), "davit-id.scope");
        let unit = parse("system.slice:docker:abc").unwrap();
        assert_eq!((unit.unit().as_str(), unit.slice_or("x")), ("docker-abc.scope", "system.slice"));
        let unit = parse(":cri-containerd:abc").unwrap();
        assert_eq!((unit.unit().as_str(), unit.slice_or("x.slice")), ("cri-containerd-abc.scope", "x.slice"));
        let slice = parse("a.slice::a-b.slice").unwrap();
        assert!(slice.is_slice());
        assert_eq!(slice.unit(), "a-b.slice");
    }

    #[test]
    fn refused() {
        for bad in ["/a/b", "a", "a:b", "a:b:c:d", "a.slice:b:"] {
            assert!(matches!(parse(bad), Err(Error::NotSystemdPath(_))), "{bad}");
        }
        for bad in
            ["a.slice:b:c/d", "a/b.slice:c:d", "a:b:c", "a--b.slice:c:d", ".slice:c:d", "a.slice:b:c d"]
        {
            assert!(matches!(parse(bad), Err(Error::InvalidName { .. })), "{bad}");
        }
    }

    #[test]
    fn slices_are_nested_by_name() {
        let expand = |slice: &str| expand_slice(slice).unwrap().display().to_string();
        assert_eq!(expand("system.slice"), "system.slice");
        assert_eq!(expand("a-b-c.slice"), "a.slice/a-b.slice/a-b-c.slice");
        assert_eq!(expand("-.slice"), "");
        for bad in ["", "a", ".slice", "-a.slice", "a-.slice", "a--b.slice", "../a.slice", "a/b.slice"] {
            assert!(expand_slice(bad).is_err(), "{bad}");
        }
    }
}
