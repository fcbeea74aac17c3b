//! How agents talk: ZeroMQ behind a TLS door, with credit, acknowledgement and resume of our own.
