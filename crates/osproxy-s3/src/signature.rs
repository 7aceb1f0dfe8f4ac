//! Checks of signatures that `s3s` does not make. Only the signed parts of a request may decide
//! what it does, and only Signature Version 4 is accepted.

use axum::http::{HeaderMap, HeaderName, header, request::Parts};
use s3s::{S3Error, S3Result, s3_error};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Maximum lifetime of a presigned URL, in seconds: 7 days, as in AWS.
const MAX_EXPIRES_SECS: u32 = 7 * 24 * 60 * 60;
/// The query parameters of a presigned URL.
const PRESIGNED: [&str; 6] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
];
/// The query parameters of URLs that are signed with Signature Version 2.
const PRESIGNED_V2: [&str; 2] = ["AWSAccessKeyId", "Signature"];
/// Header with the time of the signature.
const DATE: &str = "x-amz-date";
/// A presigned URL does not sign this header, but the content is verified against it.
const CONTENT_DIGEST: &str = "x-amz-content-sha256";

/// Checks the form of the signature in the head of a request, and that it covers everything that it
/// must cover. Verifies nothing. Accepts a head without a signature.
pub(crate) fn check(head: &Parts) -> S3Result<()> {
    let query: Vec<_> = form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).collect();
    let count = |name: &str| query.iter().filter(|(known, _)| known == name).count();
    let authorization = authorization(&head.headers)?;
    if authorization.is_some_and(|text| text.starts_with("AWS "))
        || PRESIGNED_V2.iter().any(|name| count(name) > 0)
    {
        return Err(s3_error!(
            InvalidRequest,
            "The authorization mechanism you have provided is not supported. Please use {ALGORITHM}."
        ));
    }
    let is_presigned = PRESIGNED.iter().any(|name| count(name) > 0);
    match authorization {
        Some(_) if is_presigned => Err(s3_error!(
            InvalidArgument,
            "Only one auth mechanism allowed; use either the Authorization header or query parameters."
        )),
        Some(text) => check_header(&head.headers, text),
        None if is_presigned => {
            if let Some(wrong) = PRESIGNED.iter().find(|name| count(name) != 1) {
                return Err(malformed_query(&format!("the query must have {wrong} exactly once")));
            }
            let value =
                |name: &str| query.iter().find(|(known, _)| known == name).map_or("", |(_, value)| &**value);
            check_query(&head.headers, value)
        }
        None => Ok(()),
    }
}

/// Returns the `Authorization` header.
fn authorization(headers: &HeaderMap) -> S3Result<Option<&str>> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let (first, second) = (lines.next(), lines.next());
    if second.is_some() {
        return Err(malformed_header("the header is given twice"));
    }
    first.map(|line| line.to_str().map_err(|_| malformed_header("the header is not ASCII"))).transpose()
}

fn check_header(headers: &HeaderMap, text: &str) -> S3Result<()> {
    let Some(rest) = text.strip_prefix(ALGORITHM).and_then(|rest| rest.strip_prefix(' ')) else {
        return Err(s3_error!(InvalidArgument, "Unsupported Authorization Type; please use {ALGORITHM}."));
    };
    let part = |name: &str| {
        let mut parts = rest.split(',').map(str::trim);
        parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    };
    let (Some(credential), Some(signed), Some(_)) =
        (part("Credential"), part("SignedHeaders"), part("Signature"))
    else {
        return Err(malformed_header("Credential, SignedHeaders and Signature are required"));
    };
    let dates = headers.get_all(DATE);
    if !dates.iter().all(|date| is_date(date.as_bytes())) {
        return Err(s3_error!(
            AccessDenied,
            "AWS authentication requires a valid Date or x-amz-date header."
        ));
    }
    if !is_for_s3(credential) {
        return Err(malformed_header("the credential must be KEY/DATE/REGION/s3/aws4_request"));
    }
    check_signed_headers(headers, signed, &[])
}

fn check_query<'v>(headers: &HeaderMap, value: impl Fn(&str) -> &'v str) -> S3Result<()> {
    if value("X-Amz-Algorithm") != ALGORITHM {
        return Err(malformed_query(&format!("X-Amz-Algorithm must be {ALGORITHM}")));
    }
    if !is_for_s3(value("X-Amz-Credential")) {
        return Err(malformed_query("X-Amz-Credential must be KEY/DATE/REGION/s3/aws4_request"));
    }
    if !is_date(value("X-Amz-Date").as_bytes()) {
        return Err(malformed_query("X-Amz-Date must be in the format \"yyyyMMdd'T'HHmmss'Z'\""));
    }
    let expires = value("X-Amz-Expires");
    let is_number = expires.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || !expires.parse().is_ok_and(|seconds: u32| (1..=MAX_EXPIRES_SECS).contains(&seconds)) {
        return Err(malformed_query(&format!("X-Amz-Expires must be 1 to {MAX_EXPIRES_SECS} seconds")));
    }
    check_signed_headers(headers, value("X-Amz-SignedHeaders"), &[CONTENT_DIGEST])
}

/// Whether a credential has the scope of S3. Any region is accepted.
fn is_for_s3(credential: &str) -> bool {
    let parts: Vec<_> = credential.split('/').collect();
    let [_, date, _, "s3", "aws4_request"] = parts.as_slice() else { return false };
    is_digits(date.as_bytes(), 8)
}

/// Whether `text` is a date such as `20261201T083000Z`. `s3s` computes with other characters as if
/// they were digits.
fn is_date(text: &[u8]) -> bool {
    text.split_at_checked(8).is_some_and(|(date, time)| {
        let time = time.strip_prefix(b"T").and_then(|time| time.strip_suffix(b"Z"));
        is_digits(date, 8) && time.is_some_and(|time| is_digits(time, 6))
    })
}

