//! How a process is called in what people read.

use std::fs;

use migrate_sandbox::process::inner_pid;

/// Its name, and the PID by which people in the sandbox know it.
pub(super) fn name(pid: i32) -> String {
    let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let shown = String::from_utf8_lossy(comm.trim_ascii_end()).escape_debug().to_string();
    let shown = if shown.is_empty() { "a process".to_owned() } else { shown };
    format!("{shown} (PID {})", inner_pid(pid).unwrap_or(pid))
}
