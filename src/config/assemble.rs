//! From the document to a [`Pipeline`]: reads every table, lets every component check itself, and reports all that is
//! wrong on the way.

use super::document::{Key, TABLES, Value, ordered, plain};
use super::findings::{Findings, Place, suggest};
use super::graph::{self, Ids, Node};
use super::joins;
use super::rungs::{self, Base};
use super::schema::{
    self, CacheTable, HttpTable, PipelineTable, SINK_KEYS, SOURCE_KEYS, STAGE_KEYS, SinkCommon, SourceCommon,
    StageCommon, ThreadsTable,
};
use super::section::{Known, Section};
use super::{
    DEFAULT_DEADLINE, DEFAULT_FPS, DEFAULT_LISTEN, LoadTable, Pipeline, SinkEntry, SourceEntry, StageEntry, advice,
    cost,
};
use crate::cache;
use crate::sink::SinkConfig;
use crate::source::{Context, SourceConfig};
use crate::stage::{BuildContext, StageConfig};
use crate::{sink, stage};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// What is known about the file besides its content.
pub(super) struct File {
    /// Its path.
    pub(super) path: PathBuf,
    /// SHA-256 of its content, hexadecimal.
    pub(super) sha256: String,
    /// Folders for relative paths.
    pub(super) search: Vec<PathBuf>,
}

/// Settings that hold for the whole pipeline.
struct Settings {
    name: Arc<str>,
    fps: f64,
    deadline: Option<Duration>,
    admission: super::Admission,
    policy: crate::schedule::Policy,
    http: Option<std::net::SocketAddr>,
    realtime: Option<u8>,
    cpus: Vec<usize>,
}

/// A stage's table as read: what the graph, the rungs and the engine need of it.
struct StageTable<'i> {
    node: Node,
    base: Option<Base<'i>>,
    workers: usize,
    cpus: Vec<usize>,
    config: Option<Box<dyn StageConfig>>,
}

/// A sink's table as read.
struct SinkTable {
    node: Node,
    kind: &'static str,
    queue: usize,
    config: Option<Box<dyn SinkConfig>>,
    settings: Option<toml::Table>,
}

