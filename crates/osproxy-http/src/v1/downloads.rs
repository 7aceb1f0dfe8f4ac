//! Downloads by signed link.

use axum::{
    extract::{Request, State},
    response::Response,
};
use osproxy_api::{ErrorCode, v1};
use osproxy_core::{
    Error,
    links::{LinkAction, LinkClaims, LinkError},
};

use super::{
    path::{self, PathResult},
    query::Query,
};
use crate::{
    middleware::reject_body,
    openapi,
    respond::{
        content::{Downloads, Presentation, serve_file},
        disposition::Disposition,
        error::HandlerResult,
    },
};

/// `GET` and `HEAD /f/{uid}/{filename}`
#[utoipa::path(
    get, path = "/f/{uid}/{filename}", tag = "Downloads", operation_id = "v1_download_file",
    summary = "Download a file or a range of it", description = "",
    params(
        openapi::UidPath,
        ("filename" = String, Path, description = "Name under which the client saves the file.", example = "film.mp4"),
        openapi::SignedQuery,
        ("disposition" = v1::Disposition, Query, description = "Whether browsers display or save the file."),
        openapi::ConditionalHeaders,
    ),
    responses(
        openapi::ContentResponses,
        openapi::CommonErrors,
        openapi::LinkErrors,
        openapi::ReadErrors,
        (status = 412, response = openapi::Unmet),
        (status = 416, response = openapi::OutOfRange),
    )
)]
pub(crate) async fn download_file(
    State(downloads): State<Downloads>,
    parameters: PathResult<(String, String)>,
    request: Request,
) -> HandlerResult<Response> {
    let (uid, filename) = path::parameters(parameters)?;
    let (request, _) = request.into_parts();
    reject_body(&request.headers)?;
    let query = Query::parse_known(request.uri.query(), &["date", "expire", "signature", "disposition"])?;
    let disposition = query.required("disposition")?;
    let claims = LinkClaims {
        action: LinkAction::Download,
        uid: &uid,
        date: query.required("date")?,
        expire: query.required("expire")?,
        action_params: &[&filename, disposition],
    };
    let presentation = match disposition {
        "inline" => Disposition::Inline,
        "attachment" => Disposition::Attachment,
        _ => {
            let message = "`disposition` must be inline or attachment";
            return Err(Error::invalid(message).with_field("disposition").into());
        }
    };
    let signature = query.required("signature")?;
    let Ok(parsed_uid) = path::parse_uid(&uid) else {
        return Err(Error::new(ErrorCode::InvalidSignature, LinkError::Signature.to_string()).into());
    };
    let link = downloads.link_verifier.verify(&request, parsed_uid, &claims, signature).await?;
    let wanted = Presentation { disposition: presentation, filename: Some(&filename), link: &link };
    serve_file(&downloads, &request, parsed_uid, wanted).await
}
