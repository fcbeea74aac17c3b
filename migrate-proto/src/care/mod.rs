//! What is done about a workload that ends, hangs or is ill: pure. Executed by the agent's `care`.
//!
//! - [`restart`]: when a workload that has ended is begun again, and when that is given up.
//! - [`health`]: from the results of probes, or from pulses, to whether it is well.
//! - [`retain`]: which checkpoints are kept. [`prove`]: which of them is restored for a test, and when. [`trust`]: which were taken while the workload
//!   was well.
//! - [`Wish`] is what a person asked for, [`Chart`] what has become of it. The chart is durable on the workload's node, and moves with it.

pub mod health;
pub mod prove;
pub mod restart;
pub mod retain;
pub mod trust;

use serde::{Deserialize, Serialize};

use crate::error::{Code, Problem};
use crate::text::Text;
use health::Word;
use restart::{Past, Policy};

/// No shorter time makes sense where programs are started to ask: milliseconds.
const SHORTEST_MS: u64 = 100;
/// Each has the workload stand still for a moment: milliseconds.
const MOST_OFTEN_MS: u64 = 1000;
/// A day, in milliseconds: no health check is rarer.
const LONGEST_MS: u64 = 24 * 3600 * 1000;
/// More failures than that in a row are a mistake in the command line.
const MOST_RETRIES: u32 = 1000;
/// How long a reason may be that is kept and travels.
const LONGEST_REASON: usize = 300;

/// What a person wants to be done for a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// Whether it is begun again when it has ended.
    #[serde(default)]
    pub restart: Policy,
    /// How it is known to be well; not at all where absent.
    #[serde(default)]
    pub watch: Option<Watch>,
    /// When it is asked, and how patiently.
    #[serde(default)]
    pub timing: Timing,
    /// How often a checkpoint of it is taken, in milliseconds; never where absent.
    #[serde(default)]
    pub checkpoint_every_ms: Option<u64>,
}

/// How a workload is known to be well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Watch {
    /// A command beside it ends with code 0.
    Command(Vec<Text>),
    /// A TCP connection to this port of its own network is accepted.
    Tcp(u16),
    /// A GET is answered with a status from 200 to 399.
    Http(Page),
    /// It gives a sign of life at least this often, in milliseconds.
    Pulse(u64),
}

/// A page of a workload, as it is asked for inside its own network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// An address, or `localhost`.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Path and query; begins with a slash.
    pub path: String,
}

/// When health is asked for, and how patiently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// From the end of a probe to the next.
    pub interval_ms: u64,
    /// How long a probe may take.
    pub timeout_ms: u64,
    /// How many failures in a row make it unhealthy.
    pub retries: u32,
    /// How long after the start failures do not count.
    pub grace_ms: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing { interval_ms: 30_000, timeout_ms: 10_000, retries: 3, grace_ms: 10_000 }
    }
}

impl Wish {
    /// Whether there is anything to do.
    pub fn is_nothing(&self) -> bool {
        self.restart == Policy::No && self.watch.is_none() && self.checkpoint_every_ms.is_none()
    }

    /// How often it has to give a sign of life, where it has to.
    pub fn pulse_ms(&self) -> Option<u64> {
        match self.watch {
            Some(Watch::Pulse(period_ms)) => Some(period_ms),
            _ => None,
        }
    }

