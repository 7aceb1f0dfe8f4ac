//! Metrics in the exposition format of Prometheus.

use std::fmt;

use osproxy_storage::HistogramSnapshot;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text},
    metrics::MetricType,
    registry::Registry,
};

/// Labels of a sample.
pub(super) type Labels = Vec<(&'static str, String)>;

/// Prefix of all metric names.
const PREFIX: &str = "osproxy";

/// A snapshot of all metrics.
#[derive(Debug, Default)]
pub struct MetricsPage(Vec<Family>);

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    samples: Samples,
}

#[derive(Debug)]
enum Samples {
    Counter(Vec<(Labels, u64)>),
    Gauge(Vec<(Labels, f64)>),
    Histogram(Vec<(Labels, HistogramSnapshot)>),
}

impl MetricsPage {
    /// Content type of the page.
    pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

    /// Adds a counter; `_total` is appended to its name.
    pub fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        self.add(name, help, Samples::Counter(samples.into_iter().collect()));
    }

    /// Adds a gauge.
    pub fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        // Values above 2^53 lose precision, as all numbers of Prometheus do.
        #[expect(clippy::cast_precision_loss, reason = "Prometheus has no other number type")]
        let samples = samples.into_iter().map(|(labels, value)| (labels, value as f64)).collect();
        self.add(name, help, Samples::Gauge(samples));
    }

    /// Adds a gauge whose value is the time `at_ms`, in milliseconds since the Unix epoch; exported
    /// in seconds.
    pub fn timestamp(&mut self, name: &'static str, help: &'static str, at_ms: i64) {
        let seconds = std::time::Duration::from_millis(at_ms.unsigned_abs()).as_secs_f64();
        self.add(name, help, Samples::Gauge(vec![(Vec::new(), seconds)]));
    }

    /// Adds a histogram of durations.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, HistogramSnapshot)>,
    ) {
        self.add(name, help, Samples::Histogram(samples.into_iter().collect()));
    }

    fn add(&mut self, name: &'static str, help: &'static str, samples: Samples) {
        self.0.push(Family { name, help, samples });
    }

    /// Encodes the page.
    pub fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for MetricsPage {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for Family { name, help, samples } in &self.0 {
            let kind = match samples {
                Samples::Counter(_) => MetricType::Counter,
                Samples::Gauge(_) => MetricType::Gauge,
                Samples::Histogram(_) => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            match samples {
                Samples::Counter(samples) => {
                    encode_samples(&mut family, samples, |mut sample, value| {
                        sample.encode_counter::<NoLabelSet, _, u64>(value, None)
                    })?;
                }
                Samples::Gauge(samples) => {
                    encode_samples(&mut family, samples, |mut sample, value| sample.encode_gauge(value))?;
                }
                Samples::Histogram(samples) => {
                    encode_samples(&mut family, samples, |mut sample, counted| {
                        let HistogramSnapshot { count, sum, buckets } = counted;
                        sample.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Encodes the samples of a metric.
fn encode_samples<T>(
    family: &mut MetricEncoder,
    samples: &[(Labels, T)],
    mut encode: impl FnMut(MetricEncoder, &T) -> fmt::Result,
) -> fmt::Result {
    for (labels, value) in samples {
        encode(family.encode_family(labels)?, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_labels_and_buckets_are_as_prometheus_has_them() {
        let mut page = MetricsPage::default();
        let label = |value: &str| vec![("by", value.to_owned())];
        page.counter("seen_bytes", "Bytes", [(label("a\"\n"), 1), (label("b"), 2)]);
        page.gauge("now", "Now", [(Vec::new(), 3)]);
        let counted = HistogramSnapshot { count: 3, sum: 1.5, buckets: vec![(0.5, 1), (f64::INFINITY, 2)] };
        page.histogram("took_seconds", "Time", [(Vec::new(), counted)]);
        let expected = "# HELP osproxy_seen_bytes_total Bytes\n\
            # TYPE osproxy_seen_bytes_total counter\n\
            osproxy_seen_bytes_total{by=\"a\\\"\\n\"} 1\n\
            osproxy_seen_bytes_total{by=\"b\"} 2\n\
            # HELP osproxy_now Now\n\
            # TYPE osproxy_now gauge\n\
            osproxy_now 3.0\n\
            # HELP osproxy_took_seconds Time\n\
            # TYPE osproxy_took_seconds histogram\n\
            osproxy_took_seconds_bucket{le=\"0.5\"} 1\n\
            osproxy_took_seconds_bucket{le=\"+Inf\"} 3\n\
            osproxy_took_seconds_sum 1.5\n\
            osproxy_took_seconds_count 3\n";
        assert_eq!(page.text().unwrap(), expected);
    }
}
