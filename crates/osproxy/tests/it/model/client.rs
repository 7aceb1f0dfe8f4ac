//! One upload over either version of the API: a link of one is valid in the other, since both sign
//! the same parameters.

use base64::{Engine, engine::general_purpose::STANDARD};
use osproxy_api::{
    ErrorCode,
    v0::Envelope,
    v1::{CreatedUpload, UploadState, UploadStatus},
};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::file::{Bytes, CompleteFields, Outcome, Outcomes, PART};
use crate::support::{Api, expect_json};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Version {
    V0,
    V1,
}

impl Version {
    pub fn other(self) -> Self {
        match self {
            Self::V0 => Self::V1,
            Self::V1 => Self::V0,
        }
    }
}

/// An upload link for one file.
#[derive(Clone)]
pub struct Link {
    pub uid: String,
    /// Date, expiry and signature.
    query: String,
}

/// The answer to a request.
pub struct Answer {
    version: Version,
    /// The status that means success.
    success: u16,
    pub response: Response,
}

impl Answer {
    pub fn new(version: Version, success: u16, response: Response) -> Self {
        Self { version, success, response }
    }

    /// The matching outcome: its code in the header, and the status of this API version.
    pub fn outcome(&self, right: &Outcomes) -> Option<Outcome> {
        let is = |outcome: &Outcome| match outcome {
            None => self.status() == self.success,
            Some(code) => {
                let status = match self.version {
                    Version::V0 => ErrorCode::v0_status(*code),
                    Version::V1 => ErrorCode::v1_status(*code),
                };
                self.status() == status && self.error_code() == code.as_str()
            }
        };
        right.iter().copied().find(is)
    }

    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The code of an error.
    pub fn error_code(&self) -> &str {
        self.response.headers().get("osproxy-error").map_or("", |code| code.to_str().unwrap())
    }
}

/// The state of an upload, in either version of the API.
pub enum Status {
    Numbers(Vec<u32>),
    All(UploadStatus),
}

impl Status {
    pub fn numbers(&self) -> &[u32] {
        match self {
            Self::Numbers(numbers) => numbers,
            Self::All(status) => &status.parts,
        }
    }
}

impl Link {
    /// Creates an upload without any announcement.
    pub async fn create(api: &Api) -> Self {
        let link = api.upload_link("x.bin").await;
        let query = link.url.single.split_once('?').unwrap().1;
        let query: Vec<_> = query.split('&').filter(|pair| !pair.starts_with("uid=")).collect();
        Self { uid: link.uid, query: query.join("&") }
    }

    /// Creates an upload of this size, in parts of 64 KiB.
    pub async fn create_sized(api: &Api, size: usize) -> Self {
        let wish = json!({"name": "x.bin", "size": size, "part_size": PART});
        let created: CreatedUpload = expect_json(api.v1_post("/uploads", &wish).await, 201).await;
        assert_eq!(created.part_size, Some(PART as u64));
        let links = created.links.unwrap();
        let query = links.state.split_once('?').unwrap().1.to_owned();
        Self { uid: created.uid, query }
    }

    fn v0(&self, route: &str) -> String {
        format!("/api/storage/v0/upload{route}?uid={}&{}", self.uid, self.query)
    }

    fn v1(&self, what: &str) -> String {
        format!("/api/v1/uploads/{}{what}?{}", self.uid, self.query)
    }

    pub async fn put_part(
        &self,
        api: &Api,
        version: Version,
        number: u32,
        md5: Option<&str>,
        bytes: &Bytes,
    ) -> Answer {
        match version {
            Version::V0 => put_v0(api, &format!("{}&chunkNum={number}", self.v0("/multi")), md5, bytes).await,
            Version::V1 => put_v1(api, 204, &self.v1(&format!("/parts/{number}")), md5, bytes).await,
        }
    }

    pub async fn put_content(&self, api: &Api, version: Version, md5: Option<&str>, bytes: &Bytes) -> Answer {
        match version {
            Version::V0 => put_v0(api, &self.v0(""), md5, bytes).await,
            Version::V1 => put_v1(api, 200, &self.v1("/content"), md5, bytes).await,
        }
    }

    pub async fn complete(&self, api: &Api, version: Version, said: &CompleteFields) -> Answer {
        let CompleteFields { parts, size, md5 } = said;
        match version {
            Version::V0 => {
                let (parts, size) = (parts.unwrap(), size.unwrap());
                let url = format!("{}&num={parts}&size={size}", self.v0("/merge"));
                put_v0(api, &url, md5.as_deref(), &Bytes::default()).await
            }
            Version::V1 => {
                let mut body = json!({"parts": parts, "size": size, "md5": md5});
                body.as_object_mut().unwrap().retain(|_, value| !value.is_null());
                let request = api.client().post(api.url(&self.v1("/complete")));
                // A request without fields needs no body.
                let is_silent = body.as_object().is_some_and(serde_json::Map::is_empty);
                let request = if is_silent { request } else { request.json::<Value>(&body) };
                Answer::new(version, 200, request.send().await.unwrap())
            }
        }
    }

    pub async fn abort(&self, api: &Api) -> Answer {
        let request = api.client().request(Method::DELETE, api.url(&self.v1("")));
        Answer::new(Version::V1, 204, request.send().await.unwrap())
    }

    pub async fn get_status(&self, api: &Api) -> Answer {
        Answer::new(Version::V1, 200, api.get(&self.v1("")).await)
    }
}

async fn put_v0(api: &Api, url: &str, md5: Option<&str>, bytes: &Bytes) -> Answer {
    let md5 = md5.map(|md5| format!("&md5={md5}")).unwrap_or_default();
    Answer::new(Version::V0, 200, api.put(&format!("{url}{md5}"), bytes).await)
}

async fn put_v1(api: &Api, success: u16, url: &str, md5: Option<&str>, bytes: &Bytes) -> Answer {
    let mut request = api.client().put(api.url(url)).body(bytes.to_vec());
    if let Some(md5) = md5 {
        request = request.header("content-md5", STANDARD.encode(hex::decode(md5).unwrap()));
    }
    Answer::new(Version::V1, success, request.send().await.unwrap())
}

/// Reads the state of an upload by API v0, which needs no link.
pub async fn checkpoint(api: &Api, uid: &str) -> Answer {
    Answer::new(Version::V0, 200, api.get(&format!("/api/storage/v0/checkpoint?uid={uid}")).await)
}

/// Parses an answer with the state of an upload.
pub async fn read_status(answer: Answer) -> Status {
    match answer.version {
        Version::V0 => Status::Numbers(answer.response.json::<Envelope<Vec<u32>>>().await.unwrap().data),
        Version::V1 => Status::All(answer.response.json().await.unwrap()),
    }
}

/// Whether the state is valid for an upload that is not complete and has this many parts.
pub fn is_open(state: UploadState, parts: usize) -> bool {
    state == UploadState::Receiving || state == UploadState::Pending && parts == 0
}
