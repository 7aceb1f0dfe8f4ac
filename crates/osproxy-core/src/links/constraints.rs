//! Constraints of links, from the request and the caller's key.

use std::net::IpAddr;

use ipnet::IpNet;
use osproxy_api::v1::{Constraints, CreateLinkRequest};

use crate::{
    Caller, Error, Result,
    links::{CountedLimit, LinkConstraints},
};

/// Maximum number of networks. They are part of the URL of the link.
const MAX_NETWORKS: usize = 16;
/// Maximum length of a MIME type, in bytes.
pub(crate) const MAX_MIME_LEN: usize = 127;
/// Maximum value of `max_uses`.
const MAX_USES: u64 = 1_000_000;

/// Returns the constraints of upload links: those in the request, within the limits of the caller's
/// key; or else those of the caller's upload grant. Fails with `InvalidArgument` if `constraints` are
/// invalid or allow less than `size` bytes.
pub fn upload_constraints(
    caller: &Caller,
    size: Option<u64>,
    constraints: Option<Constraints>,
) -> Result<LinkConstraints> {
    if caller.grant().is_some() {
        if constraints.is_some() {
            return Err(field_error("constraints", "with an upload grant, `constraints` must be absent"));
        }
        return Ok(caller.upload_constraints());
    }
    let Constraints { max_size, content_type, networks } = constraints.unwrap_or_default();
    if let (Some(size), Some(max_size)) = (size, max_size)
        && size > max_size
    {
        return Err(field_error(
            "constraints.max_size",
            "`constraints.max_size` must not be less than `size`",
        ));
    }
    if content_type.as_deref().is_some_and(|wanted| !is_mime_pattern(wanted)) {
        let message = "`constraints.content_type` must be a MIME type such as image/png or image/*";
        return Err(field_error("constraints.content_type", message));
    }
    Ok(LinkConstraints {
        max_size: max_size.into_iter().chain(caller.max_size).min(),
        content_type,
        networks: parse_networks("constraints.networks", &networks)?,
        ..caller.upload_constraints()
    })
}

/// Returns the constraints of a download link. If the request limits the number of uses of the
/// link, the counter of the uses gets a new random id. Fails with `InvalidArgument` if the request
/// is invalid.
pub fn download_constraints(caller: &Caller, request: &CreateLinkRequest) -> Result<LinkConstraints> {
    let uses = request.max_uses.map(use_limit);
    Ok(LinkConstraints {
        networks: parse_networks("networks", &request.networks)?,
        uses: uses.transpose()?,
        ..caller.link_constraints()
    })
}

fn use_limit(max: u64) -> Result<CountedLimit> {
    let fits = u32::try_from(max).ok().filter(|_| (1..=MAX_USES).contains(&max));
    let max = fits.ok_or_else(|| field_error("max_uses", format!("`max_uses` must be 1 to {MAX_USES}")))?;
    let mut id = [0; 12];
    getrandom::fill(&mut id).map_err(Error::internal)?;
    Ok(CountedLimit { id: hex::encode(id), max })
}

fn field_error(field: &'static str, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::invalid(message).with_field(field)
}

/// Parses up to 16 networks. Fails with `InvalidArgument`.
pub(crate) fn parse_networks(field: &'static str, texts: &[String]) -> Result<Vec<IpNet>> {
    if texts.len() > MAX_NETWORKS {
        return Err(field_error(field, format!("`{field}` must have at most {MAX_NETWORKS} entries")));
    }
    let one = |text: &String| {
        let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        network
            .ok_or_else(|| field_error(field, format!("`{field}` must contain networks such as 10.0.0.0/8")))
    };
    texts.iter().map(one).collect()
}

/// Whether `text` is a MIME type without parameters, or a family such as `image/*`.
pub(crate) fn is_mime_pattern(text: &str) -> bool {
    let is_token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    text.len() <= MAX_MIME_LEN
        && text
            .split_once('/')
            .is_some_and(|(kind, subtype)| is_token(kind) && (subtype == "*" || is_token(subtype)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_exact_or_a_family() {
        for good in ["image/png", "image/*", "application/vnd.api+json"] {
            assert!(is_mime_pattern(good), "{good}");
        }
        for bad in ["", "*", "*/*", "image", "image/", "image/p*", "text/plain; charset=utf-8"] {
            assert!(!is_mime_pattern(bad), "{bad}");
        }
    }

    #[test]
    fn networks_are_such_or_addresses() {
        let texts = ["10.0.0.0/8", "10.0.0.1", "::1", "2001:db8::/32"].map(str::to_owned);
        assert_eq!(parse_networks("networks", &texts).unwrap().len(), 4);
        for bad in ["", "10.0.0.0/33", "example.org", "10.0.0"] {
            assert!(parse_networks("networks", &[bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(parse_networks("networks", &vec!["::1".to_owned(); 17]).is_err());
    }
}
