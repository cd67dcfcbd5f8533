//! The answer to `-info`: RuntimeInfo, not inside an Any.

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::{Message, MessageField};

use super::bootstrap::parse_any;
use super::task::pack;

const FEATURES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Encodes it; the options of the request are given back.
#[must_use]
pub fn encode(stdin: &[u8], version: &str, features: &str) -> Vec<u8> {
    let options = parse_any(stdin).map_or_else(MessageField::none, |any| pack(&any.url, any.value));
    RuntimeInfo {
        name: "io.containerd.davit.v2".to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: version.to_owned(),
            revision: option_env!("DAVIT_COMMIT").unwrap_or_default().to_owned(),
            ..Default::default()
        }),
        options,
        features: pack(FEATURES_TYPE, features.as_bytes().to_vec()),
        ..Default::default()
    }
    .write_to_bytes()
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_bare() {
        let message = RuntimeInfo::parse_from_bytes(&encode(b"", "1.2", "{}")).unwrap();
        assert_eq!(message.version.version, "1.2");
        assert_eq!(
            (message.features.type_url.as_str(), message.features.value.as_slice()),
            (FEATURES_TYPE, b"{}".as_slice())
        );
        assert!(message.options.is_none());
    }
}
