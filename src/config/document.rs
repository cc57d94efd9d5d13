//! The TOML text as a tree that knows where everything stands, with environment variables and flags applied.

use super::findings::{Findings, Place, nearest, suggest};
use super::secrets::is_secret_name;
use serde::Deserialize;
use std::borrow::Cow;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, ValueDeserializer};

/// A key of the tree.
pub(super) type Key<'i> = Spanned<DeString<'i>>;
/// A value of the tree.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// Top-level tables of a pipeline file.
pub(super) const TABLES: [&str; 10] =
    ["pipeline", "http", "cache", "threads", "source", "stage", "sink", "rung", "cost", "simulate"];
/// Top-level lists of tables.
const LISTS: [&str; 2] = ["rung", "cost"];

/// Reads the text as far as it is TOML; every syntax error becomes a finding.
pub(super) fn parse<'i>(text: &'i str, findings: &mut Findings<'_>) -> DeTable<'i> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or_default();
        let unquoted = error.message().starts_with("string values must be quoted");
        let nothing = text.get(span.start..).is_none_or(|rest| rest.is_empty() || rest.starts_with(['\n', '\r', '#']));
        if unquoted && nothing {
            findings.syntax(span, "a value is missing");
        } else if unquoted {
            findings.syntax(span, "text must be quoted").help("put it in double quotes");
        } else if error.message() == "duplicate key" {
            let help = "each table and each key may stand in the file once";
            findings.syntax(span, "this name stands here a second time").help(help);
        } else {
            findings.syntax(span, error.message());
        }
    }
    document.into_inner()
}

/// A table's entries in the order in which they stand in the text.
pub(super) fn ordered<'i>(table: DeTable<'i>) -> Vec<(Key<'i>, Value<'i>)> {
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Replaces `${NAME}` and `${NAME:-default}` in every string. `$${` stands for `${`.
pub(super) fn expand(table: &mut DeTable<'_>, env: &dyn Fn(&str) -> Option<String>, findings: &mut Findings<'_>) {
    expand_table(table, "", env, findings);
}

fn expand_table(
    table: &mut DeTable<'_>,
    path: &str,
    env: &dyn Fn(&str) -> Option<String>,
    findings: &mut Findings<'_>,
) {
    for (key, value) in table.iter_mut() {
        let path = join(path, key.get_ref());
        expand_value(value, &path, env, findings);
    }
}

fn expand_value(value: &mut Value<'_>, path: &str, env: &dyn Fn(&str) -> Option<String>, findings: &mut Findings<'_>) {
    let span = value.span();
    match value.get_mut() {
        DeValue::String(text) => {
            if text.contains("${") {
                let expanded = expand_text(text, &Place::new(span, path), env, findings);
                *text = Cow::Owned(expanded);
            }
        }
        DeValue::Array(items) => {
            for (n, item) in items.iter_mut().enumerate() {
                expand_value(item, &join(path, &n.to_string()), env, findings);
            }
        }
        DeValue::Table(table) => expand_table(table, path, env, findings),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

fn expand_text(text: &str, place: &Place, env: &dyn Fn(&str) -> Option<String>, findings: &mut Findings<'_>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let Some(end) = from.find('}') else {
            findings
                .error(place.clone(), "`${` without its `}`")
                .help("write `$${` where the characters themselves are meant");
            out.push_str(from);
            return out;
        };
        let inner = &from[2..end];
        rest = &from[end + 1..];
        let (name, default) = inner.split_once(":-").map_or((inner, None), |(n, d)| (n, Some(d)));
        if !is_variable_name(name) {
            findings
                .error(place.clone(), format!("`{name}` is no name of an environment variable"))
                .help("names are letters, digits and underscores; write `$${` where the characters are meant");
            continue;
        }
        // As in a shell, `:-` also stands in for a variable that is set to nothing.
        let value = env(name).filter(|v| default.is_none() || !v.is_empty());
        match value.as_deref().or(default) {
            Some(value) => {
                if is_secret_name(name) {
                    findings.secrets.add(value);
                }
                out.push_str(value);
            }
            None => {
                findings
                    .error(place.clone(), format!("environment variable `{name}` is not set"))
                    .help(format!("set it, or give a default: ${{{name}:-…}}"));
            }
        }
    }
    out.push_str(rest);
    out
}

fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Applies one `--set KEY=VALUE` whose text begins at `start` of the findings' texts. The value is read as TOML, and
/// as a string where it is none.
pub(super) fn set<'i>(table: &mut DeTable<'i>, flag: &'i str, start: usize, findings: &mut Findings<'_>) {
    let Some((path, text)) = flag.split_once('=') else {
        findings
            .error(Place::new(start..start + flag.len(), flag), format!("--set {flag}: no `=`"))
            .help("--set takes KEY=VALUE, for example --set pipeline.fps=25");
        return;
    };
    let mut steps = Vec::new();
    let mut at = start;
    for step in path.split('.') {
        steps.push(Spanned::new(at..at + step.len(), step));
        at += step.len() + 1;
    }
    let value_start = start + path.len() + 1;
    let value = match DeValue::parse(text) {
        Ok(value) => shift(value, value_start),
        Err(_) => Spanned::new(value_start..value_start + text.len(), DeValue::String(Cow::Borrowed(text))),
    };
    let mut target = table;
    let mut done = String::new();
    let Some((last, parents)) = steps.split_last() else { return };
    if let Some(empty) = steps.iter().find(|s| s.get_ref().is_empty()) {
        findings.error(Place::new(empty.span(), path), format!("--set {path}: an empty name in the path"));
        return;
    }
    for (depth, step) in parents.iter().enumerate() {
        let known: Vec<&str> = target.keys().map(|k| k.get_ref().as_ref()).collect();
        let name = *step.get_ref();
        if !known.contains(&name) {
            // Tables that hold settings may be left out of the file; a source, stage or sink must be there.
            let may_begin = if depth == 0 {
                !LISTS.contains(&name) && TABLES.contains(&name)
            } else {
                depth >= 2 || is_settings(&done)
            };
            if !may_begin {
                let candidates: Vec<&str> = if depth == 0 { TABLES.to_vec() } else { known };
                let there = if done.is_empty() { "in the file".to_owned() } else { format!("in `{done}`") };
                let help = if LISTS.contains(&name) { None } else { suggest(name, &candidates, "there is") };
                findings
                    .error(Place::new(step.span(), path), format!("--set {path}: no `{name}` {there}"))
                    .help_if(help);
                return;
            }
            target.insert(owned_key(step), Spanned::new(step.span(), DeValue::Table(DeTable::new())));
        }
        done = join(&done, name);
        let next = target.get_mut(name).map(Spanned::get_mut);
        target = match next {
            Some(DeValue::Table(inner)) => inner,
            Some(DeValue::Array(_)) if depth == 0 && name == "cost" => {
                findings
                    .error(Place::new(step.span(), path), format!("--set {path}: costs have no names"))
                    .help("give costs to `framegate simulate` with --cost STAGE=ALPHA+BETA");
                return;
            }
            Some(DeValue::Array(items)) if depth == 0 => {
                match rung_named(items, steps.get(depth + 1).map(|s| *s.get_ref())) {
                    Some(inner) if depth + 2 < steps.len() => {
                        return set_in_rung(inner, &steps[depth + 2..], value);
                    }
                    _ => {
                        findings
                            .error(Place::new(step.span(), path), format!("--set {path}: no such rung"))
                            .help("rungs are named: --set rung.NAME.STAGE.KEY=VALUE");
                        return;
                    }
                }
            }
            _ => {
                findings.error(Place::new(step.span(), path), format!("--set {path}: `{done}` is no table"));
                return;
            }
        };
    }
    if parents.is_empty() {
        let help = nearest(last.get_ref(), TABLES).map(|near| format!("did you mean `{near}.…`?"));
        findings
            .error(Place::new(last.span(), path), format!("--set {path}: names no key of a table"))
            .help_if(help.or(Some("for example --set pipeline.fps=25".into())));
        return;
    }
    if parents.len() == 1 && !is_settings(&done) {
        findings
            .error(Place::new(last.span(), path), format!("--set {path}: names a whole table"))
            .help(format!("name one key of it: --set {path}.KEY=VALUE"));
        return;
    }
    target.remove(*last.get_ref());
    target.insert(owned_key(last), value);
}

/// Whether a top-level table holds settings, not named tables.
fn is_settings(table: &str) -> bool {
    matches!(table, "pipeline" | "http" | "threads" | "simulate")
}

fn owned_key<'i>(step: &Spanned<&'i str>) -> Key<'i> {
    Spanned::new(step.span(), Cow::Borrowed(*step.get_ref()))
}

fn rung_named<'t, 'i>(items: &'t mut [Value<'i>], name: Option<&str>) -> Option<&'t mut DeTable<'i>> {
    items.iter_mut().find_map(|item| match item.get_mut() {
        DeValue::Table(table) if table.get("name").and_then(|n| n.get_ref().as_str()) == name => Some(table),
        _ => None,
    })
}

fn set_in_rung<'i>(rung: &mut DeTable<'i>, steps: &[Spanned<&'i str>], value: Value<'i>) {
    let Some((last, parents)) = steps.split_last() else { return };
    let mut target = rung;
    for step in parents {
        let name = *step.get_ref();
        if !matches!(target.get(name).map(Spanned::get_ref), Some(DeValue::Table(_))) {
            target.remove(name);
            target.insert(owned_key(step), Spanned::new(step.span(), DeValue::Table(DeTable::new())));
        }
        let Some(DeValue::Table(inner)) = target.get_mut(name).map(Spanned::get_mut) else { return };
        target = inner;
    }
    target.remove(*last.get_ref());
    target.insert(owned_key(last), value);
}

/// The value with all its places moved on.
fn shift<'i>(value: Value<'i>, by: usize) -> Value<'i> {
    let moved = |span: Range<usize>| span.start + by..span.end + by;
    let span = moved(value.span());
    let inner = match value.into_inner() {
        DeValue::Array(items) => DeValue::Array(items.into_iter().map(|item| shift(item, by)).collect()),
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(key, value)| (Spanned::new(moved(key.span()), key.into_inner()), shift(value, by)))
                .collect(),
        ),
        leaf => leaf,
    };
    Spanned::new(span, inner)
}

/// Lays `over` on `base`: tables are merged, everything else is replaced.
pub(super) fn merge<'i>(base: &mut DeTable<'i>, over: DeTable<'i>) {
    for (key, value) in over {
        let name = key.get_ref().clone();
        match (base.get_mut(&*name).map(Spanned::get_mut), value.get_ref()) {
            (Some(DeValue::Table(below)), DeValue::Table(_)) => {
                if let DeValue::Table(above) = value.into_inner() {
                    merge(below, above);
                }
            }
            _ => {
                // Removed first: an insert would keep the old key's place.
                base.remove(&*name);
                base.insert(key, value);
            }
        }
    }
}

/// A dotted key with one more step.
pub(super) fn join(path: &str, step: &str) -> String {
    if path.is_empty() { step.to_owned() } else { format!("{path}.{step}") }
}

/// The table without places.
pub(super) fn plain(table: &DeTable<'_>) -> Option<toml::Table> {
    toml::Table::deserialize(ValueDeserializer::from(Spanned::new(0..0, DeValue::Table(table.clone())))).ok()
}
