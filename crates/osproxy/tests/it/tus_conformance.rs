//! What the text of tus 1.0 requires, checked against any server: osproxy, and, to check the checks,
//! a server that others wrote.

use std::{future::Future, pin::Pin};

use base64::prelude::{BASE64_STANDARD, Engine};
use reqwest::{Client, Method, RequestBuilder, Response, header::HeaderMap};
use sha1::{Digest, Sha1};

use crate::support::{Service, content};

/// Why a server does not conform.
type Finding = Result<(), String>;

type Check = for<'t> fn(&'t Target) -> Pin<Box<dyn Future<Output = Finding> + Send + 't>>;

macro_rules! checks {
    ($($name:ident,)*) => {
        const CHECKS: &[(&str, Check)] = &[$((stringify!($name), |target| Box::pin($name(target)))),*];
    };
}

checks! {
    options_announce_the_protocol,
    a_creation_is_created_at_its_location,
    a_head_tells_the_offset_and_the_length,
    bytes_are_appended_where_the_offset_is,
    another_offset_is_a_conflict,
    a_body_of_another_type_is_refused,
    another_version_is_refused_with_the_right_one,
    an_unknown_upload_is_not_found,
    a_length_can_be_deferred,
    a_length_does_not_change,
    a_creation_needs_exactly_one_length,
    a_length_is_a_number,
    metadata_is_returned_as_sent,
    malformed_metadata_is_refused,
    a_creation_may_have_the_first_bytes,
    a_terminated_upload_is_gone,
    an_empty_upload_is_complete_at_once,
    more_than_the_length_is_refused,
    a_checksum_that_does_not_match_discards_the_body,
    an_unknown_checksum_is_a_bad_request,
    a_method_can_be_overridden,
    a_creation_beyond_the_maximum_is_refused,
    an_empty_append_changes_nothing,
    bytes_before_a_cut_stay,
}

/// A server of tus.
pub struct Target {
    /// Sends a key with every request, if the server requires one.
    pub client: Client,
    /// URL for creations.
    pub endpoint: String,
}

impl Target {
    /// Names of the requirements that the server does not meet, with what it did.
    pub async fn findings(&self) -> Vec<(&'static str, String)> {
        let mut findings = Vec::new();
        for (name, check) in CHECKS {
            if let Err(finding) = check(self).await {
                findings.push((*name, finding));
            }
        }
        findings
    }

    fn bare(&self, method: Method, url: &str) -> RequestBuilder {
        let base = reqwest::Url::parse(&self.endpoint).unwrap();
        self.client.request(method, base.join(url).unwrap())
    }

    fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.bare(method, url).header("tus-resumable", "1.0.0")
    }

    fn creation(&self, headers: &[(&str, &str)]) -> RequestBuilder {
        let creation = self.request(Method::POST, &self.endpoint);
        headers.iter().fold(creation, |creation, (name, value)| creation.header(*name, *value))
    }

    async fn create(&self, headers: &[(&str, &str)]) -> Result<String, String> {
        let answer = send(self.creation(headers)).await?;
        expect(&answer, &[201])?;
        Ok(text(answer.headers(), "location")?.to_owned())
    }

    fn patch(&self, url: &str, offset: usize, bytes: &[u8]) -> RequestBuilder {
        let patch = self.request(Method::PATCH, url).header("upload-offset", offset);
        patch.header("content-type", "application/offset+octet-stream").body(bytes.to_vec())
    }

    async fn append(&self, url: &str, offset: usize, bytes: &[u8]) -> Finding {
        let answer = send(self.patch(url, offset, bytes)).await?;
        expect(&answer, &[204])?;
        expect_equal(text(answer.headers(), "upload-offset")?, &(offset + bytes.len()).to_string())
    }

    async fn head(&self, url: &str) -> Result<HeaderMap, String> {
        let answer = send(self.request(Method::HEAD, url)).await?;
        expect(&answer, &[200, 204])?;
        Ok(answer.headers().clone())
    }

    async fn expect_offset(&self, url: &str, offset: usize) -> Finding {
        expect_equal(text(&self.head(url).await?, "upload-offset")?, &offset.to_string())
    }
}

