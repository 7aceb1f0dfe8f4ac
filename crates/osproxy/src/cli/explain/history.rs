//! History of an upload, as text and as JSON.

use osproxy_meta::{
    Attempt, AttemptOutcome, BlobHistory, Concatenation, Event, FileHistory, FileState, PartHistory,
    TaskRecord,
};
use osproxy_types::uid::Uid;
use serde::Serialize;

use crate::cli::format_timestamp;

/// History of an upload. Times are in milliseconds since the Unix epoch.
#[derive(Serialize)]
pub(super) struct UploadHistory {
    /// A string, because programs that parse numbers as floats would change the digits.
    uid: String,
    name: String,
    state: String,
    created_at: i64,
    /// When the upload expires. Present only while the upload is incomplete.
    #[serde(skip_serializing_if = "Option::is_none")]
    lapses_at: Option<i64>,
    /// When the file expired, was deleted or became corrupt.
    #[serde(skip_serializing_if = "Option::is_none")]
    gone_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_at: Option<i64>,
    /// Node that completed the upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    part_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received: Option<Received>,
    /// For a partial upload whose parts were moved: the final upload that has them now.
    #[serde(skip_serializing_if = "Option::is_none")]
    moved_to: Option<String>,
    /// For a final upload: its partial uploads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    made_of: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<ContentReport>,
    /// What the steps of processing said.
    #[serde(skip_serializing_if = "Option::is_none")]
    processing: Option<serde_json::Value>,
    parts: Vec<PartReport>,
    tasks: Vec<BackgroundTask>,
    /// The events that were recorded for readers.
    events: Vec<RecordedEvent>,
}

/// When the parts were received, and by how many nodes.
#[derive(Serialize)]
struct Received {
    from: i64,
    until: i64,
    nodes: u32,
}

#[derive(Serialize)]
struct ContentReport {
    id: String,
    state: String,
    /// `whole` or `parts`.
    layout: &'static str,
    store: String,
    size: u64,
    verified: bool,
    /// Number of other files that share the blob.
    shared_with: u32,
    begun_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    begun_by: Option<String>,
    /// Whether another upload created the blob. If so, any bytes that were received for this file
    /// were discarded.
    was_there: bool,
}

/// One write of a part.
#[derive(Serialize)]
struct PartReport {
    number: u32,
    /// Number of this write among the recorded writes of the part, from 1.
    attempt: u32,
    state: String,
    size: u64,
    begun_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

/// An event of `GET /api/v1/events`.
#[derive(Serialize)]
struct RecordedEvent {
    /// `0` if readers cannot see it yet.
    id: String,
    #[serde(rename = "type")]
    kind: String,
    created_at: i64,
}

#[derive(Serialize)]
struct BackgroundTask {
    id: String,
    kind: String,
    state: String,
    created_at: i64,
    attempts: Vec<TaskAttempt>,
}

#[derive(Serialize)]
struct TaskAttempt {
    number: i32,
    node: String,
    started_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<i64>,
    /// Missing while the attempt runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl UploadHistory {
    pub(super) fn new(
        uid: i64,
        history: FileHistory,
        tasks: Vec<(TaskRecord, Vec<Attempt>)>,
        events: Vec<Event>,
    ) -> Self {
        let FileHistory { state, created_at, expires_at, .. } = history;
        let is_gone = matches!(
            state,
            FileState::Expired
                | FileState::Deleted
                | FileState::Corrupt
                | FileState::Rejected
                | FileState::Quarantined
        );
        let is_open = matches!(
            state,
            FileState::Pending | FileState::Receiving | FileState::Completing | FileState::Partial
        );
        let received_as = history.received_as;
        let content = history.blob.map(|blob| content_report(blob, created_at, received_as));
        let received = history.received.map(|(from, until, nodes)| Received { from, until, nodes });
        let mut parts: Vec<PartReport> = Vec::with_capacity(history.parts.len());
        for part in history.parts {
            let previous = parts.last().filter(|previous| previous.number == part.number);
            let attempt = previous.map_or(1, |previous| previous.attempt + 1);
            parts.push(part_report(part, attempt));
        }
        let (mut moved_to, mut made_of) = (None, Vec::new());
        match history.concatenation {
            Some(Concatenation::Used(final_uid)) => moved_to = Some(final_uid.to_string()),
            Some(Concatenation::Final(uids)) => made_of.extend(uids.iter().map(Uid::to_string)),
            Some(Concatenation::Partial) | None => {}
        }
        Self {
            moved_to,
            made_of,
            uid: uid.to_string(),
            name: history.name,
            state: state.name(),
            created_at,
            lapses_at: is_open.then_some(expires_at),
            gone_at: is_gone.then_some(expires_at),
            stored_at: history.stored_at,
            stored_by: history.stored_by,
            part_count: history.part_count,
            received,
            content,
            processing: history.verdict.and_then(|verdict| serde_json::from_str(&verdict).ok()),
            parts,
            tasks: tasks.into_iter().map(|(task, attempts)| background_task(task, attempts)).collect(),
            events: events.into_iter().map(recorded_event).collect(),
        }
    }

