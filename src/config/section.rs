//! One table on its way to a type: reads it to the end and reports every error in it, not only the first.

use super::document::{Key, Value, join};
use super::findings::{Findings, Place, suggest};
use crate::issue::Issue;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error, ValueDeserializer};

/// A table of the document.
#[derive(Clone)]
pub(super) struct Section<'i> {
    /// Its dotted key.
    pub(super) key: String,
    /// Where its name stands.
    pub(super) head: Range<usize>,
    /// Its entries.
    pub(super) table: DeTable<'i>,
}

/// What is known about a table's keys besides its type.
#[derive(Default)]
pub(super) struct Known<'k> {
    /// Keys without which the type cannot be read.
    pub(super) required: &'k [String],
    /// Keys that are read apart and may be suggested.
    pub(super) apart: &'k [&'k str],
}

/// One step into a table.
#[derive(Clone, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

impl<'i> Section<'i> {
    /// The table at a key; anything else there is a finding.
    pub(super) fn new(key: String, name: &Key<'i>, value: Value<'i>, findings: &mut Findings<'_>) -> Option<Self> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Some(Self { key, head: name.span(), table }),
            other => {
                let help = format!("write [{key}] on a line of its own, and its keys below");
                findings
                    .error(
                        Place::new(span, &key),
                        format!("`{key}` must be a table, found {}", article(other.type_str())),
                    )
                    .help(help);
                None
            }
        }
    }

    /// Where the table's name stands.
    pub(super) fn head(&self) -> Place {
        Place::new(self.head.clone(), &self.key)
    }

    /// Where a key of it stands (or as much of a dotted key as there is).
    pub(super) fn place(&self, dotted: &str) -> Place {
        let mut place = Place::new(self.head.clone(), join_if(&self.key, dotted));
        let mut table = &self.table;
        for step in dotted.split('.') {
            let Some((key, value)) = table.get_key_value(step) else { break };
            place.span = key.span();
            let DeValue::Table(inner) = value.get_ref() else { break };
            table = inner;
        }
        place
    }

    /// Where the value of a key stands; the table's name where there is none.
    pub(super) fn value_place(&self, key: &str) -> Place {
        let span = self.table.get(key).map_or(self.head.clone(), Spanned::span);
        Place::new(span, join(&self.key, key))
    }

    /// Takes some keys out, as a section of the same name.
    pub(super) fn split(&mut self, keys: &[&str]) -> Self {
        let mut table = DeTable::new();
        for key in keys {
            if let Some((key, value)) = self.table.remove_entry(*key) {
                table.insert(key, value);
            }
        }
        Self { key: self.key.clone(), head: self.head.clone(), table }
    }

    /// Reads the table. After an error the offending entry is taken out and reading goes on, so that every error is
    /// found; then there is no result.
    pub(super) fn read<T>(
        &self,
        known: &Known<'_>,
        findings: &mut Findings<'_>,
        parse: impl Fn(ValueDeserializer<'i>) -> Result<T, Error>,
    ) -> Option<T> {
        let mut table = self.table.clone();
        let mut removed: Vec<String> = Vec::new();
        loop {
            let value = Spanned::new(self.head.clone(), DeValue::Table(table.clone()));
            let error = match parse(ValueDeserializer::from(value)) {
                Ok(result) => return removed.is_empty().then_some(result),
                Err(error) => error,
            };
            let path = error.span().and_then(|span| find(&table, &span));
            let Some(path) = path else {
                self.whole_table_error(&error, known, &removed, findings);
                return None;
            };
            let span = error.span().unwrap_or(self.head.clone());
            let apart = if path.len() == 1 { known.apart } else { &[] };
            let (message, help) = friendly(error.message(), apart);
            let help = help.or_else(|| help_for(error.message(), &table, &path));
            findings.error(Place::new(span, join(&self.key, &dotted(&path))), message).help_if(help);
            if let Some(Step::Key(first)) = path.first() {
                removed.push(first.clone());
            }
            if !remove(&mut table, &path) {
                return None;
            }
        }
    }

    /// An error that no entry is to blame for: mostly a missing key.
    fn whole_table_error(&self, error: &Error, known: &Known<'_>, removed: &[String], findings: &mut Findings<'_>) {
        let Some(field) = quoted(error.message().strip_prefix("missing field ").unwrap_or_default()) else {
            if removed.is_empty() && !findings.any_syntax() {
                findings.error(self.head(), friendly(error.message(), known.apart).0);
            }
            return;
        };
        // What was lost to a syntax error is not missing.
        if findings.any_syntax() {
            return;
        }
        let mut missing: Vec<&str> =
            known.required.iter().map(String::as_str).filter(|key| !self.table.contains_key(*key)).collect();
        if !missing.contains(&field) && !removed.iter().any(|r| r == field) {
            missing.push(field);
        }
        for key in missing {
            let place = Place::new(self.head.clone(), join(&self.key, key));
            let list = matches!(self.key.as_str(), "rung" | "cost");
            let header = if list { format!("[[{}]]", self.key) } else { format!("[{}]", self.key) };
            findings
                .error(place, format!("{header} lacks the key `{key}`"))
                .help(format!("add a line `{key} = …` below it"));
        }
    }

    /// Reports what a component says about its own table.
    pub(super) fn report(&self, issues: Vec<Issue>, findings: &mut Findings<'_>) {
        for issue in issues {
            findings
                .add(issue.severity, self.place(&issue.key), issue.message)
                .absent(issue.absent)
                .help_if(issue.help);
        }
    }
}

