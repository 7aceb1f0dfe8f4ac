//! `osproxy.v1.FileService`

mod links;
mod read;
mod upload;

use std::sync::Arc;

use osproxy_api::grpc::v1::{
    AbortUploadRequest, CompleteUploadRequest, CopyFileRequest, CreateDownloadLinkRequest,
    CreateUploadLinkRequest, CreateUploadRequest, CreateUploadResponse, DeleteFileRequest,
    DownloadFileRequest, DownloadLink, File, GetFileRequest, GetUploadRequest, InstantUploadRequest,
    InstantUploadResponse, ListFilesRequest, ListFilesResponse, Upload, UploadFileRequest, UploadLinks,
    UploadPartRequest, UploadPartResponse, file_service_server::FileService,
};
use osproxy_types::scope::Scope;
use tonic::{Request, Response, Streaming};

use super::{RpcResult, caller, content::Download, parse, render};
use crate::{app::App, ops};

pub(super) struct Service(pub(super) Arc<App>);

#[tonic::async_trait]
impl FileService for Service {
    async fn create_upload(&self, request: Request<CreateUploadRequest>) -> RpcResult<CreateUploadResponse> {
        let caller = caller(&request, Scope::Upload)?;
        Ok(Response::new(upload::create(&self.0, &caller, request.into_inner()).await?))
    }

    async fn upload_file(&self, request: Request<Streaming<UploadFileRequest>>) -> RpcResult<Upload> {
        let caller = caller(&request, Scope::Upload)?;
        let (_, extensions, messages) = request.into_parts();
        Ok(Response::new(upload::whole(&self.0, &caller, &extensions, messages).await?))
    }

    async fn upload_part(
        &self,
        request: Request<Streaming<UploadPartRequest>>,
    ) -> RpcResult<UploadPartResponse> {
        let caller = caller(&request, Scope::Upload)?;
        let (_, extensions, messages) = request.into_parts();
        Ok(Response::new(upload::part(&self.0, &caller, &extensions, messages).await?))
    }

    async fn get_upload(&self, request: Request<GetUploadRequest>) -> RpcResult<Upload> {
        let caller = caller(&request, Scope::Upload)?;
        let uid = parse::uid(request.extensions(), &request.get_ref().uid)?;
        let status = ops::upload_status::own_upload_status(&self.0, &caller.tenant, uid).await?;
        Ok(Response::new(render::upload(uid, status)))
    }

    async fn complete_upload(&self, request: Request<CompleteUploadRequest>) -> RpcResult<Upload> {
        let caller = caller(&request, Scope::Upload)?;
        let (_, extensions, request) = request.into_parts();
        Ok(Response::new(upload::complete(&self.0, &caller, &extensions, request).await?))
    }

    async fn abort_upload(&self, request: Request<AbortUploadRequest>) -> RpcResult<()> {
        let caller = caller(&request, Scope::Upload)?;
        let uid = parse::uid(request.extensions(), &request.get_ref().uid)?;
        ops::upload_status::own_upload_status(&self.0, &caller.tenant, uid).await?;
        ops::abort_upload::abort_upload(&self.0, uid).await?;
        Ok(Response::new(()))
    }

    async fn instant_upload(
        &self,
        request: Request<InstantUploadRequest>,
    ) -> RpcResult<InstantUploadResponse> {
        let caller = caller(&request, Scope::Upload)?;
        Ok(Response::new(upload::instant(&self.0, &caller, &request.into_inner()).await?))
    }

    async fn create_upload_link(&self, request: Request<CreateUploadLinkRequest>) -> RpcResult<UploadLinks> {
        let caller = caller(&request, Scope::Upload)?;
        let (_, extensions, request) = request.into_parts();
        Ok(Response::new(links::upload(&self.0, &caller, &extensions, request).await?))
    }

    async fn create_download_link(
        &self,
        request: Request<CreateDownloadLinkRequest>,
    ) -> RpcResult<DownloadLink> {
        let caller = caller(&request, Scope::Read)?;
        let (_, extensions, request) = request.into_parts();
        Ok(Response::new(links::download(&self.0, &caller, &extensions, request).await?))
    }

    type DownloadFileStream = Download;

    async fn download_file(&self, request: Request<DownloadFileRequest>) -> RpcResult<Download> {
        let caller = caller(&request, Scope::Read)?;
        let (_, extensions, request) = request.into_parts();
        Ok(Response::new(read::download(&self.0, &caller, &extensions, &request).await?))
    }

    async fn get_file(&self, request: Request<GetFileRequest>) -> RpcResult<File> {
        let caller = caller(&request, Scope::Read)?;
        let uid = parse::uid(request.extensions(), &request.get_ref().uid)?;
        let file = ops::describe_file::describe_file(&self.0, &caller.tenant, uid).await?;
        Ok(Response::new(render::file(file)))
    }

    async fn list_files(&self, request: Request<ListFilesRequest>) -> RpcResult<ListFilesResponse> {
        let caller = caller(&request, Scope::Read)?;
        Ok(Response::new(read::list(&self.0, &caller, request.into_inner()).await?))
    }

    async fn delete_file(&self, request: Request<DeleteFileRequest>) -> RpcResult<()> {
        let caller = caller(&request, Scope::Delete)?;
        let uid = parse::uid(request.extensions(), &request.get_ref().uid)?;
        ops::delete_file::delete_file(&self.0, &caller.tenant, uid).await?;
        Ok(Response::new(()))
    }

    async fn copy_file(&self, request: Request<CopyFileRequest>) -> RpcResult<File> {
        let caller = caller(&request, Scope::Upload)?;
        let uid = parse::uid(request.extensions(), &request.get_ref().uid)?;
        let CopyFileRequest { name, metadata, .. } = request.into_inner();
        let name = parse::optional_text(name);
        let metadata = metadata.map(|metadata| metadata.entries.into_iter().collect());
        let name = name.as_deref();
        let copy = ops::copy_file::copy_file(&self.0, &caller, uid, name, metadata, None).await?;
        // Without the scope `read` the caller learns only the uid.
        let response = if caller.has_scope(Scope::Read) {
            render::file(copy)
        } else {
            File { uid: copy.uid.to_string(), ..File::default() }
        };
        Ok(Response::new(response))
    }
}
