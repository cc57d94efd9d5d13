//! A file of lines that survives what happens to files: crashes, full disks, folders that disappear, rotation.

use super::super::SinkError;
use super::super::template::{file_time, make_parent};
use super::Rotate;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A file that lines are appended to. It is opened at the first line, and again whenever it is no longer there.
pub(super) struct LineFile {
    path: PathBuf,
    rotate: Option<Rotate>,
    open: Option<Open>,
    /// Rotation failed and was logged; it is tried again silently.
    cannot_rotate: bool,
}

struct Open {
    file: File,
    /// Device and inode, to notice that the path leads elsewhere by now.
    identity: (u64, u64),
    size: u64,
    /// Number of the rotation's time slot in which it began.
    slot: u64,
    /// The last line is unfinished: an earlier write was cut short and could not be taken back.
    torn: bool,
}

impl LineFile {
    pub fn new(path: PathBuf, rotate: Option<Rotate>) -> Self {
        Self { path, rotate, open: None, cannot_rotate: false }
    }

    /// Appends a line (with its line end), or leaves the file as it was.
    pub fn write(&mut self, line: &[u8], now: SystemTime) -> Result<(), SinkError> {
        let failed = |path: &Path, e: std::io::Error| SinkError(format!("{}: {e}", path.display()));
        if let Some(open) = &self.open {
            // Somebody removed or moved the file, or its folder: what is written to it would be lost unseen.
            let there = std::fs::metadata(&self.path).is_ok_and(|m| identity(&m) == open.identity);
            if !there {
                self.open = None;
            }
        }
        if self.open.is_none() {
            self.open = Some(self.append(now).map_err(|e| failed(&self.path, e))?);
        }
        if let Some(open) = &self.open
            && self.is_due(open, line.len(), now)
        {
            match self.set_aside(now) {
                Ok(()) => {
                    self.cannot_rotate = false;
                    self.open = None;
                    self.open = Some(self.append(now).map_err(|e| failed(&self.path, e))?);
                }
                Err(e) if self.cannot_rotate => tracing::debug!(path = %self.path.display(), error = %e, "not rotated"),
                Err(e) => {
                    tracing::warn!(path = %self.path.display(), error = %e, "not rotated; the file goes on growing");
                    self.cannot_rotate = true;
                }
            }
        }
        match &mut self.open {
            Some(open) => open.write(line).map_err(|e| failed(&self.path, e)),
            None => Err(SinkError(format!("{}: not open", self.path.display()))),
        }
    }

