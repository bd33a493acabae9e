//! The tables and functions, versioned. A migration is never edited once it was released: the next version is added to the
//! list.
//!
//! `selvedge` stands for the Store's schema, here and in every statement.

/// The version this build reads and writes.
pub(crate) const VERSION: u32 = MIGRATIONS.len() as u32;

/// Entry `n` leads from version `n` to `n + 1`.
pub(crate) const MIGRATIONS: &[&str] = &[concat!(include_str!("sql/tables.sql"), include_str!("sql/queue.sql"))];
