//! The part of D-Bus's wire format that a client of systemd needs: method calls out, replies, errors and signals
//! in (D-Bus Specification, "Type System" and "Message Protocol"). Pure.

/// A value with its type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    Text(String),
    Path(String),
    Signature(String),
    /// The signature of the elements, and the elements.
    Array(String, Vec<Value>),
    Tuple(Vec<Value>),
}

impl Value {
    /// An array of bytes, `ay`.
    pub(super) fn bytes(bytes: &[u8]) -> Value {
        Value::Array("y".to_owned(), bytes.iter().map(|byte| Value::Byte(*byte)).collect())
    }

    /// An array of strings, `as`.
    pub(super) fn strings(strings: &[&str]) -> Value {
        Value::Array("s".to_owned(), strings.iter().map(|text| Value::Text((*text).to_owned())).collect())
    }

    /// Its type's signature.
    pub(super) fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".to_owned(),
            Value::Bool(_) => "b".to_owned(),
            Value::I16(_) => "n".to_owned(),
            Value::U16(_) => "q".to_owned(),
            Value::I32(_) => "i".to_owned(),
            Value::U32(_) => "u".to_owned(),
            Value::I64(_) => "x".to_owned(),
            Value::U64(_) => "t".to_owned(),
            Value::Double(_) => "d".to_owned(),
            Value::Text(_) => "s".to_owned(),
            Value::Path(_) => "o".to_owned(),
            Value::Signature(_) => "g".to_owned(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Tuple(items) => {
                let inner: String = items.iter().map(Value::signature).collect();
                format!("({inner})")
            }
        }
    }
}

/// Bytes on their way out, little-endian.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, n: u32) {
        self.align(4);
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(length(text.len()));
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, signature: &str) {
        // Ours are short; 255 is the format's limit.
        self.bytes.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.bytes.extend_from_slice(signature.as_bytes());
        self.bytes.push(0);
    }

    pub(super) fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(n) => self.bytes.push(*n),
            Value::Bool(yes) => self.u32(u32::from(*yes)),
            Value::I16(n) => self.fixed(&n.to_le_bytes()),
            Value::U16(n) => self.fixed(&n.to_le_bytes()),
            Value::I32(n) => self.fixed(&n.to_le_bytes()),
            Value::U32(n) => self.u32(*n),
            Value::I64(n) => self.fixed(&n.to_le_bytes()),
            Value::U64(n) => self.fixed(&n.to_le_bytes()),
            Value::Double(n) => self.fixed(&n.to_le_bytes()),
            Value::Text(text) | Value::Path(text) => self.text(text),
            Value::Signature(text) => self.signature(text),
            Value::Array(element, items) => {
                self.array(element, |writer| items.iter().for_each(|item| writer.value(item)));
            }
            Value::Tuple(items) => {
                self.align(8);
                items.iter().for_each(|item| self.value(item));
            }
        }
    }

    fn fixed(&mut self, bytes: &[u8]) {
        self.align(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// `v`: a signature and the value.
    fn variant(&mut self, value: &Value) {
        self.signature(&value.signature());
        self.value(value);
    }

    /// The length counts the elements without the padding before the first.
    fn array(&mut self, element: &str, items: impl FnOnce(&mut Writer)) {
        self.u32(0);
        let at = self.bytes.len() - 4;
        self.align(alignment(element));
        let start = self.bytes.len();
        items(self);
        let count = length(self.bytes.len() - start).to_le_bytes();
        if let Some(place) = self.bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&count);
        }
    }

    /// `a(sv)`: properties of a unit.
    pub(super) fn properties(&mut self, properties: &[(String, Value)]) {
        self.array("(sv)", |writer| {
            for (name, value) in properties {
                writer.align(8);
                writer.text(name);
                writer.variant(value);
            }
        });
    }

    /// `a(sa(sv))` with nothing in it: no further units in StartTransientUnit.
    pub(super) fn no_units(&mut self) {
        self.array("(sa(sv))", |_| {});
    }
}

