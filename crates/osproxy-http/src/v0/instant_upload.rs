use std::sync::Arc;

use axum::{Json, body::Body, extract::State};
use osproxy_api::v0::{Envelope, InstantUploadRequest, InstantUploadResult, MAX_UPLOADS, PREFIX};
use osproxy_core::{
    App, Error,
    ops::{self, instant_upload::InstantItem},
};

use super::{json, query};
use crate::{
    extract::auth::{Authenticated, Upload},
    openapi,
    respond::error::HandlerResult,
};

/// `POST /resume`
#[utoipa::path(
    post, path = "/resume", context_path = PREFIX, tag = "v0 Links",
    summary = "Create files from stored content", description = "",
    request_body = InstantUploadRequest,
    security(("api_key" = ["upload"])),
    responses(
        (
            status = 200,
            description = "One entry for each digest, in the same order. `uid` is empty if the content is not stored and must be sent.",
            body = Envelope<Vec<InstantUploadResult>>
        ),
        (status = 413, response = openapi::TooLarge),
        (status = 408, response = openapi::Interrupted),
        (status = 415, response = openapi::Encoded),
        (status = 501, response = openapi::Coded),
        (status = 422, response = openapi::Invalid),
        (status = 500, response = openapi::Internal),
        (status = 503, response = openapi::Unavailable),
        (status = 507, response = openapi::Full),
    )
)]
pub(crate) async fn instant_upload(
    State(app): State<Arc<App>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    body: Body,
) -> HandlerResult<Json<Envelope<Vec<InstantUploadResult>>>> {
    let InstantUploadRequest { data } = json::parse(body).await?;
    if !(1..=MAX_UPLOADS).contains(&data.len()) {
        return Err(Error::invalid(format!("`data` must have 1 to {MAX_UPLOADS} entries")).into());
    }
    let mut wanted = Vec::with_capacity(data.len());
    for item in &data {
        let md5 = query::md5(&item.md5)?;
        wanted.push(InstantItem { md5, path: &item.path });
    }
    let uids = ops::instant_upload::instant_upload(&app, &caller, &wanted).await?;
    let results = data.into_iter().zip(uids).map(|(item, uid)| InstantUploadResult {
        md5: item.md5,
        uid: uid.map(|uid| uid.to_string()).unwrap_or_default(),
    });
    Ok(Json(Envelope::ok(results.collect())))
}
