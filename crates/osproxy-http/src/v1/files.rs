//! Files of a tenant.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use osproxy_api::{
    schema::{self, Moment},
    v1::{self, CopiedFile, CopyFileRequest, File, FileState, FileUid, Files, PREFIX, UpdateFileRequest},
};
use osproxy_core::{
    Caller, Error, HeldIdempotencyKey, IdempotencyKeys, Result,
    links::Links,
    ops::{
        self, FileOps,
        list_files::{Category, FileFilter, FilePosition, FileRecord},
        name_files::name_files,
    },
};
use osproxy_types::{scope::Scope, uid::Uid};
use serde::{Deserialize, Serialize};

use super::{
    idempotency::{CreatedResponse, run_idempotent},
    json, pagination,
    path::{self, PathResult},
    query::Query,
    render, time_format,
};
use crate::{
    extract::auth::{Authenticated, Delete, Read, Upload},
    openapi,
    respond::error::HandlerResult,
};

/// Parameters that filter files. A cursor is valid only for the values for which it was issued.
const FILTERS: [&str; 6] = ["prefix", "category", "state", "created_after", "created_before", "grant"];

/// Position in a list of files, as encoded in a cursor.
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
        ("category" = inline(Option<schema::CategoryName>), Query, description = "Only files of this category, which follows from the extension of the name."),
        ("state" = Option<FileState>, Query, description = "Only files in this state; by default, all except `expired` and `deleted`."),
        ("created_after" = Option<Moment>, Query, description = "Only files created at this time or later."),
        ("created_before" = Option<Moment>, Query, description = "Only files created before this time."),
        ("grant" = Option<schema::Uid>, Query, description = "Only files created under the upload grant with this id."),
        openapi::PageQuery,
    ),
    security(("api_key" = ["read"])),
    responses(
        (status = 200, description = "A page of files, ordered by uid; with `prefix`, by name.", body = Files),
        openapi::CommonErrors,
    )
)]
pub(crate) async fn list_files(
    State(files): State<Arc<FileOps>>,
    State(links): State<Arc<Links>>,
    Authenticated { caller, .. }: Authenticated<Read>,
    uri: Uri,
) -> HandlerResult<Json<Files>> {
    let known: Vec<_> = FILTERS.into_iter().chain(["limit", "cursor"]).collect();
    let query = Query::parse(uri.query(), &known)?;
    let limit = pagination::limit(&query)?;
    let filter = parse_filter(&query)?;
    let mut filters = FILTERS.map(|name| query.get(name).unwrap_or_default()).to_vec();
    // Cursors of earlier versions do not have this filter.
    filters.pop_if(|grant| grant.is_empty());
    let after = pagination::parse_cursor(&links, &filters, &query)?.map(parse_position).transpose()?;
    let page = ops::list_files::list_files(&files, &caller.tenant, &filter, after.as_ref(), limit).await?;
    let next = page.next.map(|next| Cursor {
        uid: next.uid.get(),
        // Needed only with `prefix`. Omitted otherwise, because names may be long.
        name_start: filter.prefix.as_ref().map(|_| hex::encode(next.name_start)).unwrap_or_default(),
    });
    let mut names = name_files(&files, &page.files).await?;
    let file = |file: FileRecord| {
        let name = names.remove(&file.uid);
        render::file(file, name)
    };
    Ok(Json(Files {
        files: page.files.into_iter().map(file).collect(),
        next_cursor: next.map(|next| links.sign_cursor(&filters, &next)).transpose()?,
    }))
}

fn parse_position(cursor: Cursor) -> Result<FilePosition> {
    let name_start = hex::decode(cursor.name_start).map_err(Error::internal)?;
    Ok(FilePosition { uid: Uid::from_db(cursor.uid), name_start })
}

fn parse_filter(query: &Query<'_>) -> Result<FileFilter> {
    let moment = |name| query.get(name).map(|text| time_format::parse_time(name, text)).transpose();
    Ok(FileFilter {
        prefix: query.get("prefix").map(str::to_owned),
        category: query.one_of("category", &Category::ALL, Category::as_str)?,
        state: query.one_of("state", &v1::FileState::ALL, v1::FileState::as_str)?.map(render::parse_state),
        created_after: moment("created_after")?,
        created_before: moment("created_before")?,
        grant: query.get("grant").map(path::parse_grant_id).transpose()?,
    })
}

/// `GET /files/{uid}`
#[utoipa::path(
    get, path = "/files/{uid}", context_path = PREFIX, tag = "Files", operation_id = "v1_describe_file",
    summary = "Describe a file", description = "",
    params(
        openapi::UidPath,
    ),
    security(("api_key" = ["read"])),
    responses(
        (status = 200, description = "The file.", body = File),
        openapi::CommonErrors,
        openapi::FileErrors,
    )
)]
pub(crate) async fn describe_file(
    State(files): State<Arc<FileOps>>,
    Authenticated { caller, .. }: Authenticated<Read>,
    uid: PathResult<String>,
    uri: Uri,
) -> HandlerResult<Json<File>> {
    Query::parse(uri.query(), &[])?;
    let file = ops::describe_file::describe_file(&files, &caller.tenant, path::uid(uid)?).await?;
    Ok(Json(with_name(&files, file).await?))
}

