//! Collects findings while a file is read, and turns byte ranges into files, lines and columns at the end.

use super::diagnostics::{Diagnostic, Diagnostics};
use super::secrets::{Secrets, mask};
use crate::issue::Severity;
use miette::NamedSource;
use std::ops::Range;
use std::sync::Arc;

/// Where a finding points.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// Bytes, counted over all texts.
    pub(super) span: Range<usize>,
    /// The dotted key there.
    pub(super) key: String,
}

impl Place {
    /// A place.
    pub(super) fn new(span: Range<usize>, key: impl Into<String>) -> Self {
        Self { span, key: key.into() }
    }
}

/// A finding in the making.
pub(super) struct Finding {
    severity: Severity,
    place: Place,
    message: String,
    help: Option<String>,
    syntax: bool,
    absent: bool,
}

impl Finding {
    /// Says whether the file is right, and what it names cannot be used on this machine.
    pub(super) fn absent(&mut self, absent: bool) -> &mut Self {
        self.absent = absent;
        self
    }

    /// Says what to do about it.
    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Says what to do about it, where that is known.
    pub(super) fn help_if(&mut self, help: Option<String>) -> &mut Self {
        self.help = help.or(self.help.take());
        self
    }
}

/// One text that places can point into. Offsets run on from one text to the next.
struct Text<'i> {
    name: String,
    text: &'i str,
    start: usize,
}

/// The findings so far, and the texts they point into.
pub(super) struct Findings<'i> {
    texts: Vec<Text<'i>>,
    /// Values that must never be shown.
    pub(super) secrets: Secrets,
    list: Vec<Finding>,
}

impl<'i> Findings<'i> {
    /// None yet, about this file.
    pub(super) fn new(name: String, text: &'i str) -> Self {
        Self { texts: vec![Text { name, text, start: 0 }], secrets: Secrets::default(), list: Vec::new() }
    }

    /// Another text that places may point into; gives the offset of its first byte.
    pub(super) fn add_text(&mut self, name: &str, text: &'i str) -> usize {
        // One byte between texts keeps an empty range at the end of one apart from the start of the next.
        let start = self.texts.last().map_or(0, |t| t.start + t.text.len() + 1);
        self.texts.push(Text { name: name.to_owned(), text, start });
        start
    }

    /// The pipeline cannot run.
    pub(super) fn error(&mut self, place: Place, message: impl Into<String>) -> &mut Finding {
        self.add(Severity::Error, place, message.into())
    }

    /// The pipeline can run, and probably not as meant.
    pub(super) fn warning(&mut self, place: Place, message: impl Into<String>) -> &mut Finding {
        self.add(Severity::Warning, place, message.into())
    }

    /// The text is no TOML here.
    pub(super) fn syntax(&mut self, span: Range<usize>, message: impl Into<String>) -> &mut Finding {
        let finding = self.error(Place::new(span, ""), message);
        finding.syntax = true;
        finding
    }

    /// A finding; one that is there already is not repeated.
    pub(super) fn add(&mut self, severity: Severity, place: Place, message: String) -> &mut Finding {
        let known = self.list.iter().position(|f| f.place == place && f.message == message);
        let index = known.unwrap_or_else(|| {
            self.list.push(Finding { severity, place, message, help: None, syntax: false, absent: false });
            self.list.len() - 1
        });
        &mut self.list[index]
    }

    /// Whether there is an error.
    pub(super) fn any_error(&self) -> bool {
        self.list.iter().any(|f| f.severity == Severity::Error)
    }

    /// Whether the text could not be read as TOML: what is missing may only have been lost.
    pub(super) fn any_syntax(&self) -> bool {
        self.list.iter().any(|f| f.syntax)
    }

    /// All of them in order, with lines and columns, without secrets.
    pub(super) fn finish(self) -> Diagnostics {
        let Self { texts, secrets, list } = self;
        let shown: Vec<_> =
            texts.iter().map(|t| Arc::new(NamedSource::new(&t.name, mask(t.text)).with_language("toml"))).collect();
        let mut found: Vec<(usize, bool, Diagnostic)> = list
            .into_iter()
            .map(|finding| {
                let which = texts.iter().rposition(|t| t.start <= finding.place.span.start).unwrap_or(0);
                let text = &texts[which];
                let start = boundary(text.text, finding.place.span.start - text.start);
                let end = boundary(text.text, finding.place.span.end.saturating_sub(text.start)).max(start);
                let (line, column) = line_column(text.text, start);
                let diagnostic = Diagnostic {
                    severity: finding.severity,
                    file: text.name.clone(),
                    line,
                    column,
                    key: finding.place.key,
                    message: secrets.redact(&finding.message),
                    help: finding.help.map(|h| secrets.redact(&h)),
                    absent: finding.absent,
                    source: Arc::clone(&shown[which]),
                    span: (start, end - start),
                };
                (which, finding.syntax, diagnostic)
            })
            .collect();
        found.sort_by_key(|(which, _, d)| (*which, d.span.0, !d.is_error()));
        // What was made of a line that is no TOML is no second error.
        let broken: Vec<_> = found.iter().filter(|f| f.1).map(|(which, _, d)| (*which, d.line)).collect();
        found.retain(|(which, syntax, d)| *syntax || !broken.contains(&(*which, d.line)));
        Diagnostics(found.into_iter().map(|f| f.2).collect())
    }
}

/// The last character boundary up to `offset`.
fn boundary(text: &str, offset: usize) -> usize {
    text.floor_char_boundary(offset.min(text.len()))
}

/// Line and column in characters, both from 1.
fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset];
    let start = before.rfind('\n').map_or(0, |n| n + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

/// The candidate that was probably meant.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let plain = |s: &str| s.to_lowercase().replace(['-', ' '], "_");
    let wanted = plain(word);
    candidates
        .into_iter()
        .map(|c| {
            let candidate = plain(c);
            let distance = strsim::damerau_levenshtein(&wanted, &candidate);
            // `thresh` for `threshold`: the beginning counts as near.
            let begun = wanted.len() >= 3 && (candidate.starts_with(&wanted) || wanted.starts_with(&candidate));
            (if begun { distance.min(1) } else { distance }, c)
        })
        .filter(|(distance, _)| *distance <= (wanted.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// "did you mean" where something is near, else what there is.
pub(super) fn suggest(word: &str, candidates: &[&str], what: &str) -> Option<String> {
    match nearest(word, candidates.iter().copied()) {
        Some(near) => Some(format!("did you mean `{near}`?")),
        None if candidates.is_empty() => None,
        None => Some(format!("{what}: {}", candidates.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let keys = ["threshold", "model", "iou", "device"];
        assert_eq!(nearest("treshold", keys), Some("threshold"));
        assert_eq!(nearest("thresh", keys), Some("threshold"));
        assert_eq!(nearest("Model", keys), Some("model"));
        assert_eq!(nearest("zebra", keys), None);
    }

    #[test]
    fn columns_count_characters_and_lines_count_from_one() {
        assert_eq!(line_column("a\nöb", 4), (2, 2));
        assert_eq!(line_column("", 0), (1, 1));
    }
}
