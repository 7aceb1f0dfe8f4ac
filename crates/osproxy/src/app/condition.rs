//! What a node needs, and whether it has it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use super::App;
use crate::{error, meta::now_ms};

/// How long what was found is good enough, whoever asks.
const FRESH: Duration = Duration::from_secs(1);
/// The same of disks and of stores, whose checks cost more.
const DISKS_FRESH: Duration = Duration::from_secs(5);
/// How long a check may take before what it looks at counts as down.
const PATIENCE: Duration = Duration::from_secs(2);
/// Less room on a disk than this is none, in bytes: the database needs some to go on.
const FULL: u64 = 64 << 20;
/// How far the clock of this machine may be from that of the database, and how far uids may be ahead of it, in milliseconds.
const CLOCK_TOLERANCE: i64 = 60_000;

/// What a node needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The database: nothing goes without it.
    Database,
    /// Redis, through which nodes hear of each other.
    Cache,
    /// A store on other machines.
    Store,
    /// Room on the disks of this machine, and that they can be written to.
    Disk,
    /// A clock that is right: links expire by it. Uploads go on.
    Clock,
}

impl Need {
    /// Its name: no vendor, no address.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Cache => "cache",
            Self::Store => "store",
            Self::Disk => "disk",
            Self::Clock => "clock",
        }
    }
}

/// What was found when everything was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// What this node needs and does not have, in the order of [`Need`], each once.
    pub down: Vec<Need>,
    /// Whether every upload of a new file fails because of it.
    pub refuses_uploads: bool,
}

/// Something that this node needs and does not have.
#[derive(Clone, Debug)]
struct Problem {
    need: Need,
    refuses_uploads: bool,
    what: String,
}

/// Looks at everything, once at a time, and remembers what it found.
#[derive(Default)]
pub(super) struct Observer {
    look: Mutex<Option<Look>>,
    /// What was wrong with disks and stores, and when they were looked at.
    slow: tokio::sync::Mutex<Option<(Instant, Vec<Problem>)>>,
    database: Check,
    disks: Check,
    stores: Check,
    /// What was down at the last look.
    logged: Mutex<Vec<Need>>,
}

/// A look that somebody began. All who ask meanwhile, and for a while afterwards, share it.
type Look = Shared<BoxFuture<'static, (Instant, Condition)>>;

/// Keeps a check from being begun again before it has ended: one that hangs does so once.
#[derive(Clone, Debug, Default)]
pub(super) struct Check(Arc<tokio::sync::Mutex<()>>);

impl Check {
    /// Runs `check` to its end on this runtime, and waits for it as long as `patience`. `None`: it did not end in time, or the
    /// one before it is still running.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        patience: Duration,
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
        tokio::time::timeout(patience, running).await.ok().flatten()
    }
}

impl App {
    /// What this node needs and does not have. Costs at most one look a second, however many ask, and ends within a few
    /// seconds whatever hangs.
    pub async fn condition(self: &Arc<Self>) -> Condition {
        let look = {
            let mut look = self.observer.look.lock().unwrap_or_else(PoisonError::into_inner);
            let is_fresh = |look: &&Look| look.peek().is_none_or(|(at, _)| at.elapsed() < FRESH);
            match look.as_ref().filter(is_fresh) {
                Some(look) => look.clone(),
                None => look.insert(self.begin_look()).clone(),
            }
        };
        let (_, mut condition) = look.await;
        if !self.coordinator.hears() {
            condition.down.push(Need::Cache);
            condition.down.sort_unstable();
        }
        // Without Redis for too long there are no uids.
        condition.refuses_uploads |= self.coordinator.worker().is_none();
        condition
    }

    /// Whether other nodes are better off without this one: what is down is its own, and not theirs too.
    pub fn is_better_spared(&self, down: &[Need]) -> bool {
        let has_own = self.stores.are_apart() && !self.stores.is_shared(self.stores.for_new());
        down.contains(&Need::Database) || has_own && down.contains(&Need::Disk)
    }

    /// Begins a look. It goes on when whoever asked for it no longer waits.
    fn begin_look(self: &Arc<Self>) -> Look {
        let app = self.clone();
        let looking = self.background.detach(async move { app.look().await });
        looking
            .map(|found| {
                let failed = |_| Condition { down: vec![Need::Database], refuses_uploads: true };
                (Instant::now(), found.unwrap_or_else(failed))
            })
            .boxed()
            .shared()
    }

    async fn look(self: Arc<Self>) -> Condition {
        let (database, slow) = tokio::join!(self.look_at_database(), self.look_at_disks_and_stores());
        let mut problems: Vec<_> = database.into_iter().chain(slow).chain(self.clock_problem()).collect();
        problems.sort_by_key(|problem| problem.need);
        let refuses_uploads = problems.iter().any(|problem| problem.refuses_uploads);
        self.log_problems(&problems);
        let mut down: Vec<_> = problems.into_iter().map(|problem| problem.need).collect();
        down.dedup();
        Condition { down, refuses_uploads }
    }

