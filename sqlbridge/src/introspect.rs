//! A store as tables, for tools: its objects, its log, and what is wrong with it. Nothing here writes, wakes
//! an object or is known to an object's own database.
//!
//! What cannot be read is missing from the other tables and named in `damage`.

use std::ffi::CStr;
use std::sync::Arc;

use dovehouse_engine::wal::{Batch, Lsn, Role, Segment};
use dovehouse_engine::{ClassId, Decoded, Engine, Error as EngineError, Header, ObjectInfo, Slot};
use libsqlite3_sys as sqlite;

use crate::connection::Connection;
use crate::error::Result;
use crate::ffi::Handle;
use crate::value::Value;
use crate::vtab::{self, Access, Fault, Key, Rows, Table};

impl Connection {
    /// A store as tables, which are read as the store is when a statement runs: `objects`, `segments`,
    /// `history`, `alarms`, `dictionaries` and `damage`. `docs/sql.md` has their columns. The connection's
    /// own database is in memory, and stock SQLite.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use dovehouse_engine::{Engine, ObjectId};
    /// use dovehouse_sqlbridge::Connection;
    /// # let dir = tempfile::tempdir()?;
    /// let engine = Arc::new(Engine::open(dir.path())?);
    /// let mut room = engine.wake(engine.class("Room")?, ObjectId::from_bytes([1; 32]))?;
    /// room.put(b"topic", b"doves")?;
    /// room.commit()?.expect("something was written").wait()?;
    ///
    /// let store = Connection::open_store(engine.clone())?;
    /// let sql = "SELECT class, count(*) AS rooms FROM objects GROUP BY class";
    /// let row = store.exec(sql, ())?.one()?;
    /// assert_eq!((row.get::<String>("class")?, row.get::<i64>("rooms")?), ("Room".to_owned(), 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_store(engine: Arc<Engine>) -> Result<Self> {
        let handle = Handle::open(":memory:", None)?;
        for (name, declaration, keys, rows) in VIEWS {
            let engine = engine.clone();
            let view = View {
                engine,
                declaration,
                keys,
                rows,
            };
            vtab::register(&handle, name, Arc::new(view))?;
        }
        Ok(Self::new(handle))
    }
}

/// A table that shows a store.
struct View {
    engine: Arc<Engine>,
    declaration: &'static CStr,
    keys: &'static [Key],
    rows: Read,
}

type Read = fn(&Arc<Engine>, &Access) -> Result<Rows, Fault>;

impl Table for View {
    fn declaration(&self) -> &'static CStr {
        self.declaration
    }

    fn keys(&self) -> &'static [Key] {
        self.keys
    }

    fn rows(&self, access: Access) -> Result<Rows, Fault> {
        (self.rows)(&self.engine, &access)
    }
}

const VIEWS: [(&CStr, &CStr, &[Key], Read); 6] = [
    (
        c"objects",
        c"CREATE TABLE objects(
            slot INTEGER PRIMARY KEY, id TEXT, tenant TEXT, class TEXT, name TEXT, generation INTEGER,
            seq INTEGER, erased INTEGER, segno INTEGER, offset INTEGER, bytes INTEGER, depth INTEGER,
            image_ms INTEGER, kv_count INTEGER, kv_bytes INTEGER, page_count INTEGER) WITHOUT ROWID",
        &[Key::Lookup(0), Key::Lookup(1)],
        objects,
    ),
    (
        c"segments",
        c"CREATE TABLE segments(
            segno INTEGER PRIMARY KEY, role TEXT, file TEXT, used_bytes INTEGER, live_bytes INTEGER)
            WITHOUT ROWID",
        &[],
        segments,
    ),
    (
        c"history",
        c"CREATE TABLE history(
            segno INTEGER, offset INTEGER, slot INTEGER, time_ms INTEGER, kind TEXT, generation INTEGER,
            seq INTEGER, depth INTEGER, bytes INTEGER, PRIMARY KEY (segno, offset, slot)) WITHOUT ROWID",
        &[Key::Lookup(0)],
        history,
    ),
    (
        c"alarms",
        c"CREATE TABLE alarms(
            slot INTEGER, name TEXT, id TEXT, tenant TEXT, class TEXT, due_ms INTEGER, attempts INTEGER,
            PRIMARY KEY (slot, name)) WITHOUT ROWID",
        &[],
        alarms,
    ),
    (
        c"dictionaries",
        c"CREATE TABLE dictionaries(
            number INTEGER PRIMARY KEY, tenant TEXT, class TEXT, is_current INTEGER, is_trained INTEGER,
            bytes INTEGER, images INTEGER, state_bytes INTEGER, stored_bytes INTEGER) WITHOUT ROWID",
        &[],
        dictionaries,
    ),
    (
        c"damage",
        c"CREATE TABLE damage(number INTEGER PRIMARY KEY, part TEXT, what TEXT) WITHOUT ROWID",
        &[],
        damage,
    ),
];

