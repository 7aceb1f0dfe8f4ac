//! The HTTP client that sends messages to endpoints.

use std::{
    error::Error as StdError,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ipnet::IpNet;
use osproxy_types::tenant::Tenant;
use reqwest::{
    Certificate, Response, StatusCode, Url,
    header::{CONTENT_TYPE, RETRY_AFTER},
    redirect,
};

use super::{
    guard::{AddressGuard, ForbiddenHost, GuardedResolver, SENDER},
    secret::WebhookSecret,
};
use crate::{Error, Result};

/// Longest URL of an endpoint, in bytes.
pub const MAX_URL_BYTES: usize = 2048;
/// Maximum number of bytes of a response that are read, so that its connection can be used again.
const MAX_RESPONSE: usize = 4096;
/// Maximum time to read a response after its head.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that stay open to one host when idle, and for how long.
const IDLE_CONNECTIONS: usize = 8;
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest `Retry-After` that is honoured.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Settings of the client.
#[derive(Clone, Debug)]
pub struct WebhookClientSettings {
    /// Whether endpoints may have `http://` URLs.
    pub allow_http: bool,
    /// Networks that endpoints may be in although they are not public.
    pub allowed_networks: Vec<IpNet>,
    /// Maximum time for an attempt, from name resolution to the head of the response.
    pub timeout: Duration,
    /// CA certificates in PEM format that are trusted in addition to the public ones.
    pub ca: Option<Vec<u8>>,
    /// Version of the program, for the header `User-Agent`.
    pub version: &'static str,
}

impl WebhookClientSettings {
    /// Checks the URL of an endpoint, and returns it in its normal form. Does not resolve its host:
    /// the addresses of a host can change, and are checked whenever a connection is made. Fails with
    /// `InvalidArgument`.
    pub fn check_url(&self, text: &str) -> Result<Url> {
        let invalid = |message: String| Error::invalid(message).with_field("url");
        let too_long = || invalid(format!("`url` must have at most {MAX_URL_BYTES} bytes"));
        if text.len() > MAX_URL_BYTES {
            return Err(too_long());
        }
        let example = "such as https://app.example.org/webhooks";
        let url = Url::parse(text).map_err(|_| invalid(format!("`url` must be a URL {example}")))?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            "http" => {
                return Err(invalid("`url` must begin with https://; see `webhooks.allow_http`".into()));
            }
            _ => return Err(invalid(format!("`url` must be an https URL {example}"))),
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(invalid("`url` must have neither a user name, a password nor a fragment".into()));
        }
        if AddressGuard::new(self.allowed_networks.clone()).forbidden_literal(&url).is_some() {
            return Err(invalid("`url` must have a public address; see `webhooks.allowed_networks`".into()));
        }
        // The normal form encodes some characters.
        if url.as_str().len() > MAX_URL_BYTES {
            return Err(too_long());
        }
        Ok(url)
    }
}

/// Sends messages to endpoints. Never connects to an address that is not public, unless the
/// settings allow it, and follows no redirects.
pub struct WebhookClient {
    http: reqwest::Client,
    settings: WebhookClientSettings,
}

/// A message. All attempts to deliver it have the same id and body.
#[derive(Clone, Debug)]
pub struct WebhookMessage {
    /// Identifies the message, so that a receiver can recognise a repetition.
    pub id: String,
    /// The JSON body.
    pub body: Vec<u8>,
}

/// The result of an attempt to deliver a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendReport {
    /// What the endpoint did.
    pub outcome: SendOutcome,
    /// Status of the response, if there was one.
    pub status: Option<u16>,
    /// Time until the head of the response, or until the failure.
    pub duration: Duration,
    /// Why the attempt failed.
    pub error: Option<String>,
    /// How long the endpoint asks to wait.
    pub retry_after: Option<Duration>,
}

impl SendReport {
    /// Whether the endpoint refuses this one event. It works, so others need not wait.
    pub(super) fn is_about_event(&self) -> bool {
        matches!(self.status, Some(400 | 409 | 413 | 422))
    }
}

/// What an endpoint did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// The endpoint accepted it with a status from 200 to 299.
    Delivered,
    /// The endpoint answered with another status.
    Refused,
    /// The endpoint answered 410: it wants no more messages.
    Gone,
    /// There was no answer.
    Unreachable,
}

impl SendReport {
    /// Whether the endpoint accepted the message.
    pub fn is_delivered(&self) -> bool {
        self.outcome == SendOutcome::Delivered
    }
}

impl WebhookClient {
    /// Creates a client. Fails if the certificates are invalid.
    pub fn new(settings: &WebhookClientSettings) -> Result<Self, reqwest::Error> {
        osproxy_storage::install_crypto_provider();
        let guard = Arc::new(AddressGuard::new(settings.allowed_networks.clone()));
        let mut builder = reqwest::Client::builder()
            .timeout(settings.timeout + RESPONSE_TIMEOUT)
            .connect_timeout(settings.timeout)
            .redirect(redirect::Policy::none())
            .dns_resolver(Arc::new(GuardedResolver::new(guard.clone())))
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(format!("osproxy/{}", settings.version))
            .tcp_nodelay(true)
            .no_proxy();
        if let Some(pem) = &settings.ca {
            builder = builder.tls_certs_merge(Certificate::from_pem_bundle(pem)?);
        }
        Ok(Self { http: builder.build()?, settings: settings.clone() })
    }

    /// Like [`WebhookClientSettings::check_url`].
    pub fn check_url(&self, text: &str) -> Result<Url> {
        self.settings.check_url(text)
    }

