//! What CRIU leaves or streams and we look into: `files.img`, its figures, its log. A workload has its say in all three.

use std::path::Path;

use migrate_criu::{failure, mend, stats};
use migrate_proto::api::Exit;

/// The first byte says which: an image as it is, an image with its beginning put right, figures, a log.
pub(crate) fn run(input: &[u8], scratch: &Path) {
    let Some((which, rest)) = input.split_first() else { return };
    match which % 4 {
        0 => image(rest.to_vec()),
        1 => image([&0x5456_4319u32.to_ne_bytes(), &0x5630_3138u32.to_ne_bytes(), rest].concat()),
        2 => figures(rest, scratch),
        _ => log(rest),
    }
}

/// Nothing changes but one bit for each timer; and what was mended needs no mending.
fn image(image: Vec<u8>) {
    let (mended, result) = mend::mend("files.img", image.clone());
    let changed = image.iter().zip(&mended).filter(|(before, after)| before != after);
    assert_eq!(image.len(), mended.len());
    let changes = changed.map(|(before, after)| assert_eq!(before | 1, *after)).count();
    match result {
        Err(_) => assert_eq!(changes, 0),
        Ok(timers) => {
            assert_eq!(changes, timers.len());
            assert_eq!(mend::mend("files.img", mended.clone()), (mended, Ok(vec![])));
        }
    }
}

fn figures(bytes: &[u8], scratch: &Path) {
    for name in ["stats-dump", "stats-restore"] {
        std::fs::write(scratch.join(name), bytes).expect("the scratch directory can be written to");
    }
    let dumped = stats::dump(scratch).is_ok();
    let restored = stats::restore(scratch).is_ok();
    assert!(bytes.len() >= 12 || !(dumped || restored));
    for name in ["stats-dump", "stats-restore"] {
        std::fs::remove_file(scratch.join(name)).expect("it was written");
    }
}

/// What a person is shown is short, and holds nothing that a terminal would obey.
fn log(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (log, stderr) = text.split_once('\0').unwrap_or((&text, ""));
    let failure = failure::explain(log, stderr, Exit::Code(1));
    assert!(failure.first_error.chars().count() <= 401, "{}", failure.first_error.len());
    assert!(failure.tail.lines().count() <= 30);
    assert!(failure.tail.lines().all(|line| line.chars().count() <= 401));
    let obeyed = |c: char| c.is_control() && c != '\n';
    assert!(!failure.to_string().contains(char::is_control) && !failure.tail.contains(obeyed), "{failure:?}");
}
