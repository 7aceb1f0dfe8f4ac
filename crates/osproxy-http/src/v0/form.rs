//! Streaming parser of `multipart/form-data`, with bounded memory.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::body::BodyDataStream;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use multer::{Constraints, Field, Multipart, SizeLimit};
use osproxy_api::ErrorCode;
use osproxy_core::{Error, Result};

use crate::{extract::body::incomplete_body_error, middleware::check_encoding};

/// The field that holds the content.
const CONTENT_FIELD: &str = "file";
/// Maximum size of any other field, in bytes. Other fields are ignored.
const MAX_OTHER_FIELD: u64 = 64 * 1024;
/// Maximum number of fields up to the content, including the content itself. After the content,
/// there must be fewer fields than this.
const MAX_FIELDS: usize = 32;
/// Maximum number of frames, of at most 64 KiB each, that the parser may buffer while it reads the
/// content.
const CONTENT_FRAMES: u32 = 4;
/// Number of bytes that the parser may read, and buffer, to reach the next field. The parser may
/// exceed this number by one frame.
const MAX_BETWEEN: u64 = 256 * 1024;

/// Whether a body with this content type is a form.
pub(crate) fn is_form(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("multipart/form-data")
}

/// Streams the content of the field `file`. The stream ends without an error only if the rest of
/// the form is complete and valid.
pub(crate) async fn content_stream(
    content_type: &str,
    body: BodyDataStream,
) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
    let boundary = multer::parse_boundary(content_type).map_err(|error| malformed(&error))?;
    let limits = SizeLimit::new().per_field(MAX_OTHER_FIELD).for_field(CONTENT_FIELD, u64::MAX);
    let allowance = Arc::new(AtomicU64::new(0));
    let body = MeteredBody { body, allowance: allowance.clone(), frames: 0 };
    let parser = Multipart::with_constraints(body, boundary, Constraints::new().size_limit(limits));
    let mut form = Form { parser, allowance };
    for _ in 0..MAX_FIELDS {
        let Some(field) = form.next_field().await? else {
            return Err(Error::invalid(format!("the form has no field `{CONTENT_FIELD}`")));
        };
        if field.name() == Some(CONTENT_FIELD) {
            check_encoding(field.headers())?;
            form.allowance.store(u64::MAX, Ordering::Relaxed);
            return Ok(stream::try_unfold(FormContent { form, content: field }, next_chunk));
        }
    }
    Err(Error::invalid("the form has too many fields"))
}

/// Passes a body on. Fails if more data follows after `allowance` bytes.
///
/// The parser buffers all data that is ready before it parses any of it. To bound that buffer, this
/// stream returns `Pending` after each frame outside the content, and after every
/// [`CONTENT_FRAMES`] frames within the content.
struct MeteredBody {
    body: BodyDataStream,
    allowance: Arc<AtomicU64>,
    /// Frames since the latest `Pending`.
    frames: u32,
}

impl Stream for MeteredBody {
    type Item = std::result::Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let in_content = self.allowance.load(Ordering::Relaxed) > MAX_BETWEEN;
        if self.frames >= if in_content { CONTENT_FRAMES } else { 1 } {
            self.frames = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_next(cx)) else {
            return Poll::Ready(None);
        };
        self.frames += 1;
        Poll::Ready(Some(frame.and_then(|bytes| {
            // Pass on the frame that exhausts the allowance, because most of that frame may be
            // content.
            let spend =
                |allowance: u64| (allowance > 0).then(|| allowance.saturating_sub(bytes.len() as u64));
            let allowed = self.allowance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
            allowed.map(|_| bytes).map_err(|_| axum::Error::new(FormTooLarge))
        })))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the form has too much data outside the field `file`")]
struct FormTooLarge;

struct Form {
    parser: Multipart<'static>,
    allowance: Arc<AtomicU64>,
}

impl Form {
    async fn next_field(&mut self) -> Result<Option<Field<'static>>> {
        self.allowance.store(MAX_BETWEEN, Ordering::Relaxed);
        self.parser.next_field().await.map_err(|error| malformed(&error))
    }
}

/// A form whose content is being read.
struct FormContent {
    form: Form,
    content: Field<'static>,
}

/// Returns the next chunk of the content, and the state for the next call. After the last chunk,
/// reads the rest of the form.
async fn next_chunk(rest: FormContent) -> Result<Option<(Bytes, FormContent)>> {
    let FormContent { form, mut content } = rest;
    if let Some(bytes) = content.try_next().await.map_err(|error| malformed(&error))? {
        return Ok(Some((bytes, FormContent { form, content })));
    }
    drop(content);
    read_to_end(form).await?;
    Ok(None)
}

/// Reads the rest of the form. The content must have been read to its end.
async fn read_to_end(mut form: Form) -> Result<()> {
    for _ in 0..MAX_FIELDS {
        let Some(field) = form.next_field().await? else {
            return Ok(());
        };
        if field.name() == Some(CONTENT_FIELD) {
            return Err(Error::invalid(format!("the form has more than one `{CONTENT_FIELD}` field")));
        }
    }
    Err(Error::invalid("the form has too many fields"))
}

fn malformed(error: &multer::Error) -> Error {
    match error {
        multer::Error::StreamReadFailed(source) if is_too_large(&**source) => {
            Error::new(ErrorCode::TooLarge, FormTooLarge.to_string())
        }
        multer::Error::StreamReadFailed(source) => incomplete_body_error(&**source),
        // The body itself is complete. The error is not `IncompleteBody`, because a retry would
        // fail again.
        multer::Error::IncompleteFieldData { .. }
        | multer::Error::IncompleteHeaders
        | multer::Error::IncompleteStream => Error::invalid("the form lacks its closing boundary"),
        multer::Error::FieldSizeExceeded { .. } | multer::Error::StreamSizeExceeded { .. } => {
            Error::new(ErrorCode::TooLarge, "a field of the form is too large")
        }
        error => Error::invalid(format!("the form is malformed: {error}")),
    }
}

fn is_too_large(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(<dyn std::error::Error>::is::<FormTooLarge>)
}
