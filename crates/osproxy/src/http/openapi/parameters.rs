//! The parameters of signed links, which several routes have in common.

use osproxy_api::schema::{Content, Uid};
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{
        KnownFormat, Object, ObjectBuilder, Ref, RefOr, Required, Schema, SchemaFormat,
        path::{Parameter, ParameterIn},
        schema::{SchemaType, Type},
    },
};

/// What every upload link carries.
pub(in crate::http) enum UploadLinkQuery {}

/// What every download link carries.
pub(in crate::http) enum DownloadLinkQuery {}

/// A form with the content of a file.
pub(in crate::http) enum UploadForm {}

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
