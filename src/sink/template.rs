//! Names with `{placeholders}`: paths of files and topics of messages.

use crate::issue::Issue;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A text with placeholders in braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Name(String),
}

impl Template {
    /// Reads a text; `names` are the placeholders it may have.
    ///
    /// # Errors
    /// An unknown placeholder or an unmatched brace, in words.
    pub fn read(text: &str, names: &[&str]) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            if rest.as_bytes()[at] == b'}' {
                return Err(format!("`}}` without `{{` in `{text}`"));
            }
            if at > 0 {
                parts.push(Part::Text(rest[..at].to_owned()));
            }
            let end = rest[at..].find('}').ok_or_else(|| format!("`{{` without `}}` in `{text}`"))? + at;
            let name = &rest[at + 1..end];
            if !names.contains(&name) {
                let known: Vec<_> = names.iter().map(|n| format!("{{{n}}}")).collect();
                return Err(format!("unknown placeholder `{{{name}}}`; there is {}", known.join(", ")));
            }
            parts.push(Part::Name(name.to_owned()));
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// Whether it has this placeholder.
    pub fn has(&self, name: &str) -> bool {
        self.parts.iter().any(|p| matches!(p, Part::Name(n) if n == name))
    }

    /// The text before the first placeholder.
    pub fn prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(t)) => t,
            _ => "",
        }
    }

    /// Fills the placeholders in. Characters of values that `forbidden` names become `_`.
    pub fn fill(&self, forbidden: fn(char) -> bool, value: impl Fn(&str) -> String) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(t) => out.push_str(t),
                Part::Name(n) => out.extend(value(n).chars().map(|c| if forbidden(c) { '_' } else { c })),
            }
        }
        out
    }
}

/// What a value must not bring into a path: it names a part of a file's name and never another folder.
pub(super) fn not_in_file_names(c: char) -> bool {
    c == '/' || c == '\\' || c.is_control()
}

/// What a value must not bring into a topic: levels and wildcards of its own.
pub(super) fn not_in_topics(c: char) -> bool {
    matches!(c, '+' | '#' | '/') || c.is_control()
}

/// A moment as it stands in file names: `20260101T120000.123Z`, with milliseconds on request. Sorts by time.
pub(super) fn file_time(at: std::time::SystemTime, milliseconds: bool) -> String {
    let mut out = String::new();
    if let Ok(t) = jiff::Timestamp::try_from(at) {
        let t = t.to_zoned(jiff::tz::TimeZone::UTC);
        let _ = match milliseconds {
            false => write!(out, "{}", t.strftime("%Y%m%dT%H%M%SZ")),
            true => write!(out, "{}", t.strftime("%Y%m%dT%H%M%S.%3fZ")),
        };
    }
    out
}

/// What is wrong with the folder that a path with placeholders leads to, as far as it is known before the first frame.
pub(super) fn check_folder(key: &str, template: &Template) -> Vec<Issue> {
    let prefix = template.prefix();
    // Up to the last slash the prefix names folders for certain.
    let certain = prefix.rfind('/').map_or("", |at| &prefix[..=at]);
    let mut folder = match certain.trim_end_matches('/') {
        "" if certain.is_empty() => PathBuf::from("."),
        "" => PathBuf::from("/"),
        folder => PathBuf::from(folder),
    };
    while !folder.exists() {
        match folder.parent() {
            Some(p) if !p.as_os_str().is_empty() => folder = p.to_owned(),
            _ => folder = PathBuf::from("."),
        }
    }
    if !folder.is_dir() {
        let message = format!("`{}` is not a folder", folder.display());
        return vec![Issue::error(key, message).help("name a path in a folder, or remove that file")];
    }
    if rustix::fs::access(&folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_err() {
        let message = format!("the folder `{}` cannot be written to", folder.display());
        return vec![
            Issue::error(key, message).help("give the user that runs framegate write access, or name another"),
        ];
    }
    Vec::new()
}

/// Makes the folders that a file lies in.
pub(super) fn make_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => std::fs::create_dir_all(p),
        _ => Ok(()),
    }
}

/// The path, or the path with the first number that makes it a new file.
pub(super) fn free_name(path: PathBuf) -> PathBuf {
    if !path.exists() {
        return path;
    }
    let text = |part: Option<&std::ffi::OsStr>| part.map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let (stem, extension) = (text(path.file_stem()), text(path.extension()));
    (2..).map(|n: u64| path.with_file_name(format!("{stem}-{n}.{extension}"))).find(|p| !p.exists()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_cannot_lead_to_another_folder() {
        let t = Template::read("out/{pipeline}/{stream}.jsonl", &["pipeline", "stream"]).unwrap();
        assert!(t.has("stream") && !t.has("start"));
        assert_eq!(t.prefix(), "out/");
        let filled = t.fill(not_in_file_names, |n| if n == "stream" { "../etc/x".into() } else { "p".into() });
        assert_eq!(filled, "out/p/.._etc_x.jsonl");
    }

    #[test]
    fn unknown_placeholders_and_unmatched_braces_are_refused() {
        let read = |t| Template::read(t, &["stream"]).map(|_| ());
        assert!(read("{cam}").is_err_and(|e| e.contains("{cam}") && e.contains("{stream}")));
        assert!(read("a{stream").is_err());
        assert!(read("a}b").is_err());
        assert!(read("").is_ok());
    }

    #[test]
    fn times_in_file_names_sort() {
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(1_767_268_800_123);
        assert_eq!(file_time(at, false), "20260101T120000Z");
        assert_eq!(file_time(at, true), "20260101T120000.123Z");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_found() {
        let check = |path: &str| check_folder("path", &Template::read(path, &["stream"]).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plain");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(check(&format!("{}/new/deep/{{stream}}.jsonl", dir.path().display())), []);
        assert_eq!(check("events.jsonl"), []);
        let issues = check(&format!("{}/events.jsonl", file.display()));
        assert!(issues.len() == 1 && issues[0].message.contains("not a folder"), "{issues:?}");
    }

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.mkv");
        assert_eq!(free_name(path.clone()), path);
        std::fs::write(&path, "").unwrap();
        assert_eq!(free_name(path.clone()), dir.path().join("a-2.mkv"));
    }
}