    fn append(&self, now: SystemTime) -> std::io::Result<Open> {
        make_parent(&self.path)?;
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(&self.path)?;
        let about = file.metadata()?;
        let size = if about.is_file() { about.len() } else { 0 };
        let mut torn = false;
        if size > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            torn = last[0] != b'\n';
        }
        // A file found with content belongs to the slot in which it was last written to.
        let began = if size > 0 { about.modified().unwrap_or(now) } else { now };
        Ok(Open { file, identity: identity(&about), size, slot: self.slot(began), torn })
    }

    fn slot(&self, at: SystemTime) -> u64 {
        match self.rotate.and_then(|r| r.every) {
            Some(every) => {
                let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
                (since.as_nanos() / every.0.as_nanos().max(1)) as u64
            }
            None => 0,
        }
    }

    fn is_due(&self, open: &Open, more: usize, now: SystemTime) -> bool {
        let Some(rotate) = self.rotate else { return false };
        let too_large = rotate.size.is_some_and(|limit| open.size + more as u64 > limit.0);
        open.size > 0 && (too_large || self.slot(now) != open.slot)
    }

    /// Moves the file to its name plus the time, and deletes the oldest of those beyond `keep`.
    fn set_aside(&self, now: SystemTime) -> std::io::Result<()> {
        let (stem, extension) = self.name_parts();
        let time = file_time(now, true);
        // Two rotations in one millisecond: the next free name in the same order.
        let target = (0..)
            .map(|n| match n {
                0 => self.path.with_file_name(format!("{stem}-{time}{extension}")),
                n => self.path.with_file_name(format!("{stem}-{time}.{n:06}{extension}")),
            })
            .find(|p| !p.exists());
        if let Some(target) = target {
            std::fs::rename(&self.path, target)?;
        }
        if let Some(keep) = self.rotate.and_then(|r| r.keep) {
            let mut old = self.set_aside_before()?;
            old.sort();
            let excess = old.len().saturating_sub(keep);
            for (_, path) in &old[..excess] {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The name without and from its last dot: `events`, `.jsonl`.
    fn name_parts(&self) -> (String, String) {
        let part = |p: Option<&std::ffi::OsStr>| p.map(|s| s.to_string_lossy().into_owned());
        let extension = part(self.path.extension()).map_or_else(String::new, |e| format!(".{e}"));
        (part(self.path.file_stem()).unwrap_or_default(), extension)
    }

    /// Files that rotation made of this one, with their times. Others that begin alike (`cam-2` beside `cam`) are not among them.
    fn set_aside_before(&self) -> std::io::Result<Vec<(String, PathBuf)>> {
        let (stem, extension) = self.name_parts();
        let folder = match self.path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let time = name.strip_prefix(&format!("{stem}-")).and_then(|n| n.strip_suffix(&extension));
            if let Some(time) = time.filter(|t| is_file_time(t)) {
                found.push((time.to_owned(), entry.path()));
            }
        }
        Ok(found)
    }
}

/// Whether this is a time as rotation writes it: `20260101T120000.123Z`, and perhaps `.000001`.
fn is_file_time(text: &str) -> bool {
    let pattern = b"dddddddd\x54dddddd.ddd\x5a.dddddd";
    (text.len() == 20 || text.len() == 27)
        && text.bytes().zip(pattern).all(|(c, p)| if *p == b'd' { c.is_ascii_digit() } else { c == *p })
}

fn identity(about: &Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

impl Open {
    /// Appends in one write; takes back what a full disk let through of it.
    fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        let ended;
        let bytes = if self.torn {
            ended = [b"\n", line].concat();
            &ended
        } else {
            line
        };
        let mut done = 0;
        while done < bytes.len() {
            match self.file.write(&bytes[done..]) {
                Ok(0) => return Err(self.take_back(done, ErrorKind::WriteZero.into())),
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.take_back(done, e)),
            }
        }
        self.torn = false;
        self.size += done as u64;
        Ok(())
    }

    fn take_back(&mut self, done: usize, error: std::io::Error) -> std::io::Error {
        if done > 0 && self.file.set_len(self.size).is_err() {
            self.size += done as u64;
            self.torn = true;
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::units::{Bytes, Span};
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_767_268_800 + seconds)
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_torn_last_line_is_ended_before_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/a.jsonl");
        LineFile::new(path.clone(), None).write(b"one\n", at(0)).unwrap();
        LineFile::new(path.clone(), None).write(b"two\n", at(0)).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"tor").unwrap();
        LineFile::new(path.clone(), None).write(b"three\n", at(0)).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one\ntwo\ntor\nthree\n");
    }

    #[test]
    fn rotation_by_size_keeps_the_newest_and_touches_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let stranger = dir.path().join("a-20200101T000000.000Z.txt");
        let neighbour = dir.path().join("a-b-20200101T000000.000Z.jsonl");
        std::fs::write(&stranger, "x").unwrap();
        std::fs::write(&neighbour, "x").unwrap();
        let rotate = Rotate { size: Some(Bytes(10)), every: None, keep: Some(2) };
        let mut file = LineFile::new(dir.path().join("a.jsonl"), Some(rotate));
        for i in 0..5 {
            // Two of the rotations fall into one millisecond.
            file.write(format!("line{i}..\n").as_bytes(), at(i.min(3))).unwrap();
        }
        assert_eq!(
            names(dir.path()),
            [
                "a-20200101T000000.000Z.txt",
                "a-20260101T120003.000Z.000001.jsonl",
                "a-20260101T120003.000Z.jsonl",
                "a-b-20200101T000000.000Z.jsonl",
                "a.jsonl"
            ]
        );
        assert_eq!(std::fs::read_to_string(dir.path().join("a.jsonl")).unwrap(), "line4..\n");
        assert_eq!(std::fs::read_to_string(dir.path().join("a-20260101T120003.000Z.jsonl")).unwrap(), "line2..\n");
    }

    #[test]
    fn rotation_by_time_is_aligned_to_the_clock() {
        let dir = tempfile::tempdir().unwrap();
        let rotate = Rotate { size: None, every: Some(Span(Duration::from_secs(3600))), keep: None };
        let mut file = LineFile::new(dir.path().join("a.jsonl"), Some(rotate));
        for s in [10, 3599, 3600, 3601, 7300] {
            file.write(format!("{s}\n").as_bytes(), at(s)).unwrap();
        }
        assert_eq!(names(dir.path()), ["a-20260101T130000.000Z.jsonl", "a-20260101T140140.000Z.jsonl", "a.jsonl"]);
        assert_eq!(std::fs::read_to_string(dir.path().join("a-20260101T130000.000Z.jsonl")).unwrap(), "10\n3599\n");
    }

    #[test]
    fn a_removed_folder_is_made_again_and_one_that_cannot_be_is_an_error_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("out");
        let mut file = LineFile::new(folder.join("a.jsonl"), None);
        file.write(b"1\n", at(0)).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        file.write(b"2\n", at(0)).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("a.jsonl")).unwrap(), "2\n");
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::write(&folder, "in the way").unwrap();
        assert!(file.write(b"3\n", at(0)).is_err());
        assert!(file.write(b"4\n", at(0)).is_err_and(|e| e.0.contains("a.jsonl")));
        std::fs::remove_file(&folder).unwrap();
        file.write(b"5\n", at(0)).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("a.jsonl")).unwrap(), "5\n");
    }

    #[test]
    fn a_full_disk_is_an_error_for_each_line() {
        let mut file = LineFile::new(PathBuf::from("/dev/full"), None);
        for _ in 0..3 {
            assert!(file.write(b"line\n", at(0)).is_err_and(|e| e.0.contains("No space left")));
        }
    }

    #[test]
    fn what_a_full_disk_let_through_of_a_line_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let mut file = LineFile::new(path.clone(), None);
        file.write(b"whole\n", at(0)).unwrap();
        let open = file.open.as_mut().unwrap();
        open.file.write_all(b"par").unwrap();
        open.take_back(3, ErrorKind::StorageFull.into());
        file.write(b"next\n", at(0)).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "whole\nnext\n");
    }
}