    /// Formats the history as text: the current state, then the events in chronological order.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("uid      {}", self.uid),
            format!("name     {}", escape_control(&self.name)),
            format!("state    {}", self.state),
        ];
        lines.extend(self.lapses_at.map(|at| format!("expires  {}", format_timestamp(at))));
        lines.extend(self.moved_to.as_ref().map(|uid| format!("moved to {uid}")));
        if !self.made_of.is_empty() {
            lines.push(format!("made of  {}", self.made_of.join(", ")));
        }
        if let Some(content) = &self.content {
            let ContentReport { id, size, store, layout, shared_with, .. } = content;
            let verified = if content.verified { "verified" } else { "not verified yet" };
            lines.push(format!("content  {size} bytes, {} in {store}, {layout}, {verified}", content.state));
            lines.push(format!("         blob {id}, shared with {shared_with} other files"));
        }
        let mut events = self.timeline();
        events.sort_by_key(|(at, _)| *at);
        lines.push(String::new());
        lines.extend(events.into_iter().map(|(at, event)| format!("{}  {event}", format_timestamp(at))));
        lines
    }

    fn timeline(&self) -> Vec<(i64, String)> {
        let mut events = vec![(
            self.created_at,
            "created: a link was issued, or the content was already known".to_owned(),
        )];
        events.extend(self.parts.iter().map(|part| (part.begun_at, part.event())));
        if let (Some(Received { from, until, nodes }), true) = (&self.received, self.parts.is_empty()) {
            let (count, duration) = (self.part_count.unwrap_or_default(), format_duration(until - from));
            events.push((*from, format!("{count} parts received within {duration}, through {nodes} nodes")));
        }
        if let Some(content) = self.content.as_ref().filter(|content| !content.was_there) {
            let node = content.begun_by.as_deref().unwrap_or("an unknown node");
            events.push((content.begun_at, format!("blob {} was created by {node}", content.id)));
        }
        if let Some(at) = self.stored_at {
            let by = self.stored_by.as_ref().map_or(String::new(), |node| format!(" by {node}"));
            let shares = match &self.content {
                Some(content) if content.was_there => ", with content that was already stored",
                _ => "",
            };
            events.push((at, format!("complete{by}{shares}")));
        }
        for task in &self.tasks {
            events.push((
                task.created_at,
                format!("task {} ({}) was enqueued; it is {}", task.id, task.kind, task.state),
            ));
            events
                .extend(task.attempts.iter().map(|attempt| (attempt.started_at, attempt.event(&task.kind))));
        }
        events.extend(self.gone_at.map(|at| (at, self.state.clone())));
        events.extend(
            self.events.iter().map(|event| (event.created_at, format!("event {} {}", event.id, event.kind))),
        );
        events.extend(self.verdict());
        events
    }

    /// The latest verdict of processing, and what each step said.
    fn verdict(&self) -> Option<(i64, String)> {
        let verdict = self.processing.as_ref()?;
        let text = |value: &serde_json::Value, name: &str| {
            value.get(name).and_then(serde_json::Value::as_str).map(escape_control)
        };
        let steps = verdict.get("steps").and_then(serde_json::Value::as_array);
        let steps = steps.into_iter().flatten().map(|step| {
            let said = text(step, "reason").or_else(|| text(step, "basis"));
            let said = said.map_or(String::new(), |said| format!(" ({said})"));
            let (name, outcome) = (text(step, "step"), text(step, "outcome"));
            format!("{} {}{said}", name.unwrap_or_default(), outcome.unwrap_or_default())
        });
        let (steps, outcome) = (steps.collect::<Vec<_>>().join(", "), text(verdict, "verdict"));
        Some((verdict.get("at")?.as_i64()?, format!("processing: {}; {steps}", outcome.unwrap_or_default())))
    }
}

