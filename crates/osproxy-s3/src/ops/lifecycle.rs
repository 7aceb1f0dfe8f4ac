//! Lifecycle rules of buckets.

use osproxy_core::{
    buckets::lifecycle::{LifecycleRule, LifecycleRules, MAX_RULES, format_day, parse_day},
    ops::{buckets::set_lifecycle, find_object::BucketRecord},
};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        AbortIncompleteMultipartUpload, DeleteBucketLifecycleInput, DeleteBucketLifecycleOutput,
        ExpirationStatus, GetBucketLifecycleConfigurationInput, GetBucketLifecycleConfigurationOutput,
        LifecycleExpiration, LifecycleRule as Rule, LifecycleRuleAndOperator, LifecycleRuleFilter,
        PutBucketLifecycleConfigurationInput, PutBucketLifecycleConfigurationOutput, Timestamp,
        TimestampFormat,
    },
    s3_error,
};
use time::OffsetDateTime;

use super::timestamp;
use crate::{errors::to_s3, service::Service};

impl Service {
    pub(crate) async fn put_lifecycle(
        &self,
        request: S3Request<PutBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
        let (bucket, identity) = self.current_bucket(&request, &request.input.bucket).await?;
        let rules = request.input.lifecycle_configuration.map(|it| it.rules).unwrap_or_default();
        if !(1..=MAX_RULES).contains(&rules.len()) {
            return Err(s3_error!(MalformedXML, "The number of lifecycle rules should be 1 to {MAX_RULES}"));
        }
        let rules = rules.into_iter().map(from_dto).collect::<S3Result<Vec<_>>>()?;
        set_lifecycle(&self.app.uploads, &identity.caller, &bucket.name, rules).await.map_err(to_s3)?;
        Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
    }

    pub(crate) async fn get_lifecycle(
        &self,
        request: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        let (bucket, _) = self.current_bucket(&request, &request.input.bucket).await?;
        let rules = LifecycleRules::parse(bucket.lifecycle.as_deref());
        if rules.rules().is_empty() {
            return Err(s3_error!(
                NoSuchLifecycleConfiguration,
                "The lifecycle configuration does not exist"
            ));
        }
        let rules = Some(rules.rules().iter().map(to_dto).collect());
        Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
            rules,
            ..GetBucketLifecycleConfigurationOutput::default()
        }))
    }

    pub(crate) async fn delete_lifecycle(
        &self,
        request: S3Request<DeleteBucketLifecycleInput>,
    ) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
        let (bucket, identity) = self.current_bucket(&request, &request.input.bucket).await?;
        let set = set_lifecycle(&self.app.uploads, &identity.caller, &bucket.name, Vec::new());
        set.await.map_err(to_s3)?;
        Ok(S3Response::new(DeleteBucketLifecycleOutput {}))
    }
}

/// The header `x-amz-expiration` of an object that a rule will delete.
pub(crate) fn expiration(bucket: &BucketRecord, key: &str, size: u64, modified_at: i64) -> Option<String> {
    let rules = LifecycleRules::parse(Some(bucket.lifecycle.as_deref()?));
    let expiry = rules.expiry_of(key, size, modified_at)?;
    let mut date = Vec::new();
    timestamp(expiry.at).format(TimestampFormat::HttpDate, &mut date).ok()?;
    let date = String::from_utf8(date).ok()?;
    let rule: String = form_urlencoded::byte_serialize(expiry.rule.as_bytes()).collect();
    Some(format!("expiry-date=\"{date}\", rule-id=\"{rule}\""))
}

fn from_dto(rule: Rule) -> S3Result<LifecycleRule> {
    let unknown = [
        ("Transition", rule.transitions.is_some()),
        ("NoncurrentVersionExpiration", rule.noncurrent_version_expiration.is_some()),
        ("NoncurrentVersionTransition", rule.noncurrent_version_transitions.is_some()),
    ];
    if let Some((name, _)) = unknown.iter().find(|(_, is_there)| *is_there) {
        return Err(s3_error!(NotImplemented, "{name} in a lifecycle rule is not implemented"));
    }
    let enabled = match rule.status.as_str() {
        ExpirationStatus::ENABLED => true,
        ExpirationStatus::DISABLED => false,
        _ => return Err(s3_error!(MalformedXML, "The status of a rule must be Enabled or Disabled")),
    };
    let (expire_after_days, expire_on) = expiration_from_dto(rule.expiration)?;
    let abort = rule.abort_incomplete_multipart_upload;
    let abort_uploads_after_days =
        abort.map(|abort| days("DaysAfterInitiation", abort.days_after_initiation)).transpose()?.flatten();
    if expire_after_days.is_none() && expire_on.is_none() && abort_uploads_after_days.is_none() {
        return Err(s3_error!(InvalidRequest, "At least one action needs to be specified in a rule"));
    }
    let filter = filter_from_dto(rule.filter, rule.prefix)?;
    Ok(LifecycleRule {
        id: rule.id.filter(|id| !id.is_empty()),
        enabled,
        prefix: filter.prefix.unwrap_or_default(),
        larger_than: size("ObjectSizeGreaterThan", filter.object_size_greater_than)?,
        smaller_than: size("ObjectSizeLessThan", filter.object_size_less_than)?,
        expire_after_days,
        expire_on,
        abort_uploads_after_days,
    })
}

