//! What `s3s` does not tell about a form: the name of its file, and the field `tagging`.

use axum::http::{HeaderMap, HeaderValue, header};
use s3s::{
    Body, S3Result,
    dto::{PostObjectInput, Tagging},
    s3_error,
    xml::{Deserialize, Deserializer},
};

use crate::{context::Context, errors::escape};

/// Stands for the name of the file in the key.
const FILE_NAME: &str = "${filename}";

/// Completes the input of a form. `s3s` has compared all fields with the policy, and the key as it is
/// before the name of the file is inserted.
pub(crate) fn complete(input: &mut PostObjectInput) -> S3Result<()> {
    let context = Context::current();
    let head = context.form();
    let form = Form::parse(&head).filter(|form| form.field("key") == Some(&*input.key));
    let form = form.ok_or_else(|| s3_error!(MalformedPOSTRequest, "The form cannot be parsed"))?;
    if let Some(xml) = form.field("tagging") {
        input.tagging = Some(parse_tagging(xml)?);
    }
    if input.key.contains(FILE_NAME) {
        // Some browsers send the path of the file.
        let name = form.file_name.rsplit(['/', '\\']).next().unwrap_or_default();
        input.key = input.key.replace(FILE_NAME, name);
        context.set_file_name(name);
    }
    Ok(())
}

/// Inserts the name of the file in an answer of `s3s`, which knows only the key of the form.
pub(crate) fn insert_file_name(headers: &mut HeaderMap, body: &mut Body, name: &str) {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let location = headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
    let location = location.map(|location| location.replace(&encode(FILE_NAME), &encode(name)));
    if let Some(Ok(location)) = location.map(HeaderValue::try_from) {
        headers.insert(header::LOCATION, location);
    }
    if let Some(xml) = body.bytes() {
        let xml = String::from_utf8_lossy(&xml).replace(FILE_NAME, &escape(name));
        headers.remove(header::CONTENT_LENGTH);
        *body = Body::from(xml);
    }
}

/// Converts the tags of a form to the form that they have in a header.
fn parse_tagging(xml: &str) -> S3Result<String> {
    let mut deserializer = Deserializer::new(xml.as_bytes());
    let tagging = Tagging::deserialize(&mut deserializer);
    let is_whole = tagging.is_ok() && deserializer.expect_eof().is_ok();
    let malformed = || s3_error!(MalformedXML, "The XML of the tags is not well-formed");
    let tags = tagging.ok().filter(|_| is_whole).ok_or_else(malformed)?.tag_set;
    let pairs = tags.into_iter().map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default()));
    Ok(form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish())
}

/// The beginning of a form, up to its file.
#[derive(Debug, PartialEq, Eq)]
struct Form<'f> {
    /// The names, and the values.
    fields: Vec<(&'f str, &'f str)>,
    file_name: &'f str,
}

impl<'f> Form<'f> {
    /// Parses a form that `s3s` accepts. Returns `None` where `s3s` could understand it in another way.
    fn parse(form: &'f [u8]) -> Option<Self> {
        let form = form.strip_prefix(b"\r\n").unwrap_or(form);
        let (boundary, mut rest) = split(form, b"\r\n")?;
        let delimiter = [b"\r\n", boundary].concat();
        let mut fields = Vec::new();
        loop {
            let (headers, content) = split(rest, b"\r\n\r\n")?;
            let (name, file_name) = parse_headers(str::from_utf8(headers).ok()?)?;
            if name.eq_ignore_ascii_case("file") {
                return Some(Self { fields, file_name: file_name.unwrap_or(name) });
            }
            let (value, next) = split(content, &delimiter)?;
            fields.push((name, str::from_utf8(value).ok()?));
            rest = next.strip_prefix(b"\r\n")?;
        }
    }

    /// Returns the last field with this name, like `s3s`.
    fn field(&self, name: &str) -> Option<&'f str> {
        let found = self.fields.iter().rev().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| *value)
    }
}

/// Returns the name of a field, and the name of its file.
fn parse_headers(headers: &str) -> Option<(&str, Option<&str>)> {
    let mut found = None;
    for line in headers.split("\r\n") {
        let (name, value) = line.split_once(':').filter(|_| !line.contains(['\r', '\n']))?;
        if name.eq_ignore_ascii_case("content-disposition") && found.replace(value).is_some() {
            return None;
        }
    }
    let rest = found?.trim_matches([' ', '\t']).strip_prefix("form-data; name=\"")?;
    let (name, rest) = rest.split_once('"')?;
    if rest.is_empty() {
        return Some((name, None));
    }
    let file_name = rest.strip_prefix("; filename=\"")?.strip_suffix('"')?;
    (!file_name.contains('"')).then_some((name, Some(file_name)))
}

/// Splits bytes at the first `separator`.
fn split<'b>(bytes: &'b [u8], separator: &[u8]) -> Option<(&'b [u8], &'b [u8])> {
    let at = bytes.windows(separator.len()).position(|window| window == separator)?;
    Some((bytes.get(..at)?, bytes.get(at + separator.len()..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "--b\r\nContent-Disposition: form-data; name=\"Key\"\r\n\r\na/${filename}\r\n\
                        --b\r\ncontent-disposition: form-data; name=\"x\"\r\n\r\n1\r\n--c\r\n\r\n--b\r\n\
                        Content-Disposition: form-data; name=\"file\"; filename=\"ä 1.jpg\"\r\n\
                        Content-Type: image/jpeg\r\n\r\ncontent";

    #[test]
    fn forms_are_parsed_up_to_the_file() {
        let form = Form::parse(FORM.as_bytes()).unwrap();
        assert_eq!((form.field("key"), form.file_name), (Some("a/${filename}"), "ä 1.jpg"));
        assert_eq!(form.field("x"), Some("1\r\n--c\r\n"));
        assert_eq!(Form::parse(format!("\r\n{FORM}").as_bytes()), Some(form));
        let twice = FORM.replace("name=\"x\"", "name=\"KEY\"");
        assert_eq!(Form::parse(twice.as_bytes()).unwrap().field("key"), Some("1\r\n--c\r\n"));
    }

    #[test]
    fn ambiguous_forms_are_refused() {
        for (from, to) in [
            ("\r\n\r\n1", "\n\n1"),
            ("--c", "--bx"),
            ("name=\"x\"", "name=\"x\"\r\nContent-Disposition: form-data; name=\"y\""),
            ("name=\"x\"", "name=x"),
            ("form-data; name=\"x\"", "form-data;name=\"x\""),
            ("ä 1.jpg", "a\"b"),
            ("name=\"file\"", "name=\"other\""),
        ] {
            let changed = FORM.replace(from, to);
            assert_ne!(changed, FORM);
            assert_eq!(Form::parse(changed.as_bytes()), None, "{changed}");
        }
    }

    #[test]
    fn tags_of_a_form_are_xml() {
        let tag = "<Tag><Key>a&amp;b</Key><Value>1 2</Value></Tag>";
        let xml = format!("<Tagging><TagSet>{tag}</TagSet></Tagging>");
        assert_eq!(parse_tagging(&xml).unwrap(), "a%26b=1+2");
        for wrong in ["", "a=1", "<Tagging><TagSet>", &format!("{xml}<a/>")] {
            assert!(parse_tagging(wrong).is_err(), "{wrong}");
        }
    }
}
