//! Values in a folder: one file each, named by its key, with a checksum in front.
//!
//! Files are written beside their place and then moved there, so that no half one is ever found; and whatever a disk or
//! a person did to one is seen by its checksum, and the file dropped.

use super::{Behind, Bytes, Counts, Key, Layer, Reason};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// In front of the value.
const MAGIC: &[u8; 8] = b"fgcache1";
const HEAD: usize = MAGIC.len() + 32;
const ENDING: &str = "fgc";

/// The folder.
pub(super) struct Disk {
    root: PathBuf,
    most: u64,
    age: Option<Duration>,
    counts: Arc<Counts>,
    /// Every file there is: its size, and its place in `order`.
    files: HashMap<String, (u64, u64)>,
    /// Names from the least to the most recently used.
    order: BTreeMap<u64, String>,
    turn: u64,
    bytes: u64,
}

fn checksum(name: &str, value: &[u8]) -> [u8; 32] {
    // With the name: a file under another's name is as wrong as a broken one.
    let mut hash = Sha256::new();
    hash.update(name.as_bytes());
    hash.update(value);
    hash.finalize().into()
}

impl Disk {
    pub(super) fn open(root: &Path, most: u64, age: Option<Duration>, counts: Arc<Counts>) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        let mut found = Vec::new();
        for folder in std::fs::read_dir(root)?.flatten().filter(|f| f.path().is_dir()) {
            for file in std::fs::read_dir(folder.path())?.flatten() {
                let path = file.path();
                let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned();
                if path.extension().is_some_and(|e| e == "tmp") {
                    // Left by a process that died while writing.
                    let _ = std::fs::remove_file(&path);
                } else if path.extension().is_some_and(|e| e == ENDING)
                    && let Ok(about) = file.metadata()
                {
                    found.push((about.modified().unwrap_or(SystemTime::UNIX_EPOCH), name, about.len()));
                }
            }
        }
        found.sort();
        let (files, order) = (HashMap::new(), BTreeMap::new());
        let mut disk = Self { root: root.to_owned(), most, age, counts, files, order, turn: 0, bytes: 0 };
        for (_, name, bytes) in found {
            disk.note(&name, bytes);
        }
        disk.make_room(0);
        Ok(disk)
    }

    fn path(&self, name: &str) -> PathBuf {
        // Folders of 256 keep directories short. Names are ours, or they were skipped when the folder was read.
        self.root.join(name.get(..2).unwrap_or("00")).join(format!("{name}.{ENDING}"))
    }

    /// This file is there, and was just used.
    fn note(&mut self, name: &str, bytes: u64) {
        self.forget(name);
        self.turn += 1;
        self.order.insert(self.turn, name.to_owned());
        self.files.insert(name.to_owned(), (bytes, self.turn));
        self.bytes += bytes;
        self.counts.set_bytes(Layer::Disk, self.bytes);
    }

    fn forget(&mut self, name: &str) {
        if let Some((bytes, turn)) = self.files.remove(name) {
            self.order.remove(&turn);
            self.bytes -= bytes;
            self.counts.set_bytes(Layer::Disk, self.bytes);
        }
    }

    fn drop_file(&mut self, name: &str, reason: Reason) {
        let _ = std::fs::remove_file(self.path(name));
        self.forget(name);
        self.counts.dropped(reason);
    }

    fn make_room(&mut self, bytes: u64) {
        while self.bytes + bytes > self.most {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.drop_file(&oldest, Reason::Full);
        }
    }

    fn write(&self, name: &str, value: &[u8]) -> io::Result<u64> {
        let path = self.path(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Two programs may share a folder.
        let beside = path.with_extension(format!("{}.tmp", std::process::id()));
        let all = [MAGIC, &checksum(name, value)[..], value].concat();
        let written = std::fs::write(&beside, &all).and_then(|()| std::fs::rename(&beside, &path));
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        written.map(|()| all.len() as u64)
    }
}

