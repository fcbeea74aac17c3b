//! The one table of what can be set.

/// Something that can be set.
#[derive(Debug)]
pub struct Setting {
    /// Its name in the file.
    pub key: &'static str,
    /// Its variables in the environment; the first one set wins.
    pub env: &'static [&'static str],
    /// Its flag, without the dashes.
    pub flag: &'static str,
    /// What its value looks like.
    pub value: &'static str,
    /// Its value where nobody says one.
    pub default: Default,
    /// Whether it is a list, and what parts its values in a variable. In the file it is an array; the flag is repeated.
    pub list: Option<char>,
    /// What it is for, as a sentence without its dot.
    pub help: &'static str,
}

/// The value that a setting has where nobody says one.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    /// This.
    Value(&'static str),
    /// What is described here; it depends on something else.
    Derived(&'static str),
    /// None: an empty list.
    Nothing,
}

impl Default {
    /// For people.
    pub fn shown(self) -> &'static str {
        match self {
            Default::Value(text) | Default::Derived(text) => text,
            Default::Nothing => "none",
        }
    }
}

/// All of them, in the order in which they are shown.
pub const SETTINGS: [&Setting; 45] = [
    &NODE,
    &LISTEN,
    &PEERS,
    &MEMBERS,
    &JOIN,
    &ADVERTISE,
    &OWNERSHIP,
    &STATE,
    &RUN,
    &SOCKET,
    &KEY,
    &CGROUP,
    &HIDE,
    &CRIU,
    &STOP_TIMEOUT,
    &LINK_TIMEOUT,
    &SHUTDOWN_TIMEOUT,
    &TALK_LIMIT,
    &PREPARE_LIMIT,
    &FREEZE_LIMIT,
    &TRANSFER_LIMIT,
    &VERIFY_LIMIT,
    &RESTORE_LIMIT,
    &COMMIT_REPEAT,
    &RESUME_REPEAT,
    &SWIM_PERIOD,
    &SWIM_RTT,
    &SWIM_SUSPICION,
    &LEASE,
    &CLOCK_BOUND,
    &RAFT_HEARTBEAT,
    &RAFT_ELECTION,
    &CHECKPOINT_KEEP,
    &CHECKPOINT_AGE,
    &CHECKPOINT_MAX_BYTES,
    &CHECKPOINT_REPLICAS,
    &PROVE_EVERY,
    &ON_TERMINATE,
    &DRAIN_NOTICE,
    &DRAIN_DEADLINE,
    &CHECKPOINT_STORE,
    &CHECKPOINT_CREDENTIALS,
    &HALTS,
    &LOG_LEVEL,
    &LOG_FORMAT,
];

/// Where the file is looked for if nobody names one; it need not exist.
pub const DEFAULT_FILE: &str = "/etc/migrate/agent.toml";

/// Names the file; also `--config`.
pub const FILE_VARIABLE: &str = "MIGRATE_CONFIG";

/// What most settings have in common.
const PLAIN: Setting =
    Setting { key: "", env: &[], flag: "", value: "", default: Default::Nothing, list: None, help: "" };

pub(super) const NODE: Setting = Setting {
    key: "node",
    env: &["MIGRATE_NODE", "NODE_ID"],
    flag: "node",
    value: "NAME",
    default: Default::Derived("the host's name up to its first dot"),
    help: "The name of this node; unique in the cluster, and the same after a restart",
    ..PLAIN
};

pub(super) const LISTEN: Setting = Setting {
    key: "listen",
    env: &["MIGRATE_LISTEN"],
    flag: "listen",
    value: "ADDRESS:PORT",
    default: Default::Value("0.0.0.0:7700"),
    help: "Where other agents reach this one",
    ..PLAIN
};

pub(super) const PEERS: Setting = Setting {
    key: "peers",
    env: &["MIGRATE_PEERS"],
    flag: "peer",
    value: "NODE=HOST:PORT",
    list: Some(','),
    help: "The other nodes, where they are not a cluster that finds its members; this node may be among them",
    ..PLAIN
};

