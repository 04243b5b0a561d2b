//! A PIN in a file. The file is opened once, and what was opened is what is judged and read: it changes nothing if somebody puts another file in its place,
//! or turns a link, in between.
//!
//! * Only a regular file, of at most 4 KiB.
//! * Never one that its group or others may write: somebody else would say what the PIN is.
//! * One that its group or others may read is taken where that is how secrets are mounted, see [`Readers`], or where the caller allows it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::support::pin::Pin;

/// The most bytes of a file.
const LARGEST: usize = 4096;

const READ_BY_OTHERS: u32 = 0o044;
const WRITTEN_BY_OTHERS: u32 = 0o022;

/// Who may read the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Its owner.
    Owner,
    /// Others too, in a mount that nobody may write to: the secrets of Kubernetes and Docker.
    ReadOnlyMount,
    /// Others too, in a mount of root's: it is not the root file system, and the file, its folder and each folder above it, up to the one
    /// where the mount begins, belong to root and may be written by nobody else.
    MountOfRoot,
    /// Others too, which the caller allows.
    Any,
}

/// Why a file gives no PIN.
#[derive(Debug, thiserror::Error)]
pub enum PinFileError {
    /// It cannot be opened or read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A folder, a pipe, a device.
    #[error("not a regular file")]
    NotRegular,
    /// It has more bytes than a PIN may have.
    #[error("larger than {LARGEST} bytes")]
    TooLarge,
    /// Its group or others may read it.
    #[error("group or others may read it")]
    Readable,
    /// Its group or others may write it.
    #[error("group or others may write it")]
    Writable,
}

/// The bytes of a file, and who may read them. `allow_readable`: it is taken whoever may.
pub fn read_pin_file(path: &Path, allow_readable: bool) -> Result<(Pin, Readers), PinFileError> {
    // A pipe that nobody writes to is opened without waiting, and then refused; a terminal does not become ours.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(PinFileError::NotRegular);
    }
    let mounted = || match is_read_only(&file) {
        true => Some(Readers::ReadOnlyMount),
        false => is_in_mount_of_root(path, &metadata).then_some(Readers::MountOfRoot),
    };
    let readers = find_readers(metadata.mode(), allow_readable, mounted)?;
    Ok((read_all(&mut file)?, readers))
}

/// Who may read a file of this mode, or why it is not taken. `mounted`: the kind of mount, if it is one in which others may.
fn find_readers(mode: u32, allow_readable: bool, mounted: impl FnOnce() -> Option<Readers>) -> Result<Readers, PinFileError> {
    if mode & WRITTEN_BY_OTHERS != 0 {
        Err(PinFileError::Writable)
    } else if mode & READ_BY_OTHERS == 0 {
        Ok(Readers::Owner)
    } else if allow_readable {
        Ok(Readers::Any)
    } else {
        mounted().ok_or(PinFileError::Readable)
    }
}

/// Reads into one buffer that never moves, lest a copy of the PIN is left behind.
fn read_all(file: &mut File) -> Result<Pin, PinFileError> {
    let mut buffer = Zeroizing::new([0; LARGEST + 1]);
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => return Ok(Pin::new(buffer[..length].to_vec())),
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error.into()),
        }
    }
    Err(PinFileError::TooLarge)
}

/// Whether the mount through which the file was opened is read-only.
fn is_read_only(file: &File) -> bool {
    // SAFETY: a statvfs of zeros is valid.
    let mut about: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open as long as `file` is, and `about` is a statvfs of this function's.
    let done = unsafe { libc::fstatvfs(file.as_raw_fd(), &mut about) };
    done == 0 && about.f_flag & libc::ST_RDONLY != 0
}

/// Whether the file lies in a mount of root's. Where all folders are root's, nobody else can have put another one in their place meanwhile.
fn is_in_mount_of_root(path: &Path, opened: &Metadata) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    let same = |found: Metadata| found.dev() == opened.dev() && found.ino() == opened.ino();
    if opened.uid() != 0 || !path.symlink_metadata().is_ok_and(same) {
        return false;
    }
    let Ok(root) = Path::new("/").metadata() else { return false };
    if opened.dev() == root.dev() {
        return false;
    }
    for folder in path.ancestors().skip(1) {
        match folder.symlink_metadata() {
            // Above the mount.
            Ok(found) if found.dev() != opened.dev() => return true,
            Ok(found) if found.uid() == 0 && found.mode() & WRITTEN_BY_OTHERS == 0 => (),
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(mode: u32, any: bool, mounted: Option<Readers>) -> Result<Readers, String> {
        find_readers(mode, any, || mounted).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_that_others_may_write_is_never_taken() {
        for mode in [0o620, 0o602, 0o666, 0o420, 0o022] {
            for (any, mounted) in
                [(false, None), (true, None), (false, Some(Readers::ReadOnlyMount)), (true, Some(Readers::MountOfRoot))]
            {
                assert_eq!(judged(mode, any, mounted), Err("group or others may write it".into()));
            }
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_taken_from_a_mount_or_where_it_is_allowed() {
        for mode in [0o640, 0o604, 0o444, 0o440] {
            assert_eq!(judged(mode, false, None), Err("group or others may read it".into()));
            assert_eq!(judged(mode, false, Some(Readers::ReadOnlyMount)), Ok(Readers::ReadOnlyMount));
            assert_eq!(judged(mode, false, Some(Readers::MountOfRoot)), Ok(Readers::MountOfRoot));
            assert_eq!(judged(mode, true, None), Ok(Readers::Any));
        }
        for mode in [0o400, 0o600, 0o700] {
            assert_eq!(judged(mode, true, Some(Readers::ReadOnlyMount)), Ok(Readers::Owner));
        }
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused() {
        assert!(matches!(read_pin_file(Path::new("/"), true), Err(PinFileError::NotRegular)));
        assert!(matches!(read_pin_file(Path::new("/dev/zero"), true), Err(PinFileError::NotRegular)));
        // The test's own binary, which may be the user's alone to write or not.
        let large = std::env::current_exe().expect("this test");
        assert!(matches!(read_pin_file(&large, true), Err(PinFileError::TooLarge | PinFileError::Writable)));
        assert!(matches!(read_pin_file(Path::new("/no/such/file"), true), Err(PinFileError::Io(_))));
    }
}
