//! `osproxy tasks`: lists and retries background tasks.

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use osproxy_meta::{AttemptOutcome, Meta, TaskRecord, TaskState};

use super::format_timestamp;
use crate::config::LoadedConfig;

/// Subcommands of `osproxy tasks`.
#[derive(Clone, Copy, Subcommand)]
pub enum TasksCommand {
    /// List tasks, newest first.
    Ls {
        /// List only tasks in this state.
        #[arg(long)]
        state: Option<TaskStateArg>,
        /// Maximum number of tasks to list.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        limit: u64,
    },
    /// Show a task with all its attempts.
    Show {
        /// Id of the task.
        #[arg(value_parser = parse_task_id)]
        id: i64,
    },
    /// Retry a task now: a dead task, or a task that waits after a failed attempt.
    Retry {
        /// Id of the task.
        #[arg(value_parser = parse_task_id)]
        id: i64,
    },
}

/// State of a task.
#[derive(Clone, Copy, ValueEnum)]
pub enum TaskStateArg {
    /// Waits until it is due and a node takes it.
    Queued,
    /// Leased by a node.
    Running,
    /// Finished successfully.
    Done,
    /// Has no attempts left, or failed permanently.
    Dead,
}

impl From<TaskStateArg> for TaskState {
    fn from(state: TaskStateArg) -> Self {
        match state {
            TaskStateArg::Queued => Self::Queued,
            TaskStateArg::Running => Self::Running,
            TaskStateArg::Done => Self::Done,
            TaskStateArg::Dead => Self::Dead,
        }
    }
}

/// Lists, shows or retries tasks, even while services are running.
pub fn run(loaded: &LoadedConfig, command: TasksCommand) -> anyhow::Result<()> {
    super::block_on(async {
        let meta = super::open_meta(&loaded.config).await?;
        match command {
            TasksCommand::Ls { state, limit } => list(&meta, state.map(TaskState::from), limit).await,
            TasksCommand::Show { id } => show(&meta, id).await,
            TasksCommand::Retry { id } => retry(&meta, id, loaded.config.tasks.max_attempts).await,
        }
    })
}

async fn list(meta: &Meta, state: Option<TaskState>, limit: u64) -> anyhow::Result<()> {
    let tasks = meta.tasks.newest(state, limit).await?;
    let header =
        format!("{:<20} {:<16} {:<8} {:>8}  {:<32}  {}", "ID", "KIND", "STATE", "ATTEMPTS", "WHEN", "ERROR");
    let rows = tasks.into_iter().map(|task| {
        format!(
            "{:<20} {:<16} {:<8} {:>8}  {:<32}  {}",
            task.id,
            task.kind,
            task.state.name(),
            task.attempts,
            timing(&task),
            task.last_error.as_deref().unwrap_or_default().replace('\n', " "),
        )
    });
    super::print_table(&header, rows);
    Ok(())
}

/// Formats the first of these times that the task has: when it ended, when its lease expires, when
/// it is due.
fn timing(task: &TaskRecord) -> String {
    match (task.ended_at, task.lease_until) {
        (Some(ended), _) => format!("ended {}", format_timestamp(ended)),
        (None, Some(until)) => format!("lease to {}", format_timestamp(until)),
        (None, None) => format!("due {}", format_timestamp(task.run_at)),
    }
}

fn format_attempts(task: &TaskRecord) -> String {
    if task.is_recurring {
        return task.attempts.to_string();
    }
    format!("{} of {}", task.attempts, task.max_attempts)
}

fn parse_task_id(text: &str) -> Result<i64, &'static str> {
    text.parse().map_err(|_| "a task id is a number; `osproxy tasks ls` lists them")
}

async fn show(meta: &Meta, id: i64) -> anyhow::Result<()> {
    let (task, attempts) = meta.tasks.find(id).await?.with_context(|| format!("there is no task {id}"))?;
    let mut lines = vec![
        ("id", task.id.to_string()),
        ("kind", task.kind.clone()),
        ("payload", task.payload.clone()),
        ("state", task.state.name()),
        ("created", format_timestamp(task.created_at)),
    ];
    if task.state == TaskState::Queued {
        lines.push(("due", format_timestamp(task.run_at)));
    }
    if let (Some(owner), Some(until)) = (&task.lease_owner, task.lease_until) {
        lines.push(("held by", format!("{owner} until {}", format_timestamp(until))));
    }
    lines.extend(task.ended_at.map(|at| ("ended", format_timestamp(at))));
    lines.push(("attempts", format_attempts(&task)));
    lines.extend(task.last_error.map(|error| ("error", error)));
    for (name, value) in lines {
        super::print_line(&format!("{name:<9} {value}"));
    }
    for attempt in attempts {
        let outcome = attempt.outcome.map_or_else(|| "running".to_owned(), AttemptOutcome::name);
        let ended = attempt.ended_at.map_or_else(|| "-".to_owned(), format_timestamp);
        let started = format_timestamp(attempt.started_at);
        let error = attempt.error.unwrap_or_default();
        let (number, owner) = (attempt.number, attempt.lease_owner);
        let line = format!("  {number:>3}. {started} to {ended:<20} by {owner}: {outcome} {error}");
        super::print_line(line.trim_end());
    }
    Ok(())
}

async fn retry(meta: &Meta, id: i64, attempts: u32) -> anyhow::Result<()> {
    if meta.tasks.retry(id, attempts).await? {
        super::print_line(&format!("task {id} is due now, with up to {attempts} attempts"));
        return Ok(());
    }
    match meta.tasks.find(id).await? {
        Some((task, _)) => bail!("task {id} is {}: there is nothing to retry", task.state.name()),
        None => bail!("there is no task {id}"),
    }
}
