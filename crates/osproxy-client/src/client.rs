use std::{fmt, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use osproxy_api::v1::{IDEMPOTENCY_KEY, PREFIX, PROBLEM, Problem};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result, RetryPolicy, retry::Backoff};

/// Longest response that is kept in memory, in bytes: a page of 1,000 files with all their
/// metadata.
const MAX_RESPONSE: usize = 64 << 20;

/// Longest error response, in bytes.
const MAX_PROBLEM: usize = 256 << 10;

/// Configures a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    url: String,
    key: Option<String>,
    user_agent: String,
    connect_timeout: Duration,
    idle_timeout: Duration,
    retry: RetryPolicy,
    http: Option<reqwest::Client>,
}

impl ClientBuilder {
    /// Sends this API key. Without a key, only requests with links succeed.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Maximum time for opening a connection. Default: 10 seconds.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Maximum time without progress: no byte is sent or received. Default: one minute. There is no
    /// limit for a transfer as a whole.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How failed requests are repeated.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Value of the header `User-Agent`. Default: `osproxy-client/` and the version.
    #[must_use]
    pub fn user_agent(mut self, name: impl Into<String>) -> Self {
        self.user_agent = name.into();
        self
    }

    /// Uses this HTTP client, for other certificates and proxies. It should not follow
    /// redirects; the user agent and the connection timeout of this builder are ignored.
    #[must_use]
    pub fn http_client(mut self, client: reqwest::Client) -> Self {
        self.http = Some(client);
        self
    }

    /// Creates the client. Fails if the URL or the API key is malformed. Sends nothing.
    pub fn build(self) -> Result<Client> {
        let url =
            Url::parse(&self.url).map_err(|error| Error::invalid(format!("invalid server URL: {error}")))?;
        if !["http", "https"].contains(&url.scheme()) || url.path() != "/" || url.query().is_some() {
            let message = "the server URL must be like https://files.example.org, without a path";
            return Err(Error::invalid(message));
        }
        let authorization = self.key.map(|key| {
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.trim()))
                .map_err(|_| Error::invalid("the API key has invalid characters"))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let http = self.http.map_or_else(
            || {
                // Fails if there is a provider already, which is then used.
                let _ = rustls::crypto::ring::default_provider().install_default();
                reqwest::Client::builder()
                    .user_agent(self.user_agent)
                    .connect_timeout(self.connect_timeout)
                    // osproxy never redirects, but captive portals do.
                    .redirect(Policy::none())
                    .build()
            },
            Ok,
        );
        let http = http.map_err(|error| Error::invalid(format!("invalid HTTP settings: {error}")))?;
        let inner = Inner {
            url,
            authorization: authorization.transpose()?,
            idle_timeout: self.idle_timeout,
            retry: self.retry,
            http,
        };
        Ok(Client(Arc::new(inner)))
    }
}

/// A client of one osproxy server. Clones share their connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    url: Url,
    authorization: Option<HeaderValue>,
    idle_timeout: Duration,
    retry: RetryPolicy,
    http: reqwest::Client,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.0.url.as_str()).finish_non_exhaustive()
    }
}

/// A request without a body, or with a small one.
pub(crate) struct Call {
    method: Method,
    url: Url,
    has_key: bool,
    headers: HeaderMap,
    body: Option<Bytes>,
    is_repeatable: bool,
}

impl Call {
    /// Adds a parameter to the query.
    pub(crate) fn query(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.url.query_pairs_mut().append_pair(name, &value.to_string());
        self
    }

    /// Adds a parameter to the query if it has a value.
    pub(crate) fn query_opt(self, name: &str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Sends a JSON body.
    pub(crate) fn json(mut self, body: &impl Serialize) -> Result<Self> {
        let body =
            serde_json::to_vec(body).map_err(|error| Error::invalid(format!("cannot encode: {error}")))?;
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body = Some(body.into());
        Ok(self)
    }

    /// Adds an idempotency key, so that the request can be repeated.
    pub(crate) fn idempotent(mut self) -> Result<Self> {
        self.headers.insert(HeaderName::from_static(IDEMPOTENCY_KEY), random_key()?);
        self.is_repeatable = true;
        Ok(self)
    }

    /// The request has the same effect if it is repeated.
    pub(crate) fn repeatable(mut self) -> Self {
        self.is_repeatable = true;
        self
    }
}

/// A new idempotency key.
pub(crate) fn random_key() -> Result<HeaderValue> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Error::invalid(format!("no random numbers: {error}")))?;
    HeaderValue::try_from(hex::encode(random)).map_err(|error| Error::invalid(error.to_string()))
}

