//! Formats of fields in the OpenAPI document. The types in this module have no values; they only
//! describe schemas.

use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Array, KnownFormat, Object, ObjectBuilder, RefOr, Schema, SchemaFormat,
        schema::{SchemaType, Type},
    },
};

use crate::v1::{MAX_METADATA_KEY, MAX_METADATA_KEYS, MAX_METADATA_VALUE};

/// Names of the types of events.
const EVENT_NAMES: [&str; 11] = [
    "file.created",
    "file.completed",
    "file.processed",
    "file.rejected",
    "file.corrupt",
    "file.renamed",
    "file.deleted",
    "file.expired",
    "upload.expired",
    "task.dead",
    "quota.exceeded",
];

/// Methods that a CORS rule can allow.
const CORS_METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "HEAD"];

/// The uid of a file.
#[derive(Debug)]
pub enum Uid {}

/// An MD5 in hexadecimal.
#[derive(Debug)]
pub enum Md5 {}

/// A SHA-256 or BLAKE3 digest in hexadecimal.
#[derive(Debug)]
pub enum Digest {}

/// A timestamp in RFC 3339 format.
#[derive(Debug)]
pub enum Moment {}

/// A day.
#[derive(Debug)]
pub enum Day {}

/// An origin that a CORS rule allows.
#[derive(Debug)]
pub enum Origin {}

/// A method that a CORS rule allows.
#[derive(Debug)]
pub enum CorsMethod {}

/// The name of a header.
#[derive(Debug)]
pub enum HeaderName {}

/// Names of headers that a CORS rule allows.
#[derive(Debug)]
pub enum HeaderPattern {}

/// Metadata of a file.
#[derive(Debug)]
pub enum Metadata {}

/// A merge patch of metadata.
#[derive(Debug)]
pub enum MetadataPatch {}

/// Numbers of missing parts.
#[derive(Debug)]
pub enum MissingParts {}

/// The path of a file on the client.
#[derive(Debug)]
pub enum ClientPath {}

/// The bytes of a file.
#[derive(Debug)]
pub enum Content {}

/// A network in CIDR notation.
#[derive(Debug)]
pub enum Network {}

/// A MIME type or a family of types.
#[derive(Debug)]
pub enum MimePattern {}

/// The type of an event.
#[derive(Debug)]
pub enum EventName {}

/// The category of a file.
#[derive(Debug)]
pub enum CategoryName {}

/// The URL of a webhook.
#[derive(Debug)]
pub enum WebhookUrl {}

/// The secret of a webhook.
#[derive(Debug)]
pub enum WebhookSecret {}

fn text(description: &str) -> ObjectBuilder {
    Object::builder().schema_type(SchemaType::new(Type::String)).description(Some(description))
}

impl PartialSchema for Uid {
    fn schema() -> RefOr<Schema> {
        text(
            "Id of a file: a 63-bit number as a decimal string, because JavaScript numbers are \
             exact only up to 53 bits.",
        )
        .pattern(Some("^([1-9][0-9]{0,17}|[1-8][0-9]{18})$"))
        .examples(["1548722401845518336"])
        .into()
    }
}

impl ToSchema for Uid {}

impl PartialSchema for Network {
    fn schema() -> RefOr<Schema> {
        text("A network in CIDR notation, or a single address.")
            .examples(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"])
            .into()
    }
}

impl ToSchema for Network {}

impl PartialSchema for MimePattern {
    fn schema() -> RefOr<Schema> {
        text("A MIME type without parameters, or a family such as `image/*`.")
            .pattern(Some(r"^[0-9A-Za-z!#$&^_.+-]+/([0-9A-Za-z!#$&^_.+-]+|\*)$"))
            .max_length(Some(127))
            .examples(["image/*", "application/pdf"])
            .into()
    }
}

impl ToSchema for MimePattern {}

impl PartialSchema for Md5 {
    fn schema() -> RefOr<Schema> {
        text("32 hexadecimal digits.")
            .pattern(Some("^[0-9a-fA-F]{32}$"))
            .examples(["900150983cd24fb0d6963f7d28e17f72"])
            .into()
    }
}

impl ToSchema for Md5 {}

impl PartialSchema for Digest {
    fn schema() -> RefOr<Schema> {
        text("64 hexadecimal digits.")
            .pattern(Some("^[0-9a-fA-F]{64}$"))
            .examples(["6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"])
            .into()
    }
}

impl ToSchema for Digest {}

impl PartialSchema for Moment {
    fn schema() -> RefOr<Schema> {
        text("An RFC 3339 timestamp. Responses use UTC with three decimals.")
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .examples(["2026-11-22T12:00:00.000Z"])
            .into()
    }
}

impl ToSchema for Moment {}

impl PartialSchema for Day {
    fn schema() -> RefOr<Schema> {
        text("A day in UTC.")
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Date)))
            .examples(["2026-12-31"])
            .into()
    }
}

impl ToSchema for Day {}

impl PartialSchema for Origin {
    fn schema() -> RefOr<Schema> {
        text("An origin, with at most one `*`.")
            .pattern(Some("^[^*]*\\*?[^*]*$"))
            .examples(["https://*.example.org"])
            .into()
    }
}

