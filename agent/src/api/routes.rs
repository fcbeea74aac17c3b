//! The one table of what can be asked.

use axum::http::StatusCode;
use axum::routing::{MethodRouter, delete, get, post};

use super::{Api, handlers};

/// Something that can be asked.
pub(super) struct Route {
    /// In small letters, as OpenAPI wants it.
    pub(super) method: &'static str,
    /// `{name}` stands for a workload, `{node}` for a node.
    pub(super) path: &'static str,
    /// What it does.
    pub(super) summary: &'static str,
    pub(super) query: &'static [Argument],
    pub(super) input: Input,
    pub(super) answer: Answer,
    pub(super) handler: fn() -> MethodRouter<Api>,
}

/// An argument in the query; none has to be there.
pub(super) struct Argument {
    pub(super) name: &'static str,
    /// `boolean`, `integer`, `name`, `cursor`, or `node|cluster` for one of these words.
    pub(super) kind: &'static str,
    pub(super) help: &'static str,
}

/// The request's body. Names are those of schemas.
pub(super) enum Input {
    Nothing,
    Json(&'static str),
    JsonThenBytes(&'static str),
}

/// The answer's body where the request succeeds. Names are those of schemas.
pub(super) enum Answer {
    Nothing,
    One(StatusCode, &'static str),
    List(&'static str),
    Lines(&'static str),
    /// The description of the API itself.
    OpenApi,
}

const fn argument(name: &'static str, kind: &'static str, help: &'static str) -> Argument {
    Argument { name, kind, help }
}

const FOLLOW: Argument = argument("follow", "boolean", "go on with what comes; false where absent");

const SCOPE: Argument = argument("scope", "node|cluster", "this node alone, or every node; cluster where absent");

/// All of them.
pub(super) const ROUTES: [Route; 24] = [
    Route {
        method: "get",
        path: "/v1/health",
        summary: "How this agent is",
        query: &[],
        input: Input::Nothing,
        answer: Answer::One(StatusCode::OK, "Health"),
        handler: || get(handlers::health),
    },
    Route {
        method: "get",
        path: "/v1/openapi.json",
        summary: "This description",
        query: &[],
        input: Input::Nothing,
        answer: Answer::OpenApi,
        handler: || get(handlers::openapi),
    },
    Route {
        method: "get",
        path: "/v1/workloads",
        summary: "The workloads, ordered by name",
        query: &[SCOPE],
        input: Input::Nothing,
        answer: Answer::List("WorkloadView"),
        handler: || get(handlers::list),
    },
    Route {
        method: "post",
        path: "/v1/workloads",
        summary: "Start a workload",
        query: &[],
        input: Input::Json("RunRequest"),
        answer: Answer::One(StatusCode::CREATED, "WorkloadView"),
        handler: || post(handlers::run),
    },
    Route {
        method: "delete",
        path: "/v1/workloads/{name}",
        summary: "Forget a workload and its files",
        query: &[argument("force", "boolean", "end it first if it runs; false where absent")],
        input: Input::Nothing,
        answer: Answer::Nothing,
        handler: || delete(handlers::remove),
    },
    Route {
        method: "post",
        path: "/v1/workloads/{name}/stop",
        summary: "End a workload; it stays known",
        query: &[argument(
            "timeout_ms",
            "integer",
            "how long it has before it is killed; the agent's setting where absent",
        )],
        input: Input::Nothing,
        answer: Answer::One(StatusCode::OK, "WorkloadView"),
        handler: || post(handlers::stop),
    },
    Route {
        method: "post",
        path: "/v1/workloads/{name}/start",
        summary: "Start a stopped workload again",
        query: &[],
        input: Input::Nothing,
        answer: Answer::One(StatusCode::OK, "WorkloadView"),
        handler: || post(handlers::start),
    },
    Route {
        method: "get",
        path: "/v1/workloads/{name}/logs",
        summary: "What a workload wrote to stdout and stderr",
        query: &[
            FOLLOW,
            argument("tail", "integer", "only the last so many lines; all where absent"),
            argument("from", "cursor", "where a reader goes on: at which bytes of stdout and stderr, as in `17,4`"),
        ],
        input: Input::Nothing,
        answer: Answer::Lines("ExecLine"),
        handler: || get(handlers::logs),
    },
    Route {
        method: "post",
        path: "/v1/workloads/{name}/exec",
        summary: "Run a command beside a workload; both directions flow at once",
        query: &[],
        input: Input::JsonThenBytes("ExecRequest"),
        answer: Answer::Lines("ExecLine"),
        handler: || post(handlers::exec),
    },
    Route {
        method: "post",
        path: "/v1/workloads/{name}/move",
        summary: "Move a workload; who disconnects before the commit cancels it",
        query: &[],
        input: Input::Json("MoveRequest"),
        answer: Answer::Lines("MoveLine"),
        handler: || post(handlers::migrate),
    },
    Route {
        method: "post",
        path: "/v1/workloads/{name}/checkpoint",
        summary: "Take a checkpoint of a workload, which runs on",
        query: &[],
        input: Input::Nothing,
        answer: Answer::One(StatusCode::OK, "CheckpointView"),
        handler: || post(handlers::checkpoint),
    },
    Route {
        method: "post",
        path: "/v1/workloads/{name}/restore",
        summary: "Bring a workload back from a checkpoint of this node",
        query: &[],
        input: Input::Json("RestoreRequest"),
        answer: Answer::One(StatusCode::OK, "WorkloadView"),
        handler: || post(handlers::restore),
    },
    Route {
        method: "get",
        path: "/v1/checkpoints",
        summary: "The checkpoints that there are, of each workload the oldest first",
        query: &[argument("workload", "name", "only those of this workload"), SCOPE],
        input: Input::Nothing,
        answer: Answer::List("CheckpointView"),
        handler: || get(handlers::checkpoints),
    },
    Route {
        method: "post",
        path: "/v1/checkpoints/prove",
        summary: "Restore a workload's newest checkpoint for a test: up to its first instruction, and thrown away",
        query: &[
            argument("workload", "name", "which workload; needed"),
            argument(
                "scope",
                "node|cluster",
                "here, or on a node that has it and does not own the workload; that where absent",
            ),
        ],
        input: Input::Nothing,
        answer: Answer::One(StatusCode::OK, "CheckpointView"),
        handler: || post(handlers::prove),
    },
    Route {
        method: "get",
        path: "/v1/workloads/{name}/check",
        summary: "Would it move? Changes nothing",
        query: &[argument("to", "name", "to which node; the one that a move would choose where absent")],
        input: Input::Nothing,
        answer: Answer::One(StatusCode::OK, "CheckReport"),
        handler: || get(handlers::check),
    },
    Route {
        method: "get",
        path: "/v1/workloads/{name}/why",
        summary: "Why a workload is where it is",
        query: &[SCOPE],
        input: Input::Nothing,
        answer: Answer::One(StatusCode::OK, "WhyView"),
        handler: || get(handlers::why),
    },
    Route {
        method: "get",
        path: "/v1/nodes",
        summary: "The members of the cluster, ordered by name",
        query: &[SCOPE],
        input: Input::Nothing,
        answer: Answer::List("NodeView"),
        handler: || get(handlers::nodes),
    },
    Route {
        method: "delete",
        path: "/v1/nodes/{node}",
        summary: "Wait no more for a node that is lost for good; it must not answer",
        query: &[],
        input: Input::Nothing,
        answer: Answer::Nothing,
        handler: || delete(handlers::forget),
    },
    Route {
        method: "get",
        path: "/v1/cluster/backup",
        summary: "The cluster's record as of now, to be kept",
        query: &[],
        input: Input::Nothing,
        answer: Answer::One(StatusCode::OK, "Backup"),
        handler: || get(handlers::backup),
    },
    Route {
        method: "post",
        path: "/v1/cluster/rebuild",
        summary: "Begin a new cluster with this node, where a majority of those who vote is lost for good; the agent ends then",
        query: &[],
        input: Input::Json("RebuildRequest"),
        answer: Answer::One(StatusCode::OK, "RebuildView"),
        handler: || post(handlers::rebuild),
    },
    Route {
        method: "post",
        path: "/v1/drain",
        summary: "Move everything away from a node, which takes nothing new; the answer comes when that is done, or time is up",
        query: &[
            argument("node", "name", "which; this one where absent"),
            argument(
                "deadline_ms",
                "integer",
                "how long that may take; what cannot be moved is waited for where absent",
            ),
        ],
        input: Input::Nothing,
        answer: Answer::One(StatusCode::OK, "DrainReport"),
        handler: || post(handlers::drain),
    },
    Route {
        method: "post",
        path: "/v1/undrain",
        summary: "Let a node take workloads again",
        query: &[argument("node", "name", "which; this one where absent")],
        input: Input::Nothing,
        answer: Answer::Nothing,
        handler: || post(handlers::undrain),
    },
    Route {
        method: "post",
        path: "/v1/keys/reload",
        summary: "Read the cluster's keys again and put them in force; connections that there are go on",
        query: &[],
        input: Input::Nothing,
        answer: Answer::One(StatusCode::OK, "NodeView"),
        handler: || post(handlers::reload_keys),
    },
    Route {
        method: "get",
        path: "/v1/events",
        summary: "What happened on this node, oldest first",
        query: &[
            FOLLOW,
            argument("since_ms", "integer", "only what is at most so old; all that is kept where absent"),
            argument("workload", "name", "only what is about this workload"),
            SCOPE,
            argument(
                "after",
                "cursor",
                "where a reader goes on: the last number that it has of each node, as in `node1:17,node2:4`",
            ),
        ],
        input: Input::Nothing,
        answer: Answer::Lines("Event"),
        handler: || get(handlers::events),
    },
];