fn number(value: impl TryInto<i64>) -> Value {
    Value::Integer(value.try_into().unwrap_or(i64::MAX))
}

/// A class as a tenant and a name; one without a record is a number.
fn class(engine: &Engine, class: ClassId) -> (Value, Value) {
    match engine.class_name(class) {
        Some((tenant, name)) => (tenant.into(), name.into()),
        None => (Value::Null, format!("class {}", class.get()).into()),
    }
}

fn place(lsn: Lsn) -> (Value, Value) {
    (number(lsn.segno()), number(lsn.offset()))
}

/// The object in a slot, if it can be read.
fn found(engine: &Engine, slot: Slot) -> Option<ObjectInfo> {
    engine.object_info(slot).ok().flatten()
}

fn objects(engine: &Arc<Engine>, access: &Access) -> Result<Rows, Fault> {
    // Operands of other types are left to SQLite, which knows what they are equal to.
    let only = match (access.looked_up(0), access.looked_up(1)) {
        (Some(Value::Integer(slot)), _) => {
            let slot = u64::try_from(*slot).ok().and_then(Slot::new);
            Some(slot.and_then(|slot| found(engine, slot)))
        }
        (_, Some(Value::Text(id))) => {
            let id = id.parse().ok();
            Some(id.and_then(|id| engine.find(&id).ok().flatten()))
        }
        _ => None,
    };
    if let Some(only) = only {
        return Ok(Box::new(
            only.map(|info| Ok(object(engine, info))).into_iter(),
        ));
    }
    let slots = (1..=engine.stats().slots).filter_map(Slot::new);
    let engine = engine.clone();
    Ok(Box::new(slots.filter_map(move |slot| {
        Some(Ok(object(&engine, found(&engine, slot)?)))
    })))
}

fn object(engine: &Engine, info: ObjectInfo) -> Vec<Value> {
    let (tenant, class) = class(engine, info.entry.class);
    let (segno, offset) = place(info.entry.head);
    vec![
        number(info.slot.get()),
        info.id.to_string().into(),
        tenant,
        class,
        info.name.into(),
        number(info.entry.generation),
        number(info.entry.seq),
        info.entry.erased.into(),
        segno,
        offset,
        number(info.entry.bytes),
        number(info.entry.depth),
        number(info.written_ms),
        number(info.kv_count),
        number(info.kv_bytes),
        number(info.page_count),
    ]
}

fn segments(engine: &Arc<Engine>, _access: &Access) -> Result<Rows, Fault> {
    let stats = engine.stats().segments;
    let row = move |segment: Arc<Segment>| {
        let role = match segment.role {
            Role::Log => "log",
            Role::Pack => "pack",
            Role::Blob => "blob",
        };
        let live = stats.iter().find(|stats| stats.segno == segment.segno);
        Ok(vec![
            number(segment.segno),
            role.into(),
            segment.path.display().to_string().into(),
            number(segment.end()),
            live.map_or(Value::Null, |stats| number(stats.live_bytes)),
        ])
    };
    Ok(Box::new(engine.log().segments().into_iter().map(row)))
}

fn history(engine: &Arc<Engine>, access: &Access) -> Result<Rows, Fault> {
    let mut segments = engine.log().segments();
    if let Some(Value::Integer(segno)) = access.looked_up(0) {
        segments.retain(|segment| i64::from(segment.segno) == *segno);
    }
    let engine = engine.clone();
    let batches = segments
        .into_iter()
        .flat_map(move |segment| engine.log().batches(&segment));
    Ok(Box::new(
        batches
            .filter_map(std::result::Result::ok)
            .flat_map(|batch| versions(&batch))
            .map(Ok),
    ))
}

