//! The content of a stored file, as steps see it.

use std::{ops::Range, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture};
use osproxy_api::v1::Disposition;
use osproxy_meta::StoredFile;
use time::OffsetDateTime;

use super::{ContentStream, OpenContent, StepError};
use crate::{
    Objects,
    links::{LinkConstraints, LinkPeriod, Links},
};

/// The content of a file that is complete, but may not be readable yet.
pub struct FileContent {
    /// The objects of this node.
    pub objects: Arc<Objects>,
    /// Signs links.
    pub links: Arc<Links>,
    /// The file.
    pub file: Arc<StoredFile>,
}

impl OpenContent for FileContent {
    fn open(&self, range: Range<u64>) -> BoxFuture<'_, Result<ContentStream, StepError>> {
        Box::pin(async move {
            match self.objects.open_content(&self.file, range).await? {
                Some(content) => Ok(content.boxed()),
                None => Err(StepError::unavailable_msg("the file was removed while it was processed")),
            }
        })
    }

    fn link(&self, lifetime: Duration) -> String {
        let period = LinkPeriod {
            date: self.file.link_date(OffsetDateTime::now_utc()),
            lifetime_secs: i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX),
        };
        let constraints = LinkConstraints { for_processing: true, ..LinkConstraints::default() };
        self.links.download_link(
            self.file.uid,
            &self.file.name,
            period,
            Disposition::Attachment,
            &constraints,
        )
    }
}
