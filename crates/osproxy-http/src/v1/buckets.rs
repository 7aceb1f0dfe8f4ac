//! Buckets, and the keys of files in them.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use osproxy_api::v1::{AttachObjectRequest, Bucket, BucketSettings, BucketSummary, Buckets, File, PREFIX};
use osproxy_core::{
    buckets::parse_rules,
    links::Links,
    ops::{
        self, FileOps, UploadOps,
        buckets::{self, BucketRecord},
    },
};
use osproxy_types::scope::Scope;

use super::{
    files::with_name,
    json, pagination,
    path::{self, PathResult},
    query::Query,
    time_format::format_time,
};
use crate::{
    extract::auth::{Authenticated, Delete, Read, Upload},
    openapi,
    respond::error::HandlerResult,
};

/// `GET /buckets`
#[utoipa::path(
    get, path = "/buckets", context_path = PREFIX, tag = "Buckets", operation_id = "v1_list_buckets",
    summary = "List buckets", description = "",
    params(openapi::PageQuery),
    security(("api_key" = ["read"])),
    responses(
        (status = 200, description = "A page of buckets, ordered by name.", body = Buckets),
        openapi::CommonErrors,
    )
)]
pub(crate) async fn list_buckets(
    State(uploads): State<Arc<UploadOps>>,
    State(links): State<Arc<Links>>,
    Authenticated { caller, .. }: Authenticated<Read>,
    uri: Uri,
) -> HandlerResult<Json<Buckets>> {
    let query = Query::parse(uri.query(), &["limit", "cursor"])?;
    let limit = pagination::limit(&query)?;
    let filters = ["buckets", caller.tenant.as_str()];
    let after: Option<String> = pagination::parse_cursor(&links, &filters, &query)?;
    // Read one more than `limit`, to see whether there is another page.
    let mut page = buckets::list_buckets(&uploads, &caller, after.as_deref(), limit + 1).await?;
    let has_more = page.len() as u64 > limit;
    if has_more {
        page.pop();
    }
    let next = page.last().filter(|_| has_more).map(|bucket| bucket.name.clone());
    let summary = |bucket: buckets::BucketSummary| BucketSummary {
        name: bucket.name,
        created_at: format_time(bucket.created_at),
        public_read: bucket.is_public,
    };
    Ok(Json(Buckets {
        buckets: page.into_iter().map(summary).collect(),
        next_cursor: next.map(|next| links.sign_cursor(&filters, &next)).transpose()?,
    }))
}

/// `GET /buckets/{bucket}`
#[utoipa::path(
    get, path = "/buckets/{bucket}", context_path = PREFIX, tag = "Buckets", operation_id = "v1_describe_bucket",
    summary = "Describe a bucket", description = "",
    params(
        ("bucket" = String, Path, description = "Name of the bucket.", example = "photos"),
    ),
    security(("api_key" = ["read"])),
    responses(
        (status = 200, description = "The bucket.", body = Bucket),
        (status = 404, response = openapi::Missing),
        openapi::CommonErrors,
    )
)]
pub(crate) async fn describe_bucket(
    State(uploads): State<Arc<UploadOps>>,
    Authenticated { caller, .. }: Authenticated<Read>,
    bucket: PathResult<String>,
    uri: Uri,
) -> HandlerResult<Json<Bucket>> {
    Query::parse(uri.query(), &[])?;
    let bucket = buckets::own_bucket(&uploads, &caller, &path::parameters(bucket)?).await?;
    Ok(Json(render(&bucket)))
}

