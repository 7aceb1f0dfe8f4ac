use osproxy_api::v1::{Disposition, LINKS, PREFIX, UploadLinks};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use time::OffsetDateTime;

use super::App;
use crate::{
    link::{self, Action, Claims, LinkKeys, Period, Terms},
    uid::Uid,
};

/// What RFC 3986 lets stand as it is anywhere.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The parameters of a link that lets whoever has it send content.
pub const UPLOAD_PARAMETERS: [&str; 3] = ["date", "expire", "signature"];

impl App {
    /// The links of an upload, which hold `expire` seconds from `date` on.
    pub fn upload_links(&self, uid: Uid, period: (OffsetDateTime, i64), terms: &Terms) -> UploadLinks {
        let query = upload_query(&self.links, uid, period, terms);
        let url = |what: &str| format!("{PREFIX}/uploads/{uid}{what}?{query}");
        UploadLinks {
            content: url("/content"),
            part: url("/parts/{number}"),
            state: url(""),
            complete: url("/complete"),
        }
    }

    /// The link that takes the answer to the challenge of an upload.
    pub fn proof_link(&self, uid: Uid, period: (OffsetDateTime, i64), terms: &Terms) -> String {
        format!("{PREFIX}/uploads/{uid}/proof?{}", upload_query(&self.links, uid, period, terms))
    }

    /// The link by which a file is read under a name.
    pub fn download_link(
        &self,
        (uid, filename): (Uid, &str),
        period: Period,
        disposition: Disposition,
        terms: &Terms,
    ) -> String {
        let (uid, date, expire) = (uid.to_string(), link::date(period.date), period.expire.to_string());
        let extra = [filename, disposition.as_str()];
        let claims =
            Claims { action: Action::Download, uid: &uid, date: &date, expire: &expire, extra: &extra };
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("date", &date)
            .append_pair("expire", &expire)
            .append_pair("signature", &self.links.sign(&claims, terms))
            .append_pair("disposition", disposition.as_str())
            .finish();
        format!("{LINKS}/{uid}/{}?{query}", utf8_percent_encode(filename, UNRESERVED))
    }
}

/// What lets whoever has it send the content of `uid`.
pub fn upload_query(
    links: &LinkKeys,
    uid: Uid,
    (date, expire): (OffsetDateTime, i64),
    terms: &Terms,
) -> String {
    let (uid, date, expire) = (uid.to_string(), link::date(date), expire.to_string());
    let claims = Claims { action: Action::Upload, uid: &uid, date: &date, expire: &expire, extra: &[] };
    let signature = links.sign(&claims, terms);
    let [date_name, expire_name, signature_name] = UPLOAD_PARAMETERS;
    form_urlencoded::Serializer::new(String::new())
        .append_pair(date_name, &date)
        .append_pair(expire_name, &expire)
        .append_pair(signature_name, &signature)
        .finish()
}
