//! What happened on all nodes, as one stream: first what every node remembers, ordered by time, then what comes, as it comes.
//!
//! A node whose stream breaks is asked again until it answers, from the event after the last one that came: nothing is lost and nothing
//! comes twice. Across nodes the order is that of their clocks in the past, and that of arrival from then on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use migrate_proto::api::Event;
use migrate_proto::name::NodeName;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::EventLog;
use crate::channel;
use crate::control::{EventQuery, Lines, Scope};
use crate::elsewhere;
use crate::peers::Peers;

/// How long a node may take to say what it remembers, where nothing else tells whoever asks.
const LOOK: Duration = Duration::from_secs(3);
/// The same for one who goes on listening, and hears of it later.
const GLANCE: Duration = Duration::from_secs(1);
/// How long a node whose stream broke is left alone; how often nodes that have come are looked for.
const PAUSE: Duration = Duration::from_millis(500);
/// Events that wait for a reader.
const QUEUE: usize = 64;

/// What this node remembers, and what comes where that is asked for.
pub fn here(log: &EventLog, node: &NodeName, query: &EventQuery) -> Lines<Event> {
    let workload = query.workload.clone();
    let is_meant = move |event: &Event| workload.is_none() || event.workload == workload;
    let after = query.after.of(node);
    // Who has something of it wants all that came since, however old.
    let events = log.read(query.since.filter(|_| after == 0), after, query.follow);
    events.filter(move |event| std::future::ready(is_meant(event))).boxed()
}

/// The same of all nodes.
pub async fn everywhere(log: EventLog, me: NodeName, peers: Arc<Peers>, query: EventQuery) -> Lines<Event> {
    let past = EventQuery { follow: false, scope: Scope::Node, ..query.clone() };
    let others = peers.all();
    let patience = if query.follow { GLANCE } else { LOOK };
    let asked = others.iter().map(|peer| timeout(patience, elsewhere::events(&peers, &peer.node, &past)));
    let answers = join_all(asked).await;
    let mut events: Vec<Event> = here(&log, &me, &past).collect().await;
    for (peer, answer) in others.iter().zip(answers) {
        match answer {
            Ok(Ok(theirs)) => events.extend(theirs),
            // Whoever goes on listening hears it when the node answers.
            _ if query.follow => {}
            _ => events.push(log.remark(format!("{} does not answer: what it has seen is missing here", peer.node))),
        }
    }
    events.sort_by(|a, b| a.at.cmp(&b.at));
    if !query.follow {
        return stream::iter(events).boxed();
    }
    let mut reader = query.after.clone();
    events.retain(|event| reader.pass(event));
    let (tell, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(follow_all(log, me, peers, EventQuery { after: reader, ..query }, tell));
    stream::iter(events).chain(channel::stream(receiver)).boxed()
}

/// Follows this node and all others, also those that come later, until nobody listens.
async fn follow_all(log: EventLog, me: NodeName, peers: Arc<Peers>, query: EventQuery, tell: mpsc::Sender<Event>) {
    let mut followed = BTreeSet::new();
    // Dropped at the end, and all that follow with it.
    let mut following = JoinSet::new();
    let own = here(&log, &me, &query);
    following.spawn(pass_on(own, tell.clone()));
    let mut look = interval(PAUSE);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        for peer in peers.all() {
            if followed.insert(peer.node.clone()) {
                following.spawn(follow_node(peers.clone(), peer.node, query.clone(), tell.clone()));
            }
        }
        tokio::select! {
            _ = look.tick() => {}
            () = tell.closed() => return,
        }
    }
}

async fn pass_on(mut events: Lines<Event>, tell: mpsc::Sender<Event>) {
    while let Some(event) = events.next().await {
        if tell.send(event).await.is_err() {
            return;
        }
    }
}

async fn follow_node(peers: Arc<Peers>, node: NodeName, mut query: EventQuery, tell: mpsc::Sender<Event>) {
    query.scope = Scope::Node;
    let (since, asked) = (query.since, Instant::now());
    loop {
        // Until something of it has come, the age says where to begin; meanwhile it grows.
        query.since = since.map(|age| age + asked.elapsed());
        if let Ok(mut events) = elsewhere::follow_events(&peers, &node, &query).await {
            while let Some(event) = events.next().await {
                if query.after.pass(&event) && tell.send(event).await.is_err() {
                    return;
                }
            }
        }
        sleep(PAUSE).await;
    }
}

/// The query's path and arguments, for another node's API.
pub fn path(query: &EventQuery) -> String {
    let scope = match query.scope {
        Scope::Node => "node",
        Scope::Cluster => "cluster",
    };
    let since = query.since.map(|age| format!("&since_ms={}", age.as_millis())).unwrap_or_default();
    let workload = query.workload.as_ref().map(|name| format!("&workload={name}")).unwrap_or_default();
    let after = if query.after.is_empty() { String::new() } else { format!("&after={}", query.after) };
    format!("/v1/events?scope={scope}&follow={}{since}{workload}{after}", query.follow)
}
