//! `[[rung]]`: the quality levels. Each inherits the one above, and is checked as the stages would run on it.

use super::Rung;
use super::document::{Value, merge, ordered, plain};
use super::findings::{Findings, Place, suggest};
use super::schema::{self, Keys, RungCommon, STAGE_KEYS};
use super::section::{Known, Section};
use crate::stage::{BuildContext, Kind};
use serde::Deserialize;
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// A stage as far as rungs are concerned.
pub(super) struct Base<'i> {
    /// Its id.
    pub(super) id: Arc<str>,
    /// Its kind.
    pub(super) kind: &'static Kind,
    /// Its own keys.
    pub(super) own: Section<'i>,
    /// Whether its table is right as it stands.
    pub(super) sound: bool,
    /// For its check.
    pub(super) context: BuildContext,
}

/// Reads the rungs. Without any there is one, `full`, that changes nothing.
pub(super) fn read<'i>(
    value: Option<Value<'i>>,
    bases: &[Base<'i>],
    other_stages: &[&str],
    findings: &mut Findings<'_>,
) -> Vec<Rung> {
    let mut rungs: Vec<Rung> = Vec::new();
    let mut changes: Vec<DeTable<'i>> = bases.iter().map(|_| DeTable::new()).collect();
    let sections = sections(value, findings);
    let second = sections.get(1).map(|s| s.head.clone());
    for mut section in sections {
        let common = section.split(&["name"]);
        let known = Known { required: &["name".to_owned()], ..Known::default() };
        let name = common.read(&known, findings, RungCommon::deserialize);
        let name_place = common.value_place("name");
        for (key, value) in ordered(std::mem::take(&mut section.table)) {
            let Some(at) = bases.iter().position(|b| *b.id == **key.get_ref()) else {
                if !other_stages.contains(&key.get_ref().as_ref()) {
                    let ids: Vec<&str> = bases.iter().map(|b| &*b.id).chain(["name"]).collect();
                    findings
                        .error(
                            Place::new(key.span(), format!("rung.{}", key.get_ref())),
                            format!("a rung names stages, and no stage is called `{}`", key.get_ref()),
                        )
                        .help_if(suggest(key.get_ref(), &ids, "there is"));
                }
                continue;
            };
            let path = format!("rung.{}", key.get_ref());
            if let Some(change) = Section::new(path, &key, value, findings) {
                apply(&bases[at], change, &mut changes[at], findings);
            }
        }
        if let Some(RungCommon { name }) = name {
            if name.is_empty() {
                findings.error(name_place, "a rung's name is empty");
            } else if rungs.iter().any(|r| *r.name == *name) {
                findings.error(name_place, format!("two rungs are called `{name}`"));
            } else {
                let overrides = bases
                    .iter()
                    .zip(&changes)
                    .filter(|(_, change)| !change.is_empty())
                    .filter_map(|(base, change)| Some((Arc::clone(&base.id), plain(change)?)))
                    .collect();
                rungs.push(Rung { name: name.into(), overrides });
            }
        }
    }
    if rungs.len() > 1 && !findings.any_error() {
        let place = Place::new(second.unwrap_or_default(), "rung");
        findings.warning(place, "this version keeps every stream on the first rung; the others are only checked");
    }
    if rungs.is_empty() {
        rungs.push(Rung { name: "full".into(), overrides: Vec::new() });
    }
    rungs
}

fn sections<'i>(value: Option<Value<'i>>, findings: &mut Findings<'_>) -> Vec<Section<'i>> {
    let Some(value) = value else { return Vec::new() };
    let span = value.span();
    let wrong = |findings: &mut Findings<'_>, span| {
        findings
            .error(Place::new(span, "rung"), "rungs are a list of tables")
            .help("write [[rung]] with double brackets for each of them, best first");
    };
    let DeValue::Array(items) = value.into_inner() else {
        wrong(findings, span);
        return Vec::new();
    };
    let mut out = Vec::new();
    for item in items {
        let head = item.span();
        match item.into_inner() {
            DeValue::Table(table) => out.push(Section { key: "rung".into(), head, table }),
            _ => wrong(findings, head),
        }
    }
    out
}

/// Lays a rung's change of one stage on those of the rungs above, and checks what comes out.
fn apply<'i>(base: &Base<'i>, mut change: Section<'i>, changes: &mut DeTable<'i>, findings: &mut Findings<'_>) {
    let Keys { required, all, .. } = schema::keys(base.kind.schema);
    for key in STAGE_KEYS {
        if change.table.contains_key(key) {
            findings.error(change.place(key), format!("a rung cannot change `{key}` of a stage"));
        }
    }
    change.split(&STAGE_KEYS);
    // Said here, since a stage with errors of its own is not read again below.
    for key in change.table.keys().filter(|k| k.get_ref() != "every" && !all.iter().any(|a| a == k.get_ref())) {
        let place = Place::new(key.span(), format!("{}.{}", change.key, key.get_ref()));
        let names: Vec<&str> = all.iter().map(String::as_str).chain(["every"]).collect();
        findings.error(place, format!("unknown key `{}`", key.get_ref())).help_if(suggest(
            key.get_ref(),
            &names,
            "keys here",
        ));
    }
    merge(changes, change.table);
    // Carrying frames is the engine's work where the stage has no key for it.
    let every = (!all.iter().any(|k| k == "every")).then(|| changes.get_key_value("every")).flatten();
    if let Some((key, value)) = every {
        let times = value.get_ref().as_integer().and_then(|n| u32::from_str_radix(n.as_str(), n.radix()).ok());
        if !times.is_some_and(|n| (1..=1000).contains(&n)) {
            let place = Place::new(value.span(), format!("rung.{}.{}", base.id, key.get_ref()));
            findings.error(place, "`every` is a whole number from 1 (every frame) to 1000");
        }
    }
    if !base.sound {
        return;
    }
    let mut merged = base.own.clone();
    let mut over = changes.clone();
    if every.is_some() {
        over.remove("every");
    }
    merge(&mut merged.table, over);
    merged.key = format!("rung.{}", base.id);
    let known = Known { required: &required, apart: &["every"] };
    let Some(config) = merged.read(&known, findings, |table: ValueDeserializer<'i>| (base.kind.parse)(table)) else {
        return;
    };
    // What the stage says without any rung has been reported there.
    let before = (base.kind.parse)(ValueDeserializer::from(Spanned::new(
        base.own.head.clone(),
        DeValue::Table(base.own.table.clone()),
    )));
    let known_issues = before.map(|c| c.check(&base.context)).unwrap_or_default();
    let mut issues = config.check(&base.context);
    issues.retain(|issue| !known_issues.contains(issue));
    merged.report(issues, findings);
}