/// `PUT /buckets/{bucket}`
#[utoipa::path(
    put, path = "/buckets/{bucket}", context_path = PREFIX, tag = "Buckets", operation_id = "v1_put_bucket",
    summary = "Create a bucket, or change its settings", description = "Replaces all settings. `public_read: true` also requires the scope `read`, and lifecycle rules require the scope `delete`.",
    params(
        ("bucket" = String, Path, description = "Name of the bucket, as S3 allows it.", pattern = "^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", example = "photos"),
    ),
    request_body(content = BucketSettings),
    security(("api_key" = ["upload"])),
    responses(
        (status = 200, description = "The bucket with its new settings.", body = Bucket),
        (status = 201, description = "The new bucket.", body = Bucket, headers(("location" = String, description = "URL of the bucket."))),
        (status = 409, response = openapi::Conflict),
        openapi::CommonErrors,
        openapi::JsonBodyErrors,
        openapi::StorageErrors,
    )
)]
pub(crate) async fn put_bucket(
    State(uploads): State<Arc<UploadOps>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    bucket: PathResult<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> HandlerResult<Response> {
    let name = path::parameters(bucket)?;
    Query::parse(uri.query(), &[])?;
    let settings: BucketSettings = json::parse(&json::read(&headers, body).await?)?;
    let (bucket, is_new) = buckets::put_bucket(&uploads, &caller, &name, settings).await?;
    let bucket = Json(render(&bucket));
    if !is_new {
        return Ok(bucket.into_response());
    }
    let location = [(header::LOCATION, format!("{PREFIX}/buckets/{name}"))];
    Ok((StatusCode::CREATED, location, bucket).into_response())
}

/// `DELETE /buckets/{bucket}`
#[utoipa::path(
    delete, path = "/buckets/{bucket}", context_path = PREFIX, tag = "Buckets", operation_id = "v1_delete_bucket",
    summary = "Delete a bucket", description = "Only a bucket without objects can be deleted.",
    params(
        ("bucket" = String, Path, description = "Name of the bucket.", example = "photos"),
    ),
    security(("api_key" = ["delete"])),
    responses(
        (status = 204, description = "The bucket is deleted."),
        (status = 404, response = openapi::Missing),
        (status = 409, response = openapi::Conflict),
        openapi::CommonErrors,
    )
)]
pub(crate) async fn delete_bucket(
    State(uploads): State<Arc<UploadOps>>,
    Authenticated { caller, .. }: Authenticated<Delete>,
    bucket: PathResult<String>,
    uri: Uri,
) -> HandlerResult<StatusCode> {
    Query::parse(uri.query(), &[])?;
    buckets::delete_bucket(&uploads, &caller, &path::parameters(bucket)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `PUT /buckets/{bucket}/objects/{key}`
#[utoipa::path(
    put, path = "/buckets/{bucket}/objects/{key}", context_path = PREFIX, tag = "Buckets", operation_id = "v1_attach_object",
    summary = "Give a key to a file", description = "Clients of the S3 API find the file under this key. An object that has the key is replaced. The file stays when the object is deleted or replaced.",
    params(
        ("bucket" = String, Path, description = "Name of the bucket.", example = "photos"),
        ("key" = String, Path, description = "The key: 1 to 1,024 bytes. It may contain `/`.", example = "2026/film.mp4"),
    ),
    request_body(content = AttachObjectRequest),
    security(("api_key" = ["upload"])),
    responses(
        (status = 200, description = "The file has the key.", body = File),
        (status = 204, description = "The file has the key. The response has no body, because the API key lacks the scope `read`."),
        (status = 409, response = openapi::Conflict),
        openapi::CommonErrors,
        openapi::FileErrors,
        openapi::JsonBodyErrors,
    )
)]
pub(crate) async fn attach_object(
    State(uploads): State<Arc<UploadOps>>,
    State(files): State<Arc<FileOps>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    parameters: PathResult<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> HandlerResult<Response> {
    let (bucket, key) = path::parameters(parameters)?;
    Query::parse(uri.query(), &[])?;
    let AttachObjectRequest { uid } = json::parse(&json::read(&headers, body).await?)?;
    let uid = path::parse_uid(&uid)?;
    let bucket = buckets::own_bucket(&uploads, &caller, &bucket).await?;
    ops::attach_object::attach_object(&uploads, &caller, &bucket, &key, uid).await?;
    // The scope `upload` does not include reading files.
    if !caller.has_scope(Scope::Read) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let file = ops::describe_file::describe_file(&files, &caller.tenant, uid).await?;
    Ok(Json(with_name(&files, file).await?).into_response())
}

fn render(bucket: &BucketRecord) -> Bucket {
    Bucket {
        name: bucket.name.clone(),
        created_at: format_time(bucket.created_at),
        public_read: bucket.is_public,
        cors: parse_rules(bucket.cors.as_deref()),
        lifecycle: parse_rules(bucket.lifecycle.as_deref()),
    }
}