fn length(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Alignment of a type by its signature.
fn alignment(signature: &str) -> usize {
    match signature.chars().next() {
        Some('n' | 'q') => 2,
        Some('b' | 'i' | 'u' | 'a' | 's' | 'o') => 4,
        Some('x' | 't' | 'd' | '(' | '{') => 8,
        _ => 1,
    }
}

/// A method call.
#[derive(Debug)]
pub(super) struct Call<'c> {
    pub(super) destination: &'c str,
    pub(super) path: &'c str,
    pub(super) interface: &'c str,
    pub(super) member: &'c str,
    pub(super) signature: &'c str,
}

/// The fixed part of a header, and the length of the header's fields.
pub(super) const HEADER: usize = 16;
/// Larger messages are no answers to what we ask.
const MAX_MESSAGE: usize = 16 << 20;
const LITTLE: u8 = b'l';
const VERSION: u8 = 1;

/// Header fields by their number.
mod field {
    pub(super) const PATH: u8 = 1;
    pub(super) const INTERFACE: u8 = 2;
    pub(super) const MEMBER: u8 = 3;
    pub(super) const ERROR_NAME: u8 = 4;
    pub(super) const REPLY_SERIAL: u8 = 5;
    pub(super) const DESTINATION: u8 = 6;
    pub(super) const SIGNATURE: u8 = 8;
}

/// The bytes of a call.
pub(super) fn encode(call: &Call<'_>, serial: u32, body: &[u8]) -> Vec<u8> {
    let mut fields = vec![
        (field::PATH, Value::Path(call.path.to_owned())),
        (field::INTERFACE, Value::Text(call.interface.to_owned())),
        (field::MEMBER, Value::Text(call.member.to_owned())),
        (field::DESTINATION, Value::Text(call.destination.to_owned())),
    ];
    if !call.signature.is_empty() {
        fields.push((field::SIGNATURE, Value::Signature(call.signature.to_owned())));
    }
    message(Kind::Call, serial, &fields, body)
}

fn message(kind: Kind, serial: u32, fields: &[(u8, Value)], body: &[u8]) -> Vec<u8> {
    let mut writer = Writer { bytes: vec![LITTLE, kind as u8, 0, VERSION] };
    writer.u32(length(body.len()));
    writer.u32(serial);
    writer.array("(yv)", |writer| {
        for (number, value) in fields {
            writer.align(8);
            writer.bytes.push(*number);
            writer.variant(value);
        }
    });
    writer.align(8);
    writer.bytes.extend_from_slice(body);
    writer.bytes
}

/// The kinds of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Call = 1,
    Reply = 2,
    Error = 3,
    Signal = 4,
}

/// A message that came in.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// The call that it answers.
    pub(super) reply_serial: u32,
    pub(super) member: String,
    pub(super) error_name: String,
    signature: String,
    big: bool,
    body: Vec<u8>,
}

/// How many bytes follow the fixed header: None when it is not one.
pub(super) fn rest(header: &[u8; HEADER]) -> Option<usize> {
    let big = is_big(header)?;
    let mut reader = Reader { bytes: header, at: 4, big };
    let (body, _serial, fields) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let fields = usize::try_from(fields).ok()?.checked_next_multiple_of(8)?;
    let rest = fields.checked_add(usize::try_from(body).ok()?)?;
    (rest <= MAX_MESSAGE).then_some(rest)
}

fn is_big(header: &[u8]) -> Option<bool> {
    match (header.first()?, header.get(3)?) {
        (b'l', &VERSION) => Some(false),
        (b'B', &VERSION) => Some(true),
        _ => None,
    }
}

