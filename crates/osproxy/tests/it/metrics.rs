use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::support::{Service, content, eventually, expect_json, expect_problem, md5_hex};

/// A parsed `/metrics` page: samples with their labels, as written there.
struct ScrapedMetrics {
    samples: BTreeMap<String, f64>,
    /// Names of metrics, with their types.
    metrics: BTreeMap<String, String>,
}

impl ScrapedMetrics {
    async fn of(service: &Service) -> Self {
        let answer = service.get("/metrics").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        Self::parse(&answer.text().await.unwrap())
    }

    /// Parses a page, and panics where Prometheus would reject it.
    fn parse(text: &str) -> Self {
        let (mut samples, mut metrics, mut helped) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
                continue;
            }
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(helped.contains(name) && name.starts_with("osproxy_"), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(metrics.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
                continue;
            }
            let (name, value) = line.rsplit_once(' ').unwrap();
            let metric = name.split('{').next().unwrap();
            let of_histogram =
                ["_sum", "_count", "_bucket"].iter().find_map(|suffix| metric.strip_suffix(suffix));
            let known =
                [Some(metric), of_histogram].into_iter().flatten().any(|name| metrics.contains_key(name));
            assert!(known, "{line}");
            if let Some((_, bound)) = name.split_once("le=\"") {
                let bound = bound.trim_end_matches("\"}");
                assert!(bound == "+Inf" || bound.parse::<f64>().unwrap() <= 300.0, "{line}");
            }
            assert!(
                samples.insert(name.to_owned(), value.parse().unwrap()).is_none(),
                "the sample {line} occurs twice"
            );
        }
        Self { samples, metrics }
    }

    fn value(&self, sample: &str) -> u64 {
        let value = self.samples.get(&format!("osproxy_{sample}"));
        let value = value.unwrap_or_else(|| panic!("{sample} is not in {:#?}", self.samples.keys()));
        assert!(*value >= 0.0 && value.fract() == 0.0, "{sample} is {value}");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a whole number")]
        let whole = *value as u64;
        whole
    }

    fn has(&self, sample: &str, expected: u64) {
        assert_eq!(self.value(sample), expected, "{sample}");
    }
}

/// The page once all earlier requests have been counted: a request is counted when its answer has
/// ended, which its client may notice before.
async fn page_when_idle(service: &Service) -> ScrapedMetrics {
    eventually("all requests have ended", async || {
        let page = ScrapedMetrics::of(service).await;
        // Only the request for the page itself is in flight.
        (page.value("requests_in_flight") == 1).then_some(page)
    })
    .await
}

#[tokio::test]
async fn requests_and_their_bytes_are_counted_by_route() {
    let service = Service::start().await;
    let bytes = content(1, 100_000);
    let uid = service.store("x.bin", &bytes).await;
    assert!(service.read(&uid).await == bytes);
    assert!(service.read(&uid).await == bytes);
    expect_problem(service.v1_get("/files/1").await, 404, "file_not_found").await;
    expect_problem(service.get("/nothing").await, 404, "unknown_route").await;
    let link = service.upload_link("part.bin").await;
    let mut slow = service.connect().await;
    slow.send_head("PUT", &link.url.single, "Content-Length: 10\r\n").await;
    slow.send(b"12345").await;
    let waiting = eventually("an upload is in flight", async || {
        let page = ScrapedMetrics::of(&service).await;
        (page.value("transfers_in_flight{direction=\"upload\"}") == 1).then_some(page)
    });
    waiting.await.has("transfers_in_flight{direction=\"download\"}", 0);
    drop(slow);

    let page = page_when_idle(&service).await;
    let (upload, download) = ("route=\"/api/storage/v0/upload\"", "route=\"/api/storage/v0/download\"");
    page.has(&format!("requests_total{{{upload},method=\"PUT\",status=\"200\"}}"), 1);
    page.has(&format!("requests_total{{{download},method=\"GET\",status=\"200\"}}"), 2);
    page.has("requests_total{route=\"/api/v1/files/{uid}\",method=\"GET\",status=\"404\"}", 1);
    page.has("requests_total{route=\"none\",method=\"GET\",status=\"404\"}", 1);
    page.has(&format!("received_bytes_total{{{upload}}}"), 100_005);
    page.has(&format!("sent_bytes_total{{{download}}}"), 200_000);
    page.has(&format!("request_duration_seconds_count{{{download}}}"), 2);
    page.has(&format!("request_duration_seconds_bucket{{{download},le=\"+Inf\"}}"), 2);
    page.has("transfers_in_flight{direction=\"upload\"}", 0);
    // A client that left before the answer is counted without a status, or with the error it
    // caused.
    let left = page.samples.keys().filter(|name| name.contains(upload) && name.contains("_requests_total"));
    assert_eq!(left.count(), 2);
}

