//! Health of a node: checks its dependencies and caches the results.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use osproxy_meta::now_ms;
use osproxy_types::error_chain;

use crate::App;

/// How long a result is reused.
const RESULT_TTL: Duration = Duration::from_secs(1);
/// How long results for disks and stores are reused. These checks cost more.
const DISK_RESULT_TTL: Duration = Duration::from_secs(5);
/// How long a check may take before its dependency counts as failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// A disk with less free space, in bytes, counts as full: the database needs some to keep working.
const MIN_FREE_BYTES: u64 = 64 << 20;
/// Tolerance in milliseconds: of the clock of this machine against that of the database, and of the
/// newest uid against the clock.
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
    /// A correct clock: links expire by it. Uploads continue without one.
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

/// Runs health checks, one at a time, and caches their results.
#[derive(Default)]
pub(crate) struct HealthChecker {
    current: Mutex<Option<SharedCheck>>,
    /// Problems of disks and stores, and when these were checked.
    disks_and_stores: tokio::sync::Mutex<Option<(Instant, Vec<Problem>)>>,
    database: SingleFlight,
    disks: SingleFlight,
    stores: SingleFlight,
    /// Dependencies that had failed at the last check; those are not logged again.
    logged: Mutex<Vec<Dependency>>,
}

/// A health check that is running or done. All requests meanwhile, and for [`RESULT_TTL`] after it,
/// share it.
type SharedCheck = Shared<BoxFuture<'static, (Instant, Health)>>;

/// Runs one check at a time, so that a check that hangs occupies only one task.
#[derive(Clone, Debug, Default)]
pub(crate) struct SingleFlight(Arc<tokio::sync::Mutex<()>>);

impl SingleFlight {
    /// Spawns `check` on this runtime and waits for it. Returns `None` if it, or a previous check
    /// that it waits for, has not ended after `timeout`.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        timeout: Duration,
        check: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let running = async {
            let guard = self.0.clone().lock_owned().await;
            let running = tokio::spawn(async move {
                let found = check.await;
                drop(guard);
                found
            });
            running.await.ok()
        };
        tokio::time::timeout(timeout, running).await.ok().flatten()
    }
}

impl App {
    /// Returns the health of this node. Runs at most one check a second, however many requests ask,
    /// and returns within a few seconds even if a check hangs.
    pub async fn health(self: &Arc<Self>) -> Health {
        let look = {
            let mut look = self.health_checker.current.lock().unwrap_or_else(PoisonError::into_inner);
            let is_fresh = |look: &&SharedCheck| look.peek().is_none_or(|(at, _)| at.elapsed() < RESULT_TTL);
            match look.as_ref().filter(is_fresh) {
                Some(look) => look.clone(),
                None => look.insert(self.start_health_check()).clone(),
            }
        };
        let (_, mut condition) = look.await;
        if !self.coordinator.is_connected() {
            condition.failed.push(Dependency::Redis);
            condition.failed.sort_unstable();
        }
        // Without a worker id (Redis has been away for too long) there are no uids.
        condition.refuses_uploads |= self.coordinator.worker_lease().is_none();
        condition
    }

    /// Whether requests should go to other nodes, because this node cannot reach the database, or
    /// the disk of a store that only this node has failed.
    pub fn should_leave_rotation(&self, down: &[Dependency]) -> bool {
        let has_own = self.stores.has_node_local() && !self.stores.is_shared(self.stores.name_for_new());
        down.contains(&Dependency::Database) || has_own && down.contains(&Dependency::Disk)
    }

    /// Starts a health check, which continues if the request that started it is dropped.
    fn start_health_check(self: &Arc<Self>) -> SharedCheck {
        let app = self.clone();
        let looking = self.detached_work.spawn_detached(async move { app.check_all().await });
        looking
            .map(|found| {
                let failed = |_| Health { failed: vec![Dependency::Database], refuses_uploads: true };
                (Instant::now(), found.unwrap_or_else(failed))
            })
            .boxed()
            .shared()
    }

