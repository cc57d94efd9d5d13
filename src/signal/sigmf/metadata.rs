//! The JSON side of a recording.

use super::super::samples::Format;
use super::SigmfError;
use serde_json::{Map, Value};
use std::path::Path;

/// Everything that a metadata file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    /// What holds for the whole recording.
    pub global: Global,
    /// Segments, by rising start.
    pub captures: Vec<Capture>,
    /// What was noted about stretches of samples, by rising start.
    pub annotations: Vec<Annotation>,
    /// Objects beside these three.
    pub other: Map<String, Value>,
}

/// What holds for the whole recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Global {
    /// `core:datatype`.
    pub format: Format,
    /// `core:sample_rate` in samples a second.
    pub sample_rate: Option<f64>,
    /// `core:version` of the specification.
    pub version: String,
    /// `core:num_channels`: channels whose samples alternate, 1 to 4096.
    pub channels: u32,
    /// `core:offset`: number of the first sample in the data file.
    pub offset: u64,
    /// `core:dataset`: the data file's name where it is not a SigMF one.
    pub dataset: Option<String>,
    /// `core:trailing_bytes` behind the samples (with `core:dataset` only).
    pub trailing_bytes: u64,
    /// `core:metadata_only`: there is no data file.
    pub metadata_only: bool,
    /// Every other key, as it stood.
    pub other: Map<String, Value>,
}

/// A segment: what changed at a sample.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Capture {
    /// `core:sample_start`, counted from the start of the stream (the global offset included).
    pub start: u64,
    /// `core:frequency`: the centre in Hz.
    pub frequency: Option<f64>,
    /// `core:datetime` of the first sample, in UTC, as RFC 3339 has it.
    pub datetime: Option<String>,
    /// `core:header_bytes` in the data file before the segment's first sample.
    pub header_bytes: u64,
    /// Every other key, as it stood.
    pub other: Map<String, Value>,
}

/// A note about a stretch of samples.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Annotation {
    /// `core:sample_start`.
    pub start: u64,
    /// `core:sample_count`; without it, to the next capture segment or the end.
    pub count: Option<u64>,
    /// `core:freq_lower_edge` in Hz.
    pub lower: Option<f64>,
    /// `core:freq_upper_edge` in Hz.
    pub upper: Option<f64>,
    /// `core:label`.
    pub label: Option<String>,
    /// `core:comment`.
    pub comment: Option<String>,
    /// `core:generator`: who noted it.
    pub generator: Option<String>,
    /// Every other key, as it stood.
    pub other: Map<String, Value>,
}

/// The version of the specification that is written.
const VERSION: &str = "1.2.0";

impl Global {
    /// What a new recording says.
    pub fn new(format: Format, sample_rate: f64) -> Self {
        Self {
            format,
            sample_rate: Some(sample_rate),
            version: VERSION.into(),
            channels: 1,
            offset: 0,
            dataset: None,
            trailing_bytes: 0,
            metadata_only: false,
            other: Map::new(),
        }
    }
}

impl Metadata {
    /// Reads and checks the text of a metadata file; `file` is for the messages.
    ///
    /// # Errors
    /// Where it is not JSON, a required key is missing, or a core key has a value that it cannot have.
    pub fn parse(file: &Path, text: &str) -> Result<Self, SigmfError> {
        let whole: Value =
            serde_json::from_str(text).map_err(|source| SigmfError::Json { file: file.into(), source })?;
        let mut whole = Object::new(file, "", whole)?;
        let global = whole.object("global")?;
        let captures = whole.objects("captures")?;
        let annotations = whole.objects("annotations")?;
        let metadata = Self {
            global: read_global(global)?,
            captures: captures.into_iter().map(read_capture).collect::<Result<_, _>>()?,
            annotations: annotations.into_iter().map(read_annotation).collect::<Result<_, _>>()?,
            other: whole.map,
        };
        let unordered = |name, starts: &mut dyn Iterator<Item = u64>| {
            let mut last = 0;
            for (i, start) in starts.enumerate() {
                if start < last {
                    let what = format!("{start} is before the start of the one above it, {last}");
                    return Err(SigmfError::key(file, format!("{name}[{i}].core:sample_start"), what));
                }
                last = start;
            }
            Ok(())
        };
        unordered("captures", &mut metadata.captures.iter().map(|c| c.start))?;
        unordered("annotations", &mut metadata.annotations.iter().map(|a| a.start))?;
        let offset = metadata.global.offset;
        if let Some((i, c)) = metadata.captures.iter().enumerate().find(|(_, c)| c.start < offset) {
            let what = format!("{} is before core:offset, {offset}", c.start);
            return Err(SigmfError::key(file, format!("captures[{i}].core:sample_start"), what));
        }
        Ok(metadata)
    }

