//! A sandbox as the agent sees it: a directory, a PID, a socket.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::time::Duration;

use migrate_proto::api::Exit;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::control::{Command, Leash, Reply, Request, Status};
use crate::error::{Result, SandboxError};
use crate::guard::Call;
use crate::init::{EXIT_FILE, IDENTITY, Launched, SOCKET};
use crate::layer::Mounted;
use crate::plan::{Output, Plan};
use crate::process::{self, Identity, ends_within};
use crate::{beneath, descriptors, nearby, wire};

const ANSWER_TIME: Duration = Duration::from_secs(30);
/// A killed process may still have to write a lot to a slow disk.
const ENDING_TIME: Duration = Duration::from_secs(30);

/// A living sandbox. Dropping this leaves it alone; [`Sandbox::destroy`] ends it.
#[derive(Debug, Clone)]
pub struct Sandbox {
    dir: PathBuf,
    init: Identity,
    program: PathBuf,
}

impl Sandbox {
    /// Builds a sandbox: namespaces and root, without a layer and without a workload. `program` is `migrate-init`.
    pub fn build(program: &Path, plan: &Plan) -> Result<Sandbox> {
        let work = plan.dir.join("work");
        std::fs::create_dir_all(&work).map_err(SandboxError::file("create", &work))?;
        let plan_text = serde_json::to_string(plan).unwrap_or_default();
        let output = run_helper(program, "init", &plan_text)?;
        let launched: Launched = serde_json::from_slice(&output)
            .map_err(|error| SandboxError::Protocol { who: "migrate-init", detail: error.to_string() })?;
        match launched {
            Launched::Ready { init } => Ok(Sandbox { dir: plan.dir.clone(), init, program: program.to_owned() }),
            Launched::Failed { reason } => Err(SandboxError::Init { step: "be built".into(), reason }),
        }
    }

    /// Takes over the sandbox in `dir`, built by an agent that is no more. `None` where there is none alive for certain.
    pub fn adopt(program: &Path, dir: &Path) -> Result<Option<Sandbox>> {
        let Some(text) = read_if_there(&dir.join(IDENTITY))? else { return Ok(None) };
        // Cut off while it was written: its agent died before it had a sandbox.
        let Ok(init) = serde_json::from_slice::<Identity>(&text) else { return Ok(None) };
        let sandbox = Sandbox { dir: dir.to_owned(), init, program: program.to_owned() };
        // One that cannot be seen may live. What is done with it looks again.
        Ok(if sandbox.is_gone().unwrap_or(false) { None } else { Some(sandbox) })
    }

    /// Whether PID 1 is gone for certain, and with it every process and mount. An error where that cannot be seen: then nothing is
    /// known, least of all that it is gone.
    pub fn is_gone(&self) -> Result<bool> {
        self.init.is_gone().map_err(SandboxError::file("look at", format!("/proc/{}", self.init.pid)))
    }

    /// Its directory on the node.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What CRIU sees as `/.migrate/run`.
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// PID 1, as this namespace numbers it.
    pub fn init(&self) -> Identity {
        self.init
    }

    /// Mounts the layer. The sandbox holds the device from then on.
    pub fn attach_layer(&self, device: File) -> Result<()> {
        self.request(&Request::AttachLayer, &[device.as_raw_fd()]).and_then(done)
    }

    /// From now on the workload may run in this session only, and only until `margin` before the deadline in the node's lease page;
    /// [`ENDLESS`](migrate_proto::cluster::lease::ENDLESS) and [`NEVER`](migrate_proto::cluster::lease::NEVER) need no page. Returns when
    /// that is obeyed: where it must not run, no instruction of it is begun any more. After an error either may be so. Whoever
    /// starts or restores a workload does this before.
    pub fn arm(&self, session: u64, margin: Duration) -> Result<Leash> {
        let margin = u64::try_from(margin.as_nanos()).unwrap_or(u64::MAX);
        self.ask_leash(&Request::Arm { session, margin })
    }

    /// Whether the lease lets the workload run.
    pub fn leash(&self) -> Result<Leash> {
        self.ask_leash(&Request::Leash)
    }