/// `PATCH /files/{uid}`
#[utoipa::path(
    patch, path = "/files/{uid}", context_path = PREFIX, tag = "Files", operation_id = "v1_update_file",
    summary = "Change the name or metadata of a file", description = "The body is a merge patch (RFC 7396): absent members stay unchanged, and metadata members that are `null` are removed.",
    params(
        openapi::UidPath,
    ),
    request_body(content(
        (UpdateFileRequest = "application/merge-patch+json"),
        (UpdateFileRequest = "application/json"),
    )),
    security(("api_key" = ["upload"])),
    responses(
        (status = 200, description = "The changed file.", body = File),
        (status = 204, description = "The file was changed. The response has no body, because the API key lacks the scope `read`."),
        openapi::CommonErrors,
        openapi::FileErrors,
        openapi::JsonBodyErrors,
    )
)]
pub(crate) async fn update_file(
    State(files): State<Arc<FileOps>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    uid: PathResult<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> HandlerResult<Response> {
    let uid = path::uid(uid)?;
    Query::parse(uri.query(), &[])?;
    let UpdateFileRequest { name, metadata } = json::parse(&json::read_patch(&headers, body).await?)?;
    let file = ops::update_file::update_file(&files, &caller.tenant, uid, name.as_deref(), metadata).await?;
    // The scope `upload` does not include reading files.
    if !caller.has_scope(Scope::Read) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(Json(with_name(&files, file).await?).into_response())
}

/// Renders a file with its bucket and key.
pub(super) async fn with_name(files: &FileOps, file: FileRecord) -> Result<File> {
    let name = name_files(files, std::slice::from_ref(&file)).await?.remove(&file.uid);
    Ok(render::file(file, name))
}

/// `DELETE /files/{uid}`
#[utoipa::path(
    delete, path = "/files/{uid}", context_path = PREFIX, tag = "Files", operation_id = "v1_delete_file",
    summary = "Delete a file", description = "Also deletes an upload, at any stage.",
    params(
        openapi::UidPath,
    ),
    security(("api_key" = ["delete"])),
    responses(
        (status = 204, description = "The file, or the upload with its parts, is deleted."),
        openapi::CommonErrors,
        openapi::FileErrors,
    )
)]
pub(crate) async fn delete_file(
    State(files): State<Arc<FileOps>>,
    Authenticated { caller, .. }: Authenticated<Delete>,
    uid: PathResult<String>,
    uri: Uri,
) -> HandlerResult<StatusCode> {
    Query::parse(uri.query(), &[])?;
    ops::delete_file::delete_file(&files, &caller.tenant, path::uid(uid)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /files/{uid}/copy`
#[utoipa::path(
    post, path = "/files/{uid}/copy", context_path = PREFIX, tag = "Files", operation_id = "v1_copy_file",
    summary = "Copy a file", description = "Creates a second file with the same content, without copying bytes.",
    params(
        openapi::UidPath,
        openapi::IdempotencyKey,
    ),
    request_body(content = CopyFileRequest),
    security(("api_key" = ["upload"])),
    responses(
        (status = 201, description = "The copy. Without the scope `read`, only its uid.", body = CopiedFile, headers(("location" = String, description = "URL of the new file."), ("idempotency-replayed" = String, description = "`true` if this is the recorded response to an earlier request with the same key."))),
        openapi::CommonErrors,
        openapi::FileErrors,
        openapi::JsonBodyErrors,
        openapi::IdempotencyErrors,
        openapi::StorageErrors,
    )
)]
pub(crate) async fn copy_file(
    State(files): State<Arc<FileOps>>,
    State(keys): State<Arc<IdempotencyKeys>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Response> {
    let uid = path::uid(uid)?;
    let (request, body) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    let body = json::read(&request.headers, body).await?;
    let copy: CopyFileRequest = json::parse(&body)?;
    run_idempotent(&keys, &caller, &request, &body, |key| {
        new_copy(files.clone(), caller.clone(), uid, copy, key)
    })
    .await
}

async fn new_copy(
    files: Arc<FileOps>,
    caller: Caller,
    uid: Uid,
    request: CopyFileRequest,
    key: Option<HeldIdempotencyKey>,
) -> Result<CreatedResponse> {
    let CopyFileRequest { name, metadata } = request;
    let copy =
        ops::copy_file::copy_file(&files, &caller, uid, name.as_deref(), metadata, key.as_ref()).await?;
    let uid = copy.uid.to_string();
    let location = format!("{PREFIX}/files/{uid}");
    // The scope `upload` does not include reading files.
    let body = if caller.has_scope(Scope::Read) {
        CopiedFile::Known(Box::new(render::file(copy, None)))
    } else {
        CopiedFile::Unread(FileUid { uid })
    };
    CreatedResponse::new(Some(location), &body)
}
