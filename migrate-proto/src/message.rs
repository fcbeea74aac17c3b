//! Everything that two agents say to each other.
//!
//! Append only: a new message goes to the end of [`Message`], a new field means a new message. The order of variants and
//! fields is the wire format; the golden bytes in the codec's tests hold it in place.

use serde::{Deserialize, Serialize};

use crate::care::Chart;
use crate::cluster::CheckpointId;
use crate::error::{Code, Problem};
use crate::handover::{Decision, Terms};
use crate::id::{Digest, Epoch, HandoverId};
use crate::manifest::{Manifest, StreamName};
use crate::name::{NodeName, WorkloadName};
use crate::spec::WorkloadSpec;
use crate::text::Text;
use crate::version::{Version, Versions};

/// What an agent says about itself when it meets another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFacts {
    /// The node.
    pub node: NodeName,
    /// The agent's version.
    pub agent_version: String,
    /// The version of its CRIU; `None` where it has none.
    pub criu_version: Option<String>,
    /// The release of its kernel.
    pub kernel: String,
}

/// By what a mapped file is known to be the same on two nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileIdentity {
    /// The build-id of an ELF file.
    BuildId(Vec<u8>),
    /// The digest of its content.
    Digest(Digest),
}

/// A file that the workload has mapped and that does not travel with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedFile {
    /// Its path in the sandbox.
    pub path: Text,
    /// Its length.
    pub size: u64,
    /// What must be equal on the target.
    pub identity: FileIdentity,
}

/// What the target must have for the workload to run there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// The CRIU that will dump it.
    pub criu_version: String,
    /// The kernel it runs on.
    pub kernel: String,
    /// The machine, as `uname -m` says.
    pub arch: String,
    /// The CPU's features, as `/proc/cpuinfo` names them.
    pub cpu_flags: Vec<String>,
    /// Files it has mapped that lie outside its layer.
    pub mapped_files: Vec<MappedFile>,
}

/// The offer of a workload: what moves, from where to where, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// This attempt.
    pub handover: HandoverId,
    /// What was asked for when the workload was started.
    pub spec: WorkloadSpec,
    /// The epoch in which the source owns it.
    pub epoch: Epoch,
    /// The source.
    pub from: NodeName,
    /// The target.
    pub to: NodeName,
    /// About how much memory it uses.
    pub memory_bytes: u64,
    /// Length of the layer's file, holes included.
    pub layer_bytes: u64,
    /// What the layer takes on disk.
    pub layer_used_bytes: u64,
    /// In blocks of what size the layer is compared and sent.
    pub layer_block_bytes: u32,
    /// What the target must have.
    pub needs: Needs,
    /// The last PID given out in the sandbox, so that new processes go on after it.
    pub last_pid: i32,
    /// When it was started, RFC 3339.
    pub started: Option<String>,
}

/// The largest layer: a sparse file of this length, of which the target looks at every block once.
pub const MAX_LAYER_BYTES: u64 = 1 << 40;

/// No machine has more of anything; sums of such numbers do not overflow.
const MAX_CLAIM: u64 = 1 << 56;

impl Offer {
    /// What the machines need to know of it.
    pub fn terms(&self) -> Terms {
        Terms {
            handover: self.handover,
            workload: self.spec.name.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            epoch: self.epoch,
        }
    }

    /// Whether the offer makes sense in itself, and is for the node `me`.
    pub fn check(&self, me: &NodeName) -> Result<(), Problem> {
        let refuse = |why: String| Err(Problem::new(Code::Corrupt, format!("the offer was refused: {why}")));
        if self.to != *me {
            return refuse(format!("it is for {}, and this is {me}", self.to));
        }
        if self.from == self.to {
            return Err(Problem::new(Code::SameNode, format!("{} is already on {me}", self.spec.name)));
        }
        if self.epoch.0 == u64::MAX {
            return refuse("its epoch cannot rise".to_owned());
        }
        if self.spec.argv.is_empty() {
            return refuse("the workload has no command".to_owned());
        }
        if self.layer_bytes > MAX_LAYER_BYTES || self.layer_used_bytes > MAX_CLAIM {
            return refuse(format!("a layer of {} bytes that takes {}", self.layer_bytes, self.layer_used_bytes));
        }
        if self.memory_bytes > MAX_CLAIM {
            return refuse(format!("{} bytes of memory", self.memory_bytes));
        }
        if !self.layer_block_bytes.is_power_of_two() {
            return refuse(format!("blocks of {} bytes", self.layer_block_bytes));
        }
        Ok(())
    }
}