    /// The same, now and at every change that is seen; however long that takes. It ends with the first error, as when PID 1 is gone.
    pub fn follow_leash(&self) -> Result<LeashChanges> {
        let mut stream = self.connect()?;
        stream.set_read_timeout(None).map_err(SandboxError::file("prepare", self.dir.join(SOCKET)))?;
        wire::send(&mut stream, &Request::Follow, &[]).map_err(SandboxError::file("ask", &self.dir))?;
        Ok(LeashChanges { stream: Some(stream), dir: self.dir.clone() })
    }

    fn ask_leash(&self, request: &Request) -> Result<Leash> {
        match self.request(request, &[]) {
            Ok(Reply::Leash(leash)) => Ok(leash),
            Ok(other) => Err(unexpected(other)),
            // Who does not understand a request hangs up.
            Err(_) if self.request(&Request::Status, &[]).is_ok() => {
                Err(SandboxError::NoLeash { dir: self.dir.clone() })
            }
            Err(error) => Err(error),
        }
    }

    /// Starts the workload; it joins `groups` before its first instruction. What comes back is its PID inside.
    pub fn start(&self, command: &Command, groups: &[PathBuf]) -> Result<i32> {
        let opened: Vec<OwnedFd> = groups
            .iter()
            .map(|path| {
                let file = std::fs::OpenOptions::new().write(true).open(path);
                file.map(OwnedFd::from).map_err(SandboxError::file("open", path))
            })
            .collect::<Result<_>>()?;
        let raw: Vec<RawFd> = opened.iter().map(AsRawFd::as_raw_fd).collect();
        match self.request(&Request::Start(command.clone()), &raw)? {
            Reply::Status(Status::Running { pid }) => Ok(pid),
            Reply::CannotExecute { reason } => {
                let program = command.argv.first().map(ToString::to_string).unwrap_or_default();
                Err(SandboxError::CannotExecute { program, reason })
            }
            Reply::Held => Err(SandboxError::Held { dir: self.dir.clone() }),
            other => done(other).map(|()| 0),
        }
    }

    /// A restored process is the workload now; `pid` is its PID inside.
    pub fn adopt_workload(&self, pid: i32) -> Result<()> {
        self.request(&Request::Adopt { pid }, &[]).and_then(done)
    }

    /// The next process in the sandbox gets the PID after this one.
    pub fn set_last_pid(&self, pid: i32) -> Result<()> {
        self.request(&Request::SetLastPid { pid }, &[]).and_then(done)
    }

