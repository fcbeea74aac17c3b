//! The arguments of `criu dump` and `criu restore`, as pure functions.
//!
//! CRIU runs as root inside the sandbox's PID, mount and network namespaces, but outside the workload's own IPC and UTS
//! namespaces. So an image holds tasks and the contents of IPC and UTS, and no mounts. The workload is the session leader
//! with a PID known beforehand and has no terminal of its own outside.
//!
//! The caller starts CRIU with an empty environment: `CRIU_LIBS_DIR`, `CRIU_CONFIG_FILE` and `CRIU_DEPRECATED` would
//! change what is said here.
//!
//! What is *not* passed matters as much. No `--ext-unix-sk` for a dump, `--shell-job`, `--skip-file-rwx-check`, `--file-validation
//! filesize`, `--weak-sysctls`, `--evasive-devices`: each turns an error before the commit into a broken workload after it.
//! No `--force-irmap`: CRIU finds the path of a watched file by its handle, and the option only adds a slow search by
//! inode number. No `--network-lock`: it concerns connections that are kept, and none is.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The name of CRIU's log in the images directory.
pub const LOG_FILE: &str = "log";

/// What both commands need to know. All paths are as seen inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The CRIU that is being called.
    pub criu: PathBuf,
    /// Where the streamer's socket is, and where CRIU leaves its log and its figures.
    pub images_dir: PathBuf,
    /// Called at CRIU's hooks: the gate.
    pub action_script: PathBuf,
}

/// Arguments of `criu dump` for the tree whose root is `tree`, a PID as seen inside the sandbox. `outside` are the inodes of its Unix
/// sockets whose other end is the sandbox's own, which is there on the target under the same name.
pub fn dump(options: &Options, tree: i32, outside: &[u64]) -> Vec<OsString> {
    let mut arguments = Arguments::new("dump");
    arguments.pair("--tree", tree.to_string());
    arguments.common(options);
    // Deleted files that are still open: those without any name left travel inside the image, however large they are;
    // those that still have another name get a temporary one, which travels in the layer.
    arguments.pair("--ghost-limit", "1024G");
    arguments.flag("--link-remap");
    for inode in outside {
        arguments.pair("--external", format!("unix[{inode}]"));
    }
    arguments.0
}

/// Arguments of `criu restore`. It ends when the tree is complete, and the sandbox's init becomes the tree's parent.
pub fn restore(options: &Options) -> Vec<OsString> {
    let mut arguments = Arguments::new("restore");
    arguments.flag("--restore-detached");
    arguments.common(options);
    // Only of those that the dump was told of: it refuses every other. Where nobody listens, it fails before the commit.
    arguments.flag("--ext-unix-sk");
    arguments.0
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn new(command: &str) -> Arguments {
        Arguments(vec![command.into()])
    }

    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn pair(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.flag(name);
        self.0.push(value.as_ref().into());
    }

    fn common(&mut self, options: &Options) {
        // A root file system of the workload's own could hold a configuration or plugins, and both run code as root.
        // CRIU's own directory holds no plugin and belongs to the node.
        self.flag("--no-default-config");
        self.pair("--libdir", options.criu.parent().unwrap_or(Path::new("/")));

        self.pair("--images-dir", &options.images_dir);
        self.flag("--stream");
        self.pair("--action-script", &options.action_script);
        self.pair("--log-file", LOG_FILE);
        self.flag("-v2");

        // The workload's control group is the node's, made anew on each; CRIU must not touch it.
        self.flag("--manage-cgroups=ignore");
        // Both ends write and compare the CPU's instruction sets: a second line of defence behind the preflight.
        self.flag("--cpu-cap=ins");
        self.flag("--file-locks");
        // Connections end, listening sockets go on. One that nobody has accepted yet ends like the others.
        self.flag("--tcp-close");
        self.flag("--skip-in-flight");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            criu: "/opt/migrate/criu/bin/criu".into(),
            images_dir: "/.migrate/run/7".into(),
            action_script: "/.migrate/bin/gate".into(),
        }
    }

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn a_dump_is_called_with_exactly_this() {
        let expected = "dump --tree 100 --no-default-config --libdir /opt/migrate/criu/bin --images-dir /.migrate/run/7
            --stream --action-script /.migrate/bin/gate --log-file log -v2 --manage-cgroups=ignore --cpu-cap=ins
            --file-locks --tcp-close --skip-in-flight --ghost-limit 1024G --link-remap";
        assert_eq!(dump(&options(), 100, &[]), words(expected));
        let told = dump(&options(), 100, &[7, 8]);
        assert!(told.ends_with(&words("--link-remap --external unix[7] --external unix[8]")), "{told:?}");
    }

    #[test]
    fn a_restore_is_called_with_exactly_this() {
        let expected = "restore --restore-detached --no-default-config --libdir /opt/migrate/criu/bin
            --images-dir /.migrate/run/7 --stream --action-script /.migrate/bin/gate --log-file log -v2
            --manage-cgroups=ignore --cpu-cap=ins --file-locks --tcp-close --skip-in-flight --ext-unix-sk";
        assert_eq!(restore(&options()), words(expected));
    }

    #[test]
    fn a_path_with_a_space_stays_one_argument() {
        let odd = Options { images_dir: "/a b".into(), ..options() };
        assert!(restore(&odd).contains(&OsString::from("/a b")));
    }
}
