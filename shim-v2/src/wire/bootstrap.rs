//! What containerd says to `start` on stdin, and the reply that its generation understands.

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::Message;
use protobuf::well_known_types::any::Any as PbAny;

use super::task::any;
use crate::api::Any;

/// Form of the start reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// 1.6: the plain address.
    Plain,
    /// 1.7 to 2.2: JSON with version 2. Version 3 would be accepted from 2.0 on, but then containerd runs
    /// no `delete` for the containers of a pod whose shim was killed (containerd #13293).
    Json,
    /// 2.3 and later: protobuf BootstrapResult. The task API version stays 2 for the same reason.
    Protobuf,
}

/// What `start` learns from stdin and the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Form of the reply.
    pub generation: Generation,
    /// Runtime options, if any were given.
    pub options: Option<Any>,
    /// Directory for the socket, from 2.3 on.
    pub socket_dir: Option<String>,
    /// Address of containerd's ttrpc socket, where stdin names it.
    pub ttrpc_address: Option<String>,
    /// containerd logs debug lines.
    pub debug: bool,
}

/// LogLevel of a containerd that logs debug lines (2.3: TRACE is -8, DEBUG -4, INFO 0).
const LOG_DEBUG: i32 = -4;

/// Tells the daemon's generation (contract section 0).
///
/// `Any{1: string, 2: bytes}` and `BootstrapParams{1: string, 2: string, …}` look alike on the wire, so the
/// params count only when their id and namespace are those of the flags.
#[must_use]
pub fn detect(stdin: &[u8], id: &str, namespace: &str, max_shim_version: Option<&str>) -> Bootstrap {
    if let Ok(params) = BootstrapParams::parse_from_bytes(stdin) {
        if params.instance_id == id && params.namespace == namespace && !id.is_empty() {
            let options = params.extensions.into_iter().find_map(|e| e.value.into_option()).map(any);
            return Bootstrap {
                generation: Generation::Protobuf,
                options,
                socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()),
                ttrpc_address: Some(params.containerd_ttrpc_address).filter(|a| !a.is_empty()),
                debug: params.log_level.value() <= LOG_DEBUG,
            };
        }
    }
    let generation = if max_shim_version.is_some() { Generation::Json } else { Generation::Plain };
    Bootstrap { generation, options: parse_any(stdin), socket_dir: None, ttrpc_address: None, debug: false }
}

/// Reads an Any; `None` for no bytes or for what is none.
#[must_use]
pub fn parse_any(bytes: &[u8]) -> Option<Any> {
    PbAny::parse_from_bytes(bytes).ok().map(any).filter(|a| !a.url.is_empty())
}

/// The bytes that `start` prints.
#[must_use]
pub fn reply(generation: Generation, address: &str) -> Vec<u8> {
    match generation {
        Generation::Plain => address.as_bytes().to_vec(),
        Generation::Json => serde_json::json!({"version": 2, "address": address, "protocol": "ttrpc"})
            .to_string()
            .into_bytes(),
        Generation::Protobuf => BootstrapResult {
            version: 2,
            address: address.to_owned(),
            protocol: "ttrpc".to_owned(),
            ..Default::default()
        }
        .write_to_bytes()
        .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;
    use protobuf::MessageField;

    fn any_bytes() -> Vec<u8> {
        PbAny {
            type_url: "containerd.runc.v1.Options".into(),
            value: b"\x30\x01".to_vec(),
            ..Default::default()
        }
        .write_to_bytes()
        .unwrap()
    }

    fn params() -> BootstrapParams {
        let value = MessageField::some(PbAny::parse_from_bytes(&any_bytes()).unwrap());
        BootstrapParams {
            instance_id: "c1".into(),
            namespace: "ns".into(),
            containerd_ttrpc_address: "/t".into(),
            socket_dir: Some("/s".into()),
            extensions: vec![Extension { value, ..Default::default() }],
            ..Default::default()
        }
    }

    #[test]
    fn generations() {
        let of = |stdin: &[u8], env| detect(stdin, "c1", "ns", env).generation;
        assert_eq!(of(b"", None), Generation::Plain);
        assert_eq!(of(&any_bytes(), None), Generation::Plain);
        assert_eq!(of(b"", Some("2")), Generation::Json);
        assert_eq!(of(&any_bytes(), Some("2")), Generation::Json);
        let bytes = params().write_to_bytes().unwrap();
        assert_eq!(of(&bytes, Some("2")), Generation::Protobuf);
        assert_eq!(of(&bytes, None), Generation::Protobuf);
        // Another container's params are no params.
        assert_eq!(detect(&bytes, "c2", "ns", Some("2")).generation, Generation::Json);
        assert_eq!(detect(&bytes, "c1", "other", Some("2")).generation, Generation::Json);
        assert_eq!(of(&[0xff, 0xff], Some("2")), Generation::Json);
    }

    #[test]
    fn options_are_found_in_both_forms() {
        let found = detect(&params().write_to_bytes().unwrap(), "c1", "ns", None);
        assert_eq!(found.options, parse_any(&any_bytes()));
        assert_eq!((found.socket_dir.as_deref(), found.ttrpc_address.as_deref()), (Some("/s"), Some("/t")));
        assert_eq!(detect(&any_bytes(), "c1", "ns", None).options, parse_any(&any_bytes()));
        assert_eq!(detect(b"", "c1", "ns", None).options, None);
    }

    #[test]
    fn replies() {
        let address = "unix:///run/containerd/s/ab";
        assert_eq!(reply(Generation::Plain, address), address.as_bytes());
        let json: serde_json::Value = serde_json::from_slice(&reply(Generation::Json, address)).unwrap();
        assert_eq!(json, serde_json::json!({"version": 2, "address": address, "protocol": "ttrpc"}));
        let message = BootstrapResult::parse_from_bytes(&reply(Generation::Protobuf, address)).unwrap();
        assert_eq!(
            (message.version, message.address.as_str(), message.protocol.as_str()),
            (2, address, "ttrpc")
        );
    }
}
