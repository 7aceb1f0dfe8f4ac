//! Sends signed requests to a store, and turns its error responses into errors.

use std::{
    collections::HashMap,
    convert::Infallible,
    error::Error as StdError,
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use reqsign_core::{Context, OsEnv};
use reqsign_file_read_tokio::TokioFileRead;
use reqsign_http_send_reqwest::ReqwestHttpSend;
use reqwest::{Body, Response};

use super::{
    Vendor,
    checksum::ChecksumSupport,
    delete::BatchSupport,
    diagnosis::{NotAStore, SigningFailed},
    streaming_put::Target,
    xml,
};
use crate::{BufferBudget, Error, ErrorKind, Key, Result};

/// Maximum size of an XML document, in bytes. A list of 1,000 names of 1 KiB, with markup, fits.
const MAX_DOCUMENT: usize = 8 << 20;
/// Maximum number of bytes that are read from an error response.
const MAX_ERROR_TEXT: usize = 64 << 10;
/// How long an idle connection is kept. Stores keep idle connections longer, so no store closes a
/// connection while the next request is being sent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const UNRESERVED_AND_SLASH: &AsciiSet = &UNRESERVED.remove(b'/');

/// Connection settings of a store.
#[derive(Clone, Debug, Default)]
pub struct ClientSettings {
    /// PEM file with trusted CA certificates. They replace the public CAs.
    pub ca: Option<PathBuf>,
    /// Proxy URL, such as `http://proxy:3128`.
    pub proxy: Option<String>,
    /// Connection timeout. The default is 5 seconds.
    pub connect_timeout: Option<Duration>,
    /// Budget for the memory that a part of content of unknown size needs beyond 8 MiB. If `None`,
    /// all parts of such content have 8 MiB.
    pub buffers: Option<BufferBudget>,
}

/// Installs the TLS crypto provider of this process, if none is installed. Call it before creating an
/// HTTP client.
pub fn install_crypto_provider() {
    // The error is ignored: another part of the program may have installed a provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Creates the context in which credentials are looked up: environment, files and HTTP services.
pub(crate) fn context() -> Context {
    install_crypto_provider();
    // This client only looks up credentials. It uses no proxy, because cloud metadata services are
    // not behind a proxy.
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build();
    let context = Context::new().with_file_read(TokioFileRead).with_env(OsEnv);
    match http {
        Ok(http) => context.with_http_send(ReqwestHttpSend::new(http)),
        Err(_) => context,
    }
}

/// Sends requests to one store.
pub(super) struct Client<V> {
    pub(super) vendor: V,
    /// The bucket for all objects. If `None`, each category has its own bucket.
    pub(super) bucket: Option<String>,
    http: reqwest::Client,
    pub(super) buffers: Option<BufferBudget>,
    checksums_of_objects: ChecksumSupport,
    checksums_of_parts: ChecksumSupport,
    pub(super) batch_deletes: BatchSupport,
}

/// A request that is not signed yet. If `is_signed` is `false`, the client sends the request
/// without a signature.
pub(super) struct Request {
    pub(super) method: Method,
    target: RequestTarget,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headers: HashMap<HeaderName, String>,
    pub(super) body: RequestBody,
    operation: &'static str,
    is_signed: bool,
}

enum RequestTarget {
    Bucket(String),
    Object(Key),
    /// For tests: a bucket and an arbitrary object name.
    #[cfg(test)]
    Named(String, String),
}

/// A body of known length.
pub(super) enum RequestBody {
    Whole(Bytes),
    Chunks(Vec<Bytes>),
    Stream(Body, u64),
}

impl From<String> for RequestBody {
    fn from(text: String) -> Self {
        Self::Whole(text.into())
    }
}

impl Request {
    fn new(method: Method, target: RequestTarget, operation: &'static str) -> Self {
        let (query, headers) = (Vec::new(), HashMap::new());
        let body = RequestBody::Whole(Bytes::new());
        Self { method, target, query, headers, body, operation, is_signed: true }
    }

    pub(super) fn to_bucket(method: Method, bucket: &str, operation: &'static str) -> Self {
        Self::new(method, RequestTarget::Bucket(bucket.to_owned()), operation)
    }

    pub(super) fn to_object(method: Method, key: &Key, operation: &'static str) -> Self {
        Self::new(method, RequestTarget::Object(key.clone()), operation)
    }

    #[cfg(test)]
    pub(super) fn named(mut self, name: &str) -> Self {
        if let RequestTarget::Bucket(bucket) = self.target {
            self.target = RequestTarget::Named(bucket, name.to_owned());
        }
        self
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }
}

impl<V: Vendor> Client<V> {
    pub(super) fn new(vendor: V, bucket: Option<String>, settings: &ClientSettings) -> Result<Self> {
        let failed = |source: Box<dyn StdError + Send + Sync>| {
            Error::new(ErrorKind::Other, V::NAME, "set up").with_source(source)
        };
        install_crypto_provider();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(settings.connect_timeout.unwrap_or(Duration::from_secs(5)))
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .no_proxy();
        if let Some(ca) = &settings.ca {
            #[expect(clippy::disallowed_methods, reason = "only at startup")]
            let pem = std::fs::read(ca).map_err(|error| failed(error.into()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem);
            builder = builder.tls_certs_only(certificates.map_err(|error| failed(error.into()))?);
        }
        if let Some(proxy) = &settings.proxy {
            // The error is dropped: it contains the URL, which may include a password.
            let proxy = reqwest::Proxy::all(proxy);
            let proxy =
                proxy.map_err(|_| failed("the proxy must be a URL, such as http://proxy:3128".into()));
            builder = builder.proxy(proxy?);
        }
        let http = builder.build().map_err(|error| failed(error.into()))?;
        Ok(Self {
            vendor,
            bucket,
            http,
            buffers: settings.buffers.clone(),
            checksums_of_objects: ChecksumSupport::default(),
            checksums_of_parts: ChecksumSupport::default(),
            batch_deletes: BatchSupport::default(),
        })
    }

    /// The bucket of an object.
    pub(super) fn bucket_of<'a>(&'a self, key: &'a Key) -> &'a str {
        self.bucket.as_deref().unwrap_or(key.folder())
    }

    /// The name of an object in its bucket.
    pub(super) fn name_of(&self, key: &Key) -> String {
        if self.bucket.is_some() { key.to_string() } else { key.name().to_owned() }
    }

    /// Whether responses to PUT requests have a CRC; recorded separately for objects and for parts.
    pub(super) fn checksums(&self, target: &Target) -> &ChecksumSupport {
        match target {
            Target::Object => &self.checksums_of_objects,
            Target::Part { .. } => &self.checksums_of_parts,
        }
    }

    /// For tests: the same client with another vendor.
    #[cfg(test)]
    pub(super) fn with_vendor<W>(self, make: impl FnOnce(V) -> W) -> Client<W> {
        let Self { vendor, bucket, http, buffers, checksums_of_objects, checksums_of_parts, batch_deletes } =
            self;
        let vendor = make(vendor);
        Client { vendor, bucket, http, buffers, checksums_of_objects, checksums_of_parts, batch_deletes }
    }

    /// Sends a request. If the status is not a success, fails with an error that has
    /// [`ErrorResponse`] as its source.
    pub(super) async fn send(&self, request: Request) -> Result<Response> {
        let operation = request.operation;
        let response = self.exchange(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = read_beginning(response).await.unwrap_or_default();
        Err(ErrorResponse::from_parts(status, &text).into_error(V::NAME, operation))
    }

    /// Like [`send`](Self::send), but also reads the document in the response. Fails if the
    /// document is larger than [`MAX_DOCUMENT`], because a list that was cut off would look
    /// complete.
    pub(super) async fn fetch_document(&self, request: Request) -> Result<String> {
        let operation = request.operation;
        let mut response = self.send(request).await?;
        let mut document = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| connection_error::<V>(operation, error))?
        {
            if document.len() + chunk.len() > MAX_DOCUMENT {
                let error = Error::new(ErrorKind::Other, V::NAME, operation);
                return Err(error.with_message("the response is too large"));
            }
            document.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8_lossy(&document).into_owned())
    }

    /// The time of the store, from the response to an unsigned list request. Fails if the response
    /// is not an XML document of a store. A store sends such a document even if it refuses the
    /// request.
    pub(super) async fn clock(&self, bucket: &str) -> Result<Option<SystemTime>> {
        let operation = "read clock";
        let mut list = Request::to_bucket(Method::GET, bucket, operation).query("max-keys", "1");
        list.is_signed = false;
        let response = self.exchange(list).await?;
        let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
        let time = date.and_then(|date| httpdate::parse_http_date(date).ok());
        let status = response.status().as_u16();
        let text = read_beginning(response).await.map_err(|error| connection_error::<V>(operation, error))?;
        if !xml::is_store_response(&text) {
            let not_a_store = Box::new(NotAStore { status });
            return Err(Error::new(ErrorKind::Other, V::NAME, operation).with_source(not_a_store));
        }
        Ok(time)
    }

    async fn exchange(&self, request: Request) -> Result<Response> {
        let operation = request.operation;
        let failed = |source: Box<dyn StdError + Send + Sync>| {
            Error::new(ErrorKind::Other, V::NAME, operation).with_source(source)
        };
        let (bucket, object) = match &request.target {
            RequestTarget::Bucket(bucket) => (bucket.as_str(), String::new()),
            RequestTarget::Object(key) => (self.bucket_of(key), self.name_of(key)),
            #[cfg(test)]
            RequestTarget::Named(bucket, name) => (bucket.as_str(), name.clone()),
        };
        let object = percent_encode(object.as_bytes(), UNRESERVED_AND_SLASH);
        let mut uri = format!("{}/{object}", self.vendor.bucket_url(bucket));
        for (number, (name, value)) in request.query.iter().enumerate() {
            let value = percent_encode(value.as_bytes(), UNRESERVED);
            uri.push(if number == 0 { '?' } else { '&' });
            uri.extend([*name, "="]);
            uri.extend(value);
        }
        let mut parts = http::Request::builder().method(request.method.clone()).uri(uri);
        for (name, value) in &request.headers {
            parts = parts.header(name, value);
        }
        let (body, length) = match request.body {
            RequestBody::Whole(bytes) => {
                let length = bytes.len() as u64;
                (Body::from(bytes), length)
            }
            RequestBody::Chunks(chunks) => {
                let length = chunks.iter().map(|chunk| chunk.len() as u64).sum();
                let chunks = chunks.into_iter().map(Ok::<_, Infallible>);
                (Body::wrap_stream(stream::iter(chunks)), length)
            }
            RequestBody::Stream(body, length) => (body, length),
        };
        let unsigned = parts.body(()).map_err(|error| failed(error.into()))?;
        let (mut parts, ()) = unsigned.into_parts();
        let host = parts.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
        if let Some(Ok(host)) = host {
            parts.headers.insert(header::HOST, host);
        }
        if [Method::PUT, Method::POST].contains(&request.method) {
            parts.headers.insert(header::CONTENT_LENGTH, length.into());
        }
        if request.is_signed {
            let signing = self.vendor.sign(bucket, &mut parts).await;
            // The error itself is dropped, because its message may contain the credentials that
            // were found.
            signing.map_err(|error| {
                let signing_failed = failed(Box::new(SigningFailed(error.kind())));
                if error.is_retryable() { signing_failed.mark_retryable() } else { signing_failed }
            })?;
        }
        let request = reqwest::Request::try_from(http::Request::from_parts(parts, body));
        let request = request.map_err(|error| failed(error.into()))?;
        self.http.execute(request).await.map_err(|error| connection_error::<V>(operation, error))
    }
}

/// Converts an error of the HTTP client: the store is unreachable, or the connection broke.
pub(super) fn connection_error<V: Vendor>(operation: &'static str, error: reqwest::Error) -> Error {
    // If a request cannot be built, a retry fails in the same way.
    let is_permanent = error.is_builder();
    let error = Error::new(ErrorKind::Other, V::NAME, operation).with_source(error.without_url().into());
    if is_permanent { error } else { error.mark_retryable() }
}

/// Reads at most [`MAX_ERROR_TEXT`] bytes of a response. The server may not be a store, so the
/// response can have any size.
async fn read_beginning(mut response: Response) -> std::result::Result<String, reqwest::Error> {
    let mut text = Vec::new();
    while text.len() < MAX_ERROR_TEXT
        && let Some(mut chunk) = response.chunk().await?
    {
        chunk.truncate(MAX_ERROR_TEXT - text.len());
        text.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The `Content-Length` header. It is also set in responses to HEAD, which have no body.
pub(super) fn content_length(response: &Response) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The error response of a store.
#[derive(Clone, Debug)]
pub struct ErrorResponse {
    /// HTTP status.
    pub status: u16,
    /// Error code of the vendor, such as `SignatureDoesNotMatch`; empty if there is none.
    pub code: String,
    /// Error message of the vendor.
    pub message: String,
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {} {} {}", self.status, self.code, self.message)
    }
}

impl StdError for ErrorResponse {}

impl ErrorResponse {
    /// The error response that caused `error`, if there was one.
    pub fn of(error: &Error) -> Option<&Self> {
        error.source()?.downcast_ref()
    }

    pub(super) fn status_of(error: &Error) -> Option<u16> {
        Self::of(error).map(|response| response.status)
    }

    pub(super) fn from_parts(status: StatusCode, text: &str) -> Self {
        let document = xml::error(text);
        Self { status: status.as_u16(), code: document.code, message: document.message }
    }

    pub(super) fn into_error(self, backend: &'static str, operation: &'static str) -> Error {
        let kind = match (self.status, self.code.as_str()) {
            (404, _) | (_, "NoSuchKey" | "NoSuchUpload" | "NoSuchBucket") => ErrorKind::NotFound,
            (416, _) => ErrorKind::Truncated,
            (_, "InvalidPart" | "InvalidPartOrder" | "MalformedPart" | "EntityTooSmall") => {
                ErrorKind::Mismatch
            }
            (507, _) | (_, "XMinioStorageFull" | "QuotaExceeded" | "StorageFull") => ErrorKind::Full,
            _ => ErrorKind::Other,
        };
        let is_transient = matches!(self.status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
            || ["SlowDown", "RequestTimeout", "InternalError", "BadDigest", "InvalidDigest"]
                .contains(&self.code.as_str());
        let mut error = Error::new(kind, backend, operation).with_source(Box::new(self));
        error.retryable = kind == ErrorKind::Full || (kind == ErrorKind::Other && is_transient);
        error
    }
}

/// A client shared by the readers and writers of one store.
pub(super) type SharedClient<V> = Arc<Client<V>>;
