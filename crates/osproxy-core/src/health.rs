//! Health of a node: checks its dependencies and caches the results.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use osproxy_meta::now_ms;
use osproxy_types::error_chain;

use crate::{App, Error, cached::Cached};

/// How long a result is reused.
const RESULT_TTL: Duration = Duration::from_secs(1);
/// How long results for disks and stores are reused. These checks cost more.
const DISK_RESULT_TTL: Duration = Duration::from_secs(5);
/// How long a check may take before its dependency counts as failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// A disk with fewer free bytes than this counts as full, because the database needs free space to
/// keep working.
const MIN_FREE_BYTES: u64 = 64 << 20;
/// Maximum tolerated difference between the clocks of this machine and of the database, in
/// milliseconds. Also the maximum time by which the newest uid may be ahead of the clock.
const CLOCK_TOLERANCE: i64 = 60_000;

/// A dependency of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependency {
    /// The database. Nothing works without it.
    Database,
    /// Redis, through which nodes coordinate.
    Redis,
    /// A remote store.
    Store,
    /// Local disks: free space and write access.
    Disk,
    /// A correct clock. With a wrong clock, links expire too early or too late; uploads continue.
    Clock,
}

impl Dependency {
    /// Name without vendor or address.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Redis => "cache",
            Self::Store => "store",
            Self::Disk => "disk",
            Self::Clock => "clock",
        }
    }
}

/// Result of a health check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Failed dependencies, in the order of [`Dependency`], each once.
    pub failed: Vec<Dependency>,
    /// Whether every upload of a new file fails.
    pub refuses_uploads: bool,
}

/// A failed dependency.
#[derive(Clone, Debug)]
struct Problem {
    dependency: Dependency,
    refuses_uploads: bool,
    message: String,
}

/// Runs health checks and caches their results. Never runs the same check twice at the same time.
pub(crate) struct HealthChecker {
    health: Cached<Health>,
    /// Problems of disks and stores, including those that do not answer.
    disks_and_stores: Cached<Vec<Problem>>,
    /// The error of the database; `None` if the database works.
    database: Cached<Option<String>>,
    /// Names and errors of failed disks.
    disks: Cached<Vec<(&'static str, String)>>,
    /// Names and errors of failed stores.
    stores: Cached<Vec<(String, String)>>,
    /// Dependencies that failed in the latest check. A dependency that still fails in the next
    /// check is not logged again.
    logged: Mutex<Vec<Dependency>>,
}

impl HealthChecker {
    pub(crate) fn new() -> Self {
        Self {
            health: Cached::new(RESULT_TTL),
            disks_and_stores: Cached::new(DISK_RESULT_TTL),
            database: one_check_at_a_time(),
            disks: one_check_at_a_time(),
            stores: one_check_at_a_time(),
            logged: Mutex::default(),
        }
    }
}

/// Creates a cache that runs one check at a time, so that a check that hangs occupies only one
/// task.
fn one_check_at_a_time<T: Clone + Send + Sync + 'static>() -> Cached<T> {
    Cached::new(Duration::ZERO).with_timeout(CHECK_TIMEOUT)
}

impl App {
    /// Returns the health of this node. Checks at most once a second, however often this is called,
    /// and returns within a few seconds even if a check hangs.
    pub async fn health(self: &Arc<Self>) -> Health {
        // A check that panics counts as failed.
        let failed = || Health { failed: vec![Dependency::Database], refuses_uploads: true };
        let check = self.clone().check_all();
        let check = async move { Ok(check.await) };
        let mut health = self.health_checker.health.get(check).await.unwrap_or_else(|_| failed());
        if !self.coordinator.is_connected() {
            health.failed.push(Dependency::Redis);
            health.failed.sort_unstable();
        }
        // Without a worker id (Redis has been away for too long) there are no uids.
        health.refuses_uploads |= self.coordinator.worker_lease().is_none();
        health
    }

    /// Whether requests should go to other nodes. True if the database has failed, or if a disk has
    /// failed and new files go to a store that belongs to this node only.
    pub fn should_leave_rotation(&self, failed: &[Dependency]) -> bool {
        let has_own = self.stores.has_node_local() && !self.stores.is_shared(self.stores.name_for_new());
        failed.contains(&Dependency::Database) || has_own && failed.contains(&Dependency::Disk)
    }

    async fn check_all(self: Arc<Self>) -> Health {
        let (database, others) = tokio::join!(self.check_database(), self.check_disks_and_stores());
        let mut problems: Vec<_> = database.into_iter().chain(others).chain(self.clock_problem()).collect();
        problems.sort_by_key(|problem| problem.dependency);
        let refuses_uploads = problems.iter().any(|problem| problem.refuses_uploads);
        self.log_problems(&problems);
        let mut failed: Vec<_> = problems.into_iter().map(|problem| problem.dependency).collect();
        failed.dedup();
        Health { failed, refuses_uploads }
    }

