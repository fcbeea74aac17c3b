#![allow(clippy::unwrap_used)]

mod admission;
mod fake;
mod forwarding;
mod openapi;
mod routes;
mod server;
mod streams;
