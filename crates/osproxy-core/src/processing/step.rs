//! The trait of processing steps, and what a step learns about a file and says about it.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};
use osproxy_storage::Digests;
use osproxy_types::{tenant::Tenant, uid::Uid};

use crate::Error;

/// One kind of processing step: looks at the content of a file and gives a verdict.
///
/// A run may be cut off at any point, and it may be repeated: on another node after a crash, or by
/// `osproxy rescan`. A step must not change the file; it returns what to record about it.
pub trait Step: Send + Sync + 'static {
    /// Name of the kind, as in the configuration.
    fn name(&self) -> &'static str;

    /// Whether the step has anything to say about this file. A step that does not apply is skipped.
    fn applies(&self, _file: &StepFile) -> bool {
        true
    }

    /// Looks at the content and gives a verdict.
    fn run(
        &self,
        file: &StepFile,
        content: &dyn OpenContent,
    ) -> impl Future<Output = Result<Verdict, StepError>> + Send;
}

/// A file that is being processed.
#[derive(Clone, Debug)]
pub struct StepFile {
    /// Uid.
    pub uid: Uid,
    /// Owner.
    pub tenant: Tenant,
    /// File name, chosen by the client.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// MIME type: announced by the client, detected by osproxy, or found by an earlier step.
    pub content_type: String,
    /// Metadata set by the owner.
    pub metadata: BTreeMap<String, String>,
    /// Computed digests; `None` until all bytes are verified.
    pub digests: Option<Digests>,
}

/// A stream of content.
pub type ContentStream = BoxStream<'static, Result<Bytes, Error>>;

/// Gives a step access to the content of its file.
pub trait OpenContent: Send + Sync {
    /// Opens the bytes `range`, which must lie within the size of the file.
    fn open(&self, range: Range<u64>) -> BoxFuture<'_, Result<ContentStream, StepError>>;

    /// Returns the path and query of a signed link to the content that is valid for `lifetime`, even
    /// before other links are.
    fn link(&self, lifetime: Duration) -> String;
}

/// What a step says about a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The file passes.
    Accept(Findings),
    /// The file is refused; its content is removed.
    Reject {
        /// Why, for the owner of the file.
        reason: String,
    },
    /// The file is dangerous: nobody can read it, and its content is kept for the operator.
    Quarantine {
        /// Why, for the owner of the file and the operator.
        reason: String,
    },
}

impl Verdict {
    /// A verdict that passes a file about which nothing was found.
    pub fn accept() -> Self {
        Self::Accept(Findings::default())
    }
}

/// What a step has found out about a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// The MIME type of the content, if it differs from the recorded one.
    pub content_type: Option<String>,
    /// Members of the object `media` of API v1. `width` and `height` are also shown by API v0.
    pub media: serde_json::Map<String, serde_json::Value>,
    /// Changes of the metadata: new values, and `None` for entries to remove.
    pub metadata: BTreeMap<String, Option<String>>,
    /// What the verdict rests on, such as the version of a signature database.
    pub basis: Option<String>,
}

impl Findings {
    /// Adds the findings of a later step, which take precedence.
    pub fn merge(&mut self, later: Self) {
        self.content_type = later.content_type.or(self.content_type.take());
        self.media.extend(later.media);
        self.metadata.extend(later.metadata);
        self.basis = match (self.basis.take(), later.basis) {
            (Some(first), Some(second)) => Some(format!("{first}; {second}")),
            (first, second) => first.or(second),
        };
    }
}

/// Why a step gave no verdict. The policy of the step decides what happens to the file.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Something that the step depends on does not work now; a later run may succeed.
    #[error("{what}")]
    Unavailable {
        /// What does not work.
        what: String,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The step cannot judge this file.
    #[error("{0}")]
    Failed(String),
    /// The content cannot be read now. The file waits, whatever the policy of the step is: the store
    /// says nothing about the file.
    #[error("the content cannot be read")]
    Content(#[source] Error),
}

impl StepError {
    /// An error that may go away.
    pub fn unavailable(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Unavailable { what: what.into(), source: Some(source.into()) }
    }

    /// An error that may go away and has no cause of another type.
    pub fn unavailable_msg(what: impl Into<String>) -> Self {
        Self::Unavailable { what: what.into(), source: None }
    }

    /// An error about this file.
    pub fn failed(what: impl Into<String>) -> Self {
        Self::Failed(what.into())
    }
}

impl From<Error> for StepError {
    fn from(error: Error) -> Self {
        Self::Content(error)
    }
}

/// The object-safe form of [`Step`].
trait DynStep: Send + Sync {
    fn name(&self) -> &'static str;

    fn applies(&self, file: &StepFile) -> bool;

    fn run<'a>(
        &'a self,
        file: &'a StepFile,
        content: &'a dyn OpenContent,
    ) -> BoxFuture<'a, Result<Verdict, StepError>>;
}

impl<S: Step> DynStep for S {
    fn name(&self) -> &'static str {
        Step::name(self)
    }

    fn applies(&self, file: &StepFile) -> bool {
        Step::applies(self, file)
    }

    fn run<'a>(
        &'a self,
        file: &'a StepFile,
        content: &'a dyn OpenContent,
    ) -> BoxFuture<'a, Result<Verdict, StepError>> {
        Box::pin(Step::run(self, file, content))
    }
}

/// A step of any kind.
#[derive(Clone)]
pub struct AnyStep(Arc<dyn DynStep>);

impl AnyStep {
    /// Hides the kind of a step.
    pub fn new(step: impl Step) -> Self {
        Self(Arc::new(step))
    }

    /// Name of the kind.
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// Whether the step has anything to say about this file.
    pub fn applies(&self, file: &StepFile) -> bool {
        self.0.applies(file)
    }

    /// Runs the step.
    pub async fn run(&self, file: &StepFile, content: &dyn OpenContent) -> Result<Verdict, StepError> {
        self.0.run(file, content).await
    }
}
