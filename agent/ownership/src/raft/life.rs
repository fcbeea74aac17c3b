//! From the start of a node to its stop: it finds its cluster, takes part, and begins anew when its store has failed.

use std::sync::Arc;
use std::time::Duration;

use migrate_proto::cluster::ClusterId;
use migrate_proto::cluster::lease::LogId;
use migrate_proto::cluster::record::Record;
use openraft::RaftMetrics;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::ask::Asker;
use super::formation::{Formation, Heard};
use super::hush::Hush;
use super::running::Running;
use super::{Shared, standing};
use crate::carrier::Whom;
use crate::ownership::{Standing, State};
use crate::store::Store;
use crate::types::Place;
use crate::wire::{Answer, Ask, Who};

/// How long one round of asking for a cluster takes at most, and how long until the next.
const ASK: Duration = Duration::from_millis(500);
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long a change of voters may stand between its two steps.
const HALFWAY: Duration = Duration::from_secs(2);
/// How long people are told of a node of another cluster.
const REMEMBER_STRANGER: Duration = Duration::from_secs(60);
/// How long the tasks of a raft that has ended may keep its file open.
const CLOSE: Duration = Duration::from_secs(10);

enum Ended {
    /// It was told to.
    Told,
    /// Why it could not go on.
    Failed(String),
}

/// All of a node's life.
pub(super) async fn live(shared: Arc<Shared>, store: Store) {
    let mut store = Some(store);
    loop {
        let opened = match store.take() {
            Some(store) => Ok(store),
            None => Store::open(&shared.setup.store, shared.setup.joiner.mark).await,
        };
        let ended = match opened {
            Ok(store) => take_part(&shared, store).await,
            Err(error) => Ended::Failed(error.to_string()),
        };
        shared.running.send_replace(None);
        match ended {
            Ended::Told => break shared.stand_still(None),
            Ended::Failed(reason) => {
                tracing::error!(%reason, "the record's store has failed; it is opened anew soon");
                shared.stand_still(Some(reason));
            }
        }
        tokio::select! {
            () = sleep(shared.setup.timing.reopen) => {}
            () = shared.told_to_stop() => break shared.stand_still(None),
        }
    }
}

async fn take_part(shared: &Arc<Shared>, mut store: Store) -> Ended {
    let closed = store.closed();
    let cluster = tokio::select! {
        formed = form(shared, &mut store) => match formed {
            Ok(cluster) => cluster,
            Err(reason) => return Ended::Failed(reason),
        },
        () = shared.told_to_stop() => return Ended::Told,
    };
    let asker = shared.asker(Some(cluster));
    let running = match Running::start(store, asker, cluster, &shared.setup.timing).await {
        Ok(running) => Arc::new(running),
        Err(fatal) => return Ended::Failed(fatal.to_string()),
    };
    shared.running.send_replace(Some(Arc::clone(&running)));
    let ended = tokio::select! {
        ended = shared.watch(&running) => ended,
        () = shared.settle_in(&running) => Ended::Told,
        () = shared.told_to_stop() => Ended::Told,
    };
    shared.running.send_replace(None);
    // Whether it ends well is of no interest any more; that it has ended is.
    let _ = running.raft.shutdown().await;
    drop(running);
    if timeout(CLOSE, closed.wait()).await.is_err() {
        tracing::warn!("the record's store is still open");
    }
    ended
}

/// The cluster that this node belongs to, once that is known.
async fn form(shared: &Arc<Shared>, store: &mut Store) -> Result<ClusterId, String> {
    let setup = &shared.setup;
    if let Some(cluster) = store.cluster().map_err(|error| error.to_string())? {
        return Ok(cluster);
    }
    loop {
        let heard = shared.who().await.into_iter().map(|who| (who.place.name, who.cluster)).collect::<Heard>();
        match setup.roots.decide(&setup.joiner.place.name, &heard) {
            Formation::Found => {
                let record = Record::new(setup.fresh, setup.policy.clone());
                store.found(record, setup.joiner.place.clone()).await.map_err(|error| error.to_string())?;
                tracing::info!(cluster = %setup.fresh, "a new cluster");
                return Ok(setup.fresh);
            }
            Formation::Join(cluster) => {
                store.join(cluster).await.map_err(|error| error.to_string())?;
                return Ok(cluster);
            }
            Formation::Wait(why) => shared.say(why),
        }
        sleep(ASK_AGAIN).await;
    }
}

impl Shared {
    pub(super) async fn told_to_stop(&self) {
        // The sender is here, so it is not gone.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    pub(super) fn asker(&self, cluster: Option<ClusterId>) -> Asker {
        Asker { carrier: Arc::clone(&self.carrier), me: self.id(), cluster }
    }

