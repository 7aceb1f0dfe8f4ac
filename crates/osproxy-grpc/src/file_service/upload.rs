//! Uploads.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::{StreamExt, TryStreamExt};
use osproxy_api::grpc::v1::{
    CompleteUploadRequest, CreateUploadRequest, CreateUploadResponse, File, FileState, InstantUploadRequest,
    InstantUploadResponse, InstantUploadResult, StoreFileHeader, StoreFileRequest, Upload, UploadFileHeader,
    UploadFileRequest, UploadPartHeader, UploadPartRequest, UploadPartResponse,
};
use osproxy_core::{
    App, Caller, Error, Result,
    auth::until_revoked,
    ops::{
        self, UploadOptions,
        complete_upload::CompleteRequest,
        create_upload::{AnnouncedContent, UploadRequest},
        instant_upload::InstantItem as Item,
        upload_file::{DigestSelection, SizeHint},
    },
};
use osproxy_types::uid::Uid;
use tonic::{Extensions, Streaming};

use crate::{
    content::{data_stream, read_header},
    forward::{self, ForwardTarget},
    parse, render,
};

/// Maximum number of items in one instant upload.
const MAX_ITEMS: usize = 1000;

pub(super) async fn create(
    app: &Arc<App>,
    caller: &Caller,
    request: CreateUploadRequest,
) -> Result<CreateUploadResponse> {
    let expire = parse::lifetime(request.expires_in)?;
    let announced = AnnouncedContent {
        size: request.size,
        part_size: request.part_size,
        content_type: parse::optional_text(request.content_type),
        expected: parse::expected_digests(request.digests.as_ref())?,
        metadata: request.metadata.into_iter().collect(),
        is_partial: false,
        object: None,
    };
    let request = UploadRequest { path: request.name, announced, arrives_in_order: false };
    let created =
        ops::create_upload::create_upload(&app.uploads, caller, vec![request], expire, None).await?;
    let upload = created.uploads.into_iter().next();
    let upload = upload.ok_or_else(|| Error::internal("no upload was created"))?;
    let is_pending = upload.completed.is_none();
    let expires_at = created.created_at.unix_timestamp().saturating_add(expire).saturating_mul(1000);
    Ok(CreateUploadResponse {
        uid: upload.uid.to_string(),
        state: upload.completed.map_or(FileState::Pending, render::state).into(),
        part_size: upload.part_size.filter(|_| is_pending),
        expires_at: is_pending.then(|| render::timestamp(expires_at)),
    })
}

/// Parses the uid of an upload that belongs to the caller's tenant. An upload of another tenant is
/// reported as not found.
async fn parse_own_uid(app: &App, caller: &Caller, extensions: &Extensions, uid: &str) -> Result<Uid> {
    let uid = parse::uid(extensions, uid)?;
    ops::upload_status::own_upload_status(&app.uploads, &caller.tenant, uid).await?;
    Ok(uid)
}

async fn status(app: &App, uid: Uid) -> Result<Upload> {
    Ok(render::upload(uid, ops::upload_status::upload_status(&app.uploads, uid).await?))
}

fn size_hint(size: Option<u64>) -> SizeHint {
    size.map_or(SizeHint::Unknown, SizeHint::Exact)
}

pub(super) async fn store(
    app: &Arc<App>,
    caller: &Caller,
    mut messages: Streaming<StoreFileRequest>,
) -> Result<File> {
    let StoreFileHeader { name, size, content_type, digests, metadata } = read_header(&mut messages).await?;
    let announced = AnnouncedContent {
        // Not announced: the content does not arrive in parts, so no space is reserved for parts.
        size: None,
        part_size: None,
        content_type: parse::optional_text(content_type),
        expected: parse::expected_digests(digests.as_ref())?,
        metadata: metadata.into_iter().collect(),
        is_partial: false,
        object: None,
    };
    let request = UploadRequest { path: name, announced, arrives_in_order: false };
    let content = until_revoked(app.auth.clone(), caller.clone(), data_stream(messages));
    let stored =
        ops::store_file::store_file(&app.uploads, caller, request, size_hint(size), content, None).await?;
    Ok(stored.record.map_or_else(|| render::unread_file(stored.uid), |record| render::file(*record)))
}

