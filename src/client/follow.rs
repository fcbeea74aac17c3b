//! A stream that outlives the agent that it came from: when that one is gone the same is asked of another, from where it broke.

use std::time::Duration;

use tokio::time::sleep;

use super::{Client, ClientError};
use crate::command::Session;

/// How long all agents are left alone when none answered.
const PAUSE: Duration = Duration::from_millis(300);

/// Whom a stream is asked of, and whether it has been said that one was lost.
pub(crate) struct Following<'a> {
    session: &'a Session,
    lost: bool,
}

impl<'a> Following<'a> {
    pub(crate) fn new(session: &'a Session) -> Following<'a> {
        Following { session, lost: false }
    }

    /// An agent that answers, as soon as there is one. The first time there has to be one.
    pub(crate) async fn agent(&mut self) -> Result<Client, ClientError> {
        loop {
            match self.session.agent().await {
                Ok(agent) => {
                    if std::mem::take(&mut self.lost) {
                        self.session.remarks.say(format_args!("going on with the agent at {}", agent.socket.display()));
                    }
                    return Ok(agent);
                }
                Err(failure) if failure.lost_the_agent() && self.lost => sleep(PAUSE).await,
                Err(failure) => return Err(failure),
            }
        }
    }

    /// The stream broke. Says so once, and waits a little; what is no fault of the agent's is an error.
    pub(crate) async fn broke(&mut self, failure: ClientError) -> Result<(), ClientError> {
        if !failure.lost_the_agent() {
            return Err(failure);
        }
        if !self.lost {
            self.session.remarks.say(format_args!("{failure}; looking for one that answers"));
            self.lost = true;
        }
        self.pause().await;
        Ok(())
    }

    /// Leaves everybody alone for a moment.
    pub(crate) async fn pause(&self) {
        sleep(PAUSE).await;
    }
}
