//! The lab's network: a bridge in a namespace of its own, a veth pair for each node, and faults on them. Nothing of it is in
//! the host's network namespace.

use std::net::Ipv4Addr;

use migrate_proto::name::NodeName;

use super::layout::LabNode;
use super::tool::{ToolError, in_network_of, run, run_if_there};

/// The bridge, inside the switch's namespace. A port has its node's name.
const BRIDGE: &str = "switch0";

/// The node's end of the pair.
const INTERFACE: &str = "eth0";

/// Nobody has this link address: what is sent there vanishes, as on a cut wire.
const NOWHERE: &str = "02:00:00:00:00:ff";

/// Makes the bridge; to be run inside the switch's namespace.
pub(crate) fn make_bridge() -> Result<(), ToolError> {
    run(&words(&format!("ip link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")))?;
    run(&words(&format!("ip link set {BRIDGE} up")))
}

/// Brings `lo` up; to be run inside a node's namespace.
pub(crate) fn bring_loopback_up() -> Result<(), ToolError> {
    run(&words("ip link set lo up"))
}

/// Connects a node with the switch.
pub(crate) fn plug(switch: i32, node: i32, identity: &LabNode) -> Result<(), ToolError> {
    let port = &identity.name;
    unplug(switch, port)?;
    let link = format!("peer name {INTERFACE} address {} netns {node}", link_address(identity.address));
    run(&in_network_of(switch, &format!("ip link add {port} type veth {link}")))?;
    run(&in_network_of(switch, &format!("ip link set {port} master {BRIDGE} up")))?;
    run(&in_network_of(node, &format!("ip address add {}/24 dev {INTERFACE}", identity.address)))?;
    run(&in_network_of(node, &format!("ip link set {INTERFACE} up")))
}

/// A node keeps its link address when it boots, as a machine does: its peers remember it.
fn link_address(address: Ipv4Addr) -> String {
    let [_, _, high, low] = address.octets();
    format!("02:00:0a:4d:{high:02x}:{low:02x}")
}

/// Removes a node's port. After a power loss the kernel does that by itself, but later.
pub(crate) fn unplug(switch: i32, port: &NodeName) -> Result<(), ToolError> {
    run_if_there(&in_network_of(switch, &format!("ip link delete {port}")))
}

/// Takes a node's port off the bridge: its link stays up and nothing comes through.
pub(crate) fn cut_off(switch: i32, port: &NodeName) -> Result<(), ToolError> {
    run(&in_network_of(switch, &format!("ip link set {port} nomaster")))
}

/// Puts it on the bridge again.
pub(crate) fn join(switch: i32, port: &NodeName) -> Result<(), ToolError> {
    run_if_there(&in_network_of(switch, &format!("ip link set {port} master {BRIDGE}")))
}

/// Lets everything that `node` sends to `peer` vanish.
pub(crate) fn lose(node: i32, peer: Ipv4Addr) -> Result<(), ToolError> {
    run(&in_network_of(node, &format!("ip neighbour replace {peer} lladdr {NOWHERE} nud permanent dev {INTERFACE}")))
}

/// The opposite of [`lose`].
pub(crate) fn find_again(node: i32, peer: Ipv4Addr) -> Result<(), ToolError> {
    run_if_there(&in_network_of(node, &format!("ip neighbour delete {peer} dev {INTERFACE}")))
}

/// Narrows the link at both ends.
pub(crate) fn narrow(switch: i32, node: i32, port: &NodeName, bits_per_second: u64) -> Result<(), ToolError> {
    // Room for the largest packet that segmentation offload makes, and for 10 ms at that rate.
    let burst = (bits_per_second / 8 / 100).max(128 << 10);
    let queue = format!("root tbf rate {bits_per_second}bit burst {burst} latency 100ms");
    run(&in_network_of(switch, &format!("tc qdisc replace dev {port} {queue}")))?;
    run(&in_network_of(node, &format!("tc qdisc replace dev {INTERFACE} {queue}")))
}

/// The opposite of [`narrow`].
pub(crate) fn widen(switch: i32, node: i32, port: &NodeName) -> Result<(), ToolError> {
    run_if_there(&in_network_of(switch, &format!("tc qdisc delete dev {port} root")))?;
    run_if_there(&in_network_of(node, &format!("tc qdisc delete dev {INTERFACE} root")))
}

/// Lets so many of a hundred packets vanish that come from this node: at the switch, where its programs do not notice.
pub(crate) fn thin(switch: i32, port: &NodeName, percent: u8) -> Result<(), ToolError> {
    thicken(switch, port)?;
    let table = losses_of(port);
    run(&in_network_of(switch, &format!("nft add table netdev {table}")))?;
    let hook = format!("{{ type filter hook ingress device {port} priority 0 ; }}");
    run(&in_network_of(switch, &format!("nft add chain netdev {table} loss {hook}")))?;
    run(&in_network_of(switch, &format!("nft add rule netdev {table} loss numgen random mod 100 < {percent} drop")))
}

/// The opposite of [`thin`].
pub(crate) fn thicken(switch: i32, port: &NodeName) -> Result<(), ToolError> {
    run_if_there(&in_network_of(switch, &format!("nft delete table netdev {}", losses_of(port))))
}

fn losses_of(port: &NodeName) -> String {
    format!("losses-{port}")
}

fn words(command: &str) -> Vec<&str> {
    command.split_whitespace().collect()
}
