//! `dovehouse dump`: the log, field by field.

use std::path::PathBuf;

use dovehouse_engine::wal::{Batch, Lsn, RecordView, Role, Segment};
use dovehouse_engine::{
    Alarm, BlockPlace, Change, Decoded, Engine, Header, ObjectId, Relocation, Slot,
};
use serde_json::{Value, json};

use crate::exit::Failure;
use crate::output::{self, readable, time};
use crate::store;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory
    dir: PathBuf,
    /// Only this segment, by its number
    #[arg(long)]
    segment: Option<u32>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = store::open(&arguments.dir)?;
    let mut segments = engine.log().segments();
    segments.retain(|segment| arguments.segment.is_none_or(|segno| segno == segment.segno));
    let mut damaged = false;
    if arguments.json {
        let mut document = superblock(&engine);
        let segments = segments
            .iter()
            .map(|segment| segment_json(&engine, segment, &mut damaged));
        document["segments"] = segments.collect();
        output::json(&document)?;
    } else {
        print_superblock(&engine)?;
        for segment in &segments {
            print_segment(&engine, segment, &mut damaged)?;
        }
    }
    if damaged {
        Err(Failure::damage_reported())
    } else {
        Ok(())
    }
}

fn superblock(engine: &Engine) -> Value {
    let superblock = engine.log().superblock();
    json!({
        "schema": 1,
        "superblock": {
            "store_id": format!("{:032x}", superblock.store_id),
            "generation": superblock.generation,
            "replay_from": superblock.replay_from.lsn.to_string(),
            "replay_from_batch": superblock.replay_from.last_batch,
            "segment_bytes": superblock.segment_bytes,
            "clean": superblock.clean,
        },
    })
}

fn print_superblock(engine: &Engine) -> Result<(), Failure> {
    let superblock = engine.log().superblock();
    let replay = superblock.replay_from;
    output::print(format!(
        "store {:032x}, checkpoint {}, replay from {} (behind batch {}), segments of {} bytes{}",
        superblock.store_id,
        superblock.generation,
        replay.lsn,
        replay.last_batch,
        superblock.segment_bytes,
        if superblock.clean {
            ", cleanly closed"
        } else {
            ""
        }
    ))?;
    for (class, tenant, name) in engine.classes() {
        output::print(format!("class {}: {tenant:?} {name:?}", class.get()))?;
    }
    Ok(())
}

fn print_segment(
    engine: &Engine,
    segment: &std::sync::Arc<Segment>,
    damaged: &mut bool,
) -> Result<(), Failure> {
    let header = match segment.header(engine.log().superblock().store_id) {
        Ok(Some(header)) if header.role == Role::Pack => {
            format!("a pack, began {}", time(header.created_ms))
        }
        Ok(Some(header)) => format!(
            "began {}, follows batch {} of salt {:016x}",
            time(header.created_ms),
            header.pred_last_batch,
            header.pred_salt
        ),
        Ok(None) => "its header is damaged".into(),
        Err(error) => error.to_string(),
    };
    let name = segment
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    output::print(format!(
        "\nsegment {} in {name}, salt {:016x}: {header}",
        segment.segno, segment.salt
    ))?;
    for batch in engine.log().batches(segment) {
        match batch {
            Ok(batch) => print_batch(&batch)?,
            Err(error) => {
                *damaged = true;
                output::print(format!("  {error}"))?;
            }
        }
    }
    Ok(())
}

fn print_batch(batch: &Batch) -> Result<(), Failure> {
    let header = batch.header;
    output::print(format!(
        "  batch {} at {}: {}, {} records, {} bytes, durable before {}, crc {:08x} after {:08x}",
        header.number,
        header.lsn,
        time(header.time_ms),
        header.records,
        header.body_bytes,
        header.watermark,
        batch.crc,
        header.prev_crc
    ))?;
    batch.records().try_for_each(|record| print_record(&record))
}

