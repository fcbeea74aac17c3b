//! This node among the others.
//!
//! - [`membership`]: who the others are and how they seem to be. Two kinds: a list that does not change, and [`roster`]: members that join.
//!   [`company`]: which of the two it is, for the daemon.
//! - [`keeper`]: the thread that looks after the other members; [`join`]: how this node comes in, also through
//!   [`acquaintances`]; [`generation`]: in which life.
//! - [`news`]: what the keeper says, as events; who must not be in the cluster ends. [`figures`]: how full this node is, for the others.
//! - [`agreement`]: the record, kept together with the other members, over [`calls`]; [`session`]: this node's lease; [`lead`]: what the
//!   leader does. [`nodes`]: `migrate nodes`. [`ways_back`]: what people do where the cluster cannot help itself.

pub mod acquaintances;
pub mod agreement;
pub mod calls;
pub mod company;
pub mod figures;
pub mod generation;
pub mod join;
pub mod keeper;
pub mod lead;
pub mod membership;
pub mod news;
pub mod nodes;
pub mod roster;
pub mod session;
pub mod ways_back;

use std::collections::BTreeSet;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use migrate_members::Member;
use migrate_proto::cluster::lease::{Lapse, Page};
use migrate_proto::cluster::{Claim, ClusterId};
use migrate_proto::datagram::{Figures, Who};
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::StateMark;
use migrate_proto::version::SPOKEN;
use migrate_sandbox::lease::LeasePage;
use migrate_transport::datagram::{BootId, DatagramKeys, SealedSocket};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use self::generation::Generations;
use self::join::Joining;
use self::keeper::{Ends, Keeper, Lapsed, News, Order, Setup};
use self::roster::{Board, Roster, SwimMembers};
use crate::config::ClusterConfig;
use crate::host::Host;
use crate::{durable, random};

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// How much of what voters say may wait for a leader; it asks again for what it has missed.
const VERDICTS: usize = 4096;
/// The keeper's place among this machine's threads: before those that only work.
const NICENESS: i32 = -10;

/// This node as one of a cluster.
pub struct Cluster {
    /// The others.
    pub members: Arc<SwimMembers>,
    /// To the keeper.
    orders: mpsc::UnboundedSender<Order>,
    hears_voters: watch::Receiver<bool>,
    /// What was on the lease page when this agent started.
    found: Page,
    lapsed: watch::Sender<Option<Lapsed>>,
    verdicts: broadcast::Sender<Lapse>,
    /// How full this node is.
    own: watch::Sender<Option<Figures>>,
    /// Whether another node of this name was heard.
    namesake: watch::Sender<bool>,
    /// Not held: when the keeper ends, that must be noticed.
    news: mpsc::WeakUnboundedSender<News>,
    left: AtomicBool,
}

/// What a node needs to become one of a cluster.
pub struct Start<'a> {
    /// This node.
    pub host: &'a Host,
    /// What it was told.
    pub told: &'a ClusterConfig,
    /// Tells its state from any other.
    pub mark: StateMark,
    /// Where its transport listens.
    pub listen: SocketAddr,
    /// What datagrams are sealed with.
    pub keys: watch::Receiver<DatagramKeys>,
}

impl Start<'_> {
    /// Starts the keeper. It joins by itself; what it has to say comes as [`News`]. Blocks.
    pub fn run(self) -> Result<(Cluster, mpsc::UnboundedReceiver<News>), Problem> {
        let Start { host, told, mark, listen, keys } = self;
        let dir = host.config.state.join("cluster");
        durable::make_dir(&dir).map_err(Problem::internal)?;
        let generation = Generations::of(&host.config.state).next().map_err(Problem::internal)?;
        let address = own_address(host, told, listen)?;
        let invalid = |error: migrate_members::InvalidMember| Problem::new(Code::Usage, error.to_string());
        let me = Member::new(host.node().clone(), mark, generation, address.clone()).map_err(invalid)?;
        let others = told.members.iter().filter(|member| member.node != *host.node());
        let seeds = others.map(|member| Member::unheard(member.node.clone(), member.address.clone()));
        let seeds = seeds.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
        let acquaintances = acquaintances::of(&host.config.state);
        let named = told.join.iter().chain(&acquaintances).map(String::as_str).chain(seeds.iter().map(Member::address));
        let question = u64::from_le_bytes(random::bytes().map_err(Problem::internal)?) >> 1;
        let cluster = durable::read::<ClusterId>(&known_cluster(host)).map_err(Problem::internal)?;
        let who = Who { question, mark, versions: SPOKEN, cluster };
        let joining = Joining::new(who, addresses(named, &address), told.join.is_empty(), 5 * told.swim.suspicion);

        let page = LeasePage::create(&host.config.run.join("lease")).map_err(Problem::internal)?;
        let found = page.read();

        let (orders, taken) = mpsc::unbounded_channel();
        let (news, heard) = mpsc::unbounded_channel();
        let roster = watch::Sender::new(Arc::new(Roster { me: me.clone(), joined: false, members: Vec::new() }));
        let (changes, board) = (watch::Sender::new(0), Arc::new(Board::default()));
        let members = SwimMembers::new(roster.subscribe(), changes.subscribe(), board.clone(), told.members.clone());
        let setup = Setup {
            me,
            swim: told.swim.clone(),
            seed: random::bytes().map_err(Problem::internal)?,
            joining,
            seeds,
            cluster,
            terms: told.terms,
            page,
        };
        let (hears, hears_voters) = watch::channel(true);
        let verdicts = broadcast::Sender::new(VERDICTS);
        let said = news.downgrade();
        let ends = Ends { orders: taken, news, roster, changes, board, hears_voters: hears, lapses: verdicts.clone() };
        let boot = BootId::random().map_err(Problem::internal)?;
        let (bound, is_bound) = std::sync::mpsc::channel();
        let node = host.node().clone();
        let keep = move || {
            let made = begin(listen, node, boot, keys, setup, ends);
            let (runtime, keeper) = match made {
                Ok(made) => made,
                Err(problem) => return drop(bound.send(Err(problem))),
            };
            if let Err(error) = rustix::process::nice(NICENESS) {
                tracing::info!(%error, "the keeper has no place before other threads");
            }
            let _ = bound.send(Ok(()));
            runtime.block_on(keeper.run());
        };
        std::thread::Builder::new().name("keeper".to_owned()).spawn(keep).map_err(Problem::internal)?;
        is_bound.recv().unwrap_or_else(|_| Err(Problem::internal("the keeper ended at once")))?;
        let this = Cluster {
            members: Arc::new(members),
            orders,
            hears_voters,
            found,
            lapsed: watch::Sender::default(),
            verdicts,
            own: watch::Sender::default(),
            namesake: watch::Sender::default(),
            news: said,
            left: AtomicBool::new(false),
        };
        Ok((this, heard))
    }
}

