use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema::Moment;

/// A background task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Id of the task, a decimal string.
    #[schema(example = "1548722401845518337")]
    pub id: String,
    /// Kind of work.
    #[schema(example = "merge_parts")]
    pub kind: String,
    /// Arguments of the task; their format depends on the kind.
    pub payload: serde_json::Value,
    /// State of the task.
    pub state: TaskState,
    /// Number of attempts so far.
    pub attempts: i32,
    /// Number of attempts after which the task is dead.
    pub max_attempts: i32,
    /// When the task was created.
    #[schema(value_type = Moment)]
    pub created_at: String,
    /// Earliest start of the next attempt. Present only while the task is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub run_at: Option<String>,
    /// The process that holds the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_owner: Option<String>,
    /// When the lease expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub lease_until: Option<String>,
    /// When the task was done or became dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub ended_at: Option<String>,
    /// Error of the latest failed attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits until it is due and a node takes it.
    Queued,
    /// A process runs it.
    Running,
    /// Succeeded.
    Done,
    /// Has no attempts left, or failed permanently; an operator can retry it.
    Dead,
}

impl TaskState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Running, Self::Done, Self::Dead];

    /// The name used in JSON and in the query parameter `state`.
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
    /// The tasks of this page, newest first.
    pub tasks: Vec<Task>,
    /// Value of the parameter `cursor` for the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A task with its history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskDetails {
    /// The task.
    #[serde(flatten)]
    pub task: Task,
    /// All attempts, in order.
    pub history: Vec<TaskAttempt>,
}

/// One attempt of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskAttempt {
    /// Number of the attempt, starting at 1.
    pub number: i32,
    /// The process that ran the attempt.
    pub lease_owner: String,
    /// When the attempt started.
    #[schema(value_type = Moment)]
    pub started_at: String,
    /// When the attempt ended; absent while it is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>)]
    pub ended_at: Option<String>,
    /// `done`, `failed`, `lost` or `handed_back`; absent while the attempt is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Why the attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