#[tokio::test]
async fn what_is_stored_already_is_counted_with_its_bytes() {
    let service = Service::start().await;
    let bytes = content(1, 50_000);
    service.store("x.bin", &bytes).await;
    service.store("same.bin", &bytes).await;
    let uid = service.store_in_parts("parts.bin", &bytes, 20_000).await;
    service.wait_until_merged(&uid).await;
    let found = service.instant_upload(&[(&md5_hex(&bytes), "a.bin"), (&md5_hex(b"new"), "b.bin")]).await;
    assert_eq!(found.len(), 2);
    let digest = blake3::hash(&bytes).to_hex().to_string();
    let wish = json!({"name": "c.bin", "blake3": digest});
    let created: serde_json::Value = expect_json(service.v1_post("/uploads", &wish).await, 201).await;
    assert_eq!(created["state"], "stored", "{created}");

    let page = page_when_idle(&service).await;
    for (by, files) in [("upload", 1), ("parts", 1), ("instant", 2)] {
        page.has(&format!("shared_files_total{{by=\"{by}\"}}"), files);
        page.has(&format!("shared_bytes_total{{by=\"{by}\"}}"), files * 50_000);
    }
    page.has("instant_upload_misses_total", 1);
}

#[tokio::test]
async fn tasks_database_stores_and_disks_are_told() {
    let service = Service::start().await;
    let uid = service.store_in_parts("parts.bin", &content(1, 50_000), 20_000).await;
    service.wait_until_merged(&uid).await;
    service.database().wait_until_idle().await;
    service.read(&uid).await;
    service.read(&uid).await;

    let page = page_when_idle(&service).await;
    page.has("task_attempts_total{kind=\"merge_parts\",outcome=\"done\"}", 1);
    page.has("task_duration_seconds_count{kind=\"merge_parts\"}", 1);
    page.has("tasks{kind=\"merge_parts\",state=\"done\"}", 1);
    page.has("files{state=\"stored\"}", 1);
    page.has("stored_bytes", 50_000);
    page.has("events_total", 2);
    page.has("event_lag_seconds", 0);
    for operation in ["read", "write"] {
        assert!(page.value(&format!("database_operation_seconds_count{{operation=\"{operation}\"}}")) > 3);
        page.has(&format!("database_errors_total{{operation=\"{operation}\"}}"), 0);
    }
    let connections =
        ["idle", "used"].map(|state| page.value(&format!("database_connections{{state=\"{state}\"}}")));
    assert!(connections.iter().sum::<u64>() <= page.value("database_connections_limit"));
    assert!(page.value("cache_hits_total") > 0 && page.value("cache_misses_total") > 0);
    let published =
        page.samples.keys().find(|name| name.contains("_seconds_count") && name.contains("publish"));
    let published = published.expect("no object was published").strip_prefix("osproxy_").unwrap().to_owned();
    assert!(page.value(&published) > 0, "{published}");
    let on = published.split("backend=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(page.value(&format!("store_written_bytes_total{{backend=\"{on}\"}}")) >= 50_000);
    assert!(page.value(&format!("store_read_bytes_total{{backend=\"{on}\"}}")) >= 100_000);
    let disk = |metric: &str| page.value(&format!("disk_{metric}_bytes{{disk=\"data\"}}"));
    assert!(0 < disk("free") && disk("free") <= disk("size"));
    page.has(&format!("build_info{{version=\"{}\",commit=\"\"}}", env!("CARGO_PKG_VERSION")), 1);
    page.has("draining", 0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let started = page.samples["osproxy_start_time_seconds"];
    assert!(now - 600.0 < started && started <= now, "{started}");

    // Statistics that are slow to count are cached.
    service.sql("DELETE FROM tasks WHERE kind = 'merge_parts'").await;
    page_when_idle(&service).await.has("tasks{kind=\"merge_parts\",state=\"done\"}", 1);
}

#[tokio::test]
async fn however_clients_behave_there_are_only_so_many_samples() {
    let service = Service::start().await;
    let uid = service.store("x.bin", b"x").await;
    let ask = async |round: usize| {
        for (method, path) in [
            ("GET", format!("/made-up-{round}")),
            ("GET", format!("/api/v1/files/{round}")),
            ("GET", format!("/f/{uid}/made-up-{round}?signature=made-up-{round}")),
            ("GET", format!("/api/v1/tasks/made-up-{round}")),
            ("POST", format!("/api/storage/v0/made-up-{round}")),
        ] {
            let mut connection = service.connect().await;
            let fields =
                format!("Connection: close\r\nX-Request-Id: made-up-{round}\r\nContent-Length: 0\r\n");
            connection.send_head(method, &path, &fields).await;
            assert!(connection.read_to_end().await.starts_with("HTTP/1.1 4"), "{path}");
            let mut connection = service.connect().await;
            connection.send_head(&format!("MADEUP{round}"), "/api/v1/files", "Connection: close\r\n").await;
            assert!(connection.read_to_end().await.starts_with("HTTP/1.1 405"));
        }
    };
    // The numbers of tasks may differ between pages.
    let names = async || {
        let page = page_when_idle(&service).await;
        let names = page.samples.into_keys().filter(|name| !name.starts_with("osproxy_tasks{"));
        names.filter(|name| !name.contains("_task_")).collect::<BTreeSet<_>>()
    };
    names().await;
    ask(1).await;
    let before = names().await;
    for round in 2..20 {
        ask(round).await;
    }
    let after = names().await;
    let more: Vec<_> = after.difference(&before).collect();
    assert!(more.iter().all(|name| name.contains("_store_") || name.contains("_database_")), "{more:?}");
    assert!(after.iter().all(|name| !name.to_lowercase().contains("made")), "{after:#?}");
    assert!(after.iter().any(|name| name.contains("method=\"other\"")), "{after:#?}");
}

#[tokio::test]
async fn only_keys_for_admins_read_them() {
    let service = Service::start().await;
    expect_problem(service.without_key().get("/metrics").await, 401, "unauthenticated").await;
    let other = service.with_key(&service.create_key(&["--scopes", "upload,read,delete"]).await);
    expect_problem(other.get("/metrics").await, 403, "permission_denied").await;
    let admin = service.with_key(&service.create_key(&["--scopes", "admin"]).await);
    assert_eq!(admin.get("/metrics").await.status(), 200);
}

#[tokio::test]
async fn who_stops_says_so() {
    let service = Service::start_with(&[("SERVER__DRAIN_DELAY", "30")]).await;
    service.signal(rustix::process::Signal::TERM);
    eventually("it drains", async || {
        (ScrapedMetrics::of(&service).await.value("draining") == 1).then_some(())
    })
    .await;
}

/// The metrics in the guide: type and labels by name.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let page = include_str!("../../../../docs/guides/observability.md");
    let mut found = BTreeMap::new();
    for row in page.lines().filter(|line| line.starts_with("| `osproxy_")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 4 && !cells[3].is_empty(), "{row}");
        let name = cells[0].trim_matches('`').to_owned();
        let labels = cells[2].split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        assert!(found.insert(name, (cells[1].to_owned(), labels)).is_none(), "{row} occurs twice");
    }
    found
}

