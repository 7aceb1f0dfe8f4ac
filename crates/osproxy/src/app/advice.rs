//! What is wrong with a store, and what to do about it, in words for people.

use osproxy_storage::Diagnosis;

use crate::config::{Config, StoreKind};

/// Says what is wrong with a store on another machine, and which settings to look at.
pub fn advice(config: &Config, kind: StoreKind, diagnosis: Diagnosis) -> String {
    let names = Names::of(config, kind);
    let Names { section, id, secret } = names;
    // With a proxy it is that which is connected to.
    let (place, host) = match config.stores.proxy {
        Some(_) => ("stores.proxy".to_owned(), "the proxy"),
        None => (names.endpoint(), "the store"),
    };
    match diagnosis {
        Diagnosis::NameUnknown => format!(
            "no host of that name can be found; is `{place}` right, and does this machine have a DNS that knows it?{}",
            names.hint_at_path_style(config, kind)
        ),
        Diagnosis::NothingListens => format!("nothing listens there; is {host} running, and is `{place}` right?"),
        Diagnosis::Unreachable => {
            format!("there is no way to that host; is `{place}` right, is a firewall or a route in the way?")
        }
        Diagnosis::Late => {
            format!("it does not answer in time; is `{place}` right, is a firewall in the way, is {host} overloaded?")
        }
        Diagnosis::Untrusted => "its certificate is of an authority that this machine does not trust; if it is your own, \
                                 give its certificate as `stores.ca`"
            .to_owned(),
        Diagnosis::OtherName => format!(
            "its certificate is for another name; is that in `{}` one that the certificate has?{}",
            names.endpoint(),
            names.hint_at_path_style(config, kind)
        ),
        Diagnosis::NotValidNow => {
            "its certificate has ended or not begun; renew it, or set the clock of this machine".to_owned()
        }
        Diagnosis::NotEncrypted => format!(
            "what listens there does not encrypt; begin `{}` with http://, or is it another port?",
            names.endpoint()
        ),
        Diagnosis::Encryption => {
            "no encrypted connection came about; does it want another version of TLS, or certificates of clients?".to_owned()
        }
        Diagnosis::Closed => format!(
            "{host} closes connections without an answer; is `{place}` right, with its port and its http:// or https://?"
        ),
        Diagnosis::NotHttp => format!(
            "what listens there does not speak HTTP; is `{place}` right, with its port and its http:// or https://?"
        ),
        Diagnosis::NoStore => format!(
            "what answers there is no store; is `{}` right, and not that of a console or of a web server?",
            names.endpoint()
        ),
        Diagnosis::Proxy => "the proxy lets nothing through to the store; is `stores.proxy` right?".to_owned(),
        Diagnosis::NoCredentials => {
            format!("there are no credentials; set `{section}.{id}` and `{section}.{secret}`")
        }
        Diagnosis::KeyUnknown => format!("the store does not know the key; is `{section}.{id}` right?"),
        Diagnosis::WrongSecret => {
            format!("the secret is not that of the key; is `{section}.{secret}` right?")
        }
        _ => of_rights(config, &names, diagnosis),
    }
}

/// Of those who were let in so far.
fn of_rights(config: &Config, names: &Names, diagnosis: Diagnosis) -> String {
    let Names { section, .. } = names;
    match diagnosis {
        Diagnosis::WrongToken => {
            format!("the token is not that of the key; is `{section}.session_token` right?")
        }
        Diagnosis::Expired => {
            format!("the temporary key was good until some time ago; get a new one, with its `{section}.session_token`")
        }
        Diagnosis::ClockSkewed => {
            "the clock of this machine is too far from the store's; set it, by NTP at best".to_owned()
        }
        Diagnosis::Denied => "the key may not do this; give it the rights to look for buckets and to make them, and to put, \
                              get, list and delete objects and uploads in them"
            .to_owned(),
        Diagnosis::Refused => {
            "the store refuses it and does not say why; is the key right, may it look for buckets, and is the bucket its own?"
                .to_owned()
        }
        Diagnosis::NoBucket if config.stores.make_buckets => "there is no such bucket".to_owned(),
        Diagnosis::NoBucket => {
            "there is no such bucket, and `stores.make_buckets` is off; make it, or let it be made".to_owned()
        }
        Diagnosis::BucketTaken => {
            format!("somebody else has a bucket of that name; choose another one as `{section}.bucket`")
        }
        Diagnosis::OtherRegion => format!(
            "the bucket is in another region, or the store is; are `{section}.region` and `{}` right?",
            names.endpoint()
        ),
        Diagnosis::Busy => "it cannot do it now, or what stands behind it cannot; try again later".to_owned(),
        Diagnosis::Full => "it has no room left".to_owned(),
        _ => "it fails for a reason of its own".to_owned(),
    }
}

/// What settings are called.
struct Names {
    section: &'static str,
    id: &'static str,
    secret: &'static str,
}

impl Names {
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

    fn hint_at_path_style(&self, config: &Config, kind: StoreKind) -> String {
        let s3 = if config.s3.enabled { &config.s3 } else { &config.minio };
        if kind == StoreKind::S3 && !s3.path_style {
            return format!(
                " The bucket stands in the name of the host, which many stores do not know: see `{}.path_style`.",
                self.section
            );
        }
        String::new()
    }
}
