//! Model cards: what a model wants and what its outputs mean, in a TOML file beside the model.

use super::InferError;
use super::decode::DecodeCard;
use super::preprocess::{ChannelOrder, Fit, Layout};
use super::tensor::DType;
use crate::signal::world::World;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model card. Everything may be left out that the model itself says or that the recognised family implies.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The model file, relative to the card. Default: the card's name with `.onnx`.
    pub file: Option<PathBuf>,
    /// SHA-256 of the model file in hexadecimal; verified before the model is loaded.
    pub sha256: Option<String>,
    /// Licence of the weights.
    pub licence: Option<String>,
    /// Where the model comes from.
    pub source: Option<String>,
    /// What it was measured to do, in words.
    pub accuracy: Option<String>,
    /// Anything else worth knowing.
    pub notes: Option<String>,
    /// Names of the classes: a list, or a text file with one name a line, relative to the card.
    pub labels: Option<Labels>,
    /// Score below which a detection is not worth reporting, 0 to 1.
    pub threshold: Option<f32>,
    /// Overlap above which the weaker of two boxes is dropped, 0 to 1.
    pub iou: Option<f32>,
    /// What the model wants.
    #[serde(default)]
    pub input: InputCard,
    /// What the outputs of a detector mean.
    pub decode: Option<DecodeCard>,
    /// What a locator was trained on.
    pub locator: Option<LocatorCard>,
}

/// What a model that locates transmitters was trained on, and what its confidence means.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocatorCard {
    /// The world's file (JSON), relative to the card: where its stations are, and in which order.
    pub world: PathBuf,
    /// The model's confidence is the probability that the transmitter is nearer than this to the position, metres.
    pub within_m: f64,
}

impl LocatorCard {
    /// Reads the world; its file is looked for beside `beside`, the card.
    ///
    /// # Errors
    /// The world's file and what is wrong with it.
    pub fn world(&self, beside: Option<&Path>) -> Result<World, InferError> {
        let path = beside.and_then(Path::parent).unwrap_or(Path::new("")).join(&self.world);
        World::read(&path).map_err(|e| InferError::Card(format!("the locator's world {e}")))
    }
}

/// Names of classes.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Labels {
    /// The names, class 0 first.
    List(Vec<String>),
    /// A text file with one name a line.
    File(PathBuf),
}

/// One number for all channels, or one for each in the tensor's order.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PerChannel {
    /// The same for all.
    One(f32),
    /// One for each.
    Three([f32; 3]),
}

impl PerChannel {
    /// One for each channel.
    pub fn all(self) -> [f32; 3] {
        match self {
            Self::One(v) => [v; 3],
            Self::Three(v) => v,
        }
    }
}

/// How the picture is fitted into the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FitCard {
    /// Same scale on both axes, in the middle, padded.
    Letterbox,
    /// Same scale on both axes, in the top left corner, padded.
    LetterboxTopLeft,
    /// Each axis scaled by itself.
    Stretch,
    /// Same scale on both axes, the centre part that fills the input.
    Crop,
}

/// Order of the tensor's axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LayoutCard {
    /// Channel planes.
    Nchw,
    /// Interleaved channels.
    Nhwc,
}

/// Order and number of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChannelCard {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// Luma.
    Gray,
}

/// Element type of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DTypeCard {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// Unsigned byte.
    U8,
}

/// What a model wants its picture to be. Values are code values 0–255 of the picture.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputCard {
    /// The input's name in the model. Default: its only input.
    pub name: Option<String>,
    /// Order of axes. Default: where the axis of 1 or 3 channels is.
    pub layout: Option<LayoutCard>,
    /// Width and height in pixels. Default: the model's own.
    pub size: Option<[usize; 2]>,
    /// For models that take any size: each picture is scaled so that its long side has at most this many pixels.
    pub long_side: Option<usize>,
    /// With `long_side`: width and height are padded to multiples of this. Default 32.
    pub multiple: Option<usize>,
    /// Order of channels. Default rgb.
    pub channels: Option<ChannelCard>,
    /// Element type. Default: the model's own.
    pub dtype: Option<DTypeCard>,
    /// Subtracted from each code value, per channel in the tensor's order. Default 0.
    pub mean: Option<PerChannel>,
    /// What is left is divided by this. Default 1.
    pub std: Option<PerChannel>,
    /// What is left is multiplied with this (in place of `std`).
    pub scale: Option<PerChannel>,
    /// How the picture is fitted. Default letterbox for detectors, stretch for others.
    pub fit: Option<FitCard>,
    /// Value of the padding, in the tensor's order. Default 114.
    pub pad: Option<PerChannel>,
    /// Letterbox never makes the picture larger. Default false.
    pub never_enlarge: Option<bool>,
}

