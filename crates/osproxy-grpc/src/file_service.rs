//! `osproxy.v1.FileService`

mod links;
mod read;
mod upload;

use std::sync::Arc;

use osproxy_api::grpc::v1::{
    AbortUploadRequest, CompleteUploadRequest, CopyFileRequest, CreateDownloadLinkRequest,
    CreateUploadLinkRequest, CreateUploadRequest, CreateUploadResponse, DeleteFileRequest,
    DownloadFileRequest, DownloadLink, File, GetFileRequest, GetUploadRequest, InstantUploadRequest,
    InstantUploadResponse, ListFilesRequest, ListFilesResponse, StoreFileRequest, Upload, UploadFileRequest,
    UploadLinks, UploadPartRequest, UploadPartResponse, file_service_server::FileService,
};
use osproxy_core::{App, ops};
use osproxy_types::scope::Scope;
use tonic::{Request, Streaming};

use super::{RpcResult, caller, content::Download, parse, render, status::reply};

pub(super) struct Service(pub(super) Arc<App>);

#[tonic::async_trait]
impl FileService for Service {
    async fn create_upload(&self, request: Request<CreateUploadRequest>) -> RpcResult<CreateUploadResponse> {
        let result = async {
            let caller = caller(&request, Scope::Upload)?;
            upload::create(&self.0, &caller, request.into_inner()).await
        }
        .await;
        reply(result)
    }

    async fn store_file(&self, request: Request<Streaming<StoreFileRequest>>) -> RpcResult<File> {
        let result = async {
            let caller = caller(&request, Scope::Upload)?;
            upload::store(&self.0, &caller, request.into_inner()).await
        }
        .await;
        reply(result)
    }

    async fn upload_file(&self, request: Request<Streaming<UploadFileRequest>>) -> RpcResult<Upload> {
        let result = async {
            let caller = caller(&request, Scope::Upload)?;
            let (_, extensions, messages) = request.into_parts();
            upload::whole(&self.0, &caller, &extensions, messages).await
        }
        .await;
        reply(result)
    }

    async fn upload_part(
        &self,
        request: Request<Streaming<UploadPartRequest>>,
    ) -> RpcResult<UploadPartResponse> {
        let result = async {
            let caller = caller(&request, Scope::Upload)?;
            let (_, extensions, messages) = request.into_parts();
            upload::part(&self.0, &caller, &extensions, messages).await
        }
        .await;
        reply(result)
    }

    async fn get_upload(&self, request: Request<GetUploadRequest>) -> RpcResult<Upload> {
        let result = async {
            let caller = caller(&request, Scope::Upload)?;
            let uid = parse::uid(request.extensions(), &request.get_ref().uid)?;
            let status = ops::upload_status::own_upload_status(&self.0.uploads, &caller.tenant, uid).await?;
            Ok(render::upload(uid, status))
        }
        .await;
        reply(result)
    }

    async fn complete_upload(&self, request: Request<CompleteUploadRequest>) -> RpcResult<Upload> {
        let result = async {
            let caller = caller(&request, Scope::Upload)?;
            let (_, extensions, request) = request.into_parts();
            upload::complete(&self.0, &caller, &extensions, request).await
        }
        .await;
        reply(result)
    }

    async fn abort_upload(&self, request: Request<AbortUploadRequest>) -> RpcResult<()> {
        let result = async {
            let caller = caller(&request, Scope::Upload)?;
            let uid = parse::uid(request.extensions(), &request.get_ref().uid)?;
            ops::upload_status::own_upload_status(&self.0.uploads, &caller.tenant, uid).await?;
            ops::abort_upload::abort_upload(&self.0.uploads, uid).await?;
            Ok(())
        }
        .await;
        reply(result)
    }

    async fn instant_upload(
        &self,
        request: Request<InstantUploadRequest>,
    ) -> RpcResult<InstantUploadResponse> {
        let result = async {
            let caller = caller(&request, Scope::Upload)?;
            upload::instant(&self.0, &caller, &request.into_inner()).await
        }
        .await;
        reply(result)
    }

    async fn create_upload_link(&self, request: Request<CreateUploadLinkRequest>) -> RpcResult<UploadLinks> {
        let result = async {
            let caller = caller(&request, Scope::Upload)?;
            let (_, extensions, request) = request.into_parts();
            links::upload(&self.0, &caller, &extensions, request).await
        }
        .await;
        reply(result)
    }

    async fn create_download_link(
        &self,
        request: Request<CreateDownloadLinkRequest>,
    ) -> RpcResult<DownloadLink> {
        let result = async {
            let caller = caller(&request, Scope::Read)?;
            let (_, extensions, request) = request.into_parts();
            links::download(&self.0, &caller, &extensions, request).await
        }
        .await;
        reply(result)
    }

    type DownloadFileStream = Download;

    async fn download_file(&self, request: Request<DownloadFileRequest>) -> RpcResult<Download> {
        let result = async {
            let caller = caller(&request, Scope::Read)?;
            let (_, extensions, request) = request.into_parts();
            read::download(&self.0, &caller, &extensions, &request).await
        }
        .await;
        reply(result)
    }

    async fn get_file(&self, request: Request<GetFileRequest>) -> RpcResult<File> {
        let result = async {
            let caller = caller(&request, Scope::Read)?;
            let uid = parse::uid(request.extensions(), &request.get_ref().uid)?;
            let file = ops::describe_file::describe_file(&self.0.files, &caller.tenant, uid).await?;
            Ok(render::file(file))
        }
        .await;
        reply(result)
    }

    async fn list_files(&self, request: Request<ListFilesRequest>) -> RpcResult<ListFilesResponse> {
        let result = async {
            let caller = caller(&request, Scope::Read)?;
            read::list(&self.0, &caller, request.into_inner()).await
        }
        .await;
        reply(result)
    }

    async fn delete_file(&self, request: Request<DeleteFileRequest>) -> RpcResult<()> {
        let result = async {
            let caller = caller(&request, Scope::Delete)?;
            let uid = parse::uid(request.extensions(), &request.get_ref().uid)?;
            ops::delete_file::delete_file(&self.0.files, &caller.tenant, uid).await?;
            Ok(())
        }
        .await;
        reply(result)
    }

    async fn copy_file(&self, request: Request<CopyFileRequest>) -> RpcResult<File> {
        let result = async {
            let caller = caller(&request, Scope::Upload)?;
            let uid = parse::uid(request.extensions(), &request.get_ref().uid)?;
            let CopyFileRequest { name, metadata, .. } = request.into_inner();
            let name = parse::optional_text(name);
            let metadata = metadata.map(|metadata| metadata.entries.into_iter().collect());
            let name = name.as_deref();
            let copy = ops::copy_file::copy_file(&self.0.files, &caller, uid, name, metadata, None).await?;
            Ok(if caller.has_scope(Scope::Read) { render::file(copy) } else { render::unread_file(copy.uid) })
        }
        .await;
        reply(result)
    }
}
