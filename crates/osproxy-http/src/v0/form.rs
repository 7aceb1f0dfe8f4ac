//! Streaming parser of `multipart/form-data`, with bounded memory. The content is not copied: its
//! chunks are slices of the frames of the body.

use axum::{
    body::BodyDataStream,
    http::{HeaderMap, HeaderName, HeaderValue, header},
};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use memchr::memmem::Finder;
use osproxy_api::ErrorCode;
use osproxy_core::{Error, Result};

use crate::{
    extract::{body::incomplete_body_error, disposition},
    middleware::check_encoding,
};

/// The field that holds the content.
const CONTENT_FIELD: &str = "file";
/// Maximum size of any other field, in bytes. Other fields are ignored.
const MAX_OTHER_FIELD: u64 = 64 * 1024;
/// Maximum number of fields up to the content, including the content itself. After the content,
/// there must be fewer fields than this.
const MAX_FIELDS: usize = 32;
/// Maximum number of headers of a field.
const MAX_HEADERS: usize = 32;
/// Number of bytes that may be read, and buffered, to reach the content of the next field. The last
/// frame may exceed this number.
const MAX_BETWEEN: u64 = 256 * 1024;

/// Maximum length of a boundary, in bytes (RFC 2046).
const MAX_BOUNDARY: usize = 70;

const CRLF: &[u8] = b"\r\n";
const NO_CLOSING_BOUNDARY: &str = "the form lacks its closing boundary";

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
    let mut form = Form::new(&boundary(content_type)?, body);
    form.skip_preamble().await?;
    for _ in 0..MAX_FIELDS {
        let Some(headers) = form.next_field().await? else {
            return Err(Error::invalid(format!("the form has no field `{CONTENT_FIELD}`")));
        };
        if is_content(&headers) {
            check_encoding(&headers)?;
            form.allowance = u64::MAX;
            return Ok(stream::try_unfold(form, next_chunk));
        }
        form.skip_field().await?;
    }
    Err(Error::invalid("the form has too many fields"))
}

/// Returns the boundary between the fields.
fn boundary(content_type: &str) -> Result<String> {
    if !is_form(content_type) {
        return Err(malformed("its type is not `multipart/form-data`"));
    }
    let content_type: mime::Mime = content_type.parse().map_err(malformed)?;
    let boundary = content_type.get_param(mime::BOUNDARY).ok_or_else(|| malformed("it has no boundary"))?;
    if boundary.as_str().len() > MAX_BOUNDARY {
        return Err(malformed(format!("the boundary is longer than {MAX_BOUNDARY} bytes")));
    }
    if boundary.as_str().contains(['\r', '\n']) {
        return Err(malformed("the boundary has a line break"));
    }
    Ok(boundary.as_str().to_owned())
}

/// A form that is being read.
struct Form {
    body: BodyDataStream,
    /// Bytes of the latest frame that are not parsed yet.
    rest: Bytes,
    /// Line break and boundary. The first byte does not occur again in it.
    delimiter: Finder<'static>,
    /// Number of bytes that may be read before the next field.
    allowance: u64,
}

impl Form {
    fn new(boundary: &str, body: BodyDataStream) -> Self {
        let delimiter = Finder::new(&[CRLF, b"--", boundary.as_bytes()].concat()).into_owned();
        Self { body, rest: Bytes::new(), delimiter, allowance: MAX_BETWEEN }
    }

    /// Returns the bytes that are not parsed yet, or else the next frame. Never empty.
    async fn take_frame(&mut self) -> Result<Bytes> {
        while self.rest.is_empty() {
            let frame = self.body.next().await.ok_or_else(|| Error::invalid(NO_CLOSING_BOUNDARY))?;
            self.rest = frame.map_err(|error| incomplete_body_error(&error))?;
            if self.allowance == 0 {
                let message = "the form has too much data outside the field `file`";
                return Err(Error::new(ErrorCode::TooLarge, message));
            }
            self.allowance = self.allowance.saturating_sub(self.rest.len() as u64);
        }
        Ok(std::mem::take(&mut self.rest))
    }

    async fn take_byte(&mut self) -> Result<u8> {
        self.rest = self.take_frame().await?;
        Ok(self.rest.get_u8())
    }

    /// Reads until `pattern` ends. Returns `start` and the bytes read; `pattern` may begin in
    /// `start`.
    async fn take_until(&mut self, pattern: &[u8], start: &[u8]) -> Result<BytesMut> {
        let finder = Finder::new(pattern);
        let mut taken = BytesMut::from(start);
        loop {
            let mut frame = self.take_frame().await?;
            let before = taken.len();
            let searched = before.saturating_sub(pattern.len() - 1);
            taken.extend_from_slice(&frame);
            if let Some(at) = finder.find(taken.get(searched..).unwrap_or_default()) {
                let end = searched + at + pattern.len();
                taken.truncate(end);
                frame.advance(end - before);
                self.rest = frame;
                return Ok(taken);
            }
        }
    }