impl InputCard {
    /// This card with what it leaves open taken from `other`.
    #[must_use]
    pub fn or(self, other: InputCard) -> InputCard {
        // `std` and `scale` say the same thing, so one of them here stands against both there.
        let norm = self.std.is_some() || self.scale.is_some();
        InputCard {
            name: self.name.or(other.name),
            layout: self.layout.or(other.layout),
            size: self.size.or(other.size),
            long_side: self.long_side.or(other.long_side),
            multiple: self.multiple.or(other.multiple),
            channels: self.channels.or(other.channels),
            dtype: self.dtype.or(other.dtype),
            mean: self.mean.or(other.mean),
            std: if norm { self.std } else { other.std },
            scale: if norm { self.scale } else { other.scale },
            fit: self.fit.or(other.fit),
            pad: self.pad.or(other.pad),
            never_enlarge: self.never_enlarge.or(other.never_enlarge),
        }
    }

    /// The factor on what is left after `mean`.
    pub fn factor(&self) -> [f32; 3] {
        match (self.scale, self.std) {
            (Some(scale), _) => scale.all(),
            (None, Some(std)) => std.all().map(|s| 1.0 / s),
            (None, None) => [1.0; 3],
        }
    }

    /// The fit, with `default` where the card leaves it open.
    pub fn fit_or(&self, default: FitCard) -> Fit {
        let letterbox = |centered| Fit::Letterbox {
            centered,
            pad: self.pad.unwrap_or(PerChannel::One(114.0)).all(),
            never_enlarge: self.never_enlarge.unwrap_or(false),
        };
        match self.fit.unwrap_or(default) {
            FitCard::Letterbox => letterbox(true),
            FitCard::LetterboxTopLeft => letterbox(false),
            FitCard::Stretch => Fit::Stretch,
            FitCard::Crop => Fit::Crop,
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.std.is_some() && self.scale.is_some() {
            return Err("[input] has both `std` and `scale`; one of them is enough".into());
        }
        let finite = |what: &str, v: Option<PerChannel>| match v {
            Some(v) if !v.all().iter().all(|x| x.is_finite()) => Err(format!("[input] {what} is not a number")),
            _ => Ok(()),
        };
        finite("mean", self.mean)?;
        finite("scale", self.scale)?;
        finite("pad", self.pad)?;
        if self.std.is_some_and(|s| !s.all().iter().all(|v| v.is_finite() && *v != 0.0)) {
            return Err("[input] std must not be zero".into());
        }
        if self.size.is_some_and(|s| s.iter().any(|&v| v == 0 || v > MAX_SIDE)) {
            return Err(format!("[input] size must lie between 1 and {MAX_SIDE}"));
        }
        if self.size.is_some() && self.long_side.is_some() {
            return Err("[input] has both `size` and `long_side`; one of them is enough".into());
        }
        if self.long_side.is_some_and(|v| v == 0 || v > MAX_SIDE) {
            return Err(format!("[input] long_side must lie between 1 and {MAX_SIDE}"));
        }
        if self.multiple.is_some_and(|v| v == 0 || v > 1024) {
            return Err("[input] multiple must lie between 1 and 1024".into());
        }
        Ok(())
    }
}

/// Largest side of a model's input, pixels.
pub const MAX_SIDE: usize = 8192;

impl From<LayoutCard> for Layout {
    fn from(l: LayoutCard) -> Self {
        match l {
            LayoutCard::Nchw => Layout::Nchw,
            LayoutCard::Nhwc => Layout::Nhwc,
        }
    }
}

impl From<ChannelCard> for ChannelOrder {
    fn from(c: ChannelCard) -> Self {
        match c {
            ChannelCard::Rgb => ChannelOrder::Rgb,
            ChannelCard::Bgr => ChannelOrder::Bgr,
            ChannelCard::Gray => ChannelOrder::Gray,
        }
    }
}

impl From<DTypeCard> for DType {
    fn from(d: DTypeCard) -> Self {
        match d {
            DTypeCard::F32 => DType::F32,
            DTypeCard::F16 => DType::F16,
            DTypeCard::U8 => DType::U8,
        }
    }
}

/// A model as named in a pipeline file: its card, if it has one, and its file.
#[derive(Debug, Clone)]
pub struct Named {
    /// The model file.
    pub file: PathBuf,
    /// The card's file, if there is a card.
    pub card_file: Option<PathBuf>,
    /// What the card says; empty without one.
    pub card: Card,
    /// The model's name: the card's or the file's, without folder and ending.
    pub name: Arc<str>,
}

impl Named {
    /// Reads what `path` names: a card (`.toml`), or a model file whose card lies beside it or does not exist.
    /// The model file itself is not opened.
    ///
    /// # Errors
    /// What is wrong with the card, with file and line; or that the model file does not exist, and where to get it.
    pub fn read(path: &Path) -> Result<Self, InferError> {
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let is_card = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"));
        let card_file = if is_card { path.to_owned() } else { path.with_extension("toml") };
        let card_file = (is_card || card_file.exists()).then_some(card_file);
        let card = match &card_file {
            Some(f) => Card::read(f)?,
            None => Card::default(),
        };
        let file = match (&card.file, is_card) {
            (_, false) => path.to_owned(),
            (Some(f), true) => path.parent().unwrap_or(Path::new("")).join(f),
            (None, true) => path.with_extension("onnx"),
        };
        if !file.is_file() {
            let mut why = "the model file is not there".to_owned();
            if let Some(source) = &card.source {
                let _ = write!(why, "; get it from {source}");
                if let Some(sha) = &card.sha256 {
                    let _ = write!(why, " (SHA-256 {sha})");
                }
            }
            return Err(InferError::Model { path: file, why });
        }
        Ok(Self { file, card_file, card, name: stem.into() })
    }