impl Client {
    /// Configures a client of the server with this URL, such as `https://files.example.org`.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            url: url.into(),
            key: None,
            user_agent: concat!("osproxy-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(1),
            retry: RetryPolicy::default(),
            http: None,
        }
    }

    /// The absolute URL of a link, which the server returns without scheme and host.
    pub fn link_url(&self, link: &str) -> Result<String> {
        self.resolve(link).map(String::from)
    }

    pub(crate) fn resolve(&self, link: &str) -> Result<Url> {
        self.0.url.join(link).map_err(|error| Error::invalid(format!("invalid link: {error}")))
    }

    pub(crate) fn backoff(&self) -> Backoff<'_> {
        self.0.retry.backoff()
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        self.0.idle_timeout
    }

    /// A request to a route of API v1. `path` begins with a slash.
    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        let mut url = self.0.url.clone();
        url.set_path(&format!("{PREFIX}{path}"));
        let is_repeatable = method != Method::POST;
        Call { method, url, has_key: true, headers: HeaderMap::new(), body: None, is_repeatable }
    }

    /// A request to a link, without the API key.
    pub(crate) fn call_link(&self, method: Method, link: &str) -> Result<Call> {
        let url = self.resolve(link)?;
        Ok(Call { method, url, has_key: false, headers: HeaderMap::new(), body: None, is_repeatable: true })
    }

    /// Starts a request that the caller sends by [`Client::once`].
    pub(crate) fn request(&self, call: &Call) -> RequestBuilder {
        let mut request = self.0.http.request(call.method.clone(), call.url.clone());
        if let Some(authorization) = self.0.authorization.as_ref().filter(|_| call.has_key) {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        request = request.header(ACCEPT, "application/json, */*;q=0.1").headers(call.headers.clone());
        match &call.body {
            Some(body) => request.body(body.clone()),
            None => request,
        }
    }

    /// Sends a request once, and returns the response if it is a success.
    pub(crate) async fn once(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(Error::transport)?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// The error that a response reports.
    async fn refusal(&self, response: Response) -> Error {
        let status = response.status().as_u16();
        let pause = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let content_type = content_type(&response).to_owned();
        let location = response.status().is_redirection();
        let body = self.read(response, MAX_PROBLEM).await.unwrap_or_default();
        let problem = serde_json::from_slice::<Problem>(&body).ok().filter(|_| content_type == PROBLEM);
        let error = match problem {
            Some(problem) => Error::api(problem),
            None if location => Error::not_osproxy(status, "the server redirects to another place"),
            None => Error::not_osproxy(status, format!("the server answered with `{content_type}`")),
        };
        error.with_retry_after(pause.map(Duration::from_secs))
    }

    /// Reads a response of at most `limit` bytes.
    async fn read(&self, mut response: Response, limit: usize) -> Result<Bytes> {
        let status = response.status().as_u16();
        let mut body = BytesMut::new();
        while let Some(chunk) = self.next_chunk(&mut response).await? {
            if body.len() + chunk.len() > limit {
                return Err(Error::not_osproxy(status, "the response is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// The next bytes of a response; `None` at its end.
    pub(crate) async fn next_chunk(&self, response: &mut Response) -> Result<Option<Bytes>> {
        match tokio::time::timeout(self.0.idle_timeout, response.chunk()).await {
            Ok(chunk) => chunk.map_err(Error::transport),
            Err(_) => Err(stalled()),
        }
    }

    /// Parses a JSON response.
    pub(crate) async fn parse<T: DeserializeOwned>(&self, response: Response) -> Result<T> {
        let status = response.status().as_u16();
        let content_type = content_type(&response);
        if content_type != "application/json" {
            return Err(Error::not_osproxy(status, format!("the server answered with `{content_type}`")));
        }
        let body = self.read(response, MAX_RESPONSE).await?;
        serde_json::from_slice(&body)
            .map_err(|error| Error::not_osproxy(status, format!("the response has unexpected JSON: {error}")))
    }

    /// Sends a request, repeats it as the policy says, and parses the response.
    pub(crate) async fn send<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        let mut backoff = self.backoff();
        loop {
            let answer = async { self.parse(self.answer(&call).await?).await };
            match answer.await {
                Err(error) if call.is_repeatable => backoff.pause(error).await?,
                ended => return ended,
            }
        }
    }

    /// Like [`send`](Self::send), for a response that has no body if the API key lacks the scope
    /// `read`.
    pub(crate) async fn send_opt<T: DeserializeOwned>(&self, call: Call) -> Result<Option<T>> {
        let mut backoff = self.backoff();
        loop {
            let answer = async {
                let response = self.answer(&call).await?;
                match response.status() {
                    StatusCode::NO_CONTENT => Ok(None),
                    _ => self.parse(response).await.map(Some),
                }
            };
            match answer.await {
                Err(error) if call.is_repeatable => backoff.pause(error).await?,
                ended => return ended,
            }
        }
    }

    /// Like [`send`](Self::send), for a response that never has a body.
    pub(crate) async fn send_empty(&self, call: Call) -> Result<()> {
        let mut backoff = self.backoff();
        loop {
            let answer = async { expect_no_content(&self.answer(&call).await?) };
            match answer.await {
                Err(error) if call.is_repeatable => backoff.pause(error).await?,
                ended => return ended,
            }
        }
    }

    async fn answer(&self, call: &Call) -> Result<Response> {
        match tokio::time::timeout(self.0.idle_timeout, self.once(self.request(call))).await {
            Ok(answer) => answer,
            Err(_) => Err(stalled()),
        }
    }
}

/// Fails unless a response is 204: a captive portal answers 200.
pub(crate) fn expect_no_content(response: &Response) -> Result<()> {
    match response.status() {
        StatusCode::NO_CONTENT => Ok(()),
        status => {
            let message = format!("the server answered with `{}`", content_type(response));
            Err(Error::not_osproxy(status.as_u16(), message))
        }
    }
}

fn content_type(response: &Response) -> &str {
    let value =
        response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

pub(crate) fn stalled() -> Error {
    Error::new(crate::ErrorKind::Transport, "the server does not answer in time")
}
