//! Asks `ffprobe` for the duration, codecs and dimensions of audio and video.

use std::{
    fs::{File, Permissions},
    io::{Seek, SeekFrom, Write},
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    sync::Arc,
};

use futures_util::TryStreamExt;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;

use super::{
    Findings, OpenContent, Step, StepError, StepFile, Verdict, answer,
    sandbox::{Input, Program, RunError, Target},
    settings::MediaSettings,
};

/// The step `media`.
pub(super) struct Media {
    settings: Arc<MediaSettings>,
}

impl Media {
    pub(super) fn new(settings: MediaSettings) -> Self {
        Self { settings: Arc::new(settings) }
    }
}

impl Step for Media {
    fn name(&self) -> &'static str {
        "media"
    }

    fn applies(&self, file: &StepFile) -> bool {
        let kind = file.content_type.to_ascii_lowercase();
        ["audio/", "video/", "application/ogg", "application/mp4"].iter().any(|one| kind.starts_with(one))
    }

    async fn run(&self, file: &StepFile, content: &dyn OpenContent) -> Result<Verdict, StepError> {
        let MediaSettings { ffprobe, limits, probe_size, reject_damaged } = &*self.settings;
        let excerpt = excerpt(file.size, content, *probe_size).await?;
        let mut argv = vec![ffprobe.display().to_string()];
        let options = "-v error -hide_banner -print_format json -show_format -show_streams \
                       -protocol_whitelist file -i file:/dev/stdin";
        argv.extend(options.split(' ').map(str::to_owned));
        let program = Program {
            target: Target::Program { argv, readable: Vec::new() },
            environment: Vec::new(),
            limits: *limits,
        };
        let probed = match program.run(Input::File(excerpt)).await {
            Ok(output) => parse(&output)?,
            Err(RunError::Unavailable(error)) => return Err(error),
            // ffprobe ends with this status if it does not recognise the content. All else says nothing
            // about the content: it may be missing, or the machine may be slow.
            Err(RunError::Exited { status, .. }) if *reject_damaged && status.code() == Some(1) => {
                let reason = "the content is no valid audio or video".to_owned();
                return Ok(Verdict::Reject { reason });
            }
            Err(error) if *reject_damaged => return Err(error.into()),
            Err(error) => {
                let error = answer::shorten(&error.to_string(), "not recognised");
                Map::from_iter([("error".to_owned(), error.into())])
            }
        };
        Ok(Verdict::Accept(Findings { media: probed, ..Findings::default() }))
    }
}

/// Writes the beginning and the end of the content to a temporary file that has the size of the
/// content and no name. What lies between is a hole. The index of a film is at one of its ends.
async fn excerpt(size: u64, content: &dyn OpenContent, probe_size: u64) -> Result<File, StepError> {
    let failed = |error: std::io::Error| StepError::unavailable("cannot write a temporary file", error);
    let joined = |error: tokio::task::JoinError| StepError::unavailable("a thread failed", error);
    let mut file = spawn_blocking(move || {
        let file = tempfile::tempfile()?;
        file.set_len(size)?;
        Ok(file)
    })
    .await
    .map_err(joined)?
    .map_err(failed)?;
    let head = size.min(probe_size);
    let tail = size.saturating_sub(probe_size).max(head);
    for range in [0..head, tail..size].into_iter().filter(|range| !range.is_empty()) {
        let mut at = range.start;
        let mut stream = content.open(range).await?;
        while let Some(bytes) = stream.try_next().await? {
            let count = bytes.len() as u64;
            let written = spawn_blocking(move || {
                file.seek(SeekFrom::Start(at))?;
                file.write_all(&bytes)?;
                Ok(file)
            });
            file = written.await.map_err(joined)?.map_err(failed)?;
            at += count;
        }
    }
    spawn_blocking(move || read_only(&file)).await.map_err(joined)?.map_err(failed)
}

