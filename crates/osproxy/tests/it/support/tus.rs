//! Requests of tus.

use reqwest::{
    Method, RequestBuilder, Response,
    header::{HeaderMap, HeaderName},
};

use super::{Api, RawConnection};

const OCTETS: &str = "application/offset+octet-stream";

pub fn request(api: &Api, method: Method, url: &str) -> RequestBuilder {
    api.client().request(method, api.url(url)).header("tus-resumable", "1.0.0")
}

/// A request that appends a body of this length.
pub fn patch(api: &Api, url: &str, offset: usize, length: usize) -> RequestBuilder {
    let patch = request(api, Method::PATCH, url).header("upload-offset", offset);
    patch.header("content-type", OCTETS).header("content-length", length)
}

/// Appends bytes, and asserts the new offset.
pub async fn append(api: &Api, url: &str, offset: usize, bytes: &[u8]) {
    let answer = patch(api, url, offset, bytes.len()).body(bytes.to_vec()).send().await.unwrap();
    assert_appended(answer, offset + bytes.len()).await;
}

/// Asserts that bytes were appended, up to this offset.
pub async fn assert_appended(answer: Response, end: usize) {
    let (status, offset) = (answer.status(), number(answer.headers(), "upload-offset"));
    assert_eq!((status.as_u16(), offset), (204, Some(end)), "{}", answer.text().await.unwrap());
}

/// Where the upload continues.
pub async fn offset(api: &Api, url: &str) -> usize {
    let answer = request(api, Method::HEAD, url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    number(answer.headers(), "upload-offset").expect("an offset")
}

/// The number in a header, if there is one.
pub fn number(headers: &HeaderMap, name: &'static str) -> Option<usize> {
    headers.get(HeaderName::from_static(name)).map(|value| value.to_str().unwrap().parse().unwrap())
}

/// Sends the head of a PATCH with `body`, and the first `sent` bytes of it.
pub async fn send_some(api: &Api, url: &str, offset: usize, body: &[u8], sent: usize) -> RawConnection {
    let mut connection = RawConnection::open(api.address).await;
    let fields = format!(
        "Tus-Resumable: 1.0.0\r\nContent-Type: {OCTETS}\r\nUpload-Offset: {offset}\r\nContent-Length: {}\r\n",
        body.len()
    );
    connection.send_head("PATCH", url, &fields).await;
    connection.send(&body[..sent]).await;
    connection
}

/// The uid in the URL of an upload.
pub fn uid(url: &str) -> &str {
    let (_, rest) = url.split_once("/tus/").expect("not a URL of an upload");
    rest.split('?').next().unwrap()
}