/// What a workload asks of its node beyond what an [`Offer`] says. Everything here may be unknown: then it is not judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demands {
    /// The version of the source's agent.
    pub agent_version: String,
    /// How the source's CPU lays out what it saves of a thread; `None` where it has no such thing.
    pub xsave: Option<Xsave>,
    /// Ports that it holds in the node's own network.
    pub ports: Vec<Port>,
    /// The highest hard limits of its processes; unlimited ones too.
    pub limits: Vec<Limit>,
}

/// The layout of a CPU's extended state: a thread's registers are restored byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xsave {
    /// Which components the system has switched on: XCR0.
    pub enabled: u64,
    /// How many bytes they take together.
    pub bytes: u32,
    /// Where each of them lies, from the third on: number, offset, length.
    pub components: Vec<(u32, u32, u32)>,
}

/// A port that is taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// UDP; else TCP that listens.
    pub udp: bool,
    /// On which address, as the kernel writes it in hexadecimal; all zero means every address.
    pub address: String,
    /// Its number.
    pub port: u16,
}

/// A resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// As `/proc/PID/limits` names it.
    pub name: String,
    /// The hard limit; `None` where there is none.
    pub hard: Option<u64>,
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It would not move.
    No,
    /// It would probably not move; only the attempt can tell.
    Unlikely,
    /// It moves, and this is different afterwards.
    Note,
}

/// Something that speaks against a move, or that a person should know before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How much it weighs.
    pub severity: Severity,
    /// What it is, and what to do. Does not say where the workload is.
    pub problem: Problem,
}

/// What a target thinks of an offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    /// What there is to say; a move is refused with the first `No`.
    pub findings: Vec<Finding>,
    /// The target's time of day, in milliseconds since 1970.
    pub clock_ms: u64,
}

/// A checkpoint that a node has, as far as others need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldCheckpoint {
    /// Which.
    pub id: CheckpointId,
    /// Its number among those of its workload.
    pub number: u64,
    /// The workload's epoch.
    pub epoch: Epoch,
    /// When it was taken, milliseconds since 1970.
    pub taken_ms: u64,
    /// Whether the workload was healthy then.
    pub healthy: bool,
    /// Whether all of it is there, as far as that node knows.
    pub whole: bool,
}

/// The most segments that one [`Message::Want`] names; more come in a further one.
pub const MOST_WANTED: usize = 8192;
/// The longest piece of a checkpoint's file.
pub const MOST_OUTLINE: usize = 1 << 20;
/// The most checkpoints that one message names: a node keeps a few of each workload.
pub const MOST_CHECKPOINTS: usize = 1024;

/// How the bytes of a chunk travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// Compressed with zstd.
    Zstd,
    /// Not at all: they are all zero.
    Zero,
    /// As references to memory that was copied ahead, and the rest as it is.
    Refs,
}

