//! Errors on purpose: the n-th call that SQLite makes to the VFS on this thread fails. For tests, with the
//! feature `faults`; without it there is nothing here but a function that does nothing.

use crate::file::Code;

/// What happens at a call.
#[cfg(feature = "faults")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not done, and this result code of SQLite is given for it.
    Code(i32),
    /// It panics.
    Panic,
}

#[cfg(feature = "faults")]
thread_local! {
    static CALLS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    static ARMED: std::cell::Cell<Option<(u64, Fault)>> = const { std::cell::Cell::new(None) };
}

/// Starts counting this thread's calls at zero, and lets the call with this number, from 0, fail. Each fault
/// happens once.
#[cfg(feature = "faults")]
pub fn arm(fault: Option<(u64, Fault)>) {
    CALLS.set(0);
    ARMED.set(fault);
}

/// How many calls there were on this thread since it was armed.
#[cfg(feature = "faults")]
pub fn calls() -> u64 {
    CALLS.get()
}

/// The place in each callback where a fault strikes.
#[cfg(feature = "faults")]
pub(crate) fn strike() -> Result<(), Code> {
    let call = CALLS.replace(CALLS.get() + 1);
    let Some((at, fault)) = ARMED.get() else {
        return Ok(());
    };
    if call != at {
        return Ok(());
    }
    ARMED.set(None);
    match fault {
        Fault::Code(code) => Err(code),
        Fault::Panic => panic!("a panic that was asked for"),
    }
}

/// The place in each callback where a fault would strike.
#[cfg(not(feature = "faults"))]
#[inline]
pub(crate) fn strike() -> Result<(), Code> {
    Ok(())
}