    async fn check_database(&self) -> Option<Problem> {
        let meta = self.meta.clone();
        let ping = async move { Ok(meta.ping().await.err().map(|error| error_chain(&error))) };
        let message = match self.health_checker.database.get(ping).await {
            Ok(None) => return None,
            Ok(Some(error)) => format!("the database fails: {error}"),
            Err(_) => "the database does not answer in time".to_owned(),
        };
        Some(Problem { dependency: Dependency::Database, refuses_uploads: true, message })
    }

    /// Checks disks and stores, unless the latest results can be reused.
    async fn check_disks_and_stores(self: &Arc<Self>) -> Vec<Problem> {
        let app = self.clone();
        let check = async move {
            let (disks, stores) = tokio::join!(app.check_disks(), app.check_stores());
            Ok([disks, stores].concat())
        };
        let panicked = |error: Error| Problem {
            dependency: Dependency::Disk,
            refuses_uploads: true,
            message: format!("the check of the disks and stores failed: {}", error_chain(&error)),
        };
        self.health_checker.disks_and_stores.get(check).await.unwrap_or_else(|error| vec![panicked(error)])
    }

    async fn check_disks(&self) -> Vec<Problem> {
        let problems = self.folders.problems(MIN_FREE_BYTES);
        let problems = self.health_checker.disks.get(async { Ok(problems.await) }).await;
        let late = || vec![("data", "does not answer in time".to_owned())];
        let problem = |(folder, error): (&str, String)| Problem {
            dependency: Dependency::Disk,
            // Without the data folder nothing can be recorded.
            refuses_uploads: folder == "data" || !self.stores.is_remote(self.stores.name_for_new()),
            message: format!("the disk of the {folder} folder {error}"),
        };
        problems.unwrap_or_else(|_| late()).into_iter().map(problem).collect()
    }

    async fn check_stores(&self) -> Vec<Problem> {
        let stores = self.stores.clone();
        let problems = self.health_checker.stores.get(async move { Ok(stores.problems().await) }).await;
        let late = || {
            let remote = self.stores.names().into_iter().filter(|name| self.stores.is_remote(name));
            remote.map(|name| (name, "does not answer in time".to_owned())).collect()
        };
        let problem = |(name, error): (String, String)| Problem {
            dependency: Dependency::Store,
            refuses_uploads: name == self.stores.name_for_new(),
            message: format!("the store {name} {error}"),
        };
        problems.unwrap_or_else(|_| late()).into_iter().map(problem).collect()
    }

    fn clock_problem(&self) -> Option<Problem> {
        let clock = self.meta.now_ms();
        let message = describe_clock_skew(now_ms(), clock)
            .or_else(|| describe_uid_lead(self.uids.last_timestamp_ms().cast_signed(), clock))?;
        Some(Problem { dependency: Dependency::Clock, refuses_uploads: false, message })
    }

    /// Logs each problem, unless its dependency also failed in the previous check. Logs when all
    /// dependencies work again.
    fn log_problems(&self, problems: &[Problem]) {
        let mut logged = self.health_checker.logged.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in problems.iter().filter(|problem| !logged.contains(&problem.dependency)) {
            tracing::warn!(problem = problem.message, "health check failed");
        }
        if problems.is_empty() && !logged.is_empty() {
            tracing::info!("all health checks succeed again");
        }
        *logged = problems.iter().map(|problem| problem.dependency).collect();
    }
}

/// Describes the difference between the clocks of this machine and of the database, if it exceeds
/// the tolerance. Both times are in milliseconds since the Unix epoch. For `SQLite`, both clocks
/// are the same.
pub fn describe_clock_skew(here: i64, database: i64) -> Option<String> {
    let off = here.saturating_sub(database);
    let direction = if off > 0 { "ahead of" } else { "behind" };
    (off.abs() > CLOCK_TOLERANCE).then(|| {
        format!("the clock of this machine is {} {direction} that of the database", format_span(off))
    })
}

/// Describes how far the newest uid is ahead of the clock, if that exceeds the tolerance. Both
/// times are in milliseconds since the Unix epoch.
pub fn describe_uid_lead(newest: i64, clock: i64) -> Option<String> {
    let lead = newest.saturating_sub(clock);
    (lead > CLOCK_TOLERANCE).then(|| {
        format!(
            "the newest uid is {} ahead of the clock: the clock was ahead before, or is behind now",
            format_span(lead)
        )
    })
}

/// Formats a time span, in the largest unit that gives a value of at least 2.
fn format_span(ms: i64) -> String {
    let seconds = ms.unsigned_abs() / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_skew_and_uid_lead_beyond_the_tolerance_are_described() {
        let (now, minute) = (1_800_000_000_000, 60_000);
        assert_eq!(describe_clock_skew(now, now - minute), None);
        assert!(describe_clock_skew(now + minute + 1, now).unwrap().contains("60 s ahead of that"));
        assert!(describe_clock_skew(now, now + 10 * minute).unwrap().contains("10 min behind that"));
        assert_eq!(describe_uid_lead(now + minute, now), None);
        assert_eq!(describe_uid_lead(0, now), None);
        assert!(describe_uid_lead(now + 7 * 24 * 60 * minute, now).unwrap().contains("7 days ahead"));
    }
}
