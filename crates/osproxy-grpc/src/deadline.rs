//! Deadlines of calls. Clients set a deadline in the header `grpc-timeout`. A call that is still
//! running at its deadline fails with `DeadlineExceeded`.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, HeaderName},
    middleware::Next,
    response::Response,
};
use http_body::{Frame, SizeHint};
use osproxy_api::ErrorCode;
use osproxy_core::Error;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::status::{placeholder, to_status};

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Maximum timeout. Longer timeouts are reduced to this value.
const LONGEST: Duration = Duration::from_hours(24 * 30);

/// Ends a call when its deadline has passed.
pub(super) async fn enforce(request: Request, next: Next) -> Response {
    let Some(timeout) = parse_timeout(request.headers()) else {
        return next.run(request).await;
    };
    let end = Instant::now() + timeout;
    // Dropping the call has the same effect as a client that disconnects.
    match timeout_at(end, next.run(request)).await {
        Ok(answer) => {
            answer.map(|body| Body::new(DeadlineBody { body: Some(body), end: Box::pin(sleep_until(end)) }))
        }
        Err(_) => placeholder(deadline_exceeded()),
    }
}

fn deadline_exceeded() -> Error {
    Error::new(ErrorCode::DeadlineExceeded, "the call exceeded its deadline; set a longer timeout")
}

/// Parses the header `grpc-timeout`. Returns `None` if the header is absent or invalid: other gRPC
/// servers ignore an invalid timeout too.
fn parse_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|_| is_number)?;
    let patience = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(patience.min(LONGEST))
}

/// A response body that ends at the deadline.
struct DeadlineBody {
    /// `None` after the deadline.
    body: Option<Body>,
    end: Pin<Box<Sleep>>,
}

impl http_body::Body for DeadlineBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let is_over = self.end.as_mut().poll(cx).is_ready();
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        if !is_over {
            return Pin::new(body).poll_frame(cx);
        }
        self.body = None;
        let mut trailers = HeaderMap::new();
        let added = to_status(deadline_exceeded()).add_header(&mut trailers);
        Poll::Ready(Some(added.map(|()| Frame::trailers(trailers)).map_err(axum::Error::new)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &'static str) -> Option<Duration> {
        parse_timeout(&HeaderMap::from_iter([(TIMEOUT, text.parse().unwrap())]))
    }

    #[test]
    fn a_deadline_is_a_number_and_a_unit() {
        assert_eq!(parsed("1H"), Some(Duration::from_hours(1)));
        assert_eq!(parsed("2M"), Some(Duration::from_mins(2)));
        assert_eq!(parsed("3S"), Some(Duration::from_secs(3)));
        assert_eq!(parsed("4m"), Some(Duration::from_millis(4)));
        assert_eq!(parsed("5u"), Some(Duration::from_micros(5)));
        assert_eq!(parsed("6n"), Some(Duration::from_nanos(6)));
        assert_eq!(parsed("99999999H"), Some(LONGEST));
    }

    #[test]
    fn an_invalid_timeout_is_ignored() {
        for text in ["", "S", "1", "-1S", "+1S", "1.5S", "1s", "999999999S", "1SS", "1\u{e9}"] {
            assert_eq!(parsed(text), None, "{text}");
        }
        assert_eq!(parse_timeout(&HeaderMap::new()), None);
    }
}