    /// Reads up to the end of the first boundary.
    async fn skip_preamble(&mut self) -> Result<()> {
        let boundary = self.delimiter.needle().get(CRLF.len()..).unwrap_or_default().to_vec();
        self.take_until(&boundary, &[]).await.map(drop)
    }

    /// Reads from the end of a boundary to the beginning of a field. Returns the headers of the
    /// field; `None` after the last field.
    async fn next_field(&mut self) -> Result<Option<HeaderMap>> {
        self.allowance = MAX_BETWEEN;
        let mut next = self.take_byte().await?;
        if next == b'-' {
            return match self.take_byte().await? {
                b'-' => Ok(None),
                _ => Err(malformed("a boundary is followed by other text")),
            };
        }
        while next == b' ' || next == b'\t' {
            next = self.take_byte().await?;
        }
        if [next, self.take_byte().await?] != CRLF {
            return Err(malformed("a boundary is followed by other text"));
        }
        let head = self.take_until(b"\r\n\r\n", CRLF).await?;
        parse_headers(head.get(CRLF.len()..).unwrap_or_default()).map(Some)
    }

    /// Returns the next bytes of a field; `None` when the field has ended, after its boundary.
    async fn next_bytes(&mut self) -> Result<Option<Bytes>> {
        let mut bytes = self.take_frame().await?;
        let delimiter = self.delimiter.needle().len();
        if let Some(end) = self.delimiter.find(&bytes) {
            self.rest = bytes.split_off(end);
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
            self.rest.advance(delimiter);
            return Ok(None);
        }
        let start = self.start_of_delimiter(&bytes);
        if start > 0 {
            self.rest = bytes.split_off(start);
            return Ok(Some(bytes));
        }
        // `bytes` may be the start of a delimiter: read more to decide.
        let mut start = BytesMut::from(&bytes[..]);
        loop {
            let mut frame = self.take_frame().await?;
            let missing = frame.len().min(delimiter - start.len());
            start.extend_from_slice(frame.get(..missing).unwrap_or_default());
            if !self.delimiter.needle().starts_with(&start) {
                // No delimiter begins later in `start`, either, since only its first byte is a
                // carriage return. One may begin in the frame.
                start.truncate(start.len() - missing);
                self.rest = frame;
                return Ok(Some(start.freeze()));
            }
            frame.advance(missing);
            self.rest = frame;
            if start.len() == delimiter {
                return Ok(None);
            }
        }
    }

    /// Position from which on `bytes` are a proper prefix of the delimiter; their length if there
    /// is none.
    fn start_of_delimiter(&self, bytes: &[u8]) -> usize {
        let delimiter = self.delimiter.needle();
        let searched = (bytes.len() + 1).saturating_sub(delimiter.len());
        let tail = bytes.get(searched..).unwrap_or_default();
        match memchr::memrchr(b'\r', tail) {
            Some(at) if tail.get(at..).is_some_and(|end| delimiter.starts_with(end)) => searched + at,
            _ => bytes.len(),
        }
    }

    /// Reads a field that is ignored.
    async fn skip_field(&mut self) -> Result<()> {
        let mut size = 0;
        while let Some(bytes) = self.next_bytes().await? {
            size += bytes.len() as u64;
            if size > MAX_OTHER_FIELD {
                return Err(Error::new(ErrorCode::TooLarge, "a field of the form is too large"));
            }
        }
        Ok(())
    }
}

/// Returns the next chunk of the content, and the state for the next call. After the last chunk,
/// reads the rest of the form.
async fn next_chunk(mut form: Form) -> Result<Option<(Bytes, Form)>> {
    if let Some(bytes) = form.next_bytes().await? {
        return Ok(Some((bytes, form)));
    }
    for _ in 0..MAX_FIELDS {
        let Some(headers) = form.next_field().await? else {
            return Ok(None);
        };
        if is_content(&headers) {
            return Err(Error::invalid(format!("the form has more than one `{CONTENT_FIELD}` field")));
        }
        form.skip_field().await?;
    }
    Err(Error::invalid("the form has too many fields"))
}

/// Parses the headers of a field. `head` ends with an empty line.
fn parse_headers(head: &[u8]) -> Result<HeaderMap> {
    let mut parsed = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let httparse::Status::Complete((_, parsed)) =
        httparse::parse_headers(head, &mut parsed).map_err(malformed)?
    else {
        return Err(malformed("the headers of a field are incomplete"));
    };
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(malformed)?;
        headers.append(name, HeaderValue::from_bytes(header.value).map_err(malformed)?);
    }
    Ok(headers)
}

fn is_content(headers: &HeaderMap) -> bool {
    let disposition = headers.get(header::CONTENT_DISPOSITION).map_or(&[][..], HeaderValue::as_bytes);
    disposition::parameter(disposition, "name").as_deref() == Some(CONTENT_FIELD.as_bytes())
}

fn malformed(problem: impl std::fmt::Display) -> Error {
    Error::invalid(format!("the form is malformed: {problem}"))
}
