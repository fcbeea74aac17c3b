//! What this node is and has: the things that every part of the agent needs to know, gathered once at the start.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use migrate_criu::probe::Capabilities;
use migrate_depot::{Address, Depot};
use migrate_image::vault::Broken;
use migrate_proto::error::{Code, Problem};
use migrate_proto::message::AgentFacts;
use migrate_proto::name::NodeName;
use migrate_sandbox::cgroup::Cgroup;

use crate::checkpoint::Checkpoints;
use crate::cluster::ways_back::Founding;
use crate::config::Config;
use crate::events::{EventLog, Kind};
use crate::predict::Forecasts;
use crate::tenure::Tenure;

/// This node.
pub struct Host {
    /// As it was configured.
    pub config: Config,
    /// What has happened here.
    pub events: EventLog,
    /// The program that lives in sandboxes.
    pub init_program: PathBuf,
    /// CRIU, or why there is none, once that was looked at.
    criu: OnceLock<Result<Capabilities, Problem>>,
    /// The kernel's release.
    pub kernel: String,
    /// What was learned about how long moves take.
    pub forecasts: Forecasts,
    /// By which right workloads run here.
    pub tenure: Tenure,
    /// Where a new cluster can be begun.
    pub founding: Founding,
    /// The checkpoints of workloads.
    checkpoints: OnceLock<Checkpoints>,
    sandboxes_made: AtomicU64,
}

impl Host {
    /// Looks around.
    pub fn new(config: Config, events: EventLog) -> Result<Host, Problem> {
        let kernel = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
        let forecasts = Forecasts::open(&config.state);
        let tenure =
            config.cluster.as_ref().map_or_else(Tenure::unbound, |cluster| Tenure::of_member(cluster.freeze_margin()));
        Ok(Host {
            forecasts,
            tenure,
            founding: Founding::new(),
            checkpoints: OnceLock::new(),
            config,
            events,
            init_program: init_program()?,
            criu: OnceLock::new(),
            kernel,
            sandboxes_made: AtomicU64::new(0),
        })
    }

    /// The checkpoints of workloads; opened when they are first asked for. Blocks then, and must not be before it is clear that no other
    /// agent has this state directory.
    pub fn checkpoints(&self) -> &Checkpoints {
        self.checkpoints.get_or_init(|| {
            let at = |address: &Address| Depot::at(address.clone(), self.config.depot_credentials.clone());
            let depots = self.config.depots.iter().map(at).collect();
            let (checkpoints, broken) = Checkpoints::open(&self.config.state, self.config.keeping, depots);
            for Broken { path, workload, what } in broken {
                let what = format!("a checkpoint cannot be used, {}: {what}", path.display());
                self.events.record(Kind::Warning, Some(&workload), None, what);
            }
            checkpoints
        })
    }

    /// This node's name.
    pub fn node(&self) -> &NodeName {
        &self.config.node
    }

    /// What this agent says about itself to others.
    pub fn facts(&self) -> AgentFacts {
        AgentFacts {
            node: self.node().clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            criu_version: self.criu_version(),
            kernel: self.kernel.clone(),
        }
    }

    /// CRIU's version, where there is one.
    pub fn criu_version(&self) -> Option<String> {
        self.criu().ok().map(|criu| criu.version.to_string())
    }

    /// CRIU, which moving needs.
    pub fn criu(&self) -> Result<&Capabilities, Problem> {
        let looked = || Problem::new(Code::Busy, "whether CRIU works here is just being looked at").hint("try again");
        self.criu.get().ok_or_else(looked)?.as_ref().map_err(Clone::clone)
    }

    /// What there is of CRIU. The first word counts: nothing is moved before it.
    pub fn set_criu(&self, criu: Result<Capabilities, Problem>) {
        let _ = self.criu.set(criu);
    }

    /// The directory below which CRIU's program and libraries lie, if they lie in one of their own.
    pub fn criu_prefix(&self) -> Option<PathBuf> {
        let criu = self.criu().ok()?;
        let prefix = criu.path.parent()?.parent()?;
        (prefix != Path::new("/usr") && prefix != Path::new("/")).then(|| prefix.to_owned())
    }

    /// The control groups of a workload.
    pub fn cgroup(&self, name: &str) -> Result<Cgroup, Problem> {
        Cgroup::create(&self.config.cgroup.to_string_lossy(), name)
            .map_err(|error| Problem::new(Code::Internal, error.to_string()))
    }

    /// Where sandboxes have their directories.
    pub fn sandboxes(&self) -> PathBuf {
        self.config.run.join("sandboxes")
    }

    /// Where images of arriving workloads are kept.
    pub fn images(&self) -> PathBuf {
        self.config.run.join("images")
    }

    /// A new, empty directory for a sandbox.
    pub fn sandbox_dir(&self, name: &str) -> std::io::Result<PathBuf> {
        let parent = self.sandboxes();
        std::fs::create_dir_all(&parent)?;
        loop {
            let dir = parent.join(format!("{name}.{}", self.sandboxes_made.fetch_add(1, Ordering::Relaxed)));
            match std::fs::create_dir(&dir) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => return other.map(|()| dir),
            }
        }
    }

    /// Paths that no workload may see.
    pub fn hidden(&self) -> Vec<PathBuf> {
        let mut hidden = self.config.hide.clone();
        hidden.extend([self.config.state.clone(), self.config.run.clone()]);
        hidden.extend([&self.config.key, &self.config.socket].map(|file| self.out_of_sight(file)));
        hidden.extend(self.config.depot_credentials.iter().map(|file| self.out_of_sight(file)));
        hidden.extend(self.config.depots.iter().filter_map(Address::dir).map(Path::to_owned));
        hidden
    }

    /// What has to be hidden so that a file is: where possible its directory, since a file that takes its place later would
    /// be in sight again. A directory at the top holds other things too, and CRIU's has to be seen.
    fn out_of_sight(&self, file: &Path) -> PathBuf {
        let real = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        let criu = self.criu().ok().map(|criu| criu.path.clone());
        let directory = real.parent().filter(|directory| directory.components().count() > 2);
        let spared = |directory: &&Path| !criu.is_some_and(|criu| criu.starts_with(directory));
        directory.filter(spared).map_or(real.clone(), Path::to_owned)
    }
}

/// `migrate-init` lies beside this program.
fn init_program() -> Result<PathBuf, Problem> {
    let missing = |why: String| {
        Problem::new(Code::Internal, format!("cannot find migrate-init: {why}")).hint("it belongs beside migrate-agent")
    };
    let own = std::fs::read_link("/proc/self/exe").map_err(|error| missing(error.to_string()))?;
    let path = own.with_file_name("migrate-init");
    if path.is_file() { Ok(path) } else { Err(missing(format!("there is no {}", path.display()))) }
}
