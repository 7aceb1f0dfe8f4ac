//! `osproxy tasks`

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};

use super::moment;
use crate::{
    app,
    config::Loaded,
    meta::{AttemptOutcome, Here, Meta, Task, TaskState},
};

/// What to do with background tasks.
#[derive(Clone, Copy, Subcommand)]
pub enum Verb {
    /// List tasks, the newest first.
    Ls {
        /// Only those in this state.
        #[arg(long)]
        state: Option<State>,
        /// Most tasks to list.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        limit: u64,
    },
    /// Show a task with all its attempts.
    Show {
        /// Number of the task.
        id: i64,
    },
    /// Let a task that was given up, or waits after a failure, be tried again now.
    Retry {
        /// Number of the task.
        id: i64,
    },
}

/// Where a task stands.
#[derive(Clone, Copy, ValueEnum)]
pub enum State {
    /// Waits for its time, or for a worker.
    Queued,
    /// A worker has it.
    Running,
    /// Ended well.
    Done,
    /// Given up.
    Dead,
}

impl From<State> for TaskState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Done => Self::Done,
            State::Dead => Self::Dead,
        }
    }
}

/// Looks at tasks, beside a service that runs or not.
pub fn run(loaded: &Loaded, verb: Verb) -> anyhow::Result<()> {
    super::block_on(async {
        let location = super::existing(&loaded.config).await?;
        let meta = Meta::open_existing(&location, Here::default(), app::memory(&loaded.config)).await;
        let meta = meta.map_err(|error| anyhow::Error::msg(Meta::explain(&location, &error)))?;
        match verb {
            Verb::Ls { state, limit } => list(&meta, state.map(TaskState::from), limit).await,
            Verb::Show { id } => show(&meta, id).await,
            Verb::Retry { id } => retry(&meta, id, loaded.config.tasks.max_attempts).await,
        }
    })
}

async fn list(meta: &Meta, state: Option<TaskState>, limit: u64) -> anyhow::Result<()> {
    let tasks = meta.tasks(state, limit).await?;
    super::say(&format!(
        "{:<20} {:<16} {:<8} {:>8}  {:<20}  {}",
        "ID", "KIND", "STATE", "ATTEMPTS", "AT", "ERROR"
    ));
    for task in tasks {
        let line = format!(
            "{:<20} {:<16} {:<8} {:>8}  {:<20}  {}",
            task.id,
            task.kind,
            task.state.name(),
            task.attempts,
            moment(decisive(&task)),
            task.last_error.as_deref().unwrap_or_default().replace('\n', " "),
        );
        super::say(line.trim_end());
    }
    Ok(())
}

/// The moment that matters most of a task: when it ended, until when it is held, or when it may begin.
fn decisive(task: &Task) -> i64 {
    task.ended_at.or(task.lease_until).unwrap_or(task.run_at)
}

async fn show(meta: &Meta, id: i64) -> anyhow::Result<()> {
    let (task, attempts) = meta.task(id).await?.with_context(|| format!("there is no task {id}"))?;
    let mut lines = vec![
        ("id", task.id.to_string()),
        ("kind", task.kind),
        ("payload", task.payload),
        ("state", task.state.name()),
        ("created", moment(task.created_at)),
    ];
    if task.state == TaskState::Queued {
        lines.push(("due", moment(task.run_at)));
    }
    if let (Some(owner), Some(until)) = (task.lease_owner, task.lease_until) {
        lines.push(("held by", format!("{owner} until {}", moment(until))));
    }
    lines.extend(task.ended_at.map(|at| ("ended", moment(at))));
    lines.push(("attempts", format!("{} of {}", task.attempts, task.max_attempts)));
    lines.extend(task.last_error.map(|error| ("error", error)));
    for (name, value) in lines {
        super::say(&format!("{name:<9} {value}"));
    }
    for attempt in attempts {
        let outcome = attempt.outcome.map_or_else(|| "running".to_owned(), AttemptOutcome::name);
        let ended = attempt.ended_at.map_or_else(|| "-".to_owned(), moment);
        let started = moment(attempt.started_at);
        let error = attempt.error.unwrap_or_default();
        let (number, owner) = (attempt.number, attempt.lease_owner);
        let line = format!("  {number:>3}. {started} to {ended:<20} by {owner}: {outcome} {error}");
        super::say(line.trim_end());
    }
    Ok(())
}

async fn retry(meta: &Meta, id: i64, attempts: u32) -> anyhow::Result<()> {
    if meta.retry_task(id, attempts).await? {
        super::say(&format!("task {id} is due now, for up to {attempts} attempts"));
        return Ok(());
    }
    match meta.task(id).await? {
        Some((task, _)) => bail!("task {id} is {}: there is nothing to retry", task.state.name()),
        None => bail!("there is no task {id}"),
    }
}
