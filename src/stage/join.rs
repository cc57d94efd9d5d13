//! `join`: hands a stream's frames over, to be joined with those of other streams by a source `join://`.

use super::{BuildContext, Built, HandsOver, Stage, StageConfig, StageError};
use crate::frame::Frame;
use crate::frame::exchange::{Giver, Handed};
use serde::Deserialize;
use std::sync::Arc;

/// Keys of `kind = "join"`: it has none. A source `join://ID` takes what the stage ID hands over, and says what belongs
/// together. Only frames are handed over in which a `spectrogram` was finished, where there is such a stage before it;
/// else every frame is. All of them go on as they are.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JoinConfig {}

impl StageConfig for JoinConfig {
    fn hands_over(&self) -> Option<HandsOver> {
        Some(HandsOver::Frames)
    }

    fn build(&self, context: &BuildContext) -> Result<Built, StageError> {
        let giver = Arc::new(context.exchange.place(&context.id).give(!context.live));
        Ok(Built::Stage(Box::new(move || Ok(Box::new(Join(giver.clone())) as Box<dyn Stage>))))
    }
}

/// The stage at work.
struct Join(Arc<Giver>);

impl Stage for Join {
    fn process(&mut self, frame: &mut Frame) -> Result<(), StageError> {
        let features = &frame.annotations.features;
        if features.is_empty() || features.values().any(|f| !f.is_empty()) {
            self.0.hand(Handed::from(&*frame));
        }
        Ok(())
    }

    fn forget(&mut self, stream: u32) {
        self.0.ended(stream);
    }
}
