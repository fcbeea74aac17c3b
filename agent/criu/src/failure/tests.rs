//! Excerpts from logs of CRIU 4.2.1, taken from real failures.
#![allow(clippy::unwrap_used)]

use super::*;

const NOISE: &str = "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n\
     Warn  (compel/arch/x86/src/lib/infect.c:419): Will restore 100 with interrupted system call\n";

fn explained(log: &str) -> CriuFailure {
    explain(&format!("{NOISE}{log}Error (criu/cr-dump.c:1975): Dumping FAILED.\n"), "", Exit::Code(1))
}

#[test]
fn real_causes_are_recognised() {
    use FailureKind::*;
    let cases = [
        (
            ExternalUnixSocket,
            "Error (criu/sk-unix.c:874): unix: External socket is used. Consider using --ext-unix-sk option.\n",
        ),
        (
            IoUring,
            "pie: 100: Error (criu/pie/parasite.c:588): send_fds failed (-22)\n\
             pie: 100: Close the control socket for writing\n\
             Error (criu/parasite-syscall.c:280): Can't retrieve FDs from socket\n\
             Error (compel/src/lib/infect-rpc.c:44): Message reply from daemon is trimmed (12/0)\n\
             Error (criu/cr-dump.c:1545): Dump files (pid: 100) failed with -1\n",
        ),
        (
            IoUring,
            "Error (criu/proc_parse.c:502): Unknown shit 600 (anon_inode:[io_uring])\n\
             Error (criu/proc_parse.c:738): Can't open 100's mapfile link 7f2908d9f000: No such device or address\n",
        ),
        (
            UnsupportedDescriptor,
            "Error (criu/files-ext.c:94): Can't dump file 3 of that type [600] (anon anon_inode:[perf_event])\n\
             Error (criu/cr-dump.c:1545): Dump files (pid: 100) failed with -1\n",
        ),
        (UnsupportedDescriptor, "Error (criu/files-ext.c:94): Can't dump file 3 of that type [20600] (chr 10:237)\n"),
        (UnsupportedDescriptor, "Error (criu/sockets.c:767): sockets: BUG! Unknown socket collected (family 40)\n"),
        (
            TcpConnection,
            "Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.\n",
        ),
        (TcpConnection, "Error (criu/sk-inet.c:185): inet: In-flight connection (l) for 12950\n"),
        (
            AddressInUse,
            "   100: Error (criu/sk-inet.c:1059): inet: Can't bind inet socket (id 11): Address already in use\n\
             \x20  100: Error (criu/files.c:1221): Unable to open fd=3 id=0xb\n",
        ),
        (LinkRemap, "Error (criu/files-reg.c:1122): Can't create link remap for /tmp/x. Use link-remap option.\n"),
        (
            GhostTooBig,
            "Error (criu/files-reg.c:1031): Can't dump ghost file /tmp/#10010722 of 3002368 size, increase limit\n",
        ),
        (FileChanged, "   100: Error (criu/files-reg.c:2175): File tmp/m has bad size 8292 (expect 8192)\n"),
        (FileChanged, "   100: Error (criu/files-reg.c:2153): File usr/bin/sleep has bad build-ID\n"),
        (
            FileMissing,
            "   100: Error (criu/files-reg.c:2353): Can't open file tmp/m on restore: No such file or directory\n",
        ),
        (UnknownMount, "Error (criu/files-reg.c:1790): Can't lookup mount=58 for fd=0 path=/dev/null\n"),
        (PidInUse, "Error (criu/cr-restore.c:1237): Can't fork for 100: File exists\n"),
        (OtherUser, "Error (criu/cr-dump.c:389): Can't get rlimit 0: Operation not permitted\n"),
        (
            NotSessionLeader,
            "Error (criu/cr-dump.c:1528): A session leader of 100(100) is outside of its pid namespace\n",
        ),
        (
            NestedNamespace,
            "Error (criu/namespaces.c:460): Can't dump nested pid namespace for 101\n\
             Error (criu/namespaces.c:700): Can't make pidns id\n",
        ),
        (NestedNamespace, "Error (criu/namespaces.c:931): Unable to convert uid or gid\n"),
        (
            Network,
            "Error (criu/util.c:642): execvp(\"iptables-restore\", ...) failed: No such file or directory\n\
             Error (criu/util.c:657): exited, status=1\n\
             Error (criu/net.c:3436): net: Locking network failed: iptables-restore returned -1.\n",
        ),
        (
            Traced,
            "Warn  (compel/src/lib/infect.c:132): Unable to interrupt task: 101 (Operation not permitted)\n\
             Error (compel/src/lib/infect.c:262): Unseizable non-zombie 101 found, state S, err -1/10\n",
        ),
        (ProcessGone, "Error (compel/src/lib/infect.c:417): Unable to detach from 100: No such process\n"),
        (
            NoSpace,
            "Error (criu/page-xfer.c:263): page-xfer: Unable to spice data: No space left on device\n\
             Error (criu/mem.c:718): Can't dump page with parasite\n",
        ),
        (
            HookRefused,
            "Error (criu/util.c:657): exited, status=1\n\
             Error (criu/action-scripts.c:94): Script /bin/false exited with -1\n\
             Error (criu/action-scripts.c:156): One of more action scripts failed\n\
             Error (compel/src/lib/infect.c:417): Unable to detach from 100: No such process\n",
        ),
        (
            BadImage,
            "   100: Error (criu/protobuf.c:93): Read 7 bytes while 14 expected from /run/pagemap-100.img: No such file or \
             directory\n",
        ),
        (BadImage, "   100: Error (criu/image.c:554): Head magic doesn't match for pagemap-100.img\n"),
    ];
    for (kind, log) in cases {
        let failure = explained(log);
        assert_eq!(failure.kind, kind, "{log}");
        let first_words =
            log.lines().find(|line| line.contains("Error (") && !line.contains("exited, status")).unwrap();
        let shown = failure.to_string();
        assert!(shown.contains(first_words.split_once("): ").unwrap().1), "{shown}");
        assert!(!shown.contains('\n'));
        assert!(shown.len() > failure.first_error.len() + 20, "no sentence: {shown}");
    }
}

