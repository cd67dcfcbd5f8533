//! Targets of `crate::fuzz` among the systemd driver.

use std::path::Path;

use super::annotation;
use super::name::{UnitName, expand_slice};
use super::wire::{Message, Writer, rest};

/// An annotation; what it becomes can be sent.
pub(in crate::cgroup) fn annotation(key: &str, value: &str) {
    if let Ok(Some((name, value))) = annotation::property(key, value) {
        assert!(name.bytes().all(|byte| byte.is_ascii_alphabetic()));
        let mut writer = Writer::default();
        writer.value(&value);
        assert!(!value.signature().is_empty());
        drop(writer.into_bytes());
    }
}

/// A cgroupsPath as `SLICE:PREFIX:NAME`.
pub(in crate::cgroup) fn unit(path: &str) {
    drop(UnitName::parse("fuzz", Some(Path::new(path))));
    if let Ok(slices) = expand_slice(path) {
        let normal = |c: std::path::Component<'_>| matches!(c, std::path::Component::Normal(_));
        let inside = slices.strip_prefix("/").unwrap_or(&slices).components().all(normal);
        assert!(inside, "a slice outside of the hierarchy: {slices:?}");
    }
}

/// A message as it is read from the bus.
pub(in crate::cgroup) fn message(data: &[u8]) {
    if let Some(header) = data.first_chunk() {
        assert!(rest(header).is_none_or(|rest| rest <= 16 << 20));
    }
    if let Some(message) = Message::parse(data) {
        drop((message.first_text(), message.text_in_variant(), message.job_removed()));
    }
}
