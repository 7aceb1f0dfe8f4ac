//! Probes a remote store and reports the results.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use osproxy_storage::{Backend, Category, Diagnosis, Key};
use osproxy_types::error_chain;

use super::{
    probes::{self, Leftovers, ProbeError},
    report::DoctorReport,
};
use crate::{
    config::{Config, StoreKind},
    wiring::explain_store_error,
};

/// Probes that need valid credentials, in order.
const PROBES: [&str; 8] = ["buckets", "put", "get", "range", "parts", "abort", "list", "delete"];

/// Largest clock difference without a warning.
const CLOCK_WARNING_SECS: u64 = 60;
/// Clock difference beyond which stores reject requests.
const CLOCK_LIMIT_SECS: u64 = 15 * 60;

/// How long clean-up waits for abandoned requests, which may still reach the store.
const LATE_REQUEST_DELAY: Duration = Duration::from_secs(1);

/// Probes a remote store, and removes all test data. Returns whether `stopped` ended the probes
/// early.
pub(super) async fn check(
    config: &Config,
    kind: StoreKind,
    report: &mut DoctorReport,
    stopped: &mut (impl Future<Output = ()> + Unpin),
) -> bool {
    let (address, buckets) = describe(config, kind);
    report.line(&format!("{kind}: {address}"));
    let store = match config.open_store(kind, None) {
        Ok(store) => store,
        Err(problem) => {
            report.wrong("settings", &report.redacted(&problem));
            report.skipped(&["reach", "credentials", "clock"]);
            report.skipped(&PROBES);
            return false;
        }
    };
    let mut check = StoreCheck {
        config,
        kind,
        buckets,
        store,
        report,
        leftovers: Leftovers::default(),
        was_interrupted: false,
    };
    let is_stopped = tokio::select! {
        () = check.probe_all() => false,
        () = stopped => true,
    };
    check.was_interrupted |= is_stopped;
    check.clean_up().await;
    is_stopped
}

/// The address of a store and the names of its buckets.
fn describe(config: &Config, kind: StoreKind) -> (String, Vec<String>) {
    let described = config.describe_store(kind);
    let (endpoint, bucket) = described.map(|store| (store.endpoint, store.bucket)).unwrap_or_default();
    let proxy = if config.stores.proxy.is_some() { ", through `stores.proxy`" } else { "" };
    let buckets = match bucket {
        Some(bucket) => vec![bucket],
        None => Category::ALL.map(|category| category.as_str().to_owned()).into(),
    };
    (format!("{endpoint}{proxy}"), buckets)
}

/// Probes of one store, and the test data that may be in it.
struct StoreCheck<'a> {
    config: &'a Config,
    kind: StoreKind,
    buckets: Vec<String>,
    store: Arc<dyn Backend>,
    report: &'a mut DoctorReport,
    leftovers: Leftovers,
    /// Whether a request was abandoned without an answer.
    was_interrupted: bool,
}