impl PartReport {
    fn event(&self) -> String {
        let Self { number, attempt, state, size, begun_at, .. } = self;
        let node = self.node.as_deref().unwrap_or("an unknown node");
        let duration = match self.stored_at {
            Some(at) => format!("{size} bytes in {}", format_duration(at - begun_at)),
            None => "not complete".to_owned(),
        };
        format!("part {number}, attempt {attempt}, by {node}: {state}, {duration}")
    }
}

impl TaskAttempt {
    fn event(&self, kind: &str) -> String {
        let Self { number, node, .. } = self;
        let outcome = self.outcome.as_deref().unwrap_or("running");
        let duration = self
            .ended_at
            .map_or(String::new(), |at| format!(" after {}", format_duration(at - self.started_at)));
        let error = self.error.as_ref().map_or(String::new(), |error| format!(": {}", escape_control(error)));
        format!("{kind}, attempt {number}, by {node}: {outcome}{duration}{error}")
    }
}

fn content_report(blob: BlobHistory, file_created_at: i64, received_as: Option<i64>) -> ContentReport {
    let was_there = received_as.map_or(blob.created_at < file_created_at, |id| id != blob.id);
    ContentReport {
        id: blob.id.to_string(),
        state: blob.state.name(),
        layout: if blob.is_whole { "whole" } else { "parts" },
        store: blob.store,
        size: blob.size,
        verified: blob.is_verified,
        shared_with: blob.files.saturating_sub(1),
        begun_at: blob.created_at,
        begun_by: blob.written_by,
        was_there: was_there || blob.created_at < file_created_at,
    }
}

fn part_report(part: PartHistory, attempt: u32) -> PartReport {
    PartReport {
        number: part.number,
        attempt,
        state: part.state.name(),
        size: part.size,
        begun_at: part.created_at,
        stored_at: part.stored_at,
        node: part.written_by,
    }
}

fn recorded_event(event: Event) -> RecordedEvent {
    RecordedEvent { id: event.position.to_string(), kind: event.kind, created_at: event.created_at }
}

fn background_task(task: TaskRecord, attempts: Vec<Attempt>) -> BackgroundTask {
    let attempt = |attempt: Attempt| TaskAttempt {
        number: attempt.number,
        node: attempt.lease_owner,
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        outcome: attempt.outcome.map(AttemptOutcome::name),
        error: attempt.error,
    };
    BackgroundTask {
        id: task.id.to_string(),
        kind: task.kind,
        state: task.state.name(),
        created_at: task.created_at,
        attempts: attempts.into_iter().map(attempt).collect(),
    }
}

/// Formats a duration in milliseconds as text.
fn format_duration(ms: i64) -> String {
    let ms = ms.max(0);
    if ms < 10_000 { format!("{ms} ms") } else { format!("{} s", ms / 1000) }
}

/// Escapes control characters in text from clients and libraries, because these characters could
/// affect the terminal.
fn escape_control(text: &str) -> String {
    let visible = |character: char| {
        if character.is_control() { character.escape_default().to_string() } else { character.to_string() }
    };
    text.chars().map(visible).collect()
}
