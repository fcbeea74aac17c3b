//! Loop devices: a file as a block device, which goes away by itself when its last user does.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Result, SandboxError};

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const ATTEMPTS: usize = 64;
/// How long somebody who still looks at a layer may take to let go of it.
const LETTING_GO: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// `struct loop_config` of the kernel: the descriptor, the block size (0: default) and `struct loop_info64`, of which only
/// the flags matter here.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

#[repr(C)]
#[derive(Default)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: Name,
    crypt_name: Name,
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// A name, ended by zeros.
#[repr(C)]
struct Name([u8; 64]);

impl Default for Name {
    fn default() -> Name {
        Name([0; 64])
    }
}

/// Attaches `file` to a free loop device. The device is freed when the returned file and every mount of it are gone.
///
/// A file that some device holds already is waited for, and then refused: a mount outlives its sandbox for as long as
/// anybody has a descriptor in it, and two mounts of one file system destroy it.
pub(crate) fn attach(file: &Path) -> Result<File> {
    attach_within(file, LETTING_GO)
}

fn attach_within(file: &Path, patience: Duration) -> Result<File> {
    let backing = OpenOptions::new().read(true).write(true).open(file).map_err(SandboxError::file("open", file))?;
    await_release(&backing, file, patience)?;
    let control_path = Path::new("/dev/loop-control");
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open(control_path)
        .map_err(SandboxError::file("open", control_path))?;
    for _ in 0..ATTEMPTS {
        let number = free_device(&control)?;
        let device = open_device(number)?;
        match configure(&device, &backing, file) {
            Ok(()) => return Ok(device),
            // Another process was faster with this one.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(SandboxError::System { call: "LOOP_CONFIGURE", source: error }),
        }
    }
    Err(SandboxError::System { call: "LOOP_CONFIGURE", source: io::Error::from_raw_os_error(libc::EBUSY) })
}

fn await_release(backing: &File, path: &Path, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    while let Some(device) = holder(backing).map_err(SandboxError::file("look for loop devices of", path))? {
        if Instant::now() >= deadline {
            return Err(SandboxError::StillMounted { path: path.to_owned(), device });
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// The number of the loop device that has this file, under whatever name.
fn holder(backing: &File) -> io::Result<Option<u32>> {
    let wanted = backing.metadata()?;
    for entry in std::fs::read_dir("/sys/block")?.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("loop")).and_then(|rest| rest.parse().ok());
        let Some(number) = number else { continue };
        // Only a device that has a file has this directory.
        if !entry.path().join("loop").exists() {
            continue;
        }
        // One that cannot be looked at has just been let go of.
        let Ok(Some(info)) = open_device(number as i32).map(|device| status(&device)) else { continue };
        if (info.device, info.inode) == (wanted.dev(), wanted.ino()) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// What a device has; `None` where that is nothing.
#[allow(unsafe_code)]
fn status(device: &File) -> Option<LoopInfo> {
    let mut info = LoopInfo::default();
    // SAFETY: the kernel writes a loop_info64 to the pointer, which outlives the call.
    (unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &mut info) } == 0).then_some(info)
}

#[allow(unsafe_code)]
fn free_device(control: &File) -> Result<i32> {
    // SAFETY: this request takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    if number < 0 {
        return Err(SandboxError::System { call: "LOOP_CTL_GET_FREE", source: io::Error::last_os_error() });
    }
    Ok(number)
}

fn open_device(number: i32) -> Result<File> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    if !path.exists() {
        // In a container /dev is not the kernel's own: the node must be made.
        let device = nix::sys::stat::makedev(7, number as u64);
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        nix::sys::stat::mknod(&path, nix::sys::stat::SFlag::S_IFBLK, mode, device)
            .or_else(|error| if error == nix::Error::EEXIST { Ok(()) } else { Err(error) })
            .map_err(SandboxError::file("make device", &path))?;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(&path)
        .map_err(SandboxError::file("open", &path))
}

#[allow(unsafe_code)]
fn configure(device: &File, backing: &File, path: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let mut info = LoopInfo { flags: LO_FLAGS_AUTOCLEAR, ..LoopInfo::default() };
    // Shown by `losetup`; the end of the path says more than its beginning.
    let shown = path.as_os_str().as_bytes();
    let shown = &shown[shown.len().saturating_sub(63)..];
    info.file_name.0[..shown.len()].copy_from_slice(shown);
    let config = LoopConfig { fd: backing.as_raw_fd() as u32, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: the kernel reads a loop_config from the pointer, which outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &config) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Read;

    #[test]
    fn a_file_becomes_a_device_and_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, [7u8; 8192]).unwrap();
        let mut device = attach(&path).unwrap();
        let mut first = [0u8; 16];
        device.read_exact(&mut first).unwrap();
        assert_eq!(first, [7; 16]);
    }

    #[test]
    fn a_file_is_attached_once_and_again_when_it_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let other_name = dir.path().join("other-name");
        std::fs::write(&path, [7u8; 8192]).unwrap();
        std::fs::hard_link(&path, &other_name).unwrap();
        let first = attach(&path).unwrap();
        assert!(holder(&File::open(&other_name).unwrap()).unwrap().is_some(), "whatever its name");
        let error = attach_within(&other_name, Duration::ZERO).unwrap_err();
        assert!(matches!(error, SandboxError::StillMounted { .. }), "{error}");
        drop(first);
        attach(&other_name).unwrap();
    }

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(std::mem::size_of::<LoopInfo>(), 232);
        assert_eq!(std::mem::size_of::<LoopConfig>(), 304);
    }
}
