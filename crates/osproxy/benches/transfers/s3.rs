//! An S3 store that the benchmark's client uses directly.

use std::{env, fmt::Write, net::SocketAddr, ops::Range};

use anyhow::{Context, Result};
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use time::{OffsetDateTime, macros::format_description};

use crate::client::Connection;

/// Bucket for the objects of the benchmark and of osproxy.
pub(crate) const BUCKET: &str = "bench";
const REGION: &str = "us-east-1";
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Value of `x-amz-content-sha256`. The store does not check the hash of the body, so none is
/// computed.
const BODY: &str = "UNSIGNED-PAYLOAD";

/// A running store.
pub(crate) struct Store {
    endpoint: String,
    address: SocketAddr,
    id: u32,
    key_id: String,
    secret: String,
}

impl Store {
    /// Returns the store that `.ci/servers` started; it checks signatures.
    pub(crate) fn started() -> Result<Self> {
        let from = |name: &str| {
            env::var(format!("OSPROXY_TEST_S3{name}"))
                .context("run this with `just bench`, which starts servers")
        };
        let endpoint = from("")?;
        let (_, address) = endpoint.split_once("://").context("the endpoint has no scheme")?;
        Ok(Self {
            address: address.parse()?,
            id: from("_PID")?.parse()?,
            key_id: from("_ID")?,
            secret: from("_SECRET")?,
            endpoint,
        })
    }

    /// A store at this address that another part of the benchmark started.
    pub(crate) fn at(address: SocketAddr, key_id: &str, secret: &str) -> Self {
        let (key_id, secret) = (key_id.to_owned(), secret.to_owned());
        Self { endpoint: format!("http://{address}"), address, id: 0, key_id, secret }
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Settings for an osproxy that keeps its objects in this store.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let settings = [
            ("S3__ENABLED", "true"),
            ("S3__ENDPOINT", &self.endpoint),
            ("S3__REGION", REGION),
            ("S3__BUCKET", BUCKET),
            ("S3__ACCESS_KEY_ID", &self.key_id),
            ("S3__SECRET_ACCESS_KEY", &self.secret),
        ];
        settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// Starts a multipart upload, and returns its id.
    pub(crate) fn begin(&self, connection: &mut Connection, object: &str) -> Result<String> {
        let answer = connection.text(&[&self.head("POST", object, &[("uploads", "")], 0)?])?;
        let id = answer.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once("</UploadId>"));
        let (id, _) = id.with_context(|| format!("no upload was begun: {answer}"))?;
        Ok(id.to_owned())
    }

    /// The head of the request that sends a part of `length` bytes.
    pub(crate) fn part(&self, object: &str, upload: &str, number: usize, length: usize) -> Result<Vec<u8>> {
        self.head("PUT", object, &[("partNumber", &number.to_string()), ("uploadId", upload)], length)
    }

    /// The request that completes a multipart upload. In this store, the entity tag of a part is
    /// its md5.
    pub(crate) fn completion(&self, object: &str, upload: &str, md5s: &[String]) -> Result<Vec<u8>> {
        let mut body = "<CompleteMultipartUpload>".to_owned();
        for (number, md5) in (1..).zip(md5s) {
            write!(body, "<Part><PartNumber>{number}</PartNumber><ETag>\"{md5}\"</ETag></Part>")?;
        }
        body.push_str("</CompleteMultipartUpload>");
        let mut request = self.head("POST", object, &[("uploadId", upload)], body.len())?;
        request.extend_from_slice(body.as_bytes());
        Ok(request)
    }

    /// The head of the request that stores an object of `length` bytes.
    pub(crate) fn put(&self, object: &str, length: usize) -> Result<Vec<u8>> {
        self.head("PUT", object, &[], length)
    }

    /// The request that creates the bucket.
    pub(crate) fn create_bucket(&self) -> Result<Vec<u8>> {
        self.head("PUT", "", &[], 0)
    }

    /// The request that deletes an object.
    pub(crate) fn delete(&self, object: &str) -> Result<Vec<u8>> {
        self.head("DELETE", object, &[], 0)
    }

    /// The request for an object.
    pub(crate) fn get(&self, object: &str) -> Result<Vec<u8>> {
        self.head("GET", object, &[], 0)
    }

    /// A signed request head, valid for 15 minutes. The query must be sorted by name.
    fn head(&self, method: &str, object: &str, query: &[(&str, &str)], length: usize) -> Result<Vec<u8>> {
        let now = OffsetDateTime::now_utc();
        let moment = now.format(format_description!("[year][month][day]T[hour][minute][second]Z"))?;
        let day = now.format(format_description!("[year][month][day]"))?;
        let path = format!("/{BUCKET}/{object}");
        let pairs =
            query.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, UNRESERVED)));
        let query = pairs.collect::<Vec<_>>().join("&");
        let (host, names) = (self.address, "host;x-amz-content-sha256;x-amz-date");
        let headers = format!("host:{host}\nx-amz-content-sha256:{BODY}\nx-amz-date:{moment}\n");
        let canonical = format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{BODY}");
        let canonical = hex::encode(Sha256::digest(canonical));
        let scope = format!("{day}/{REGION}/s3/aws4_request");
        let mut key = format!("AWS4{}", self.secret).into_bytes();
        for step in [&day, REGION, "s3", "aws4_request"] {
            key = keyed(&key, step)?;
        }
        let signature = keyed(&key, &format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{canonical}"))?;
        let signature = hex::encode(signature);
        let key_id = &self.key_id;
        let head = format!(
            "{method} {path}?{query} HTTP/1.1\r\nhost: {host}\r\nx-amz-content-sha256: {BODY}\r\nx-amz-date: {moment}\r\n\
             authorization: AWS4-HMAC-SHA256 Credential={key_id}/{scope}, SignedHeaders={names}, Signature={signature}\r\n\
             content-length: {length}\r\n\r\n"
        );
        Ok(head.into_bytes())
    }
}

fn keyed(key: &[u8], text: &str) -> Result<Vec<u8>> {
    let mut keyed = Hmac::<Sha256>::new_from_slice(key)?;
    keyed.update(text.as_bytes());
    Ok(keyed.finalize().into_bytes().to_vec())
}

/// Adds a range to a request.
pub(crate) fn ranged(request: &[u8], range: &Range<usize>) -> Vec<u8> {
    // Inserted before the empty line. This field does not have to be signed.
    let mut ranged = request.strip_suffix(b"\r\n").unwrap_or(request).to_vec();
    let range = format!("range: bytes={}-{}\r\n\r\n", range.start, range.end - 1);
    ranged.extend_from_slice(range.as_bytes());
    ranged
}
