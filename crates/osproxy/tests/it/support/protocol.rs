use std::collections::BTreeMap;

use futures_util::StreamExt;
use osproxy_api::{
    grpc::v1::{self as pb, download_file_response::Part as Downloaded},
    v1::{CreatedUpload, UploadLinks},
};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tonic::Status;

use super::{Api, Grpc, Service, grpc::error_reason};

/// The protocol that a [`Client`] uses.
#[derive(Clone, Copy, Debug)]
pub enum Protocol {
    Http,
    Grpc,
}

/// The code of an error, and the invalid field if there is one.
pub type CallError = (String, Option<String>);

/// The description of a file, in either protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct FileInfo {
    pub uid: String,
    pub name: String,
    pub state: String,
    pub size: Option<u64>,
    pub content_type: Option<String>,
    pub category: String,
    pub metadata: BTreeMap<String, String>,
    pub blake3: Option<String>,
}

/// The state of an upload, in either protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct UploadInfo {
    pub state: String,
    pub parts: Vec<u32>,
    pub received: u64,
    pub size: Option<u64>,
    pub part_size: Option<u64>,
}

/// The fields of a request that creates an upload.
#[derive(Clone, Debug, Default)]
pub struct UploadSpec<'a> {
    pub name: &'a str,
    pub size: Option<u64>,
    pub part_size: Option<u64>,
    pub content_type: &'a str,
    pub blake3: Option<[u8; 32]>,
    pub metadata: &'a [(&'a str, &'a str)],
    pub expires_in: Option<i64>,
}

/// A client with the same operations in either protocol.
pub struct Client {
    api: Api,
    /// Present if the protocol is gRPC.
    grpc: Option<Grpc>,
    links: BTreeMap<String, UploadLinks>,
}

impl Client {
    pub fn for_service(service: &Service, protocol: Protocol) -> Self {
        Self::new(service, protocol)
    }

    /// A client with the same address and API key as `api`.
    pub fn new(api: &Api, protocol: Protocol) -> Self {
        let grpc = matches!(protocol, Protocol::Grpc).then(|| api.grpc());
        Self { api: api.clone(), grpc, links: BTreeMap::new() }
    }

