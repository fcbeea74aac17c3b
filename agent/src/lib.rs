//! The agent: one per node, runs workloads and hands them over.
