use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema::Moment;

/// A piece of background work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Its number, a decimal string.
    #[schema(example = "1548722401845518337")]
    pub id: String,
    /// What is done.
    #[schema(example = "merge_parts")]
    pub kind: String,
    /// What it is done to, as the kind has it.
    pub payload: serde_json::Value,
    /// Where it stands.
    pub state: TaskState,
    /// How often it was begun.
    pub attempts: i32,
    /// How often it is begun before it is given up.
    pub max_attempts: i32,
    /// When it was made.
    #[schema(value_type = Moment)]
    pub created_at: String,
    /// When it may be begun, as long as it is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub run_at: Option<String>,
    /// The process that works on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_owner: Option<String>,
    /// Until when that process has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub lease_until: Option<String>,
    /// When it was done or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub ended_at: Option<String>,
    /// Why the last attempt did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for its time, or for a worker.
    Queued,
    /// A worker has it.
    Running,
    /// Ended well.
    Done,
    /// Given up.
    Dead,
}

impl TaskState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Running, Self::Done, Self::Dead];

    /// The name, as it stands in JSON and in the parameter `state`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Dead => "dead",
        }
    }
}

/// A page of tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Tasks {
    /// The tasks, the newest first.
    pub tasks: Vec<Task>,
    /// The parameter `cursor` of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A task and its history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskDetails {
    /// The task.
    #[serde(flatten)]
    pub task: Task,
    /// Every time that it was begun, in their order.
    pub history: Vec<TaskAttempt>,
}

/// One time that a task was begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskAttempt {
    /// From 1 on.
    pub number: i32,
    /// The process that worked on it.
    pub lease_owner: String,
    /// When it began.
    #[schema(value_type = Moment)]
    pub started_at: String,
    /// When it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub ended_at: Option<String>,
    /// `done`, `failed`, `lost` or `handed_back`; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