fn is_digits(text: &[u8], count: usize) -> bool {
    text.len() == count && text.iter().all(u8::is_ascii_digit)
}

/// Fails unless `Host` and all headers that AWS defines are signed. Otherwise, whoever has a
/// presigned URL could add `x-amz-copy-source` and read another object.
fn check_signed_headers(headers: &HeaderMap, signed: &str, may_be_unsigned: &[&str]) -> S3Result<()> {
    let is_signed = |name: &str| signed.split(';').any(|known| known == name);
    let needs_signature =
        |name: &&HeaderName| name.as_str().starts_with("x-amz-") && !may_be_unsigned.contains(&name.as_str());
    let unsigned = headers.keys().filter(needs_signature).map(HeaderName::as_str);
    match unsigned.chain(["host"]).find(|name| !is_signed(name)) {
        None => Ok(()),
        Some(name) => Err(s3_error!(
            AccessDenied,
            "There were headers present in the request which were not signed: {name}"
        )),
    }
}

fn malformed_header(problem: &str) -> S3Error {
    s3_error!(AuthorizationHeaderMalformed, "The authorization header is malformed; {problem}.")
}

fn malformed_query(problem: &str) -> S3Error {
    s3_error!(AuthorizationQueryParametersError, "Error parsing the query parameters; {problem}.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    const CREDENTIAL: &str = "OSPA/20261201/eu-1/s3/aws4_request";

    fn code(uri: &str, headers: &[(&str, &str)]) -> String {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        check(&head).map_or_else(|error| error.code().as_str().to_owned(), |()| String::new())
    }

    fn header_code(authorization: &str, more: &[(&str, &str)]) -> String {
        let headers = [&[("authorization", authorization), (DATE, "20261201T000000Z")], more].concat();
        code("/", &headers)
    }

    #[test]
    fn only_complete_signatures_of_version_4_pass() {
        let of = |credential: &str, signed: &str| {
            format!("{ALGORITHM} Credential={credential}, SignedHeaders={signed}, Signature=0")
        };
        let valid = of(CREDENTIAL, "host;x-amz-date");
        assert_eq!(header_code(&valid, &[]), "");
        assert_eq!(header_code(&valid.replace(", ", ","), &[("x-other", "1")]), "");
        for (authorization, expected) in [
            ("AWS OSPA:sig".to_owned(), "InvalidRequest"),
            ("Bearer osk_1".to_owned(), "InvalidArgument"),
            (valid.replace("SHA256", "SHA257"), "InvalidArgument"),
            (of("OSPA/20261201/eu-1/sts/aws4_request", "host;x-amz-date"), "AuthorizationHeaderMalformed"),
            (of("OSPA/20261201/s3/aws4_request", "host;x-amz-date"), "AuthorizationHeaderMalformed"),
            (of("A/B/20261201/eu-1/s3/aws4_request", "host;x-amz-date"), "AuthorizationHeaderMalformed"),
            (of("OSPA/2026120x/eu-1/s3/aws4_request", "host;x-amz-date"), "AuthorizationHeaderMalformed"),
            (valid.replace(", Signature=0", ""), "AuthorizationHeaderMalformed"),
            (of(CREDENTIAL, "x-amz-date"), "AccessDenied"),
            (of(CREDENTIAL, "host"), "AccessDenied"),
        ] {
            assert_eq!(header_code(&authorization, &[]), expected, "{authorization}");
        }
        for date in ["", "x", "\"0261201T000000Z", "20261201T00000Z", "20261201T0000000", "20261201t000000Z"]
        {
            assert_eq!(header_code(&valid, &[(DATE, date)]), "AccessDenied", "{date}");
        }
        assert_eq!(header_code(&valid, &[("x-amz-copy-source", "b/k")]), "AccessDenied");
        assert_eq!(header_code(&valid, &[("authorization", &valid)]), "AuthorizationHeaderMalformed");
        assert_eq!(code("/b/k", &[]), "");
    }

    #[test]
    fn presigned_urls_are_complete_and_short_lived() {
        let query = format!(
            "X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={CREDENTIAL}&X-Amz-Date=20261201T000000Z&X-Amz-Expires=60&\
             X-Amz-SignedHeaders=host&X-Amz-Signature=0"
        );
        let url = format!("/b/k?{query}");
        assert_eq!(code(&url, &[]), "");
        assert_eq!(code(&url, &[(CONTENT_DIGEST, "0")]), "");
        assert_eq!(code(&url, &[("x-amz-copy-source", "b/secret")]), "AccessDenied");
        assert_eq!(code(&url, &[("authorization", "x")]), "InvalidArgument");
        for (from, to) in [
            ("SHA256", "SHA1"),
            ("&X-Amz-Signature=0", ""),
            ("X-Amz-Signature=0", "x-amz-signature=0"),
            ("X-Amz-Expires=60", "X-Amz-Expires=60&X-Amz-Expires=61"),
            ("Expires=60", "Expires=0"),
            ("Expires=60", "Expires=%2B60"),
            ("Expires=60", "Expires=604801"),
            ("/s3/", "/sts/"),
            ("20261201T", "2026120xT"),
        ] {
            let changed = url.replace(from, to);
            assert_eq!(code(&changed, &[]), "AuthorizationQueryParametersError", "{changed}");
        }
        assert_eq!(code("/b/k?AWSAccessKeyId=A&Expires=1&Signature=x", &[]), "InvalidRequest");
    }
}
