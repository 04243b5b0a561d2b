//! The file of a module, and the proof that what was loaded is what was digested.
//!
//! The file could be loaded by its descriptor (`/proc/self/fd/N`), but then the library would not know its own path, nor find what lies beside it.
//! So the file is kept open, digested, loaded by its path, and afterwards compared: with itself as it was, and with what the dynamic linker has
//! mapped.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A file that is about to be loaded as a module.
pub(super) struct ModuleFile {
    path: PathBuf,
    file: File,
    before: Stamp,
    digest: String,
}

/// What tells that a file was replaced or written to. Whoever writes to it may set the time of the last write back, but not that of the last change.
#[derive(PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl ModuleFile {
    /// Opens and digests it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let before = Stamp::of(&file.metadata()?);
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(size) => digest.update(&buffer[..size]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        let digest = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path: path.to_owned(), file, before, digest })
    }

    /// SHA-256 of its content, in lower case.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// The digest of the library that was loaded by this path; `None`: it may be another's, for the file was replaced or written to meanwhile.
    pub(super) fn digest_of_loaded(self) -> Option<String> {
        let is_same = |metadata: io::Result<Metadata>| metadata.is_ok_and(|metadata| Stamp::of(&metadata) == self.before);
        let is_unchanged = is_same(self.file.metadata()) && is_same(std::fs::metadata(&self.path));
        (is_unchanged && mapped::is_mapped_from(&self.path, &self.file).unwrap_or(true)).then_some(self.digest)
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod mapped {
    use std::ffi::{CString, c_void};
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::ptr;

    /// The beginning of glibc's `struct link_map`.
    #[repr(C)]
    struct LinkMap {
        address: usize,
        name: *const libc::c_char,
        dynamic: *const c_void,
    }

    /// Whether the library that is loaded by this path is mapped from this file; `None`: the system does not say. Both are looked up in the
    /// process's list of mappings, since some file systems name a file otherwise there than `stat` does.
    pub(super) fn is_mapped_from(path: &Path, file: &File) -> Option<bool> {
        let library = address_of(path)?;
        let page = Page::of(file)?;
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        Some(file_at(&maps, library as usize)? == file_at(&maps, page.0 as usize)?)
    }

    /// An address in the library.
    fn address_of(path: &Path) -> Option<*const c_void> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        // SAFETY: the path ends with NUL; a library that is loaded is only found, and nothing of it is run.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if handle.is_null() {
            return None;
        }
        let mut map: *const LinkMap = ptr::null();
        // SAFETY: the handle is good, and `map` is where one pointer may be written.
        let code = unsafe { libc::dlinfo(handle, libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) };
        // SAFETY: written by `dlinfo`, and it stays while the library is loaded.
        let dynamic = if code == 0 && !map.is_null() { Some(unsafe { (*map).dynamic }) } else { None };
        // SAFETY: gives back the handle of above; the library has another, which is never given back.
        unsafe { libc::dlclose(handle) };
        dynamic
    }

    /// A page of a file, mapped.
    struct Page(*mut c_void);

    impl Page {
        fn of(file: &File) -> Option<Self> {
            // SAFETY: maps one page anywhere; nobody reads it.
            let page = unsafe { libc::mmap(ptr::null_mut(), 1, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
            (page != libc::MAP_FAILED).then_some(Self(page))
        }
    }

    impl Drop for Page {
        fn drop(&mut self) {
            // SAFETY: mapped by `of`, and nobody has its address.
            unsafe { libc::munmap(self.0, 1) };
        }
    }

    /// Device and inode of the mapping at an address.
    fn file_at(maps: &str, address: usize) -> Option<(&str, &str)> {
        maps.lines().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (from, to) = words.next()?.split_once('-')?;
            let range = usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?;
            let (device, inode) = (words.nth(2)?, words.next()?);
            range.contains(&address).then_some((device, inode))
        })
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod mapped {
    use std::fs::File;
    use std::path::Path;

    pub(super) fn is_mapped_from(_path: &Path, _file: &File) -> Option<bool> {
        None
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::ffi::CString;
    use std::fs;
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A library of its own: a copy of one that every Rust program has loaded.
    fn library() -> PathBuf {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let original = maps.split_ascii_whitespace().find(|word| word.contains("/libgcc_s")).unwrap();
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let copy = std::env::temp_dir().join(format!("pkcs11_pool-{}-{number}.so", std::process::id()));
        fs::copy(original, &copy).unwrap();
        copy.canonicalize().unwrap()
    }

    fn load(path: &Path) {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a library of the system's.
        assert!(!unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) }.is_null());
    }

    fn digest(path: &Path) -> String {
        Sha256::digest(fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The digest of what was loaded, where `swap` comes between the digest and the load, and `after` behind it.
    fn loaded(swap: impl Fn(&Path), after: impl Fn(&Path)) -> (Option<String>, String) {
        let path = library();
        let file = ModuleFile::open(&path).unwrap();
        let expected = digest(&path);
        assert_eq!(file.digest(), expected);
        swap(&path);
        load(&path);
        after(&path);
        let digest = file.digest_of_loaded();
        let _ = fs::remove_file(&path);
        (digest, expected)
    }

    fn replace(path: &Path) {
        fs::rename(library(), path).unwrap();
    }

    #[test]
    fn what_was_loaded_has_the_digest_of_its_file() {
        let (digest, expected) = loaded(|_| (), |_| ());
        assert_eq!(digest, Some(expected));
    }

    #[test]
    fn a_file_that_is_replaced_or_written_to_meanwhile_has_none() {
        let append = |path: &Path| fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"x").unwrap();
        assert_eq!(loaded(replace, |_| ()).0, None);
        assert_eq!(loaded(append, |_| ()).0, None);
        assert_eq!(loaded(|_| (), replace).0, None);
        assert_eq!(loaded(|_| (), append).0, None);
    }

    #[test]
    fn another_file_is_not_taken_for_what_is_mapped_whatever_its_times_say() {
        let (path, other) = (library(), library());
        load(&path);
        assert_eq!(mapped::is_mapped_from(&path, &File::open(&path).unwrap()), Some(true));
        assert_eq!(mapped::is_mapped_from(&path, &File::open(&other).unwrap()), Some(false));
        for path in [path, other] {
            fs::remove_file(path).unwrap();
        }
    }
}
