//! CRIU's hook (`--action-script`): tells the guard which hook it is, and ends as the guard says.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use super::{GATE_SOCKET, Hook};

/// Runs inside the sandbox, started by CRIU with its environment. Hooks that do not matter succeed at once; a guard that
/// does not answer means no.
pub fn gate() -> ExitCode {
    let name = std::env::var("CRTOOLS_SCRIPT_ACTION").unwrap_or_default();
    if Hook::parse(&name).is_none() {
        return ExitCode::SUCCESS;
    }
    match ask(&name) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the guard does not answer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask(name: &str) -> std::io::Result<bool> {
    let dir = std::env::var_os("CRTOOLS_IMAGE_DIR").unwrap_or_default();
    let mut guard = UnixStream::connect(Path::new(&dir).join(GATE_SOCKET))?;
    guard.write_all(format!("{name}\n").as_bytes())?;
    let mut answer = [0u8];
    guard.read_exact(&mut answer)?;
    Ok(answer[0] == b'y')
}