    /// Whether it makes sense.
    pub fn check(&self) -> Result<(), Problem> {
        let refuse = |what: String| Err(Problem::new(Code::Usage, what));
        let Timing { interval_ms, timeout_ms, retries, grace_ms } = self.timing;
        for (what, ms) in [("interval", interval_ms), ("time-out", timeout_ms)] {
            if !(SHORTEST_MS..=LONGEST_MS).contains(&ms) {
                return refuse(format!("the health {what} of {ms} ms is not between 100 ms and a day"));
            }
        }
        if grace_ms > LONGEST_MS {
            return refuse(format!("the health grace of {grace_ms} ms is longer than a day"));
        }
        if !(1..=MOST_RETRIES).contains(&retries) {
            return refuse(format!("{retries} health retries are not between 1 and {MOST_RETRIES}"));
        }
        if let Some(ms) = self.checkpoint_every_ms.filter(|ms| !(MOST_OFTEN_MS..=LONGEST_MS).contains(ms)) {
            return refuse(format!("a checkpoint every {ms} ms is not between one a second and one a day"));
        }
        match &self.watch {
            Some(Watch::Pulse(ms)) if !(SHORTEST_MS..=LONGEST_MS).contains(ms) => {
                refuse(format!("the pulse of {ms} ms is not between 100 ms and a day"))
            }
            Some(Watch::Command(argv)) if argv.is_empty() => refuse("the health command is empty".to_owned()),
            Some(Watch::Tcp(0)) => refuse("there is no port 0 to connect to".to_owned()),
            Some(Watch::Http(page)) => page.check(),
            _ => Ok(()),
        }
    }
}

impl Page {
    /// Reads `http://HOST[:PORT][/PATH]`. The host is an address or `localhost`: no name is looked up.
    pub fn parse(url: &str) -> Result<Page, Problem> {
        let refuse = |why: &str| Problem::new(Code::Usage, format!("'{}' {why}", url.escape_debug()));
        let rest = url.strip_prefix("http://").ok_or_else(|| refuse("does not begin with http://"))?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            // An address in brackets has colons of its own.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| refuse("has no such port"))?),
            _ => (authority, 80),
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let page = Page { host, port, path };
        page.check().map(|()| page)
    }

    /// Whether it can be asked for without a name server, and without a second line in the request.
    fn check(&self) -> Result<(), Problem> {
        let refuse = |why: &str| Err(Problem::new(Code::Usage, format!("the health page: {why}")));
        if self.host != "localhost" && self.host.parse::<core::net::IpAddr>().is_err() {
            return refuse("its host is neither an address nor localhost; no name is looked up");
        }
        if self.port == 0 {
            return refuse("there is no port 0 to connect to");
        }
        if !self.path.starts_with('/') || !self.path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refuse("its path has blanks or other characters that have to be written as %XX");
        }
        Ok(())
    }
}

/// What is known of a workload's care: durable, and moves with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chart {
    /// What was asked for.
    #[serde(default)]
    pub wish: Wish,
    /// A person has stopped it: it is not begun again because it has ended.
    #[serde(default)]
    pub held: bool,
    /// How it has ended and was begun again.
    #[serde(default)]
    pub past: Past,
    /// Whether it was well when it was last asked.
    #[serde(default)]
    pub health: Word,
    /// Why it is not well, where it is not.
    #[serde(default)]
    pub ill: Option<String>,
}

impl Chart {
    /// Of a new workload.
    pub fn new(wish: Wish) -> Chart {
        let health = if wish.watch.is_some() { Word::Starting } else { Word::None };
        Chart { wish, health, ..Chart::default() }
    }

    /// What is to be known before it is begun anew: how it was has ended with its processes.
    pub fn begin(&mut self) {
        *self = Chart { past: std::mem::take(&mut self.past), ..Chart::new(std::mem::take(&mut self.wish)) };
    }

    /// As it came from another node: nothing in it may be longer than it can become here.
    pub fn check(&self) -> Result<(), Problem> {
        let bounded = self.past.is_bounded() && self.ill.as_ref().is_none_or(|why| why.len() <= LONGEST_REASON * 2);
        if bounded {
            self.wish.check()
        } else {
            Err(Problem::new(Code::Corrupt, "what is known of its restarts is odd"))
        }
    }

    /// What to do about a workload that is [`Word::Unhealthy`] or [`Word::Hung`]: whether it is ended, to be begun again.
    pub fn is_ended_when_ill(&self) -> bool {
        self.wish.restart != Policy::No
    }
}