pub(super) const MEMBERS: Setting = Setting {
    key: "members",
    env: &["MIGRATE_MEMBERS", "MEMBERS"],
    flag: "member",
    value: "NODE=HOST:PORT",
    list: Some(','),
    help: "The nodes that begin a cluster, this one among them, the same list on all; the first one begins it",
    ..PLAIN
};

pub(super) const JOIN: Setting = Setting {
    key: "join",
    env: &["MIGRATE_JOIN"],
    flag: "join",
    value: "HOST:PORT",
    list: Some(','),
    help: "Members of a cluster to join; any one that answers will do",
    ..PLAIN
};

pub(super) const ADVERTISE: Setting = Setting {
    key: "advertise",
    env: &["MIGRATE_ADVERTISE"],
    flag: "advertise",
    value: "HOST:PORT",
    default: Default::Derived("its entry in `members`, else `listen`, else the address from which it reaches `join`"),
    help: "Where the others of its cluster reach this node, by TCP and UDP",
    ..PLAIN
};

pub(super) const OWNERSHIP: Setting = Setting {
    key: "ownership",
    env: &["MIGRATE_OWNERSHIP"],
    flag: "ownership",
    value: "KEEPER",
    default: Default::Value("raft"),
    help: "Who keeps the cluster's record, the same on all nodes: `raft`, the nodes themselves; or an etcd that is there \
           already, `etcd://HOST:PORT[,HOST:PORT…]/PREFIX` (plain HTTP, so on a network of its own)",
    ..PLAIN
};

pub(super) const STATE: Setting = Setting {
    key: "state",
    env: &["MIGRATE_STATE"],
    flag: "state",
    value: "DIR",
    default: Default::Value("/var/lib/migrate"),
    help: "The directory of what must survive a restart of the machine: workloads, their files, events",
    ..PLAIN
};

pub(super) const RUN: Setting = Setting {
    key: "run",
    env: &["MIGRATE_RUN"],
    flag: "run",
    value: "DIR",
    default: Default::Value("/run/migrate"),
    help: "The directory of what need not survive it: sockets; best on a tmpfs",
    ..PLAIN
};

pub(super) const SOCKET: Setting = Setting {
    key: "socket",
    env: &["MIGRATE_SOCKET"],
    flag: "socket",
    value: "PATH",
    default: Default::Derived("agent.sock in the directory `run`"),
    help: "The Unix socket on which `migrate` reaches this agent; open to root and the group `migrate`",
    ..PLAIN
};

pub(super) const KEY: Setting = Setting {
    key: "key",
    env: &["MIGRATE_KEY"],
    flag: "key",
    value: "FILE",
    default: Default::Value("/etc/migrate/cluster.key"),
    help: "The cluster key (`migrate key new`); the same on all nodes",
    ..PLAIN
};

pub(super) const CGROUP: Setting = Setting {
    key: "cgroup",
    env: &["MIGRATE_CGROUP"],
    flag: "cgroup",
    value: "PATH",
    default: Default::Value("migrate"),
    help: "The cgroup below which workloads live, from the root of each hierarchy",
    ..PLAIN
};

pub(super) const HIDE: Setting = Setting {
    key: "hide",
    env: &["MIGRATE_HIDE"],
    flag: "hide",
    value: "PATH",
    list: Some(':'),
    help: "Paths of this node that no workload may see",
    ..PLAIN
};

pub(super) const CRIU: Setting = Setting {
    key: "criu",
    env: &["MIGRATE_CRIU"],
    flag: "criu",
    value: "PATH",
    default: Default::Value("criu"),
    help: "CRIU's program: a path, or a name to look for in PATH",
    ..PLAIN
};

pub(super) const STOP_TIMEOUT: Setting = Setting {
    key: "stop_timeout",
    env: &["MIGRATE_STOP_TIMEOUT"],
    flag: "stop-timeout",
    value: "DURATION",
    default: Default::Value("10s"),
    help: "How long a workload that is stopped has before it is killed",
    ..PLAIN
};

