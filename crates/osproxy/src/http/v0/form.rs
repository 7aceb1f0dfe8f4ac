use axum::body::BodyDataStream;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use multer::{Constraints, Field, Multipart, SizeLimit};
use osproxy_api::ErrorCode;

use crate::{Error, Result};

/// The field that holds the content.
const FILE: &str = "file";
/// Largest other field, in bytes. They are read over.
const MAX_OTHER: u64 = 64 * 1024;
/// Most other fields.
const MAX_FIELDS: usize = 32;

/// Whether a body of this type is a form.
pub(super) fn is_form(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("multipart/form-data")
}

/// The content of the field `file`, as it arrives. The stream ends well only if the whole form does.
pub(super) async fn file(
    content_type: &str,
    body: BodyDataStream,
) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
    let boundary = multer::parse_boundary(content_type).map_err(|error| malformed(&error))?;
    let limits = SizeLimit::new().per_field(MAX_OTHER).for_field(FILE, u64::MAX);
    let constraints = Constraints::new().size_limit(limits);
    let mut form = Multipart::with_constraints(body, boundary, constraints);
    for _ in 0..MAX_FIELDS {
        let Some(field) = form.next_field().await.map_err(|error| malformed(&error))? else {
            return Err(Error::invalid(format!("the form has no field `{FILE}`")));
        };
        if field.name() == Some(FILE) {
            return Ok(stream::try_unfold((form, Some(field)), next));
        }
    }
    Err(Error::invalid("the form has too many fields"))
}

type Rest = (Multipart<'static>, Option<Field<'static>>);

async fn next((form, field): Rest) -> Result<Option<(Bytes, Rest)>> {
    let Some(mut field) = field else {
        return Ok(None);
    };
    if let Some(bytes) = field.try_next().await.map_err(|error| malformed(&error))? {
        return Ok(Some((bytes, (form, Some(field)))));
    }
    drop(field);
    end(form).await?;
    Ok(None)
}

/// Reads what follows the content: nothing that matters, but it must be there in full.
async fn end(mut form: Multipart<'static>) -> Result<()> {
    for _ in 0..MAX_FIELDS {
        let Some(field) = form.next_field().await.map_err(|error| malformed(&error))? else {
            return Ok(());
        };
        if field.name() == Some(FILE) {
            return Err(Error::invalid(format!("the form has more than one field `{FILE}`")));
        }
    }
    Err(Error::invalid("the form has too many fields"))
}

fn malformed(error: &multer::Error) -> Error {
    match error {
        multer::Error::IncompleteFieldData { .. }
        | multer::Error::IncompleteHeaders
        | multer::Error::IncompleteStream
        | multer::Error::StreamReadFailed(_) => {
            Error::new(ErrorCode::IncompleteBody, "the form ended before it was complete")
        }
        multer::Error::FieldSizeExceeded { .. } | multer::Error::StreamSizeExceeded { .. } => {
            Error::new(ErrorCode::TooLarge, "a field of the form is too large")
        }
        error => Error::invalid(format!("the form is malformed: {error}")),
    }
}