    /// SHA-256 of the model file, in hexadecimal.
    ///
    /// # Errors
    /// The file cannot be read, or it is not the one that the card means.
    pub fn verify(&self) -> Result<String, InferError> {
        let have = sha256(&self.file).map_err(|e| InferError::Model { path: self.file.clone(), why: e.to_string() })?;
        match &self.card.sha256 {
            Some(want) if !want.eq_ignore_ascii_case(&have) => Err(InferError::Model {
                path: self.file.clone(),
                why: format!("its SHA-256 is {have}, its card says {want}"),
            }),
            _ => Ok(have),
        }
    }
}

impl Card {
    /// Reads a card.
    ///
    /// # Errors
    /// File, line and what is wrong.
    pub fn read(path: &Path) -> Result<Self, InferError> {
        let fail = |why: &dyn std::fmt::Display| InferError::Card(format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|e| fail(&e))?;
        let card: Card = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(1, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            InferError::Card(format!("{}:{line}: {}", path.display(), e.message()))
        })?;
        let at_key = |key: &str, why: String| {
            let line = text.lines().position(|l| l.trim_start().starts_with(key)).map_or(1, |i| i + 1);
            InferError::Card(format!("{}:{line}: {why}", path.display()))
        };
        card.input.check().map_err(|why| at_key("[input]", why))?;
        for (name, value) in [("threshold", card.threshold), ("iou", card.iou)] {
            if value.is_some_and(|v| !(0.0..=1.0).contains(&v)) {
                return Err(at_key(name, format!("{name} must lie between 0 and 1")));
            }
        }
        if card.sha256.as_ref().is_some_and(|s| s.len() != 64 || !s.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Err(at_key("sha256", "sha256 must be 64 hexadecimal digits".into()));
        }
        if let Some(d) = &card.decode {
            d.check().map_err(|why| at_key("[decode]", why))?;
        }
        if let Some(locator) = &card.locator {
            if !(locator.within_m > 0.0 && locator.within_m.is_finite()) {
                return Err(at_key("within_m", "within_m must be above 0 and finite".into()));
            }
            locator.world(Some(path)).map_err(|e| at_key("world", e.to_string()))?;
        }
        Ok(card)
    }
}

impl Labels {
    /// The names; a file is looked for beside `beside`.
    ///
    /// # Errors
    /// The file cannot be read, or there is no name in it.
    pub fn names(&self, beside: Option<&Path>) -> Result<Vec<Arc<str>>, InferError> {
        match self {
            Self::List(names) if names.is_empty() => Err(InferError::Card("`labels` is empty".into())),
            Self::List(names) => Ok(names.iter().map(|n| n.as_str().into()).collect()),
            Self::File(file) => {
                let path = beside.and_then(Path::parent).unwrap_or(Path::new("")).join(file);
                let text = std::fs::read_to_string(&path)
                    .map_err(|e| InferError::Card(format!("labels file {}: {e}", path.display())))?;
                let names: Vec<Arc<str>> = text.trim_end().lines().map(|l| l.trim().into()).collect();
                if names.iter().all(|n| n.is_empty()) {
                    return Err(InferError::Card(format!("labels file {}: it has no names", path.display())));
                }
                Ok(names)
            }
        }
    }
}

