//! The JSON of the agent's API: what `migrate --json` prints, and what it sends. Stable: fields are added, never changed.

use serde::{Deserialize, Serialize};

use crate::care::Wish;
use crate::cluster::record::CheckpointKind;
use crate::cluster::{CheckpointId, ClusterId};
use crate::error::Problem;
use crate::id::Epoch;
use crate::key::Fingerprint;
use crate::message::Severity;
use crate::name::{NodeName, WorkloadName};
use crate::phase::Phase;
use crate::spec::WorkloadSpec;
use crate::text::Text;

/// `POST /v1/workloads`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// What to run.
    pub spec: WorkloadSpec,
    /// Where; the asked agent's node where absent.
    #[serde(default)]
    pub on: Option<NodeName>,
    /// A directory or tar archive on the agent's node to take the root file system from; sets `spec.own_root`.
    #[serde(default)]
    pub root: Option<Text>,
    /// What is to be done when it ends, hangs or is ill.
    #[serde(default, skip_serializing_if = "Wish::is_nothing")]
    pub care: Wish,
    /// Whether the cluster chooses the node, and it waits until there is one with room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub queue: bool,
    /// Of those that wait the one with the highest goes first; then the oldest.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub priority: i16,
    /// How many nodes beside its own keep each of its checkpoints, in a cluster; as the agents are told to where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u8>,
}

fn is_usual(priority: &i16) -> bool {
    *priority == 0
}

/// What has become of the workloads of a node that drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainReport {
    /// Which node.
    pub node: NodeName,
    /// They run elsewhere, or ended by themselves.
    pub moved: Vec<WorkloadName>,
    /// They ended there with a last checkpoint that a peer has, and are brought back elsewhere.
    pub handed_over: Vec<WorkloadName>,
    /// They are still there, and a peer has a checkpoint of them that was taken meanwhile.
    pub checkpointed: Vec<WorkloadName>,
    /// They are still there.
    pub left: Vec<WorkloadName>,
}

/// A workload's newest checkpoint, as `ps` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCheckpoint {
    /// Which.
    pub id: CheckpointId,
    /// When it was taken, RFC 3339.
    pub at: String,
    /// How long ago that was.
    pub age_s: u64,
    /// How many nodes have it.
    pub replicas: u32,
    /// The last time that a checkpoint of this workload was restored for a test; `None` where none was.
    #[serde(default)]
    pub tested: Option<RecoveryTest>,
}

/// A restore that was a test: up to the first instruction, and thrown away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecoveryTest {
    /// When, RFC 3339.
    pub at: String,
    /// How long ago that was.
    pub age_s: u64,
    /// How long it took until the processes were there.
    pub took_ms: u64,
    /// Why it failed, where it did.
    pub failed: Option<String>,
}

/// A checkpoint, as `checkpoints` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointView {
    /// Which.
    pub id: CheckpointId,
    /// Of which workload.
    pub workload: WorkloadName,
    /// Its number among those that were taken in the same epoch, at least: the higher, the newer.
    #[serde(default)]
    pub number: u64,
    /// When it was taken, RFC 3339.
    pub at: String,
    /// How long ago that was.
    pub age_s: u64,
    /// How much memory and files it holds.
    pub bytes: u64,
    /// What it took on disk beyond what earlier ones had stored.
    pub bytes_stored: u64,
    /// The nodes that have it.
    pub nodes: Vec<NodeName>,
    /// The depots that have it.
    #[serde(default)]
    pub depots: Vec<String>,
    /// When all of it was last read and was as it had been taken, RFC 3339; `None` where nobody has looked, or it is damaged.
    pub verified: Option<String>,
    /// What is wrong with it, where something is.
    pub damaged: Option<String>,
    /// When it was restored for a test, where it is the last of its workload's that was.
    #[serde(default)]
    pub tested: Option<RecoveryTest>,
    /// Why it was taken.
    pub kind: CheckpointKind,
    /// The workload's epoch.
    pub epoch: Epoch,
    /// Whether the workload was healthy.
    pub healthy: bool,
}

/// What to bring a workload back from, and as what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// The checkpoint, or how its identity begins; the newest that can be used where absent.
    #[serde(default)]
    pub checkpoint: Option<String>,
    /// The name of a second workload to make of it; the first one's place is taken where absent.
    #[serde(default)]
    pub r#as: Option<WorkloadName>,
    /// Also where a node that may have the workload does not answer.
    #[serde(default)]
    pub force: bool,
}

/// A new cluster with one node of an old one, of which no majority can be asked any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebuildRequest {
    /// The backup to begin from, as it was given; what the node knows itself where absent.
    #[serde(default)]
    pub backup: Option<serde_json::Value>,
    /// Every other node is off or wiped. Where this is not said nothing is done.
    #[serde(default)]
    pub sure: bool,
}

