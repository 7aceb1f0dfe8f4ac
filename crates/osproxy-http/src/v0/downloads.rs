//! Downloads by signed link.

use std::{collections::HashSet, str::FromStr, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::Uri,
    response::Response,
};
use osproxy_api::{
    schema,
    v0::{CreateDownloadLinkRequest, DownloadLink, Envelope, FileMeta, MAX_DOWNLOADS, PREFIX},
};
use osproxy_core::{
    Error,
    links::{LinkAction, LinkPeriod, Links},
    ops::{self, FileOps, download_file::StoredFile},
};
use osproxy_types::uid::Uid;

use super::{
    json,
    query::{self, LenientQuery},
};
use crate::{
    extract::auth::{Admin, Authenticated, Read},
    openapi,
    respond::{
        content::{Downloads, Presentation, serve_file},
        disposition::Disposition,
        error::HandlerResult,
    },
};

/// Additional signed parameters of download links, in the order in which they are signed.
const LINK_PARAMETERS: [&str; 3] = ["name", "bucket", "object"];

/// `POST /link/download`
#[utoipa::path(
    post, path = "/link/download", context_path = PREFIX, tag = "v0 Links",
    summary = "Issue download links", description = "",
    request_body = CreateDownloadLinkRequest,
    security(("api_key" = ["read"])),
    responses(
        (
            status = 200,
            description = "One entry for each stored file, in the order of the uids; `null` if none of the files is stored.",
            body = Envelope<Option<Vec<DownloadLink>>>
        ),
        (status = 413, response = openapi::TooLarge),
        (status = 408, response = openapi::Interrupted),
        (status = 415, response = openapi::Encoded),
        (status = 501, response = openapi::Coded),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
    )
)]
pub(crate) async fn create_download_link(
    State(files): State<Arc<FileOps>>,
    State(links): State<Arc<Links>>,
    Authenticated { caller, .. }: Authenticated<Read>,
    body: Body,
) -> HandlerResult<Json<Envelope<Option<Vec<DownloadLink>>>>> {
    let CreateDownloadLinkRequest { uid: texts, expire } = json::parse(body).await?;
    if !(1..=MAX_DOWNLOADS).contains(&texts.len()) {
        return Err(Error::invalid(format!("`uid` must have 1 to {MAX_DOWNLOADS} entries")).into());
    }
    let mut uids = Vec::with_capacity(texts.len());
    let mut seen = HashSet::new();
    for text in &texts {
        let uid = Uid::from_str(text).map_err(|error| Error::invalid(format!("`uid`: {error}")))?;
        if seen.insert(uid) {
            uids.push(uid);
        }
    }
    let readable =
        ops::create_download_link::create_download_link(&files, &caller.tenant, &uids, expire).await?;
    let terms = caller.link_constraints();
    let links: Vec<_> = readable
        .files
        .iter()
        .map(|file| {
            let (bucket, object) = go_object_name(file);
            let [name_field, bucket_field, object_field] = LINK_PARAMETERS;
            let extra = [(name_field, file.name.as_str()), (bucket_field, bucket), (object_field, &object)];
            let period = LinkPeriod { date: file.link_date(readable.period.date), ..readable.period };
            let query =
                query::signed_query(&links.keys, LinkAction::Download, file.uid, period, &extra, &terms);
            DownloadLink {
                uid: file.uid.to_string(),
                url: query::relative_url("/download", &query),
                meta: meta(file, object),
            }
        })
        .collect();
    Ok(Json(Envelope::ok(Some(links).filter(|links| !links.is_empty()))))
}

/// Returns the bucket and object name that the Go program would use, because clients of that
/// program expect them. The two names do not reveal the real location of the content.
fn go_object_name(file: &StoredFile) -> (&'static str, String) {
    let uid = file.uid;
    let object = file.extension().map_or_else(|| uid.to_string(), |extension| format!("{uid}.{extension}"));
    (file.object_category().as_str(), object)
}

fn meta(file: &StoredFile, object: String) -> FileMeta {
    let (width, height) = file.dimensions.unwrap_or_default();
    FileMeta {
        src_name: file.name.clone(),
        dst_name: object,
        height,
        width,
        md5: file.content.md5().map(hex::encode).unwrap_or_default(),
        size: file.content.size.to_string(),
    }
}

/// `GET` and `HEAD /download`
#[utoipa::path(
    get, path = "/download", context_path = PREFIX, tag = "v0 Downloads",
    summary = "Download a file or a range of it", description = "",
    params(
        openapi::DownloadLinkQuery,
        ("online" = inline(Option<openapi::OnlineValue>), Query, description = "`0`: browsers save the file; `1` or absent: they display it."),
        openapi::ConditionalHeaders,
    ),
    responses(
        openapi::ContentResponses,
        (status = 403, response = openapi::Forbidden),
        (status = 404, response = openapi::NotFound),
        (status = 412, response = openapi::PreconditionFailed),
        (status = 416, response = openapi::RangeNotSatisfiable),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
    )
)]
pub(crate) async fn download_file(
    State(downloads): State<Downloads>,
    request: Request,
) -> HandlerResult<Response> {
    let (request, _) = request.into_parts();
    let query = LenientQuery::parse(request.uri.query());
    let (uid, link) =
        query.verify_link(&downloads.link_verifier, &request, LinkAction::Download, &LINK_PARAMETERS).await?;
    let disposition = match query.get("online") {
        "" | "1" => Disposition::Inline,
        "0" => Disposition::Attachment,
        _ => return Err(Error::invalid("`online` must be 0 or 1").into()),
    };
    serve_file(&downloads, &request, uid, Presentation { disposition, filename: None, link: &link }).await
}

/// `GET /proxy`: returns the address of this node, if only this node has the content of the file.
#[utoipa::path(
    get, path = "/proxy", context_path = PREFIX, tag = "v0 Downloads",
    summary = "Check whether only this node has the content", description = "Fails with 404 if this node does not have the content, or if other nodes have it too.",
    params(("uid" = schema::Uid, Query, description = "Uid of the file.", example = "1548722401845518336")),
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "The address of this node.", body = Envelope<String>, example = json!({"code": 0, "message": "ok", "data": "10.0.0.7:8888"})),
        (status = 404, response = openapi::NotFound),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
    )
)]
pub(crate) async fn locate_content(
    State(files): State<Arc<FileOps>>,
    _: Authenticated<Admin>,
    uri: Uri,
) -> HandlerResult<Json<Envelope<String>>> {
    let query = LenientQuery::parse(uri.query());
    let uid = Uid::from_str(query.get("uid")).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(Json(Envelope::ok(ops::locate_content::locate_content(&files, uid).await?.to_owned())))
}
