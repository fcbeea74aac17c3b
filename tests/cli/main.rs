//! The `migrate` command as people and scripts see it: its exit codes, its output, what it asks of an agent. The agent is a
//! stand-in, so every answer can be had; lab tests run real namespaces (and need root) with a stand-in as agent.

#![allow(clippy::unwrap_used)]

mod asking;
mod command;
mod lab;
mod moving;
mod stand_in;
mod streams;
mod usage;