/// What has come of it, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebuildView {
    /// The node of the new cluster.
    pub node: NodeName,
    /// The old cluster.
    pub was: ClusterId,
    /// The new one; none where nothing was done.
    pub cluster: Option<ClusterId>,
    /// The other members of the old one. They must be off, or wiped.
    pub others: Vec<NodeName>,
    /// How many workloads there are in the record.
    pub workloads: u32,
    /// Whether it was done.
    pub done: bool,
}

/// State of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits for room.
    Queued,
    /// Is being started.
    Starting,
    /// Runs.
    Running,
    /// Frozen: it is not known whether it may run here.
    Frozen,
    /// Is being moved away; it runs, or is in its pause.
    Migrating,
    /// Is being brought back.
    Restoring,
    /// Ended, or was stopped.
    Stopped,
    /// Could not be started or brought back, or ended with an error.
    Failed,
    /// Gone with its node.
    Lost,
}

/// A line of `migrate ps`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadView {
    /// Its name.
    pub name: WorkloadName,
    /// Its state.
    pub state: State,
    /// Where it is.
    pub node: NodeName,
    /// How often its owner changed.
    pub epoch: Epoch,
    /// The main process, as the node sees it; null where it does not run.
    pub pid: Option<i32>,
    /// When it was started, RFC 3339.
    pub started: Option<String>,
    /// How often it was restarted.
    pub restarts: u32,
    /// CPU use since the last look, in percent of one core.
    pub cpu_percent: f64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// What its files take.
    pub layer_bytes: u64,
    /// One of `none starting healthy unhealthy hung`; `none` where nobody asks, or it does not run.
    pub health: String,
    /// Its group.
    pub group: Option<String>,
    /// Its own address.
    pub ip: Option<String>,
    /// Its newest checkpoint; null until checkpoints are kept.
    pub last_checkpoint: Option<LastCheckpoint>,
    /// How the main process ended, where it did.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// Why it is in this state, where that is not plain.
    #[serde(default)]
    pub reason: Option<String>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// State of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Answers.
    Alive,
    /// Does not answer at the moment.
    Suspect,
    /// Is known to be gone.
    Dead,
    /// Has left.
    Left,
    /// Gives its workloads away.
    Draining,
}

/// A line of `migrate nodes`. Figures are null where the node did not answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: NodeName,
    /// Where its agent listens.
    pub address: String,
    /// Its state.
    pub state: NodeState,
    /// Whether it leads; false until there are leaders.
    pub leader: bool,
    /// Whether it votes; false until there are voters.
    pub voter: bool,
    /// CPU use of the node.
    pub cpu_percent: Option<f64>,
    /// Memory in use.
    pub memory_used_bytes: Option<u64>,
    /// Memory there is.
    pub memory_total_bytes: Option<u64>,
    /// Free space where layers live.
    pub disk_free_bytes: Option<u64>,
    /// How many workloads it has.
    pub workloads: Option<u32>,
    /// Version of its agent.
    pub agent_version: Option<String>,
    /// Version of its CRIU; null where it has none.
    pub criu_version: Option<String>,
    /// The cluster keys that it trusts, by their fingerprints; the first one issued its certificate.
    #[serde(default)]
    pub keys: Vec<Fingerprint>,
}

/// `POST /v1/workloads/{name}/move`. The answer is a stream of [`MoveLine`]s, one JSON object a line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// Where to; the healthiest peer where absent.
    #[serde(default)]
    pub to: Option<NodeName>,
    /// `auto` or `stream`; `ahead` is not there yet.
    #[serde(default)]
    pub mode: Mode,
    /// Whether policy is overruled.
    #[serde(default)]
    pub force: bool,
}

/// How memory is carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Whatever is best.
    #[default]
    Auto,
    /// All of it during the freeze.
    Stream,
    /// Most of it before the freeze.
    Ahead,
}

/// One line of a move's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MoveLine {
    /// How far it is; several a second.
    Progress(MoveProgress),
    /// How it ended; the last line.
    Report(Box<MoveReport>),
}

/// How far a move is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveProgress {
    /// The phase it is in.
    pub phase: Phase,
    /// Bytes read at the source so far (memory and files).
    pub bytes: u64,
    /// Bytes that crossed the network so far.
    pub bytes_sent: u64,
    /// Bytes there will be, as far as known.
    pub bytes_expected: u64,
    /// Since the command was taken.
    pub elapsed_ms: u64,
}

/// How a move ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is the target's, and runs there; where the report has an error, that says why it does not, or may not.
    Moved,
    /// It is where it was, and runs there, unless the error says otherwise.
    Stayed,
    /// It is not known; the workload is frozen until the record says.
    Unknown,
}

