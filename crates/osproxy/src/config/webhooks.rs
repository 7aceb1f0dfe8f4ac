use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;
use osproxy_core::webhooks::{
    WebhookClientSettings, WebhookFilter, WebhookSecret, WebhookSettings, configured::ConfiguredWebhook,
};
use osproxy_types::tenant::Tenant;

use super::{
    Secret, secret,
    value::{Findings, section},
};
use crate::version;

/// Largest allowed `max_concurrency`.
const MAX_CONCURRENCY: u32 = 256;
/// Largest allowed `max_per_tenant`.
const MAX_PER_TENANT: u32 = 10_000;
/// Longest allowed `timeout`, in seconds.
const MAX_TIMEOUT: u64 = 300;
/// Longest allowed `delivery_retention`, in seconds: a year.
const MAX_RETENTION: u64 = 365 * 24 * 60 * 60;
/// Maximum length of a name, in bytes.
const MAX_NAME: usize = 64;

section! {
    /// `webhooks`: events are sent to endpoints of applications.
    WebhooksSection {
        /// Whether endpoints may have `http://` URLs. Danger: with `http://`, anyone on the network
        /// path can read the events.
        allow_http: bool = false,
        /// Networks whose addresses endpoints may have although they are not public. Danger: whoever
        /// can create webhooks can send requests to all services in these networks.
        allowed_networks: Vec<IpNet> = Vec::new(),
        /// PEM file with CA certificates that are trusted for endpoints, in addition to the public
        /// ones.
        ca_file: Option<PathBuf> = None,
        /// Timeout for the response of an endpoint, in seconds.
        timeout: u64 as seconds = 15,
        /// Concurrent attempts to one endpoint.
        max_concurrency: u32 = 8,
        /// Webhooks of one tenant.
        max_per_tenant: u32 = 100,
        /// How long deliveries that the endpoint accepted stay in the list of deliveries, in seconds.
        /// Others stay as long as their event (`events.retention`), or longer if this is longer.
        delivery_retention: u64 as seconds = 24 * 60 * 60,
        /// Webhooks that are created at startup. Those that are removed from this list are deleted at
        /// startup; in a cluster, they are disabled. All nodes must have the same list.
        endpoints: Vec<WebhookEndpointSection> = Vec::new(),
    }
    ignored []
}

section! {
    /// An entry of `webhooks.endpoints`.
    WebhookEndpointSection {
        /// Identifies the webhook. Letters, digits, `-` and `_`.
        name: String = String::new(),
        /// The tenant whose events the endpoint gets.
        tenant: String = "default".to_owned(),
        /// Where the events are sent.
        url: String = String::new(),
        /// Signs the events: `whsec_` and the Base64 of 24 to 64 random bytes.
        secret: Option<Secret> = None,
        /// File with the secret, instead of `secret`. Leading and trailing white space is ignored.
        secret_file: Option<PathBuf> = None,
        /// Types of the events. When empty, all types.
        types: Vec<String> = Vec::new(),
        /// Categories of the files. When empty, all events.
        categories: Vec<String> = Vec::new(),
        /// Entries that the metadata of the files must have, such as `kind=invoice`.
        metadata: Vec<String> = Vec::new(),
    }
    ignored []
}

impl WebhookEndpointSection {
    /// Returns the webhook. Fails with a message if a setting is invalid. Blocks while it reads the
    /// secret.
    fn webhook(&self, client: &WebhookClientSettings) -> Result<ConfiguredWebhook, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(1..=MAX_NAME).contains(&self.name.len()) || !self.name.bytes().all(plain) {
            return Err(format!("the name must have 1 to {MAX_NAME} letters, digits, '-' or '_'"));
        }
        let url = client.check_url(&self.url).map_err(|error| error.message.into_owned())?.into();
        let secret = secret::resolve("secret", self.secret.as_ref(), self.secret_file.as_deref())?;
        let Some(secret) = secret else {
            return Err("set `secret` or `secret_file`".to_owned());
        };
        let entry = |text: &String| {
            let (key, value) =
                text.split_once('=').ok_or("`metadata` must have entries such as kind=invoice")?;
            Ok((key.to_owned(), value.to_owned()))
        };
        let filter = WebhookFilter {
            types: self.types.clone(),
            categories: self.categories.clone(),
            metadata: self.metadata.iter().map(entry).collect::<Result<_, &str>>()?,
        };
        Ok(ConfiguredWebhook {
            name: self.name.clone(),
            tenant: self.tenant.parse::<Tenant>().map_err(|error| error.to_string())?,
            url,
            secret: WebhookSecret::parse(secret.reveal()).map_err(|error| error.to_string())?,
            filter: filter.checked().map_err(|error| error.message.into_owned())?,
        })
    }
}

