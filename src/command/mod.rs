//! One function for each command: ask, show, and the exit code.

pub(crate) mod checking;
pub(crate) mod checkpoints;
pub(crate) mod cluster;
pub(crate) mod key;
pub(crate) mod logs;
pub(crate) mod moving;
pub(crate) mod streams;
pub(crate) mod ways_back;
pub(crate) mod workloads;

use std::time::Duration;

use migrate_proto::api::{MoveRequest, RestoreRequest};

use crate::cli::cluster::NodesCommand;
use crate::cli::key::KeyCommand;
use crate::cli::{Cli, Command, Everywhere};
use crate::client::choose::Asked;
use crate::client::{Client, ClientError};
use crate::failure::Failure;
use crate::lab;
use crate::show::remark::Remarks;
use crate::show::style::Style;

/// What every command needs.
pub(crate) struct Session {
    /// What was typed about whom to ask and how to answer.
    pub(crate) everywhere: Everywhere,
    /// For stderr.
    pub(crate) remarks: Remarks,
    /// Of stdout.
    pub(crate) style: Style,
}

impl Session {
    /// The agent to ask.
    pub(crate) async fn agent(&self) -> Result<Client, ClientError> {
        let asked = Asked {
            socket: self.everywhere.socket.clone(),
            socket_of_environment: std::env::var_os("MIGRATE_SOCKET").filter(|path| !path.is_empty()).map(Into::into),
            node: self.everywhere.node.clone(),
            limit: self.everywhere.timeout,
        };
        asked.choose(&self.remarks).await
    }

    /// Does `work` within `--timeout`.
    pub(crate) async fn in_time<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        match self.everywhere.timeout {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or(Err(Failure::TimedOut)),
        }
    }

    /// Waits for `work` on a runtime of its own. The runtime is not waited for: a thread may still sit in a read.
    pub(crate) fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
        let done = runtime.block_on(work);
        runtime.shutdown_timeout(Duration::ZERO);
        Ok(done)
    }
}

/// Does what was typed; the exit code.
pub(crate) fn run(cli: Cli, remarks: Remarks) -> Result<u8, Failure> {
    let style = Style::of_stdout(cli.everywhere.color);
    let session = Session { everywhere: cli.everywhere, remarks, style };
    match (cli.forced.force, cli.command) {
        (Some(_), Some(_)) => Err(Failure::ForceWithCommand),
        (Some(name), None) => {
            let mode = cli.forced.mode.map(Into::into).unwrap_or_default();
            let request = MoveRequest { to: cli.forced.to, mode, force: true };
            session.wait(moving::migrate(&session, name, request))?
        }
        (None, Some(Command::Lab(command))) => lab::run(&session, command),
        (None, Some(Command::LabSwitch(options))) => Ok(lab::switch::be_switch(&options.lab).map(|()| 0)?),
        (None, Some(Command::LabNode(options))) if options.inside => {
            Ok(lab::node::be_node(&options.lab, &options.name).map(|()| 0)?)
        }
        (None, Some(Command::LabNode(options))) => Ok(lab::node::enter(&options.lab, &options.name).map(|()| 0)?),
        (None, Some(Command::Key(KeyCommand::New { file }))) => key::new(&session, &file),
        (None, Some(command)) => session.wait(ask(&session, command))?,
        (None, None) => Ok(0),
    }
}

/// The commands that ask an agent.
async fn ask(session: &Session, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Run(options) => workloads::run(session, &options).await,
        Command::Ps { names } => workloads::list(session, &names).await,
        Command::Stop { grace, name } => workloads::stop(session, &name, grace).await,
        Command::Start { name } => workloads::start(session, &name).await,
        Command::Rm { force, name } => workloads::remove(session, &name, force).await,
        Command::Logs { follow, tail, name } => logs::logs(session, &name, follow, tail).await,
        Command::Exec { no_stdin, name, argv } => streams::exec(session, &name, &argv, !no_stdin).await,
        Command::Move { name, to, mode } => {
            moving::migrate(session, Some(name), MoveRequest { to, mode: mode.into(), force: false }).await
        }
        Command::Key(KeyCommand::Rotate(options)) => key::rotation::rotate(session, &options).await,
        Command::Check { name, to } => checking::check(session, &name, to.as_ref()).await,
        Command::Why { name } => checking::why(session, &name).await,
        Command::Checkpoint { name } => checkpoints::take(session, &name).await,
        Command::Checkpoints { prove, name } => checkpoints::list(session, name.as_ref(), prove).await,
        Command::Restore { checkpoint, as_new, on, force, name } => {
            checkpoints::restore(session, &name, on, RestoreRequest { checkpoint, r#as: as_new, force }).await
        }
        Command::Nodes { command: None } => cluster::nodes(session).await,
        Command::Nodes { command: Some(NodesCommand::Forget { lost }) } => ways_back::forget(session, &lost).await,
        Command::Cluster(command) => ways_back::cluster(session, &command).await,
        Command::Drain { deadline, drained } => cluster::drain(session, &drained, deadline).await,
        Command::Undrain { drained } => cluster::undrain(session, &drained).await,
        Command::Events { follow, since } => cluster::events(session, follow, since).await,
        other => Err(Failure::NotThereYet { what: not_there_yet(&other) }),
    }
}

fn not_there_yet(command: &Command) -> &'static str {
    match command {
        Command::Top(_) => "top",
        Command::Simulate(_) => "simulate",
        _ => "this command",
    }
}
