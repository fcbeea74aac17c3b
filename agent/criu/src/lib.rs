//! Drives the criu command line: what it can do, how it is called, what it streams, why it failed.