impl WebhooksSection {
    pub(super) fn check(&self, findings: &mut Findings) {
        let mut check = |name: &str, value: u64, max: u64| {
            if !(1..=max).contains(&value) {
                findings.problem(&format!("webhooks.{name}"), format_args!("must be 1 to {max}"));
            }
        };
        check("timeout", self.timeout, MAX_TIMEOUT);
        check("max_concurrency", self.max_concurrency.into(), MAX_CONCURRENCY.into());
        check("max_per_tenant", self.max_per_tenant.into(), MAX_PER_TENANT.into());
        check("delivery_retention", self.delivery_retention, MAX_RETENTION);
        let client = self.client(None);
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let path = format!("webhooks.endpoints[{index}]");
            if let Err(error) = endpoint.webhook(&client) {
                findings.problem(&path, error);
            }
            if self.endpoints.iter().take(index).any(|earlier| earlier.name == endpoint.name) {
                findings.problem(&path, format_args!("the name {:?} is used twice", endpoint.name));
            }
        }
    }

    fn client(&self, ca: Option<Vec<u8>>) -> WebhookClientSettings {
        WebhookClientSettings {
            allow_http: self.allow_http,
            allowed_networks: self.allowed_networks.clone(),
            timeout: Duration::from_secs(self.timeout),
            ca,
            version: version::BUILD.version,
        }
    }

    /// Returns the settings of webhooks. Fails with a message if the certificates cannot be read.
    /// Blocks while it reads them.
    pub fn settings(&self) -> Result<WebhookSettings, String> {
        #[expect(clippy::disallowed_methods, reason = "settings are read before the reactor has work")]
        let read = self.ca_file.as_ref().map(std::fs::read).transpose();
        let ca = read.map_err(|error| format!("webhooks.ca_file: {error}"))?;
        Ok(WebhookSettings {
            client: self.client(ca),
            max_per_tenant: self.max_per_tenant.into(),
            max_concurrency: usize::try_from(self.max_concurrency).unwrap_or(1),
            delivery_retention: Duration::from_secs(self.delivery_retention),
        })
    }

    /// Returns the webhooks of the configuration. Fails with a message if one is invalid. Blocks while
    /// it reads secrets.
    pub fn configured(&self) -> Result<Vec<ConfiguredWebhook>, String> {
        let client = self.client(None);
        self.endpoints.iter().map(|endpoint| endpoint.webhook(&client)).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::parse;

    #[test]
    fn endpoints_are_checked_and_secrets_never_shown() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let endpoint = |more: &str| format!("webhooks: {{endpoints: [{{{more}}}]}}");
        let good = format!("name: a, url: 'https://example.org/x', secret: {secret}");
        let config = parse(&endpoint(&good), &[]).unwrap();
        assert_eq!(config.webhooks.configured().unwrap()[0].tenant.as_str(), "default");
        assert!(!format!("{config:?}").contains("MfKQ"));
        for (more, problem) in [
            (good.replace("name: a", "name: a.b"), "the name must have"),
            (good.replace("https://example.org/x", "https://127.0.0.1/"), "must have a public address"),
            (good.replace("https://", "http://"), "must begin with https://"),
            (good.replace("https://example.org/x", "here"), "must be a URL"),
            (good.replace(secret, "whsec_c2hvcnQ="), "a secret must be"),
            (good.replace(secret, "null"), "set `secret` or"),
            (format!("{good}, types: [file.complete]"), "unknown type"),
            (format!("{good}, categories: [picture]"), "unknown category"),
            (format!("{good}, metadata: [kind]"), "entries such as kind=invoice"),
            (format!("{good}, tenant: A"), "a tenant name must"),
        ] {
            let problems = parse(&endpoint(&more), &[]).unwrap_err();
            assert!(problems.len() == 1 && problems[0].contains(problem), "{problems:?}");
            assert!(!problems[0].contains("MfKQ"), "{problems:?}");
        }
        let twice = format!("webhooks: {{endpoints: [{{{good}}}, {{{good}}}]}}");
        assert!(parse(&twice, &[]).unwrap_err()[0].contains("is used twice"));
        let problems =
            parse("webhooks: {timeout: 0, max_concurrency: 1000, max_per_tenant: 0}", &[]).unwrap_err();
        assert_eq!(problems.len(), 3, "{problems:?}");
    }
}