/// The versions of objects in a batch.
fn versions(batch: &Batch) -> Vec<Vec<Value>> {
    let mut rows = Vec::new();
    for record in batch.records() {
        let mut add = |kind: &str, header: Header| {
            let (segno, offset) = place(record.lsn);
            rows.push(vec![
                segno,
                offset,
                number(header.slot.get()),
                number(batch.header.time_ms),
                kind.into(),
                number(header.generation),
                number(header.seq),
                number(header.depth),
                number(record.stored_bytes()),
            ]);
        };
        match Decoded::of(&record) {
            Decoded::Image { header, .. } => add("image", header),
            Decoded::Delta { header, .. } => add("delta", header),
            Decoded::Commit {
                header,
                is_head: true,
                ..
            } => add("head", header),
            Decoded::Commit {
                header,
                is_head: false,
                ..
            } => add("pages", header),
            Decoded::Erase { header, .. } => add("erase", header),
            Decoded::Group { members, .. } => {
                members
                    .into_iter()
                    .for_each(|(header, _)| add("group", header));
            }
            // These are no versions of an object.
            _ => {}
        }
    }
    rows
}

fn alarms(engine: &Arc<Engine>, _access: &Access) -> Result<Rows, Fault> {
    let slots = engine.slots_with_alarms().map_err(unreadable)?;
    let engine = engine.clone();
    Ok(Box::new(slots.into_iter().flat_map(move |slot| {
        // Damage to either is named in `damage`.
        let info = found(&engine, slot);
        let alarms = engine.alarms_in(slot).unwrap_or_default();
        let row = |info: ObjectInfo| {
            let (tenant, class) = class(&engine, info.entry.class);
            let row = |alarm: dovehouse_engine::Alarm| {
                Ok(vec![
                    number(slot.get()),
                    alarm.name.into(),
                    info.id.to_string().into(),
                    tenant.clone(),
                    class.clone(),
                    number(alarm.due_ms),
                    number(alarm.attempts),
                ])
            };
            alarms.into_iter().map(row).collect::<Vec<_>>()
        };
        info.map(row).unwrap_or_default()
    })))
}

fn dictionaries(engine: &Arc<Engine>, _access: &Access) -> Result<Rows, Fault> {
    let engine = engine.clone();
    let dictionaries = engine.stats().dictionaries.into_iter();
    Ok(Box::new(dictionaries.map(move |dictionary| {
        let (tenant, class) = class(&engine, dictionary.class);
        // Of one that was not used yet, nothing but its name is known.
        let known = |value: Value| {
            if dictionary.bytes == 0 {
                Value::Null
            } else {
                value
            }
        };
        Ok(vec![
            number(dictionary.number),
            tenant,
            class,
            dictionary.is_current.into(),
            known(dictionary.is_trained.into()),
            known(number(dictionary.bytes)),
            number(dictionary.images),
            number(dictionary.state_bytes),
            number(dictionary.stored_bytes),
        ])
    })))
}

/// What `dovehouse verify` finds, without the states.
fn damage(engine: &Arc<Engine>, _access: &Access) -> Result<Rows, Fault> {
    let mut found: Vec<(&str, String)> = Vec::new();
    let log = engine.log();
    for segment in &log.segments() {
        match segment.header(log.superblock().store_id) {
            Ok(Some(header)) if header.segno == segment.segno => {}
            Ok(_) => found.push((
                "log",
                format!("{}: its header is damaged", segment.path.display()),
            )),
            Err(error) => found.push(("log", error.to_string())),
        }
        for batch in log.batches(segment) {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    found.push(("log", error.to_string()));
                    continue;
                }
            };
            let malformed = batch
                .records()
                .filter(|record| Decoded::of(record) == Decoded::Malformed);
            found.extend(malformed.map(|record| {
                (
                    "log",
                    format!("the record at {} makes no sense", record.lsn),
                )
            }));
        }
    }
    for info in engine.objects() {
        let error = match info.and_then(|info| Ok((engine.finds(&info)?, info))) {
            Ok((true, _)) => continue,
            Ok((false, info)) => format!("object {}: the id table does not find it", info.id),
            Err(error) => error.to_string(),
        };
        found.push(("objects", error));
    }
    for slot in engine.slots_with_alarms().map_err(unreadable)? {
        let error = engine.alarms_in(slot).err();
        found.extend(error.map(|error| ("alarms", error.to_string())));
    }
    let row =
        |(at, (part, what)): (i64, (&str, String))| Ok(vec![at.into(), part.into(), what.into()]);
    Ok(Box::new((1..).zip(found).map(row)))
}

fn unreadable(error: EngineError) -> Fault {
    Fault {
        code: sqlite::SQLITE_IOERR_READ,
        message: error.to_string(),
    }
}
