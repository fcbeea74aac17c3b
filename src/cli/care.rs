//! What `migrate run` may ask to be done when a workload ends, hangs or is ill.

use std::time::Duration;

use clap::Args;
use migrate_proto::care::restart::Policy;
use migrate_proto::care::{Page, Timing, Watch, Wish};
use migrate_proto::error::Problem;
use thiserror::Error;

use super::quantity;

/// Options of `migrate run` about restarts and health.
#[derive(Debug, Args)]
pub(super) struct CareOptions {
    /// What happens when it ends [default: no]
    #[arg(long, value_name = "no|on-failure[:N]|always|unless-stopped")]
    restart: Option<Policy>,
    /// It is well while this, run by a shell in its sandbox, ends with code 0
    #[arg(long, value_name = "CMD", group = "watch")]
    health_cmd: Option<String>,
    /// It is well while it takes connections at this port
    #[arg(long, value_name = "PORT", group = "watch")]
    health_tcp: Option<u16>,
    /// It is well while this page of it is answered with a status from 200 to 399
    #[arg(long, value_name = "URL", group = "watch")]
    health_http: Option<String>,
    /// It hangs unless it touches $MIGRATE_PULSE, or notifies WATCHDOG=1, this often
    #[arg(long, value_name = "DUR", group = "watch", value_parser = quantity::duration)]
    pulse: Option<Duration>,
    /// From one question after its health to the next [default: 30s]
    #[arg(long, value_name = "DUR", value_parser = quantity::duration)]
    health_interval: Option<Duration>,
    /// How long it may take to answer [default: 10s]
    #[arg(long, value_name = "DUR", value_parser = quantity::duration)]
    health_timeout: Option<Duration>,
    /// How many failures in a row make it unhealthy [default: 3]
    #[arg(long, value_name = "N")]
    health_retries: Option<u32>,
    /// How long after its start, or a move, failures do not count [default: 10s]
    #[arg(long, value_name = "DUR", value_parser = quantity::duration)]
    health_grace: Option<Duration>,
    /// Take a checkpoint of it this often
    #[arg(long, value_name = "DUR", value_parser = quantity::duration)]
    checkpoint_every: Option<Duration>,
}

/// Why it cannot be asked for.
#[derive(Debug, Error)]
pub(crate) enum CareError {
    #[error("{0}")]
    NoSense(Problem),
    #[error("{option} does nothing without {needs}")]
    Idle { option: &'static str, needs: &'static str },
    #[error("a NUL byte in --health-cmd")]
    Nul,
}

impl CareOptions {
    /// What is wished for.
    pub(super) fn wish(&self) -> Result<Wish, CareError> {
        let watch = self.watch()?;
        let usual = Timing::default();
        let timing = Timing {
            interval_ms: self.health_interval.map_or(usual.interval_ms, milliseconds),
            timeout_ms: self.health_timeout.map_or(usual.timeout_ms, milliseconds),
            retries: self.health_retries.unwrap_or(usual.retries),
            grace_ms: self.health_grace.map_or(usual.grace_ms, milliseconds),
        };
        self.refuse_what_does_nothing(watch.as_ref())?;
        let restart = self.restart.unwrap_or_default();
        let checkpoint_every_ms = self.checkpoint_every.map(milliseconds);
        let wish = Wish { restart, watch, timing, checkpoint_every_ms };
        wish.check().map_err(CareError::NoSense)?;
        Ok(wish)
    }

    fn watch(&self) -> Result<Option<Watch>, CareError> {
        if let Some(command) = &self.health_cmd {
            let words = ["/bin/sh", "-c", command.as_str()]
                .map(|word| migrate_proto::text::Text::new(word).ok_or(CareError::Nul));
            return Ok(Some(Watch::Command(words.into_iter().collect::<Result<_, _>>()?)));
        }
        if let Some(url) = &self.health_http {
            return Ok(Some(Watch::Http(Page::parse(url).map_err(CareError::NoSense)?)));
        }
        Ok(self.health_tcp.map(Watch::Tcp).or(self.pulse.map(milliseconds).map(Watch::Pulse)))
    }

    /// Nothing typed is silently ignored.
    fn refuse_what_does_nothing(&self, watch: Option<&Watch>) -> Result<(), CareError> {
        let asks = matches!(watch, Some(Watch::Command(_) | Watch::Tcp(_) | Watch::Http(_)));
        let probe = "--health-cmd, --health-tcp or --health-http";
        for (option, given, works, needs) in [
            ("--health-interval", self.health_interval.is_some(), asks, probe),
            ("--health-timeout", self.health_timeout.is_some(), asks, probe),
            ("--health-retries", self.health_retries.is_some(), asks, probe),
            ("--health-grace", self.health_grace.is_some(), watch.is_some(), "a health check or --pulse"),
        ] {
            if given && !works {
                return Err(CareError::Idle { option, needs });
            }
        }
        Ok(())
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        care: CareOptions,
    }

    fn wish(words: &[&str]) -> Result<Wish, String> {
        let only = Only::try_parse_from([&["run"], words].concat()).map_err(|error| error.to_string())?;
        only.care.wish().map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_typed_is_what_is_wished_for() {
        assert_eq!(wish(&[]), Ok(Wish::default()));
        assert!(wish(&[]).unwrap().is_nothing());
        let command = wish(&["--health-cmd", "curl -f x", "--health-interval", "5s", "--health-retries", "1"]).unwrap();
        assert_eq!(command.watch, Some(Watch::Command(vec!["/bin/sh".into(), "-c".into(), "curl -f x".into()])));
        assert_eq!(command.timing, Timing { interval_ms: 5000, retries: 1, ..Timing::default() });
        let pulse = wish(&["--restart", "on-failure:3", "--pulse", "1.5s", "--health-grace", "0s"]).unwrap();
        assert_eq!((pulse.restart, pulse.pulse_ms()), (Policy::OnFailure(Some(3)), Some(1500)));
        let page = Page { host: "localhost".to_owned(), port: 80, path: "/".to_owned() };
        assert_eq!(wish(&["--health-http", "http://localhost"]).unwrap().watch, Some(Watch::Http(page)));
        assert_eq!(wish(&["--checkpoint-every", "10s"]).unwrap().checkpoint_every_ms, Some(10_000));
        assert_eq!(wish(&["--health-tcp", "22"]).unwrap().watch, Some(Watch::Tcp(22)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_name() {
        for (words, named) in [
            (&["--restart", "sometimes"][..], "--restart"),
            (&["--pulse", "1s", "--health-tcp", "1"], "--health-tcp"),
            (&["--pulse", "1ms"], "pulse"),
            (&["--health-tcp", "0"], "port 0"),
            (&["--health-tcp", "65536"], "--health-tcp"),
            (&["--health-http", "https://localhost/"], "http://"),
            (&["--health-interval", "1s"], "--health-interval"),
            (&["--pulse", "1s", "--health-retries", "3"], "--health-retries"),
            (&["--health-grace", "1s"], "--health-grace"),
            (&["--health-cmd", "true", "--health-retries", "0"], "retries"),
        ] {
            let why = wish(words).unwrap_err();
            assert!(why.contains(named), "{words:?}: {why}");
        }
    }
}
