//! Signed URLs of uploads and downloads.

use osproxy_api::{
    tus,
    v1::{Disposition, LINKS, PREFIX, UploadGrantLinks, UploadLinks},
};
use osproxy_types::uid::Uid;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use time::OffsetDateTime;

use crate::auth::GrantRecord;
use crate::links::{LinkAction, LinkClaims, LinkConstraints, LinkKeys, LinkPeriod, Links};

/// The unreserved characters of RFC 3986.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Query parameters of an upload link.
pub const UPLOAD_PARAMETERS: [&str; 3] = ["date", "expire", "signature"];

/// Query parameters of the link of an upload grant.
pub const GRANT_PARAMETERS: [&str; 4] = ["grant", "date", "expire", "signature"];

impl Links {
    /// Returns the links of an upload, valid during `period`. The link for parts contains
    /// `{number}`, which the client replaces by the part number.
    pub fn upload_links(&self, uid: Uid, period: LinkPeriod, constraints: &LinkConstraints) -> UploadLinks {
        let query = upload_query(&self.keys, uid, period, constraints);
        let url = |what: &str| format!("{PREFIX}/uploads/{uid}{what}?{query}");
        UploadLinks {
            content: url("/content"),
            part: url("/parts/{number}"),
            state: url(""),
            complete: url("/complete"),
            tus: tus_url(uid, &query),
        }
    }

    /// Returns the URL of an upload for clients of tus.
    pub fn tus_link(&self, uid: Uid, period: LinkPeriod, constraints: &LinkConstraints) -> String {
        tus_url(uid, &upload_query(&self.keys, uid, period, constraints))
    }

    /// Returns the link for the proof of possession of an upload.
    pub fn proof_link(&self, uid: Uid, period: LinkPeriod, constraints: &LinkConstraints) -> String {
        format!("{PREFIX}/uploads/{uid}/proof?{}", upload_query(&self.keys, uid, period, constraints))
    }

    /// Returns a download link of a file. Clients save the file under the name `filename`.
    pub fn download_link(
        &self,
        uid: Uid,
        filename: &str,
        period: LinkPeriod,
        disposition: Disposition,
        constraints: &LinkConstraints,
    ) -> String {
        let (uid, date, expire) =
            (uid.to_string(), crate::links::format_date(period.date), period.lifetime_secs.to_string());
        let extra = [filename, disposition.as_str()];
        let claims = LinkClaims {
            action: LinkAction::Download,
            uid: &uid,
            date: &date,
            expire: &expire,
            action_params: &extra,
        };
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("date", &date)
            .append_pair("expire", &expire)
            .append_pair("signature", &self.keys.sign(&claims, constraints))
            .append_pair("disposition", disposition.as_str())
            .finish();
        format!("{LINKS}/{uid}/{}?{query}", utf8_percent_encode(filename, UNRESERVED))
    }
}

/// Returns the links of an upload grant.
pub fn grant_links(links: &LinkKeys, grant: &GrantRecord) -> UploadGrantLinks {
    let id = grant.id.to_string();
    let created_at = grant.created_at.div_euclid(1000);
    let date = OffsetDateTime::from_unix_timestamp(created_at).map(crate::links::format_date);
    let date = date.unwrap_or_default();
    let expire = (grant.expires_at.div_euclid(1000) - created_at).to_string();
    let claims = LinkClaims {
        action: LinkAction::CreateUploads,
        uid: &id,
        date: &date,
        expire: &expire,
        action_params: &[],
    };
    let signature = links.sign(&claims, &LinkConstraints::default());
    let [id_name, date_name, expire_name, signature_name] = GRANT_PARAMETERS;
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair(id_name, &id)
        .append_pair(date_name, &date)
        .append_pair(expire_name, &expire)
        .append_pair(signature_name, &signature)
        .finish();
    UploadGrantLinks { tus: format!("{}?{query}", tus::PREFIX), uploads: format!("{PREFIX}/uploads?{query}") }
}

fn tus_url(uid: Uid, query: &str) -> String {
    format!("{}/{uid}?{query}", tus::PREFIX)
}

/// Returns the query of an upload link to `uid`.
pub fn upload_query(links: &LinkKeys, uid: Uid, period: LinkPeriod, constraints: &LinkConstraints) -> String {
    let (uid, date) = (uid.to_string(), crate::links::format_date(period.date));
    let expire = period.lifetime_secs.to_string();
    let claims = LinkClaims {
        action: LinkAction::Upload,
        uid: &uid,
        date: &date,
        expire: &expire,
        action_params: &[],
    };
    let signature = links.sign(&claims, constraints);
    let [date_name, expire_name, signature_name] = UPLOAD_PARAMETERS;
    form_urlencoded::Serializer::new(String::new())
        .append_pair(date_name, &date)
        .append_pair(expire_name, &expire)
        .append_pair(signature_name, &signature)
        .finish()
}