/// Makes the pipeline, unless the findings hold an error afterwards.
pub(super) fn assemble<'i>(mut root: DeTable<'i>, file: File, findings: &mut Findings<'_>) -> Option<Pipeline> {
    let mut take = |key: &str| root.remove_entry(key);
    let (pipeline, http, threads) = (take("pipeline"), take("http"), take("threads"));
    let cache = take("cache");
    let (source, stage, sink, rung) = (take("source"), take("stage"), take("sink"), take("rung"));
    let (cost, simulate) = (take("cost"), take("simulate"));
    for (key, value) in ordered(root) {
        unknown_top_level(&key, &value, findings);
    }
    let stem = file.path.file_stem().and_then(|s| s.to_str()).unwrap_or("pipeline");
    let settings = settings(stem, pipeline, http, threads, findings);
    let cache = cache.and_then(|(name, value)| Section::new("cache".into(), &name, value, findings));
    let cache = cache.map_or_else(Default::default, |section| read_cache(&section, findings));
    let context = |id: &Arc<str>| BuildContext {
        id: Arc::clone(id),
        search: file.search.clone(),
        fps: settings.fps,
        live: settings.deadline.is_some(),
        threads: match settings.cpus.len() {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => n,
        },
        ..BuildContext::default()
    };

    let sources = named_tables(source, "source", findings);
    if sources.is_empty() && !findings.any_syntax() {
        findings
            .error(Place::new(0..0, "source"), "there is no source: nothing would come in")
            .help("add a table, for example [source.cam0] with uri = \"rtsp://…\" below");
    }
    let stages = named_tables(stage, "stage", findings);
    let sinks = named_tables(sink, "sink", findings);
    report_clashes([&sources, &stages, &sinks], findings);

    let source_ids = ids(&sources);
    let mut sources: Vec<_> = sources
        .into_iter()
        .filter_map(|(id, table)| read_source(id, table, &settings, &file.search, findings))
        .collect();
    let mut stages: Vec<_> = stages.into_iter().map(|(id, table)| read_stage(table, context(&id), findings)).collect();
    let mut sinks = read_sinks(sinks, context, findings);

    let bases: Vec<_> = stages.iter_mut().filter_map(|s| s.base.take()).collect();
    let unreadable: Vec<&str> =
        stages.iter().map(|s| &*s.node.id).filter(|id| !bases.iter().any(|b| *b.id == **id)).collect();
    let (rungs, ladders) = rungs::read(rung.map(|(_, value)| value), &bases, &unreadable, findings);
    let names = cost::Names {
        stages: stages.iter().map(|s| &*s.node.id).collect(),
        sources: source_ids.iter().map(|(id, _)| &**id).collect(),
        rungs: rungs.iter().map(|r| &*r.name).collect(),
    };
    let costs = cost::read(cost.map(|(_, value)| value), &names, findings);
    let simulate = simulate.and_then(|(name, value)| Section::new("simulate".into(), &name, value, findings));
    let load = simulate.as_ref().and_then(|s| s.read(&Known::default(), findings, LoadTable::deserialize));
    if let (Some(section), Some(load)) = (&simulate, &load) {
        load.check(section, findings);
    }

    // Where text was lost, what is missing in the graph may only have been lost with it.
    if findings.any_syntax() {
        return None;
    }
    let mut stage_nodes: Vec<Node> = stages.iter_mut().map(|s| std::mem::take(&mut s.node)).collect();
    let mut sink_nodes: Vec<Node> = sinks.iter_mut().map(|s| std::mem::take(&mut s.node)).collect();
    let handing: joins::Handing = stages
        .iter()
        .zip(&stage_nodes)
        .filter_map(|(stage, node)| Some((node.id.clone(), stage.config.as_ref()?.hands_over()?)))
        .collect();
    for node in &mut stage_nodes {
        node.hands_over = handing.iter().any(|(id, _)| *id == node.id);
    }
    let order = graph::resolve(&source_ids, &mut stage_nodes, &mut sink_nodes, findings);
    joins::resolve(&mut sources, &source_ids, &stage_nodes, &handing, findings);
    if sink_nodes.is_empty() {
        findings
            .warning(Place::new(0..0, "sink"), "there is no sink: results go nowhere")
            .help("add for example [sink.out] with kind = \"jsonl\" and path = \"-\" below");
    }
    if findings.any_error() {
        return None;
    }
    let mut entries: Vec<Option<StageEntry>> = stages
        .into_iter()
        .zip(stage_nodes)
        .zip(bases.iter().zip(ladders))
        .map(|((stage, node), (base, ladder))| {
            Some(StageEntry {
                id: node.id,
                from: node.takes,
                kind: base.kind.name,
                workers: stage.workers,
                cpus: stage.cpus,
                config: stage.config?,
                variants: ladder.variants,
                rungs: ladder.rungs,
                settings: plain(&base.own.table)?,
            })
        })
        .collect();
    Some(Pipeline {
        name: settings.name,
        path: file.path,
        sha256: file.sha256,
        search: file.search,
        fps: settings.fps,
        deadline: settings.deadline,
        admission: settings.admission,
        policy: settings.policy,
        http: settings.http,
        cache,
        realtime: settings.realtime,
        cpus: settings.cpus,
        sources,
        stages: order?.into_iter().filter_map(|n| entries[n].take()).collect(),
        sinks: sinks
            .into_iter()
            .zip(sink_nodes)
            .filter_map(|(sink, node)| {
                Some(SinkEntry {
                    id: node.id,
                    from: node.takes,
                    kind: sink.kind,
                    queue: sink.queue,
                    config: sink.config?,
                    settings: sink.settings?,
                })
            })
            .collect(),
        rungs,
        costs,
        load: load.unwrap_or_default(),
    })
}