/// The keeper and the runtime that is its own.
fn begin(
    listen: SocketAddr,
    node: migrate_proto::name::NodeName,
    boot: BootId,
    keys: watch::Receiver<DatagramKeys>,
    setup: Setup,
    ends: Ends,
) -> Result<(tokio::runtime::Runtime, Keeper), Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Problem::internal)?;
    let within = runtime.enter();
    let socket = SealedSocket::bind(listen, node, boot, keys).map_err(Problem::internal)?;
    let keeper = Keeper::new(socket, setup, ends)?;
    drop(within);
    Ok((runtime, keeper))
}

impl Cluster {
    /// Tells the keeper something.
    pub fn order(&self, order: Order) {
        // An agent whose keeper has ended is about to end.
        let _ = self.orders.send(order);
    }

    /// Whether another voter was heard lately, where there is one.
    pub fn hears_voters(&self) -> watch::Receiver<bool> {
        self.hears_voters.clone()
    }

    /// What an earlier agent has left on the lease page.
    pub fn found_page(&self) -> Page {
        self.found
    }

    /// The lease of this node is over.
    pub fn note_lapse(&self, over: Lapsed) {
        tracing::info!(over = %over.claim, "the lease of this node is over");
        self.lapsed.send_replace(Some(over));
    }

    /// The last one that was over.
    pub fn lapses(&self) -> watch::Receiver<Option<Lapsed>> {
        self.lapsed.subscribe()
    }

    /// What voters say to this node where it leads and [asks](Order::Ask) them.
    pub fn verdicts(&self) -> broadcast::Receiver<Lapse> {
        self.verdicts.subscribe()
    }

    /// Those of these leases that the voter on this node has not heard of for as long as it promises.
    pub async fn quiet(&self, claims: Vec<Claim>) -> Vec<Claim> {
        let (answer, quiet) = oneshot::channel();
        self.order(Order::Quiet(claims, answer));
        quiet.await.unwrap_or_default()
    }

    /// How full this node is, once that is known.
    pub fn own_figures(&self) -> Option<Figures> {
        self.own.borrow().clone()
    }

    /// Tells everybody how full this node is.
    pub fn tell_figures(&self, figures: Figures) {
        self.own.send_replace(Some(figures.clone()));
        self.order(Order::Figures(Box::new(figures)));
    }

    /// Another node of this name was heard.
    pub fn note_namesake(&self) {
        self.namesake.send_replace(true);
    }

    /// Whether another node of this name was heard.
    pub fn namesakes(&self) -> watch::Receiver<bool> {
        self.namesake.subscribe()
    }

    /// This node must not be in the cluster: ends the agent.
    pub fn give_up(&self, problem: Problem) {
        if let Some(news) = self.news.upgrade() {
            let _ = news.send(News::GiveUp(problem));
        }
    }

    /// Whether it has said goodbye.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Says goodbye to the others.
    pub async fn leave(&self) {
        let (done, said) = oneshot::channel();
        self.left.store(true, Ordering::Relaxed);
        self.order(Order::Leave(done));
        let _ = tokio::time::timeout(GOODBYE, said).await;
    }
}

/// Where the number of the cluster is kept that this node belongs to, so that it does not join another by mistake.
fn known_cluster(host: &Host) -> PathBuf {
    host.config.state.join("cluster").join("id.json")
}

/// All but this node's own.
fn addresses<'a>(named: impl Iterator<Item = &'a str>, own: &str) -> BTreeSet<String> {
    named.filter(|address| *address != own).map(str::to_owned).collect()
}

/// Where the others reach this node.
fn own_address(host: &Host, told: &ClusterConfig, listen: SocketAddr) -> Result<String, Problem> {
    let said = told.advertise.as_deref().or_else(|| told.listed(host.node()));
    if let Some(said) = said {
        return Ok(said.to_owned());
    }
    if !listen.ip().is_unspecified() {
        return Ok(listen.to_string());
    }
    let towards = |target: &String| -> Option<SocketAddr> {
        let target = target.to_socket_addrs().ok()?.next()?;
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).ok()?;
        // Sends nothing: it only chooses the way.
        socket.connect(target).ok()?;
        Some(SocketAddr::new(socket.local_addr().ok()?.ip(), listen.port()))
    };
    let found = told.join.iter().find_map(towards).filter(|found| !found.ip().is_loopback());
    found.map(|found| found.to_string()).ok_or_else(|| {
        let what = format!("this node listens on {listen}, and it is not known under which address others reach it");
        Problem::new(Code::Usage, what).hint("say it with --advertise HOST:PORT")
    })
}
