//! Scratch files: journals, sorters and temporary tables. In memory while they are small, then in a temporary
//! file without a name, so that a large transaction does not take its size in memory. Nobody ever finds one
//! again after a crash, so none is ever a hot journal.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use libsqlite3_sys as sqlite;

use crate::file::Code;

/// A scratch file that is larger goes to the disk.
pub(crate) const MEMORY_BYTES_MAX: usize = 1 << 20;

/// What the first write takes: room for a journal with two pages, which is a small transaction's.
const FIRST_BYTES: usize = 9 << 10;

/// A file that is gone with its handle.
#[derive(Debug)]
pub(crate) enum Scratch {
    Memory(Vec<u8>),
    /// The file and its length.
    Spilled(File, u64),
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch::Memory(Vec::new())
    }
}

impl Scratch {
    /// Fills `buf`; `false` if the file ended before, and the rest is zeros.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Code> {
        let there = self.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        buf[there..].fill(0);
        match self {
            // Behind the end, the offset may be any.
            _ if there == 0 => {}
            Scratch::Memory(bytes) => {
                buf[..there].copy_from_slice(&bytes[offset as usize..offset as usize + there]);
            }
            Scratch::Spilled(file, _) => file
                .read_exact_at(&mut buf[..there], offset)
                .map_err(|error| code(&error))?,
        }
        Ok(there == buf.len())
    }

    pub(crate) fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), Code> {
        let end = offset + bytes.len() as u64;
        if let Scratch::Memory(memory) = self
            && end > MEMORY_BYTES_MAX as u64
        {
            *self = spill(memory).map_err(|error| code(&error))?;
        }
        match self {
            Scratch::Memory(memory) => {
                if memory.capacity() == 0 {
                    memory.reserve(FIRST_BYTES);
                }
                if memory.len() < end as usize {
                    memory.resize(end as usize, 0);
                }
                memory[offset as usize..end as usize].copy_from_slice(bytes);
            }
            Scratch::Spilled(file, size) => {
                file.write_all_at(bytes, offset)
                    .map_err(|error| code(&error))?;
                *size = end.max(*size);
            }
        }
        Ok(())
    }

    /// Cuts the file. An empty one is in memory again.
    pub(crate) fn truncate(&mut self, to: u64) -> Result<(), Code> {
        match self {
            // Connections are many, and most of them idle: their journals keep no memory.
            _ if to == 0 => *self = Scratch::default(),
            Scratch::Memory(memory) => memory.truncate(to as usize),
            Scratch::Spilled(file, size) if to < *size => {
                file.set_len(to).map_err(|error| code(&error))?;
                *size = to;
            }
            Scratch::Spilled(..) => {}
        }
        Ok(())
    }

    pub(crate) fn size(&self) -> u64 {
        match self {
            Scratch::Memory(memory) => memory.len() as u64,
            Scratch::Spilled(_, size) => *size,
        }
    }
}

fn spill(memory: &[u8]) -> io::Result<Scratch> {
    let file = tempfile::tempfile_in(directory())?;
    file.write_all_at(memory, 0)?;
    Ok(Scratch::Spilled(file, memory.len() as u64))
}

/// Where SQLite itself would put a temporary file. `/var/tmp` goes before `/tmp`, which may be memory.
fn directory() -> PathBuf {
    ["SQLITE_TMPDIR", "TMPDIR"]
        .iter()
        .filter_map(|name| std::env::var_os(name).map(PathBuf::from))
        .chain([PathBuf::from("/var/tmp")])
        .find(|dir| dir.is_dir())
        .unwrap_or_else(std::env::temp_dir)
}

fn code(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => sqlite::SQLITE_FULL,
        _ => sqlite::SQLITE_IOERR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_file_reads_the_same_in_memory_and_on_disk_and_comes_back_when_it_is_emptied() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut file, mut model) = (Scratch::default(), Vec::new());
        let mut spilled = 0;
        for round in 0..2_000 {
            let offset = rng.usize(0..MEMORY_BYTES_MAX + (64 << 10));
            let len = rng.usize(0..10_000);
            match rng.u8(0..10) {
                0..6 => {
                    let byte = rng.u8(..);
                    file.write(&vec![byte; len], offset as u64).unwrap();
                    if model.len() < offset + len {
                        model.resize(offset + len, 0);
                    }
                    model[offset..offset + len].fill(byte);
                }
                6 => {
                    let to = if rng.u8(0..4) == 0 { 0 } else { offset };
                    file.truncate(to as u64).unwrap();
                    model.truncate(to);
                    assert!(to > 0 || matches!(file, Scratch::Memory(_)));
                }
                _ => {
                    let mut buf = vec![1; len];
                    let whole = file.read(&mut buf, offset as u64).unwrap();
                    let there = model.len().saturating_sub(offset).min(len);
                    assert_eq!(whole, there == len, "round {round}");
                    assert!(buf[there..].iter().all(|byte| *byte == 0));
                    if there > 0 {
                        assert_eq!(buf[..there], model[offset..offset + there], "round {round}");
                    }
                }
            }
            assert_eq!(file.size(), model.len() as u64, "round {round}");
            spilled += usize::from(matches!(file, Scratch::Spilled(..)));
        }
        assert!(spilled > 100, "only {spilled} rounds were on the disk");
        // An offset far behind the end is no place to read from.
        assert!(!file.read(&mut [0; 8], u64::MAX - 8).unwrap());
    }
}
