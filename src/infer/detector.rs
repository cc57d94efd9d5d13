//! A detector as it is to be used: model file, card, recognition and the pipeline file's wishes put together.

use super::InferError;
use super::card::{FitCard, Labels, Named};
use super::decode::{DecodeCard, Decoder};
use super::input::{PictureInput, Wish};
use super::model::ModelInfo;
use super::recognise::{family_input, recognise, unknown};
use std::path::Path;
use std::sync::Arc;

/// Score threshold where neither pipeline nor card says.
pub const THRESHOLD: f32 = 0.35;
/// Overlap limit where neither pipeline nor card says.
pub const IOU: f32 = 0.45;

/// How a model's pictures go in and its boxes come out.
#[derive(Debug)]
pub struct Detector {
    /// The picture input.
    pub input: PictureInput,
    /// What the outputs mean.
    pub decode: DecodeCard,
    /// Turns outputs into boxes.
    pub decoder: Box<dyn Decoder>,
    /// Names of the classes; classes beyond them are called `class N`.
    pub labels: Vec<Arc<str>>,
}

impl Detector {
    /// Puts together what is known. `size` and `labels` are the pipeline file's, `labels_beside` its place.
    ///
    /// # Errors
    /// The model is not recognised and has no card that says enough, or what is said does not fit the model.
    pub fn new(
        named: &Named,
        model: &ModelInfo,
        size: Option<(usize, usize)>,
        labels: Option<Vec<Arc<str>>>,
    ) -> Result<Self, InferError> {
        let at = |e: InferError| match e {
            InferError::Output(why) => InferError::Model { path: named.file.clone(), why },
            other => other,
        };
        let card = &named.card;
        let (decode, family, known) = match &card.decode {
            Some(d) => {
                let same = recognise(model).filter(|r| r.decode.family() == d.family());
                (d.clone(), family_input(d), same.and_then(|r| r.labels))
            }
            None => {
                let r = recognise(model).ok_or_else(|| at(unknown(model)))?;
                (r.decode, r.input, r.labels)
            }
        };
        let wants = card.input.clone().or(size_of(card.input.size.is_some() || card.input.long_side.is_some(), family));
        let wish = Wish { card: &wants, size, fit: FitCard::Letterbox };
        let input = PictureInput::new(model, &wish).map_err(at)?;
        let decoder = decode.build(&model.outputs, (input.spec.width, input.spec.height)).map_err(at)?;
        let from_card = match &card.labels {
            Some(l) => Some(l.names(named.card_file.as_deref())?),
            None => None,
        };
        let classes = decoder.classes();
        // What was said outright must fit; what was only recognised gives way.
        let told = labels.or(from_card);
        if let (Some(names), Some(classes)) = (&told, classes)
            && names.len() != classes
        {
            return Err(at(InferError::Output(format!("it has {classes} classes, but {} labels", names.len()))));
        }
        let known = known.filter(|n| classes.is_none_or(|c| c == n.len()));
        let labels = told.or(known).unwrap_or_else(|| (0..classes.unwrap_or(0)).map(numbered).collect());
        Ok(Self { input, decode, decoder, labels })
    }

    /// The class's name.
    pub fn label(&self, class: u32) -> Arc<str> {
        self.labels.get(class as usize).cloned().unwrap_or_else(|| numbered(class as usize))
    }
}

/// A family's input, without its size where the card has one of its own.
fn size_of(stated: bool, family: super::card::InputCard) -> super::card::InputCard {
    if stated { super::card::InputCard { size: None, long_side: None, ..family } } else { family }
}

/// The name of a class that has none.
pub fn numbered(class: usize) -> Arc<str> {
    format!("class {class}").into()
}

/// The pipeline file's `labels`; a file is looked for with `find`.
///
/// # Errors
/// The file is not there or has no names.
pub fn labels(
    labels: Option<&Labels>,
    find: impl Fn(&Path) -> Option<std::path::PathBuf>,
) -> Result<Option<Vec<Arc<str>>>, InferError> {
    match labels {
        None => Ok(None),
        Some(Labels::File(f)) => {
            let path = find(f).ok_or_else(|| InferError::Card(format!("labels file {} is not there", f.display())))?;
            Labels::File(std::path::absolute(&path).unwrap_or(path)).names(None).map(Some)
        }
        Some(list) => list.names(None).map(Some),
    }
}
