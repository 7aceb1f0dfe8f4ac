//! The parameters of signed links, which several routes have in common.

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

use crate::ops::list_files::Category;

/// What every upload link carries.
pub(in crate::http) enum UploadLinkQuery {}

/// What every download link carries.
pub(in crate::http) enum DownloadLinkQuery {}

/// What every link of API v1 carries, beside the uid in its path.
pub(in crate::http) enum SignedQuery {}

/// The same, where an API key does as well.
pub(in crate::http) enum OptionalSignedQuery {}

/// The uid in a path.
pub(in crate::http) enum UidInPath {}

/// What makes a POST idempotent.
pub(in crate::http) enum IdempotencyKey {}

/// Which bytes of a file are wanted, and under which conditions.
#[derive(IntoParams)]
#[into_params(parameter_in = Header, rename_all = "kebab-case")]
#[expect(dead_code, reason = "it only describes")]
pub(in crate::http) struct Conditions {
    /// The bytes that are wanted. Of several ranges none counts.
    #[param(example = "bytes=0-999")]
    range: Option<String>,
    /// The range counts only if this is the file's `etag` or `last-modified`.
    if_range: Option<String>,
    /// The `etag` that the file must have.
    if_match: Option<String>,
    /// The `etag` that the client has.
    if_none_match: Option<String>,
    /// A date.
    if_modified_since: Option<String>,
    /// A date.
    if_unmodified_since: Option<String>,
}

/// What a body of content is said to hash to.
#[derive(IntoParams)]
#[into_params(parameter_in = Header, rename_all = "kebab-case")]
#[expect(dead_code, reason = "it only describes")]
pub(in crate::http) struct DigestHeaders {
    /// RFC 1864.
    #[param(example = "kAFQmDzST7DWlj99KOF/cg==")]
    content_md5: Option<String>,
    /// RFC 9530, `md5` and `sha-256`; other algorithms are read over.
    #[param(example = "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:")]
    content_digest: Option<String>,
    /// The same as `Content-Digest` here.
    repr_digest: Option<String>,
}

/// Which page of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it only describes")]
pub(in crate::http) struct PageQuery {
    /// How many there are on a page, if it is not the last.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<u64>,
    /// The page behind the one that gave this as `next_cursor`, for the same filters.
    cursor: Option<String>,
}

/// A form with the content of a file.
pub(in crate::http) enum UploadForm {}

/// What kinds of files are called.
pub(in crate::http) enum CategoryName {}

/// What a browser shall do with the content.
pub(in crate::http) enum Online {}

impl PartialSchema for UploadForm {
    fn schema() -> RefOr<Schema> {
        Object::builder()
            .description(Some("Other fields are read over."))
            .property("file", Ref::from_schema_name(Content::name()))
            .required("file")
            // Names stand in header fields, which hold no control characters.
            .property_names(Some(text().pattern(Some(r"^[^\x00-\x1f\x7f]*$")).build()))
            .into()
    }
}

impl ToSchema for UploadForm {}

impl PartialSchema for CategoryName {
    fn schema() -> RefOr<Schema> {
        text().enum_values(Some(Category::ALL.map(Category::as_str))).into()
    }
}

impl ToSchema for CategoryName {}

impl PartialSchema for Online {
    fn schema() -> RefOr<Schema> {
        text().enum_values(Some(["0", "1"])).into()
    }
}

impl ToSchema for Online {}

impl IntoParams for UploadLinkQuery {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        signed().into()
    }
}

impl IntoParams for DownloadLinkQuery {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let [uid, date, expire, signature] = signed();
        let name = query("name", "The file's name.", "film.mp4", text());
        let bucket = query("bucket", "The file's category.", "video", text());
        let object = query("object", "What the file is called there.", "1548722401845518336.mp4", text());
        vec![uid, name, bucket, object, date, expire, signature]
    }
}

impl IntoParams for SignedQuery {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let [_, date, expire, signature] = signed();
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

impl IntoParams for UidInPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let uid = RefOr::<Schema>::Ref(Ref::from_schema_name(Uid::name()));
        let mut uid = query("uid", "The file's uid.", "1548722401845518336", uid);
        uid.parameter_in = ParameterIn::Path;
        vec![uid]
    }
}

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let key = text().pattern(Some("^[!-~]{1,255}$"));
        let meaning = "Chosen by the client: the same request with the same key takes effect once.";
        let mut key = query(IDEMPOTENCY_KEY, meaning, "nightly-2026-11-22", key);
        key.parameter_in = ParameterIn::Header;
        key.required = Required::False;
        vec![key]
    }
}

/// What all links carry. It comes from the service and goes back as it is.
fn signed() -> [Parameter; 4] {
    let uid = RefOr::Ref(Ref::from_schema_name(Uid::name()));
    let date = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    let expire = text().pattern(Some("^[1-9][0-9]*$"));
    [
        query("uid", "The file's uid, as the link has it.", "1548722401845518336", uid),
        query("date", "When the link was issued: UTC, to the second.", "2026-11-22T12:00:00Z", date),
        query("expire", "For how many seconds from then on the link holds.", "3600", expire),
        query(
            "signature",
            "What shows that all this is as the service issued it.",
            "k1.c2lnbmF0dXJl",
            text(),
        ),
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
