//! TensorBoard event files: TFRecord frames around hand-encoded protobuf messages with one scalar or image each.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// Appends scalars and images to an event file.
pub(super) struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// A new event file in `run`, with the format's version record.
    pub(super) fn create(run: &Path) -> Result<Self> {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let path = run.join(format!(
            "events.out.tfevents.{}.preftune.{}",
            since_epoch.as_secs(),
            std::process::id()
        ));
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|source| Error::io("create", &path, source))?;
        let mut writer = Self { path, file };
        // Event { double wall_time = 1; string file_version = 3; }
        let mut event = field_f64(1, now());
        event.extend(field_bytes(3, b"brain.Event:2"));
        writer.record(&event)?;
        Ok(writer)
    }

    /// One scalar at a step.
    pub(super) fn scalar(&mut self, step: u64, tag: &str, value: f64) -> Result<()> {
        // Summary.Value { string tag = 1; float simple_value = 2; }
        let mut inner = field_bytes(1, tag.as_bytes());
        inner.push(2 << 3 | 5);
        inner.extend((value as f32).to_le_bytes());
        self.summary(step, &inner)
    }

    /// One image at a step, from the bytes of its PNG file.
    pub(super) fn image(
        &mut self,
        step: u64,
        tag: &str,
        (width, height): (u32, u32),
        png: &[u8],
    ) -> Result<()> {
        // Image { int32 height = 1; int32 width = 2; int32 colorspace = 3 (RGB is 3); bytes encoded_image_string = 4; }
        let mut image = Vec::new();
        for (number, value) in [(1, height), (2, width), (3, 3)] {
            image.push(number << 3);
            varint(u64::from(value), &mut image);
        }
        image.extend(field_bytes(4, png));
        // Summary.Value { string tag = 1; Image image = 4; }
        let mut inner = field_bytes(1, tag.as_bytes());
        inner.extend(field_bytes(4, &image));
        self.summary(step, &inner)
    }

    /// A summary of one value.
    fn summary(&mut self, step: u64, value: &[u8]) -> Result<()> {
        // Event { double wall_time = 1; int64 step = 2; Summary summary = 5 { repeated Value value = 1 } }
        let mut event = field_f64(1, now());
        event.push(2 << 3);
        varint(step, &mut event);
        event.extend(field_bytes(5, &field_bytes(1, value)));
        self.record(&event)
    }

    fn record(&mut self, payload: &[u8]) -> Result<()> {
        let length = (payload.len() as u64).to_le_bytes();
        let mut frame = length.to_vec();
        frame.extend(masked_crc(&length).to_le_bytes());
        frame.extend(payload);
        frame.extend(masked_crc(payload).to_le_bytes());
        self.file
            .write_all(&frame)
            .map_err(|source| Error::io("write", &self.path, source))
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

fn varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn field_f64(number: u8, value: f64) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 1];
    bytes.extend(value.to_le_bytes());
    bytes
}

fn field_bytes(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    varint(value.len() as u64, &mut bytes);
    bytes.extend(value);
    bytes
}

/// TFRecord's rotation of CRC-32C, which keeps a checksum of data that holds checksums strong.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}
