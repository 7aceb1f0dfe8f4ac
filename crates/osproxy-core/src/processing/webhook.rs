//! Asks an HTTP service, which gets a signed link to the content.

use std::{error::Error, time::Duration};

use reqwest::{StatusCode, header, redirect};
use serde::Serialize;
use time::OffsetDateTime;

use super::{OpenContent, Step, StepError, StepFile, Verdict, answer, settings::WebhookSettings};
use crate::links;

/// Maximum size of an answer, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// Maximum time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The step `webhook`.
pub(super) struct Webhook {
    settings: WebhookSettings,
    client: Result<reqwest::Client, String>,
}

/// The body of the request.
#[derive(Serialize)]
struct Question<'a> {
    uid: String,
    tenant: &'a str,
    name: &'a str,
    size: u64,
    content_type: &'a str,
    metadata: &'a std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digests: Option<Digests>,
    /// Link to the content.
    link: String,
    /// When the link expires.
    link_expires_at: String,
}

/// Digests in hexadecimal.
#[derive(Serialize)]
struct Digests {
    #[serde(skip_serializing_if = "Option::is_none")]
    md5: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    blake3: String,
}

impl Webhook {
    pub(super) fn new(settings: WebhookSettings) -> Self {
        // The error is ignored: another part of the program may have installed a provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout))
            .timeout(settings.timeout)
            .build();
        Self { settings, client: client.map_err(|error| error.to_string()) }
    }

    async fn ask(&self, question: &Question<'_>) -> Result<Vec<u8>, StepError> {
        let url = &self.settings.url;
        let client = self.client.as_ref().map_err(|error| StepError::failed(error.clone()))?;
        let mut request = client.post(url).json(question);
        if let Some(authorization) = &self.settings.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let failed = |error: reqwest::Error| {
            // Without the URL, which may contain a secret.
            let error: Box<dyn Error + Send + Sync> = error.without_url().into();
            StepError::unavailable("the webhook does not answer", error)
        };
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        let is_temporary = status.is_server_error()
            || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
        if is_temporary {
            return Err(StepError::unavailable_msg(format!("the webhook answers {status}")));
        }
        if !status.is_success() {
            return Err(StepError::failed(format!("the webhook answers {status}")));
        }
        let mut answer = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(failed)? {
            if answer.len() + bytes.len() > MAX_ANSWER {
                return Err(StepError::failed(format!("the answer has more than {MAX_ANSWER} bytes")));
            }
            answer.extend_from_slice(&bytes);
        }
        Ok(answer)
    }
}

impl Step for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    async fn run(&self, file: &StepFile, content: &dyn OpenContent) -> Result<Verdict, StepError> {
        let lifetime = self.settings.link_lifetime;
        let question = Question {
            uid: file.uid.to_string(),
            tenant: file.tenant.as_str(),
            name: &file.name,
            size: file.size,
            content_type: &file.content_type,
            metadata: &file.metadata,
            digests: file.digests.map(|digests| Digests {
                md5: digests.md5.map(hex::encode),
                sha256: digests.sha256.map(hex::encode),
                blake3: hex::encode(digests.blake3),
            }),
            link: format!("{}{}", self.settings.base_url.trim_end_matches('/'), content.link(lifetime)),
            link_expires_at: links::format_date(OffsetDateTime::now_utc() + lifetime),
        };
        answer::parse(&self.ask(&question).await?)
    }
}
