//! Checks that the wire format stays compatible: everything recorded in `proto/wire.txt` must still
//! exist.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test panics, and has no reactor to block"
)]

use std::{collections::BTreeSet, path::Path};

use osproxy_api::grpc::DESCRIPTORS;
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
    field_descriptor_proto::Label,
};

const PACKAGE: &str = "osproxy.v1";

/// Returns one line for each message, field (with number and type), enum value and method.
fn wire() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let ours = files.iter().filter(|file| file.package() == PACKAGE);
    let mut lines = BTreeSet::new();
    for file in ours {
        file.message_type.iter().for_each(|message| fields(message.name(), message, &mut lines));
        file.enum_type.iter().for_each(|values| lines.extend(self::values(values)));
        file.service.iter().for_each(|service| lines.extend(calls(service)));
    }
    lines
}

fn fields(name: &str, message: &DescriptorProto, lines: &mut BTreeSet<String>) {
    lines.insert(format!("message {name}"));
    for field in &message.field {
        lines.insert(format!("field {name} {} {} {}", field.number(), field.name(), kind(message, field)));
    }
    for nested in &message.nested_type {
        fields(&format!("{name}.{}", nested.name()), nested, lines);
    }
}

fn kind(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let scalar = field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase();
    let kind = field.type_name.as_deref().map_or(scalar, |name| name.trim_start_matches('.').to_owned());
    let oneof = field.oneof_index.and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?));
    match (field.label(), oneof) {
        (Label::Repeated, _) => format!("repeated {kind}"),
        _ if field.proto3_optional() => format!("optional {kind}"),
        (_, Some(oneof)) => format!("{kind} in {}", oneof.name()),
        _ => kind,
    }
}

fn values(values: &EnumDescriptorProto) -> impl Iterator<Item = String> {
    values.value.iter().map(|value| format!("value {} {} {}", values.name(), value.number(), value.name()))
}

fn calls(service: &ServiceDescriptorProto) -> impl Iterator<Item = String> {
    service.method.iter().map(|method| {
        let stream = |streams: bool| if streams { "stream " } else { "" };
        let (request_stream, response_stream) =
            (stream(method.client_streaming()), stream(method.server_streaming()));
        let (input, output) = (method.input_type(), method.output_type());
        format!(
            "call {}.{} {request_stream}{input} -> {response_stream}{output}",
            service.name(),
            method.name()
        )
    })
}

#[test]
fn everything_that_clients_were_compiled_with_still_exists() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/wire.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let recorded: BTreeSet<_> =
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    let wire = wire();
    let gone: Vec<_> = recorded.difference(&wire).collect();
    assert!(gone.is_empty(), "removing these breaks existing clients: {gone:#?}");
    let new: Vec<_> = wire.difference(&recorded).cloned().collect();
    assert!(new.is_empty(), "add these lines to proto/wire.txt, permanently:\n{}", new.join("\n"));
    assert!(recorded.len() > 100, "{}", recorded.len());
}