/// Words that are kept and travel are short.
pub fn shorten(why: &str) -> String {
    let mut short: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() > LONGEST_REASON {
        short.truncate(short.floor_char_boundary(LONGEST_REASON));
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn page(host: &str, port: u16, path: &str) -> Page {
        Page { host: host.to_owned(), port, path: path.to_owned() }
    }

    #[test]
    fn pages_are_read_as_people_type_them() {
        for (url, expected) in [
            ("http://localhost", page("localhost", 80, "/")),
            ("http://127.0.0.1:8080/health?deep=1", page("127.0.0.1", 8080, "/health?deep=1")),
            ("http://[::1]:8080/", page("::1", 8080, "/")),
            ("http://[::1]", page("::1", 80, "/")),
            ("http://10.0.0.1?x", page("10.0.0.1", 80, "/?x")),
        ] {
            assert_eq!(Page::parse(url).unwrap(), expected, "{url}");
        }
        for url in [
            "https://localhost/",
            "localhost",
            "http://",
            "http://example.org/",
            "http://localhost:0/",
            "http://localhost:65536/",
            "http://localhost:/",
            "http://localhost/a b",
            "http://localhost/\r\nHost: other",
            "http://user@localhost/",
        ] {
            assert!(Page::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let with = |watch| Wish { watch: Some(watch), ..Wish::default() };
        let timed = |timing| Wish { timing, ..Wish::default() };
        let usual = Timing::default();
        for good in
            [Wish::default(), with(Watch::Pulse(100)), with(Watch::Tcp(1)), timed(Timing { grace_ms: 0, ..usual })]
        {
            assert_eq!(good.check(), Ok(()), "{good:?}");
        }
        for bad in [
            with(Watch::Pulse(99)),
            with(Watch::Pulse(LONGEST_MS + 1)),
            with(Watch::Tcp(0)),
            with(Watch::Command(Vec::new())),
            with(Watch::Http(page("localhost", 1, "health"))),
            timed(Timing { interval_ms: 0, ..usual }),
            timed(Timing { timeout_ms: 99, ..usual }),
            timed(Timing { retries: 0, ..usual }),
            timed(Timing { retries: MOST_RETRIES + 1, ..usual }),
            timed(Timing { grace_ms: u64::MAX, ..usual }),
            Wish { checkpoint_every_ms: Some(999), ..Wish::default() },
            Wish { checkpoint_every_ms: Some(LONGEST_MS + 1), ..Wish::default() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_chart_reads_what_it_wrote_and_what_is_missing_is_usual() {
        let wish = Wish { restart: Policy::OnFailure(Some(3)), watch: Some(Watch::Tcp(80)), ..Wish::default() };
        let chart = Chart::new(wish);
        let text = serde_json::to_string(&chart).unwrap();
        assert_eq!(serde_json::from_str::<Chart>(&text).unwrap(), chart);
        assert_eq!(serde_json::from_str::<Chart>("{}").unwrap(), Chart::default());
        assert!(serde_json::from_str::<Wish>(r#"{"restart":"sometimes"}"#).is_err());
    }

    #[test]
    fn who_begins_anew_keeps_its_past_and_nothing_else() {
        let wish = Wish { restart: Policy::Always, watch: Some(Watch::Pulse(1000)), ..Wish::default() };
        let mut chart = Chart::new(wish);
        chart.past.restarts = 4;
        let fresh = chart.clone();
        (chart.held, chart.health, chart.ill) = (true, Word::Hung, Some("no pulse".to_owned()));
        chart.begin();
        assert_eq!(chart, fresh);
    }

    #[test]
    fn what_a_peer_sends_is_bounded() {
        let mut chart = Chart::default();
        assert_eq!(chart.check(), Ok(()));
        chart.ill = Some("x".repeat(LONGEST_REASON * 2 + 1));
        assert!(chart.check().is_err());
        chart.ill = Some(shorten(&"ü\n".repeat(LONGEST_REASON)));
        assert_eq!(chart.check(), Ok(()));
        chart.past = serde_json::from_value(serde_json::json!({ "ends": vec![0; 100] })).unwrap();
        assert!(chart.check().is_err());
    }
}
