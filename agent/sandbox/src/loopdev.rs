//! Loop devices: a file as a block device, which goes away by itself when its last user does.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Result, SandboxError};

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const ATTEMPTS: usize = 64;

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
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// Attaches `file` to a free loop device. The device is freed when the returned file and every mount of it are gone.
pub(crate) fn attach(file: &Path) -> Result<File> {
    let backing = OpenOptions::new().read(true).write(true).open(file).map_err(SandboxError::file("open", file))?;
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
    let mut info = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: LO_FLAGS_AUTOCLEAR,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    // Shown by `losetup`; the end of the path says more than its beginning.
    let shown = path.as_os_str().as_bytes();
    let shown = &shown[shown.len().saturating_sub(63)..];
    info.file_name[..shown.len()].copy_from_slice(shown);
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
    fn the_layout_is_the_kernels() {
        assert_eq!(std::mem::size_of::<LoopInfo>(), 232);
        assert_eq!(std::mem::size_of::<LoopConfig>(), 304);
    }
}
