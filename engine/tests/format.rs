//! The bytes of a small store, taken apart field by field by a reader of its own, which follows
//! `docs/format/README.md` and not the code. The result is the worked example in `docs/format/`.
//!
//! `UPDATE=1 cargo test -p dovehouse-engine --test format` rewrites the example after a change of the
//! format, which also needs a line in CHANGELOG.md and a new version in `docs/format/`.

use std::fmt::Write;
use std::path::Path;

use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{Alarm, Teeth};

mod common;

use common::{builder, id};

/// Takes fields off a file and notes them.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    text: &'a mut String,
}

impl Fields<'_> {
    fn take(&mut self, name: &str, len: usize) -> Vec<u8> {
        let bytes = self.bytes[self.at..self.at + len].to_vec();
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        for (line, chunk) in hex.chunks(16).enumerate() {
            let name = if line == 0 { name } else { "" };
            let at = self.at + line * 16;
            writeln!(self.text, "{at:>6}  {:<48} {name}", chunk.join(" ")).unwrap();
        }
        self.at += len;
        bytes
    }

    fn number(&mut self, name: &str, len: usize) -> u64 {
        let mut value = [0; 8];
        value[..len].copy_from_slice(&self.bytes[self.at..self.at + len]);
        let value = u64::from_le_bytes(value);
        self.take(&format!("{name} = {value}"), len);
        value
    }

    fn varint(&mut self, name: &str) -> u64 {
        let mut value = 0;
        let mut len = 0;
        loop {
            let byte = self.bytes[self.at + len];
            value |= u64::from(byte & 0x7F) << (7 * len);
            len += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        self.take(&format!("{name} = {value}"), len);
        value
    }

    fn text(&mut self, name: &str) {
        let len = self.varint(&format!("length of {name}")) as usize;
        let text = String::from_utf8_lossy(&self.bytes[self.at..self.at + len]).into_owned();
        self.take(&format!("{name} = {text:?}"), len);
    }

    fn file_start(&mut self, magic: &str) {
        assert_eq!(self.take(&format!("magic {magic:?}"), 8), magic.as_bytes());
        self.number("major version", 2);
        self.number("minor version", 2);
        self.number("features", 8);
    }

    fn zeros(&mut self, to: usize) {
        assert!(
            self.bytes[self.at..to].iter().all(|byte| *byte == 0),
            "zeros up to {to}"
        );
        writeln!(self.text, "{:>6}  … zeros up to {to}", self.at).unwrap();
        self.at = to;
    }

    fn crc_of_all_before(&mut self) {
        let from = self.at - self.at % 4096;
        let crc = crc32fast::hash(&self.bytes[from..self.at]);
        assert_eq!(self.number("crc of all before", 4), u64::from(crc));
    }
}

fn superblock(fields: &mut Fields<'_>) {
    let start = fields.at;
    fields.file_start("DOVEsupr");
    fields.take("store id", 16);
    fields.number("generation", 8);
    fields.number("replay from: offset in the segment", 4);
    fields.number("replay from: segment number", 4);
    fields.take("replay from: salt", 8);
    fields.number("replay from: last batch before it", 4);
    fields.number("bytes of a segment", 8);
    fields.number("cleanly closed", 1);
    fields.number("bytes of the manifest", 8);
    fields.take("crc of the manifest", 4);
    fields.number("time before it", 8);
    fields.zeros(start + 508);
    fields.crc_of_all_before();
}

fn manifest(fields: &mut Fields<'_>) {
    fields.file_start("DOVEmani");
    for _ in 0..fields.varint("segment files") {
        fields.number("file", 4);
        if fields.number("state (0 free, 1 log, 2 sealed, 3 pack)", 1) >= 2 {
            fields.number("segment number", 4);
            fields.take("salt", 8);
            fields.number("end", 4);
        }
    }
    fields.varint("bytes of the engine's part");
    fields.number("version of the engine's part", 1);
    fields.varint("next slot");
    fields.take("key of the id hash", 16);
    for _ in 0..fields.varint("classes") {
        fields.varint("class");
        fields.text("tenant");
        fields.text("name");
    }
    let depth = fields.number("id directory: depth", 1);
    fields.number("id directory: buckets in the file", 4);
    for prefix in 0..1 << depth {
        fields.number(&format!("bucket of prefix {prefix}"), 4);
    }
    for _ in 0..fields.varint("free buckets") {
        fields.number("free bucket", 4);
    }
    for zone in 0..fields.varint("alarm zones") {
        fields.varint(&format!("earliest alarm of page {zone}"));
    }
    for _ in 0..fields.varint("segments with live bytes") {
        fields.varint("segment number");
        fields.varint("live bytes");
    }
    fields.varint("next dictionary");
    for _ in 0..fields.varint("classes with live bytes") {
        fields.varint("class");
        fields.varint("live bytes");
    }
    for _ in 0..fields.varint("free slots") {
        fields.varint("free slot");
    }
    assert_eq!(fields.varint("forks"), 0, "the example has none");
    fields.varint("history: position of the log up to which it is in tables");
    fields.varint("history: complete since, ms");
    let classes = fields.varint("history: classes of which something is said");
    assert_eq!(classes, 0, "the example has none");
    fields.varint("history: next table");
    for _ in 0..fields.varint("history: tables") {
        fields.varint("number of a table");
        fields.varint("for how long its classes keep history, s");
        fields.varint("its newest commit, ms");
    }
    assert_eq!(fields.at, fields.bytes.len());
}