fn unknown_top_level(key: &Key<'_>, value: &Value<'_>, findings: &mut Findings<'_>) {
    let name = key.get_ref();
    let what = if matches!(value.get_ref(), DeValue::Table(_)) { "table" } else { "key" };
    let mut help = suggest(name, &TABLES, "there is");
    if what == "key" && ["name", "fps", "deadline", "admission"].contains(&name.as_ref()) {
        help = Some(format!("`{name}` belongs below [pipeline]"));
    }
    findings.error(Place::new(key.span(), &**name), format!("unknown {what} `{name}`")).help_if(help);
}

fn settings<'i>(
    stem: &str,
    pipeline: Option<(Key<'i>, Value<'i>)>,
    http: Option<(Key<'i>, Value<'i>)>,
    threads: Option<(Key<'i>, Value<'i>)>,
    findings: &mut Findings<'_>,
) -> Settings {
    let mut section = |entry: Option<(Key<'i>, Value<'i>)>, key: &str| {
        entry.and_then(|(name, value)| Section::new(key.into(), &name, value, findings))
    };
    let (pipeline, http, threads) = (section(pipeline, "pipeline"), section(http, "http"), section(threads, "threads"));
    let known = Known::default();

    let table =
        pipeline.as_ref().and_then(|s| s.read(&known, findings, PipelineTable::deserialize)).unwrap_or_default();
    let fps = table.fps.unwrap_or(DEFAULT_FPS);
    let deadline = table.deadline.map_or(Some(DEFAULT_DEADLINE), |d| d.0);
    if let Some(section) = &pipeline {
        if !(0.01..=1000.0).contains(&fps) {
            findings.error(section.value_place("fps"), format!("{fps} frames per second: give 0.01 to 1000"));
        }
        if table.name.as_deref().is_some_and(|n| n.trim().is_empty()) {
            findings.error(section.value_place("name"), "the pipeline's name is empty");
        }
        advice::deadline(section, fps, deadline, findings);
    }

    let listen =
        http.as_ref().and_then(|s| s.read(&known, findings, HttpTable::deserialize)).unwrap_or_default().listen;
    let listen = listen.map_or(Some(DEFAULT_LISTEN), |l| l.0);
    if let Some(section) = &http {
        advice::listen(section, listen, findings);
    }

    let thread = threads.as_ref().and_then(|s| s.read(&known, findings, ThreadsTable::deserialize)).unwrap_or_default();
    if let Some(section) = &threads {
        if thread.realtime.is_some_and(|p| !(1..=99).contains(&p)) {
            findings.error(section.value_place("realtime"), "a real-time priority is 1 to 99");
        }
        advice::cpus(section, &thread.cpus, findings);
    }
    Settings {
        name: table.name.as_deref().unwrap_or(stem).into(),
        fps,
        deadline,
        admission: table.admission,
        policy: table.policy,
        http: listen,
        realtime: thread.realtime,
        cpus: thread.cpus,
    }
}

fn read_cache(section: &Section<'_>, findings: &mut Findings<'_>) -> cache::Settings {
    let table = section.read(&Known::default(), findings, CacheTable::deserialize).unwrap_or_default();
    let defaults = cache::Settings::default();
    if table.path.is_none() && table.disk.is_some() {
        findings.warning(section.value_place("disk"), "is not used without `path`").help("name a folder in `path`");
    }
    if table.path.as_ref().is_some_and(|p| p.as_os_str().is_empty() || p.is_file()) {
        findings.error(section.value_place("path"), "names no folder");
    }
    if let Some(Err(error)) = table.redis.as_ref().map(|url| cache::check_redis(&url.0)) {
        findings.error(section.value_place("redis"), error).help("write it like \"redis://127.0.0.1:6379\"");
    }
    cache::Settings {
        memory: table.memory.map_or(defaults.memory, |b| b.0),
        path: table.path,
        disk: table.disk.map_or(defaults.disk, |b| b.0),
        age: table.age.map(|a| a.0),
        redis: table.redis.map(|url| url.0),
    }
}

