//! Real CRIU, through everything this crate has: a shell is dumped in one pair of PID and mount namespaces, its images held
//! in memory only, and restored in another. Needs root, and a CRIU: without one these tests fail.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use migrate_criu::command::{self, LOG_FILE, Options};
use migrate_criu::failure::{self, FailureKind};
use migrate_criu::stream::LAST_IMAGE;
use migrate_criu::stream::capture::Capture;
use migrate_criu::stream::serve::Serve;
use migrate_criu::{probe, stats};
use migrate_proto::api::Exit;

/// The workload's PID inside.
const TREE: i32 = 100;
const PATIENCE: Duration = Duration::from_secs(120);

type Images = BTreeMap<String, Vec<u8>>;

/// A PID and a mount namespace, held by a `sleep` that is PID 1 in it. Everything inside ends with it.
struct Namespaces {
    holder: Child,
    init: String,
}

impl Namespaces {
    fn new() -> Namespaces {
        let holder = Command::new("unshare")
            .args(["--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
            .args(["sleep", "infinity"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", holder.id());
        let mut namespaces = Namespaces { holder, init: String::new() };
        until("the namespaces are there", || {
            namespaces.init = fs::read_to_string(&children).unwrap().trim().to_owned();
            fs::read_to_string(format!("/proc/{}/comm", namespaces.init)).is_ok_and(|name| name.trim() == "sleep")
        });
        namespaces
    }

    /// Runs `program` inside, after setting which PID comes next.
    fn run(&self, next_pid: i32, program: &[&str]) -> Output {
        let script = "echo $(($1 - 1)) > /proc/sys/kernel/ns_last_pid; shift; exec \"$@\"";
        Command::new("nsenter")
            .args(["--target", &self.init, "--pid", "--mount", "sh", "-c", script, "sh", &next_pid.to_string()])
            .args(program)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Starts `script` in the background as the leader of a session, with PID [`TREE`] and nothing open that it does not
    /// need. Cargo leaves descriptors open, and only bash can close those above 9.
    fn start(&self, script: &str, argument: &Path) {
        let background = "for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval \"exec $fd>&-\"; done
            echo $(($1 - 1)) > /proc/sys/kernel/ns_last_pid
            setsid sh -c \"$2\" sh \"$3\" </dev/null >/dev/null 2>&1 &";
        let program = ["bash", "-c", background, "bash", &TREE.to_string(), script, argument.to_str().unwrap()];
        let started = self.run(1000, &program);
        assert!(started.status.success(), "{started:?}");
    }

    fn criu(&self, criu: &Path, arguments: Vec<std::ffi::OsString>) -> Output {
        let mut program = vec![criu.to_str().unwrap()];
        program.extend(arguments.iter().map(|argument| argument.to_str().unwrap()));
        self.run(20_000, &program)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn options(criu: &Path, images_dir: &Path) -> Options {
    Options { criu: criu.to_owned(), images_dir: images_dir.to_owned(), action_script: "/bin/true".into() }
}

fn check(output: &Output, images_dir: &Path) {
    let log = fs::read_to_string(images_dir.join(LOG_FILE)).unwrap_or_default();
    assert!(output.status.success(), "{output:?}\n{log}");
}

/// Takes a dump's images into memory, all pipes side by side.
async fn take(capture: Capture) -> Images {
    let mut capturing = capture.accept(|_| true).await.unwrap();
    let mut pending = Vec::new();
    while let Some(image) = capturing.next().await.unwrap() {
        assert!(!capturing.is_last() || image.name == LAST_IMAGE, "{} came after the last one", image.name);
        pending.push(tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            File::from(image.pipe).read_to_end(&mut bytes).unwrap();
            (image.name, bytes)
        }));
    }
    assert!(capturing.is_last());
    let mut images = Images::new();
    for image in pending {
        images.extend([image.await.unwrap()]);
    }
    images
}

/// Gives a restore its images from memory. Returns what it asked for, in order.
async fn give(serve: Serve, images: Images) -> Vec<String> {
    let mut serving = serve.accept(|_| true).await.unwrap();
    let mut asked = Vec::new();
    while let Some(request) = serving.next().await.unwrap() {
        asked.push(request.name().to_owned());
        let Some(bytes) = images.get(request.name()).cloned() else {
            request.absent().await.unwrap();
            continue;
        };
        let pipe = request.present().await.unwrap();
        // CRIU may close a pipe before its end.
        tokio::task::spawn_blocking(move || File::from(pipe).write_all(&bytes).ok());
    }
    asked
}

/// A shell that counts the words it gets: the count lives nowhere but in its memory.
struct Counter {
    dir: PathBuf,
}

impl Counter {
    const SCRIPT: &str = "cd \"$1\"; exec 3<>words; n=0
        while read -r word <&3; do n=$((n + 1)); echo $n $word >> said; done";

    fn start(namespaces: &Namespaces, dir: PathBuf) -> Counter {
        fs::create_dir(&dir).unwrap();
        let made = Command::new("mkfifo").arg(dir.join("words")).status().unwrap();
        assert!(made.success());
        namespaces.start(Counter::SCRIPT, &dir);
        Counter { dir }
    }

    fn hears(&self, word: &str, answer: &str) {
        // Open for reading, too, so that it does not wait for a reader.
        let mut words = OpenOptions::new().read(true).write(true).open(self.dir.join("words")).unwrap();
        words.write_all(format!("{word}\n").as_bytes()).unwrap();
        let said = || fs::read_to_string(self.dir.join("said")).unwrap_or_default();
        until("the counter answers", || said().ends_with('\n') && said().lines().last() == Some(answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_goes_through_memory_into_other_namespaces() {
    let criu = probe::find(None).expect("these tests need CRIU: run scripts/setup");
    let found = probe::probe(&criu).await.unwrap();
    assert!(found.version >= probe::MINIMUM);
    let dir = tempfile::tempdir().unwrap();
    let images_dir = dir.path().join("images");
    fs::create_dir(&images_dir).unwrap();
    let options = options(&criu, &images_dir);

    let source = Namespaces::new();
    let counter = Counter::start(&source, dir.path().join("counter"));
    counter.hears("one", "1 one");

    let images = tokio::spawn(take(Capture::bind(&images_dir).unwrap()));
    let arguments = command::dump(&options, TREE, &[]);
    let dumped = tokio::task::block_in_place(|| source.criu(&criu, arguments));
    check(&dumped, &images_dir);
    let images = images.await.unwrap();
    assert!(images.contains_key(LAST_IMAGE) && images.contains_key("pages-1.img"), "{:?}", images.keys());
    let figures = stats::dump(&images_dir).unwrap();
    assert!(figures.frozen > Duration::ZERO && figures.pages_written > 0, "{figures:?}");
    drop(source);

    let target = Namespaces::new();
    let asked = tokio::spawn(give(Serve::bind(&images_dir).unwrap(), images));
    let restored = tokio::task::block_in_place(|| target.criu(&criu, command::restore(&options)));
    check(&restored, &images_dir);
    assert_eq!(asked.await.unwrap()[0], LAST_IMAGE);
    assert!(stats::restore(&images_dir).unwrap().pages_restored > 0);

    counter.hears("two", "2 two");
    assert_eq!(fs::read_to_string(counter.dir.join("said")).unwrap(), "1 one\n2 two\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_failure_is_explained() {
    let criu = probe::find(None).expect("these tests need CRIU: run scripts/setup");
    let dir = tempfile::tempdir().unwrap();
    let namespaces = Namespaces::new();
    let _capture = Capture::bind(dir.path()).unwrap();
    // Nothing was started, so nothing has that PID.
    let arguments = command::dump(&options(&criu, dir.path()), TREE, &[]);
    let output = tokio::task::block_in_place(|| namespaces.criu(&criu, arguments));
    assert!(!output.status.success());

    let log = fs::read_to_string(dir.path().join(LOG_FILE)).unwrap();
    let failure = failure::explain(&log, &String::from_utf8_lossy(&output.stderr), Exit::Code(1));
    assert_eq!(failure.kind, FailureKind::ProcessGone, "{failure}\n{log}");
    assert_eq!(
        failure.to_string(),
        "it ended before it could be stopped (criu: Unable to detach from 100: No such process)"
    );
}