fn segment(fields: &mut Fields<'_>) {
    fields.file_start("DOVEsegm");
    fields.number("role (1 log)", 1);
    fields.take("store id", 16);
    fields.number("segment number", 4);
    fields.number("last batch of the predecessor", 4);
    fields.take("salt", 8);
    fields.take("salt of the predecessor", 8);
    fields.number("created, ms", 8);
    fields.number("bytes of a segment", 8);
    fields.number("stream", 4);
    fields.zeros(124);
    fields.crc_of_all_before();
    fields.zeros(4096);
    while fields.bytes[fields.at..fields.at + 4] == *b"DVBA" {
        writeln!(fields.text).unwrap();
        batch(fields);
    }
}

fn batch(fields: &mut Fields<'_>) {
    let start = fields.at;
    fields.take("magic \"DVBA\"", 4);
    fields.number("reserved", 4);
    fields.number("segment number", 4);
    fields.number("batch", 4);
    fields.take("salt", 8);
    fields.number("LSN: offset", 4);
    fields.number("LSN: segment number", 4);
    let records = fields.number("records", 4);
    let body = fields.number("bytes of the records", 4) as usize;
    fields.number("time, ms", 8);
    fields.number("watermark: offset", 4);
    fields.number("watermark: segment number", 4);
    fields.take("crc of the batch before", 4);
    fields.take("crc of this header and the records' crcs", 4);
    for _ in 0..records {
        record(fields);
    }
    assert_eq!(fields.at, start + 64 + body);
    fields.zeros(fields.at.next_multiple_of(4096));
}

fn record(fields: &mut Fields<'_>) {
    let stored = fields.bytes[fields.at..fields.at + 18].to_vec();
    fields.take("record: crc", 4);
    let len = fields.number("record: bytes of the body", 4) as usize;
    fields.number("record: link, offset", 4);
    fields.number("record: link, segment number", 4);
    let kind = fields.number("record: kind (1 image, 2 delta, 3 erase, 4 class)", 1);
    fields.number("record: flags", 1);
    let end = fields.at + len;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&fields.bytes[fields.at..end]);
    crc.update(&stored[4..]);
    assert_eq!(
        crc.finalize().to_le_bytes(),
        stored[..4],
        "body first, then the frame"
    );
    if kind == 4 {
        fields.varint("class");
        fields.text("tenant");
        fields.text("name");
    } else {
        fields.varint("slot");
        fields.number("generation", 1);
        fields.varint("seq");
        fields.varint("class");
        fields.number("depth", 1);
        match kind {
            1 => image(fields, end),
            2 => delta(fields, end),
            _ => drop(fields.take("id", 32)),
        }
    }
    assert_eq!(fields.at, end);
}

fn image(fields: &mut Fields<'_>, end: usize) {
    fields.take("id", 32);
    let flags = fields.number("flags (1 named, 2 alarms, 4 pages)", 1);
    if flags & 1 != 0 {
        fields.text("name");
    }
    fields.varint("written, ms");
    if flags & 2 != 0 {
        alarms(fields);
    }
    let keys = fields.varint("keys");
    fields.varint("bytes of keys and values");
    if flags & 4 != 0 {
        fields.varint("pages");
        fields.number("log2 of the page size", 1);
    }
    let codec = fields.number("codec (0 raw, 2 zstd)", 1);
    fields.varint("dictionary");
    fields.varint("bytes of the state, uncompressed");
    if codec == 0 {
        for _ in 0..keys {
            fields.text("key");
            fields.text("value");
        }
    } else {
        fields.take("a zstd frame without its magic number", end - fields.at);
    }
}

