//! The VFS `dovehouse` for any SQLite, as a library that it loads. Empty without the feature `loadable`.
//!
//! This crate does **not** know more than the way in: the VFS itself is the bridge's.
