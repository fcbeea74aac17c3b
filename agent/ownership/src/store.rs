//! The log and the record on disk.