    /// The text of a metadata file: core keys first, indented.
    pub fn to_json(&self) -> String {
        let g = &self.global;
        let mut global = Map::new();
        put(&mut global, "core:datatype", Some(g.format.to_string()));
        put(&mut global, "core:version", Some(&*g.version));
        put(&mut global, "core:sample_rate", g.sample_rate);
        put(&mut global, "core:num_channels", (g.channels != 1).then_some(g.channels));
        put(&mut global, "core:offset", (g.offset != 0).then_some(g.offset));
        put(&mut global, "core:dataset", g.dataset.as_deref());
        put(&mut global, "core:trailing_bytes", (g.trailing_bytes != 0).then_some(g.trailing_bytes));
        put(&mut global, "core:metadata_only", g.metadata_only.then_some(true));
        global.extend(g.other.clone());
        let capture = |c: &Capture| {
            let mut map = Map::new();
            put(&mut map, "core:sample_start", Some(c.start));
            put(&mut map, "core:frequency", c.frequency);
            put(&mut map, "core:datetime", c.datetime.as_deref());
            put(&mut map, "core:header_bytes", (c.header_bytes != 0).then_some(c.header_bytes));
            map.extend(c.other.clone());
            Value::Object(map)
        };
        let annotation = |a: &Annotation| {
            let mut map = Map::new();
            put(&mut map, "core:sample_start", Some(a.start));
            put(&mut map, "core:sample_count", a.count);
            put(&mut map, "core:freq_lower_edge", a.lower);
            put(&mut map, "core:freq_upper_edge", a.upper);
            put(&mut map, "core:label", a.label.as_deref());
            put(&mut map, "core:comment", a.comment.as_deref());
            put(&mut map, "core:generator", a.generator.as_deref());
            map.extend(a.other.clone());
            Value::Object(map)
        };
        let mut whole = Map::new();
        whole.insert("global".into(), Value::Object(global));
        whole.insert("captures".into(), self.captures.iter().map(capture).collect());
        whole.insert("annotations".into(), self.annotations.iter().map(annotation).collect());
        whole.extend(self.other.clone());
        format!("{:#}\n", Value::Object(whole))
    }
}

fn put(map: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        map.insert(key.into(), value.into());
    }
}

fn read_global(mut o: Object<'_>) -> Result<Global, SigmfError> {
    let datatype = o.string("core:datatype")?.ok_or_else(|| o.error("core:datatype", "is missing"))?;
    let global = Global {
        format: datatype.parse().map_err(|e: super::super::SignalError| o.error("core:datatype", e.to_string()))?,
        sample_rate: o.number("core:sample_rate")?,
        version: o.string("core:version")?.ok_or_else(|| o.error("core:version", "is missing"))?,
        channels: match o.count("core:num_channels")?.unwrap_or(1) {
            n @ 1..=4096 => n as u32,
            n => return Err(o.error("core:num_channels", format!("is {n}; it must be 1 to 4096"))),
        },
        offset: o.count("core:offset")?.unwrap_or(0),
        dataset: o.string("core:dataset")?,
        trailing_bytes: o.count("core:trailing_bytes")?.unwrap_or(0),
        metadata_only: o.boolean("core:metadata_only")?.unwrap_or(false),
        other: Map::new(),
    };
    if let Some(rate) = global.sample_rate.filter(|&r| !(r > 0.0 && r <= 1e12)) {
        return Err(o.error("core:sample_rate", format!("is {rate}; it must be above 0, at most 1e12")));
    }
    if global.dataset.is_some() && global.metadata_only {
        return Err(o.error("core:metadata_only", "is true, yet core:dataset names a data file"));
    }
    // A name, not a path: metadata of strangers must not reach files elsewhere.
    if let Some(name) = global.dataset.as_deref()
        && (name.is_empty() || name.contains(['/', '\\', '\0']) || name == "..")
    {
        return Err(o.error("core:dataset", format!("is {name:?}; it must be the name of a file in the same folder")));
    }
    Ok(Global { other: o.map, ..global })
}