/// A message from one agent to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The first words of whoever connects.
    Hello {
        /// The versions it speaks.
        offer: Versions,
        /// Who it is.
        facts: AgentFacts,
    },
    /// The answer to `Hello`; `Refused` where there is no common version.
    Welcome {
        /// The version that is spoken from here on.
        version: Version,
        /// Who answers.
        facts: AgentFacts,
    },

    /// A request to the other agent's local API. Its body follows.
    Request {
        /// `GET`, `POST`, …
        method: String,
        /// With its query.
        path: String,
    },
    /// The status of the answer; its body follows.
    ResponseHead {
        /// As in HTTP.
        status: u16,
    },
    /// A piece of the answer's body.
    ResponseBody(Vec<u8>),
    /// The answer is complete.
    ResponseEnd,

    /// Source → target: take this workload.
    Offer(Box<Offer>),
    /// Target → source: it would run here, and there is room.
    Accepted {
        /// Memory that is free.
        free_memory: u64,
        /// Disk that is free where layers live.
        free_disk: u64,
    },
    /// The offer, or the connection, is refused; nothing was touched.
    Refused(Problem),
    /// Source → target: the layer has been copied while the workload runs.
    LayerAheadDone {
        /// How many blocks were sent.
        blocks: u64,
    },
    /// Target → source: sandbox, layer and a waiting CRIU are there.
    Prepared,
    /// Source → target: every byte has been sent; this is what there must be.
    Complete(Manifest),
    /// Target → source: every digest matches, and the image is durable.
    Verified,
    /// Target → source: the processes are rebuilt and held before their first instruction.
    Restored {
        /// The main process, in the sandbox.
        pid: i32,
    },
    /// Source → target: the decision is `commit`; the workload is yours.
    Commit {
        /// Which handover.
        handover: HandoverId,
        /// The epoch in which the target owns it.
        epoch: Epoch,
    },
    /// Target → source: it runs here.
    Resumed {
        /// Which handover.
        handover: HandoverId,
        /// The main process, in the sandbox.
        pid: i32,
    },
    /// Source → target: the decision is `abort`; drop everything.
    Abort {
        /// Which handover.
        handover: HandoverId,
        /// Why.
        problem: Problem,
    },
    /// Target → source: it did not work here. Before the commit, everything was dropped.
    Failed(Problem),
    /// Target → source: what was decided?
    Ask {
        /// Which handover.
        handover: HandoverId,
    },
    /// Source → target: this is what the decision file says.
    Answer {
        /// Which handover.
        handover: HandoverId,
        /// `None`: nothing has been decided yet.
        decision: Option<Decision>,
    },
    /// Source → target: the source has forgotten the handover; the target may too.
    Done {
        /// Which handover.
        handover: HandoverId,
    },

    /// A new stream; its chunks carry the number.
    OpenStream {
        /// Its number, unique in the handover.
        stream: u32,
        /// What it is.
        name: StreamName,
    },
    /// A piece of a stream. Its bytes travel beside this message, in the same parcel.
    Chunk {
        /// Which stream.
        stream: u32,
        /// Where in the stream the piece begins.
        offset: u64,
        /// How many bytes it has once decoded.
        raw_len: u32,
        /// How they travel.
        encoding: Encoding,
        /// Of the decoded bytes.
        digest: Digest,
    },
    /// A piece of a request's body.
    RequestBody(Vec<u8>),
    /// The request's body is complete.
    RequestEnd,
    /// Source → target, before an `Offer`: what else the workload asks of its node.
    Demands(Box<Demands>),
    /// The answer to an `Offer` that only asks: what the target thinks of it. Nothing was touched.
    Considered(Box<Considered>),
    /// Target → source, in place of `Resumed`: it is here with its files, and does not run: its memory is lost.
    Lost {
        /// Which handover.
        handover: HandoverId,
        /// Why, and what to do.
        problem: Problem,
    },

    /// One member of a cluster → another: do this, and say what came of it. Several can be under way at once.
    Call {
        /// Tells it from the caller's other calls in this conversation.
        id: u64,
        /// What is to be done; the members' affair.
        what: u8,
        /// With what.
        body: Vec<u8>,
    },
    /// It was done.
    Reply {
        /// Which call.
        id: u64,
        /// What came of it.
        body: Vec<u8>,
    },
    /// It was not done.
    CallFailed {
        /// Which call.
        id: u64,
        /// Why.
        problem: Problem,
    },
    /// Source → target, before an `Offer`: what is done when the workload ends or is ill, and what was done until now.
    Care(Box<Chart>),

    /// Owner → holder: of this workload I keep these checkpoints; what you have else may go, unless it is of a later epoch.
    Keep {
        /// Which workload.
        workload: WorkloadName,
        /// In which it speaks for it.
        epoch: Epoch,
        /// At most [`MOST_CHECKPOINTS`].
        checkpoints: Vec<CheckpointId>,
        /// The workload was removed: none is kept.
        removed: bool,
    },
    /// The answer to `Keep`: what of the workload is here now.
    Holding {
        /// At most [`MOST_CHECKPOINTS`].
        checkpoints: Vec<HeldCheckpoint>,
    },
    /// Who has a checkpoint → who shall have it. Also the answer to `Lack`.
    Have {
        /// Of which workload.
        workload: WorkloadName,
        /// Which.
        checkpoint: CheckpointId,
        /// The length of its file, which follows in [`Message::Outline`]s if it is wanted.
        bytes: u64,
    },
    /// Send me this checkpoint. `Have` or `Refused` is the answer.
    Lack {
        /// Of which workload.
        workload: WorkloadName,
        /// Which.
        checkpoint: CheckpointId,
    },
    /// The answer to `Have`: it is not here; send its file.
    Outline,
    /// A piece of the checkpoint's file, in order. Its bytes travel beside this message, at most [`MOST_OUTLINE`].
    OutlinePiece,
    /// Send these segments, in this order. None at all: everything has come.
    Want {
        /// At most [`MOST_WANTED`].
        segments: Vec<Digest>,
    },
    /// A segment as it lies on disk. Its bytes travel beside this message.
    Segment {
        /// Of the bytes that it holds.
        digest: Digest,
    },
    /// The answer to `Have`, at once or in the end: all of it is here, verified, on disk.
    Kept {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// Source → target, before an `Offer`, in a cluster: checkpoints up to this number are older than what will come.
    Numbered {
        /// The highest number that the source has given or heard of; 0 where there was none.
        highest: u64,
    },
}

