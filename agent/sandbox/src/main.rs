//! `migrate-init`: what lives in and beside a sandbox. Started by the agent and by CRIU, never by people.
//!
//! One small program in several roles, so that none of them depends on the agent's life or size:
//! `init` (PID 1 of a sandbox), `guard` (holds one CRIU call), `exec` (a command beside the workload), and, under the name
//! `gate`, CRIU's hook.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    if Path::new(&program).file_name().is_some_and(|name| name == "gate") {
        return migrate_sandbox::guard::gate();
    }
    migrate_sandbox::descriptors::give_back();
    let role = args.next().unwrap_or_default();
    match role.to_str() {
        Some("init") => migrate_sandbox::init::launch(),
        Some("guard") => migrate_sandbox::guard::serve(),
        Some("exec") => migrate_sandbox::errand::exec(),
        Some("--version") => {
            println!("migrate-init {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("migrate-init is started by migrate-agent and by CRIU; there is nothing in it for people.");
            ExitCode::from(2)
        }
    }
}