pub(super) const LINK_TIMEOUT: Setting = Setting {
    key: "link_timeout",
    env: &["MIGRATE_LINK_TIMEOUT"],
    flag: "link-timeout",
    value: "DURATION",
    default: Default::Value("10s"),
    help: "How long a lost connection to another agent is tried again before a move is given up",
    ..PLAIN
};

pub(super) const SHUTDOWN_TIMEOUT: Setting = Setting {
    key: "shutdown_timeout",
    env: &["MIGRATE_SHUTDOWN_TIMEOUT"],
    flag: "shutdown-timeout",
    value: "DURATION",
    default: Default::Value("10s"),
    help: "How long requests may go on when the agent is told to end",
    ..PLAIN
};

pub(super) const TALK_LIMIT: Setting = Setting {
    key: "talk_limit",
    env: &["MIGRATE_TALK_LIMIT"],
    flag: "talk-limit",
    value: "DURATION[/DURATION]",
    default: Default::Value("30s/15s"),
    help: "How long negotiate and preflight may each take, and without a sign of life",
    ..PLAIN
};

pub(super) const PREPARE_LIMIT: Setting = Setting {
    key: "prepare_limit",
    env: &["MIGRATE_PREPARE_LIMIT"],
    flag: "prepare-limit",
    value: "DURATION[/DURATION]",
    default: Default::Value("4h/60s"),
    help: "How long a move may prepare while the workload runs, and without any progress",
    ..PLAIN
};

pub(super) const FREEZE_LIMIT: Setting = Setting {
    key: "freeze_limit",
    env: &["MIGRATE_FREEZE_LIMIT"],
    flag: "freeze-limit",
    value: "DURATION[/DURATION]",
    default: Default::Value("60s/30s"),
    help: "How long until every task stands still; then the move is given up",
    ..PLAIN
};

pub(super) const TRANSFER_LIMIT: Setting = Setting {
    key: "transfer_limit",
    env: &["MIGRATE_TRANSFER_LIMIT"],
    flag: "transfer-limit",
    value: "DURATION[/DURATION]",
    default: Default::Value("1h/30s"),
    help: "How long the pause's bytes may take to cross, and without any progress",
    ..PLAIN
};

pub(super) const VERIFY_LIMIT: Setting = Setting {
    key: "verify_limit",
    env: &["MIGRATE_VERIFY_LIMIT"],
    flag: "verify-limit",
    value: "DURATION[/DURATION]",
    default: Default::Value("10m"),
    help: "How long the target may compare digests",
    ..PLAIN
};

pub(super) const RESTORE_LIMIT: Setting = Setting {
    key: "restore_limit",
    env: &["MIGRATE_RESTORE_LIMIT"],
    flag: "restore-limit",
    value: "DURATION[/DURATION]",
    default: Default::Value("10m"),
    help: "How long the target may rebuild the processes",
    ..PLAIN
};

pub(super) const COMMIT_REPEAT: Setting = Setting {
    key: "commit_repeat",
    env: &["MIGRATE_COMMIT_REPEAT"],
    flag: "commit-repeat",
    value: "DURATION",
    default: Default::Value("5s"),
    help: "How often what was decided is asked again",
    ..PLAIN
};

pub(super) const RESUME_REPEAT: Setting = Setting {
    key: "resume_repeat",
    env: &["MIGRATE_RESUME_REPEAT"],
    flag: "resume-repeat",
    value: "DURATION",
    default: Default::Value("5s"),
    help: "How often the commit, and what follows it, is said again until it is answered",
    ..PLAIN
};

pub(super) const SWIM_PERIOD: Setting = Setting {
    key: "swim_period",
    env: &["MIGRATE_SWIM_PERIOD"],
    flag: "swim-period",
    value: "DURATION",
    default: Default::Value("500ms"),
    help: "In a cluster: how often a node looks after another one; at least three times `swim_rtt`",
    ..PLAIN
};