    /// Sends a message of a tenant once, signed with each of the secrets.
    pub async fn send(
        &self,
        tenant: &Tenant,
        url: &str,
        secrets: &[WebhookSecret],
        message: &WebhookMessage,
    ) -> SendReport {
        let started = Instant::now();
        let failed = |error: String| SendReport {
            outcome: SendOutcome::Unreachable,
            status: None,
            duration: started.elapsed(),
            error: Some(error),
            retry_after: None,
        };
        // The settings may have changed since the endpoint was created.
        let url = match self.check_url(url) {
            Ok(url) => url,
            Err(error) => return failed(error.message.into_owned()),
        };
        let timestamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let timestamp = timestamp.as_secs().cast_signed();
        let signatures: Vec<_> =
            secrets.iter().map(|secret| secret.sign(&message.id, timestamp, &message.body)).collect();
        let request = self
            .http
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signatures.join(" "))
            .body(message.body.clone());
        match SENDER.scope(tenant.clone(), request.send()).await {
            Ok(response) => {
                let attempt = describe_response(&response, started.elapsed());
                drain(response).await;
                attempt
            }
            Err(error) => failed(describe_failure(&error)),
        }
    }
}

/// Only the head of a response counts.
fn describe_response(response: &Response, duration: Duration) -> SendReport {
    let status = response.status();
    let outcome = match status {
        StatusCode::GONE => SendOutcome::Gone,
        status if status.is_success() => SendOutcome::Delivered,
        _ => SendOutcome::Refused,
    };
    let error = match outcome {
        SendOutcome::Delivered => None,
        _ if status.is_redirection() => {
            Some(format!("the endpoint answered {}; redirects are not followed", status.as_u16()))
        }
        _ => Some(format!("the endpoint answered {}", status.as_u16())),
    };
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    SendReport {
        outcome,
        status: Some(status.as_u16()),
        duration,
        error,
        retry_after: retry_after.and_then(|text| parse_retry_after(text, SystemTime::now())),
    }
}

/// Parses `Retry-After`: seconds, or a date. Longer delays than [`MAX_RETRY_AFTER`] are shortened.
fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let delay = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => MAX_RETRY_AFTER,
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(delay.min(MAX_RETRY_AFTER))
}

/// Reads the rest of a short response, so that its connection can be used again. Closes the
/// connection if the response is long or slow.
async fn drain(mut response: Response) {
    let reading = async {
        let mut length = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            length += chunk.len();
            if length > MAX_RESPONSE {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(RESPONSE_TIMEOUT, reading).await;
}

/// Says in one sentence why there was no answer.
fn describe_failure(error: &reqwest::Error) -> String {
    // The outermost error repeats the URL, which may contain a secret.
    let mut innermost = None;
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(forbidden) = error.downcast_ref::<ForbiddenHost>() {
            return forbidden.to_string();
        }
        innermost = Some(error);
        cause = error.source();
    }
    if error.is_timeout() {
        return "the endpoint did not answer in time".to_owned();
    }
    innermost.map_or_else(|| "the request failed".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(allow_http: bool) -> WebhookClient {
        WebhookClient::new(&WebhookClientSettings {
            allow_http,
            allowed_networks: Vec::new(),
            timeout: Duration::from_secs(15),
            ca: None,
            version: "0",
        })
        .unwrap()
    }

    #[test]
    fn urls_are_checked() {
        for url in
            ["https://example.org", "https://example.org:8443/a?b=c", "https://[2606:4700:4700::1111]/"]
        {
            assert!(client(false).check_url(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "x",
            "example.org",
            "//example.org",
            "https://",
            "ftp://example.org",
            "file:///etc/passwd",
            "https://user@example.org",
            "https://:pw@example.org",
            "https://example.org/#x",
            "https://10.0.0.1/",
            "https://exa mple.org/",
            "http://example.org",
            "https://localhost:99999/",
            "javascript:alert(1)",
        ] {
            let error = client(false).check_url(url).unwrap_err();
            assert_eq!(error.members().collect::<Vec<_>>(), [("field", &"url".into())], "{url}");
        }
        assert!(client(false).check_url(&format!("https://example.org/{}", "x".repeat(2048))).is_err());
        assert!(client(true).check_url("http://example.org").is_ok());
        assert!(client(true).check_url("http://2130706433/").is_err());
        let url = client(false).check_url(" https://APP.example.org:443/a/../h\took\r\n?x=\u{1}é\n").unwrap();
        assert_eq!(url.as_str(), "https://app.example.org/hook?x=%01%C3%A9");
        // Short as it is written, and too long in its normal form.
        assert!(client(false).check_url(&format!("https://example.org/{}", "é".repeat(500))).is_err());
    }

    #[test]
    fn a_delay_is_seconds_or_a_date_and_bounded() {
        let now = httpdate::parse_http_date("Sun, 22 Nov 2026 12:00:00 GMT").unwrap();
        for (text, seconds) in [
            ("0", 0),
            (" 120 ", 120),
            ("3601", 3600),
            ("99999999999999999999999", 3600),
            ("Sun, 22 Nov 2026 12:00:10 GMT", 10),
            ("Sun, 22 Nov 2026 11:00:00 GMT", 0),
            ("Mon, 23 Nov 2026 12:00:00 GMT", 3600),
        ] {
            assert_eq!(parse_retry_after(text, now), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "-1", "soon", "1.5"] {
            assert_eq!(parse_retry_after(text, now), None, "{text}");
        }
    }
}
