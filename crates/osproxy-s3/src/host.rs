//! Virtual-host style: the bucket is a subdomain, as in `photos.s3.example.org`.

use s3s::{
    S3Result,
    host::{S3Host, VirtualHost},
};

/// Maximum length of a domain, in bytes.
const MAX_DOMAIN_BYTES: usize = 253;

/// Parses host names. All hosts except subdomains of the domain are in path style, so that the
/// service can also be reached under other names.
pub(crate) struct Domain {
    /// In lower case.
    domain: Option<String>,
}

impl Domain {
    pub(crate) fn new(domain: Option<String>) -> Self {
        Self { domain: domain.map(|domain| domain.to_ascii_lowercase()) }
    }

    /// Returns the bucket in a `Host` header.
    pub(crate) fn bucket(&self, host: &str) -> Option<String> {
        let domain = self.domain.as_ref()?;
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let bucket = name.strip_suffix(domain)?.strip_suffix('.')?;
        (!bucket.is_empty()).then(|| bucket.to_owned())
    }
}

impl S3Host for Domain {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let parsed = VirtualHost::new(host);
        Ok(match self.bucket(host) {
            Some(bucket) => parsed.with_bucket(bucket),
            None => parsed,
        })
    }
}

/// Whether `text` is a domain name, without a port.
pub fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= MAX_DOMAIN_BYTES
        && text.split('.').all(is_label)
        && text.parse::<std::net::IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_subdomains_are_buckets() {
        let domain = Domain::new(Some("S3.example.org".to_owned()));
        for (host, bucket) in [
            ("photos.s3.example.org", Some("photos")),
            ("Photos.S3.Example.Org:9000", Some("photos")),
            ("a.b.s3.example.org.", Some("a.b")),
            ("s3.example.org", None),
            (".s3.example.org", None),
            ("photoss3.example.org", None),
            ("photos.example.org", None),
            ("127.0.0.1:9000", None),
            ("[::1]:9000", None),
            ("localhost", None),
            ("", None),
        ] {
            assert_eq!(domain.bucket(host).as_deref(), bucket, "{host}");
        }
        assert_eq!(Domain::new(None).bucket("photos.s3.example.org"), None);
    }

    #[test]
    fn domains_are_names_without_a_port() {
        for domain in ["localhost", "s3.example.org", "S3-1.example.org"] {
            assert!(is_domain(domain), "{domain}");
        }
        for other in ["", "s3.example.org:80", "s3..org", ".org", "-a.org", "a_b.org", "127.0.0.1", "*.org"] {
            assert!(!is_domain(other), "{other}");
        }
    }
}
