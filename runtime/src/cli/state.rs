//! `davit state`, and the record that `list` prints too.

use std::collections::BTreeMap;
use std::path::Path;

use clap::ArgMatches;
use serde::Serialize;

use super::args::{Arity, container_id};
use super::global::Global;
use super::{Command, json, print};
use crate::container::{self, ContainerState};

pub(super) const COMMAND: Command = Command {
    name: "state",
    about: "output the state of a container",
    usage: "<container-id>",
    arity: Arity::Exactly(1),
    flags: Vec::new,
    run,
    failure: "",
    failure_code: 1,
};

/// runc's record, in its order of keys.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: i32,
    status: &'static str,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    owner: &'a str,
}

impl<'a> Record<'a> {
    /// The record of a container; `state` has an empty owner, as in runc.
    pub(super) fn new(state: &'a ContainerState, owner: &'a str) -> Self {
        Record {
            oci_version: &state.oci_version,
            id: &state.id,
            pid: state.pid,
            status: state.status.as_str(),
            bundle: &state.bundle,
            rootfs: &state.rootfs,
            created: &state.created,
            annotations: &state.annotations,
            owner,
        }
    }
}

fn run(global: &Global, matches: &ArgMatches) -> anyhow::Result<i32> {
    let state = container::state(&global.runtime, container_id(matches)?)?;
    Ok(print(&json::pretty(&Record::new(&state, ""), "  ")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Status;

    #[test]
    fn json_is_runcs() {
        let state = ContainerState {
            oci_version: "1.0.2-dev".into(),
            id: "c1".into(),
            pid: 9607,
            status: Status::Created,
            bundle: "/tmp/b".into(),
            rootfs: "/tmp/b/rootfs".into(),
            created: "2026-11-23T04:10:49.228985279Z".into(),
            annotations: BTreeMap::from([("a".into(), "1 <&>".into())]),
            owner_uid: 0,
        };
        let expected = r#"{
  "ociVersion": "1.0.2-dev",
  "id": "c1",
  "pid": 9607,
  "status": "created",
  "bundle": "/tmp/b",
  "rootfs": "/tmp/b/rootfs",
  "created": "2026-11-23T04:10:49.228985279Z",
  "annotations": {
    "a": "1 \u003c\u0026\u003e"
  },
  "owner": ""
}"#;
        assert_eq!(json::pretty(&Record::new(&state, ""), "  ").unwrap(), expected);
    }
}
