use super::value::{Findings, section};

section! {
    /// `cors`: which web pages may call the service from a browser. Cookies and other browser
    /// credentials are never allowed.
    CorsSection {
        /// Allowed origins, such as `https://app.example.net`. `*` allows every origin, as the Go
        /// program does; an empty list allows no other origin. Danger: with `*` and `auth.mode:
        /// open`, any page can use the service from a browser that can reach it.
        allow_origins: Vec<String> = vec!["*".to_owned()],
        /// Request headers that pages may send; `*` allows all.
        allow_headers: Vec<String> = vec!["*".to_owned()],
        /// How long browsers may cache the answer to a preflight request, in seconds.
        max_age: u64 as seconds = 3600,
    }
    ignored []
}

/// Wildcard that allows every origin or header.
pub const ANY: &str = "*";

/// Largest allowed `max_age`, in seconds: browsers cache a preflight for a day at most.
const MAX_AGE: u64 = 24 * 60 * 60;

impl CorsSection {
    pub(super) fn check(&self, findings: &mut Findings) {
        let origins = self.allow_origins.iter().filter(|origin| *origin != ANY);
        for origin in origins.filter(|origin| !is_origin(origin)) {
            findings.problem(
                "cors.allow_origins",
                format_args!("{origin:?} must be `*` or an origin, such as https://app.example.net"),
            );
        }
        let is_token = |name: &String| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        for name in self.allow_headers.iter().filter(|name| *name != ANY && !is_token(name)) {
            findings.problem("cors.allow_headers", format_args!("{name:?} is not a valid header name"));
        }
        if self.max_age > MAX_AGE {
            findings.problem("cors.max_age", format_args!("must be 0 to {MAX_AGE} seconds"));
        }
    }
}

/// Whether a text is an origin as browsers send it: scheme, host and port in lower case, without a
/// path.
fn is_origin(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_:[]".contains(&byte);
    let host = ["https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    host.is_some_and(|host| !host.is_empty() && host.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_browsers_send_is_an_origin() {
        for origin in ["https://app.example.net", "http://localhost:3000", "http://[::1]:80"] {
            assert!(is_origin(origin), "{origin}");
        }
        for text in [
            "app.example.net",
            "https://",
            "https://App.example.net",
            "https://a/",
            "ftp://a",
            "null",
            "https://*",
        ] {
            assert!(!is_origin(text), "{text}");
        }
    }
}