fn read_capture(mut o: Object<'_>) -> Result<Capture, SigmfError> {
    let capture = Capture {
        start: o.count("core:sample_start")?.ok_or_else(|| o.error("core:sample_start", "is missing"))?,
        frequency: o.number("core:frequency")?,
        datetime: o.string("core:datetime")?,
        header_bytes: o.count("core:header_bytes")?.unwrap_or(0),
        other: Map::new(),
    };
    Ok(Capture { other: o.map, ..capture })
}

fn read_annotation(mut o: Object<'_>) -> Result<Annotation, SigmfError> {
    let annotation = Annotation {
        start: o.count("core:sample_start")?.ok_or_else(|| o.error("core:sample_start", "is missing"))?,
        count: o.count("core:sample_count")?,
        lower: o.number("core:freq_lower_edge")?,
        upper: o.number("core:freq_upper_edge")?,
        label: o.string("core:label")?,
        comment: o.string("core:comment")?,
        generator: o.string("core:generator")?,
        other: Map::new(),
    };
    if annotation.start.checked_add(annotation.count.unwrap_or(0)).is_none() {
        return Err(o.error("core:sample_count", "reaches beyond what can be counted"));
    }
    Ok(Annotation { other: o.map, ..annotation })
}

/// An object whose known keys are taken out one by one; what is left is kept.
struct Object<'a> {
    file: &'a Path,
    /// Its path, such as `captures[1]`; empty for the whole file.
    path: String,
    map: Map<String, Value>,
}

impl<'a> Object<'a> {
    fn new(file: &'a Path, path: impl Into<String>, value: Value) -> Result<Self, SigmfError> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { file, path, map }),
            other => {
                let key = if path.is_empty() { "the file".to_string() } else { path };
                Err(SigmfError::key(file, key, format!("is {}; it must be an object", kind(&other))))
            }
        }
    }

    fn error(&self, key: &str, what: impl Into<String>) -> SigmfError {
        let path = if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) };
        SigmfError::key(self.file, path, what)
    }

    fn wrong(&self, key: &str, value: &Value, must: &str) -> SigmfError {
        self.error(key, format!("is {}; it must be {must}", kind(value)))
    }

    /// A key's value; `null` counts as absent.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|v| !v.is_null())
    }

    fn object(&mut self, key: &str) -> Result<Object<'a>, SigmfError> {
        let value = self.take(key).ok_or_else(|| self.error(key, "is missing"))?;
        Object::new(self.file, key, value)
    }

    fn objects(&mut self, key: &str) -> Result<Vec<Object<'a>>, SigmfError> {
        match self.take(key) {
            Some(Value::Array(items)) => {
                items.into_iter().enumerate().map(|(i, v)| Object::new(self.file, format!("{key}[{i}]"), v)).collect()
            }
            Some(other) => Err(self.wrong(key, &other, "an array")),
            None => Err(self.error(key, "is missing")),
        }
    }

    fn string(&mut self, key: &str) -> Result<Option<String>, SigmfError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.wrong(key, &other, "a string")),
        }
    }

    fn number(&mut self, key: &str) -> Result<Option<f64>, SigmfError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        value.as_f64().filter(|v| v.is_finite()).map(Some).ok_or_else(|| self.wrong(key, &value, "a number"))
    }

    fn count(&mut self, key: &str) -> Result<Option<u64>, SigmfError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        // Some writers put whole numbers down as floats.
        let whole = |v: f64| ((0.0..9e15).contains(&v) && v.fract() == 0.0).then_some(v as u64);
        let count = value.as_u64().or_else(|| value.as_f64().and_then(whole));
        count.map(Some).ok_or_else(|| self.wrong(key, &value, "a whole number, 0 or more"))
    }

    fn boolean(&mut self, key: &str) -> Result<Option<bool>, SigmfError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(b)),
            Some(other) => Err(self.wrong(key, &other, "true or false")),
        }
    }
}

/// A value in a message: numbers as they are, the rest by its kind.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => format!("the string {:?}", s.chars().take(40).collect::<String>()),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}