    /// Signals the workload's first process.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.request(&Request::Signal { signal }, &[]).and_then(done)
    }

    /// What the workload is doing. Also answers when PID 1 is gone, as far as it is known.
    pub fn status(&self) -> Result<Status> {
        match self.request(&Request::Status, &[]) {
            Ok(Reply::Status(status)) => Ok(status),
            Ok(other) => done(other).map(|()| Status::Empty),
            Err(error) => self.last_words()?.map(Status::Ended).ok_or(error),
        }
    }

    /// Waits until the workload has ended; however long that takes. [`SandboxError::Gone`] where PID 1 is certainly gone and
    /// left no word; any other error says nothing about the workload.
    pub fn wait(&self) -> Result<Exit> {
        let error = match self.hear_of_the_end() {
            Ok(exit) => return Ok(exit),
            Err(error) => error,
        };
        // Looked at before the words are read: they come before PID 1 goes.
        let gone = self.is_gone()?;
        match self.last_words()? {
            Some(exit) => Ok(exit),
            None if gone => Err(SandboxError::Gone { dir: self.dir.clone() }),
            None => Err(error),
        }
    }

    fn hear_of_the_end(&self) -> Result<Exit> {
        let mut stream = self.connect()?;
        stream.set_read_timeout(None).map_err(SandboxError::file("prepare", self.dir.join(SOCKET)))?;
        wire::send(&mut stream, &Request::Watch, &[]).map_err(SandboxError::file("ask", &self.dir))?;
        match wire::receive::<Reply>(&mut stream).map_err(SandboxError::file("hear the init of", &self.dir))? {
            Some((Reply::Status(Status::Ended(exit)), _)) => Ok(exit),
            other => {
                let detail = other.map_or_else(|| "nothing".to_owned(), |(reply, _)| format!("{reply:?}"));
                Err(SandboxError::Protocol { who: "the sandbox's init", detail })
            }
        }
    }

    /// How the workload ended, as PID 1 wrote it down.
    fn last_words(&self) -> Result<Option<Exit>> {
        let text = read_if_there(&self.dir.join(EXIT_FILE))?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    /// The node's PID of a process inside.
    pub fn outer_pid(&self, inner: i32) -> Option<i32> {
        process::find_inside(self.init.pid, inner)
    }

    /// The largest PID inside, so that PIDs go on rising elsewhere.
    pub fn last_pid(&self) -> i32 {
        process::tree(self.init.pid).into_iter().filter_map(process::inner_pid).max().unwrap_or(0)
    }

    /// The layer as it is mounted inside.
    pub fn mounted_layer(&self) -> Result<Mounted> {
        Mounted::open(self.init.pid)
    }

    /// Opens what the workload has written so far. Whoever holds this keeps the layer mounted, also when the sandbox is gone:
    /// not for long, therefore.
    pub fn output(&self, which: Output) -> Result<File> {
        let path = Path::new(which.path());
        let opened = beneath::root_of(self.init.pid)
            .and_then(|root| beneath::file(root, path, OFlags::RDONLY, Mode::empty()))
            .map_err(SandboxError::file("read", path))?;
        // Looked at after it was opened: the PID was still that of PID 1.
        if self.is_gone()? { Err(SandboxError::Gone { dir: self.dir.clone() }) } else { Ok(opened) }
    }

    /// Removes names, as seen inside, where they are there; in a directory that is not there, those are looked for in the nearest
    /// one above it that is.
    pub fn remove_names(&self, paths: &[PathBuf]) -> Result<()> {
        let root = beneath::root_of(self.init.pid).map_err(SandboxError::file("look into", &self.dir))?;
        for path in paths {
            let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else { continue };
            let there = parent.ancestors().find(|dir| beneath::directory(&root, dir, OFlags::PATH).is_ok());
            let path = there.unwrap_or(parent).join(name);
            beneath::remove(&root, &path).map_err(SandboxError::file("remove", &path))?;
        }
        Ok(())
    }

    /// Starts a guard with its CRIU. It outlives this agent.
    pub fn guard(&self, call: &Call) -> Result<()> {
        std::fs::create_dir_all(&call.dir).map_err(SandboxError::file("create", &call.dir))?;
        std::fs::create_dir_all(&call.images).map_err(SandboxError::file("create", &call.images))?;
        let text = serde_json::to_string(call).unwrap_or_default();
        run_helper_in_background(&self.program, "guard", &text)
    }

    /// Ends everything in the sandbox and removes its directory. The kernel takes mounts and the loop device along.
    pub fn destroy(&self) -> Result<()> {
        // What was written until now is safe in the layer's file, even where the rest of this does not work.
        if let Ok(layer) = self.mounted_layer() {
            let _ = layer.sync();
        }
        self.kill()?;
        remove_dir(&self.dir)
    }

    /// Returns when PID 1 is gone, and with it every process and mount.
    fn kill(&self) -> Result<()> {
        let Some(pid) = rustix::process::Pid::from_raw(self.init.pid) else { return Ok(()) };
        let init = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(()),
            opened => opened.map_err(SandboxError::system("pidfd_open"))?,
        };
        // Looked at after it was opened: whoever has the PID now is who is opened.
        if self.is_gone()? {
            return Ok(());
        }
        let _ = pidfd_send_signal(&init, rustix::process::Signal::KILL);
        if ends_within(&init, ENDING_TIME) {
            return Ok(());
        }
        let (dir, seconds) = (self.dir.clone(), ENDING_TIME.as_secs());
        Err(SandboxError::DoesNotEnd { dir, pid: self.init.pid, seconds })
    }

    fn connect(&self) -> Result<UnixStream> {
        if self.is_gone()? {
            return Err(SandboxError::Gone { dir: self.dir.clone() });
        }
        let stream = connect_in(&self.dir, SOCKET)?;
        let prepared =
            stream.set_read_timeout(Some(ANSWER_TIME)).and_then(|()| stream.set_write_timeout(Some(ANSWER_TIME)));
        prepared.map_err(SandboxError::file("prepare", self.dir.join(SOCKET)))?;
        Ok(stream)
    }

    fn request(&self, request: &Request, descriptors: &[RawFd]) -> Result<Reply> {
        let mut stream = self.connect()?;
        wire::send(&mut stream, request, descriptors).map_err(SandboxError::file("ask the init of", &self.dir))?;
        match wire::receive::<Reply>(&mut stream).map_err(SandboxError::file("hear the init of", &self.dir))? {
            Some((reply, _)) => Ok(reply),
            None => Err(SandboxError::Gone { dir: self.dir.clone() }),
        }
    }
}

