//! What the words of a configuration may be. Each function takes one word and gives what it means, or says what is
//! wrong with it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use migrate_ownership::{BadAddress, EtcdAddress};
use migrate_proto::handover::Budget;
use migrate_proto::name::{InvalidName, NodeName};
use thiserror::Error;
use tracing::Level;

use crate::drain::notice::Notice;
use crate::logging::Format;

/// Each test restores a whole workload.
const MOST_OFTEN_PROVED: Duration = Duration::from_secs(1);

/// Another agent, and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub node: NodeName,
    /// `host:port`; the host may be a name, an IPv4 address, or an IPv6 address in brackets.
    pub address: String,
}

/// What is wrong with a value. It follows the setting's name in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadValue {
    /// It is nothing.
    #[error("is empty")]
    Empty,
    /// It is not UTF-8, and not a path either.
    #[error("is not UTF-8: {0}")]
    NotText(String),
    /// No name.
    #[error("is wrong: {0}")]
    NotName(#[from] InvalidName),
    /// The host's name is no node's name.
    #[error("cannot be taken from the host's name ({0}); say one, with --node or NODE_ID")]
    HostName(InvalidName),
    /// No address to listen on.
    #[error("is not ADDRESS:PORT with an IP address: {0}")]
    NotListen(String),
    /// No peer.
    #[error("is not NODE=HOST:PORT: {0}")]
    NotPeer(String),
    /// No address.
    #[error("is not HOST:PORT: {0}")]
    NotAddress(String),
    /// Tests that would follow each other without a pause.
    #[error("is '{0}', and must be at least 1s: each test restores a whole workload")]
    ProvedTooOften(String),
    /// A list of all nodes that misses one.
    #[error("does not name this node, {0}")]
    WithoutMe(NodeName),
    /// Two ways of knowing the others.
    #[error("cannot be said together with 'join' or 'members': a cluster knows its members")]
    WithCluster,
    /// A cluster that is begun, and one that there is.
    #[error("cannot be said together with 'members': a cluster is begun, or it is there and can be joined")]
    WithMembers,
    /// A record that nobody keeps.
    #[error("needs a cluster: say 'members' or 'join', too")]
    WithoutCluster,
    /// Neither the nodes nor an etcd.
    #[error("is neither 'raft' nor an etcd: {0}")]
    NotOwnership(BadAddress),
    /// Right for itself, and wrong beside what else is said.
    #[error("does not fit: {0}")]
    Unfit(String),
    /// No percentage.
    #[error("must be a percentage with up to four decimals, as in 1% or 0.5%: {0}")]
    NotPercentage(String),
    /// No span.
    #[error("must be two durations, the shorter one first, as in 400ms/600ms: {0}")]
    NotSpan(String),
    /// A peer is named twice.
    #[error("names {0} twice")]
    Twice(String),
    /// A path that depends on where one is.
    #[error("must be an absolute path without '..': {0}")]
    NotAbsolute(PathBuf),
    /// A path too long for a Unix socket.
    #[error("is too long for a socket, at most {LONGEST_SOCKET} bytes: {0}")]
    SocketTooLong(PathBuf),
    /// No place in a cgroup hierarchy.
    #[error("must be a path below a hierarchy's root, as in 'migrate' or 'site/migrate': {0}")]
    NotCgroup(PathBuf),
    /// No program.
    #[error("must be an absolute path, or a name without '/': {0}")]
    NotProgram(PathBuf),
    /// No duration.
    #[error("must be a duration above zero, as in 250ms, 10s or 5m: {0}")]
    NotDuration(String),
    /// No limits.
    #[error("must be a duration, or two as in 1h/30s: for the whole, and (not more) without progress: {0}")]
    NotBudget(String),
    /// No number of things.
    #[error("must be a number from 1 to 1000: {0}")]
    NotCount(String),
    /// No number of copies.
    #[error("must be a number from 0 to 16: {0}")]
    NotCopies(String),
    /// No depot.
    #[error("{0}")]
    NotDepot(#[from] migrate_depot::InvalidAddress),
    /// No size.
    #[error("must be a size above zero, as in 512MiB or 2GiB: {0}")]
    NotSize(String),
    /// No level.
    #[error("must be one of error, warn, info, debug and trace: {0}")]
    NotLevel(String),
    /// No format.
    #[error("must be one of human and json: {0}")]
    NotFormat(String),
    /// Neither.
    #[error("must be one of leave-running and drain: {0}")]
    NotEnd(String),
    /// Nothing that could be looked for.
    #[error("{0}")]
    NotNotice(String),
}

/// The kernel takes 107; the agent binds under a name four bytes longer first.
const LONGEST_SOCKET: usize = 103;

pub(super) fn name(word: OsString) -> Result<NodeName, BadValue> {
    Ok(text(word)?.parse()?)
}

/// A node's name from the machine's: its first part, in small letters.
pub(super) fn host_name(host: OsString) -> Result<NodeName, BadValue> {
    let host = text(host).unwrap_or_default().to_ascii_lowercase();
    let first = host.split('.').next().unwrap_or_default();
    first.parse().map_err(BadValue::HostName)
}

pub(super) fn listen(word: OsString) -> Result<SocketAddr, BadValue> {
    let word = text(word)?;
    word.parse().map_err(|_| BadValue::NotListen(word))
}

pub(super) fn peer(word: OsString) -> Result<Peer, BadValue> {
    let word = text(word)?;
    let Some((node, address)) = word.split_once('=') else { return Err(BadValue::NotPeer(word)) };
    if !is_address(address) {
        return Err(BadValue::NotPeer(word));
    }
    Ok(Peer { node: node.trim().parse()?, address: address.to_owned() })
}

/// The etcd, where the nodes do not keep the record themselves.
pub(super) fn ownership(word: OsString) -> Result<Option<EtcdAddress>, BadValue> {
    match text(word)?.as_str() {
        "raft" => Ok(None),
        etcd => etcd.parse().map(Some).map_err(BadValue::NotOwnership),
    }
}

pub(super) fn address(word: OsString) -> Result<String, BadValue> {
    let word = text(word)?;
    if is_address(&word) { Ok(word) } else { Err(BadValue::NotAddress(word)) }
}

fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    let is_port = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0);
    is_host && is_port
}

