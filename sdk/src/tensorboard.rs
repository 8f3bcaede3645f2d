//! TensorBoard's event files, as far as scalars go.
//!
//! Owns the framing of records and the encoding of an event. What is written and when is
//! [`crate::events`]'s. There is no crate for this that is both maintained and free of a
//! protobuf compiler.
//!
//! Source: TensorFlow's `record_writer.h` (framing, masked CRC-32C), `event.proto` and
//! `summary.proto`.

use crc::{CRC_32_ISCSI, Crc};

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The record that every file starts with.
pub fn start(seconds: f64) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, seconds);
    event.bytes(3, b"brain.Event:2");
    record(&event.0)
}

/// The record of scalars at a step; `seconds` is the time since 1970.
pub fn scalars<'a>(
    seconds: f64,
    step: usize,
    values: impl IntoIterator<Item = (&'a str, f64)>,
) -> Vec<u8> {
    let mut summary = Message::default();
    for (tag, scalar) in values {
        let mut value = Message::default();
        value.bytes(1, tag.as_bytes());
        value.float(2, scalar as f32);
        summary.bytes(1, &value.0);
    }
    let mut event = Message::default();
    event.double(1, seconds);
    event.varint(2, step as u64);
    event.bytes(5, &summary.0);
    record(&event.0)
}

/// Length, its checksum, the content, its checksum.
fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(content.len() + 16);
    record.extend(length);
    record.extend(masked(&length).to_le_bytes());
    record.extend(content);
    record.extend(masked(content).to_le_bytes());
    record
}

/// A CRC of what holds CRCs is weak; TensorFlow masks them.
fn masked(bytes: &[u8]) -> u32 {
    let crc = CRC.checksum(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protobuf message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire: u64) {
        self.number(field << 3 | wire);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.number(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.number(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }
}