    async fn check_all(self: Arc<Self>) -> Health {
        let (database, slow) = tokio::join!(self.check_database(), self.check_disks_and_stores());
        let mut problems: Vec<_> = database.into_iter().chain(slow).chain(self.clock_problem()).collect();
        problems.sort_by_key(|problem| problem.dependency);
        let refuses_uploads = problems.iter().any(|problem| problem.refuses_uploads);
        self.log_problems(&problems);
        let mut down: Vec<_> = problems.into_iter().map(|problem| problem.dependency).collect();
        down.dedup();
        Health { failed: down, refuses_uploads }
    }

    async fn check_database(self: &Arc<Self>) -> Option<Problem> {
        let app = self.clone();
        let what =
            match self.health_checker.database.run(CHECK_TIMEOUT, async move { app.meta.ping().await }).await
            {
                Some(Ok(())) => return None,
                Some(Err(error)) => format!("the database fails: {}", error_chain(&error)),
                None => "the database does not answer in time".to_owned(),
            };
        Some(Problem { dependency: Dependency::Database, refuses_uploads: true, message: what })
    }

    /// Checks disks and stores, unless the last results are fresh.
    async fn check_disks_and_stores(self: &Arc<Self>) -> Vec<Problem> {
        let mut known = self.health_checker.disks_and_stores.lock().await;
        if let Some((at, problems)) = &*known
            && at.elapsed() < DISK_RESULT_TTL
        {
            return problems.clone();
        }
        let (disks, stores) = tokio::join!(self.check_disks(), self.check_stores());
        let problems = [disks, stores].concat();
        *known = Some((Instant::now(), problems.clone()));
        problems
    }

    async fn check_disks(&self) -> Vec<Problem> {
        let found = self.health_checker.disks.run(CHECK_TIMEOUT, self.folders.problems(MIN_FREE_BYTES)).await;
        let late = || vec![("data", "does not answer in time".to_owned())];
        let problem = |(folder, what): (&str, String)| Problem {
            dependency: Dependency::Disk,
            // Without the data folder nothing can be recorded.
            refuses_uploads: folder == "data" || !self.stores.is_remote(self.stores.name_for_new()),
            message: format!("the disk of the {folder} folder {what}"),
        };
        found.unwrap_or_else(late).into_iter().map(problem).collect()
    }

    async fn check_stores(self: &Arc<Self>) -> Vec<Problem> {
        let app = self.clone();
        let found =
            self.health_checker.stores.run(CHECK_TIMEOUT, async move { app.stores.problems().await }).await;
        let late = || {
            let remote = self.stores.names().into_iter().filter(|name| self.stores.is_remote(name));
            remote.map(|name| (name, "does not answer in time".to_owned())).collect()
        };
        let problem = |(name, what): (String, String)| Problem {
            dependency: Dependency::Store,
            refuses_uploads: name == self.stores.name_for_new(),
            message: format!("the store {name} {what}"),
        };
        found.unwrap_or_else(late).into_iter().map(problem).collect()
    }

    fn clock_problem(&self) -> Option<Problem> {
        let clock = self.meta.now_ms();
        let what = describe_clock_skew(now_ms(), clock)
            .or_else(|| describe_uid_lead(self.uids.last_timestamp_ms().cast_signed(), clock))?;
        Some(Problem { dependency: Dependency::Clock, refuses_uploads: false, message: what })
    }

    /// Logs each problem once while it lasts.
    fn log_problems(&self, problems: &[Problem]) {
        let mut logged = self.health_checker.logged.lock().unwrap_or_else(PoisonError::into_inner);
        for Problem { dependency: need, message: what, .. } in problems {
            if !logged.contains(need) {
                tracing::warn!(problem = what, "health check failed");
            }
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
    fn clocks_that_differ_are_told() {
        let (now, minute) = (1_800_000_000_000, 60_000);
        assert_eq!(describe_clock_skew(now, now - minute), None);
        assert!(describe_clock_skew(now + minute + 1, now).unwrap().contains("60 s ahead of that"));
        assert!(describe_clock_skew(now, now + 10 * minute).unwrap().contains("10 min behind that"));
        assert_eq!(describe_uid_lead(now + minute, now), None);
        assert_eq!(describe_uid_lead(0, now), None);
        assert!(describe_uid_lead(now + 7 * 24 * 60 * minute, now).unwrap().contains("7 days ahead"));
    }
}
