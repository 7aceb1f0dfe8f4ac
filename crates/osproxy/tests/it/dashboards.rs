//! The dashboard and the alerts, compared with the metrics of a running service.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::Service;

const DASHBOARD: &str = include_str!("../../../../deploy/grafana/dashboard.json");
const ALARMS: &str = include_str!("../../../../deploy/prometheus/alerts.yaml");

/// States that no row of this service has: only states with rows are exported.
const RARE: [&str; 4] = ["queued", "dead", "corrupt", "quarantined"];

/// The samples that an expression selects: names, and the values its labels are compared with.
fn selected_samples(text: &str) -> BTreeSet<(String, String)> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let begins = text.match_indices("osproxy_").filter(|(at, _)| !text[..*at].ends_with(is_name));
    let sample = |(at, _)| {
        let rest: &str = &text[at..];
        let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
        let labels = rest[end..].strip_prefix('{').map_or("", |labels| labels.split('}').next().unwrap());
        (rest[..end].to_owned(), labels.to_owned())
    };
    begins.map(sample).collect()
}

/// The labels of each sample on the metrics page, with their values.
fn exported_labels(page: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut told: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (sample, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        told.entry(name).or_default().extend(labels.trim_end_matches('}').split(','));
    }
    told
}

#[tokio::test]
async fn dashboard_and_alarms_ask_for_what_is_told() {
    let service = Service::start_with_traffic().await;
    let page = service.get("/metrics").await.text().await.unwrap();
    let told = exported_labels(&page);
    let dashboard = selected_samples(&DASHBOARD.replace("\\\"", "\""));
    let alarms = selected_samples(ALARMS);
    assert!(dashboard.len() > 40 && alarms.len() > 15, "{} {}", dashboard.len(), alarms.len());
    for (name, labels) in dashboard.union(&alarms) {
        let known = told.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not exported"));
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let condition = label.trim();
            let label = condition.split(['=', '!']).next().unwrap();
            let has = |start: &str| known.iter().any(|known| known.starts_with(start));
            // Prometheus adds these labels.
            assert!(
                ["job", "instance"].contains(&label) || has(&format!("{label}=")),
                "{name} has no {label}"
            );
            let state = condition.strip_prefix("state=\"").map(|state| state.trim_end_matches('"'));
            let is_state = state.is_none_or(|state| RARE.contains(&state) || has(condition));
            assert!(is_state, "{name} is never {condition}");
        }
    }
    // Every metric is shown on the dashboard.
    let shown: BTreeSet<_> = dashboard.iter().map(|(name, _)| name.as_str()).collect();
    for line in page.lines() {
        let Some(metric) = line.strip_prefix("# TYPE ") else { continue };
        let (metric, _) = metric.split_once(' ').unwrap();
        let is_shown =
            ["", "_count", "_bucket"].iter().any(|end| shown.contains(format!("{metric}{end}").as_str()));
        assert!(is_shown, "the dashboard does not show {metric}");
    }
}

#[test]
fn every_alarm_has_a_paragraph_and_a_test() {
    let guide = include_str!("../../../../docs/guides/operations.md");
    let tests = include_str!("../../../../deploy/prometheus/alerts_test.yaml");
    let mut alarms = 0;
    for alarm in ALARMS.split("- alert: ").skip(1) {
        let name = alarm.lines().next().unwrap();
        assert!(guide.contains(&format!("\n#### {name}\n")), "{name} has no paragraph");
        let runbook = format!("runbook: docs/guides/operations.md#{}\n", name.to_lowercase());
        assert!(alarm.contains(&runbook), "{name} has another runbook link");
        assert!(alarm.contains("        for: ") && alarm.contains("labels: {severity: "), "{name}");
        let raised = format!("alertname: {name}\n        exp_alerts:\n");
        let silent = format!("alertname: {name}\n        exp_alerts: []\n");
        assert!(tests.contains(&raised) && tests.contains(&silent), "{name} lacks tests");
        alarms += 1;
    }
    assert_eq!(alarms, 26);
}