impl StoreCheck<'_> {
    async fn probe_all(&mut self) {
        let store = self.store.clone();
        let Some(difference) = self.probe("reach", probes::clock_difference(&*store)).await else {
            self.report.skipped(&["credentials", "clock"]);
            return self.report.skipped(&PROBES);
        };
        self.report.ok("reach", "the store answers");
        let is_accepted = self.probe_and_report("credentials", probes::credentials(&*store)).await;
        self.report_clock(difference);
        if !is_accepted {
            return self.report.skipped(&PROBES);
        }
        if !self.probe_buckets(&*store).await {
            return self.report.skipped(PROBES.get(1..).unwrap_or_default());
        }
        self.probe_objects(&*store).await;
    }

    /// Checks the buckets. Returns whether all of them exist.
    async fn probe_buckets(&mut self, store: &dyn Backend) -> bool {
        let probe = probes::missing_buckets(store, self.config.stores.create_buckets);
        match self.probe("buckets", probe).await {
            None => false,
            Some(None) => {
                self.report.ok("buckets", &format!("found: {}", self.buckets.join(", ")));
                true
            }
            Some(Some(missing)) => {
                let what = format!(
                    "missing: {missing}; check the name: `osproxy serve` creates missing buckets at startup, \
                                         because `stores.create_buckets` is on"
                );
                self.report.warning("buckets", &what);
                false
            }
        }
    }

    async fn probe_objects(&mut self, store: &dyn Backend) {
        let (Ok(object), Ok(parts), Ok(aborted)) = (probes::key(), probes::key(), probes::key()) else {
            return self.report.wrong("put", "this machine provides no random numbers");
        };
        self.leftovers.objects.push(object.clone());
        let content = probes::content();
        if !self.probe_and_report("put", probes::put(store, &object, &content)).await {
            return self.report.skipped(PROBES.get(2..).unwrap_or_default());
        }
        if self.probe_and_report("get", probes::get(store, &object, &content)).await {
            self.probe_and_report("range", probes::range(store, &object, &content)).await;
        } else {
            self.report.skipped(&["range"]);
        }
        let completed = self.probe_parts(store, &parts).await;
        if completed {
            self.probe_abort(store, &aborted).await;
        } else {
            self.report.skipped(&["abort"]);
        }
        self.probe_and_report("list", probes::list(store, &object)).await;
        let mut keys = vec![object];
        keys.extend(completed.then_some(parts));
        if self.probe_and_report("delete", probes::delete(store, &keys)).await {
            self.leftovers.objects.retain(|key| !keys.contains(key));
        }
    }

    async fn probe_parts(&mut self, store: &dyn Backend, key: &Key) -> bool {
        let Some(upload) = self.begin("parts", store, key).await else {
            return false;
        };
        self.leftovers.objects.push(key.clone());
        let is_completed = self.probe_and_report("parts", probes::parts(store, key, &upload)).await;
        if is_completed {
            self.leftovers.uploads.retain(|(other, _)| other != key);
        }
        is_completed
    }

    async fn probe_abort(&mut self, store: &dyn Backend, key: &Key) {
        if let Some(upload) = self.begin("abort", store, key).await
            && self.probe_and_report("abort", probes::abort(store, key, &upload)).await
        {
            self.leftovers.uploads.retain(|(other, _)| other != key);
        }
    }

    /// Begins a multipart upload and records it in `leftovers`.
    async fn begin(&mut self, name: &str, store: &dyn Backend, key: &Key) -> Option<String> {
        self.leftovers.uploads.push((key.clone(), None));
        let upload = self.probe(name, probes::begin(store, key)).await?;
        self.leftovers.uploads.retain(|(other, _)| other != key);
        self.leftovers.uploads.push((key.clone(), Some(upload.clone())));
        Some(upload)
    }

    /// Runs a probe with the timeout of the store. If the probe fails, reports the failure and
    /// returns `None`.
    async fn probe<T>(&mut self, name: &str, work: impl Future<Output = Result<T, ProbeError>>) -> Option<T> {
        let seconds = self.config.stores.timeout;
        let outcome = tokio::time::timeout(Duration::from_secs(seconds), work).await;
        let advice = |diagnosis| explain_store_error(self.config, self.kind, diagnosis);
        let what = match outcome {
            Ok(Ok(result)) => return Some(result),
            Ok(Err(ProbeError::Store(problem))) => {
                let text = self.report.redacted(&error_chain(&problem));
                format!("{} ({text})", advice(Diagnosis::of(&problem)))
            }
            Ok(Err(ProbeError::Misbehaved(what))) => what.to_owned(),
            Err(_) => {
                self.was_interrupted = true;
                format!(
                    "{} (not finished within {seconds} s; see `stores.timeout`)",
                    advice(Diagnosis::TimedOut)
                )
            }
        };
        self.report.wrong(name, &what);
        None
    }

    /// Runs a probe and reports its result. Returns whether it succeeded.
    async fn probe_and_report(
        &mut self,
        name: &str,
        work: impl Future<Output = Result<String, ProbeError>>,
    ) -> bool {
        let result = self.probe(name, work).await;
        if let Some(what) = &result {
            self.report.ok(name, what);
        }
        result.is_some()
    }

    /// Reports how far the local clock is ahead of the store's.
    fn report_clock(&mut self, ahead: Option<i64>) {
        let Some(ahead) = ahead else {
            return self.report.ok("clock", "the store does not report its time");
        };
        let seconds = ahead.unsigned_abs();
        let difference = match seconds {
            0..120 => format!("{seconds} s"),
            120..7200 => format!("{} min", seconds / 60),
            _ => format!("{} h", seconds / 3600),
        };
        let direction = if ahead > 0 { "ahead of" } else { "behind" };
        let summary = format!("this machine is {difference} {direction} the store");
        match seconds {
            // Rounding to seconds and network latency can cause such a difference.
            0..=2 => self.report.ok("clock", "matches the store"),
            3..=CLOCK_WARNING_SECS => self.report.ok("clock", &summary),
            _ if seconds <= CLOCK_LIMIT_SECS => self
                .report
                .warning("clock", &format!("{summary}; use NTP: stores reject requests from 15 min on")),
            _ => self.report.wrong(
                "clock",
                &format!("{summary}; use NTP: stores reject requests beyond 15 min (RequestTimeTooSkewed)"),
            ),
        }
    }

    /// Removes the test data in `leftovers`, including the data of interrupted probes.
    async fn clean_up(&mut self) {
        if self.leftovers.objects.is_empty() && self.leftovers.uploads.is_empty() {
            return;
        }
        let (leftovers, store) = (std::mem::take(&mut self.leftovers), self.store.clone());
        if self.was_interrupted {
            let limit = Duration::from_secs(self.config.stores.timeout);
            // Failures are ignored here: the second attempt reports them.
            let _ = tokio::time::timeout(limit, probes::clean_up(&*store, &leftovers)).await;
            tokio::time::sleep(LATE_REQUEST_DELAY).await;
        }
        if !self.probe_and_report("clean-up", probes::clean_up(&*store, &leftovers)).await {
            let keys = leftovers.objects.iter().chain(leftovers.uploads.iter().map(|(key, _)| key));
            let names: BTreeSet<_> = keys.map(Key::as_str).collect();
            let names: Vec<_> = names.into_iter().collect();
            self.report.line(&format!("           delete by hand if they exist: {}", names.join(", ")));
        }
    }
}