fn print_record(record: &RecordView<'_>) -> Result<(), Failure> {
    let link = if record.link.is_none() {
        String::new()
    } else {
        format!(", after {}", record.link)
    };
    let flags = if record.flags == 0 {
        String::new()
    } else {
        format!(", flags {:#04x}", record.flags)
    };
    let start = format!(
        "    {} {} bytes{link}{flags}: ",
        record.lsn,
        record.stored_bytes()
    );
    match Decoded::of(record) {
        Decoded::Image {
            header,
            meta,
            compressed,
            dictionary,
            state_bytes,
        } => {
            let compressed = match (compressed, dictionary) {
                (false, _) => String::new(),
                (true, 0) => " compressed".to_owned(),
                (true, number) => format!(" compressed with dictionary {number}"),
            };
            let name = meta
                .name
                .map(|name| format!(" {name:?}"))
                .unwrap_or_default();
            output::print(format!(
                "{start}IMAGE {}, id {}{name}, written {}, {} keys of {} bytes, {} pages, state of {state_bytes} bytes{compressed}{}",
                object(&header),
                meta.id,
                time(meta.written_ms),
                meta.kv_count,
                meta.kv_bytes,
                meta.page_count,
                alarms(&meta.alarms)
            ))?;
        }
        Decoded::Delta { header, operations } => {
            output::print(format!(
                "{start}DELTA {}, depth {}",
                object(&header),
                header.depth
            ))?;
            for operation in &operations {
                output::print(format!("      {}", change(operation)))?;
            }
        }
        Decoded::Commit {
            header,
            is_head,
            blocks,
        } => {
            let kind = if is_head { "HEAD" } else { "PAGES" };
            output::print(format!(
                "{start}{kind} {}, depth {}",
                object(&header),
                header.depth
            ))?;
            print_blocks(&blocks)?;
        }
        Decoded::Leaf {
            header,
            owner,
            file,
            index,
            blocks,
        } => output::print(format!(
            "{start}LEAF {}, of slot {owner}, file {file}, index {index}, {blocks} blocks",
            object(&header)
        ))?,
        Decoded::Blob { owner, seq, blocks } => {
            let whose = match seq {
                0 => "moved".to_owned(),
                seq => format!("for commit {seq}"),
            };
            output::print(format!("{start}BLOB of slot {owner}, {whose}"))?;
            print_blocks(&blocks)?;
        }
        Decoded::Erase { header, id } => {
            output::print(format!("{start}ERASE {}, id {id}", object(&header)))?;
        }
        Decoded::Class {
            class,
            tenant,
            name,
        } => {
            output::print(format!("{start}CLASS {}: {tenant:?} {name:?}", class.get()))?;
        }
        Decoded::Group {
            members,
            dictionary,
            state_bytes,
        } => {
            output::print(format!(
                "{start}GROUP of {}, {state_bytes} bytes compressed with dictionary {dictionary}",
                members.len()
            ))?;
            for (header, id) in &members {
                output::print(format!("      {}, id {id}", object(header)))?;
            }
        }
        Decoded::Expire(forgotten) => {
            output::print(format!("{start}EXPIRE"))?;
            for (slot, id) in &forgotten {
                output::print(format!("      slot {slot}, id {id}"))?;
            }
        }
        Decoded::Remap(moves) => {
            output::print(format!("{start}REMAP"))?;
            for moved in &moves {
                output::print(format!("      {}", relocation(moved)))?;
            }
        }
        Decoded::Other => output::print(format!(
            "{start}kind {}, {}",
            record.kind,
            output::hex(record.body)
        ))?,
        _ => output::print(format!(
            "{start}kind {}, malformed: {}",
            record.kind,
            output::hex(record.body)
        ))?,
    }
    Ok(())
}

fn object(header: &Header) -> String {
    let Header {
        slot,
        generation,
        seq,
        class,
        ..
    } = header;
    format!(
        "slot {slot} generation {generation} commit {seq} class {}",
        class.get()
    )
}

fn alarms(alarms: &[Alarm]) -> String {
    let alarm = |alarm: &Alarm| format!(", alarm {:?} at {}", alarm.name, time(alarm.due_ms));
    alarms.iter().map(alarm).collect()
}

fn relocation(moved: &Relocation) -> String {
    let Relocation {
        slot,
        generation,
        seq,
        lsn,
        bytes,
    } = moved;
    format!("slot {slot} generation {generation} commit {seq} at {lsn}, {bytes} bytes")
}

fn change(operation: &Change) -> String {
    match operation {
        Change::Put { key, value } => format!("put {} = {}", readable(key), readable(value)),
        Change::Delete { key } => format!("delete {}", readable(key)),
        Change::Alarms(list) if list.is_empty() => "no alarms".into(),
        Change::Alarms(list) => format!("alarms{}", alarms(list)),
        Change::PageCount(count) => format!("{count} pages"),
        Change::Page { number, how, bytes } => format!("page {number}: {how}, {bytes} bytes"),
        _ => "an operation of a newer version".into(),
    }
}

