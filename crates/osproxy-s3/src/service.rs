//! The operations. An operation that has no method here answers 501 with its name.

use std::sync::Arc;

use osproxy_core::App;
use s3s::{
    S3, S3Request, S3Response, S3Result,
    dto::{ListBucketsInput, ListBucketsOutput, Owner},
};

use crate::{Settings, auth::Identity};

/// The S3 API.
pub(crate) struct Service {
    #[expect(dead_code, reason = "the operations on buckets and objects need it")]
    pub(crate) app: Arc<App>,
    #[expect(dead_code, reason = "the operations on buckets need it")]
    pub(crate) settings: Settings,
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn list_buckets(
        &self,
        request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let tenant = Identity::of(&request)?.caller.tenant.to_string();
        let owner = Owner { id: Some(tenant.clone()), display_name: Some(tenant) };
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(Vec::new()),
            owner: Some(owner),
            prefix: request.input.prefix,
            ..ListBucketsOutput::default()
        }))
    }
}
