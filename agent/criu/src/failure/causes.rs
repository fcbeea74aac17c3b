//! The table of known causes: how CRIU words them, what they mean, and what to do.

use super::FailureKind::{self, *};

/// Errors that CRIU logs and goes on.
const HARMLESS: &[&str] = &[
    "RLIMIT_NOFILE",
    // Tried at every start; a sandbox has no /dev/net/tun.
    "Unable to create tun",
    // The echo of a program that it ran; what follows says which.
    "exited, status=",
    // Of every failed restore.
    "Restoring FAILED",
    "Dumping FAILED",
];

/// All of these words, and it is that. The first row that fits an error line counts.
const CAUSES: &[(&[&str], FailureKind)] = &[
    // A name in an error line is the workload's to choose, so rows ask for words that stand before it where they can.
    (&["External socket is used"], ExternalUnixSocket),
    (&["Can't dump half of stream unix connection"], ExternalUnixSocket),
    (&["Can't dump name-less external socket"], ExternalUnixSocket),
    (&["External socket found in image"], ExternalUnixSocket),
    (&["Unix socket", "peer"], ExternalUnixSocket),
    (&["anon_inode:[io_uring]"], IoUring),
    // The kernel refuses to pass an io_uring, and nothing else that a process can have open.
    (&["send_fds failed (-22)"], IoUring),
    (&["Can't dump file", "of that type", "tty"], Terminal),
    (&["Can't dump file", "of that type"], UnsupportedDescriptor),
    (&["Unknown shit"], UnsupportedDescriptor),
    (&["Unknown socket collected"], UnsupportedDescriptor),
    (&["Unsupported proto"], UnsupportedDescriptor),
    (&["Only stream"], UnsupportedDescriptor),
    (&["Can't dump corked dgram socket"], UnsupportedDescriptor),
    (&["Connected TCP socket"], TcpConnection),
    (&["In-flight connection"], TcpConnection),
    (&["Can't bind", "Address already in use"], AddressInUse),
    (&["Can't listen", "Address already in use"], AddressInUse),
    (&["Can't bind", "Cannot assign requested address"], AddressMissing),
    (&["Locking network failed"], Network),
    (&["execvp(\"ip"], Network),
    (&["nft command error"], Network),
    (&["Can't create link remap"], LinkRemap),
    (&["Can't link remap"], LinkRemap),
    (&["Unaccessible path opened"], LinkRemap),
    (&["Can't dump ghost file", "increase limit"], GhostTooBig),
    (&["has bad size"], FileChanged),
    (&["has bad build-ID"], FileChanged),
    (&["has bad mode"], FileChanged),
    (&["Can't open file", "No such file or directory"], FileMissing),
    (&["Can't lookup mount="], UnknownMount),
    (&["No parent found for mountpoint"], UnknownMount),
    (&["Can't fork for", "File exists"], PidInUse),
    (&["Can't get rlimit", "Operation not permitted"], OtherUser),
    (&["session leader of"], NotSessionLeader),
    (&["is not a session leader"], NotSessionLeader),
    (&["Found slave peer"], Terminal),
    (&["Found dangling tty"], Terminal),
    (&["ctty inheritance"], Terminal),
    (&["Don't have tty"], Terminal),
    (&["Can't dump nested"], NestedNamespace),
    (&["doesn't belong to the target user namespace"], NestedNamespace),
    (&["Unable to convert uid or gid"], NestedNamespace),
    (&["Can't restore sub-task in NS"], NestedNamespace),
    (&["Unseizable non-zombie"], Traced),
    (&["Unable to detach from", "No such process"], ProcessGone),
    (&["Timeout reached"], FreezeTimeout),
    (&["CPU ", "do not match"], Cpu),
    (&["CPU ", "mismatch"], Cpu),
    (&["CPU xfeatures"], Cpu),
    (&["FPU feature required"], Cpu),
    (&["No space left on device"], NoSpace),
    (&["Disk quota exceeded"], NoSpace),
    (&["Cannot allocate memory"], NoMemory),
    (&["action scripts failed"], HookRefused),
    (&["Script ", "exited with"], HookRefused),
    (&["image streamer"], Stream),
    (&["Broken pipe"], Stream),
    (&["bytes while", "expected from"], BadImage),
    (&["Unexpected EOF"], BadImage),
    (&["agic doesn't match"], BadImage),
    (&["orrupt"], BadImage),
    (&["kernel features detection"], FeatureMissing),
    (&["is not supported by"], FeatureMissing),
    (&["is not available"], FeatureMissing),
    (&["when initializing kerndat"], FeatureMissing),
    (&["Operation not permitted"], NotPermitted),
];

