//! A shell script plays CRIU. The real one is in `tests/real_criu.rs`.
#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;

/// Writes an executable by way of another process: while this one has a file open for writing, a process that another
/// test starts at that moment inherits it, and then the file cannot be executed.
fn write_script(path: &Path, script: &str) {
    let write = "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"";
    let status = std::process::Command::new("sh").args(["-c", write, "sh", script]).arg(path).status().unwrap();
    assert!(status.success());
}

/// A `criu` that says its version and answers `check` with `check`'s lines.
fn fake(dir: &Path, version: &str, check: &str) -> PathBuf {
    let path = dir.join("criu");
    let script = format!("#!/bin/sh\n[ \"$1\" = --version ] && {{ echo 'Version: {version}'; exit 0; }}\n{check}\n");
    write_script(&path, &script);
    path
}

#[test]
fn versions_are_read_and_compared_by_their_numbers() {
    assert_eq!(parse_version("Version: 4.2.1\nGitID: v4.2.1\n"), Some(Version(4, 2, 1)));
    assert_eq!(parse_version("Version: 4.2\n"), Some(Version(4, 2, 0)));
    assert_eq!(parse_version("Version: 4.10-rc1\n"), Some(Version(4, 10, 0)));
    assert_eq!(parse_version("Version: four\n"), None);
    assert_eq!(parse_version("4.2.1\n"), None);
    assert!(Version(4, 10, 0) > Version(4, 9, 9));
}

#[tokio::test]
async fn features_are_asked_for_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let check = "case $4 in mem_dirty_track|uffd) echo 'Warn: no'; exit 1;; esac";
    let found = probe(&fake(dir.path(), "4.3", check)).await.unwrap();
    assert_eq!(found.version, Version(4, 3, 0));
    assert!(found.has("timens") && found.has("pagemap_scan"));
    assert!(!found.has("mem_dirty_track") && !found.has("uffd"));
    assert!(!found.has("never_asked"));
    assert!(!found.kernel.is_empty());
    assert!(found.reads_images_of(Version(4, 2, 1)) && !found.reads_images_of(Version(4, 3, 1)));
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let check =
        "[ \"$4\" = timens ] && { echo 'Error (criu/cr-check.c:1): Time namespaces are not supported' >&2; exit 1; }
        exit 0";
    let error = probe(&fake(dir.path(), "4.2.1", check)).await.unwrap_err().to_string();
    assert!(error.contains("timens: Error (criu/cr-check.c:1): Time namespaces are not supported"), "{error}");

    let error = probe(&fake(dir.path(), "4.1.1", "exit 0")).await.unwrap_err();
    assert!(matches!(error, ProbeError::TooOld { found: Version(4, 1, 1), .. }));
    assert!(error.to_string().contains("scripts/setup"), "{error}");

    let path = fake(dir.path(), "4.2.1", "");
    write_script(&path, "#!/bin/sh\necho 'BUG at criu/vdso.c:1' >&2; exit 134\n");
    let error = probe(&path).await.unwrap_err().to_string();
    assert!(error.contains("BUG at criu/vdso.c:1") && error.contains("scripts/setup"), "{error}");
}

#[tokio::test]
async fn one_that_hangs_is_ended_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("criu");
    let pid_file = dir.path().join("pid");
    write_script(&path, &format!("#!/bin/sh\necho $$ > {}\nexec sleep 1000\n", pid_file.display()));
    let hanging = Criu { path: &path, limit: Duration::from_secs(2) };
    let error = hanging.version().await.unwrap_err();
    assert!(matches!(error, ProbeError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains("criu --version did not answer"), "{error}");

    // Its end comes with its PID; it may not even have got as far as saying it.
    let Ok(pid) = fs::read_to_string(&pid_file) else { return };
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    let running =
        || fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).is_ok_and(|line| line.contains("1000"));
    while running() {
        assert!(std::time::Instant::now() < deadline, "it still runs");
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_named_one_is_taken_or_refused_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let criu = fake(dir.path(), "4.2.1", "");
    assert_eq!(find_with(Some(&criu), |_| None).unwrap(), criu);
    let by_environment = |name: &str| (name == "MIGRATE_CRIU").then(|| criu.clone().into_os_string());
    assert_eq!(find_with(None, by_environment).unwrap(), criu);
    let wrong = dir.path().join("nothing");
    let error = find_with(Some(&wrong), by_environment).unwrap_err();
    assert!(matches!(error, ProbeError::NotExecutable { path } if path == wrong));
}

#[test]
fn the_private_one_comes_before_the_system_s() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("prefix/bin");
    let system = dir.path().join("system");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir(&system).unwrap();
    let variable = |name: &str| match name {
        "MIGRATE_CRIU_PREFIX" => Some(dir.path().join("prefix").into_os_string()),
        "PATH" => Some(system.clone().into_os_string()),
        _ => None,
    };
    let in_system = fake(&system, "4.2.1", "");
    assert_eq!(find_with(None, variable).unwrap(), in_system);
    let private = fake(&bin, "4.2.1", "");
    assert_eq!(find_with(None, variable).unwrap(), private);
    fs::set_permissions(&private, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(find_with(None, variable).unwrap(), in_system);
}