fn segment_json(engine: &Engine, segment: &std::sync::Arc<Segment>, damaged: &mut bool) -> Value {
    let mut batches = Vec::new();
    for batch in engine.log().batches(segment) {
        match batch {
            Ok(batch) => batches.push(batch_json(&batch)),
            Err(error) => {
                *damaged = true;
                batches.push(json!({ "damage": error.to_string() }));
            }
        }
    }
    json!({
        "segno": segment.segno,
        "file": segment.path.file_name().unwrap_or_default().to_string_lossy(),
        "salt": format!("{:016x}", segment.salt),
        "batches": batches,
    })
}

fn batch_json(batch: &Batch) -> Value {
    let header = batch.header;
    json!({
        "number": header.number,
        "lsn": header.lsn.to_string(),
        "time_ms": header.time_ms,
        "watermark": header.watermark.to_string(),
        "crc": format!("{:08x}", batch.crc),
        "records": batch.records().map(|record| record_json(&record)).collect::<Vec<_>>(),
    })
}

fn record_json(record: &RecordView<'_>) -> Value {
    let mut document = json!({
        "lsn": record.lsn.to_string(),
        "bytes": record.stored_bytes(),
        "link": record.link.to_string(),
        "flags": record.flags,
        "kind": record.kind,
    });
    let mut of_object = |name: &str, header: &Header| {
        document["name"] = json!(name);
        document["slot"] = json!(header.slot.get());
        document["generation"] = json!(header.generation);
        document["seq"] = json!(header.seq);
        document["class"] = json!(header.class.get());
        document["depth"] = json!(header.depth);
    };
    match Decoded::of(record) {
        Decoded::Image {
            header,
            meta,
            state_bytes,
            ..
        } => {
            of_object("IMAGE", &header);
            document["id"] = json!(meta.id.to_string());
            document["object_name"] = json!(meta.name);
            document["state_bytes"] = json!(state_bytes);
        }
        Decoded::Delta { header, operations } => {
            of_object("DELTA", &header);
            document["operations"] = operations.iter().map(change).collect();
        }
        Decoded::Commit {
            header,
            is_head,
            blocks,
        } => {
            of_object(if is_head { "HEAD" } else { "PAGES" }, &header);
            document["blocks"] = blocks.iter().map(block).collect();
        }
        Decoded::Leaf {
            header,
            owner,
            file,
            index,
            blocks,
        } => {
            of_object("LEAF", &header);
            document["owner"] = json!(owner.get());
            document["file"] = json!(file);
            document["index"] = json!(index);
            document["blocks"] = json!(blocks);
        }
        Decoded::Blob { owner, seq, blocks } => {
            document["name"] = json!("BLOB");
            document["slot"] = json!(owner.get());
            document["seq"] = json!(seq);
            document["blocks"] = blocks.iter().map(block).collect();
        }
        Decoded::Erase { header, id } => {
            of_object("ERASE", &header);
            document["id"] = json!(id.to_string());
        }
        Decoded::Class {
            class,
            tenant,
            name,
        } => {
            document["name"] = json!("CLASS");
            document["class"] = json!(class.get());
            document["class_name"] = json!(name);
            document["tenant"] = json!(tenant);
        }
        Decoded::Group { members, .. } => {
            let member = |(header, id): &(Header, ObjectId)| {
                json!({"slot": header.slot.get(), "generation": header.generation,
                    "seq": header.seq, "id": id.to_string()})
            };
            document["name"] = json!("GROUP");
            document["members"] = members.iter().map(member).collect();
        }
        Decoded::Expire(forgotten) => {
            let one =
                |(slot, id): &(Slot, ObjectId)| json!({"slot": slot.get(), "id": id.to_string()});
            document["name"] = json!("EXPIRE");
            document["forgotten"] = forgotten.iter().map(one).collect();
        }
        Decoded::Remap(moves) => {
            document["name"] = json!("REMAP");
            document["moves"] = moves.iter().map(relocation).collect();
        }
        _ => document["body"] = json!(output::hex(record.body)),
    }
    document
}

fn print_blocks(blocks: &[BlockPlace]) -> Result<(), Failure> {
    for block in blocks {
        let name = if block.file == 0 { "page" } else { "key block" };
        let place = match block.lsn {
            Lsn::NONE => "gone".to_owned(),
            lsn => format!("{} bytes at {lsn}", block.bytes),
        };
        output::print(format!("      {name} {}: {place}", block.number))?;
    }
    Ok(())
}

fn block(block: &BlockPlace) -> Value {
    json!({ "file": block.file, "number": block.number, "lsn": block.lsn.to_string(), "bytes": block.bytes })
}