    async fn look_at_database(self: &Arc<Self>) -> Option<Problem> {
        let app = self.clone();
        let what = match self.observer.database.run(PATIENCE, async move { app.meta.ping().await }).await {
            Some(Ok(())) => return None,
            Some(Err(error)) => format!("the database fails: {}", error::chain(&error)),
            None => "the database does not answer in time".to_owned(),
        };
        Some(Problem { need: Need::Database, refuses_uploads: true, what })
    }

    /// Looks at disks and stores, unless that was done lately.
    async fn look_at_disks_and_stores(self: &Arc<Self>) -> Vec<Problem> {
        let mut known = self.observer.slow.lock().await;
        if let Some((at, problems)) = &*known
            && at.elapsed() < DISKS_FRESH
        {
            return problems.clone();
        }
        let (disks, stores) = tokio::join!(self.look_at_disks(), self.look_at_stores());
        let problems = [disks, stores].concat();
        *known = Some((Instant::now(), problems.clone()));
        problems
    }

    async fn look_at_disks(&self) -> Vec<Problem> {
        let found = self.observer.disks.run(PATIENCE, self.folders.problems(FULL)).await;
        let late = || vec![("data", "does not answer in time".to_owned())];
        let problem = |(folder, what): (&str, String)| Problem {
            need: Need::Disk,
            // Without the data folder nothing can be recorded.
            refuses_uploads: folder == "data" || !self.stores.is_remote(self.stores.for_new()),
            what: format!("the disk of the {folder} folder {what}"),
        };
        found.unwrap_or_else(late).into_iter().map(problem).collect()
    }

    async fn look_at_stores(self: &Arc<Self>) -> Vec<Problem> {
        let app = self.clone();
        let found = self.observer.stores.run(PATIENCE, async move { app.stores.problems().await }).await;
        let late = || {
            let remote = self.stores.names().into_iter().filter(|name| self.stores.is_remote(name));
            remote.map(|name| (name, "does not answer in time".to_owned())).collect()
        };
        let problem = |(name, what): (String, String)| Problem {
            need: Need::Store,
            refuses_uploads: name == self.stores.for_new(),
            what: format!("the store {name} {what}"),
        };
        found.unwrap_or_else(late).into_iter().map(problem).collect()
    }

    fn clock_problem(&self) -> Option<Problem> {
        let clock = self.meta.now_ms();
        let what = clock_differs(now_ms(), clock)
            .or_else(|| uids_are_ahead(self.uids.newest_ms().cast_signed(), clock))?;
        Some(Problem { need: Need::Clock, refuses_uploads: false, what })
    }

    /// Logs what is wrong, once for as long as it is.
    fn log_problems(&self, problems: &[Problem]) {
        let mut logged = self.observer.logged.lock().unwrap_or_else(PoisonError::into_inner);
        for Problem { need, what, .. } in problems {
            if !logged.contains(need) {
                tracing::warn!(problem = what, "this node is not well");
            }
        }
        if problems.is_empty() && !logged.is_empty() {
            tracing::info!("this node is well again");
        }
        *logged = problems.iter().map(|problem| problem.need).collect();
    }
}

/// Says by how much the clock of this machine differs from that of the database, if it is too much. Both are in milliseconds
/// since the Unix epoch. A file of `SQLite` has no clock but this one.
pub fn clock_differs(here: i64, database: i64) -> Option<String> {
    let off = here.saturating_sub(database);
    let direction = if off > 0 { "ahead of" } else { "behind" };
    (off.abs() > CLOCK_TOLERANCE)
        .then(|| format!("the clock of this machine is {} {direction} that of the database", span(off)))
}

/// Says by how much the newest uid is ahead of the clock, if it is too much. Both are in milliseconds since the Unix epoch.
pub fn uids_are_ahead(newest: i64, clock: i64) -> Option<String> {
    let lead = newest.saturating_sub(clock);
    (lead > CLOCK_TOLERANCE).then(|| {
        format!("the newest uid is {} ahead of the clock, which was ahead before, or is behind", span(lead))
    })
}

/// A time in the largest unit that it has two of.
fn span(ms: i64) -> String {
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
        assert_eq!(clock_differs(now, now - minute), None);
        assert!(clock_differs(now + minute + 1, now).unwrap().contains("60 s ahead of that"));
        assert!(clock_differs(now, now + 10 * minute).unwrap().contains("10 min behind that"));
        assert_eq!(uids_are_ahead(now + minute, now), None);
        assert_eq!(uids_are_ahead(0, now), None);
        assert!(uids_are_ahead(now + 7 * 24 * 60 * minute, now).unwrap().contains("7 days ahead"));
    }
}
