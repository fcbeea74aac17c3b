//! What is done to every chunk and every message, in isolation: `cargo bench -p migrate-benches --bench hot_paths`.

fn main() {}
