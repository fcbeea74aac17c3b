//! Loop devices that still show a file of the lab. Those of a node that lost power let go by themselves; this is for what is
//! left when something went wrong.

use std::path::{Path, PathBuf};

use super::LabError;
use super::tool::run_if_there;

/// Detaches every loop device whose file is below `lab`.
pub(super) fn detach_below(lab: &Path) -> Result<(), LabError> {
    for device in devices_below(Path::new("/sys/block"), lab) {
        run_if_there(&["losetup".as_ref(), "--detach".as_ref(), device.as_os_str()])?;
    }
    Ok(())
}

fn devices_below(block_devices: &Path, lab: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(block_devices).into_iter().flatten().flatten();
    let shows_the_lab = |device: &Path| {
        let file = std::fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default();
        Path::new(file.trim_end_matches('\n')).starts_with(lab)
    };
    entries
        .filter(|entry| shows_the_lab(&entry.path()))
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_devices_with_a_file_of_the_lab_are_found() {
        let sys = tempfile::tempdir().unwrap();
        for (device, file) in
            [("loop0", "/lab/node1/state/layer"), ("loop1", "/laboratory/x"), ("loop2", "/lab/a (deleted)")]
        {
            std::fs::create_dir_all(sys.path().join(device).join("loop")).unwrap();
            std::fs::write(sys.path().join(device).join("loop/backing_file"), format!("{file}\n")).unwrap();
        }
        std::fs::create_dir(sys.path().join("vda")).unwrap();
        let mut found = devices_below(sys.path(), Path::new("/lab"));
        found.sort();
        assert_eq!(found, [PathBuf::from("/dev/loop0"), PathBuf::from("/dev/loop2")]);
    }
}
