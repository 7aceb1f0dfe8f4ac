use std::net::SocketAddr;

use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use osproxy_api::grpc::v1::{
    UploadFileHeader, UploadFileRequest, UploadPartHeader, UploadPartRequest,
    cluster_service_client::ClusterServiceClient, event_service_client::EventServiceClient,
    file_service_client::FileServiceClient, task_service_client::TaskServiceClient, upload_file_request,
    upload_part_request,
};
use tonic::{
    Request, Status,
    body::Body,
    service::{Interceptor, interceptor::InterceptedService},
};
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

/// A connection that adds an API key, if there is one.
type Channel = InterceptedService<Client<HttpConnector, Body>, Key>;

#[derive(Clone, Default)]
pub struct Key(Option<String>);

impl Interceptor for Key {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            let value = format!("Bearer {key}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// Clients of all services over one connection.
#[derive(Clone)]
pub struct Grpc {
    pub files: FileServiceClient<Channel>,
    pub tasks: TaskServiceClient<Channel>,
    pub cluster: ClusterServiceClient<Channel>,
    pub events: EventServiceClient<Channel>,
    pub health: HealthClient<Channel>,
}

impl Grpc {
    /// Connects with this API key, if there is one.
    pub fn with_key(address: SocketAddr, key: Option<&str>) -> Self {
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        let channel = InterceptedService::new(client, Key(key.map(str::to_owned)));
        let origin: hyper::Uri = format!("http://{address}").parse().unwrap();
        Self {
            files: FileServiceClient::with_origin(channel.clone(), origin.clone()),
            tasks: TaskServiceClient::with_origin(channel.clone(), origin.clone()),
            cluster: ClusterServiceClient::with_origin(channel.clone(), origin.clone()),
            events: EventServiceClient::with_origin(channel.clone(), origin.clone()),
            health: HealthClient::with_origin(channel, origin),
        }
    }
}

/// The error code of a failed call, and the invalid field if there is one.
pub fn error_reason(status: &Status) -> (String, Option<String>) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("the error has no code: {status:?}"));
    assert_eq!(info.domain, "osproxy");
    let code = info.reason.to_lowercase();
    let known = osproxy_api::ErrorCode::named(&code).expect("an unknown error code");
    assert_eq!(status.code(), known.grpc_code(), "{status:?}");
    assert!(!status.message().is_empty());
    let violation = details.bad_request().and_then(|refused| refused.field_violations.first());
    (code, violation.map(|violation| violation.field.clone()))
}

/// Maximum number of content bytes per message.
pub const MESSAGE: usize = 64 << 10;

/// The request messages that send the whole content of a file.
pub fn file_messages(header: UploadFileHeader, content: &[u8]) -> Vec<UploadFileRequest> {
    use upload_file_request::Part;
    let data = content.chunks(MESSAGE).map(|chunk| Part::Data(chunk.to_vec().into()));
    std::iter::once(Part::Header(header))
        .chain(data)
        .map(|part| UploadFileRequest { part: Some(part) })
        .collect()
}

/// The request messages that send one part.
pub fn part_messages(header: UploadPartHeader, content: &[u8]) -> Vec<UploadPartRequest> {
    use upload_part_request::Part;
    let data = content.chunks(MESSAGE).map(|chunk| Part::Data(chunk.to_vec().into()));
    std::iter::once(Part::Header(header))
        .chain(data)
        .map(|part| UploadPartRequest { part: Some(part) })
        .collect()
}