    /// Creates an upload. Returns the uid, the state and the part size.
    pub async fn create(
        &mut self,
        wish: &UploadSpec<'_>,
    ) -> Result<(String, String, Option<u64>), CallError> {
        if let Some(grpc) = &mut self.grpc {
            let request = pb::CreateUploadRequest {
                name: wish.name.to_owned(),
                size: wish.size,
                part_size: wish.part_size,
                content_type: wish.content_type.to_owned(),
                digests: wish.blake3.map(|blake3| digests(None, Some(blake3))),
                metadata: pairs(wish.metadata).into_iter().collect(),
                expires_in: wish.expires_in.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
            };
            let created = grpc.files.create_upload(request).await.map_err(refusal)?.into_inner();
            let state = state(created.state);
            return Ok((created.uid, state, created.part_size));
        }
        let mut body = json!({ "name": wish.name });
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body[name] = value;
            }
        };
        set("size", wish.size.map(Value::from));
        set("part_size", wish.part_size.map(Value::from));
        set("content_type", Some(wish.content_type).filter(|text| !text.is_empty()).map(Value::from));
        set("blake3", wish.blake3.map(|blake3| hex::encode(blake3).into()));
        set("metadata", (!wish.metadata.is_empty()).then(|| json!(pairs(wish.metadata))));
        set("expires_in", wish.expires_in.map(Value::from));
        let created = accepted(self.api.v1_post("/uploads", &body).await).await?;
        let created: CreatedUpload = created.json().await.unwrap();
        let state = serde_json::to_value(created.state).unwrap().as_str().unwrap().to_owned();
        if let Some(links) = created.links {
            self.links.insert(created.uid.clone(), links);
        }
        Ok((created.uid, state, created.part_size))
    }

    /// Sends the whole content, with the expected MD5 if given.
    pub async fn send(&mut self, uid: &str, content: &[u8], md5: Option<[u8; 16]>) -> Result<(), CallError> {
        if let Some(grpc) = &mut self.grpc {
            let header = pb::UploadFileHeader {
                uid: uid.to_owned(),
                size: Some(content.len() as u64),
                digests: md5.map(|md5| digests(Some(md5), None)),
            };
            let messages = super::grpc::file_messages(header, content);
            let sent = grpc.files.upload_file(futures_util::stream::iter(messages)).await;
            return sent.map(drop).map_err(refusal);
        }
        let url = self.links[uid].content.clone();
        self.put(&url, content, md5).await
    }

    /// Sends a part, with the expected MD5 of the part if given.
    pub async fn send_part(
        &mut self,
        uid: &str,
        number: u32,
        content: &[u8],
        md5: Option<[u8; 16]>,
    ) -> Result<(), CallError> {
        if let Some(grpc) = &mut self.grpc {
            let header = pb::UploadPartHeader {
                uid: uid.to_owned(),
                number,
                size: Some(content.len() as u64),
                digests: md5.map(|md5| digests(Some(md5), None)),
            };
            let messages = super::grpc::part_messages(header, content);
            let sent = grpc.files.upload_part(futures_util::stream::iter(messages)).await;
            let size = sent.map_err(refusal)?.into_inner().size;
            assert_eq!(size, content.len() as u64);
            return Ok(());
        }
        let url = self.links[uid].part.replace("{number}", &number.to_string());
        self.put(&url, content, md5).await
    }

    async fn put(&self, url: &str, content: &[u8], md5: Option<[u8; 16]>) -> Result<(), CallError> {
        let mut request = self.api.client().put(self.api.url(url)).body(content.to_vec());
        if let Some(md5) = md5 {
            use base64::{Engine, engine::general_purpose::STANDARD};
            request = request.header("content-md5", STANDARD.encode(md5));
        }
        accepted(request.send().await.unwrap()).await.map(drop)
    }

    pub async fn upload_status(&mut self, uid: &str) -> Result<UploadInfo, CallError> {
        if let Some(grpc) = &mut self.grpc {
            let request = pb::GetUploadRequest { uid: uid.to_owned() };
            let upload = grpc.files.get_upload(request).await.map_err(refusal)?.into_inner();
            return Ok(UploadInfo {
                state: state(upload.state),
                parts: upload.parts,
                received: upload.received,
                size: upload.size,
                part_size: upload.part_size,
            });
        }
        let answer = accepted(self.api.get(&self.links[uid].state).await).await?;
        let status: Value = answer.json().await.unwrap();
        Ok(UploadInfo {
            state: status["state"].as_str().unwrap().to_owned(),
            parts: serde_json::from_value(status["parts"].clone()).unwrap_or_default(),
            received: status["received"].as_u64().unwrap_or_default(),
            size: status["size"].as_u64(),
            part_size: status["part_size"].as_u64(),
        })
    }

    pub async fn complete(&mut self, uid: &str, parts: u32, content: &[u8]) -> Result<(), CallError> {
        let (size, blake3) = (content.len() as u64, blake3::hash(content));
        if let Some(grpc) = &mut self.grpc {
            let request = pb::CompleteUploadRequest {
                uid: uid.to_owned(),
                parts: Some(parts),
                size: Some(size),
                digests: Some(digests(None, Some(*blake3.as_bytes()))),
            };
            return grpc.files.complete_upload(request).await.map(drop).map_err(refusal);
        }
        let url = self.api.url(&self.links[uid].complete);
        let said = json!({"parts": parts, "size": size, "blake3": blake3.to_hex().as_str()});
        accepted(self.api.client().post(url).json(&said).send().await.unwrap()).await.map(drop)
    }

    pub async fn abort(&mut self, uid: &str) -> Result<(), CallError> {
        if let Some(grpc) = &mut self.grpc {
            let request = pb::AbortUploadRequest { uid: uid.to_owned() };
            return grpc.files.abort_upload(request).await.map(drop).map_err(refusal);
        }
        let url = self.api.url(&self.links[uid].state);
        accepted(self.api.client().delete(url).send().await.unwrap()).await.map(drop)
    }

    /// The bytes from `offset` on, at most `length` of them.
    pub async fn read(&mut self, uid: &str, offset: u64, length: Option<u64>) -> Result<Vec<u8>, CallError> {
        if let Some(grpc) = &mut self.grpc {
            let request = pb::DownloadFileRequest { uid: uid.to_owned(), offset, length };
            let mut messages = grpc.files.download_file(request).await.map_err(refusal)?.into_inner();
            let first = messages.message().await.map_err(refusal)?.and_then(|message| message.part);
            let Some(Downloaded::File(file)) = first else { panic!("the first message is {first:?}") };
            assert_eq!(file.uid, uid);
            let mut content = Vec::new();
            while let Some(message) = messages.next().await {
                let Some(Downloaded::Data(data)) = message.map_err(refusal)?.part else {
                    panic!("a message has no data");
                };
                content.extend_from_slice(&data);
            }
            return Ok(content);
        }
        let answer = self.api.v1_post(&format!("/files/{uid}/links"), &json!({"expires_in": 60})).await;
        let link: Value = accepted(answer).await?.json().await.unwrap();
        let last = length.map_or_else(String::new, |length| (offset + length - 1).to_string());
        let request = self.api.client().get(self.api.url(link["url"].as_str().unwrap()));
        let answer = request.header("range", format!("bytes={offset}-{last}")).send().await.unwrap();
        Ok(accepted(answer).await?.bytes().await.unwrap().to_vec())
    }

    pub async fn describe(&mut self, uid: &str) -> Result<FileInfo, CallError> {
        if let Some(grpc) = &mut self.grpc {
            let request = pb::GetFileRequest { uid: uid.to_owned() };
            return Ok(file_info(grpc.files.get_file(request).await.map_err(refusal)?.into_inner()));
        }
        Ok(known_of_json(&self.json(Method::GET, &format!("/files/{uid}"), None).await?))
    }

    /// A page of the files whose names have this prefix, and the token of the next page.
    pub async fn list(
        &mut self,
        prefix: &str,
        limit: u32,
        token: Option<&str>,
    ) -> Result<(Vec<FileInfo>, Option<String>), CallError> {
        if let Some(grpc) = &mut self.grpc {
            let request = pb::ListFilesRequest {
                page_size: limit,
                page_token: token.unwrap_or_default().to_owned(),
                prefix: prefix.to_owned(),
                ..pb::ListFilesRequest::default()
            };
            let page = grpc.files.list_files(request).await.map_err(refusal)?.into_inner();
            let next = Some(page.next_page_token).filter(|token| !token.is_empty());
            return Ok((page.files.into_iter().map(file_info).collect(), next));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("&prefix={prefix}") };
        let cursor = token.map_or_else(String::new, |token| format!("&cursor={token}"));
        let page = self.json(Method::GET, &format!("/files?limit={limit}{prefix}{cursor}"), None).await?;
        let files = page["files"].as_array().unwrap().iter().map(known_of_json).collect();
        Ok((files, page["next_cursor"].as_str().map(str::to_owned)))
    }

    pub async fn copy(&mut self, uid: &str, name: &str) -> Result<FileInfo, CallError> {
        if let Some(grpc) = &mut self.grpc {
            let request = pb::CopyFileRequest { uid: uid.to_owned(), name: name.to_owned(), metadata: None };
            return Ok(file_info(grpc.files.copy_file(request).await.map_err(refusal)?.into_inner()));
        }
        let body = json!({ "name": name });
        Ok(known_of_json(&self.json(Method::POST, &format!("/files/{uid}/copy"), Some(&body)).await?))
    }

    pub async fn delete(&mut self, uid: &str) -> Result<(), CallError> {
        if let Some(grpc) = &mut self.grpc {
            let request = pb::DeleteFileRequest { uid: uid.to_owned() };
            return grpc.files.delete_file(request).await.map(drop).map_err(refusal);
        }
        accepted(self.api.v1(Method::DELETE, &format!("/files/{uid}"), None).await).await.map(drop)
    }

    /// Id, kind and state of the tasks, newest first.
    pub async fn tasks(&mut self) -> Result<Vec<(String, String, String)>, CallError> {
        if let Some(grpc) = &mut self.grpc {
            let page = grpc.tasks.list_tasks(pb::ListTasksRequest::default()).await.map_err(refusal)?;
            let name = |task: &pb::Task| task.state().as_str_name().replace("TASK_STATE_", "").to_lowercase();
            let told = |task: pb::Task| (task.id.clone(), task.kind.clone(), name(&task));
            return Ok(page.into_inner().tasks.into_iter().map(told).collect());
        }
        let page = self.json(Method::GET, "/tasks", None).await?;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let told = |task: &Value| (text(&task["id"]), text(&task["kind"]), text(&task["state"]));
        Ok(page["tasks"].as_array().unwrap().iter().map(told).collect())
    }

    /// Retries a dead task.
    pub async fn retry(&mut self, id: &str) -> Result<(), CallError> {
        if let Some(grpc) = &mut self.grpc {
            let request = pb::RetryTaskRequest { id: id.to_owned() };
            return grpc.tasks.retry_task(request).await.map(drop).map_err(refusal);
        }
        accepted(self.api.v1(Method::POST, &format!("/tasks/{id}/retry"), None).await).await.map(drop)
    }

    /// The ids of the nodes.
    pub async fn nodes(&mut self) -> Result<Vec<String>, CallError> {
        if let Some(grpc) = &mut self.grpc {
            let nodes =
                grpc.cluster.list_nodes(pb::ListNodesRequest {}).await.map_err(refusal)?.into_inner().nodes;
            return Ok(nodes.into_iter().map(|node| node.id).collect());
        }
        let page = self.json(Method::GET, "/nodes", None).await?;
        let nodes = page["nodes"].as_array().unwrap();
        Ok(nodes.iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect())
    }

    async fn json(&self, method: Method, route: &str, body: Option<&Value>) -> Result<Value, CallError> {
        Ok(accepted(self.api.v1(method, route, body).await).await?.json().await.unwrap())
    }
}