#[tokio::test]
async fn the_guide_has_every_metric_with_its_type_and_labels() {
    let service = Service::start_with_traffic().await;
    let page = page_when_idle(&service).await;
    let documented = documented();
    let names: BTreeSet<_> = documented.keys().collect();
    assert_eq!(names, page.metrics.keys().collect());
    let mut seen = BTreeSet::new();
    for sample in page.samples.keys() {
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let name = ["_sum", "_count", "_bucket"].iter().find_map(|suffix| {
            name.strip_suffix(suffix)
                .filter(|name| page.metrics.get(*name).is_some_and(|kind| kind == "histogram"))
        });
        let name = name.unwrap_or(sample.split('{').next().unwrap());
        let (kind, expected) = &documented[name];
        assert_eq!(kind, &page.metrics[name], "{name}");
        let labels = labels.trim_end_matches('}').split("\",").map(|label| label.split('=').next().unwrap());
        let labels = labels.filter(|label| !label.is_empty() && *label != "le").map(str::to_owned);
        assert_eq!(&labels.collect::<BTreeSet<_>>(), expected, "{sample}");
        seen.insert(name.to_owned());
    }
    let unseen: Vec<_> = page.metrics.keys().filter(|name| !seen.contains(*name)).collect();
    assert!(unseen.is_empty(), "no sample of {unseen:?}");
}
