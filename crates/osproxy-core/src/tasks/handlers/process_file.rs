//! Runs the steps of processing on a complete file, and records their verdict.

use osproxy_meta::{
    AcceptedFile, FileState, NextSteps, ProcessPayload, ProcessSteps, ProcessingFile, ProcessingPolicy,
    Refusal, TaskKind, VerdictOutcome, now_ms,
};
use osproxy_types::{error_chain, uid::Uid};
use serde::Serialize;

use crate::{
    App,
    processing::{Conclusion, FileContent, Findings, Held, StepFile, StepRun, Verdict},
    tasks::{TaskContext, TaskError, TaskHandler},
};

/// Handler of the task `process_file`.
pub(super) struct ProcessFile;

impl TaskHandler for ProcessFile {
    const KIND: TaskKind = TaskKind::ProcessFile;
    const CONCURRENCY: usize = 4;
    type Payload = ProcessPayload;

    async fn run(&self, context: &TaskContext, payload: ProcessPayload) -> Result<(), TaskError> {
        let app = &context.app;
        let uid = Uid::from_db(payload.uid);
        let Some(found) = app.meta.processing.file(uid).await? else {
            return Ok(());
        };
        let waits = found.state == FileState::Processing;
        if waits != (payload.steps == ProcessSteps::Blocking) {
            // An earlier run has recorded its verdict.
            return Ok(());
        }
        if let Some(missing) = missing_steps(app, &payload) {
            tracing::warn!(%uid, steps = missing.steps, "this node lacks steps that must judge a file");
            return Err(TaskError::retry(missing));
        }
        if app.stores.get(&found.file.content.store).is_err() {
            // The content has moved to a store of another node.
            let (blob_id, task_id) = (found.file.content.blob_id, app.uids.next().await?);
            app.meta.processing.enqueue_again(payload.clone(), blob_id, task_id).await?;
            app.task_notifier.notify_cluster();
            return Ok(());
        }
        let result = run_steps(app, payload.steps, &found).await;
        app.metrics.processing.count_steps(&result);
        let conclusion = result.map_err(|held| {
            tracing::warn!(%uid, step = held.step, error = error_chain(&held.error), "a file waits for a verdict");
            TaskError::retry(held)
        })?;
        if record(app, &payload, &found, conclusion).await? == VerdictOutcome::Superseded {
            let now = app.meta.processing.file(uid).await?;
            if now.is_some_and(|now| now.state == found.state) {
                return Err(TaskError::retry("the content moved while it was processed"));
            }
        }
        Ok(())
    }
}

/// This node must not judge a file: it would be accepted without steps that have to see it.
#[derive(Debug, thiserror::Error)]
#[error(
    "this node lacks steps that must judge the file ({steps}): add them to `processing`, or run `osproxy \
     rescan --waiting` if they were removed on purpose"
)]
struct MissingSteps {
    /// Names of the steps.
    steps: String,
}

/// Returns the steps that a task requires and this node lacks.
fn missing_steps(app: &App, payload: &ProcessPayload) -> Option<MissingSteps> {
    let policy = app.meta.processing.policy();
    let steps = match &payload.required {
        Some(required) => policy.missing(required, payload.steps).join(", "),
        // The task does not name them, but without blocking steps no file waits.
        None if payload.steps == ProcessSteps::Blocking && policy.blocking.is_empty() => {
            "blocking steps".to_owned()
        }
        None => String::new(),
    };
    (!steps.is_empty()).then_some(MissingSteps { steps })
}

