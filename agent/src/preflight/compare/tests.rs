#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use migrate_proto::id::Digest;
use migrate_proto::spec::default_layer_bytes;

use super::*;

fn node() -> NodeName {
    "node1".parse().unwrap()
}

fn spec(volumes: Vec<Volume>) -> WorkloadSpec {
    WorkloadSpec {
        name: "w".parse().unwrap(),
        argv: vec!["x".into()],
        env: Vec::new(),
        dir: None,
        user: None,
        volumes,
        own_root: false,
        memory_bytes: None,
        cpu_milli: None,
        layer_bytes: default_layer_bytes(),
    }
}

fn needs() -> Needs {
    Needs {
        criu_version: "4.2.1".into(),
        kernel: "6.18".into(),
        arch: cpu::arch(),
        cpu_flags: cpu::flags().unwrap(),
        mapped_files: Vec::new(),
    }
}

fn criu(version: Version) -> Capabilities {
    Capabilities { path: "/criu".into(), version, features: BTreeMap::new(), kernel: "6.18".into() }
}

fn file(path: &str, content: &[u8]) -> MappedFile {
    let identity = FileIdentity::Digest(Digest::of(content));
    MappedFile { path: path.into(), size: content.len() as u64, identity }
}

fn flags(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[test]
fn a_node_is_equal_to_itself() {
    assert_eq!(compare(&needs(), &spec(vec![]), &criu(Version(4, 2, 1)), &node()), []);
    assert_eq!(compare(&needs(), &spec(vec![]), &criu(Version(4, 3, 0)), &node()), []);
}

#[test]
fn an_older_criu_is_refused() {
    let problem = compare(&needs(), &spec(vec![]), &criu(Version(4, 2, 0)), &node()).remove(0);
    assert_eq!(problem.code, Code::Incompatible);
    assert_eq!(problem.message, "the target's CRIU 4.2.0 is older than the 4.2.1 on node1");
    assert_eq!(problem.hint, "run scripts/setup on the target");
    let unreadable = Needs { criu_version: "new\n".into(), ..needs() };
    let problem = compare(&unreadable, &spec(vec![]), &criu(Version(4, 2, 0)), &node()).remove(0);
    assert_eq!(problem.message, "node1 has a CRIU of the unreadable version 'new\\n'");
}

#[test]
fn a_lesser_cpu_is_refused_and_few_features_are_named() {
    let wanted = Needs { arch: "x86_64".into(), cpu_flags: flags("sse2 vmx a1 a2 a3 a4 a5 a6 a7"), ..needs() };
    assert!(compare_cpu(&wanted, "x86_64", &wanted.cpu_flags, &node()).is_none());
    let problem = compare_cpu(&wanted, "x86_64", &flags("sse2"), &node()).unwrap();
    assert_eq!(
        problem.message,
        "the target's CPU lacks what the workload may be using on node1: a1, a2, a3, a4, a5 and 2 more"
    );
    let problem = compare_cpu(&wanted, "aarch64", &wanted.cpu_flags, &node()).unwrap();
    assert_eq!(problem.message, "the target is a machine of type aarch64, and node1 is x86_64");
    assert_eq!(problem.code, Code::Incompatible);
}

#[test]
fn files_are_compared_by_size_and_content() {
    let dir = tempfile::tempdir().unwrap();
    let root = open_root(dir.path()).unwrap();
    let ask = |files: &[MappedFile]| compare_files(files, &spec(vec![]), &root);
    for name in ["same", "longer", "other"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    assert_eq!(ask(&[file("/same", b"same")]), None);
    let wrong = [
        file("/gone", b""),
        file("/same", b"same"),
        file("/longer", b"long"),
        file("/other", b"rehto"),
        file("/a", b""),
        file("/b", b""),
    ];
    let problem = ask(&wrong).unwrap();
    assert_eq!(problem.code, Code::FileMismatch);
    assert_eq!(
        problem.message,
        "files that it uses are not the same on the target: /gone is missing; /longer has 6 bytes instead of 4; /other has \
         other content and 2 more"
    );
    assert!(problem.hint.contains("same packages"), "{}", problem.hint);
}

#[test]
fn another_build_is_told_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy("/bin/sh", dir.path().join("sh")).unwrap();
    let root = open_root(dir.path()).unwrap();
    let known = identity::of(&root, &"/sh".into()).unwrap();
    let needed = |identity| MappedFile { path: "/sh".into(), size: known.size, identity };
    assert_eq!(compare_files(&[needed(known.identity.clone())], &spec(vec![]), &root), None);
    let FileIdentity::BuildId(id) = known.identity.clone() else { panic!("no build-id") };
    let problem = compare_files(&[needed(FileIdentity::BuildId(vec![0xab; 20]))], &spec(vec![]), &root).unwrap();
    let said = format!("/sh is another build ({} instead of abababababab)", short(&id));
    assert!(problem.message.contains(&said), "{}", problem.message);
}

#[test]
fn what_cannot_be_opened_as_a_file_differs_and_links_do_not_lead_out() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("dir")).unwrap();
    symlink("/etc/passwd", dir.path().join("link")).unwrap();
    let root = open_root(dir.path()).unwrap();
    let say = |path: &str| difference(&file(path, b""), &spec(vec![]), &root).unwrap();
    assert_eq!(say("/dir"), "/dir cannot be read (it is a directory)");
    assert_eq!(say("/link"), "/link is missing");
    assert_eq!(say("relative/../../x"), "relative/../../x is missing");
}

#[test]
fn a_file_of_a_volume_is_looked_for_where_the_volume_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("shared")).unwrap();
    fs::write(dir.path().join("shared/x"), "content").unwrap();
    let root = open_root(dir.path()).unwrap();
    let volume = Volume { source: "/shared".into(), target: "/work/data".into(), read_only: true };
    assert_eq!(difference(&file("/work/data/x", b"content"), &spec(vec![volume.clone()]), &root), None);
    let said = difference(&file("/work/data/y", b"content"), &spec(vec![volume]), &root);
    assert_eq!(said.unwrap(), "/work/data/y is missing");
}

#[test]
fn a_missing_volume_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let volume = |path: &Path| Volume {
        source: Text::new(path.as_os_str().as_encoded_bytes()).unwrap(),
        target: "/x".into(),
        read_only: false,
    };
    assert_eq!(compare_volumes(&[volume(dir.path())]), None);
    let gone = dir.path().join("gone");
    let problem = compare_volumes(&[volume(dir.path()), volume(&gone)]).unwrap();
    let said = format!("the volume {} does not exist on the target", gone.display());
    assert_eq!((problem.code, problem.message), (Code::Incompatible, said));
}