pub(super) fn path(word: OsString) -> Result<PathBuf, BadValue> {
    let path = not_empty(word)?;
    if path.is_absolute() && !path.components().any(|part| part == Component::ParentDir) {
        return Ok(path);
    }
    Err(BadValue::NotAbsolute(path))
}

pub(super) fn socket(word: OsString) -> Result<PathBuf, BadValue> {
    let path = path(word)?;
    if path.as_os_str().len() > LONGEST_SOCKET { Err(BadValue::SocketTooLong(path)) } else { Ok(path) }
}

pub(super) fn cgroup(word: OsString) -> Result<PathBuf, BadValue> {
    let path = not_empty(word)?;
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
    if is_below { Ok(path) } else { Err(BadValue::NotCgroup(path)) }
}

pub(super) fn program(word: OsString) -> Result<PathBuf, BadValue> {
    let path = not_empty(word)?;
    let is_plain = path.file_name() == Some(path.as_os_str());
    if path.is_absolute() || is_plain { Ok(path) } else { Err(BadValue::NotProgram(path)) }
}

pub(super) fn prove_every(word: OsString) -> Result<Duration, BadValue> {
    let every = duration(word.clone())?;
    match every < MOST_OFTEN_PROVED {
        true => Err(BadValue::ProvedTooOften(word.to_string_lossy().into_owned())),
        false => Ok(every),
    }
}

pub(super) fn duration(word: OsString) -> Result<Duration, BadValue> {
    let word = text(word)?;
    let unit_at = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let (number, unit) = word.split_at(unit_at);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms)).filter(|ms| *ms > 0);
    ms.map(Duration::from_millis).ok_or(BadValue::NotDuration(word))
}

pub(super) fn count(word: OsString) -> Result<u32, BadValue> {
    let word = text(word)?;
    let count = word.parse().ok().filter(|count| (1..=1000).contains(count));
    count.ok_or(BadValue::NotCount(word))
}

