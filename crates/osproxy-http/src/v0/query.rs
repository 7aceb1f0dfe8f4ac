//! Query parameters and signed links of API v0.

use std::{borrow::Cow, str::FromStr};

use axum::http::request::Parts;
use osproxy_api::v0::PREFIX;
use osproxy_core::{
    Error, Result,
    links::{self as signing, LinkAction, LinkClaims, LinkConstraints, LinkKeys, LinkPeriod, ValidLink},
};
use osproxy_types::uid::Uid;

use crate::extract::link::LinkVerifier;

/// Decoded query parameters. If a parameter is repeated, its first value counts.
pub(crate) struct LenientQuery<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> LenientQuery<'a> {
    pub(crate) fn parse(query: Option<&'a str>) -> Self {
        Self(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect())
    }

    /// Returns a parameter, or an empty string if it is absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        let parameter = self.0.iter().find(|(known, _)| known == name);
        parameter.map_or("", |(_, value)| value)
    }

    /// Parses the optional parameter `md5`.
    pub(super) fn parse_md5(&self) -> Result<Option<[u8; 16]>> {
        match self.get("md5") {
            "" => Ok(None),
            text => md5(text).map(Some),
        }
    }

    /// Parses a required whole number.
    pub(super) fn number<T: FromStr>(&self, name: &str) -> Result<T> {
        let text = self.get(name);
        // Allow only digits: `parse` would accept a sign too.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number.ok_or_else(|| Error::invalid(format!("`{name}` must be a whole number, and not too large")))
    }

    /// Verifies a link that grants `action`. Returns its uid and the verified link. `extra` lists
    /// the names of the additional signed parameters of links for `action`.
    pub(super) async fn verify_link(
        &self,
        verifier: &LinkVerifier,
        request: &Parts,
        action: LinkAction,
        extra: &[&str],
    ) -> Result<(Uid, ValidLink)> {
        let uid = Uid::from_str(self.get("uid")).map_err(|error| Error::invalid(error.to_string()))?;
        let extra: Vec<_> = extra.iter().map(|name| self.get(name)).collect();
        let link = verifier.verify(request, uid, &self.claims(action, &extra), self.get("signature")).await?;
        Ok((uid, link))
    }

    /// Returns the claims that the signature of a link covers. `extra` lists the values of the
    /// additional signed parameters of links for `action`.
    pub(crate) fn claims<'b>(&'b self, action: LinkAction, extra: &'b [&'b str]) -> LinkClaims<'b> {
        LinkClaims {
            action,
            uid: self.get("uid"),
            date: self.get("date"),
            expire: self.get("expire"),
            action_params: extra,
        }
    }
}

/// Parses an MD5 in hexadecimal.
pub(super) fn md5(text: &str) -> Result<[u8; 16]> {
    let mut md5 = [0; 16];
    hex::decode_to_slice(text, &mut md5)
        .map_err(|_| Error::invalid("`md5` must have 32 hexadecimal digits"))?;
    Ok(md5)
}

/// Returns the query of a signed link. `extra` lists the names and values of additional signed
/// parameters.
pub(crate) fn signed_query(
    links: &LinkKeys,
    action: LinkAction,
    uid: Uid,
    period: LinkPeriod,
    extra: &[(&str, &str)],
    constraints: &LinkConstraints,
) -> String {
    let (uid, date) = (uid.to_string(), signing::format_date(period.date));
    let expire = period.lifetime_secs.to_string();
    let values: Vec<_> = extra.iter().map(|(_, value)| *value).collect();
    let claims = LinkClaims { action, uid: &uid, date: &date, expire: &expire, action_params: &values };
    let signature = links.sign(&claims, constraints);
    form_urlencoded::Serializer::new(String::new())
        .append_pair("uid", &uid)
        .extend_pairs(extra)
        .append_pair("date", &date)
        .append_pair("expire", &expire)
        .append_pair("signature", &signature)
        .finish()
}

/// Returns the relative URL of a signed link.
pub(super) fn relative_url(path: &str, query: &str) -> String {
    format!("{PREFIX}{path}?{query}")
}