impl Behind for Disk {
    fn find(&mut self, key: &Key) -> Option<Bytes> {
        let name = key.to_string();
        let (bytes, _) = *self.files.get(&name)?;
        let path = self.path(&name);
        let age = std::fs::metadata(&path).and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if self.age.is_some_and(|most| age.is_some_and(|age| age >= most)) {
            self.drop_file(&name, Reason::Old);
            return None;
        }
        let read = match std::fs::read(&path) {
            Ok(all) => all,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Another program, or a person, took it away.
                self.forget(&name);
                return None;
            }
            Err(_) => {
                self.drop_file(&name, Reason::Failed);
                return None;
            }
        };
        let whole = read.len() >= HEAD
            && read[..MAGIC.len()] == *MAGIC
            && read[MAGIC.len()..HEAD] == checksum(&name, &read[HEAD..]);
        if !whole {
            tracing::warn!(file = %path.display(), "a file of the cache is not what was written; dropped");
            self.drop_file(&name, Reason::Corrupt);
            return None;
        }
        self.note(&name, bytes);
        Some(Bytes::from(read).slice(HEAD..))
    }

    fn keep(&mut self, key: &Key, value: &[u8]) {
        let bytes = (value.len() + HEAD) as u64;
        if bytes > self.most {
            self.counts.dropped(Reason::Full);
            return;
        }
        let name = key.to_string();
        self.forget(&name);
        self.make_room(bytes);
        match self.write(&name, value) {
            Ok(bytes) => self.note(&name, bytes),
            Err(_) => self.counts.dropped(Reason::Failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key::of(&[&[n]])
    }

    fn open(root: &Path, most: u64) -> Disk {
        Disk::open(root, most, None, Arc::default()).unwrap()
    }

    #[test]
    fn a_file_that_was_changed_is_dropped_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = open(dir.path(), 1 << 20);
        for (n, harm) in [
            (1u8, Box::new(|b: &mut Vec<u8>| b[HEAD] ^= 1) as Box<dyn Fn(&mut Vec<u8>)>),
            (2, Box::new(|b| b.truncate(HEAD - 3))),
            (3, Box::new(|b| b.clear())),
            (4, Box::new(|b| b.push(0))),
        ] {
            disk.keep(&key(n), b"value");
            assert_eq!(disk.find(&key(n)).as_deref(), Some(&b"value"[..]));
            let path = disk.path(&key(n).to_string());
            let mut bytes = std::fs::read(&path).unwrap();
            harm(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(disk.find(&key(n)), None);
            assert!(!path.exists());
            assert_eq!(disk.counts.drops(Reason::Corrupt), u64::from(n));
        }
        assert_eq!((disk.bytes, disk.counts.bytes(Layer::Disk)), (0, 0));
    }

    #[test]
    fn the_least_used_files_go_when_the_folder_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = open(dir.path(), 3 * (HEAD as u64 + 100));
        for n in 0..3 {
            disk.keep(&key(n), &[n; 100]);
        }
        assert!(disk.find(&key(0)).is_some());
        disk.keep(&key(3), &[3; 100]);
        assert!(disk.find(&key(1)).is_none());
        assert!(disk.find(&key(0)).is_some() && disk.find(&key(3)).is_some());
        disk.keep(&key(4), &[0; 1000]);
        assert!(disk.find(&key(4)).is_none());
        assert_eq!(disk.counts.drops(Reason::Full), 2);
        // What lies there counts after a restart, and a smaller folder is made of it.
        drop(disk);
        let disk = open(dir.path(), HEAD as u64 + 100);
        assert_eq!(disk.files.len(), 1);
    }

    #[test]
    fn a_file_that_was_taken_away_is_a_miss_and_a_folder_that_cannot_be_written_a_count() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("c");
        let mut disk = open(&root, 1 << 20);
        disk.keep(&key(1), b"value");
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(disk.find(&key(1)), None);
        std::fs::write(&root, b"a file where the folder was").unwrap();
        disk.keep(&key(2), b"value");
        assert_eq!(disk.counts.drops(Reason::Failed), 1);
        assert!(Disk::open(&root, 1, None, Arc::default()).is_err());
    }
}