fn join_if(path: &str, step: &str) -> String {
    if step.is_empty() { path.to_owned() } else { join(path, step) }
}

fn dotted(path: &[Step]) -> String {
    path.iter()
        .map(|step| match step {
            Step::Key(key) => key.clone(),
            Step::Index(index) => index.to_string(),
        })
        .collect::<Vec<_>>()
        .join(".")
}

/// The innermost entry that the bytes belong to.
fn find(table: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<Step>> {
    let within = |outer: Range<usize>| {
        outer == *span || (outer.start <= span.start && span.end <= outer.end && !outer.is_empty())
    };
    for (key, value) in table {
        let here = Step::Key(key.get_ref().to_string());
        let deeper = find_in(value, span);
        if deeper.is_some() || within(key.span()) || within(value.span()) {
            return Some([vec![here], deeper.unwrap_or_default()].concat());
        }
    }
    None
}

fn find_in(value: &Value<'_>, span: &Range<usize>) -> Option<Vec<Step>> {
    match value.get_ref() {
        DeValue::Table(table) => find(table, span),
        DeValue::Array(items) => items.iter().enumerate().find_map(|(n, item)| {
            let inside = item.span().start <= span.start && span.end <= item.span().end;
            let deeper = find_in(item, span);
            (inside || deeper.is_some()).then(|| [vec![Step::Index(n)], deeper.unwrap_or_default()].concat())
        }),
        _ => None,
    }
}

/// Takes the entry at a path out of the table.
fn remove(table: &mut DeTable<'_>, path: &[Step]) -> bool {
    let Some((Step::Key(key), rest)) = path.split_first() else { return false };
    if rest.is_empty() {
        return table.remove(key.as_str()).is_some();
    }
    let Some(value) = table.get_mut(key.as_str()) else { return false };
    remove_in(value, rest)
}

fn remove_in(value: &mut Value<'_>, path: &[Step]) -> bool {
    match (value.get_mut(), path) {
        (DeValue::Table(table), _) => remove(table, path),
        (DeValue::Array(items), [Step::Index(n), rest @ ..]) => {
            if rest.is_empty() {
                let mut index = 0;
                let before = items.len();
                *items = items
                    .clone()
                    .into_iter()
                    .filter(|_| {
                        index += 1;
                        index - 1 != *n
                    })
                    .collect();
                items.len() < before
            } else {
                items.get_mut(*n).is_some_and(|item| remove_in(item, rest))
            }
        }
        _ => false,
    }
}

/// Text between the first two backticks.
fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('`')?.split_once('`').map(|(inner, _)| inner)
}

/// All texts between backticks.
fn all_quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The type layer's message in a user's words, and what to do about it.
fn friendly(message: &str, apart: &[&str]) -> (String, Option<String>) {
    let message = message.trim_end();
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let mut names = all_quoted(rest);
        let name = if names.is_empty() { "" } else { names.remove(0) };
        names.extend(apart);
        return (format!("unknown key `{name}`"), suggest(name, &names, "keys here"));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let mut names = all_quoted(rest);
        let name = if names.is_empty() { "" } else { names.remove(0) };
        return (format!("`{name}` is not possible here"), suggest(name, &names, "possible"));
    }
    if let Some(field) = message.strip_prefix("missing field ").and_then(quoted) {
        return (format!("the key `{field}` is missing"), None);
    }
    for prefix in ["invalid type: ", "invalid value: "] {
        if let Some((found, expected)) = message.strip_prefix(prefix).and_then(|rest| rest.rsplit_once(", expected ")) {
            return (format!("expected {}, found {}", plain_type(expected), plain_found(found)), None);
        }
    }
    if let Some(name) = message.strip_prefix("data did not match any variant of untagged enum ") {
        return (format!("this value has none of the forms that are possible here ({name})"), None);
    }
    (message.to_owned(), None)
}

/// Help that needs to know the value.
fn help_for(message: &str, table: &DeTable<'_>, path: &[Step]) -> Option<String> {
    let [Step::Key(key)] = path else { return None };
    let value = table.get(key.as_str())?.get_ref();
    let text = value.as_str()?;
    if message.contains("expected a sequence") {
        return Some(format!("write a list: {key} = [\"{text}\"]"));
    }
    let number = text.parse::<f64>().is_ok()
        && ["f32", "f64", "u8", "u16", "u32", "u64", "usize", "i32", "i64"].iter().any(|t| message.ends_with(t));
    let boolean = matches!(text, "true" | "false") && message.ends_with("a boolean");
    (number || boolean).then(|| format!("leave out the quotes: {key} = {text}"))
}

fn plain_found(found: &str) -> String {
    for (from, to) in [
        ("string ", "the text "),
        ("integer ", "the number "),
        ("floating point ", "the number "),
        ("boolean ", ""),
        ("sequence", "a list"),
        ("map", "a table"),
    ] {
        if let Some(rest) = found.strip_prefix(from) {
            return format!("{to}{rest}");
        }
    }
    found.to_owned()
}

fn plain_type(expected: &str) -> String {
    match expected {
        "f32" | "f64" => "a number".into(),
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" | "u64" | "usize" => "a whole number, 0 or more".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        "a nonzero u8" | "a nonzero u16" | "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => {
            "a whole number, 1 or more".into()
        }
        "a boolean" => "true or false".into(),
        "a string" | "string" => "a text in quotes".into(),
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        other => other.strip_prefix("struct ").map_or_else(|| other.to_owned(), |_| "a table".into()),
    }
}

fn article(kind: &str) -> String {
    if kind.starts_with(['a', 'i']) { format!("an {kind}") } else { format!("a {kind}") }
}
