//! The `OpenAPI` document, generated from the annotations of the handlers. Add each new handler to
//! `paths` below; a test compares the document with the routes.

mod parameters;
mod responses;

use std::sync::LazyLock;

use axum::{http::header, response::IntoResponse};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self, Ref, RefOr,
        path::Parameter,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

pub(super) use parameters::{
    ConditionalHeaders, DigestHeaders, DownloadLinkQuery, IdempotencyKey, OnlineValue, OptionalSignedQuery,
    PageQuery, SignedQuery, UidPath, UploadForm, UploadLinkQuery,
};
pub(super) use responses::{
    Away, BadRequest, BrokenOff, Coded, CommonErrors, Conflict, ContentBodyErrors, ContentResponses, Encoded,
    Exhausted, Fault, FileErrors, Forbidden, Full, Gone, IdempotencyErrors, Internal, Interrupted, Invalid,
    JsonBodyErrors, Keyless, Limited, LinkErrors, Mismatch, Missing, NotFound, OutOfRange, Oversized,
    PreconditionFailed, RangeNotSatisfiable, ReadErrors, Refused, StorageErrors, TooLarge, TooMany,
    Unauthenticated, Unavailable, Unimplemented, Unmet, Unscoped, UnsupportedType,
};

use crate::{console::health, v0, v1};
use osproxy_core::REQUEST_ID;

/// Request headers that apply to GET but not to HEAD.
const RANGE_HEADERS: [&str; 2] = ["range", "if-range"];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "osproxy",
        description = "A file-storage service between applications and object stores. An application keeps one uid \
                       for each file, requests signed links, and hands them to its clients, which upload and \
                       download the content.\n\nUse API v1 for new applications. API v0 is compatible with the Go \
                       program of the same name. Both versions use the same uids: an upload can be started through \
                       one version and continued through the other.\n\nEvery response has the header \
                       `x-request-id`. Every error response has the header `osproxy-error` with the error code.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "Uploads", description = "Uploads: the application creates them, its clients send the content by signed links."),
        (name = "Files", description = "Management of files by the application."),
        (name = "Downloads", description = "Downloads by signed link."),
        (name = "Buckets", description = "Buckets of the S3 API, and the keys of files in them."),
        (name = "Events", description = "What happened to files."),
        (name = "Webhooks", description = "Endpoints of the application that get its events."),
        (name = "Service", description = "Background tasks, nodes and statistics."),
        (name = "v0 Links", description = "Signed links that the application hands to its clients."),
        (name = "v0 Uploads", description = "Uploads by signed link."),
        (name = "v0 Downloads", description = "Downloads by signed link."),
        (name = "Health", description = "Probes for load balancers and monitoring."),
    ),
    paths(
        v1::uploads::create_upload,
        v1::uploads::create_upload_links,
        v1::content::upload_file,
        v1::content::upload_part,
        v1::uploads::upload_status,
        v1::uploads::complete_upload,
        v1::uploads::prove_possession,
        v1::uploads::abort_upload,
        v1::upload_grants::create_upload_grant,
        v1::upload_grants::list_upload_grants,
        v1::events::list_events,
        v1::upload_grants::describe_upload_grant,
        v1::upload_grants::revoke_upload_grant,
        v1::files::list_files,
        v1::store_file::store_file,
        v1::files::describe_file,
        v1::files::update_file,
        v1::files::delete_file,
        v1::files::copy_file,
        v1::links::create_link,
        v1::links::create_links,
        v1::links::revoke_links,
        v1::downloads::download_file,
        v1::buckets::list_buckets,
        v1::buckets::describe_bucket,
        v1::buckets::put_bucket,
        v1::buckets::delete_bucket,
        v1::buckets::attach_object,
        v1::tasks::list_tasks,
        v1::tasks::describe_task,
        v1::tasks::retry_task,
        v1::webhooks::create_webhook,
        v1::webhooks::list_webhooks,
        v1::webhooks::describe_webhook,
        v1::webhooks::update_webhook,
        v1::webhooks::delete_webhook,
        v1::webhooks::rotate_webhook_secret,
        v1::webhooks::test_webhook,
        v1::webhooks::list_webhook_deliveries,
        v1::webhooks::replay_webhook,
        v1::service::list_nodes,
        v1::service::describe_service,
        v0::uploads::create_upload,
        v0::downloads::create_download_link,
        v0::uploads::instant_upload,
        v0::content::upload_file,
        v0::content::upload_part,
        v0::uploads::upload_status,
        v0::uploads::complete_upload,
        v0::downloads::download_file,
        v0::downloads::locate_content,
        v0::health::ping,
        v0::health::health,
        health::live,
        health::ready,
    ),
    components(
        schemas(osproxy_api::v0::ErrorEnvelope, osproxy_api::v1::EventType, osproxy_api::v1::Problem),
        responses(
            Forbidden,
            NotFound,
            PreconditionFailed,
            TooLarge,
            Encoded,
            Interrupted,
            Coded,
            BrokenOff,
            Unimplemented,
            RangeNotSatisfiable,
            Invalid,
            Internal,
            Unavailable,
            Full,
            BadRequest,
            Refused,
            Missing,
            Conflict,
            Gone,
            Unmet,
            Oversized,
            UnsupportedType,
            OutOfRange,
            Mismatch,
            Fault,
            Away,
            Exhausted,
            Keyless,
            Unscoped,
            TooMany,
            Unauthenticated,
            Limited
        )
    ),
    modifiers(&AddRequestIdHeader, &AddAccessResponses, &AddHeadOperations)
)]
struct Document;