#[test]
fn a_time_before_the_line_does_not_hide_it() {
    let log = "(00.012345) Error (criu/cr-restore.c:1237): Can't fork for 100: File exists\n\
               (00.012399)    101: Error (criu/files.c:1221): Unable to open fd=3 id=0xb\n";
    assert_eq!(explain(log, "", Exit::Code(1)).kind, FailureKind::PidInUse);
}

#[test]
fn an_unknown_cause_is_shown_in_criu_s_words() {
    let failure = explained("Error (criu/new.c:1): Something nobody has seen\nError (criu/b.c:2): and its echo\n");
    assert_eq!(failure.kind, FailureKind::Unknown);
    assert_eq!(failure.to_string(), "criu: Something nobody has seen");
    assert_eq!(failure.hint(), "");
}

#[test]
fn what_is_said_before_the_log_is_open_counts_where_the_log_is_silent() {
    let stderr =
        "Error (criu/img-streamer.c:75): Unable to connect to image streamer socket: /run/s: Connection refused\n";
    let failure = explain("", stderr, Exit::Code(1));
    assert_eq!(failure.kind, FailureKind::Stream);
    assert_eq!(failure.tail, stderr.trim_end());
    assert_eq!(explained("Error (criu/a.c:1): Can't fork for 7: File exists\n").kind, FailureKind::PidInUse);
}

#[test]
fn without_any_word_the_exit_says_what_is_known() {
    assert_eq!(explain("", "", Exit::Signal(9)).to_string(), "criu was killed by signal 9");
    assert_eq!(explain(NOISE, "", Exit::Code(1)).to_string(), "criu exited with 1 and named no cause");
}

#[test]
fn a_file_s_name_cannot_forge_a_line_or_a_terminal_s_colours() {
    let log = "Warn  (criu/a.c:1): odd name Error (criu/b.c:2): Can't fork for 1: File exists\n\
               Error (criu/files-reg.c:1031): Can't dump ghost file /tmp/\x1b[31m\u{7} of 1 size, increase limit\n";
    let failure = explain(log, "", Exit::Code(1));
    assert_eq!(failure.kind, FailureKind::GhostTooBig);
    assert!(failure.to_string().contains("\\u{1b}[31m\\u{7}"), "{failure}");
    assert!(!failure.tail.contains('\x1b'));
}

#[test]
fn a_huge_log_becomes_a_short_tail_with_its_end() {
    let log = format!("{}Error (criu/a.c:1): {}\nlast\n", "line\n".repeat(100_000), "é".repeat(100_000));
    let failure = explain(&log, "", Exit::Code(1));
    assert!(failure.tail.ends_with("last"));
    assert!(failure.tail.lines().count() <= MAX_TAIL_LINES);
    assert!(failure.tail.chars().count() <= MAX_TAIL_LINES * (MAX_LINE + 2));
    assert!(failure.first_error.chars().count() <= MAX_LINE + 1);
}
