//! The `OpenAPI` document, put together from what stands at the handlers. Each handler is in the list below; a test holds the list
//! against the routes.

mod parameters;
mod responses;

use std::sync::LazyLock;

use axum::{http::header, response::IntoResponse};
use utoipa::{
    Modify, OpenApi,
    openapi::{self, RefOr, path::Parameter},
};

pub(super) use parameters::{DownloadLinkQuery, Online, UploadForm, UploadLinkQuery};
pub(super) use responses::{
    Forbidden, Internal, Invalid, NotFound, PreconditionFailed, RangeNotSatisfiable, TooLarge, Unavailable,
};

use super::{health, middleware::REQUEST_ID, v0};

/// What counts for GET alone.
const RANGES: [&str; 2] = ["range", "if-range"];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "osproxy",
        description = "A file-storage microservice between applications and any object store. An application keeps one \
                       uid for each file, asks for signed links, and hands them to its clients, which send and fetch \
                       the bytes.\n\nEvery answer has the header `x-request-id`; every error has the header \
                       `osproxy-error`, which names it.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "Links", description = "What an application asks for: links that it hands to its clients."),
        (name = "Uploads", description = "What a client does with an upload link."),
        (name = "Downloads", description = "What a client does with a download link."),
        (name = "Health", description = "What load balancers and those who look after the service ask."),
    ),
    paths(
        v0::create_upload::create_upload,
        v0::create_download_link::create_download_link,
        v0::instant_upload::instant_upload,
        v0::upload_file::upload_file,
        v0::upload_part::upload_part,
        v0::upload_status::upload_status,
        v0::complete_upload::complete_upload,
        v0::download_file::download_file,
        v0::locate_content::locate_content,
        v0::check_health::ping,
        v0::check_health::health,
        health::live,
        health::ready,
    ),
    components(
        schemas(osproxy_api::v0::ErrorEnvelope),
        responses(
            Forbidden,
            NotFound,
            PreconditionFailed,
            TooLarge,
            RangeNotSatisfiable,
            Invalid,
            Internal,
            Unavailable
        )
    ),
    modifiers(&RequestIds, &Heads)
)]
struct Document;

/// Every answer has a request id.
struct RequestIds;

impl Modify for RequestIds {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let shared = document.components.iter_mut().flat_map(|components| components.responses.values_mut());
        let paths = document.paths.paths.values_mut();
        let operations = paths.flat_map(|path| [&mut path.get, &mut path.post, &mut path.put]).flatten();
        let own = operations.flat_map(|operation| operation.responses.responses.values_mut());
        for response in shared.chain(own) {
            if let RefOr::T(response) = response {
                let id = responses::text_header("Names the request in the log.", None);
                response.headers.insert(REQUEST_ID.as_str().to_owned(), id.into());
            }
        }
    }
}

/// What can be read in ranges can be asked about without being read.
struct Heads;

impl Modify for Heads {
    fn modify(&self, document: &mut openapi::OpenApi) {
        for path in document.paths.paths.values_mut() {
            let Some(mut head) = path.get.clone().filter(|get| get.responses.responses.contains_key("206"))
            else {
                continue;
            };
            let id = head.operation_id.unwrap_or_default();
            head.operation_id = Some(format!("{id}_head"));
            head.summary = Some("The same without the content.".to_owned());
            head.description = None;
            let of_ranges =
                |one: &RefOr<Parameter>| matches!(one, RefOr::T(one) if RANGES.contains(&&*one.name));
            head.parameters.iter_mut().for_each(|all| all.retain(|one| !of_ranges(one)));
            head.responses.responses.retain(|status, _| !["206", "416"].contains(&status.as_str()));
            if let Some(RefOr::T(response)) = head.responses.responses.get_mut("200") {
                response.content.clear();
            }
            path.head = Some(head);
        }
    }
}

/// The document as it is served: JSON, indented, with a line break at its end.
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