/// Opens a file again, so that who gets it can read it and neither write it nor open it for writing.
fn read_only(file: &File) -> std::io::Result<File> {
    file.set_permissions(Permissions::from_mode(0o400))?;
    #[expect(clippy::disallowed_methods, reason = "on a thread that may block")]
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The output of ffprobe.
#[derive(Deserialize)]
struct Probed {
    #[serde(default)]
    streams: Vec<ProbedStream>,
    format: ProbedFormat,
}

#[derive(Deserialize)]
struct ProbedFormat {
    format_name: String,
    duration: Option<String>,
}

#[derive(Deserialize)]
struct ProbedStream {
    codec_type: Option<String>,
    codec_name: Option<String>,
    width: Option<u64>,
    height: Option<u64>,
    channels: Option<u64>,
    sample_rate: Option<String>,
    #[serde(default)]
    disposition: Map<String, Value>,
    #[serde(default)]
    side_data_list: Vec<Map<String, Value>>,
}

impl ProbedStream {
    fn is(&self, kind: &str) -> bool {
        self.codec_type.as_deref() == Some(kind)
    }

    /// Whether this is the picture of an album, not a film.
    fn is_cover(&self) -> bool {
        self.disposition.get("attached_pic").and_then(Value::as_i64) == Some(1)
    }

    /// Width and height as the film is shown: after its rotation.
    fn shown_size(&self) -> Option<(u64, u64)> {
        let (width, height) = (self.width?, self.height?);
        let rotation = self.side_data_list.iter().find_map(|data| data.get("rotation")?.as_f64());
        let is_upright = rotation.is_none_or(|degrees| (degrees / 90.0).round() % 2.0 == 0.0);
        Some(if is_upright { (width, height) } else { (height, width) })
    }
}

fn parse(output: &[u8]) -> Result<Map<String, Value>, StepError> {
    let probed: Probed = serde_json::from_slice(output)
        .map_err(|error| StepError::failed(format!("ffprobe prints no JSON that is understood: {error}")))?;
    let mut media = Map::new();
    media.insert("container".to_owned(), probed.format.format_name.into());
    let seconds = probed.format.duration.and_then(|seconds| seconds.parse::<f64>().ok());
    if let Some(seconds) = seconds.filter(|seconds| (0.0..1e12).contains(seconds)) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
        media.insert("duration_ms".to_owned(), ((seconds * 1000.0).round() as u64).into());
    }
    if let Some(video) = probed.streams.iter().find(|stream| stream.is("video") && !stream.is_cover()) {
        media.insert("video_codec".to_owned(), json!(video.codec_name));
        if let Some((width, height)) = video.shown_size() {
            media.insert("width".to_owned(), width.into());
            media.insert("height".to_owned(), height.into());
        }
    }
    if let Some(audio) = probed.streams.iter().find(|stream| stream.is("audio")) {
        media.insert("audio_codec".to_owned(), json!(audio.codec_name));
        media.insert("audio_channels".to_owned(), json!(audio.channels));
        let rate = audio.sample_rate.as_ref().and_then(|rate| rate.parse::<u64>().ok());
        media.insert("audio_sample_rate".to_owned(), json!(rate));
    }
    media.retain(|_, value| !value.is_null());
    Ok(media)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_film_is_described_as_it_is_shown() {
        let output = json!({
            "streams": [
                {"codec_type": "audio", "codec_name": "aac", "channels": 2, "sample_rate": "44100"},
                {"codec_type": "video", "codec_name": "mjpeg", "width": 1, "height": 1,
                 "disposition": {"attached_pic": 1}},
                {"codec_type": "video", "codec_name": "h264", "width": 1920, "height": 1080,
                 "side_data_list": [{"rotation": -90}]},
            ],
            "format": {"format_name": "mov,mp4", "duration": "1.5004"},
        });
        let media = parse(output.to_string().as_bytes()).unwrap();
        let expected = json!({
            "container": "mov,mp4", "duration_ms": 1500, "video_codec": "h264", "width": 1080, "height": 1920,
            "audio_codec": "aac", "audio_channels": 2, "audio_sample_rate": 44100,
        });
        assert_eq!(Value::Object(media), expected);
        assert!(parse(b"{}").is_err());
    }
}