fn alarms(fields: &mut Fields<'_>) {
    for _ in 0..fields.varint("alarms") {
        fields.text("alarm's name");
        fields.varint("due, ms");
        fields.varint("attempts");
        fields.text("schedule");
    }
}

fn delta(fields: &mut Fields<'_>, end: usize) {
    while fields.at < end {
        match fields.number(
            "operation (1 put, 2 delete, 3 alarms, 4 page count, 5 page)",
            1,
        ) {
            1 => {
                fields.text("key");
                fields.text("value");
            }
            2 => fields.text("key"),
            3 => alarms(fields),
            4 => drop(fields.varint("pages")),
            5 => {
                fields.varint("page");
                fields.number(
                    "how (0 zero, 1 full, 2 zstd, 3 ranges, 4 zstd on the version before)",
                    1,
                );
                let len = fields.varint("bytes") as usize;
                fields.take("change", len);
            }
            other => panic!("operation {other}"),
        }
    }
}

fn slot_entry(fields: &mut Fields<'_>) {
    fields.number("head: segment number", 4);
    fields.number("head: offset", 4);
    fields.number("head: bytes", 4);
    fields.number("seq", 5);
    fields.number("generation", 1);
    fields.number("class", 2);
    fields.number("flags (1 in use, 2 erased, 8 expired)", 1);
    fields.number("depth", 1);
    fields.number("reserved", 4);
    fields.take("fingerprint", 4);
    fields.take("check", 2);
}

/// One of everything that this version writes.
fn store() -> SimFs {
    let fs = SimFs::new(2026);
    let engine = builder(&fs, Teeth::default()).open().unwrap();
    let class = engine.class("Room").unwrap();
    let mut lobby = engine.wake(class, id(0xAA)).unwrap();
    lobby.set_name("lobby");
    lobby.put(b"topic", b"doves").unwrap();
    lobby.put(b"welcome", &b"coo ".repeat(20)).unwrap();
    lobby.set_alarm(Alarm {
        due_ms: 1_700_000_060_000,
        ..Alarm::default()
    });
    lobby.commit().unwrap().unwrap().wait().unwrap();
    let mut page = [0; 4096];
    page[..9].copy_from_slice(b"some page");
    lobby.write_page(1, &page).unwrap();
    lobby.put(b"topic", b"pigeons").unwrap();
    lobby.delete(b"welcome").unwrap();
    lobby.commit().unwrap().unwrap();
    page[5..9].copy_from_slice(b"PAGE");
    lobby.write_page(1, &page).unwrap();
    lobby.clear_alarm("");
    lobby.commit().unwrap().unwrap().wait().unwrap();
    let mut gone = engine.wake(class, id(0xBB)).unwrap();
    gone.put(b"k", b"v").unwrap();
    gone.commit().unwrap();
    gone.clear(false);
    gone.commit().unwrap().unwrap().wait().unwrap();
    drop(gone);
    engine.checkpoint().unwrap();
    // As it is now: falling asleep would write the object once more.
    fs.process_death()
}

#[test]
fn the_worked_example_in_the_docs_is_what_a_store_looks_like() {
    let fs = store();
    let mut text =
        String::from("One small store, byte by byte: offset, bytes, field. See README.md.\n");
    let mut part = |file: &str, title: &str, at: usize, read: &dyn Fn(&mut Fields<'_>)| {
        let bytes = fs.content(&Path::new("store").join(file)).unwrap();
        write!(text, "\n== {file}: {title}\n\n").unwrap();
        read(&mut Fields {
            bytes: &bytes,
            at,
            text: &mut text,
        });
    };
    part("SUPER", "slot a", 0, &superblock);
    part("SUPER", "slot b", 4096, &superblock);
    part("MANIFEST-a", "whole", 0, &manifest);
    part("segment-00000001", "header and all batches", 0, &segment);
    part("slots", "the entry of slot 1", 32, &slot_entry);
    part("slots", "the entry of slot 2", 64, &slot_entry);
    part(
        "ids",
        "bucket 0, its header and first entries",
        0,
        &|fields| {
            fields.number("depth", 1);
            fields.take("zero", 3);
            fields.take("crc", 4);
            for _ in 0..2 {
                fields.take("fingerprint", 3);
                fields.number("slot", 5);
            }
        },
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/format/example.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let documented = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        documented == text,
        "docs/format/example.txt is out of date: see the head of this test"
    );
}