/// Removes a sandbox's directory. A guard whose CRIU has just been killed may still be writing its last words into it.
pub fn remove_dir(dir: &Path) -> Result<()> {
    for attempt in 0.. {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty && attempt < 100 => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(SandboxError::file("remove", dir)(error));
            }
            _ => break,
        }
    }
    Ok(())
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SandboxError::file("read", path)(error)),
    }
}

fn connect_in(dir: &Path, name: &str) -> Result<UnixStream> {
    nearby::connect(dir, name).map_err(SandboxError::file("connect to", dir.join(name)))
}

fn done(reply: Reply) -> Result<()> {
    if reply == Reply::Done { Ok(()) } else { Err(unexpected(reply)) }
}

fn unexpected(reply: Reply) -> SandboxError {
    match reply {
        Reply::Failed { step, reason } => SandboxError::Init { step, reason },
        Reply::CannotExecute { reason } => SandboxError::CannotExecute { program: String::new(), reason },
        other => SandboxError::Protocol { who: "the sandbox's init", detail: format!("{other:?}") },
    }
}

/// What a sandbox's lease lets its workload do, one change after the other.
#[derive(Debug)]
pub struct LeashChanges {
    stream: Option<UnixStream>,
    dir: PathBuf,
}

impl Iterator for LeashChanges {
    type Item = Result<Leash>;

    fn next(&mut self) -> Option<Result<Leash>> {
        let mut stream = self.stream.take()?;
        Some(match wire::receive::<Reply>(&mut stream) {
            Ok(Some((Reply::Leash(leash), _))) => {
                self.stream = Some(stream);
                Ok(leash)
            }
            Ok(Some((other, _))) => Err(unexpected(other)),
            Ok(None) => Err(SandboxError::Gone { dir: self.dir.clone() }),
            Err(error) => Err(SandboxError::file("hear the init of", &self.dir)(error)),
        })
    }
}

fn spawn_helper(program: &Path, role: &str, input: &str) -> Result<std::process::Child> {
    let mut child = Program::new(program)
        .arg(role)
        .env_clear()
        .envs(descriptors::for_helpers())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(SandboxError::file("run", program))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read says why on its own output.
        let _ = stdin.write_all(input.as_bytes());
    }
    Ok(child)
}

/// Runs `migrate-init ROLE` to its end; its PID 1 or its say stays behind.
fn run_helper(program: &Path, role: &str, input: &str) -> Result<Vec<u8>> {
    let output =
        spawn_helper(program, role, input)?.wait_with_output().map_err(SandboxError::file("wait for", program))?;
    if output.stdout.is_empty() {
        return Err(SandboxError::Tool {
            command: format!("{} {role}", program.display()),
            output: String::from_utf8_lossy(&output.stderr).chars().take(2000).collect(),
        });
    }
    Ok(output.stdout)
}

/// Starts `migrate-init ROLE` and waits for its word that it is ready. A thread reaps it, whenever that is.
fn run_helper_in_background(program: &Path, role: &str, input: &str) -> Result<()> {
    let mut child = spawn_helper(program, role, input)?;
    let mut said = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut said).map_err(SandboxError::file("hear", program))?;
    }
    if said.trim_end() == "ready" {
        std::thread::spawn(move || child.wait());
        return Ok(());
    }
    let output = child.wait_with_output().map_err(SandboxError::file("wait for", program))?;
    Err(SandboxError::Tool {
        command: format!("{} {role}", program.display()),
        output: String::from_utf8_lossy(&output.stderr).chars().take(2000).collect(),
    })
}
