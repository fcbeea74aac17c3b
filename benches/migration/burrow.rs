//! A PID and mount namespace with one observed process in it, moved by bare CRIU: what a person could do without migrate.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::lab::run;
use crate::observer::{self, Observer};

/// The namespaces' PID 1: the shell waits for whatever child ends, so there are no zombies, in whose way CRIU would be.
const INIT: &str = "while :; do sleep 3600; done";

/// Leaves a process behind that is nobody's child but init's, a session of its own, with nothing open but its output: a stray
/// descriptor, inherited from whoever runs this, would break the dump.
const LAUNCH: &str = r#"
for fd in /proc/self/fd/*; do
    fd=${fd##*/}
    if ((fd > 2)); then eval "exec $fd>&-"; fi
done
setsid "$@" </dev/null >"$OUTPUT" 2>&1 &
echo $!"#;

/// The namespaces and the process; both end when this is dropped, or this program dies.
pub(crate) struct Burrow {
    holder: Child,
    /// PID 1 of the namespace, as the host sees it.
    init: String,
    /// The process, as the namespace sees it.
    process: String,
    output: PathBuf,
    criu: PathBuf,
}

impl Burrow {
    /// Digs it, and starts `argv` in it; what that writes goes to a file in `place`.
    pub(crate) fn dig(place: &Path, criu: &Path, argv: &[&str]) -> Result<Burrow> {
        let output = place.join("output");
        File::create(&output).with_context(|| format!("making {}", output.display()))?;
        let holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"])
            .args(["sh", "-c", INIT])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting unshare")?;
        let mut burrow = Burrow { holder, init: String::new(), process: String::new(), output, criu: criu.to_owned() };
        let children = format!("/proc/{0}/task/{0}/children", burrow.holder.id());
        // PID 1 has become the shell when the namespace's /proc is there.
        burrow.init = observer::wait(|| {
            let init = std::fs::read_to_string(&children)?.trim().to_owned();
            let is_shell = std::fs::read_to_string(format!("/proc/{init}/comm")).is_ok_and(|name| name.trim() == "sh");
            Ok(is_shell.then_some(init))
        })?;
        let pid = run(burrow.inside("bash").args(["-c", LAUNCH, "bash"]).args(argv).env("OUTPUT", &burrow.output))?;
        burrow.process = pid.trim().to_owned();
        Ok(burrow)
    }

    /// A command in the namespaces.
    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init, "--pid", "--mount", "--", program]);
        command
    }

    /// What the process has written.
    pub(crate) fn output(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.output)?)
    }

    /// The observer of its process, once that is ready.
    pub(crate) fn observer(&self) -> Result<Observer> {
        Observer::ready(|| self.output())
    }

    /// Dumps and restores it, as fast as CRIU alone can: one command line, images below `images`, a new directory.
    pub(crate) fn dump_and_restore(&self, images: &Path) -> Result<()> {
        std::fs::create_dir(images)?;
        let script = format!("{} && exec {}", self.dump_line(), RESTORE_LINE);
        run(self.criu_environment(self.inside("sh").args(["-c", &script]), images))?;
        Ok(std::fs::remove_dir_all(images)?)
    }

    /// Only dumps it: `images` is a new directory.
    pub(crate) fn dump(&self, images: &Path) -> Result<()> {
        std::fs::create_dir(images)?;
        let script = format!("exec {}", self.dump_line());
        run(self.criu_environment(self.inside("sh").args(["-c", &script]), images)).map(drop)
    }

    /// Only restores it.
    pub(crate) fn restore(&self, images: &Path) -> Result<()> {
        let script = format!("exec {RESTORE_LINE}");
        run(self.criu_environment(self.inside("sh").args(["-c", &script]), images)).map(drop)
    }

    fn dump_line(&self) -> String {
        format!(r#""$CRIU" dump --tree {} --images-dir "$IMAGES" --log-file dump.log"#, self.process)
    }

    fn criu_environment<'a>(&self, command: &'a mut Command, images: &Path) -> &'a mut Command {
        command.env("CRIU", &self.criu).env("IMAGES", images)
    }
}

const RESTORE_LINE: &str = r#""$CRIU" restore --restore-detached --images-dir "$IMAGES" --log-file restore.log"#;

impl Drop for Burrow {
    fn drop(&mut self) {
        // --kill-child: everything in the namespace ends with it.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
