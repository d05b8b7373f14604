//! Writes protobuf messages: the few wire forms that an ONNX graph needs.

/// One message under construction. Fields stand in the order in which they are added.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Message(Vec<u8>);

impl Message {
    pub fn new() -> Self {
        Self::default()
    }

    /// A number of type int32, int64 or enum. Negative ones take ten bytes, as the format wants.
    pub fn int(mut self, field: u32, value: i64) -> Self {
        self.key(field, 0);
        self.varint(value.cast_unsigned());
        self
    }

    /// A float (four bytes, little-endian).
    pub fn float(mut self, field: u32, value: f32) -> Self {
        self.key(field, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub fn text(self, field: u32, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    pub fn message(self, field: u32, value: &Message) -> Self {
        self.bytes(field, &value.0)
    }

    /// A repeated field of messages.
    pub fn messages<'a>(self, field: u32, values: impl IntoIterator<Item = &'a Message>) -> Self {
        values.into_iter().fold(self, |message, value| message.message(field, value))
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn key(&mut self, field: u32, wire_type: u64) {
        self.varint(u64::from(field) << 3 | wire_type);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[track_caller]
    fn check(message: Message, expected: &[u8]) {
        assert_eq!(message.into_bytes(), expected);
    }

    /// The examples of the format's own description.
    #[test]
    fn wire_forms() {
        check(Message::new(), &[]);
        check(Message::new().int(1, 150), &[0x08, 0x96, 0x01]);
        check(Message::new().int(1, 0), &[0x08, 0x00]);
        check(Message::new().int(1, -2), &[0x08, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
        check(Message::new().text(2, "testing"), b"\x12\x07testing");
        check(Message::new().message(3, &Message::new().int(1, 150)), &[0x1a, 0x03, 0x08, 0x96, 0x01]);
        check(Message::new().float(2, 1.0), &[0x15, 0x00, 0x00, 0x80, 0x3f]);
        check(Message::new().int(20, 7), &[0xa0, 0x01, 0x07]);
        assert_eq!(Message::new().bytes(1, &[0; 300]).into_bytes()[..3], [0x0a, 0xac, 0x02]);
    }
}