/// Adds the header `x-request-id` to every response.
struct AddRequestIdHeader;

impl Modify for AddRequestIdHeader {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let shared = document.components.iter_mut().flat_map(|components| components.responses.values_mut());
        let paths = document.paths.paths.values_mut();
        let operations = paths
            .flat_map(|path| {
                [&mut path.get, &mut path.post, &mut path.put, &mut path.patch, &mut path.delete]
            })
            .flatten();
        let own = operations.flat_map(|operation| operation.responses.responses.values_mut());
        for response in shared.chain(own) {
            if let RefOr::T(response) = response {
                let id = responses::text_header("Id of the request, as in the service's log.", None);
                response.headers.insert(REQUEST_ID.as_str().to_owned(), id.into());
            }
        }
    }
}

/// Adds the API key scheme, and the error responses for missing keys, missing scopes and exceeded
/// rate limits.
struct AddAccessResponses;

impl Modify for AddAccessResponses {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("osk_<id>_<secret>");
        let description = "An API key, created by `osproxy key create` or by the first start of the service. Not needed \
                       with `auth.mode: open`.";
        let scheme = SecurityScheme::Http(scheme.description(Some(description)).build());
        if let Some(components) = &mut document.components {
            components.security_schemes.insert("api_key".to_owned(), scheme.into());
        }
        for (path, item) in &mut document.paths.paths {
            let responses = if path.starts_with(osproxy_api::v0::PREFIX) {
                responses::V0_ACCESS
            } else {
                responses::V1_ACCESS
            };
            let operations =
                [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
            for operation in operations.into_iter().flatten() {
                // The rate limit by address applies with or without a key.
                let is_rate_limited = path.starts_with("/api/") || path.starts_with(osproxy_api::v1::LINKS);
                let takes_keys = operation.security.is_some();
                let applies = |status: &str| takes_keys || is_rate_limited && status == "429";
                for (status, name) in responses.into_iter().filter(|(status, _)| applies(status)) {
                    let response = Ref::from_response_name(name).into();
                    operation.responses.responses.entry(status.to_owned()).or_insert(response);
                }
            }
        }
    }
}

/// Adds a HEAD operation to every path whose GET supports ranges.
struct AddHeadOperations;

impl Modify for AddHeadOperations {
    fn modify(&self, document: &mut openapi::OpenApi) {
        for path in document.paths.paths.values_mut() {
            let Some(mut head) = path.get.clone().filter(|get| get.responses.responses.contains_key("206"))
            else {
                continue;
            };
            let id = head.operation_id.unwrap_or_default();
            head.operation_id = Some(format!("{id}_head"));
            head.summary = Some("Read the headers of a file".to_owned());
            head.description = None;
            let is_range_header =
                |one: &RefOr<Parameter>| matches!(one, RefOr::T(one) if RANGE_HEADERS.contains(&&*one.name));
            head.parameters.iter_mut().for_each(|all| all.retain(|one| !is_range_header(one)));
            head.responses.responses.retain(|status, _| !["206", "416"].contains(&status.as_str()));
            if let Some(RefOr::T(response)) = head.responses.responses.get_mut("200") {
                response.content.clear();
            }
            path.head = Some(head);
        }
    }
}

/// Returns the document as indented JSON with a final newline.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
        let mut text = Document::openapi().to_pretty_json().unwrap_or_default();
        text.push('\n');
        text
    });
    &DOCUMENT
}

/// `GET /openapi.json`
pub(super) async fn serve() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document())
}
