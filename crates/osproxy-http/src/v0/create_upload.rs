use std::{collections::HashSet, sync::Arc};

use axum::{Json, body::Body, extract::State};
use osproxy_api::v0::{
    CreateUploadRequest, Envelope, MAX_UPLOADS, MultiUploadUrls, PREFIX, UploadLinks, UploadUrls,
};
use osproxy_core::{
    App, Error,
    links::LinkAction,
    ops::{
        self,
        create_upload::{AnnouncedContent, NewUploadSession, UploadRequest},
    },
};

use super::{json, query};
use crate::{
    extract::auth::{Authenticated, Upload},
    openapi,
    respond::error::HandlerResult,
};

/// `POST /link/upload`
#[utoipa::path(
    post, path = "/link/upload", context_path = PREFIX, tag = "v0 Links",
    summary = "Issue upload links", description = "",
    request_body = CreateUploadRequest,
    security(("api_key" = ["upload"])),
    responses(
        (status = 200, description = "One entry for each path, in the same order.", body = Envelope<Vec<UploadLinks>>),
        (status = 413, response = openapi::TooLarge),
        (status = 408, response = openapi::Interrupted),
        (status = 415, response = openapi::Encoded),
        (status = 501, response = openapi::Coded),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
    )
)]
pub(crate) async fn create_upload(
    State(app): State<Arc<App>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    body: Body,
) -> HandlerResult<Json<Envelope<Vec<UploadLinks>>>> {
    let CreateUploadRequest { file_path: mut paths, expire } = json::parse(body).await?;
    if !(1..=MAX_UPLOADS).contains(&paths.len()) {
        return Err(Error::invalid(format!("`filePath` must have 1 to {MAX_UPLOADS} entries")).into());
    }
    let mut seen = HashSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    let wish = |path: &String| UploadRequest { path: path.clone(), announced: AnnouncedContent::default() };
    let wishes = paths.iter().map(wish).collect();
    let created = ops::create_upload::create_upload(&app, &caller, wishes, expire, None).await?;
    let terms = caller.upload_constraints();
    let links = created.uploads.into_iter().zip(paths).map(|(NewUploadSession { uid, .. }, path)| {
        let query = query::signed_query(
            &app.links,
            LinkAction::Upload,
            uid,
            (created.created_at, expire),
            &[],
            &terms,
        );
        UploadLinks {
            uid: uid.to_string(),
            path,
            url: UploadUrls {
                single: query::relative_url("/upload", &query),
                multi: MultiUploadUrls {
                    upload: query::relative_url("/upload/multi", &query),
                    merge: query::relative_url("/upload/merge", &query),
                },
            },
        }
    });
    Ok(Json(Envelope::ok(links.collect())))
}
