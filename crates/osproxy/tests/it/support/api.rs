use std::net::SocketAddr;

use osproxy_api::{
    v0::{DownloadLink, Envelope, InstantUploadResult, UploadLinks},
    v1::{CreatedUpload, File, UploadStatus},
};
use reqwest::{
    Certificate, Client, Method, Response, StatusCode,
    header::{AUTHORIZATION, HeaderMap},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Grpc;

/// A client of the API. The server is a service, nginx, or a proxy.
#[derive(Clone)]
pub struct Api {
    pub address: SocketAddr,
    scheme: &'static str,
    /// The only trusted certificate. `None` without TLS.
    certificate: Option<Certificate>,
    /// The API key that is sent with every request.
    key: Option<String>,
    client: Client,
}

fn client(certificate: Option<&Certificate>, key: Option<&str>) -> Client {
    let headers = key.map(|key| (AUTHORIZATION, format!("Bearer {key}").parse().unwrap()));
    let headers = HeaderMap::from_iter(headers);
    // A request without any progress for this time must fail the test instead of blocking it.
    let client = Client::builder().read_timeout(2 * super::PATIENCE).default_headers(headers);
    match certificate {
        Some(certificate) => client.tls_certs_only([certificate.clone()]),
        None => client,
    }
    .build()
    .unwrap()
}

impl Api {
    pub fn new(address: SocketAddr) -> Self {
        // reqwest's client supports TLS, and needs a crypto provider even if it only speaks plain
        // HTTP.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { address, scheme: "http", certificate: None, key: None, client: client(None, None) }
    }

    /// Returns the same client over TLS. Trusts only this certificate.
    #[must_use]
    pub fn with_certificate(self, certificate: &str) -> Self {
        let certificate = Certificate::from_pem(certificate.as_bytes()).unwrap();
        let client = client(Some(&certificate), self.key());
        Self { scheme: "https", certificate: Some(certificate), client, ..self }
    }

    /// Returns the same client with this API key.
    pub fn with_key(&self, key: &str) -> Self {
        let client = client(self.certificate.as_ref(), Some(key));
        Self { key: Some(key.to_owned()), client, ..self.clone() }
    }

    /// Returns the same client without an API key.
    pub fn without_key(&self) -> Self {
        Self { key: None, client: client(self.certificate.as_ref(), None), ..self.clone() }
    }

    /// The API key that is sent with every request.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The `Authorization` line with the API key, for raw connections.
    pub fn authorization(&self) -> String {
        self.key().map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default()
    }

    /// gRPC clients with the same key.
    pub fn grpc(&self) -> Grpc {
        Grpc::with_key(self.address, self.key())
    }

    pub fn url(&self, relative: &str) -> String {
        format!("{}://{}{relative}", self.scheme, self.address)
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub async fn get(&self, relative: &str) -> Response {
        self.client.get(self.url(relative)).send().await.unwrap()
    }

    /// Posts JSON to a v0 route.
    pub async fn post(&self, route: &str, body: &Value) -> Response {
        let url = self.url(&format!("/api/storage/v0{route}"));
        self.client.post(url).json(body).send().await.unwrap()
    }

    /// Sends a request to a v1 route, with a JSON body if there is one.
    pub async fn v1(&self, method: Method, route: &str, body: Option<&Value>) -> Response {
        let request = self.client.request(method, self.url(&format!("/api/v1{route}")));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        request.send().await.unwrap()
    }

    pub async fn v1_get(&self, route: &str) -> Response {
        self.v1(Method::GET, route, None).await
    }

    pub async fn v1_post(&self, route: &str, body: &Value) -> Response {
        self.v1(Method::POST, route, Some(body)).await
    }

    /// Creates an upload over API v1.
    pub async fn create_upload(&self, wish: &Value) -> CreatedUpload {
        expect_json(self.v1_post("/uploads", wish).await, 201).await
    }

    /// Sends a part over API v1.
    pub async fn v1_put_part(&self, upload: &CreatedUpload, number: usize, content: &[u8]) -> Response {
        let part = &upload.links.as_ref().unwrap().part;
        self.put(&part.replace("{number}", &number.to_string()), content).await
    }

    /// Declares an upload of API v1 complete.
    pub async fn v1_complete(&self, upload: &CreatedUpload) -> Response {
        let url = self.url(&upload.links.as_ref().unwrap().complete);
        self.client.post(url).send().await.unwrap()
    }

    /// Reads the state of an upload over API v1.
    pub async fn v1_status(&self, upload: &CreatedUpload) -> UploadStatus {
        expect_json(self.get(&upload.links.as_ref().unwrap().state).await, 200).await
    }

    /// Aborts an upload over API v1.
    pub async fn v1_abort(&self, upload: &CreatedUpload) -> Response {
        let url = self.url(&upload.links.as_ref().unwrap().state);
        self.client.delete(url).send().await.unwrap()
    }

    /// Describes a file over API v1.
    pub async fn describe(&self, uid: &str) -> File {
        expect_json(self.v1_get(&format!("/files/{uid}")).await, 200).await
    }

    pub async fn upload_links(&self, paths: &[&str]) -> Vec<UploadLinks> {
        let answer = self.post("/link/upload", &json!({"filePath": paths, "expire": 600})).await;
        assert_eq!(answer.status(), StatusCode::OK);
        answer.json::<Envelope<_>>().await.unwrap().data
    }

    pub async fn upload_link(&self, path: &str) -> UploadLinks {
        self.upload_links(&[path]).await.remove(0)
    }

    pub async fn put(&self, relative: &str, content: &[u8]) -> Response {
        let request = self.client.put(self.url(relative)).header("content-length", content.len());
        request.body(content.to_vec()).send().await.unwrap()
    }

    /// Stores content. Returns the status, or `None` if the connection broke before the answer.
    pub async fn try_put(&self, relative: &str, content: &[u8]) -> Option<u16> {
        let request = self.client.put(self.url(relative)).header("content-length", content.len());
        Some(request.body(content.to_vec()).send().await.ok()?.status().as_u16())
    }

    /// Posts JSON to a v0 route. Returns `None` if the connection broke before the answer.
    pub async fn try_post<T: DeserializeOwned>(&self, route: &str, body: &Value) -> Option<T> {
        let url = self.url(&format!("/api/storage/v0{route}"));
        let answer = self.client.post(url).json(body).send().await.ok()?;
        assert_eq!(answer.status(), StatusCode::OK);
        Some(answer.json::<Envelope<T>>().await.ok()?.data)
    }

    /// Stores content as a new file, and returns the uid of the file.
    pub async fn store(&self, path: &str, content: &[u8]) -> String {
        let link = self.upload_link(path).await;
        let answer = self.put(&link.url.single, content).await;
        assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
        link.uid
    }

    /// Sends a part with the md5 of the part.
    pub async fn put_part(&self, link: &UploadLinks, number: u32, content: &[u8]) -> Response {
        let md5 = super::md5_hex(content);
        self.put(&format!("{}&chunkNum={number}&md5={md5}", link.url.multi.upload), content).await
    }

    /// Sends parts, numbered from 1. Panics if a part is not accepted.
    pub async fn put_parts(&self, link: &UploadLinks, parts: &[&[u8]]) {
        for (number, part) in (1..).zip(parts) {
            let answer = self.put_part(link, number, part).await;
            assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
        }
    }

    /// Declares an upload complete, with the size and md5 of the whole content.
    pub async fn merge(&self, link: &UploadLinks, parts: usize, content: &[u8]) -> Response {
        let (size, md5) = (content.len(), super::md5_hex(content));
        let url = format!("{}&num={parts}&size={size}&md5={md5}", link.url.multi.merge);
        self.client.put(self.url(&url)).send().await.unwrap()
    }

    /// Stores content as a new file, in parts of this size. Returns the uid of the file.
    pub async fn store_in_parts(&self, path: &str, content: &[u8], part: usize) -> String {
        let link = self.upload_link(path).await;
        let parts: Vec<_> = content.chunks(part).collect();
        self.put_parts(&link, &parts).await;
        let answer = self.merge(&link, parts.len(), content).await;
        assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
        link.uid
    }

    /// The numbers of the stored parts.
    pub async fn checkpoint(&self, uid: &str) -> Vec<u32> {
        let answer = self.get(&format!("/api/storage/v0/checkpoint?uid={uid}")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        answer.json::<Envelope<_>>().await.unwrap().data
    }

    /// Creates a download link; `None` if the upload is not complete.
    pub async fn download_link(&self, uid: &str) -> Option<DownloadLink> {
        let answer = self.post("/link/download", &json!({"uid": [uid], "expire": 600})).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let links: Option<Vec<_>> = answer.json::<Envelope<_>>().await.unwrap().data;
        links.map(|mut links| links.remove(0))
    }

    /// The content of a file, through a new link.
    pub async fn read(&self, uid: &str) -> Vec<u8> {
        let link = self.download_link(uid).await.expect("the upload is not complete");
        let answer = self.get(&link.url).await;
        assert_eq!(answer.status(), StatusCode::OK);
        answer.bytes().await.unwrap().to_vec()
    }

    pub async fn instant_upload(&self, items: &[(&str, &str)]) -> Vec<InstantUploadResult> {
        let data: Vec<_> = items.iter().map(|(md5, path)| json!({"md5": md5, "path": path})).collect();
        let answer = self.post("/resume", &json!({ "data": data })).await;
        assert_eq!(answer.status(), StatusCode::OK);
        answer.json::<Envelope<_>>().await.unwrap().data
    }
}

/// Asserts that an answer is a v0 error with this status, and returns its message.
pub async fn expect_v0_error(answer: Response, status: u16) -> String {
    assert_eq!(answer.status().as_u16(), status);
    let envelope: Envelope<String> = answer.json().await.unwrap();
    assert_eq!((envelope.code, envelope.data.as_str()), (status, ""));
    assert!(!envelope.message.is_empty());
    envelope.message
}

/// Asserts that an answer is a problem document with this status and code, and returns it.
pub async fn expect_problem(answer: Response, status: u16, code: &str) -> Value {
    let headers = answer.headers().clone();
    let sent = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    assert_eq!(sent, status, "{text}");
    assert_eq!(headers["content-type"], "application/problem+json");
    assert_eq!(headers["osproxy-error"], code);
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["type"], format!("urn:osproxy:error:{code}"));
    assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)));
    assert_eq!(problem["request_id"], headers["x-request-id"].to_str().unwrap());
    for text in ["title", "detail"] {
        assert!(!problem[text].as_str().unwrap().is_empty(), "{problem}");
    }
    problem
}

/// Asserts the status of an answer, and parses its JSON.
pub async fn expect_json<T: DeserializeOwned>(answer: Response, status: u16) -> T {
    let sent = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    assert_eq!(sent, status, "{text}");
    serde_json::from_str(&text).unwrap()
}