async fn run_steps(app: &App, steps: ProcessSteps, found: &ProcessingFile) -> Result<Conclusion, Held> {
    let file = StepFile {
        uid: found.file.uid,
        tenant: found.file.tenant.clone(),
        name: found.file.name.clone(),
        size: found.file.content.size,
        content_type: found.file.content_type.clone(),
        metadata: found.metadata.clone(),
        digests: found.file.content.digests,
    };
    let (objects, links) = (app.objects.clone(), app.links.clone());
    let content = FileContent { objects, links, file: found.file.clone() };
    match steps {
        ProcessSteps::Blocking => app.pipeline.run(true, &file, &content).await,
        ProcessSteps::Beside => app.pipeline.run(false, &file, &content).await,
        ProcessSteps::Rescan => {
            let first = app.pipeline.run(true, &file, &content).await?;
            let Verdict::Accept(mut findings) = first.verdict else {
                return Ok(keep_content(first));
            };
            let mut second = app.pipeline.run(false, &file, &content).await?;
            second.runs.splice(0..0, first.runs);
            if let Verdict::Accept(found) = second.verdict {
                findings.merge(found);
                second.verdict = Verdict::Accept(findings);
            }
            Ok(keep_content(second))
        }
    }
}

/// A rescan removes no content, because rules that were changed by mistake must not cost files that
/// could be read: what a step rejects comes into quarantine.
fn keep_content(mut conclusion: Conclusion) -> Conclusion {
    if let Verdict::Reject { reason } = conclusion.verdict {
        conclusion.verdict = Verdict::Quarantine { reason };
    }
    conclusion
}

/// What is recorded about a file, for operators.
#[derive(Serialize)]
struct Record<'a> {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a String>,
    /// In milliseconds since the Unix epoch.
    at: i64,
    steps: &'a [StepRun],
}

async fn record(
    app: &App,
    payload: &ProcessPayload,
    found: &ProcessingFile,
    Conclusion { verdict, runs }: Conclusion,
) -> Result<VerdictOutcome, TaskError> {
    let (uid, name) = (found.file.uid, found.file.name.as_str());
    let text = |verdict, reason: Option<&String>| {
        let record = Record { verdict, reason, at: now_ms(), steps: &runs };
        // Serializing this struct cannot fail.
        serde_json::to_string(&record).unwrap_or_default()
    };
    let refusal =
        |verdict, reason: &String| Refusal { reason: reason.clone(), record: text(verdict, Some(reason)) };
    let outcome = match &verdict {
        Verdict::Accept(findings) => {
            let next = next_steps(app, payload).await?;
            let accepted = accepted(findings.clone(), found.state, text("accepted", None), next);
            app.meta.processing.accept(uid, accepted).await?
        }
        Verdict::Reject { reason } => {
            tracing::warn!(%uid, name, reason, "processing rejects a file");
            let task_id = app.uids.next().await?;
            app.meta.processing.reject(uid, refusal("rejected", reason), task_id).await?
        }
        Verdict::Quarantine { reason } => {
            tracing::warn!(%uid, name, reason, "a file is in quarantine");
            app.meta.processing.quarantine(uid, refusal("quarantined", reason)).await?
        }
    };
    app.task_notifier.notify_node();
    Ok(outcome)
}

/// The steps that follow the blocking ones: those of this node, or those that the task requires if
/// this node lacks one of them.
async fn next_steps(app: &App, payload: &ProcessPayload) -> Result<Option<NextSteps>, TaskError> {
    if payload.steps != ProcessSteps::Blocking {
        return Ok(None);
    }
    let policy = app.meta.processing.policy();
    let lacks_one = |required: &&ProcessingPolicy| !policy.missing(required, ProcessSteps::Beside).is_empty();
    let required = payload.required.as_ref().filter(lacks_one).unwrap_or(policy);
    if required.beside.is_empty() {
        return Ok(None);
    }
    Ok(Some(NextSteps { task_id: app.uids.next().await?, required: Some(required.clone()) }))
}

fn accepted(findings: Findings, from: FileState, record: String, next: Option<NextSteps>) -> AcceptedFile {
    let Findings { content_type, media, metadata, basis: _ } = findings;
    AcceptedFile { from, content_type, media, metadata: metadata.into_iter().collect(), record, next }
}
