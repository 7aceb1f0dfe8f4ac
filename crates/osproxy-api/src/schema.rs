//! Texts that have a form of their own, by the names that the OpenAPI document gives them. Nothing is ever one of these types:
//! they only describe.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, Object, ObjectBuilder, RefOr, Schema, SchemaFormat,
        schema::{SchemaType, Type},
    },
};

/// The uid of a file.
#[derive(Debug)]
pub enum Uid {}

/// An md5, as clients may write it.
#[derive(Debug)]
pub enum Md5 {}

/// The path that a file has on the client.
#[derive(Debug)]
pub enum ClientPath {}

/// The bytes of a file.
#[derive(Debug)]
pub enum Content {}

fn text(description: &str) -> ObjectBuilder {
    Object::builder().schema_type(SchemaType::new(Type::String)).description(Some(description))
}

impl PartialSchema for Uid {
    fn schema() -> RefOr<Schema> {
        text("Names a file: a 63-bit number as a decimal string, since JavaScript cannot hold it.")
            .pattern(Some("^[1-9][0-9]{0,18}$"))
            .examples(["1548722401845518336"])
            .into()
    }
}

impl ToSchema for Uid {}

impl PartialSchema for Md5 {
    fn schema() -> RefOr<Schema> {
        text("32 hexadecimal digits.")
            .pattern(Some("^[0-9a-fA-F]{32}$"))
            .examples(["900150983cd24fb0d6963f7d28e17f72"])
            .into()
    }
}

impl ToSchema for Md5 {}

impl PartialSchema for ClientPath {
    fn schema() -> RefOr<Schema> {
        text("Its last component is the file's name: 1 to 1,024 bytes, anything but NUL.")
            .pattern(Some(r"(^|/)[^/\x00]+/*$"))
            .examples(["holiday/film.mp4"])
            .into()
    }
}

impl ToSchema for ClientPath {}

impl PartialSchema for Content {
    fn schema() -> RefOr<Schema> {
        text("The bytes, as they are.").format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary))).into()
    }
}

impl ToSchema for Content {}