pub(super) const SWIM_RTT: Setting = Setting {
    key: "swim_rtt",
    env: &["MIGRATE_SWIM_RTT"],
    flag: "swim-rtt",
    value: "DURATION",
    default: Default::Value("150ms"),
    help: "How soon it must answer before it is tried through others",
    ..PLAIN
};

pub(super) const SWIM_SUSPICION: Setting = Setting {
    key: "swim_suspicion",
    env: &["MIGRATE_SWIM_SUSPICION"],
    flag: "swim-suspicion",
    value: "DURATION",
    default: Default::Value("2s"),
    help: "How long a node that did not answer has to contradict before it is taken for dead; at least three times \
           `swim_period`; of a hundred nodes each has twice as long, of a thousand three times",
    ..PLAIN
};

pub(super) const LEASE: Setting = Setting {
    key: "lease",
    env: &["MIGRATE_LEASE"],
    flag: "lease",
    value: "DURATION",
    default: Default::Value("1500ms"),
    help: "How long a node may act for its workloads after it was last confirmed; the same on all nodes, at least twice \
           `swim_period`; 5s where an etcd keeps the record. After it workloads stand still, until the node has another",
    ..PLAIN
};

pub(super) const CLOCK_BOUND: Setting = Setting {
    key: "clock_bound",
    env: &["MIGRATE_CLOCK_BOUND"],
    flag: "clock-bound",
    value: "PERCENT",
    default: Default::Value("1%"),
    help: "By how much the rate of a clock may be wrong, at most 5%; the same on all nodes",
    ..PLAIN
};

pub(super) const RAFT_HEARTBEAT: Setting = Setting {
    key: "raft_heartbeat",
    env: &["MIGRATE_RAFT_HEARTBEAT"],
    flag: "raft-heartbeat",
    value: "DURATION",
    default: Default::Value("150ms"),
    help: "How often the leader of a cluster is heard",
    ..PLAIN
};

pub(super) const RAFT_ELECTION: Setting = Setting {
    key: "raft_election",
    env: &["MIGRATE_RAFT_ELECTION"],
    flag: "raft-election",
    value: "DURATION/DURATION",
    default: Default::Value("400ms/600ms"),
    help: "How long it may be silent before another is elected, at least and at most; more than twice `raft_heartbeat`",
    ..PLAIN
};

pub(super) const CHECKPOINT_KEEP: Setting = Setting {
    key: "checkpoint_keep",
    env: &["MIGRATE_CHECKPOINT_KEEP"],
    flag: "checkpoint-keep",
    value: "N",
    default: Default::Value("3"),
    help: "How many checkpoints of a workload are kept; beyond that always the newest verified and the newest healthy one",
    ..PLAIN
};

pub(super) const CHECKPOINT_AGE: Setting = Setting {
    key: "checkpoint_age",
    env: &["MIGRATE_CHECKPOINT_AGE"],
    flag: "checkpoint-age",
    value: "DURATION",
    default: Default::Value("24h"),
    help: "How old a checkpoint may become before it is dropped, unless it is the last that can be used",
    ..PLAIN
};

pub(super) const CHECKPOINT_MAX_BYTES: Setting = Setting {
    key: "checkpoint_max_bytes",
    env: &["MIGRATE_CHECKPOINT_MAX_BYTES"],
    flag: "checkpoint-max-bytes",
    value: "SIZE",
    default: Default::Value("32GiB"),
    help: "How much the checkpoints of all workloads may take on this node; what would exceed it is not taken",
    ..PLAIN
};

pub(super) const CHECKPOINT_REPLICAS: Setting = Setting {
    key: "checkpoint_replicas",
    env: &["MIGRATE_CHECKPOINT_REPLICAS"],
    flag: "checkpoint-replicas",
    value: "N",
    default: Default::Value("2"),
    help: "On how many other nodes each checkpoint is kept, where there are so many; 0 for none",
    ..PLAIN
};