    /// Asks all that this node was told of who they are.
    pub(super) async fn who(&self) -> Vec<Who> {
        let roots = &self.setup.roots;
        let me = &self.setup.joiner.place.name;
        let members = roots.members.iter().filter(|place| place.name != *me);
        let members = members.map(|place| Whom { name: Some(place.name.clone()), address: place.address.clone() });
        let joined = roots.join.iter().map(|address| Whom { name: None, address: address.clone() });
        let mut asked = JoinSet::new();
        for whom in members.chain(joined) {
            let asker = self.asker(None);
            asked.spawn(async move { timeout(ASK, asker.ask(None, whom, Ask::Who, ASK)).await });
        }
        let mut answers = Vec::new();
        while let Some(answer) = asked.join_next().await {
            if let Ok(Ok(Ok(Answer::Who(who)))) = answer
                && who.id != self.id()
            {
                answers.push(who);
            }
        }
        answers
    }

    /// What a person should know.
    pub(super) fn say(&self, trouble: Option<String>) {
        self.trouble.send_if_modified(|said| {
            let new = *said != trouble;
            if new {
                if let Some(trouble) = &trouble {
                    tracing::warn!(trouble, "the cluster's record");
                }
                said.clone_from(&trouble);
            }
            new
        });
        self.stand(|standing| standing.trouble.clone_from(&self.trouble.borrow()));
    }

    fn stand(&self, change: impl FnOnce(&mut Standing)) {
        self.standing.send_if_modified(|standing| {
            let before = standing.clone();
            change(standing);
            *standing != before
        });
    }

    fn stand_still(&self, trouble: Option<String>) {
        self.stand(|standing| {
            (standing.state, standing.leads, standing.leader) = (State::Stopped, false, None);
            standing.trouble = trouble;
        });
    }

    /// Tells everybody how this node stands and what the record is, until raft ends.
    async fn watch(&self, running: &Arc<Running>) -> Ended {
        let (mut metrics, mut records) = (running.raft.metrics(), running.record.clone());
        let (mut trouble, mut stranger) = (self.trouble.subscribe(), self.stranger.subscribe());
        let mut may_lead = self.may_lead.subscribe();
        let wait = 2 * self.setup.timing.election_max;
        let (mut might, mut hush) = (false, Hush::begin(running, wait));
        let (mut said, mut halfway) = (Instant::now(), None);
        loop {
            let figures: RaftMetrics<u64, Place> = metrics.borrow_and_update().clone();
            if let Err(fatal) = &figures.running_state {
                return Ended::Failed(fatal.to_string());
            }
            let (mut now, until) = standing::standing(&figures, running.cluster, said, self.setup.timing.fresh);
            now.trouble = trouble.borrow_and_update().clone().or_else(|| warn_of(*stranger.borrow_and_update()));
            finish_change(running, &now, &mut halfway);
            give_way(running, &now, &figures);
            let may = *may_lead.borrow_and_update();
            if may && !might {
                hush = Hush::begin(running, wait);
            }
            might = may;
            running.may_lead(may && (now.is_sole_voter() || hush.is_over(running)));
            let overdue = running.candidacy.overdue();
            if overdue.is_some_and(|at| at <= Instant::now()) && now.votes() && now.state != State::Leader {
                running.stand_up();
            }
            self.stand(|standing| *standing = now);
            self.show(&records.borrow_and_update());
            let later = Instant::now() + HALFWAY / 2;
            let at = until.into_iter().chain([hush.until()]).chain(overdue);
            let look = at.filter(|at| *at > Instant::now()).fold(later, Instant::min);
            tokio::select! {
                changed = metrics.changed() => match changed {
                    Ok(()) => said = Instant::now(),
                    Err(_) => return Ended::Failed("raft has ended".to_owned()),
                },
                Ok(()) = records.changed() => {}
                Ok(()) = trouble.changed() => {}
                Ok(()) = stranger.changed() => {}
                Ok(()) = may_lead.changed() => {}
                () = sleep_until(look) => {}
            }
        }
    }
}

/// A leader that finds a change of voters halfway for long goes on with it: who began it is gone.
fn finish_change(running: &Running, standing: &Standing, halfway: &mut Option<(LogId, Instant)>) {
    let (config, now) = (standing.voters.config, Instant::now());
    match (&standing.voters.sets[..], *halfway) {
        ([_, last], Some((seen, since))) if standing.leads && seen == config => {
            if now.duration_since(since) >= HALFWAY {
                running.finish_change(last.iter().map(|voter| voter.0).collect());
                *halfway = Some((config, now));
            }
        }
        ([_, _], _) if standing.leads => *halfway = Some((config, now)),
        _ => *halfway = None,
    }
}

/// A leader that votes no more would lead on for ever: raft has no way to hand over. So it falls silent, and the voters elect another.
fn give_way(running: &Running, standing: &Standing, figures: &RaftMetrics<u64, Place>) {
    let decided = standing.voters.sets.len() == 1 && figures.last_applied >= *figures.membership_config.log_id();
    let over = standing.state == State::Leader && !standing.votes() && decided;
    running.raft.runtime_config().heartbeat(!over);
}

fn warn_of(stranger: Option<(ClusterId, Instant)>) -> Option<String> {
    let (cluster, at) = stranger?;
    let lately = at.elapsed() < REMEMBER_STRANGER;
    lately.then(|| format!("a node of another cluster, {cluster}, asks this one for its record: it is refused"))
}
