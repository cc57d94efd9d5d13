//! What was found out, into the user's file: comments and everything else in it stay.

use super::ladder::{Inputs, Step, every_of};
use super::settings::Tried;
use framegate::config::StageEntry;
use framegate::engine::measure::MeasuredStage;
use framegate::frame::{Nanos, clock};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value};

/// Writes a stage's chosen setting.
pub(super) fn setting(document: &mut DocumentMut, entry: &StageEntry, best: &Tried) {
    let Some(table) = document.get_mut("stage").and_then(|s| s.get_mut(&*entry.id)).and_then(Item::as_table_like_mut)
    else {
        return;
    };
    for (key, value) in best.keys() {
        if let Some(value) = plain(&value) {
            table.insert(&key, Item::Value(value));
        }
    }
}

/// A value of the kinds that settings have.
fn plain(value: &toml::Value) -> Option<Value> {
    Some(match value {
        toml::Value::Integer(n) => Value::from(*n),
        toml::Value::String(s) => Value::from(s.as_str()),
        toml::Value::Table(keys) => {
            let mut table = InlineTable::new();
            for (key, value) in keys {
                table.insert(key, plain(value)?);
            }
            Value::from(table)
        }
        _ => return None,
    })
}

/// Writes a ladder. Each rung takes over what the one above it says, so only what changes is said.
pub(super) fn ladder(document: &mut DocumentMut, stages: &[MeasuredStage], inputs: &[Inputs], steps: &[Step]) {
    let mut tables = ArrayOfTables::new();
    let mut above: (Vec<usize>, u32) = (vec![0; stages.len()], 1);
    for step in steps {
        let mut table = Table::new();
        table.insert("name", step.name.as_str().into());
        for (n, (stage, inputs)) in stages.iter().zip(inputs).enumerate() {
            let mut keys = Table::new();
            keys.set_dotted(true);
            if let (Inputs::Any(smaller), true) = (inputs, step.ways[n] != above.0[n])
                && let Some(smaller) = step.ways[n].checked_sub(1).and_then(|at| smaller.get(at))
            {
                let sides: Array = [smaller.size.0, smaller.size.1].iter().map(|v| *v as i64).collect();
                keys.insert("input", Item::Value(sides.into()));
            }
            if every_of(stage, step.every) != every_of(stage, above.1) {
                keys.insert("every", i64::from(step.every).into());
            }
            if !keys.is_empty() {
                table.insert(&stage.id, Item::Table(keys));
            }
        }
        tables.push(table);
        above = (step.ways.clone(), step.every);
    }
    document.insert("rung", Item::ArrayOfTables(tables));
}

/// Writes `admission`: without "degrade" a ladder takes in no stream more than its best rung does. What the file says
/// already stays; whether it did not.
pub(super) fn admission(document: &mut DocumentMut) -> bool {
    let pipeline = document.entry("pipeline").or_insert_with(|| Item::Table(Table::new()));
    match pipeline.as_table_like_mut() {
        Some(table) if !table.contains_key("admission") => table.insert("admission", "degrade".into()).is_none(),
        _ => false,
    }
}

fn time(t: Nanos) -> String {
    format!("{:.3}ms", clock::millis(t))
}

/// Writes what was measured, for `framegate simulate`.
pub(super) fn costs(document: &mut DocumentMut, stages: &[MeasuredStage], names: &[String]) {
    let mut tables = ArrayOfTables::new();
    for stage in stages {
        let mut written: Vec<usize> = Vec::new();
        for (rung, name) in names.iter().enumerate() {
            let Some(way) = stage.rungs.get(rung).and_then(|r| r.variant) else { continue };
            // One entry serves all rungs that run the stage in the same way; several ways are told apart by their rung.
            if stage.ways.len() == 1 && written.contains(&way) {
                continue;
            }
            let Some(m) = stage.ways.get(way) else { continue };
            written.push(way);
            let mut table = Table::new();
            table.insert("stage", (&*stage.id).into());
            if stage.ways.len() > 1 {
                table.insert("rung", name.as_str().into());
            }
            table.insert("device", m.device.as_str().into());
            table.insert("slots", (m.slots as i64).into());
            let batches: Array = m
                .spans
                .iter()
                .map(|&(n, t)| {
                    let mut pair = Array::new();
                    pair.push(n as i64);
                    pair.push(time(t));
                    Value::Array(pair)
                })
                .collect();
            table.insert("batches", Item::Value(batches.into()));
            table.insert("prepare", time(m.prepare).into());
            table.insert("tail", time(m.finish).into());
            if let Some(crops) = m.crops {
                table.insert("crops", (crops as i64).into());
            }
            tables.push(table);
        }
    }
    document.insert("cost", Item::ArrayOfTables(tables));
}
