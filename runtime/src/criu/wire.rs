//! As much of protobuf's encoding as CRIU's messages need: varints, and fields with a length.

/// Wire types (protobuf "Encoding").
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// A message being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// The message.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// An unsigned number or an enum.
    pub(super) fn unsigned(&mut self, field: u64, value: u64) {
        self.varint(field << 3 | VARINT);
        self.varint(value);
    }

    /// An `int32`: a negative one is sign-extended to 64 bits.
    pub(super) fn signed(&mut self, field: u64, value: i32) {
        self.unsigned(field, i64::from(value) as u64);
    }

    /// A `bool`.
    pub(super) fn flag(&mut self, field: u64, value: bool) {
        self.unsigned(field, u64::from(value));
    }

    /// A `string`.
    pub(super) fn text(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | LENGTH);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// A message in this one.
    pub(super) fn message(&mut self, field: u64, message: Writer) {
        self.text(field, &message.0);
    }
}

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A number.
    Number(u64),
    /// A string or a message.
    Bytes(&'a [u8]),
}

impl Value<'_> {
    /// As an `int32` or an enum; 0 when it is none.
    pub(super) fn signed(self) -> i32 {
        // Negative numbers come sign-extended: the low half is the number.
        match self {
            Value::Number(value) => value as i32,
            Value::Bytes(_) => 0,
        }
    }

    /// As a `bool`.
    pub(super) fn flag(self) -> bool {
        matches!(self, Value::Number(value) if value != 0)
    }

    /// As text, with what is no UTF-8 replaced.
    pub(super) fn text(self) -> String {
        match self {
            Value::Number(_) => String::new(),
            Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        }
    }
}

/// All fields of a message in their order; `None` when it is no message. Fixed-width fields, which CRIU's messages
/// do not have, are skipped.
pub(super) fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let field = tag >> 3;
        match tag & 7 {
            VARINT => all.push((field, Value::Number(varint(&mut bytes)?))),
            LENGTH => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                all.push((field, Value::Bytes(take(&mut bytes, length)?)));
            }
            FIXED64 => drop(take(&mut bytes, 8)?),
            FIXED32 => drop(take(&mut bytes, 4)?),
            _ => return None,
        }
    }
    Some(all)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for at in 0..10 {
        let byte = *take(bytes, 1)?.first()?;
        value |= u64::from(byte & 0x7f).checked_shl(7 * at)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back() {
        let mut inner = Writer::default();
        inner.text(1, b"key");
        let mut writer = Writer::default();
        writer.unsigned(1, 300);
        writer.signed(2, -1);
        writer.flag(3, true);
        writer.message(27, inner);
        let bytes = writer.into_bytes();
        // The example of protobuf's own page: 300 is ac 02.
        assert_eq!(bytes[..3], [0x08, 0xac, 0x02]);
        let all = fields(&bytes).unwrap();
        assert_eq!(all[0], (1, Value::Number(300)));
        assert_eq!(all[1].1.signed(), -1);
        assert!(all[2].1.flag());
        let (27, Value::Bytes(inner)) = all[3] else { panic!("{all:?}") };
        assert_eq!(fields(inner).unwrap(), [(1, Value::Bytes(b"key"))]);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for wrong in [
            &b"\x08"[..],
            b"\x0a\x05abc",
            b"\x0b",
            &[0xff; 11],
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            assert_eq!(fields(wrong), None, "{wrong:?}");
        }
        assert_eq!(fields(b"\x0d1234\x0912345678").unwrap(), []);
    }
}