/// The 80 classes of the COCO data set, in the order of every detector trained on it.
pub fn coco80() -> Vec<Arc<str>> {
    include_str!("../../models/coco80.txt").lines().map(Into::into).collect()
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
    }
    let mut text = String::with_capacity(64);
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(text: &str) -> Result<Card, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.toml");
        std::fs::write(&path, text).unwrap();
        Card::read(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn errors_name_file_and_line() {
        let e = card("licence = \"MIT\"\n\n[input]\nmeen = 3\n").unwrap_err();
        assert!(e.contains("m.toml:4: ") && e.contains("meen"), "{e}");
        let e = card("\n[input]\nstd = 1\nscale = 2\n").unwrap_err();
        assert!(e.contains("m.toml:2: ") && e.contains("both"), "{e}");
        let e = card("iou = 1.5\n").unwrap_err();
        assert!(e.contains("m.toml:1: iou must lie"), "{e}");
        let e = card("\n\n[decode]\nfamily = \"yolo99\"\n").unwrap_err();
        assert!(e.contains("yolo99"), "{e}");
        let e = card("\n[decode]\nfamily = \"yolox\"\nreg_max = 7\n").unwrap_err();
        assert!(e.contains("reg_max"), "{e}");
        let e = card("\n[decode]\nfamily = \"yolox\"\nstrides = [0]\n").unwrap_err();
        assert!(e.contains("m.toml:2: ") && e.contains("strides"), "{e}");
    }

    #[test]
    fn a_locator_says_its_world() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let world = folder.join("locator.world.json").display().to_string();
        let good = card(&format!("[locator]\nworld = {world:?}\nwithin_m = 1000.0\n")).unwrap().locator.unwrap();
        assert_eq!(good.world(None).unwrap().stations.len(), 5);
        let e = card(&format!("[locator]\nworld = {world:?}\nwithin_m = 0\n")).unwrap_err();
        assert!(e.contains("m.toml:3: within_m"), "{e}");
        let e = card("[locator]\nwithin_m = 1000\nworld = \"nowhere.json\"\n").unwrap_err();
        assert!(e.contains("m.toml:3: ") && e.contains("nowhere.json"), "{e}");
        let e = card("[locator]\nwithin_m = 1000\nworld = \"m.toml\"\n").unwrap_err();
        assert!(e.contains("m.toml:3: ") && e.contains("line 1"), "{e}");
        let e = card("[locator]\nwithin = 1000\n").unwrap_err();
        assert!(e.contains("m.toml:2: ") && e.contains("within"), "{e}");
    }

    #[test]
    fn a_missing_model_says_where_to_get_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.toml");
        std::fs::write(&path, "source = \"https://example.org/m\"\n").unwrap();
        let e = Named::read(&path).unwrap_err().to_string();
        assert!(e.contains("m.onnx") && e.contains("https://example.org/m"), "{e}");
    }

    #[test]
    fn a_model_that_is_not_the_one_meant_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        std::fs::write(&path, b"abc").unwrap();
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Named::read(&path).unwrap().verify().unwrap(), sha);
        std::fs::write(path.with_extension("toml"), format!("sha256 = \"{}\"\n", "0".repeat(64))).unwrap();
        let e = Named::read(&path).unwrap().verify().unwrap_err().to_string();
        assert!(e.contains(sha) && e.contains("card says 000"), "{e}");
    }

    #[test]
    fn what_a_card_leaves_open_comes_from_the_family() {
        let mine = InputCard { scale: Some(PerChannel::One(2.0)), ..Default::default() };
        let family =
            InputCard { std: Some(PerChannel::One(4.0)), mean: Some(PerChannel::One(1.0)), ..Default::default() };
        let both = mine.or(family.clone());
        assert_eq!((both.factor(), both.mean), ([2.0; 3], Some(PerChannel::One(1.0))));
        assert_eq!(InputCard::default().or(family).factor(), [0.25; 3]);
    }

    #[test]
    fn coco_has_eighty_names() {
        let names = coco80();
        assert_eq!((names.len(), &*names[0], &*names[79]), (80, "person", "toothbrush"));
    }
}