impl ToSchema for Origin {}

impl PartialSchema for CorsMethod {
    fn schema() -> RefOr<Schema> {
        text("A method of HTTP.").enum_values(Some(CORS_METHODS)).into()
    }
}

impl ToSchema for CorsMethod {}

impl PartialSchema for HeaderName {
    fn schema() -> RefOr<Schema> {
        text("The name of a header.").pattern(Some("^[0-9A-Za-z!#$%&'+.^_`|~-]+$")).examples(["ETag"]).into()
    }
}

impl ToSchema for HeaderName {}

impl PartialSchema for HeaderPattern {
    fn schema() -> RefOr<Schema> {
        text("The name of a header, with at most one `*`.")
            .pattern(Some("^[0-9A-Za-z!#$%&'+.^_`|~-]*\\*?[0-9A-Za-z!#$%&'+.^_`|~-]*$"))
            .min_length(Some(1))
            .examples(["x-amz-*"])
            .into()
    }
}

impl ToSchema for HeaderPattern {}

/// Returns the schema of metadata. `value` is the schema of each metadata value.
fn notes(value: ObjectBuilder, example: Value) -> Object {
    let key = Object::builder().schema_type(SchemaType::new(Type::String));
    let key = key.min_length(Some(1)).max_length(Some(MAX_METADATA_KEY)).build();
    Object::builder()
        .description(Some("Keys have 1 to 128 bytes, values up to 4,096 bytes; 16 KiB in total."))
        .additional_properties(Some(value.max_length(Some(MAX_METADATA_VALUE))))
        .property_names(Some(key))
        .max_properties(Some(MAX_METADATA_KEYS))
        .examples([example])
        .build()
}

impl PartialSchema for Metadata {
    fn schema() -> RefOr<Schema> {
        let value = Object::builder().schema_type(SchemaType::new(Type::String));
        notes(value, json!({"owner": "ann"})).into()
    }
}

impl ToSchema for Metadata {}

impl PartialSchema for MetadataPatch {
    fn schema() -> RefOr<Schema> {
        let value = Object::builder().schema_type(SchemaType::from_iter([Type::String, Type::Null]));
        notes(value, json!({"owner": "bob", "draft": null})).into()
    }
}

impl ToSchema for MetadataPatch {}

impl PartialSchema for MissingParts {
    fn schema() -> RefOr<Schema> {
        let part = Object::builder().schema_type(SchemaType::from_iter([Type::Integer, Type::String]));
        let part = part.description(Some("A part number, or an inclusive range of part numbers."));
        Array::builder()
            .items(part.minimum(Some(1)).pattern(Some("^[0-9]+-[0-9]+$")))
            .examples([json!([2, "4-9999"])])
            .into()
    }
}

impl ToSchema for MissingParts {}

impl PartialSchema for ClientPath {
    fn schema() -> RefOr<Schema> {
        text("The last component is the file name: 1 to 1,024 bytes without NUL.")
            .pattern(Some(r"(^|/)[^/\x00]+/*$"))
            .examples(["holiday/film.mp4"])
            .into()
    }
}

impl ToSchema for ClientPath {}

impl PartialSchema for Content {
    fn schema() -> RefOr<Schema> {
        text("The raw bytes.").format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary))).into()
    }
}

impl ToSchema for Content {}

impl PartialSchema for EventName {
    fn schema() -> RefOr<Schema> {
        text("The type of an event.").enum_values(Some(EVENT_NAMES)).into()
    }
}

impl ToSchema for EventName {}

impl PartialSchema for CategoryName {
    fn schema() -> RefOr<Schema> {
        let names = ["image", "video", "audio", "doc", "archive", "unknown"];
        text("The category of a file.").enum_values(Some(names)).into()
    }
}

impl ToSchema for CategoryName {}

impl PartialSchema for WebhookUrl {
    fn schema() -> RefOr<Schema> {
        text(
            "An https URL without user name, password and fragment. Its host must have a public address. \
             URLs in general are allowed, not only those that match the pattern.",
        )
        .pattern(Some(r"^https://([0-9a-z]+\.)+[a-z]{2,}(/[0-9A-Za-z._~-]*)*$"))
        .max_length(Some(2048))
        .examples(["https://app.example.org/webhooks"])
        .into()
    }
}

impl ToSchema for WebhookUrl {}

impl PartialSchema for WebhookSecret {
    fn schema() -> RefOr<Schema> {
        text("`whsec_` and the Base64 of 24 to 64 bytes.")
            .pattern(Some(concat!(
                "^whsec_(([0-9A-Za-z+/]{4}){8,21}",
                "|([0-9A-Za-z+/]{4}){8,21}[0-9A-Za-z+/][AQgw]==",
                "|([0-9A-Za-z+/]{4}){8,20}[0-9A-Za-z+/]{2}[AEIMQUYcgkosw048]=)$"
            )))
            .examples(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
            .into()
    }
}

impl ToSchema for WebhookSecret {}