pub(super) async fn whole(
    app: &Arc<App>,
    caller: &Caller,
    extensions: &Extensions,
    mut messages: Streaming<UploadFileRequest>,
) -> Result<Upload> {
    let UploadFileHeader { uid, size: announced, digests } = read_header(&mut messages).await?;
    let uid = parse_own_uid(app, caller, extensions, &uid).await?;
    let expected = parse::expected_digests(digests.as_ref())?;
    let options = UploadOptions {
        expected,
        digests: DigestSelection::default(),
        constraints: caller.upload_constraints(),
        ..UploadOptions::default()
    };
    let content = until_revoked(app.auth.clone(), caller.clone(), data_stream(messages));
    match ops::upload_file::upload_file(&app.uploads, uid, options, size_hint(announced), content).await? {
        Some(status) => Ok(render::upload(uid, status)),
        None => status(app, uid).await,
    }
}

pub(super) async fn part(
    app: &Arc<App>,
    caller: &Caller,
    extensions: &Extensions,
    mut messages: Streaming<UploadPartRequest>,
) -> Result<UploadPartResponse> {
    let UploadPartHeader { uid, number, size: announced, digests } = read_header(&mut messages).await?;
    ops::upload_part::check_number(&app.uploads, number)?;
    let uid = parse_own_uid(app, caller, extensions, &uid).await?;
    let expected = parse::expected_digests(digests.as_ref())?;
    let options = UploadOptions {
        expected,
        digests: DigestSelection::default(),
        constraints: caller.upload_constraints(),
        ..UploadOptions::default()
    };
    let received = Arc::<AtomicU64>::default();
    let count = received.clone();
    let content =
        until_revoked(app.auth.clone(), caller.clone(), data_stream(messages)).inspect_ok(move |bytes| {
            count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        });
    if let Some(store) = ops::choose_part_node::choose_part_node(&app.uploads, uid).await? {
        let node = ForwardTarget { store: &store, extensions };
        forward::upload_part(app, node, uid, number, &options, announced, content).await?;
    } else {
        let size = size_hint(announced);
        ops::upload_part::upload_part(&app.uploads, uid, number, options, size, content.boxed()).await?;
    }
    Ok(UploadPartResponse { size: received.load(Ordering::Relaxed) })
}

pub(super) async fn complete(
    app: &Arc<App>,
    caller: &Caller,
    extensions: &Extensions,
    request: CompleteUploadRequest,
) -> Result<Upload> {
    let uid = parse_own_uid(app, caller, extensions, &request.uid).await?;
    let expected = parse::expected_digests(request.digests.as_ref())?;
    let request = CompleteRequest { parts: request.parts, size: request.size, expected };
    let constraints = caller.upload_constraints();
    match ops::choose_part_node::parts_elsewhere(&app.uploads, uid).await? {
        Some(store) => {
            let node = ForwardTarget { store: &store, extensions };
            forward::complete_upload(app, node, uid, request, &constraints).await?;
        }
        None => ops::complete_upload::complete_upload(&app.uploads, uid, request, &constraints).await?,
    }
    status(app, uid).await
}

pub(super) async fn instant(
    app: &App,
    caller: &Caller,
    request: &InstantUploadRequest,
) -> Result<InstantUploadResponse> {
    if request.items.len() > MAX_ITEMS {
        return Err(Error::invalid(format!("there must be at most {MAX_ITEMS} items")).with_field("items"));
    }
    let item = |item: &'_ osproxy_api::grpc::v1::InstantUploadItem| -> Result<[u8; 16]> {
        let missing = || Error::invalid("`md5` must have 16 bytes").with_field("items.md5");
        parse::digest("items.md5", &item.md5)?.ok_or_else(missing)
    };
    let items = request.items.iter().map(|wanted| Ok(Item { md5: item(wanted)?, path: &wanted.name }));
    let wanted: Vec<_> = items.collect::<Result<_>>()?;
    let created = ops::instant_upload::instant_upload(&app.uploads, caller, &wanted).await?;
    let result =
        |uid: Option<Uid>| InstantUploadResult { uid: uid.map(|uid| uid.to_string()).unwrap_or_default() };
    Ok(InstantUploadResponse { results: created.into_iter().map(result).collect() })
}
