//! Uploads over tus, in pieces that may break off.

use std::ops::Range;

use futures_util::{StreamExt, stream};
use reqwest::{Body, Method, RequestBuilder, Response};
use serde_json::json;

use super::content::Piece;
use crate::support::{
    Api, Random,
    tus::{self, number},
};

/// Part size of uploads that are created by API v1, in bytes.
const PART: usize = 64 << 10;

/// An upload over tus, and what the service has told about it.
pub struct Appending {
    url: String,
    pub piece: Piece,
    /// The largest offset that the service has told.
    told: usize,
    /// Whether the size is announced with the last bytes.
    is_deferred: bool,
    pub is_complete: bool,
}

impl Appending {
    /// Creates an upload, with some of the bytes or without. Returns `None` if the service does not
    /// answer.
    pub async fn create(api: &Api, piece: Piece, random: &mut Random) -> Option<Self> {
        let size = piece.size();
        let (mut told, mut is_deferred) = (0, false);
        let url = if size > 0 && random.percent(50) {
            // A remote store requires larger parts.
            let part_size = std::env::var("OSPROXY_TEST_STORE").is_err().then_some(PART);
            let wish = json!({"name": "x.bin", "size": size, "part_size": part_size, "expires_in": 86_400});
            let answer = api.client().post(api.url("/api/v1/uploads")).json(&wish).send().await.ok()?;
            assert_eq!(answer.status(), 201);
            answer.json::<osproxy_api::v1::CreatedUpload>().await.ok()?.links.unwrap().tus
        } else {
            is_deferred = random.percent(30);
            let (name, value) =
                if is_deferred { ("upload-defer-length", 1) } else { ("upload-length", size) };
            let mut creation = tus::request(api, Method::POST, "/tus").header(name, value);
            if random.percent(40) {
                told = random.index(size + 1);
                creation = creation.header("content-type", "application/offset+octet-stream");
                creation = creation.body(piece.bytes()[..told].to_vec());
            }
            let answer = creation.send().await.ok()?;
            assert_eq!(answer.status(), 201, "{answer:?}");
            answer.headers()["location"].to_str().unwrap().to_owned()
        };
        Some(Self { url, piece, told, is_deferred, is_complete: false })
    }

    pub fn uid(&self) -> &str {
        tus::uid(&self.url)
    }

    /// Asks where to continue. Returns `None` if the service does not answer.
    pub async fn ask(&mut self, api: &Api) -> Option<usize> {
        let answer = tus::request(api, Method::HEAD, &self.url).send().await.ok()?;
        assert_eq!(answer.status(), 200, "{answer:?}");
        let length = number(answer.headers(), "upload-length");
        assert!(length.map_or(self.is_deferred, |length| length == self.piece.size()), "{length:?}");
        let offset = self.record_offset(&answer);
        self.is_complete = length == Some(offset);
        Some(offset)
    }

    /// Appends a range of the content. If `cut` is set, the connection breaks after as many bytes.
    /// Returns `None` if the service does not answer.
    pub async fn append(&mut self, api: &Api, range: Range<usize>, cut: Option<usize>) -> Option<()> {
        let bytes = self.piece.bytes();
        let patch = self.patch(api, &range);
        let patch = match cut {
            Some(sent) => {
                let sent = bytes[range.start..range.start + sent].to_vec();
                let broken = std::io::Error::other("the connection breaks");
                patch.body(Body::wrap_stream(stream::iter([Ok(sent), Err(broken)]).then(async |item| {
                    // What was sent leaves before the connection breaks.
                    tokio::task::yield_now().await;
                    item
                })))
            }
            None => patch.body(bytes[range.clone()].to_vec()),
        };
        let answer = match patch.send().await {
            Ok(answer) => answer,
            Err(_) if cut.is_some() => return Some(()),
            Err(_) => return None,
        };
        match answer.status().as_u16() {
            204 => assert_eq!(self.record_offset(&answer), range.end),
            // A request whose connection was broken has arrived late.
            409 => _ = self.record_offset(&answer),
            400 if answer.headers()["osproxy-error"] == "superseded" => {}
            _ => panic!("{answer:?} for {}", self.url),
        }
        Some(())
    }

    fn patch(&self, api: &Api, range: &Range<usize>) -> RequestBuilder {
        let patch = tus::patch(api, &self.url, range.start, range.len());
        if self.is_deferred && range.end == self.piece.size() {
            return patch.header("upload-length", range.end);
        }
        patch
    }

    /// Begins to send what is missing, and stops in the middle, until the service is killed. Returns
    /// `None` if the service does not answer.
    pub async fn stall(&mut self, api: &Api, random: &mut Random) -> Option<()> {
        let offset = self.ask(api).await?;
        if !self.is_complete {
            let rest = offset..self.piece.size();
            let sent = self.piece.bytes()[rest.clone()][..random.index(rest.len().max(1))].to_vec();
            let body = stream::iter([Ok::<_, std::io::Error>(sent)]).chain(stream::pending());
            tokio::spawn(self.patch(api, &rest).body(Body::wrap_stream(body)).send());
        }
        Some(())
    }

    /// Sends a random piece of what is missing, or leaves it. Returns `None` if the service does not
    /// answer.
    pub async fn go_on(&mut self, api: &Api, random: &mut Random) -> Option<()> {
        let offset = self.ask(api).await?;
        if self.is_complete {
            return Some(());
        }
        let rest = self.piece.size() - offset;
        let length = if random.percent(30) { rest } else { random.index(rest + 1) };
        let cut = (length > 0 && random.percent(30)).then(|| random.index(length));
        self.append(api, offset..offset + length, cut).await
    }

    /// Sends all that is missing. The service must answer.
    pub async fn finish(&mut self, api: &Api) {
        loop {
            let offset = self.ask(api).await.expect("an answer");
            if self.is_complete {
                return;
            }
            self.append(api, offset..self.piece.size(), None).await.expect("an answer");
        }
    }

    /// Records the offset in a response. It must not be smaller than an earlier one.
    fn record_offset(&mut self, answer: &Response) -> usize {
        let offset = number(answer.headers(), "upload-offset").expect("an offset");
        assert!(
            (self.told..=self.piece.size()).contains(&offset),
            "the offset of {} was {}, and is {offset} of {}",
            self.url,
            self.told,
            self.piece.size()
        );
        self.told = offset;
        offset
    }
}