impl Message {
    /// Parses a whole message. None for one that is malformed.
    pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
        let big = is_big(bytes)?;
        let kind = match bytes.get(1)? {
            1 => Kind::Call,
            2 => Kind::Reply,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return None,
        };
        let mut reader = Reader { bytes, at: 12, big };
        let end = usize::try_from(reader.u32()?).ok()?.checked_add(HEADER)?;
        let mut message = Message {
            kind,
            reply_serial: 0,
            member: String::new(),
            error_name: String::new(),
            signature: String::new(),
            big,
            body: bytes.get(end.checked_next_multiple_of(8)?..)?.to_vec(),
        };
        while reader.at < end {
            reader.align(8)?;
            let number = reader.u8()?;
            match (number, reader.signature()?.as_str()) {
                (field::REPLY_SERIAL, "u") => message.reply_serial = reader.u32()?,
                (field::MEMBER, "s") => message.member = reader.text()?,
                (field::ERROR_NAME, "s") => message.error_name = reader.text()?,
                (field::SIGNATURE, "g") => message.signature = reader.signature()?,
                (_, "s" | "o") => drop(reader.text()?),
                (_, "g") => drop(reader.signature()?),
                (_, "u") => drop(reader.u32()?),
                _ => return None,
            }
        }
        Some(message)
    }

    /// The body's first string (an error's text, an object path); empty without one.
    pub(super) fn first_text(&self) -> String {
        let mut reader = self.reader();
        match self.signature.chars().next() {
            Some('s' | 'o') => reader.text().unwrap_or_default(),
            _ => String::new(),
        }
    }

    /// The body of a property's reply that holds a string.
    pub(super) fn text_in_variant(&self) -> Option<String> {
        let mut reader = self.reader();
        (self.signature == "v" && reader.signature()? == "s").then(|| reader.text())?
    }

    /// JobRemoved's job and result: `uoss`.
    pub(super) fn job_removed(&self) -> Option<(String, String)> {
        if self.kind != Kind::Signal || self.member != "JobRemoved" || self.signature != "uoss" {
            return None;
        }
        let mut reader = self.reader();
        let _number = reader.u32()?;
        let (job, _unit) = (reader.text()?, reader.text()?);
        Some((job, reader.text()?))
    }

    fn reader(&self) -> Reader<'_> {
        Reader { bytes: &self.body, at: 0, big: self.big }
    }
}

/// Bytes that came in; every read is checked.
struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
    big: bool,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(to)?;
        Some(())
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(count)?;
        let part = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(part)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        let big = self.big;
        let bytes = <[u8; 4]>::try_from(self.take(4)?).ok()?;
        Some(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn text(&mut self) -> Option<String> {
        let count = usize::try_from(self.u32()?).ok()?;
        self.string(count)
    }

    fn signature(&mut self) -> Option<String> {
        let count = usize::from(self.u8()?);
        self.string(count)
    }

    fn string(&mut self, count: usize) -> Option<String> {
        let text = std::str::from_utf8(self.take(count)?).ok()?.to_owned();
        (self.u8()? == 0).then_some(text)
    }
}

/// What the stand-in for systemd in the tests says.
#[cfg(test)]
pub(super) mod server {
    use super::{Kind, Reader, Value, Writer, field, message};

    /// The serial and member of a call.
    pub(in super::super) fn call(bytes: &[u8]) -> (u32, String) {
        let serial = Reader { bytes, at: 8, big: false }.u32().unwrap();
        (serial, super::Message::parse(bytes).unwrap().member)
    }

    fn body(values: &[Value]) -> (Vec<u8>, Value) {
        let mut writer = Writer::default();
        values.iter().for_each(|value| writer.value(value));
        (writer.into_bytes(), Value::Signature(values.iter().map(Value::signature).collect()))
    }

    pub(in super::super) fn reply(to: u32, values: &[Value]) -> Vec<u8> {
        let (body, signature) = body(values);
        let fields = [(field::REPLY_SERIAL, Value::U32(to)), (field::SIGNATURE, signature)];
        message(Kind::Reply, 1, &fields, &body)
    }

