//! SUPER and MANIFEST: where replay starts, and what the checkpoint there knew.
//!
//! `SUPER` has two slots of one sector each. A checkpoint writes `MANIFEST-a` or `MANIFEST-b`, syncs
//! it, and then writes the slot of the same letter, durably; the valid slot with the higher
//! generation counts. So a crash at any moment leaves either the old checkpoint or the new one.
//! The manifest holds the table of segment files, which is the log's, and a payload, which is not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bytes::{Put, Reader};
use crate::error::{Error, Result};
use crate::fs::{File, Fs, Mode};
use crate::lsn::{Lsn, Position};
use crate::pool::Life;
use crate::segment::{BLOCK_BYTES, Role, check_file_start, put_file_start};

const SUPER_NAME: &str = "SUPER";
const SUPER_MAGIC: &[u8; 8] = b"DOVEsupr";
const MANIFEST_MAGIC: &[u8; 8] = b"DOVEmani";
const SECTOR_BYTES: usize = 512;
const CLEAN: u8 = 1;

/// What SUPER says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The store's identity; every segment carries it.
    pub store_id: u128,
    /// Grows with every checkpoint.
    pub generation: u64,
    /// Where replay starts: everything before it is in the index files.
    pub replay_from: Position,
    /// The size of every segment of this store.
    pub segment_bytes: u64,
    /// The log ended at `replay_from` when the store was closed, so nothing follows in that segment.
    pub clean: bool,
    manifest_len: u64,
    manifest_crc: u32,
    /// No batch before the replay start has a later time; 0 if that is not known.
    pub time_ms: u64,
}

impl Superblock {
    fn encode(&self) -> Vec<u8> {
        let mut sector = Vec::with_capacity(SECTOR_BYTES);
        put_file_start(&mut sector, SUPER_MAGIC);
        sector.extend_from_slice(&self.store_id.to_le_bytes());
        sector.put_u64(self.generation);
        sector.put_u64(self.replay_from.lsn.as_u64());
        sector.put_u64(self.replay_from.salt);
        sector.put_u32(self.replay_from.last_batch);
        sector.put_u64(self.segment_bytes);
        sector.push(if self.clean { CLEAN } else { 0 });
        sector.put_u64(self.manifest_len);
        sector.put_u32(self.manifest_crc);
        sector.put_u64(self.time_ms);
        sector.resize(SECTOR_BYTES - 4, 0);
        sector.put_u32(crc32fast::hash(&sector));
        sector
    }

    fn decode(sector: &[u8], path: &Path) -> Result<Option<Self>> {
        let (body, crc) = sector.split_at(SECTOR_BYTES - 4);
        if crc32fast::hash(body).to_le_bytes() != crc {
            return Ok(None);
        }
        let mut reader = Reader::new(body);
        check_file_start(&mut reader, SUPER_MAGIC, path)?;
        Ok(Self::fields(&mut reader))
    }

    fn fields(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Superblock {
            store_id: u128::from_le_bytes(reader.array()?),
            generation: reader.u64()?,
            replay_from: Position {
                lsn: Lsn::from_u64(reader.u64()?),
                salt: reader.u64()?,
                last_batch: reader.u32()?,
            },
            segment_bytes: reader.u64()?,
            clean: reader.u8()? & CLEAN != 0,
            manifest_len: reader.u64()?,
            manifest_crc: reader.u32()?,
            time_ms: reader.u64()?,
        })
    }
}

/// What the manifest says of one segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableEntry {
    /// The number in the file's name.
    pub file: u32,
    /// Its state at the checkpoint.
    pub state: TableState,
}

/// The state of a segment file at a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableState {
    /// Nothing in it is needed; it may have been activated since.
    Free,
    /// Part of the log that replay may read.
    Log,
    /// A pack, or complete before the replay start; still needed.
    Sealed {
        /// Which life of the file it is.
        life: Life,
        /// The offset behind its last batch that counts.
        end: u32,
    },
}

