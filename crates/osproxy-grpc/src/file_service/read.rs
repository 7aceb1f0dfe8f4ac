//! Downloads and file lists.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use osproxy_api::{
    ErrorCode,
    grpc::v1::{
        DownloadFileRequest, DownloadFileResponse, ListFilesRequest, ListFilesResponse,
        download_file_response,
    },
};
use osproxy_core::{
    App, Caller, Error, Result,
    auth::until_revoked,
    links::LinkConstraints,
    ops::{
        self,
        download_file::StoredFile,
        list_files::{Category, FileFilter, FilePosition},
    },
};
use osproxy_types::uid::Uid;
use serde::{Deserialize, Serialize};
use tonic::Extensions;

use crate::{
    content::Download,
    forward::{self, ForwardTarget},
    parse, render,
};

pub(super) async fn download(
    app: &Arc<App>,
    caller: &Caller,
    extensions: &Extensions,
    request: &DownloadFileRequest,
) -> Result<Download> {
    let uid = parse::uid(extensions, &request.uid)?;
    let record = ops::describe_file::describe_file(&app.files, &caller.tenant, uid).await?;
    let file = ops::download_file::own_file(&app.files, &caller.tenant, uid).await?;
    let size = file.content.size;
    if request.offset > size {
        let message = format!("`offset` is beyond the end of the file, which has {size} bytes");
        return Err(Error::new(ErrorCode::RangeNotSatisfiable, message).with_field("offset"));
    }
    let end = request.length.map_or(size, |length| request.offset.saturating_add(length).min(size));
    let range = request.offset..end;
    let content = if range.is_empty() {
        stream::empty().boxed()
    } else {
        let constraints = caller.link_constraints();
        let open = |file| open(app, file, range.clone(), &constraints, extensions);
        let has_moved = |opened: &Result<_>| {
            opened.as_ref().is_err_and(|error: &Error| error.code == ErrorCode::NodeUnavailable)
        };
        ops::download_file::retry_if_moved(&app.files, file, open, has_moved).await?
    };
    let content = until_revoked(app.auth.clone(), caller.clone(), content);
    let part = Some(download_file_response::Part::File(render::file(record)));
    Ok(Download { first: Some(DownloadFileResponse { part }), content })
}

async fn open(
    app: &Arc<App>,
    file: Arc<StoredFile>,
    range: Range<u64>,
    constraints: &LinkConstraints,
    extensions: &Extensions,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    if let Some(store) = ops::locate_content::store_elsewhere(&app.files, &file) {
        let node = ForwardTarget { store, extensions };
        return Ok(forward::download_file(app, node, &file, range, constraints).await?.boxed());
    }
    Ok(ops::download_file::open_content(&app.files, &file, range, constraints).await?.boxed())
}

/// Position in a list of files, as encoded in a page token.
#[derive(Serialize, Deserialize)]
struct Cursor {
    uid: i64,
    name_start: String,
}

pub(super) async fn list(app: &App, caller: &Caller, request: ListFilesRequest) -> Result<ListFilesResponse> {
    let limit = parse::page_size(request.page_size)?;
    let category = match request.category.as_str() {
        "" => None,
        name => {
            let known = Category::ALL.into_iter().find(|category| category.as_str() == name);
            Some(known.ok_or_else(|| Error::invalid("unknown value of `category`").with_field("category"))?)
        }
    };
    let filter = FileFilter {
        prefix: parse::optional_text(request.prefix),
        category,
        state: parse::state(request.state)?,
        created_after: parse::timestamp("created_after", request.created_after)?,
        created_before: parse::timestamp("created_before", request.created_before)?,
        grant: None,
    };
    // A page token is valid only for the filters with which it was issued.
    let filters_json = serde_json::to_string(&(
        &filter.prefix,
        &request.category,
        request.state,
        filter.created_after,
        filter.created_before,
    ));
    let bound = filters_json.map_err(Error::internal)?;
    let filters = ["grpc files", bound.as_str()];
    let after = parse::position(app, &filters, &request.page_token)?.map(position).transpose()?;
    let page =
        ops::list_files::list_files(&app.files, &caller.tenant, &filter, after.as_ref(), limit).await?;
    let next = page.next.map(|next| Cursor { uid: next.uid.get(), name_start: hex::encode(next.name_start) });
    let next = next.map(|next| app.links.sign_cursor(&filters, &next)).transpose()?;
    Ok(ListFilesResponse {
        files: page.files.into_iter().map(render::file).collect(),
        next_page_token: next.unwrap_or_default(),
    })
}

fn position(cursor: Cursor) -> Result<FilePosition> {
    let name_start = hex::decode(cursor.name_start).map_err(Error::internal)?;
    Ok(FilePosition { uid: Uid::from_db(cursor.uid), name_start })
}
