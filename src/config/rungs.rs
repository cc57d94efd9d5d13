//! `[[rung]]`: the quality levels. Each inherits the one above, and is checked as the stages would run on it.

use super::document::{Value, merge, ordered, plain};
use super::findings::{Findings, Place, suggest};
use super::schema::{self, Keys, RUNG_KEYS, RungCommon, STAGE_KEYS};
use super::section::{Known, Section};
use super::{AtRung, Rung};
use crate::stage::{BuildContext, Kind, StageConfig};
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

/// How the rungs run one stage.
#[derive(Default)]
pub(super) struct Ladder {
    /// Ways of running it beside its own keys, and the keys that make each of them.
    pub(super) variants: Vec<Arc<dyn StageConfig>>,
    keys: Vec<toml::Table>,
    /// What it does at each rung.
    pub(super) rungs: Vec<AtRung>,
}

impl Ladder {
    /// The number of the way of running the stage that these changes make.
    fn way(&mut self, changes: toml::Table, config: Box<dyn StageConfig>) -> usize {
        if changes.is_empty() {
            return 0;
        }
        if let Some(known) = self.keys.iter().position(|k| *k == changes) {
            return known + 1;
        }
        self.keys.push(changes);
        self.variants.push(config.into());
        self.variants.len()
    }
}

/// Keys of a stage in a rung that are the engine's work.
const ENGINE_KEYS: [&str; 2] = ["every", "enabled"];
/// Keys of a stage that a rung cannot change: what they say is settled before the first frame.
const SETTLED_KEYS: [&str; 3] = ["device", "slots", "threads"];

/// Reads the rungs, and how they run each of the stages. Without any there is one, `full`, that changes nothing.
pub(super) fn read<'i>(
    value: Option<Value<'i>>,
    bases: &[Base<'i>],
    other_stages: &[&str],
    findings: &mut Findings<'_>,
) -> (Vec<Rung>, Vec<Ladder>) {
    let mut rungs: Vec<Rung> = Vec::new();
    let mut changes: Vec<DeTable<'i>> = bases.iter().map(|_| DeTable::new()).collect();
    let mut ladders: Vec<Ladder> = bases.iter().map(|_| Ladder::default()).collect();
    let mut current: Vec<AtRung> = bases.iter().map(|_| AtRung::default()).collect();
    for mut section in sections(value, findings) {
        let common = section.split(&RUNG_KEYS);
        let known = Known { required: &["name".to_owned()], ..Known::default() };
        let (name_place, lazy_place) = (common.value_place("name"), common.value_place("lazy"));
        let common = common.read(&known, findings, RungCommon::deserialize);
        for (key, value) in ordered(std::mem::take(&mut section.table)) {
            let Some(at) = bases.iter().position(|b| *b.id == **key.get_ref()) else {
                if !other_stages.contains(&key.get_ref().as_ref()) {
                    let ids: Vec<&str> = bases.iter().map(|b| &*b.id).chain(RUNG_KEYS).collect();
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
                current[at] = apply(&bases[at], change, &mut changes[at], &mut ladders[at], findings);
            }
        }
        for (ladder, at) in ladders.iter_mut().zip(&current) {
            ladder.rungs.push(*at);
        }
        if let Some(RungCommon { name, lazy }) = common {
            if lazy && rungs.is_empty() {
                findings.error(lazy_place, "the best rung cannot be lazy: streams start on it");
            }
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
                rungs.push(Rung { name: name.into(), lazy, overrides });
            }
        }
    }
    if rungs.is_empty() {
        rungs.push(Rung { name: "full".into(), lazy: false, overrides: Vec::new() });
    }
    (rungs, ladders)
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
fn apply<'i>(
    base: &Base<'i>,
    mut change: Section<'i>,
    changes: &mut DeTable<'i>,
    ladder: &mut Ladder,
    findings: &mut Findings<'_>,
) -> AtRung {
    let Keys { required, all, .. } = schema::keys(base.kind.schema);
    for key in STAGE_KEYS.iter().chain(&SETTLED_KEYS) {
        if change.table.contains_key(*key) {
            findings.error(change.place(key), format!("a rung cannot change `{key}` of a stage"));
        }
    }
    change.split(&STAGE_KEYS);
    change.split(&SETTLED_KEYS);
    // Said here, since a stage with errors of its own is not read again below.
    let known = |k: &str| all.iter().any(|a| a == k) || ENGINE_KEYS.contains(&k);
    for key in change.table.keys().filter(|k| !known(k.get_ref())) {
        let place = Place::new(key.span(), format!("{}.{}", change.key, key.get_ref()));
        let names: Vec<&str> = all.iter().map(String::as_str).chain(ENGINE_KEYS).collect();
        findings.error(place, format!("unknown key `{}`", key.get_ref())).help_if(suggest(
            key.get_ref(),
            &names,
            "keys here",
        ));
    }
    let place = |key: &Spanned<_>, name: &str| Place::new(key.span(), format!("rung.{}.{name}", base.id));
    if base.kind.keeps_state {
        for (key, _) in change.table.iter().filter(|(k, _)| k.get_ref() != "enabled") {
            findings
                .error(place(key, key.get_ref()), format!("a rung cannot change a stage of kind `{}`", base.kind.name))
                .help("it keeps state from frame to frame; a rung can only switch it off, with `enabled = false`");
        }
    }
    merge(changes, change.table);
    let mut at = AtRung::default();
    if let Some((key, value)) = changes.get_key_value("every") {
        match value.get_ref().as_integer().and_then(|n| u32::from_str_radix(n.as_str(), n.radix()).ok()) {
            Some(n @ 1..=1000) => at.every = n,
            _ => {
                let what = "`every` is a whole number from 1 (every frame) to 1000";
                findings.error(place(key, "every"), what);
            }
        }
    }
    if let Some((key, value)) = changes.get_key_value("enabled") {
        match value.get_ref().as_bool() {
            Some(true) => {}
            Some(false) => at.variant = None,
            None => {
                findings.error(place(key, "enabled"), "`enabled` is true or false");
            }
        }
    }
    if !base.sound {
        return at;
    }
    let mut merged = base.own.clone();
    let mut over = changes.clone();
    for key in ENGINE_KEYS {
        over.remove(key);
    }
    merge(&mut merged.table, over.clone());
    merged.key = format!("rung.{}", base.id);
    let known = Known { required: &required, apart: &ENGINE_KEYS };
    let Some(config) = merged.read(&known, findings, |table: ValueDeserializer<'i>| (base.kind.parse)(table)) else {
        return at;
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
    // Keys that only repeat what the stage's own table says make no other way of running it.
    let own = plain(&base.own.table).unwrap_or_default();
    let mut different = plain(&over).unwrap_or_default();
    different.retain(|key, value| own.get(key) != Some(value));
    if at.variant.is_some() {
        at.variant = Some(ladder.way(different, config));
    }
    at
}