pub(super) const PROVE_EVERY: Setting = Setting {
    key: "prove_every",
    env: &["MIGRATE_PROVE_EVERY"],
    flag: "prove-every",
    value: "DURATION",
    default: Default::Derived("never"),
    help: "How often the newest checkpoint of each workload is restored for a test, on a node that has it, up to the first instruction, and thrown \
           away; at least 1s, and the same on all nodes. Each takes the memory and the time of a restore",
    ..PLAIN
};

pub(super) const ON_TERMINATE: Setting = Setting {
    key: "on_terminate",
    env: &["MIGRATE_ON_TERMINATE"],
    flag: "on-terminate",
    value: "leave-running|drain",
    default: Default::Value("leave-running"),
    help: "What SIGTERM means for the workloads of a node of a cluster: they run on without the agent, for as long as the lease lasts; or \
           they are given away first, within `drain_deadline`. A second SIGTERM ends the agent at once",
    ..PLAIN
};

pub(super) const DRAIN_NOTICE: Setting = Setting {
    key: "drain_notice",
    env: &["MIGRATE_DRAIN_NOTICE"],
    flag: "drain-notice",
    value: "file:PATH|http://ADDRESS|command:COMMAND",
    list: Some(';'),
    help: "Where it is said that the machine is about to be taken away: a file that appears, a page that answers with success, a command that \
           ends with 0. Looked for every second; the node drains then",
    ..PLAIN
};

pub(super) const DRAIN_DEADLINE: Setting = Setting {
    key: "drain_deadline",
    env: &["MIGRATE_DRAIN_DEADLINE"],
    flag: "drain-deadline",
    value: "DURATION",
    default: Default::Value("30s"),
    help: "How long a node has that drains because of SIGTERM or a notice",
    ..PLAIN
};

pub(super) const CHECKPOINT_STORE: Setting = Setting {
    key: "checkpoint_store",
    env: &["MIGRATE_CHECKPOINT_STORE"],
    flag: "checkpoint-store",
    value: "URL",
    list: Some(','),
    help: "Depots for checkpoints, beside the nodes: dir:/PATH on shared storage, or \
           s3://BUCKET/PREFIX?endpoint=URL&region=NAME&allow-http=true",
    ..PLAIN
};

pub(super) const CHECKPOINT_CREDENTIALS: Setting = Setting {
    key: "checkpoint_credentials",
    env: &["MIGRATE_CHECKPOINT_CREDENTIALS"],
    flag: "checkpoint-credentials",
    value: "FILE",
    default: Default::Derived("the agent's environment"),
    help: "A file of the credentials for depots in S3: AWS_ACCESS_KEY_ID=… and AWS_SECRET_ACCESS_KEY=…, one a line",
    ..PLAIN
};

pub(super) const HALTS: Setting = Setting {
    key: "halts",
    env: &["MIGRATE_HALTS"],
    flag: "halts",
    value: "DIR",
    help: "For rehearsals of faults: a directory of FIFOs (source-freeze, target-restore-begun …) at which moves wait",
    ..PLAIN
};

pub(super) const LOG_LEVEL: Setting = Setting {
    key: "log_level",
    env: &["MIGRATE_LOG_LEVEL"],
    flag: "log-level",
    value: "error|warn|info|debug|trace",
    default: Default::Value("info"),
    help: "How much the agent says on stderr",
    ..PLAIN
};

pub(super) const LOG_FORMAT: Setting = Setting {
    key: "log_format",
    env: &["MIGRATE_LOG_FORMAT"],
    flag: "log-format",
    value: "human|json",
    default: Default::Value("human"),
    help: "How it says it: lines for people, or one JSON object a line",
    ..PLAIN
};

/// The setting of that key in the file.
pub(super) fn by_key(key: &str) -> Option<&'static Setting> {
    SETTINGS.into_iter().find(|setting| setting.key == key)
}

/// All keys, for people.
pub(super) fn keys() -> String {
    SETTINGS.map(|setting| setting.key).join(", ")
}