    /// A reply with a variant that holds a string.
    pub(in super::super) fn property(to: u32, text: &str) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.variant(&Value::Text(text.to_owned()));
        let fields =
            [(field::REPLY_SERIAL, Value::U32(to)), (field::SIGNATURE, Value::Signature("v".into()))];
        message(Kind::Reply, 1, &fields, &writer.into_bytes())
    }

    pub(in super::super) fn error(to: u32, name: &str, text: &str) -> Vec<u8> {
        let (body, signature) = body(&[Value::Text(text.to_owned())]);
        let name = Value::Text(name.to_owned());
        let fields =
            [(field::REPLY_SERIAL, Value::U32(to)), (field::ERROR_NAME, name), (field::SIGNATURE, signature)];
        message(Kind::Error, 1, &fields, &body)
    }

    pub(in super::super) fn job_removed(job: &str, unit: &str, result: &str) -> Vec<u8> {
        let text = |text: &str| Value::Text(text.to_owned());
        let (body, signature) = body(&[Value::U32(7), Value::Path(job.to_owned()), text(unit), text(result)]);
        let fields = [
            (field::PATH, Value::Path("/org/freedesktop/systemd1".to_owned())),
            (field::INTERFACE, text("org.freedesktop.systemd1.Manager")),
            (field::MEMBER, text("JobRemoved")),
            (field::SIGNATURE, signature),
        ];
        message(Kind::Signal, 1, &fields, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_aligned_and_counted() {
        let mut writer = Writer::default();
        writer.value(&Value::Byte(1));
        writer.value(&Value::U64(2));
        assert_eq!(writer.into_bytes(), [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        let mut writer = Writer::default();
        // The padding before the first element is not counted.
        writer.value(&Value::Array("t".to_owned(), vec![Value::U64(3)]));
        assert_eq!(writer.into_bytes(), [8, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        let mut writer = Writer::default();
        writer.properties(&[("A".to_owned(), Value::Bool(true))]);
        let expected: &[u8] =
            &[16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, b'A', 0, 1, b'b', 0, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(writer.into_bytes(), expected);
    }

    #[test]
    fn signatures() {
        let pair = Value::Tuple(vec![Value::Text(String::new()), Value::U32(1)]);
        assert_eq!(pair.signature(), "(su)");
        assert_eq!(Value::Array("(su)".to_owned(), vec![pair]).signature(), "a(su)");
        assert_eq!(Value::bytes(&[1]).signature(), "ay");
    }

    #[test]
    fn what_is_written_is_read() {
        let call = Call { destination: "d", path: "/p", interface: "i", member: "Get", signature: "s" };
        let mut writer = Writer::default();
        writer.value(&Value::Text("argument".to_owned()));
        let bytes = encode(&call, 9, &writer.into_bytes());
        let header: [u8; HEADER] = bytes[..HEADER].try_into().unwrap();
        assert_eq!(rest(&header), Some(bytes.len() - HEADER));
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.kind, message.member.as_str()), (Kind::Call, "Get"));
        assert_eq!(message.first_text(), "argument");
        let error = Message::parse(&server::error(9, "a.b", "why")).unwrap();
        assert_eq!((error.kind, error.reply_serial, error.error_name.as_str()), (Kind::Error, 9, "a.b"));
        let removed = Message::parse(&server::job_removed("/job/1", "u.scope", "done")).unwrap();
        assert_eq!(removed.job_removed(), Some(("/job/1".to_owned(), "done".to_owned())));
        let property = Message::parse(&server::property(1, "257.1")).unwrap();
        assert_eq!(property.text_in_variant().as_deref(), Some("257.1"));
    }

    #[test]
    fn malformed_messages_are_refused() {
        let good = server::job_removed("/job/1", "u.scope", "done");
        for cut in 0..good.len() {
            // Whatever is missing, nothing is made up and nothing panics.
            let parsed = Message::parse(&good[..cut]).and_then(|message| message.job_removed());
            assert_eq!(parsed, None, "{cut}");
        }
        for at in 0..good.len() {
            for byte in [0, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                let _ = Message::parse(&bad).and_then(|message| message.job_removed());
            }
        }
        let huge = [b'l', 4, 0, 1, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(rest(&huge), None);
        assert_eq!(rest(b"HTTP/1.1 400 Bad"), None);
    }
}
