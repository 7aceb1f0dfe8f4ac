use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use osproxy_api::{
    schema::Moment,
    v1::{self, FileState, Files, PREFIX},
};
use osproxy_core::{
    App, Error, Result,
    ops::list_files::{self, Category, FileFilter, FilePosition},
};
use osproxy_types::uid::Uid;
use serde::{Deserialize, Serialize};

use super::{pagination, query::Query, render, time_format};
use crate::{
    extract::auth::{Authenticated, Read},
    openapi,
    respond::error::HandlerResult,
};

/// Parameters that filter files. A cursor is bound to their values in this order.
const FILTERS: [&str; 5] = ["prefix", "category", "state", "created_after", "created_before"];

/// Content of a cursor.
#[derive(Serialize, Deserialize)]
struct Cursor {
    uid: i64,
    name_start: String,
}

/// `GET /files`
#[utoipa::path(
    get, path = "/files", context_path = PREFIX, tag = "Files", operation_id = "v1_list_files",
    summary = "List files", description = "",
    params(
        ("prefix" = Option<String>, Query, description = "Only files whose names start with these bytes.", min_length = 1, max_length = 255, example = "report"),
        ("category" = inline(Option<openapi::CategoryName>), Query, description = "Only files of this category, which follows from the extension of the name."),
        ("state" = Option<FileState>, Query, description = "Only files in this state; by default, all except `expired` and `deleted`."),
        ("created_after" = Option<Moment>, Query, description = "Only files created at this time or later."),
        ("created_before" = Option<Moment>, Query, description = "Only files created before this time."),
        openapi::PageQuery,
    ),
    security(("api_key" = ["read"])),
    responses(
        (status = 200, description = "A page of files, ordered by uid; with `prefix`, by name.", body = Files),
        openapi::Failures,
    )
)]
pub(crate) async fn list_files(
    State(app): State<Arc<App>>,
    Authenticated { caller, .. }: Authenticated<Read>,
    uri: Uri,
) -> HandlerResult<Json<Files>> {
    let known: Vec<_> = FILTERS.into_iter().chain(["limit", "cursor"]).collect();
    let query = Query::parse(uri.query(), &known)?;
    let limit = pagination::limit(&query)?;
    let filter = filter(&query)?;
    let filters = FILTERS.map(|name| query.get(name).unwrap_or_default());
    let after = pagination::parse_cursor(&app, &filters, &query)?.map(position).transpose()?;
    let page = list_files::list_files(&app, &caller.tenant, &filter, after.as_ref(), limit).await?;
    let next = page.next.map(|next| Cursor {
        uid: next.uid.get(),
        // Needed only with `prefix`; omitted otherwise, since names may be long.
        name_start: filter.prefix.as_ref().map(|_| hex::encode(next.name_start)).unwrap_or_default(),
    });
    Ok(Json(Files {
        files: page.files.into_iter().map(render::file).collect(),
        next_cursor: next.map(|next| app.sign_cursor(&filters, &next)).transpose()?,
    }))
}

fn position(cursor: Cursor) -> Result<FilePosition> {
    let name_start = hex::decode(cursor.name_start).map_err(Error::internal)?;
    Ok(FilePosition { uid: Uid::from_db(cursor.uid), name_start })
}

fn filter(query: &Query<'_>) -> Result<FileFilter> {
    let moment = |name| query.get(name).map(|text| time_format::parse_time(name, text)).transpose();
    Ok(FileFilter {
        prefix: query.get("prefix").map(str::to_owned),
        category: query.one_of("category", &Category::ALL, Category::as_str)?,
        state: query.one_of("state", &v1::FileState::ALL, v1::FileState::as_str)?.map(render::parse_state),
        created_after: moment("created_after")?,
        created_before: moment("created_before")?,
    })
}
