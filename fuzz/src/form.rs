//! Forms. The first line of an input is a content type, the second one the sizes of the pieces in which the form arrives, and the
//! rest the form.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use osproxy::http::parsers::{form, is_form};
use osproxy_api::ErrorCode;

/// What comes of a form does not depend on how it is cut, and is a piece of it between two boundaries.
pub(crate) fn check(input: &[u8]) {
    let ([content_type, sizes], body) = crate::lines(input);
    let is_taken = is_form(content_type);
    let whole = read(content_type, &[body.len()], body);
    let sizes: Vec<usize> = sizes.split(' ').filter_map(|size| size.parse().ok()).collect();
    for sizes in [&sizes[..], &[1]] {
        assert_eq!(read(content_type, sizes, body), whole, "in pieces of {sizes:?}");
    }
    let Ok(content) = whole else { return };
    let boundary = multer::parse_boundary(content_type).expect("there is no form without one");
    assert!(is_taken, "{content_type:?} is the type of a form");
    let end = [b"\r\n--", boundary.as_bytes()].concat();
    let framed = [b"\r\n\r\n", &content[..], &end].concat();
    assert!(contains(body, &framed), "the content stands in the form, between a head and a boundary");
    assert!(!contains(&content, &end), "a boundary is no content");
    assert!(contains(body, &[end, b"--".to_vec()].concat()), "the form ends");
}

fn contains(body: &[u8], wanted: &[u8]) -> bool {
    body.windows(wanted.len()).any(|window| window == wanted)
}

/// What comes of a form that arrives in pieces of these sizes, again and again; what does not, by its code.
fn read(content_type: &str, sizes: &[usize], body: &[u8]) -> Result<Vec<u8>, ErrorCode> {
    let (mut pieces, mut rest) = (Vec::new(), body);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        // One of no bytes now and then, and never nothing else.
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
        assert!(woken.0.swap(false, Ordering::Relaxed), "everything is there and nobody goes on");
    }
    panic!("everything is there and it takes forever");
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