/// What a move was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MoveReport {
    /// Which workload.
    pub workload: WorkloadName,
    /// Where from.
    pub from: NodeName,
    /// Where to; null where none was found.
    pub to: Option<NodeName>,
    /// How it ended.
    pub outcome: Outcome,
    /// How memory was carried.
    pub mode: Mode,
    /// From the freeze to the resume, as the source can prove it.
    pub downtime_ms: Option<f64>,
    /// From the command to the end.
    pub total_ms: f64,
    /// Rounds of copying ahead.
    pub rounds: u32,
    /// Memory images, uncompressed.
    pub bytes_memory: u64,
    /// Files, uncompressed.
    pub bytes_files: u64,
    /// What crossed the network.
    pub bytes_sent: u64,
    /// The epoch now.
    pub epoch: Epoch,
    /// The phases, in order.
    pub phases: Vec<PhaseTime>,
    /// Why it did not move; of one that moved, why it does not run, or may not.
    pub error: Option<Problem>,
    /// The pause that was predicted.
    #[serde(default)]
    pub predicted_downtime_ms: Option<f64>,
    /// The whole time that was predicted.
    #[serde(default)]
    pub predicted_total_ms: Option<f64>,
}

/// Would it move?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As far as anybody can tell.
    Yes,
    /// No.
    No,
    /// Probably not; only the attempt can tell.
    Unlikely,
}

/// Something that speaks against a move, or that a person should know before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// How much it weighs.
    pub severity: Severity,
    /// What it is.
    pub what: String,
    /// What to do. May be empty.
    pub hint: String,
}

/// The answer to `GET /v1/workloads/{name}/check`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Which workload.
    pub workload: WorkloadName,
    /// Where to; null where no node could take it.
    pub to: Option<NodeName>,
    /// Would it move?
    pub verdict: Verdict,
    /// Why not, and what else is worth knowing; what weighs most comes first.
    pub reasons: Vec<Reason>,
    /// The pause that is expected; null where that cannot be said.
    pub predicted_downtime_ms: Option<f64>,
    /// The whole time that is expected; null where that cannot be said.
    pub predicted_total_ms: Option<f64>,
}

/// How well a node predicts its moves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PredictionView {
    /// How many of its last moves this is about.
    pub moves: u32,
    /// By how much predicted pauses were off: the mean of |predicted − measured| / measured. Null without moves.
    pub downtime_error: Option<f64>,
    /// The same of the whole time.
    pub total_error: Option<f64>,
}

/// A handover that is not settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsettled {
    /// The node on which its journal is.
    pub on: NodeName,
    /// The other node.
    pub peer: NodeName,
    /// Whether it leaves `on`; else it comes to it.
    pub leaves: bool,
    /// The phase that was written down last.
    pub phase: Phase,
    /// What it waits for, and what to do.
    pub waits_for: String,
}

/// The answer to `GET /v1/workloads/{name}/why`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyView {
    /// Which workload.
    pub workload: WorkloadName,
    /// Where it is.
    pub node: NodeName,
    /// Its state.
    pub state: State,
    /// How often its owner changed.
    pub epoch: Epoch,
    /// Since when it is there, RFC 3339; null where nobody remembers.
    pub since: Option<String>,
    /// Where it came from; null where it was started there.
    pub came_from: Option<NodeName>,
    /// What holds it, where something does: what, and what to do.
    pub held: Option<Problem>,
    /// Its handovers that are not settled, on all nodes that answered.
    pub unsettled: Vec<Unsettled>,
    /// What happened to it lately, on all nodes that answered, oldest first.
    pub history: Vec<Event>,
    /// Nodes that did not answer.
    pub silent: Vec<NodeName>,
    /// How well its node predicts its moves.
    pub prediction: PredictionView,
}

/// How long a phase took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Which.
    pub name: Phase,
    /// How long.
    pub ms: f64,
}

/// A line of `migrate events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Rises with every event of a node, also over its agent's death. 0 where it is no node's event, but a remark to whoever reads.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub number: u64,
    /// When, RFC 3339 with milliseconds, UTC.
    pub at: String,
    /// Where it was seen.
    pub node: NodeName,
    /// Which workload, where it is about one.
    pub workload: Option<WorkloadName>,
    /// What: `started ended stopped removed moving moved arrived stayed adopted agent-started agent-stopped warning`; of nodes:
    /// `node-joined node-suspect node-back node-dead node-left leader`.
    pub kind: String,
    /// In which phase of a move.
    pub phase: Option<Phase>,
    /// In words.
    pub message: String,
    /// What a move took, and what was predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<MoveFigures>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a move took, beside what was predicted before it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MoveFigures {
    /// The pause, as far as it is known.
    pub downtime_ms: Option<f64>,
    /// The pause that was predicted.
    pub predicted_downtime_ms: Option<f64>,
    /// The whole time.
    pub total_ms: f64,
    /// The whole time that was predicted.
    pub predicted_total_ms: Option<f64>,
}

/// `POST /v1/workloads/{name}/exec`: the first line of the request's body; what follows is the command's stdin.
/// The answer is a stream of [`ExecLine`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<Text>,
}

/// One line of an exec's answer; bytes in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecLine {
    /// The command wrote this to its stdout.
    Stdout(String),
    /// The command wrote this to its stderr.
    Stderr(String),
    /// Of logs that are followed: what comes of stdout begins at this byte.
    StdoutFrom(u64),
    /// The same of stderr.
    StderrFrom(u64),
    /// It ended; the last line.
    Exit(Exit),
    /// It could not be run; the last line.
    Error(Problem),
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: Problem,
}
