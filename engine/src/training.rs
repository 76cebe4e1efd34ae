//! When a class gets a dictionary: samples of its states, and how well the present one does.
//!
//! The first state of a class becomes its first dictionary, as it is. Once there are enough states to
//! learn from, a trained one follows; and another when states have changed so much that the last one
//! does worse than when it was new. A class's samples train only its own dictionaries, and a class has
//! one tenant: no object is ever compressed with another tenant's bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::dictionary::{DICTIONARY_BYTES_MAX, Dictionary};
use crate::id::ClassId;

/// Samples of one class take at most this much memory. They are let go of when they were used.
const SAMPLE_BYTES_MAX: usize = 2 << 20;

/// So many classes are sampled at a time.
const SAMPLED_CLASSES_MAX: usize = 8;

/// Below this there is nothing to learn from.
const SAMPLE_BYTES_MIN: usize = 16;

/// A dictionary is worn out when states take so much more with it than when it was new.
const WORN_OUT: f64 = 1.1;

/// What every class's states have shown so far.
#[derive(Debug)]
pub(crate) struct Training {
    /// States after which a dictionary is trained, and over which it is judged.
    states: usize,
    classes: Mutex<HashMap<ClassId, Progress>>,
    due: AtomicBool,
}

#[derive(Debug)]
enum Progress {
    /// Gathering states for the next dictionary.
    Sampling(Samples),
    /// There is a trained dictionary.
    Settled(Judgement),
}

/// States of a class, one behind the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sizes: Vec<usize>,
    /// Whether the first of them was made a dictionary.
    first_was_used: bool,
}

impl Samples {
    fn is_full(&self, states: usize) -> bool {
        self.sizes.len() >= states || self.bytes.len() >= SAMPLE_BYTES_MAX
    }

    /// The first samples, up to a number.
    pub(crate) fn first(&self, count: usize) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        self.sizes.iter().take(count).map(move |size| {
            let (sample, behind) = rest.split_at(*size);
            rest = behind;
            sample
        })
    }
}

/// How well a dictionary does.
#[derive(Debug, Default)]
struct Judgement {
    /// Stored for each byte of state when it was new.
    when_new: Option<f64>,
    states: usize,
    state_bytes: u64,
    stored_bytes: u64,
}

impl Judgement {
    /// Counts a state. Returns whether the dictionary is worn out.
    fn is_worn_out_with(&mut self, state_bytes: usize, stored_bytes: usize, after: usize) -> bool {
        self.states += 1;
        self.state_bytes += state_bytes as u64;
        self.stored_bytes += stored_bytes as u64;
        if self.states < after {
            return false;
        }
        let now = self.stored_bytes as f64 / self.state_bytes.max(1) as f64;
        let when_new = *self.when_new.get_or_insert(now);
        (self.states, self.state_bytes, self.stored_bytes) = (0, 0, 0);
        now > when_new * WORN_OUT
    }
}

/// What a dictionary is to be made of.
#[derive(Debug)]
pub(crate) enum Material {
    /// One state, as it is.
    First(Vec<u8>),
    /// To be trained.
    Many(Samples),
}

impl Training {
    pub(crate) fn new(states: usize) -> Self {
        Training {
            states,
            classes: Mutex::default(),
            due: AtomicBool::new(false),
        }
    }

    /// Shows a state that was stored.
    pub(crate) fn show(
        &self,
        class: ClassId,
        state: &[u8],
        stored_bytes: usize,
        dictionary: Option<&Dictionary>,
    ) {
        // Whoever finds it locked is one of many: others will be seen.
        let Some(mut classes) = self.classes.try_lock() else {
            return;
        };
        let is_trained = dictionary.is_some_and(|dictionary| dictionary.is_trained);
        if !classes.contains_key(&class) && !is_trained && !may_sample(&classes) {
            return;
        }
        let progress = classes.entry(class).or_insert_with(|| match is_trained {
            true => Progress::Settled(Judgement::default()),
            false => Progress::Sampling(Samples::default()),
        });
        match progress {
            Progress::Sampling(samples) => {
                if (SAMPLE_BYTES_MIN..=DICTIONARY_BYTES_MAX).contains(&state.len())
                    && !samples.is_full(self.states)
                {
                    samples.bytes.extend_from_slice(state);
                    samples.sizes.push(state.len());
                    samples.first_was_used |= dictionary.is_some();
                    if !samples.first_was_used || samples.is_full(self.states) {
                        self.due.store(true, Ordering::Release);
                    }
                }
            }
            Progress::Settled(judgement) => {
                if judgement.is_worn_out_with(state.len(), stored_bytes, self.states) {
                    classes.remove(&class);
                    if may_sample(&classes) {
                        let samples = Samples {
                            first_was_used: true,
                            ..Samples::default()
                        };
                        classes.insert(class, Progress::Sampling(samples));
                    }
                }
            }
        }
    }

