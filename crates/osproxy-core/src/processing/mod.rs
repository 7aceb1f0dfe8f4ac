//! The processing pipeline: steps that look at complete content and decide whether it becomes
//! readable ([ADR 43](../../../../docs/adr/0043-processing.md)).
//!
//! Each kind of step is a file in this folder. `build` is the list that registers them.

mod answer;
mod command;
mod content;
mod content_type;
pub mod image;
mod media;
mod pipeline;
pub mod sandbox;
mod scan;
pub mod settings;
mod step;
mod webhook;

pub use content::FileContent;
pub use pipeline::{Conclusion, ConfiguredStep, Held, Pipeline, StepRun};
pub use settings::{ProcessingSettings, StepKind, StepSettings};
pub use step::{AnyStep, ContentStream, Findings, OpenContent, Step, StepError, StepFile, Verdict};

/// Creates the step that `kind` describes.
fn build(kind: StepKind) -> AnyStep {
    match kind {
        StepKind::Command(settings) => AnyStep::new(command::Command::new(settings)),
        StepKind::Image(settings) => AnyStep::new(image::Image::new(settings)),
        StepKind::Media(settings) => AnyStep::new(media::Media::new(settings)),
        StepKind::Scan(settings) => AnyStep::new(scan::Scan::new(settings)),
        StepKind::Type(settings) => AnyStep::new(content_type::ContentType::new(settings)),
        StepKind::Webhook(settings) => AnyStep::new(webhook::Webhook::new(*settings)),
    }
}
