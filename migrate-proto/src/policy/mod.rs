//! What decides that something has to leave a node before it breaks: pure, so that the agent, a replayed history and a benchmark run the same code.

pub mod choose;
pub mod figure;
pub mod forecast;
pub mod rules;
pub mod trip;