/// A checkpoint as it was read: SUPER, the table of segment files, and the payload.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    /// The slot that counts.
    pub superblock: Superblock,
    /// The segment files that existed.
    pub table: Vec<TableEntry>,
    /// What the layer above wrote with [`SuperFile::flip`].
    pub payload: Vec<u8>,
}

/// The two slots, and which of them counts.
#[derive(Debug)]
pub(crate) struct SuperFile {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    file: Arc<dyn File>,
    slot: usize,
    pub(crate) current: Superblock,
}

impl SuperFile {
    /// Whether there is a SUPER in the directory.
    pub(crate) fn exists(fs: &dyn Fs, dir: &Path) -> Result<bool> {
        let names = fs
            .list(dir)
            .map_err(|error| Error::io("list", dir, error))?;
        Ok(names.iter().any(|name| name == SUPER_NAME))
    }

    /// Writes the first checkpoint of a new store: an empty log and an empty payload.
    pub(crate) fn create(fs: Arc<dyn Fs>, dir: &Path, segment_bytes: u64) -> Result<Self> {
        let random = || u128::from(fs.random_u64());
        let current = Superblock {
            store_id: random() << 64 | random(),
            generation: 0,
            replay_from: Position {
                lsn: Lsn::NONE,
                salt: fs.random_u64(),
                last_batch: 0,
            },
            segment_bytes,
            clean: true,
            manifest_len: 0,
            manifest_crc: 0,
            time_ms: 0,
        };
        let path = dir.join(SUPER_NAME);
        let file = fs
            .open(&path, Mode::DURABLE)
            .map_err(|error| Error::io("create", &path, error))?;
        // The first flip goes to slot 0 and also makes the new names durable.
        let mut created = SuperFile {
            fs,
            dir: dir.to_owned(),
            file,
            slot: 1,
            current,
        };
        created.flip(current.replay_from, 0, true, &[], &[])?;
        Ok(created)
    }

