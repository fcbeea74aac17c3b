//! Where a workload lives on a node: namespaces, root, layer, cgroup, and the init that holds them.
