//! The dictionaries of a store: which there are, which one each class uses, and those in memory.
//!
//! A dictionary is durable before a record can name it, and is never removed (I10). Its number is never
//! given again, not even if the file of the last one is lost.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dovehouse_wal::fs::Fs;
use dovehouse_wal::{Access, Flaw, Teeth};
use parking_lot::RwLock;

use crate::codec::Stored;
use crate::dictionary::{self, Dictionary};
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::id::ClassId;
use crate::stats::{DictionaryStats, add};
use crate::training::{Material, Training};

/// What a trained dictionary holds at most.
const TRAINED_BYTES_MAX: usize = 16 << 10;

/// Dictionaries in memory at most; each takes about 150 KiB.
const LOADED_MAX: usize = 64;

/// A new dictionary is compared with the one before it on so many samples.
const COMPARED: usize = 200;

#[derive(Debug)]
pub(crate) struct Dictionaries {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    store_id: u128,
    known: RwLock<Known>,
    /// Counts uses, to tell which dictionary was used last.
    uses: AtomicU64,
    teeth: Teeth,
    pub(crate) training: Training,
}

#[derive(Debug, Default)]
struct Known {
    files: BTreeMap<u32, ClassId>,
    /// The dictionary that a class's next image uses.
    current: HashMap<ClassId, u32>,
    /// Those that this process wrote: what it found may live in the page cache only.
    durable: HashSet<u32>,
    loaded: HashMap<u32, Loaded>,
}

#[derive(Debug)]
struct Loaded {
    dictionary: Arc<Dictionary>,
    used: AtomicU64,
}

impl Known {
    fn load(&mut self, dictionary: Dictionary, used: u64) -> Arc<Dictionary> {
        if self.loaded.len() >= LOADED_MAX {
            let oldest = self
                .loaded
                .iter()
                .min_by_key(|(_, loaded)| loaded.used.load(Ordering::Relaxed));
            if let Some(number) = oldest.map(|(number, _)| *number) {
                self.loaded.remove(&number);
            }
        }
        let number = dictionary.number;
        let loaded = Loaded {
            dictionary: Arc::new(dictionary),
            used: AtomicU64::new(used),
        };
        let dictionary = loaded.dictionary.clone();
        self.loaded.insert(number, loaded);
        dictionary
    }
}

impl Dictionaries {
    /// Looks which dictionaries a directory has.
    pub(crate) fn open(
        fs: Arc<dyn Fs>,
        dir: PathBuf,
        store_id: u128,
        access: Access,
        training: Training,
        teeth: Teeth,
    ) -> Result<Self> {
        let names = fs
            .list(&dir)
            .map_err(|error| dovehouse_wal::Error::io("list", &dir, error))?;
        let files: BTreeMap<_, _> = names
            .iter()
            .filter_map(|name| dictionary::parse_file_name(name))
            .collect();
        if access.writes() && !files.is_empty() {
            fs.sync_dir(&dir)
                .map_err(|error| dovehouse_wal::Error::io("sync", &dir, error))?;
        }
        let known = Known {
            // In the order of their numbers, so the last one of a class counts.
            current: files
                .iter()
                .map(|(number, class)| (*class, *number))
                .collect(),
            files,
            ..Known::default()
        };
        Ok(Dictionaries {
            fs,
            dir,
            store_id,
            known: RwLock::new(known),
            uses: AtomicU64::new(0),
            teeth,
            training,
        })
    }

    /// The highest number of all files.
    pub(crate) fn last(&self) -> u32 {
        self.known
            .read()
            .files
            .last_key_value()
            .map_or(0, |(last, _)| *last)
    }

    /// A dictionary that a record of this class names. One of another class is damage: it may be another
    /// tenant's.
    pub(crate) fn find(&self, number: u32, class: ClassId) -> Result<Arc<Dictionary>> {
        let dictionary = self.find_any(number)?;
        if dictionary.class != class {
            let what = format!("a record of class {}", class.0);
            let why = format!(
                "it names dictionary {number} of class {}",
                dictionary.class.0
            );
            return Err(Error::damaged(what, why));
        }
        Ok(dictionary)
    }

    fn find_any(&self, number: u32) -> Result<Arc<Dictionary>> {
        let used = self.uses.fetch_add(1, Ordering::Relaxed);
        if let Some(loaded) = self.known.read().loaded.get(&number) {
            loaded.used.store(used, Ordering::Relaxed);
            return Ok(loaded.dictionary.clone());
        }
        let class = self.known.read().files.get(&number).copied();
        let class = class.ok_or_else(|| {
            Error::damaged(
                format!("dictionary {number}"),
                format!("{} has no file of it", self.dir.display()),
            )
        })?;
        let dictionary = self.read(number, class)?.1;
        Ok(self.known.write().load(dictionary, used))
    }

    fn read(&self, number: u32, class: ClassId) -> Result<(Vec<u8>, Dictionary)> {
        let path = self.dir.join(dictionary::file_name(number, class));
        let content = dictionary::read(&*self.fs, &path, self.store_id, (number, class))?;
        let dictionary = Dictionary::new(number, class, &content)
            .ok_or_else(|| Error::damaged(path.display(), "zstd cannot use the dictionary"))?;
        Ok((content, dictionary))
    }