    /// Chooses the valid slot with the highest generation. `None` if neither is valid.
    pub(crate) fn open(fs: Arc<dyn Fs>, dir: &Path, write: bool) -> Result<Option<Self>> {
        let path = dir.join(SUPER_NAME);
        let mode = if write { Mode::DURABLE } else { Mode::READ };
        let file = fs
            .open(&path, mode)
            .map_err(|error| Error::io("open", &path, error))?;
        let mut best: Option<(usize, Superblock)> = None;
        for slot in 0..2 {
            let mut sector = [0; SECTOR_BYTES];
            match file.read_exact_at(&mut sector, slot as u64 * BLOCK_BYTES) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => continue,
                Err(error) => return Err(Error::io("read", &path, error)),
            }
            if let Some(found) = Superblock::decode(&sector, &path)?
                && best.is_none_or(|(_, best)| found.generation > best.generation)
            {
                best = Some((slot, found));
            }
        }
        Ok(best.map(|(slot, current)| SuperFile {
            fs,
            dir: dir.to_owned(),
            file,
            slot,
            current,
        }))
    }

    /// Makes the chosen slot durable: after a process death it may live only in the page cache, and
    /// what recovery does next relies on it.
    pub(crate) fn rewrite(&self) -> Result<()> {
        self.write_slot(self.slot, &self.current)
    }

    /// Reads the manifest of the chosen slot.
    pub(crate) fn checkpoint(&self) -> Result<Checkpoint> {
        let path = self.manifest_path(self.slot);
        let io = |error| Error::io("read", &path, error);
        let file = self.fs.open(&path, Mode::READ).map_err(io)?;
        let corrupt = |what| Error::corrupt(&path, 0, what);
        if file.byte_len().map_err(io)? != self.current.manifest_len {
            return Err(corrupt("its length is not what SUPER says"));
        }
        let mut bytes = vec![0; self.current.manifest_len as usize];
        file.read_exact_at(&mut bytes, 0).map_err(io)?;
        if crc32fast::hash(&bytes) != self.current.manifest_crc {
            return Err(corrupt("its checksum is not what SUPER says"));
        }
        let mut reader = Reader::new(&bytes);
        check_file_start(&mut reader, MANIFEST_MAGIC, &path)?;
        let (table, payload) =
            decode_manifest(&mut reader).ok_or_else(|| corrupt("a field ends early"))?;
        Ok(Checkpoint {
            superblock: self.current,
            table,
            payload,
        })
    }

    /// Names a new checkpoint, durably: first the manifest, then the other slot. Returns the bytes that
    /// were written.
    pub(crate) fn flip(
        &mut self,
        replay_from: Position,
        time_ms: u64,
        clean: bool,
        table: &[TableEntry],
        payload: &[u8],
    ) -> Result<u64> {
        let slot = 1 - self.slot;
        let manifest = encode_manifest(table, payload);
        let path = self.manifest_path(slot);
        let io = |error| Error::io("write", &path, error);
        let file = self.fs.open(&path, Mode::WRITE).map_err(io)?;
        file.set_len(manifest.len() as u64).map_err(io)?;
        file.write_all_at(&[&manifest], 0).map_err(io)?;
        file.sync().map_err(io)?;
        if self.current.generation < 2 {
            // Each slot's names are new once.
            self.fs
                .sync_dir(&self.dir)
                .map_err(|error| Error::io("sync", &self.dir, error))?;
        }
        let next = Superblock {
            generation: self.current.generation + 1,
            replay_from,
            clean,
            manifest_len: manifest.len() as u64,
            manifest_crc: crc32fast::hash(&manifest),
            time_ms,
            ..self.current
        };
        self.write_slot(slot, &next)?;
        (self.slot, self.current) = (slot, next);
        Ok((manifest.len() + SECTOR_BYTES) as u64)
    }

    fn write_slot(&self, slot: usize, superblock: &Superblock) -> Result<()> {
        let write = self
            .file
            .write_all_at(&[&superblock.encode()], slot as u64 * BLOCK_BYTES);
        write.map_err(|error| Error::io("write", &self.dir.join(SUPER_NAME), error))
    }

    fn manifest_path(&self, slot: usize) -> PathBuf {
        self.dir.join(["MANIFEST-a", "MANIFEST-b"][slot])
    }
}

const SEALED: u8 = 2;
const PACK: u8 = 3;
const BLOB: u8 = 4;

fn encode_manifest(table: &[TableEntry], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_file_start(&mut bytes, MANIFEST_MAGIC);
    bytes.put_varint(table.len() as u64);
    for entry in table {
        bytes.put_u32(entry.file);
        match entry.state {
            TableState::Free => bytes.push(0),
            TableState::Log => bytes.push(1),
            TableState::Sealed { life, end } => {
                bytes.push(match life.role {
                    Role::Log => SEALED,
                    Role::Pack => PACK,
                    Role::Blob => BLOB,
                });
                bytes.put_u32(life.segno);
                bytes.put_u64(life.salt);
                bytes.put_u32(end);
            }
        }
    }
    bytes.put_prefixed(payload);
    bytes
}

fn decode_manifest(reader: &mut Reader<'_>) -> Option<(Vec<TableEntry>, Vec<u8>)> {
    let mut table = Vec::new();
    for _ in 0..reader.length()? {
        let file = reader.u32()?;
        let state = match reader.u8()? {
            0 => TableState::Free,
            1 => TableState::Log,
            state @ (SEALED | PACK | BLOB) => TableState::Sealed {
                life: Life {
                    segno: reader.u32()?,
                    salt: reader.u64()?,
                    role: match state {
                        PACK => Role::Pack,
                        BLOB => Role::Blob,
                        _ => Role::Log,
                    },
                },
                end: reader.u32()?,
            },
            _ => return None,
        };
        table.push(TableEntry { file, state });
    }
    let payload = reader.prefixed()?.to_vec();
    reader.is_empty().then_some((table, payload))
}