fn digests(md5: Option<[u8; 16]>, blake3: Option<[u8; 32]>) -> pb::Digests {
    pb::Digests {
        md5: md5.map(|md5| md5.to_vec().into()).unwrap_or_default(),
        blake3: blake3.map(|blake3| blake3.to_vec().into()).unwrap_or_default(),
        ..pb::Digests::default()
    }
}

fn pairs(metadata: &[(&str, &str)]) -> BTreeMap<String, String> {
    metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn state(number: i32) -> String {
    let state = pb::FileState::try_from(number).unwrap();
    state.as_str_name().strip_prefix("FILE_STATE_").unwrap().to_lowercase()
}

fn file_info(file: pb::File) -> FileInfo {
    FileInfo {
        uid: file.uid,
        name: file.name,
        state: state(file.state),
        size: file.size,
        content_type: Some(file.content_type).filter(|text| !text.is_empty()),
        category: file.category,
        metadata: file.metadata.into_iter().collect(),
        blake3: file.digests.map(|digests| hex::encode(digests.blake3)),
    }
}

fn known_of_json(file: &Value) -> FileInfo {
    let text = |name: &str| file[name].as_str().map(str::to_owned);
    FileInfo {
        uid: text("uid").unwrap(),
        name: text("name").unwrap(),
        state: text("state").unwrap(),
        size: file["size"].as_u64(),
        content_type: text("content_type"),
        category: text("category").unwrap(),
        metadata: serde_json::from_value(file["metadata"].clone()).unwrap_or_default(),
        blake3: text("blake3"),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn refusal(status: Status) -> CallError {
    error_reason(&status)
}

async fn accepted(answer: Response) -> Result<Response, CallError> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let problem: Value = answer.json().await.unwrap();
    let text = |name: &str| problem[name].as_str().map(str::to_owned);
    Err((text("code").unwrap(), text("field")))
}
