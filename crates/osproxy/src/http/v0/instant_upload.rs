use std::sync::Arc;

use axum::{Json, body::Body, extract::State};
use osproxy_api::v0::{Envelope, InstantUploadRequest, InstantUploadResult, MAX_UPLOADS};

use super::{json, query};
use crate::{
    Error, Result,
    app::App,
    ops::{self, instant_upload::Wanted},
};

/// `POST /resume`
pub(in crate::http) async fn instant_upload(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Json<Envelope<Vec<InstantUploadResult>>>> {
    let InstantUploadRequest { data } = json::parse(body).await?;
    if !(1..=MAX_UPLOADS).contains(&data.len()) {
        return Err(Error::invalid(format!("`data` must have 1 to {MAX_UPLOADS} entries")));
    }
    let mut wanted = Vec::with_capacity(data.len());
    for item in &data {
        let md5 = query::md5(&item.md5)?;
        wanted.push(Wanted { md5, path: &item.path });
    }
    let uids = ops::instant_upload::instant_upload(&app, &wanted).await?;
    let results = data.into_iter().zip(uids).map(|(item, uid)| InstantUploadResult {
        md5: item.md5,
        uid: uid.map(|uid| uid.to_string()).unwrap_or_default(),
    });
    Ok(Json(Envelope::ok(results.collect())))
}