/// Returns the days after which, or the day on which, objects expire.
fn expiration_from_dto(expiration: Option<LifecycleExpiration>) -> S3Result<(Option<u32>, Option<String>)> {
    let Some(LifecycleExpiration { date, days: after, expired_object_delete_marker }) = expiration else {
        return Ok((None, None));
    };
    if expired_object_delete_marker == Some(true) {
        return Err(s3_error!(
            NotImplemented,
            "ExpiredObjectDeleteMarker in a lifecycle rule is not implemented"
        ));
    }
    match (date, after) {
        (Some(date), None) => Ok((None, Some(day(date)?))),
        (None, Some(after)) => Ok((days("Expiration", Some(after))?, None)),
        _ => Err(s3_error!(MalformedXML, "Expiration must have either Days or Date")),
    }
}

fn day(date: Timestamp) -> S3Result<String> {
    let date = OffsetDateTime::from(date);
    if date.unix_timestamp_nanos().rem_euclid(24 * 3_600_000_000_000) != 0 {
        return Err(s3_error!(InvalidArgument, "'Date' must be at midnight GMT"));
    }
    let day = format_day(date.unix_timestamp().saturating_mul(1000));
    day.ok_or_else(|| s3_error!(InvalidArgument, "'Date' is out of range"))
}

fn days(action: &str, days: Option<i32>) -> S3Result<Option<u32>> {
    let Some(days) = days else {
        return Err(s3_error!(MalformedXML, "{action} must have a number of days"));
    };
    let days = u32::try_from(days).ok().filter(|days| *days > 0);
    let invalid = || s3_error!(InvalidArgument, "'Days' for {action} action must be a positive integer");
    days.ok_or_else(invalid).map(Some)
}

fn size(name: &str, bytes: Option<i64>) -> S3Result<Option<u64>> {
    let invalid = |_| s3_error!(InvalidArgument, "'{name}' must not be negative");
    bytes.map(u64::try_from).transpose().map_err(invalid)
}

/// Returns the conditions of a rule.
fn filter_from_dto(
    filter: Option<LifecycleRuleFilter>,
    prefix: Option<String>,
) -> S3Result<LifecycleRuleAndOperator> {
    let Some(filter) = filter else {
        let prefix = prefix.ok_or_else(|| s3_error!(MalformedXML, "A rule must have a Filter"))?;
        return Ok(LifecycleRuleAndOperator { prefix: Some(prefix), ..LifecycleRuleAndOperator::default() });
    };
    let LifecycleRuleFilter { and, object_size_greater_than, object_size_less_than, prefix: inner, tag } =
        filter;
    let has_tag = tag.is_some() || and.as_ref().is_some_and(|and| and.tags.is_some());
    if has_tag {
        return Err(s3_error!(NotImplemented, "Tag in the filter of a lifecycle rule is not implemented"));
    }
    let alone = LifecycleRuleAndOperator {
        object_size_greater_than,
        object_size_less_than,
        prefix: inner,
        tags: None,
    };
    let conditions = [
        and.is_some(),
        alone.object_size_greater_than.is_some(),
        alone.object_size_less_than.is_some(),
        alone.prefix.is_some(),
    ];
    if prefix.is_some() || conditions.into_iter().filter(|is_there| *is_there).count() > 1 {
        return Err(s3_error!(MalformedXML, "A Filter must have exactly one condition, or And"));
    }
    Ok(and.unwrap_or(alone))
}

fn to_dto(rule: &LifecycleRule) -> Rule {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let days = |days: u32| i32::try_from(days).unwrap_or(i32::MAX);
    let all = LifecycleRuleAndOperator {
        object_size_greater_than: rule.larger_than.map(signed),
        object_size_less_than: rule.smaller_than.map(signed),
        prefix: Some(rule.prefix.clone()).filter(|prefix| !prefix.is_empty()),
        tags: None,
    };
    let conditions = [all.object_size_greater_than.is_some(), all.object_size_less_than.is_some()];
    let count =
        conditions.into_iter().filter(|is_there| *is_there).count() + usize::from(all.prefix.is_some());
    let filter = match count {
        0 => LifecycleRuleFilter { prefix: Some(String::new()), ..LifecycleRuleFilter::default() },
        1 => LifecycleRuleFilter {
            object_size_greater_than: all.object_size_greater_than,
            object_size_less_than: all.object_size_less_than,
            prefix: all.prefix,
            ..LifecycleRuleFilter::default()
        },
        _ => LifecycleRuleFilter { and: Some(all), ..LifecycleRuleFilter::default() },
    };
    let date = rule.expire_on.as_deref().and_then(parse_day).map(timestamp);
    let after = rule.expire_after_days.map(days);
    let expires = date.is_some() || after.is_some();
    Rule {
        abort_incomplete_multipart_upload: rule
            .abort_uploads_after_days
            .map(|after| AbortIncompleteMultipartUpload { days_after_initiation: Some(days(after)) }),
        expiration: expires.then_some(LifecycleExpiration {
            date,
            days: after,
            expired_object_delete_marker: None,
        }),
        filter: Some(filter),
        id: rule.id.clone(),
        noncurrent_version_expiration: None,
        noncurrent_version_transitions: None,
        prefix: None,
        status: ExpirationStatus::from_static(if rule.enabled {
            ExpirationStatus::ENABLED
        } else {
            ExpirationStatus::DISABLED
        }),
        transitions: None,
    }
}