impl Message {
    /// The number of the message: the `type` of its frame. One more than its position in the enum.
    pub fn kind(&self) -> u16 {
        match self {
            Message::Hello { .. } => 1,
            Message::Welcome { .. } => 2,
            Message::Request { .. } => 3,
            Message::ResponseHead { .. } => 4,
            Message::ResponseBody(_) => 5,
            Message::ResponseEnd => 6,
            Message::Offer(_) => 7,
            Message::Accepted { .. } => 8,
            Message::Refused(_) => 9,
            Message::LayerAheadDone { .. } => 10,
            Message::Prepared => 11,
            Message::Complete(_) => 12,
            Message::Verified => 13,
            Message::Restored { .. } => 14,
            Message::Commit { .. } => 15,
            Message::Resumed { .. } => 16,
            Message::Abort { .. } => 17,
            Message::Failed(_) => 18,
            Message::Ask { .. } => 19,
            Message::Answer { .. } => 20,
            Message::Done { .. } => 21,
            Message::OpenStream { .. } => 22,
            Message::Chunk { .. } => 23,
            Message::RequestBody(_) => 24,
            Message::RequestEnd => 25,
            Message::Demands(_) => 26,
            Message::Considered(_) => 27,
            Message::Lost { .. } => 28,
            Message::Call { .. } => 29,
            Message::Reply { .. } => 30,
            Message::CallFailed { .. } => 31,
            Message::Care(_) => 32,
            Message::Keep { .. } => 33,
            Message::Holding { .. } => 34,
            Message::Have { .. } => 35,
            Message::Lack { .. } => 36,
            Message::Outline => 37,
            Message::OutlinePiece => 38,
            Message::Want { .. } => 39,
            Message::Segment { .. } => 40,
            Message::Kept { .. } => 41,
            Message::Numbered { .. } => 42,
        }
    }

    /// The highest number there is.
    pub const LAST_KIND: u16 = 42;
}
