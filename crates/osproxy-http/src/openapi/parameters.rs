//! Parameters that several operations share, for the `OpenAPI` document.

use osproxy_api::{
    schema::{Content, Uid},
    v1::IDEMPOTENCY_KEY,
};
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{
        KnownFormat, Object, ObjectBuilder, Ref, RefOr, Required, Schema, SchemaFormat,
        path::{Parameter, ParameterIn},
        schema::{SchemaType, Type},
    },
};

/// Query parameters of upload links of API v0.
pub(crate) enum UploadLinkQuery {}

/// Query parameters of download links of API v0.
pub(crate) enum DownloadLinkQuery {}

/// Query parameters of links of API v1.
pub(crate) enum SignedQuery {}

/// Query parameters of links of API v1, for operations that accept an API key instead of a link.
pub(crate) enum OptionalSignedQuery {}

/// The uid of a file, as a path parameter.
pub(crate) enum UidPath {}

/// The header `Idempotency-Key`.
pub(crate) enum IdempotencyKey {}

/// Headers of range requests and conditional requests.
#[derive(IntoParams)]
#[into_params(parameter_in = Header, rename_all = "kebab-case")]
#[expect(dead_code, reason = "declares parameters for the document")]
pub(crate) struct ConditionalHeaders {
    /// Byte range to return. A request for several ranges returns the whole file.
    #[param(example = "bytes=0-999")]
    range: Option<String>,
    /// Apply `Range` only if this is the file's `etag` or `last-modified`; else return the whole
    /// file.
    if_range: Option<String>,
    /// Fail with 412 unless this is the file's `etag`.
    if_match: Option<String>,
    /// Return 304 if this is the file's `etag`.
    if_none_match: Option<String>,
    /// Return 304 unless the file was stored after this date.
    if_modified_since: Option<String>,
    /// Fail with 412 if the file was stored after this date.
    if_unmodified_since: Option<String>,
}

/// Headers with expected digests of the body.
#[derive(IntoParams)]
#[into_params(parameter_in = Header, rename_all = "kebab-case")]
#[expect(dead_code, reason = "declares parameters for the document")]
pub(crate) struct DigestHeaders {
    /// MD5 of the body in Base64 (RFC 1864).
    #[param(example = "kAFQmDzST7DWlj99KOF/cg==")]
    content_md5: Option<String>,
    /// Digests of the body (RFC 9530): `md5`, `sha-256` or `blake3`; other algorithms are ignored.
    #[param(example = "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:")]
    content_digest: Option<String>,
    /// Same meaning as `Content-Digest`.
    repr_digest: Option<String>,
}

/// Query parameters of lists.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "declares parameters for the document")]
pub(crate) struct PageQuery {
    /// Maximum number of entries in the page.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the previous page; the filters must be the same.
    cursor: Option<String>,
}

/// A form that holds the content of a file.
pub(crate) enum UploadForm {}

/// Values of the parameter `online`.
pub(crate) enum OnlineValue {}

impl PartialSchema for UploadForm {
    fn schema() -> RefOr<Schema> {
        Object::builder()
            .description(Some("Fields other than `file` are ignored."))
            .property("file", Ref::from_schema_name(Content::name()))
            .required("file")
            // Field names are sent in headers of the form, which cannot hold control characters.
            .property_names(Some(text().pattern(Some(r"^[^\x00-\x1f\x7f]*$")).build()))
            .into()
    }
}

impl ToSchema for UploadForm {}

impl PartialSchema for OnlineValue {
    fn schema() -> RefOr<Schema> {
        text().enum_values(Some(["0", "1"])).into()
    }
}

impl ToSchema for OnlineValue {}

impl IntoParams for UploadLinkQuery {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        link_parameters().into()
    }
}

impl IntoParams for DownloadLinkQuery {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let [uid, date, expire, signature] = link_parameters();
        let name = query("name", "Name of the file.", "film.mp4", text());
        let bucket = query("bucket", "Category of the file.", "video", text());
        let object =
            query("object", "Name of the file within its category.", "1548722401845518336.mp4", text());
        vec![uid, name, bucket, object, date, expire, signature]
    }
}

impl IntoParams for SignedQuery {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let [_, date, expire, signature] = link_parameters();
        vec![date, expire, signature]
    }
}

impl IntoParams for OptionalSignedQuery {
    fn into_params(in_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = SignedQuery::into_params(in_);
        for parameter in &mut parameters {
            parameter.required = Required::False;
        }
        parameters
    }
}

impl IntoParams for UidPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let uid = RefOr::<Schema>::Ref(Ref::from_schema_name(Uid::name()));
        let mut uid = query("uid", "Uid of the file.", "1548722401845518336", uid);
        uid.parameter_in = ParameterIn::Path;
        vec![uid]
    }
}

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let key = text().pattern(Some("^[!-~]{1,255}$"));
        let description = "A key chosen by the client. A request that is repeated with the same \
                           key and the same content takes effect only once.";
        let mut key = query(IDEMPOTENCY_KEY, description, "nightly-2026-11-22", key);
        key.parameter_in = ParameterIn::Header;
        key.required = Required::False;
        vec![key]
    }
}

/// Parameters of every signed link. Clients send them back unchanged.
fn link_parameters() -> [Parameter; 4] {
    let uid = RefOr::Ref(Ref::from_schema_name(Uid::name()));
    let date = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    let expire = text().pattern(Some("^[1-9][0-9]*$"));
    [
        query("uid", "Uid of the file.", "1548722401845518336", uid),
        query("date", "Time of issue of the link, in UTC.", "2026-11-22T12:00:00Z", date),
        query("expire", "Lifetime of the link in seconds, from `date`.", "3600", expire),
        query("signature", "Signature of the parameters of the link.", "k1.c2lnbmF0dXJl", text()),
    ]
}

fn text() -> ObjectBuilder {
    Object::builder().schema_type(SchemaType::new(Type::String))
}

fn query(name: &str, description: &str, example: &str, schema: impl Into<RefOr<Schema>>) -> Parameter {
    Parameter::builder()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::True)
        .description(Some(description))
        .example(Some(example.into()))
        .schema(Some(schema))
        .build()
}
