//! SQLite on the objects of the engine.
