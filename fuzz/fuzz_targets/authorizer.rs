//! Any text as an application's SQL: nothing is committed, no file is touched.

#![no_main]

use std::cell::RefCell;

#[allow(dead_code)]
#[path = "../../sqlbridge/tests/common/fuzz.rs"]
mod subject;

thread_local! {
    static SUBJECT: RefCell<subject::Subject> = RefCell::new(subject::Subject::new());
}

libfuzzer_sys::fuzz_target!(|sql: &str| {
    SUBJECT.with_borrow_mut(|subject| subject.run(sql));
});
