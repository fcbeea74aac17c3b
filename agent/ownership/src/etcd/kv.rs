//! What is said to etcd, and what it says, as its JSON gateway has it: bytes in base64, long numbers as text, what is zero left out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::http::{CallError, Servers, Stream};

/// At most so many comparisons, and so many changes, are in one transaction: etcd's own limit as it is delivered.
pub(super) const MAX_OPERATIONS: usize = 128;

/// What etcd says about itself with every answer.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Header {
    /// Which etcd this is.
    #[serde(default, deserialize_with = "number")]
    pub(super) cluster_id: u64,
    /// How often anything in it has been changed.
    #[serde(default, deserialize_with = "number")]
    pub(super) revision: u64,
}

/// A key as it is.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Pair {
    #[serde(deserialize_with = "text")]
    pub(super) key: String,
    #[serde(default, deserialize_with = "bytes")]
    pub(super) value: Vec<u8>,
    /// With which revision it was made.
    #[serde(default, deserialize_with = "number")]
    pub(super) create_revision: u64,
    /// With which revision it was last written.
    #[serde(default, deserialize_with = "number")]
    pub(super) mod_revision: u64,
}

/// Keys as they are at one moment.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Found {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) kvs: Vec<Pair>,
}

#[derive(Debug, Deserialize)]
struct Answered {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<Part>,
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(default)]
    response_range: Option<Found>,
}

/// What became of a transaction.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) header: Header,
    /// Whether everything compared was as expected; then everything was done, else nothing.
    pub(super) succeeded: bool,
    /// What was read, in the order of the request.
    pub(super) found: Vec<Found>,
}

/// What happened to keys that are watched.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Seen {
    #[serde(default)]
    pub(super) events: Vec<Event>,
    /// The watch is over.
    #[serde(default)]
    pub(super) canceled: bool,
}

/// A change of one key.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    #[serde(default, rename = "type")]
    kind: String,
    pub(super) kv: Pair,
}

impl Event {
    pub(super) fn is_gone(&self) -> bool {
        self.kind == "DELETE"
    }
}

#[derive(Deserialize)]
struct Line {
    result: Option<Seen>,
}

/// All or nothing, if everything compared is as expected.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    compare: Vec<Value>,
    then: Vec<Value>,
    otherwise: Vec<Value>,
}

impl Transaction {
    /// Only if the key was last written with this revision; 0: only if there is none.
    pub(super) fn if_written_at(mut self, key: &str, revision: u64) -> Transaction {
        let key = encoded(key);
        self.compare
            .push(json!({"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string()}));
        self
    }

    /// Only if it is the key that was made with this revision; 0: only if there is none.
    pub(super) fn if_made_at(mut self, key: &str, revision: u64) -> Transaction {
        let (key, revision) = (encoded(key), revision.to_string());
        self.compare.push(json!({"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": revision}));
        self
    }

    pub(super) fn put(mut self, key: &str, value: &[u8]) -> Transaction {
        self.then.push(json!({"request_put": {"key": encoded(key), "value": BASE64.encode(value)}}));
        self
    }

    pub(super) fn delete(mut self, key: &str) -> Transaction {
        self.then.push(json!({"request_delete_range": {"key": encoded(key)}}));
        self
    }

    /// What the key is, where something was not as expected.
    pub(super) fn else_read(mut self, key: &str) -> Transaction {
        self.otherwise.push(json!({"request_range": {"key": encoded(key)}}));
        self
    }

    /// What the key is, where everything was as expected.
    pub(super) fn read(mut self, key: &str) -> Transaction {
        self.then.push(json!({"request_range": {"key": encoded(key)}}));
        self
    }
}

/// The keys and values of one etcd.
pub(super) struct Store {
    servers: Servers,
}

impl Store {
    pub(super) fn new(servers: Vec<String>) -> Store {
        Store { servers: Servers::new(servers) }
    }

    /// All keys that begin so, as of now, whichever server answers.
    pub(super) async fn all(&self, prefix: &str, deadline: Instant) -> Result<Found, CallError> {
        let (key, end) = span(prefix);
        let body = json!({"key": key, "range_end": end});
        parsed(&self.servers.read("/v3/kv/range", &encode(&body), deadline).await?)
    }

    /// Of those that begin so the one that was written last, without its value.
    pub(super) async fn last(&self, prefix: &str, deadline: Instant) -> Result<Found, CallError> {
        let (key, end) = span(prefix);
        let order = json!({"key": key, "range_end": end, "sort_target": "MOD", "sort_order": "DESCEND", "limit": "1", "keys_only": true});
        parsed(&self.servers.read("/v3/kv/range", &encode(&order), deadline).await?)
    }

    /// These keys, all as of the same moment.
    pub(super) async fn these<'a>(
        &self,
        keys: impl Iterator<Item = &'a str>,
        deadline: Instant,
    ) -> Result<Outcome, CallError> {
        let reads = keys.fold(Transaction::default(), Transaction::read);
        outcome(&self.servers.read("/v3/kv/txn", &encode(&reads.body()), deadline).await?)
    }

    pub(super) async fn commit(&self, transaction: Transaction, deadline: Instant) -> Result<Outcome, CallError> {
        outcome(&self.servers.write("/v3/kv/txn", &encode(&transaction.body()), deadline).await?)
    }

    /// Everything that happens to keys that begin so, after this revision.
    pub(super) async fn watch(&self, prefix: &str, after: u64, deadline: Instant) -> Result<Watch, CallError> {
        let (key, end) = span(prefix);
        let start = (after + 1).to_string();
        let body = json!({"create_request": {"key": key, "range_end": end, "start_revision": start}});
        Ok(Watch { lines: self.servers.stream("/v3/watch", encode(&body), deadline).await? })
    }
}

impl Transaction {
    fn body(self) -> Value {
        json!({"compare": self.compare, "success": self.then, "failure": self.otherwise})
    }
}

/// What happens to some keys.
pub(super) struct Watch {
    lines: Stream,
}

impl Watch {
    /// What comes next: everything of one or several revisions. May be dropped at any await.
    pub(super) async fn next(&mut self) -> Result<Seen, CallError> {
        let line: Line = parsed(&self.lines.next().await?)?;
        match line.result {
            Some(seen) if !seen.canceled => Ok(seen),
            _ => Err(CallError::Lost("the watch was ended by etcd".to_owned())),
        }
    }
}

fn outcome(answer: &[u8]) -> Result<Outcome, CallError> {
    let Answered { header, succeeded, responses } = parsed(answer)?;
    let found = responses.into_iter().filter_map(|part| part.response_range).collect();
    Ok(Outcome { header, succeeded, found })
}

fn parsed<T: de::DeserializeOwned>(answer: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(answer).map_err(|error| CallError::Lost(format!("its answer cannot be read: {error}")))
}

fn encode(body: &Value) -> Bytes {
    body.to_string().into()
}

fn encoded(key: &str) -> String {
    BASE64.encode(key)
}

/// All keys that begin so. They end with '/', after which comes '0'.
fn span(prefix: &str) -> (String, String) {
    let end = format!("{}0", prefix.trim_end_matches('/'));
    (encoded(prefix), encoded(&end))
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    String::deserialize(from)?.parse().map_err(de::Error::custom)
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    BASE64.decode(String::deserialize(from)?).map_err(de::Error::custom)
}

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    String::from_utf8(bytes(from)?).map_err(de::Error::custom)
}
