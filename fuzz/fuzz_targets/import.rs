//! Any bytes at import: a sound database or a refusal.

#![no_main]

use std::cell::RefCell;

#[allow(dead_code)]
#[path = "../../sqlbridge/tests/common/fuzz.rs"]
mod subject;

thread_local! {
    static SUBJECT: RefCell<subject::Subject> = RefCell::new(subject::Subject::new());
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    SUBJECT.with_borrow_mut(|subject| subject.import(bytes));
});