    /// Whether more states of a class are wanted.
    pub(crate) fn wants(&self, class: ClassId) -> bool {
        let classes = self.classes.lock();
        match classes.get(&class) {
            None => may_sample(&classes),
            Some(Progress::Sampling(samples)) => !samples.is_full(self.states),
            Some(Progress::Settled(_)) => false,
        }
    }

    /// Starts over: what was taken could not be used.
    pub(crate) fn forget(&self, class: ClassId) {
        self.classes.lock().remove(&class);
    }

    /// Whether a dictionary can be made.
    pub(crate) fn is_due(&self) -> bool {
        self.due.load(Ordering::Acquire)
    }

    /// What dictionaries can be made of, each to be taken once.
    pub(crate) fn take_due(&self) -> Vec<(ClassId, Material)> {
        self.due.store(false, Ordering::Release);
        let mut due = Vec::new();
        for (class, progress) in self.classes.lock().iter_mut() {
            let Progress::Sampling(samples) = progress else {
                continue;
            };
            if samples.is_full(self.states) {
                due.push((*class, Material::Many(std::mem::take(samples))));
                *progress = Progress::Settled(Judgement::default());
            } else if !samples.first_was_used && !samples.sizes.is_empty() {
                samples.first_was_used = true;
                due.push((
                    *class,
                    Material::First(samples.bytes[..samples.sizes[0]].to_vec()),
                ));
            }
        }
        due.sort_by_key(|(class, _)| *class);
        due
    }
}

fn may_sample(classes: &HashMap<ClassId, Progress>) -> bool {
    let sampling = |progress: &&Progress| matches!(progress, Progress::Sampling(_));
    classes.values().filter(sampling).count() < SAMPLED_CLASSES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: ClassId = ClassId(1);

    #[test]
    fn a_class_gets_a_sample_then_a_trained_dictionary_then_another_when_that_is_worn_out() {
        let training = Training::new(10);
        training.show(CLASS, &[1; 100], 100, None);
        assert!(training.is_due());
        let due = training.take_due();
        assert!(matches!(&due[..], [(CLASS, Material::First(state))] if state.len() == 100));
        assert!(!training.is_due());

        let first = Dictionary::new(1, CLASS, &[1; 100]).unwrap();
        (0..9).for_each(|_| training.show(CLASS, &[2; 100], 50, Some(&first)));
        let due = training.take_due();
        assert!(
            matches!(&due[..], [(CLASS, Material::Many(samples))] if samples.sizes.len() == 10)
        );

        // As good as new, then a little worse, then worn out.
        for stored in [20, 20, 21, 23] {
            assert!(!training.wants(CLASS));
            (0..10).for_each(|_| training.show(CLASS, &[2; 100], stored, Some(&first)));
        }
        assert!(training.wants(CLASS));
        (0..10).for_each(|_| training.show(CLASS, &[3; 100], 23, Some(&first)));
        assert_eq!(training.take_due().len(), 1);
    }

    #[test]
    fn samples_of_few_classes_are_held_at_a_time_and_of_limited_size() {
        let training = Training::new(1_000_000);
        for class in 0..20 {
            training.show(ClassId(class), &[7; 100], 100, None);
        }
        assert!(training.wants(ClassId(0)) && !training.wants(ClassId(19)));
        for _ in 0..SAMPLE_BYTES_MAX / DICTIONARY_BYTES_MAX {
            training.show(ClassId(0), &[7; DICTIONARY_BYTES_MAX], 100, None);
        }
        assert!(!training.wants(ClassId(0)), "that is enough");
    }
}