async fn send(request: RequestBuilder) -> Result<Response, String> {
    request.send().await.map_err(|error| format!("no answer: {error}"))
}

fn expect(answer: &Response, statuses: &[u16]) -> Finding {
    let status = answer.status().as_u16();
    if statuses.contains(&status) { Ok(()) } else { Err(format!("{status} instead of {statuses:?}")) }
}

fn expect_equal(found: &str, expected: &str) -> Finding {
    if found == expected { Ok(()) } else { Err(format!("{found:?} instead of {expected:?}")) }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, String> {
    headers.get(name).and_then(|value| value.to_str().ok()).ok_or_else(|| format!("no {name}"))
}

async fn options_announce_the_protocol(target: &Target) -> Finding {
    let answer = send(target.bare(Method::OPTIONS, &target.endpoint)).await?;
    expect(&answer, &[200, 204])?;
    expect_equal(text(answer.headers(), "tus-resumable")?, "1.0.0")?;
    expect_equal(text(answer.headers(), "tus-version")?, "1.0.0")?;
    let extensions: Vec<_> = text(answer.headers(), "tus-extension")?.split(',').collect();
    let expected = ["creation", "creation-with-upload", "creation-defer-length", "termination", "checksum"];
    match expected.iter().find(|one| !extensions.contains(one)) {
        Some(missing) => Err(format!("no extension {missing}")),
        None => text(answer.headers(), "tus-checksum-algorithm").map(drop),
    }
}

async fn a_creation_is_created_at_its_location(target: &Target) -> Finding {
    let answer = send(target.creation(&[("upload-length", "5")])).await?;
    expect(&answer, &[201])?;
    expect_equal(text(answer.headers(), "tus-resumable")?, "1.0.0")?;
    let url = text(answer.headers(), "location")?.to_owned();
    target.expect_offset(&url, 0).await
}

async fn a_head_tells_the_offset_and_the_length(target: &Target) -> Finding {
    let url = target.create(&[("upload-length", "5")]).await?;
    let headers = target.head(&url).await?;
    expect_equal(text(&headers, "upload-offset")?, "0")?;
    expect_equal(text(&headers, "upload-length")?, "5")?;
    expect_equal(text(&headers, "cache-control")?, "no-store")
}

async fn bytes_are_appended_where_the_offset_is(target: &Target) -> Finding {
    let url = target.create(&[("upload-length", "10")]).await?;
    target.append(&url, 0, b"hello").await?;
    target.expect_offset(&url, 5).await?;
    target.append(&url, 5, b"world").await?;
    target.expect_offset(&url, 10).await
}

async fn another_offset_is_a_conflict(target: &Target) -> Finding {
    let url = target.create(&[("upload-length", "10")]).await?;
    target.append(&url, 0, b"hello").await?;
    for offset in [0, 4, 6, 11] {
        expect(&send(target.patch(&url, offset, b"xx")).await?, &[409])?;
    }
    target.expect_offset(&url, 5).await
}

async fn a_body_of_another_type_is_refused(target: &Target) -> Finding {
    let url = target.create(&[("upload-length", "5")]).await?;
    let patch = target.request(Method::PATCH, &url).header("upload-offset", 0);
    expect(&send(patch.header("content-type", "text/plain").body("hello")).await?, &[415])?;
    target.expect_offset(&url, 0).await
}

async fn another_version_is_refused_with_the_right_one(target: &Target) -> Finding {
    let url = target.create(&[("upload-length", "5")]).await?;
    for version in [None, Some("0.2.2")] {
        let mut patch = target.bare(Method::PATCH, &url).header("upload-offset", 0).body("hello");
        patch = patch.header("content-type", "application/offset+octet-stream");
        if let Some(version) = version {
            patch = patch.header("tus-resumable", version);
        }
        let answer = send(patch).await?;
        expect(&answer, &[412])?;
        expect_equal(text(answer.headers(), "tus-version")?, "1.0.0")?;
    }
    target.expect_offset(&url, 0).await
}

async fn an_unknown_upload_is_not_found(target: &Target) -> Finding {
    let url = format!("{}/1", target.endpoint);
    for method in [Method::HEAD, Method::DELETE] {
        expect(&send(target.request(method, &url)).await?, &[403, 404, 410])?;
    }
    expect(&send(target.patch(&url, 0, b"hello")).await?, &[403, 404, 410])
}

async fn a_length_can_be_deferred(target: &Target) -> Finding {
    let url = target.create(&[("upload-defer-length", "1")]).await?;
    let headers = target.head(&url).await?;
    expect_equal(text(&headers, "upload-defer-length")?, "1")?;
    if headers.contains_key("upload-length") {
        return Err("a length that is not known".to_owned());
    }
    target.append(&url, 0, b"hello").await?;
    let answer = send(target.patch(&url, 5, b"world").header("upload-length", 10)).await?;
    expect(&answer, &[204])?;
    let headers = target.head(&url).await?;
    expect_equal(text(&headers, "upload-length")?, "10")?;
    expect_equal(text(&headers, "upload-offset")?, "10")
}

async fn a_length_does_not_change(target: &Target) -> Finding {
    let url = target.create(&[("upload-length", "5")]).await?;
    expect(&send(target.patch(&url, 0, b"hello").header("upload-length", 9)).await?, &[400, 409, 422])?;
    expect_equal(text(&target.head(&url).await?, "upload-length")?, "5")
}

async fn a_creation_needs_exactly_one_length(target: &Target) -> Finding {
    expect(&send(target.creation(&[])).await?, &[400])?;
    let both = target.creation(&[("upload-length", "5"), ("upload-defer-length", "1")]);
    expect(&send(both).await?, &[400])?;
    expect(&send(target.creation(&[("upload-defer-length", "2")])).await?, &[400])
}

async fn a_length_is_a_number(target: &Target) -> Finding {
    for length in ["-1", "5.5", "five", ""] {
        expect(&send(target.creation(&[("upload-length", length)])).await?, &[400])
            .map_err(|finding| format!("{length:?}: {finding}"))?;
    }
    Ok(())
}

async fn metadata_is_returned_as_sent(target: &Target) -> Finding {
    let sent = "filename d29ybGQucGRm,is_confidential";
    let url = target.create(&[("upload-length", "5"), ("upload-metadata", sent)]).await?;
    let headers = target.head(&url).await?;
    let found = text(&headers, "upload-metadata")?;
    let pairs: std::collections::BTreeSet<_> = found.split(',').map(str::trim).collect();
    if pairs == sent.split(',').collect() { Ok(()) } else { Err(format!("{found:?}")) }
}

async fn malformed_metadata_is_refused(target: &Target) -> Finding {
    for metadata in ["filename ???", "a YQ==,a YQ=="] {
        let creation = target.creation(&[("upload-length", "5"), ("upload-metadata", metadata)]);
        expect(&send(creation).await?, &[400])?;
    }
    Ok(())
}

async fn a_creation_may_have_the_first_bytes(target: &Target) -> Finding {
    let creation = target.creation(&[("upload-length", "10")]);
    let creation = creation.header("content-type", "application/offset+octet-stream").body("hello");
    let answer = send(creation).await?;
    expect(&answer, &[201])?;
    expect_equal(text(answer.headers(), "upload-offset")?, "5")?;
    let url = text(answer.headers(), "location")?.to_owned();
    target.append(&url, 5, b"world").await
}

async fn a_terminated_upload_is_gone(target: &Target) -> Finding {
    let url = target.create(&[("upload-length", "10")]).await?;
    target.append(&url, 0, b"hello").await?;
    expect(&send(target.request(Method::DELETE, &url)).await?, &[204])?;
    expect(&send(target.request(Method::HEAD, &url)).await?, &[404, 410])?;
    expect(&send(target.patch(&url, 5, b"world")).await?, &[404, 410])
}

async fn an_empty_upload_is_complete_at_once(target: &Target) -> Finding {
    let url = target.create(&[("upload-length", "0")]).await?;
    let headers = target.head(&url).await?;
    expect_equal(text(&headers, "upload-offset")?, "0")?;
    expect_equal(text(&headers, "upload-length")?, "0")
}

async fn more_than_the_length_is_refused(target: &Target) -> Finding {
    let url = target.create(&[("upload-length", "5")]).await?;
    expect(&send(target.patch(&url, 0, b"hello world")).await?, &[400, 409, 413])?;
    let headers = target.head(&url).await?;
    let offset: u64 = text(&headers, "upload-offset")?.parse().unwrap_or(u64::MAX);
    if offset <= 5 { Ok(()) } else { Err(format!("the offset is {offset}")) }
}

async fn a_checksum_that_does_not_match_discards_the_body(target: &Target) -> Finding {
    let url = target.create(&[("upload-length", "5")]).await?;
    let checksum = |bytes: &[u8]| format!("sha1 {}", BASE64_STANDARD.encode(Sha1::digest(bytes)));
    let wrong = target.patch(&url, 0, b"hello").header("upload-checksum", checksum(b"HELLO"));
    expect(&send(wrong).await?, &[460])?;
    target.expect_offset(&url, 0).await?;
    let right = target.patch(&url, 0, b"hello").header("upload-checksum", checksum(b"hello"));
    expect(&send(right).await?, &[204])
}

async fn an_unknown_checksum_is_a_bad_request(target: &Target) -> Finding {
    let url = target.create(&[("upload-length", "5")]).await?;
    let unknown = target.patch(&url, 0, b"hello").header("upload-checksum", "crc7 AAAA");
    expect(&send(unknown).await?, &[400])?;
    target.expect_offset(&url, 0).await
}

async fn a_method_can_be_overridden(target: &Target) -> Finding {
    let url = target.create(&[("upload-length", "5")]).await?;
    let post = target.request(Method::POST, &url).header("x-http-method-override", "PATCH");
    let post = post.header("upload-offset", 0).header("content-type", "application/offset+octet-stream");
    expect(&send(post.body("hello")).await?, &[204])?;
    target.expect_offset(&url, 5).await
}

async fn a_creation_beyond_the_maximum_is_refused(target: &Target) -> Finding {
    let answer = send(target.bare(Method::OPTIONS, &target.endpoint)).await?;
    let max: u64 = text(answer.headers(), "tus-max-size")?.parse().map_err(|_| "no number".to_owned())?;
    expect(&send(target.creation(&[("upload-length", &(max + 1).to_string())])).await?, &[413])
}

async fn an_empty_append_changes_nothing(target: &Target) -> Finding {
    let url = target.create(&[("upload-length", "5")]).await?;
    target.append(&url, 0, b"").await?;
    target.append(&url, 0, b"hello").await
}

async fn bytes_before_a_cut_stay(target: &Target) -> Finding {
    use tokio::io::AsyncWriteExt;
    let bytes = content(1, 1 << 20);
    let path = target.create(&[("upload-length", &bytes.len().to_string())]).await?;
    let url = reqwest::Url::parse(&target.endpoint).unwrap().join(&path).unwrap();
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let address = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let mut connection = tokio::net::TcpStream::connect(&address).await.map_err(|it| it.to_string())?;
    let head = format!(
        "PATCH {}{query} HTTP/1.1\r\nHost: {address}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n\
         Content-Type: application/offset+octet-stream\r\nContent-Length: {}\r\n\r\n",
        url.path(),
        bytes.len()
    );
    connection.write_all(head.as_bytes()).await.map_err(|it| it.to_string())?;
    connection.write_all(&bytes[..300_000]).await.map_err(|it| it.to_string())?;
    connection.shutdown().await.map_err(|it| it.to_string())?;
    // The client continues where the server says. A server may need a moment, and may not answer a
    // HEAD meanwhile.
    let mut tries = 0;
    let offset = loop {
        let answer = send(target.request(Method::HEAD, path.as_str())).await?;
        let offset = text(answer.headers(), "upload-offset").unwrap_or("0").parse::<usize>().unwrap_or(0);
        tries += 1;
        if answer.status().is_success() && offset > 0 || tries == 100 {
            break offset;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    if offset == 0 || offset > 300_000 {
        return Err(format!("{offset} of 300000 bytes stay"));
    }
    target.append(path.as_str(), offset, &bytes[offset..]).await
}

#[tokio::test]
async fn osproxy_does_what_tus_requires() {
    let mut service = Service::start().await;
    let target = Target { client: service.client().clone(), endpoint: service.url("/tus") };
    assert_eq!(target.findings().await, []);
    service.assert_consistent().await;
}
