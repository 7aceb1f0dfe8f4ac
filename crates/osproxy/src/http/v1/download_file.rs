use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};

use super::{
    json,
    path::{self, InPath},
    query::Query,
};
use crate::{
    Error, Result,
    app::App,
    http::{content::Presentation, disposition::Disposition, link, serve_file::serve_file},
    link::{Action, Claims},
};

/// `GET` and `HEAD /f/{uid}/{filename}`
pub(in crate::http) async fn download_file(
    State(app): State<Arc<App>>,
    parameters: InPath<(String, String)>,
    request: Request,
) -> Result<Response> {
    let (uid, filename) = path::parameters(parameters)?;
    let (request, _) = request.into_parts();
    json::must_be_empty(&request)?;
    let query = Query::parse(request.uri.query(), &["date", "expire", "signature", "disposition"])?;
    let disposition = query.required("disposition")?;
    let claims = Claims {
        action: Action::Download,
        uid: &uid,
        date: query.required("date")?,
        expire: query.required("expire")?,
        extra: &[&filename, disposition],
    };
    let wanted = match disposition {
        "inline" => Disposition::Inline,
        "attachment" => Disposition::Attachment,
        _ => {
            return Err(
                Error::invalid("`disposition` must be inline or attachment").with_field("disposition")
            );
        }
    };
    link::verify(&app, &claims, query.required("signature")?)?;
    let uid = path::parse_uid(&uid)?;
    serve_file(&app, &request, uid, Presentation { disposition: wanted, name: Some(&filename) }).await
}
