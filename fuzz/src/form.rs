//! Forms. The first line of an input is a content type, the second the sizes of the chunks in which
//! the form arrives; the rest is the form.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use osproxy_api::ErrorCode;
use osproxy_http::parsers::{form, is_form};

/// The result does not depend on the chunks. It is the text of the form between a head and the next
/// boundary.
pub(crate) fn check(input: &[u8]) {
    let ([content_type, sizes], body) = crate::lines(input);
    let is_form_type = is_form(content_type);
    let whole = read(content_type, &[body.len()], body);
    let sizes: Vec<usize> = sizes.split(' ').filter_map(|size| size.parse().ok()).collect();
    for sizes in [&sizes[..], &[1]] {
        assert_eq!(read(content_type, sizes, body), whole, "in chunks of {sizes:?}");
    }
    let Ok(content) = whole else { return };
    let boundary = multer::parse_boundary(content_type).expect("a parsed form has a boundary");
    assert!(is_form_type, "{content_type:?} is not the type of a form");
    let end = [b"\r\n--", boundary.as_bytes()].concat();
    let framed = [b"\r\n\r\n", &content[..], &end].concat();
    assert!(contains(body, &framed), "the content is not between a head and a boundary");
    assert!(!contains(&content, &end), "the content contains a boundary");
    assert!(contains(body, &[end, b"--".to_vec()].concat()), "the form has no closing boundary");
    if let Some(fields) = read_with_multer(boundary, body) {
        assert!(fields.contains(&content), "multer finds other content: {fields:?}");
    }
}

/// Reads all fields with another parser, which may find other names in malformed headers. `None` if
/// that parser rejects the form.
fn read_with_multer(boundary: String, body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let body = futures_util::stream::iter([Ok::<_, std::io::Error>(body.to_vec())]);
    let mut parser = multer::Multipart::new(body, boundary);
    let mut reading = pin!(async move {
        let mut fields = Vec::new();
        while let Some(field) = parser.next_field().await.ok()? {
            fields.push(field.bytes().await.ok()?.to_vec());
        }
        Some(fields)
    });
    let mut context = Context::from_waker(Waker::noop());
    (0..1000).find_map(|_| match reading.as_mut().poll(&mut context) {
        Poll::Ready(read) => Some(read),
        Poll::Pending => None,
    })?
}

fn contains(body: &[u8], wanted: &[u8]) -> bool {
    body.windows(wanted.len()).any(|window| window == wanted)
}

/// Parses a form that arrives in chunks of `sizes`, over and over. Fails with the code of the
/// error.
fn read(content_type: &str, sizes: &[usize], body: &[u8]) -> Result<Vec<u8>, ErrorCode> {
    let (mut pieces, mut rest) = (Vec::new(), body);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        // Some chunks are empty, but never two in succession.
        let size = if *size == 0 && pieces.last().is_none_or(Vec::is_empty) { 1 } else { *size };
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        pieces.push(piece.to_vec());
        rest = behind;
    }
    if !rest.is_empty() {
        pieces.push(rest.to_vec());
    }
    let polls = 100 + 4 * pieces.len();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let pieces = pieces.into_iter().map(Into::into).collect();
    let mut reading = pin!(form(content_type, pieces));
    for _ in 0..polls {
        if let Poll::Ready(read) = reading.as_mut().poll(&mut Context::from_waker(&waker)) {
            return read.map_err(|error| error.code);
        }
        assert!(woken.0.swap(false, Ordering::Relaxed), "pending, although all input is available");
    }
    panic!("pending, although all input is available");
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
