//! Decodes images in a separate process, so that a decoder that is attacked, loops or needs too
//! much memory harms nothing else.

pub mod decode;

use serde_json::{Map, Value};

use super::{
    Findings, OpenContent, Step, StepError, StepFile, Verdict, answer,
    sandbox::{Input, Program, RunError, Target},
    settings::ImageSettings,
};

/// The formats that are decoded.
const TYPES: &str = "image/jpeg,image/jpg,image/pjpeg,image/png,image/apng,image/gif,image/webp";

/// The step `image`.
pub(super) struct Image {
    settings: ImageSettings,
}

impl Image {
    pub(super) fn new(settings: ImageSettings) -> Self {
        Self { settings }
    }

    /// The verdict about content that is no valid image, or exceeds the limits.
    fn damaged(&self, error: &str) -> Verdict {
        let error = answer::shorten(error, "the content is no valid image");
        if self.settings.reject_damaged {
            return Verdict::Reject { reason: format!("not accepted as an image: {error}") };
        }
        let media = Map::from_iter([("error".to_owned(), Value::from(error))]);
        Verdict::Accept(Findings { media, ..Findings::default() })
    }
}

impl Step for Image {
    fn name(&self) -> &'static str {
        "image"
    }

    fn applies(&self, file: &StepFile) -> bool {
        osproxy_types::content_type::matches_pattern(TYPES, &file.content_type)
    }

    async fn run(&self, file: &StepFile, content: &dyn OpenContent) -> Result<Verdict, StepError> {
        let ImageSettings { limits, max_size, max_pixels, thumbhash, .. } = self.settings;
        if file.size > max_size {
            return Ok(self.damaged(&format!("it has more than {max_size} bytes")));
        }
        let mut arguments = vec![format!("--max-size={max_size}"), format!("--max-pixels={max_pixels}")];
        if thumbhash {
            arguments.push("--thumbhash".to_owned());
        }
        let decoder = Program { target: Target::ImageDecoder(arguments), environment: Vec::new(), limits };
        let output = match decoder.run(Input::Stream(content.open(0..file.size).await?)).await {
            Ok(output) => output,
            Err(RunError::Unavailable(error)) => return Err(error),
            // The store or the machine may be slow.
            Err(error @ RunError::TimedOut(_)) => return Err(error.into()),
            Err(RunError::Exited { .. }) => {
                return Ok(self.damaged("decoding it needs too much memory or time"));
            }
            Err(error) => return Ok(self.damaged(&error.to_string())),
        };
        let media: Map<String, Value> = serde_json::from_slice(&output)
            .map_err(|error| StepError::failed(format!("the decoder prints no JSON object: {error}")))?;
        Ok(match media.get("error").and_then(Value::as_str) {
            Some(error) => self.damaged(error),
            None => Verdict::Accept(Findings { media, ..Findings::default() }),
        })
    }
}