    /// The dictionary for a class's next image, durable.
    pub(crate) fn current(&self, class: ClassId) -> Result<Option<Arc<Dictionary>>> {
        let number = {
            let known = self.known.read();
            let Some(number) = known.current.get(&class).copied() else {
                return Ok(None);
            };
            if known.durable.contains(&number)
                && let Some(loaded) = known.loaded.get(&number)
            {
                return Ok(Some(loaded.dictionary.clone()));
            }
            number
        };
        // Written again before this process relies on it, as the tail of the log is.
        match self.read(number, class) {
            Ok((content, dictionary)) => {
                if !self.known.read().durable.contains(&number) {
                    self.write(number, class, &content)?;
                }
                let used = self.uses.fetch_add(1, Ordering::Relaxed);
                let mut known = self.known.write();
                known.durable.insert(number);
                Ok(Some(known.load(dictionary, used)))
            }
            // One that cannot be read helps nobody; the class gets another.
            Err(_) => {
                self.known.write().current.remove(&class);
                Ok(None)
            }
        }
    }

    fn write(&self, number: u32, class: ClassId, content: &[u8]) -> Result<()> {
        let path = self.dir.join(dictionary::file_name(number, class));
        dictionary::write(&*self.fs, &path, self.store_id, (number, class), content)
            .map_err(|error| dovehouse_wal::Error::io("write", &path, error).into())
    }

    /// Makes a dictionary and lets its class use it from now on.
    fn add(&self, number: u32, class: ClassId, content: &[u8]) -> Result<()> {
        let Some(dictionary) = Dictionary::new(number, class, content) else {
            return Ok(());
        };
        self.write(number, class, content)?;
        self.fs
            .sync_dir(&self.dir)
            .map_err(|error| dovehouse_wal::Error::io("sync", &self.dir, error))?;
        let used = self.uses.fetch_add(1, Ordering::Relaxed);
        let mut known = self.known.write();
        if let Some(old) = known.current.get(&class).copied()
            && self.teeth.has(Flaw::DropOldDictionary)
        {
            known.files.remove(&old);
            known.loaded.remove(&old);
            let _ = self
                .fs
                .unlink(&self.dir.join(dictionary::file_name(old, class)));
        }
        known.files.insert(number, class);
        known.durable.insert(number);
        known.current.insert(class, number);
        known.load(dictionary, used);
        Ok(())
    }

    /// Whether content does better than the class's present dictionary on what it was made from.
    fn is_better(&self, class: ClassId, content: &[u8], material: &Material) -> Result<bool> {
        let (Some(old), Material::Many(samples)) = (self.current(class)?, material) else {
            return Ok(true);
        };
        let Some(new) = Dictionary::new(0, class, content) else {
            return Ok(false);
        };
        let total = |dictionary: &Dictionary| -> usize {
            samples
                .first(COMPARED)
                .map(|sample| {
                    dictionary
                        .compress(sample)
                        .map_or(sample.len(), |frame| frame.len())
                })
                .sum()
        };
        Ok(total(&new) < total(&old))
    }

    pub(crate) fn stats(&self) -> Vec<DictionaryStats> {
        let known = self.known.read();
        let stats = |(number, class): (&u32, &ClassId)| {
            let dictionary = known.loaded.get(number).map(|loaded| &*loaded.dictionary);
            let count = |counter: fn(&Dictionary) -> &AtomicU64| {
                dictionary.map_or(0, |dictionary| counter(dictionary).load(Ordering::Relaxed))
            };
            DictionaryStats {
                number: *number,
                class: *class,
                is_current: known.current.get(class) == Some(number),
                is_trained: dictionary.is_some_and(|dictionary| dictionary.is_trained),
                bytes: dictionary.map_or(0, |dictionary| dictionary.bytes),
                images: count(|dictionary| &dictionary.images),
                state_bytes: count(|dictionary| &dictionary.state_bytes),
                stored_bytes: count(|dictionary| &dictionary.stored_bytes),
            }
        };
        known.files.iter().map(stats).collect()
    }
}

impl Inner {
    /// A state as its image holds it.
    pub(crate) fn store_state<'a>(&self, class: ClassId, state: &'a [u8]) -> Result<Stored<'a>> {
        let dictionary = self.or_stop(self.dictionaries.current(class))?;
        let dictionary = dictionary.as_deref();
        let stored = Stored::new(state, dictionary);
        self.dictionaries
            .training
            .show(class, state, stored.content_bytes(), dictionary);
        if let Some(dictionary) = dictionary {
            add(&dictionary.images, 1);
            add(&dictionary.state_bytes, state.len() as u64);
            add(&dictionary.stored_bytes, stored.content_bytes() as u64);
        }
        Ok(stored)
    }

    /// Makes the dictionaries for which there are samples.
    pub(crate) fn make_dictionaries(&self) -> Result<()> {
        if !self.dictionaries.training.is_due() {
            return Ok(());
        }
        for (class, material) in self.dictionaries.training.take_due() {
            let content = match &material {
                Material::First(state) => dictionary::sample(state),
                Material::Many(samples) => {
                    dictionary::train(&samples.bytes, &samples.sizes, TRAINED_BYTES_MAX)
                }
            };
            let made = self
                .dictionaries
                .is_better(class, &content, &material)
                .and_then(|better| match better {
                    true => self
                        .dictionaries
                        .add(self.index.next_dictionary(), class, &content),
                    false => Ok(()),
                });
            match self.or_stop(made) {
                // There will be samples again when there is space.
                Err(error) if error.is_full() => self.dictionaries.training.forget(class),
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// A failed write stops the log, whatever was written (I8); a full disk does not.
    pub(crate) fn or_stop<T, E: Into<Error>>(
        &self,
        result: std::result::Result<T, E>,
    ) -> Result<T> {
        let result = result.map_err(E::into);
        if let Err(Error::Log(error)) = &result
            && !error.is_full()
        {
            self.log.poison(error);
        }
        result
    }
}
