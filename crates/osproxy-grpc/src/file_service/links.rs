//! Links for clients without an API key.

use osproxy_api::{
    grpc::v1::{self, CreateDownloadLinkRequest, CreateUploadLinkRequest, DownloadLink, UploadLinks},
    v1::{Constraints, CreateLinkRequest, Disposition},
};
use osproxy_core::{App, Caller, Result, download_constraints, ops};
use tonic::Extensions;

use crate::{parse, render};

pub(super) async fn upload(
    app: &App,
    caller: &Caller,
    extensions: &Extensions,
    request: CreateUploadLinkRequest,
) -> Result<UploadLinks> {
    let uid = parse::uid(extensions, &request.uid)?;
    let expire = parse::lifetime(request.expires_in)?;
    let constraints = request.constraints.map(|held| Constraints {
        max_size: held.max_size,
        content_type: parse::optional_text(held.content_type),
        networks: held.networks,
    });
    let created =
        ops::create_upload_links::create_upload_links(&app.uploads, caller, uid, expire, constraints).await?;
    Ok(UploadLinks {
        content: created.links.content,
        part: created.links.part,
        state: created.links.state,
        complete: created.links.complete,
        expires_at: Some(render::timestamp(created.expires_at)),
    })
}

pub(super) async fn download(
    app: &App,
    caller: &Caller,
    extensions: &Extensions,
    request: CreateDownloadLinkRequest,
) -> Result<DownloadLink> {
    let uid = parse::uid(extensions, &request.uid)?;
    let request_v1 = CreateLinkRequest {
        expires_in: parse::lifetime(request.expires_in)?,
        disposition: match parse::enum_value::<v1::Disposition>("disposition", request.disposition)? {
            v1::Disposition::Unspecified | v1::Disposition::Inline => Disposition::Inline,
            v1::Disposition::Attachment => Disposition::Attachment,
        },
        filename: parse::optional_text(request.filename),
        networks: request.networks,
        max_uses: request.max_uses,
    };
    let constraints = download_constraints(caller, &request_v1)?;
    let (expire, name) = (request_v1.expires_in, request_v1.filename.as_deref());
    let link = ops::create_link::create_link(&app.files, &caller.tenant, uid, expire, name).await?;
    let url = app.links.download_link(uid, &link.filename, link.period, request_v1.disposition, &constraints);
    let expires_at = link.period.expires_at_secs().saturating_mul(1000);
    Ok(DownloadLink { url, expires_at: Some(render::timestamp(expires_at)) })
}
