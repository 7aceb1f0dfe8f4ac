//! Explains store errors to operators: what is wrong, and which settings they should check.

use osproxy_storage::Diagnosis;

use crate::config::{Config, StoreKind};

/// Explains what is wrong with a remote store, and which settings the operator should check.
pub fn explain_store_error(config: &Config, kind: StoreKind, diagnosis: Diagnosis) -> String {
    let names = SettingNames::of(config, kind);
    let SettingNames { section, id, secret } = names;
    // With a proxy, connections go to the proxy.
    let (place, host) = match config.stores.proxy {
        Some(_) => ("stores.proxy".to_owned(), "the proxy"),
        None => (names.endpoint(), "the store"),
    };
    match diagnosis {
        Diagnosis::HostNotFound => format!(
            "the host name cannot be resolved; check `{place}` and the DNS settings of this machine{}",
            names.path_style_hint(config, kind)
        ),
        Diagnosis::ConnectionRefused => {
            format!("connection refused; check that {host} is running at `{place}`")
        }
        Diagnosis::Unreachable => {
            format!("the host is unreachable; check `{place}`, firewalls and routes")
        }
        Diagnosis::TimedOut => {
            format!("there was no answer in time; check `{place}`, firewalls and the load of {host}")
        }
        Diagnosis::UntrustedCertificate => {
            "the certificate is not trusted; set `stores.ca_file` if your own CA issued it".to_owned()
        }
        Diagnosis::CertificateNameMismatch => format!(
            "the certificate is for another host name; check the name in `{}`{}",
            names.endpoint(),
            names.path_style_hint(config, kind)
        ),
        Diagnosis::CertificateNotValidNow => {
            "the certificate has expired or is not valid yet; renew it, or correct the clock of this machine"
                .to_owned()
        }
        Diagnosis::NotTls => format!(
            "the server does not use TLS; use http:// instead of https:// in `{}`, or check the port",
            names.endpoint()
        ),
        Diagnosis::TlsFailed => {
            "the TLS handshake failed; check TLS versions and client certificates".to_owned()
        }
        Diagnosis::Closed => format!(
            "{host} closes connections without an answer; check the scheme, host and port in `{place}`"
        ),
        Diagnosis::NotHttp => {
            format!("the server does not speak HTTP; check the scheme, host and port in `{place}`")
        }
        Diagnosis::NotAStore => format!(
            "the server is not an object store; check that `{}` is not a console or a web server",
            names.endpoint()
        ),
        Diagnosis::Proxy => "the proxy cannot connect to the store; check `stores.proxy`".to_owned(),
        Diagnosis::NoCredentials => {
            format!("there are no credentials; set `{section}.{id}` and `{section}.{secret}`")
        }
        Diagnosis::UnknownAccessKey => {
            format!("the store does not know the access key; check `{section}.{id}`")
        }
        Diagnosis::WrongSecret => {
            format!("the secret does not match the access key; check `{section}.{secret}`")
        }
        _ => explain_access_error(config, &names, diagnosis),
    }
}

/// Explains errors that a store returns although it knows the access key, and unexpected errors.
fn explain_access_error(config: &Config, names: &SettingNames, diagnosis: Diagnosis) -> String {
    let SettingNames { section, .. } = names;
    match diagnosis {
        Diagnosis::WrongToken => {
            format!("the session token does not match the access key; check `{section}.session_token`")
        }
        Diagnosis::Expired => {
            format!("the temporary access key has expired; set a new key and its `{section}.session_token`")
        }
        Diagnosis::ClockSkewed => {
            "the clock of this machine differs too much from the clock of the store; synchronise it with NTP"
                .to_owned()
        }
        Diagnosis::Denied => "the access key lacks permissions; it must be allowed to find and to create buckets, and to put, get, \
                              list and delete objects and multipart uploads in them"
            .to_owned(),
        Diagnosis::Refused => {
            "the store refused the request; check the access key, its permissions, and who owns the bucket"
                .to_owned()
        }
        Diagnosis::BucketNotFound if config.stores.create_buckets => "the bucket does not exist".to_owned(),
        Diagnosis::BucketNotFound => {
            "the bucket does not exist and `stores.create_buckets` is off; create it or enable that setting"
                .to_owned()
        }
        Diagnosis::BucketTaken => {
            format!("the bucket belongs to another account; set another `{section}.bucket`")
        }
        Diagnosis::WrongRegion => format!(
            "the bucket or the store is in another region; check `{section}.region` and `{}`",
            names.endpoint()
        ),
        Diagnosis::Busy => "the store, or a service behind it, is unavailable; try again later".to_owned(),
        Diagnosis::Full => "the store is full".to_owned(),
        _ => "the store returned an unexpected error".to_owned(),
    }
}

/// Names of the settings of a store.
struct SettingNames {
    section: &'static str,
    id: &'static str,
    secret: &'static str,
}

impl SettingNames {
    fn of(config: &Config, kind: StoreKind) -> Self {
        let (section, id, secret) = match kind {
            StoreKind::Local => ("local", "", ""),
            StoreKind::S3 if config.s3.enabled => ("s3", "access_key_id", "secret_access_key"),
            StoreKind::S3 => ("minio", "access_key_id", "secret_access_key"),
            StoreKind::Cos => ("cos", "secret_id", "secret_key"),
            StoreKind::Oss => ("oss", "access_key_id", "access_key_secret"),
        };
        Self { section, id, secret }
    }

    fn endpoint(&self) -> String {
        format!("{}.endpoint", self.section)
    }

    fn path_style_hint(&self, config: &Config, kind: StoreKind) -> String {
        let s3 = if config.s3.enabled { &config.s3 } else { &config.minio };
        if kind == StoreKind::S3 && !s3.path_style {
            return format!(
                " (the bucket is part of the host name, which not all stores support: see `{}.path_style`)",
                self.section
            );
        }
        String::new()
    }
}