/// On how many nodes.
pub(super) fn copies(word: OsString) -> Result<u32, BadValue> {
    let word = text(word)?;
    let count = word.parse().ok().filter(|count| *count <= 16);
    count.ok_or(BadValue::NotCopies(word))
}

pub(super) fn depot(word: OsString) -> Result<migrate_depot::Address, BadValue> {
    Ok(text(word)?.parse()?)
}

/// Bytes.
pub(super) fn size(word: OsString) -> Result<u64, BadValue> {
    let word = text(word)?;
    let unit_at = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let (number, unit) = word.split_at(unit_at);
    let shift = match unit {
        "B" => Some(0),
        "KiB" => Some(10),
        "MiB" => Some(20),
        "GiB" => Some(30),
        "TiB" => Some(40),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(shift).and_then(|(number, shift)| number.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes > 0).ok_or(BadValue::NotSize(word))
}

/// The limits of a phase: for the whole, and for standing still; one duration stands for both.
pub(super) fn budget(word: OsString) -> Result<Budget, BadValue> {
    let word = text(word)?;
    let (total, stall) = word.split_once('/').unwrap_or((&word, &word));
    let ms = |part: &str| duration(part.into()).map(|limit| limit.as_millis() as u64);
    match (ms(total), ms(stall)) {
        (Ok(total), Ok(stall)) if stall <= total => Ok(Budget { total, stall }),
        _ => Err(BadValue::NotBudget(word)),
    }
}

/// From the shorter to the longer.
pub(super) fn span(word: OsString) -> Result<(Duration, Duration), BadValue> {
    let word = text(word)?;
    let parts = word.split_once('/').map(|(short, long)| (duration(short.into()), duration(long.into())));
    match parts {
        Some((Ok(short), Ok(long))) if short <= long => Ok((short, long)),
        _ => Err(BadValue::NotSpan(word)),
    }
}

/// `1%` is 10000.
pub(super) fn parts_per_million(word: OsString) -> Result<u32, BadValue> {
    let word = text(word)?;
    let parts = word.strip_suffix('%').and_then(|number| {
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 4 {
            return None;
        }
        let decimals: u32 = format!("{decimals:0<4}").parse().ok()?;
        whole.parse::<u32>().ok()?.checked_mul(10_000)?.checked_add(decimals)
    });
    parts.ok_or(BadValue::NotPercentage(word))
}

pub(super) fn level(word: OsString) -> Result<Level, BadValue> {
    let word = text(word)?;
    match word.as_str() {
        "error" => Ok(Level::ERROR),
        "warn" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        "trace" => Ok(Level::TRACE),
        _ => Err(BadValue::NotLevel(word)),
    }
}

/// Whether a node that is told to end drains.
pub(super) fn on_terminate(word: OsString) -> Result<bool, BadValue> {
    let word = text(word)?;
    match word.as_str() {
        "leave-running" => Ok(false),
        "drain" => Ok(true),
        _ => Err(BadValue::NotEnd(word)),
    }
}

pub(super) fn notice(word: OsString) -> Result<Notice, BadValue> {
    text(word)?.parse().map_err(BadValue::NotNotice)
}

pub(super) fn format(word: OsString) -> Result<Format, BadValue> {
    let word = text(word)?;
    match word.as_str() {
        "human" => Ok(Format::Human),
        "json" => Ok(Format::Json),
        _ => Err(BadValue::NotFormat(word)),
    }
}

/// The first item that was there before.
pub(super) fn first_repeated<'a, T: Ord>(mut items: impl Iterator<Item = &'a T>) -> Option<&'a T> {
    let mut seen = std::collections::BTreeSet::new();
    items.find(|item| !seen.insert(*item))
}

fn text(word: OsString) -> Result<String, BadValue> {
    if word.is_empty() {
        return Err(BadValue::Empty);
    }
    word.into_string().map_err(|word| BadValue::NotText(word.to_string_lossy().into_owned()))
}

fn not_empty(word: OsString) -> Result<PathBuf, BadValue> {
    if word.is_empty() { Err(BadValue::Empty) } else { Ok(Path::new(&word).to_owned()) }
}