pub(super) fn is_harmless(line: &str) -> bool {
    HARMLESS.iter().any(|words| line.contains(words))
}

pub(super) fn kind_of(line: &str) -> Option<FailureKind> {
    CAUSES.iter().find(|(words, _)| words.iter().all(|word| line.contains(word))).map(|(_, kind)| *kind)
}

/// What it means, for a person; empty where CRIU's own words must do.
pub(super) fn sentence(kind: FailureKind) -> &'static str {
    about(kind).0
}

/// What to do about it; empty where nobody knows.
pub(super) fn hint(kind: FailureKind) -> &'static str {
    about(kind).1
}

fn about(kind: FailureKind) -> (&'static str, &'static str) {
    match kind {
        ExternalUnixSocket => (
            "it is connected to a process outside its sandbox through a Unix socket",
            "close that connection (a log daemon, D-Bus, a database on the node), or run the other side in the same workload",
        ),
        IoUring => (
            "it uses io_uring, which cannot be moved",
            "switch io_uring off in the program (for example UV_USE_IO_URING=0 for Node.js)",
        ),
        UnsupportedDescriptor => (
            "it has something open that cannot be moved",
            "criu's words name the descriptor; the program must close it or do without",
        ),
        TcpConnection => ("it has a TCP connection that cannot be moved", "try again when it is closed"),
        AddressInUse => (
            "the port it listens on is taken on the target",
            "stop what listens there, or choose another target; after a move back, a port can stay taken for a minute",
        ),
        AddressMissing => (
            "the target does not have the address that it listens on",
            "let the program listen on 0.0.0.0 or ::, or give the target that address",
        ),
        Network => ("its network could not be dealt with", "nested network namespaces are not supported"),
        LinkRemap => (
            "a file that it has open was deleted or renamed in a way that cannot be carried over",
            "let the program reopen the file that criu names",
        ),
        GhostTooBig => ("a deleted file that it has open is too large", "let the program close it"),
        FileChanged => (
            "a file that it uses is different on the target",
            "install the same version of the package on both nodes, or give the workload a --root of its own",
        ),
        FileMissing => (
            "a file that it uses is missing on the target",
            "install the same packages on both nodes, or give the workload a --root of its own",
        ),
        UnknownMount => (
            "it has a file open that its sandbox does not contain",
            "it was inherited from outside, or lies in a mount namespace that the workload made",
        ),
        PidInUse => ("a process ID that it needs is taken in the target's sandbox", "try again; it is made anew"),
        OtherUser => (
            "this node may not dump processes of another user",
            "the agent needs CAP_SYS_RESOURCE for that; or run the workload as root",
        ),
        NotSessionLeader => ("its main process leads no session", "the main process must not have been replaced"),
        Terminal => ("it uses a terminal outside its sandbox", "run it without a terminal"),
        NestedNamespace => (
            "it has made namespaces of its own that cannot be moved",
            "run it without unshare, bubblewrap or containers inside",
        ),
        Traced => ("a debugger is attached to it", "detach strace or gdb and try again"),
        ProcessGone => ("it ended before it could be stopped", ""),
        FreezeTimeout => ("it could not be stopped in time", "a process waits for a device; try again later"),
        Cpu => (
            "the target's CPU lacks what the source's has",
            "choose a target with the same or a newer CPU of the same make",
        ),
        NoSpace => ("there is no space left", "free some space where the agent keeps its data"),
        NoMemory => ("there is too little memory", "free some memory, or choose another target"),
        FeatureMissing => ("the kernel lacks something that CRIU needs", "scripts/setup --check says more"),
        NotPermitted => ("the node lacks a right that CRIU needs", "run the agent as root with all capabilities"),
        HookRefused => ("the move was called off", ""),
        Stream => ("the stream of images broke", ""),
        BadImage => ("the images are damaged or incomplete", ""),
        Unknown => ("", ""),
    }
}
