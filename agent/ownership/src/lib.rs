//! Who owns which workload.

mod store;
mod types;
