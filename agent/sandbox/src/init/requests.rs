//! What PID 1 does for an agent.

use std::time::Instant;

use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::main_loop::{Connection, Keeper, MESSAGE_TIME};
use super::notify::Notify;
use super::spawn;
use crate::control::{Reply, Request, Status};
use crate::error::SandboxError;
use crate::wire;

/// Reads and answers one request. False where the connection is of no more use.
pub(super) fn serve(keeper: &mut Keeper, connection: &mut Connection) -> bool {
    let Ok(Some((request, descriptors))) =
        wire::receive_until::<Request>(&connection.stream, Instant::now() + MESSAGE_TIME)
    else {
        return false;
    };
    let reply = match request {
        Request::Watch => {
            connection.watches = true;
            match keeper.status {
                Status::Ended(_) => Reply::Status(keeper.status),
                // Answered when it happens.
                Status::Empty | Status::Running { .. } => return true,
            }
        }
        Request::Follow => {
            connection.follows = true;
            Reply::Leash(keeper.leash.state())
        }
        other => answer(keeper, other, descriptors).unwrap_or_else(refusal),
    };
    wire::send(&mut connection.stream, &reply, &[]).is_ok()
}

fn answer(
    keeper: &mut Keeper,
    request: Request,
    descriptors: Vec<std::os::fd::OwnedFd>,
) -> Result<Reply, SandboxError> {
    match request {
        Request::AttachLayer => {
            let Some(device) = descriptors.into_iter().next() else { return Err(protocol("no device came along")) };
            keeper.house.attach_layer(&device)?;
            keeper.notify = Notify::open();
        }
        Request::Start(command) => {
            if let Status::Running { .. } = keeper.status {
                return Err(protocol("there is a workload already"));
            }
            let held = || keeper.leash.holds();
            let Some(pid) = spawn::start(&command, descriptors, held)? else { return Ok(Reply::Held) };
            keeper.status = Status::Running { pid };
            return Ok(Reply::Status(keeper.status));
        }
        Request::Adopt { pid } => {
            kill(Pid::from_raw(pid), None).map_err(|_| protocol(&format!("there is no process {pid} to adopt")))?;
            keeper.status = Status::Running { pid };
        }
        Request::Signal { signal } => signal_workload(keeper.status, signal)?,
        Request::SetLastPid { pid } => {
            let path = "/proc/sys/kernel/ns_last_pid";
            std::fs::write(path, pid.to_string()).map_err(SandboxError::file("write", path))?;
        }
        Request::Arm { session, margin } => return keeper.leash.arm(session, margin).map(Reply::Leash),
        Request::Leash | Request::Follow => return Ok(Reply::Leash(keeper.leash.state())),
        Request::Status | Request::Watch => return Ok(Reply::Status(keeper.status)),
    }
    Ok(Reply::Done)
}

fn signal_workload(status: Status, signal: i32) -> Result<(), SandboxError> {
    let Status::Running { pid } = status else { return Err(protocol("nothing runs")) };
    send_signal(pid, signal).map_err(SandboxError::system("kill"))
}

/// Also real-time signals, for which nix has no name.
#[allow(unsafe_code)]
fn send_signal(pid: i32, signal: i32) -> std::io::Result<()> {
    // SAFETY: a plain call.
    if unsafe { libc::kill(pid, signal) } < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn refusal(error: SandboxError) -> Reply {
    match error {
        SandboxError::CannotExecute { reason, .. } => Reply::CannotExecute { reason },
        SandboxError::Init { step, reason } => Reply::Failed { step, reason },
        other => Reply::Failed { step: "do what was asked".into(), reason: other.to_string() },
    }
}

fn protocol(detail: &str) -> SandboxError {
    SandboxError::Protocol { who: "the agent", detail: detail.to_owned() }
}
