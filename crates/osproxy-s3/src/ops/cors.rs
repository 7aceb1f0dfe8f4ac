//! CORS rules of buckets.

use osproxy_api::ErrorCode;
use osproxy_core::{
    Error,
    buckets::{
        cors::{CorsRule, MAX_RULES},
        parse_rules,
    },
    ops::buckets::set_cors,
};
use s3s::{
    S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        CORSRule, DeleteBucketCorsInput, DeleteBucketCorsOutput, GetBucketCorsInput, GetBucketCorsOutput,
        PutBucketCorsInput, PutBucketCorsOutput,
    },
    s3_error,
};

use crate::{errors::to_s3, service::Service};

impl Service {
    pub(crate) async fn put_cors(
        &self,
        request: S3Request<PutBucketCorsInput>,
    ) -> S3Result<S3Response<PutBucketCorsOutput>> {
        let (bucket, identity) = self.current_bucket(&request, &request.input.bucket).await?;
        let rules = request.input.cors_configuration.cors_rules;
        if !(1..=MAX_RULES).contains(&rules.len()) {
            return Err(s3_error!(MalformedXML, "The number of CORS rules should be 1 to {MAX_RULES}"));
        }
        let rules = rules.into_iter().map(from_dto).collect::<S3Result<Vec<_>>>()?;
        let set = set_cors(&self.app.uploads, &identity.caller, &bucket.name, &rules).await;
        set.map_err(invalid_request)?;
        Ok(S3Response::new(PutBucketCorsOutput {}))
    }

    pub(crate) async fn get_cors(
        &self,
        request: S3Request<GetBucketCorsInput>,
    ) -> S3Result<S3Response<GetBucketCorsOutput>> {
        let (bucket, _) = self.current_bucket(&request, &request.input.bucket).await?;
        let rules: Vec<CorsRule> = parse_rules(bucket.cors.as_deref());
        if rules.is_empty() {
            return Err(s3_error!(NoSuchCORSConfiguration, "The CORS configuration does not exist"));
        }
        let cors_rules = Some(rules.into_iter().map(to_dto).collect());
        Ok(S3Response::new(GetBucketCorsOutput { cors_rules }))
    }

    pub(crate) async fn delete_cors(
        &self,
        request: S3Request<DeleteBucketCorsInput>,
    ) -> S3Result<S3Response<DeleteBucketCorsOutput>> {
        let (bucket, identity) = self.current_bucket(&request, &request.input.bucket).await?;
        set_cors(&self.app.uploads, &identity.caller, &bucket.name, &[]).await.map_err(to_s3)?;
        Ok(S3Response::new(DeleteBucketCorsOutput {}))
    }
}

/// AWS calls rules that are not valid an invalid request, not an invalid argument.
fn invalid_request(error: Error) -> S3Error {
    match error.code {
        ErrorCode::InvalidArgument => S3Error::with_message(S3ErrorCode::InvalidRequest, error.message),
        _ => to_s3(error),
    }
}

fn from_dto(rule: CORSRule) -> S3Result<CorsRule> {
    let max_age = rule.max_age_seconds.map(u32::try_from).transpose();
    Ok(CorsRule {
        id: rule.id,
        allowed_origins: rule.allowed_origins,
        allowed_methods: rule.allowed_methods,
        allowed_headers: rule.allowed_headers.unwrap_or_default(),
        expose_headers: rule.expose_headers.unwrap_or_default(),
        max_age_secs: max_age.map_err(|_| s3_error!(InvalidRequest, "MaxAgeSeconds must not be negative"))?,
    })
}

fn to_dto(rule: CorsRule) -> CORSRule {
    CORSRule {
        id: rule.id,
        allowed_origins: rule.allowed_origins,
        allowed_methods: rule.allowed_methods,
        allowed_headers: Some(rule.allowed_headers).filter(|headers| !headers.is_empty()),
        expose_headers: Some(rule.expose_headers).filter(|headers| !headers.is_empty()),
        max_age_seconds: rule.max_age_secs.map(|age| i32::try_from(age).unwrap_or(i32::MAX)),
    }
}