/// The tables of one group, by id, in the file's order.
fn named_tables<'i>(
    group: Option<(Key<'i>, Value<'i>)>,
    name: &str,
    findings: &mut Findings<'_>,
) -> Vec<(Arc<str>, Section<'i>)> {
    let Some((key, value)) = group else { return Vec::new() };
    let Some(section) = Section::new(name.into(), &key, value, findings) else { return Vec::new() };
    let mut out = Vec::new();
    for (key, value) in ordered(section.table) {
        let id = key.get_ref().to_string();
        let fits = (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        let path = format!("{name}.{id}");
        if !fits {
            findings
                .error(Place::new(key.span(), &path), format!("`{id}` cannot be the id of a {name}"))
                .help("ids are 1 to 64 letters, digits, `_` and `-`: they are used in metrics and addresses");
        } else if name == "stage" && id == "name" {
            findings.error(Place::new(key.span(), &path), "a stage cannot be called `name`: rungs use that word");
        }
        if let Some(table) = Section::new(path, &key, value, findings) {
            out.push((id.into(), table));
        }
    }
    out
}

fn ids(tables: &[(Arc<str>, Section<'_>)]) -> Ids {
    tables.iter().map(|(id, section)| (Arc::clone(id), section.head())).collect()
}

/// An id names one thing: `from`, metrics and the API do not say which group they mean.
fn report_clashes(groups: [&[(Arc<str>, Section<'_>)]; 3], findings: &mut Findings<'_>) {
    let mut all: Vec<&(Arc<str>, Section<'_>)> = groups.into_iter().flatten().collect();
    all.sort_by_key(|(_, section)| section.head.start);
    for (n, (id, section)) in all.iter().enumerate() {
        if let Some((_, first)) = all[..n].iter().find(|(other, _)| other == id) {
            findings
                .error(section.head(), format!("`{id}` is the id of [{}] already", first.key))
                .help("sources, stages and sinks share one set of ids: call one of them otherwise");
        }
    }
}

fn read_source<'i>(
    id: Arc<str>,
    mut section: Section<'i>,
    settings: &Settings,
    search: &[PathBuf],
    findings: &mut Findings<'_>,
) -> Option<SourceEntry> {
    let common = section.split(&SOURCE_KEYS).read(&Known::default(), findings, SourceCommon::deserialize);
    let keys = schema::keys(|g| g.subschema_for::<SourceConfig>());
    let known = Known { required: &keys.required, apart: &SOURCE_KEYS };
    let config = section.read(&known, findings, SourceConfig::deserialize);
    let deadline = common?.deadline.map_or(settings.deadline, |d| d.0);
    let config = config?;
    let context =
        Context { search: search.to_vec(), fps: settings.fps, live: deadline.is_some(), ..Context::default() };
    section.report(config.check(&context), findings);
    advice::source(&section, &config, deadline, findings);
    Some(SourceEntry { id, deadline, config })
}

/// `from` and its place.
fn node(id: &Arc<str>, section: &Section<'_>, from: Option<Vec<Spanned<String>>>) -> Node {
    Node {
        id: Arc::clone(id),
        head: section.head(),
        from_place: section.place("from"),
        from,
        hands_over: false,
        takes: Vec::new(),
    }
}

/// A missing or unknown kind: nothing else of the table can be judged.
fn kind_of<'k, K>(
    section: &Section<'_>,
    kind: Option<&Spanned<String>>,
    kinds: &'k [K],
    name: fn(&K) -> &'static str,
    findings: &mut Findings<'_>,
) -> Option<&'k K> {
    let kind = kind?;
    let found = kinds.iter().find(|k| name(k) == kind.get_ref());
    if found.is_none() {
        let names: Vec<&str> = kinds.iter().map(name).collect();
        let group = section.key.split('.').next().unwrap_or_default();
        findings
            .error(section.value_place("kind"), format!("there is no {group} of kind `{}`", kind.get_ref()))
            .help_if(suggest(kind.get_ref(), &names, "there is"));
    }
    found
}

fn required_kind() -> [String; 1] {
    ["kind".to_owned()]
}

fn read_stage<'i>(mut section: Section<'i>, context: BuildContext, findings: &mut Findings<'_>) -> StageTable<'i> {
    let id = Arc::clone(&context.id);
    let common = section.split(&STAGE_KEYS);
    let read = common.read(&Known { required: &required_kind(), apart: &[] }, findings, StageCommon::deserialize);
    // Where another common key is wrong the kind may still be right, and the stage's own keys can be judged.
    let spanned_kind = read.as_ref().map(|r| r.kind.clone()).or_else(|| kind_text(&common));
    let (workers, cpus, from) = match read {
        Some(read) => (read.workers.unwrap_or(1), read.cpus, read.from),
        None => (1, Vec::new(), None),
    };
    if !(1..=64).contains(&workers) {
        findings.error(common.value_place("workers"), format!("{workers} workers: give 1 to 64"));
    }
    advice::cpus(&common, &cpus, findings);
    let node = node(&id, &common, from);
    let kind = kind_of(&common, spanned_kind.as_ref(), stage::KINDS, |k| k.name, findings);
    let Some(kind) = kind else { return StageTable { node, base: None, workers, cpus, config: None } };

    let keys = schema::keys(kind.schema);
    let known = Known { required: &keys.required, apart: &STAGE_KEYS };
    let config = section.read(&known, findings, |table: ValueDeserializer<'i>| (kind.parse)(table));
    if let Some(config) = &config {
        section.report(config.check(&context), findings);
    }
    let base = Base { id, kind, own: section, sound: config.is_some(), context };
    StageTable { node, base: Some(base), workers, cpus, config }
}

/// The kind alone.
fn kind_text(common: &Section<'_>) -> Option<Spanned<String>> {
    let value = common.table.get("kind")?;
    Some(Spanned::new(value.span(), value.get_ref().as_str()?.to_owned()))
}

fn read_sinks<'i>(
    tables: Vec<(Arc<str>, Section<'i>)>,
    context: impl Fn(&Arc<str>) -> BuildContext,
    findings: &mut Findings<'_>,
) -> Vec<SinkTable> {
    let mut paths: Vec<(String, String)> = Vec::new();
    let mut out = Vec::new();
    for (id, mut section) in tables {
        let common = section.split(&SINK_KEYS);
        let read = common.read(&Known { required: &required_kind(), apart: &[] }, findings, SinkCommon::deserialize);
        let spanned_kind = read.as_ref().map(|r| r.kind.clone()).or_else(|| kind_text(&common));
        let (queue, from) = read.map_or((256, None), |r| (r.queue.unwrap_or(256), r.from));
        if !(1..=1_000_000).contains(&queue) {
            findings.error(common.value_place("queue"), format!("a queue of {queue} records: give 1 to 1000000"));
        }
        let node = node(&id, &common, from);
        let kind = kind_of(&common, spanned_kind.as_ref(), sink::KINDS, |k| k.name, findings);
        let config = kind.and_then(|kind| {
            let keys = schema::keys(kind.schema);
            let path = section.table.get("path").map_or(keys.default_path.as_deref(), |v| v.get_ref().as_str());
            if let Some(path) = path {
                report_shared_path(path, &section, &mut paths, findings);
            }
            let known = Known { required: &keys.required, apart: &SINK_KEYS };
            section.read(&known, findings, |table: ValueDeserializer<'i>| (kind.parse)(table))
        });
        if let Some(config) = &config {
            section.report(config.check(&context(&id)), findings);
        }
        let settings = plain(&section.table);
        out.push(SinkTable { node, kind: kind.map_or("", |k| k.name), queue, config, settings });
    }
    out
}

/// Two sinks that write to one file, or both to standard output, would mix their results.
fn report_shared_path(
    path: &str,
    section: &Section<'_>,
    paths: &mut Vec<(String, String)>,
    findings: &mut Findings<'_>,
) {
    match paths.iter().find(|(known, _)| known == path) {
        Some((_, first)) => {
            let what = if path == "-" { "standard output".to_owned() } else { format!("\"{path}\"") };
            findings
                .error(section.value_place("path"), format!("[{first}] writes to {what} already"))
                .help("give each sink a path of its own, or one sink more in its `from`");
        }
        None => paths.push((path.to_owned(), section.key.clone())),
    }
}
