//! Helpers for collectors, which encode metrics at each scrape.
//!
//! [`Registry::register`] appends a period to each help text. Collectors keep the help texts
//! unchanged, so osproxy encodes all metrics in collectors.
//!
//! [`Registry::register`]: prometheus_client::registry::Registry::register

use std::{fmt, sync::Arc, time::Duration};

use osproxy_storage::{DurationHistogram, HistogramSnapshot};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric, gauge::ConstGauge},
};

/// Encodes metrics with their descriptors.
pub(crate) trait EncodeMetrics {
    /// Encodes a metric. `_total` is appended to the names of counters.
    fn encode_metric(&mut self, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result;

    /// Encodes a metric with one value per label set.
    fn encode_samples<S: EncodeLabelSet, M: EncodeMetric + TypedMetric>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (S, M)>,
    ) -> fmt::Result;
}

impl EncodeMetrics for DescriptorEncoder<'_> {
    fn encode_metric(&mut self, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
        metric.encode(self.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    fn encode_samples<S: EncodeLabelSet, M: EncodeMetric + TypedMetric>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (S, M)>,
    ) -> fmt::Result {
        let mut family = self.encode_descriptor(name, help, None, M::TYPE)?;
        for (labels, metric) in samples {
            metric.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// A collector that calls a function at each scrape.
pub(super) struct FnCollector<F>(pub(super) F);

impl<F> fmt::Debug for FnCollector<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnCollector").finish_non_exhaustive()
    }
}

impl<F> Collector for FnCollector<F>
where
    F: Fn(&mut DescriptorEncoder<'_>) -> fmt::Result + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut encoder)
    }
}

/// A gauge with a fixed value. Encoded as a floating-point number, like all gauges: `5.0`.
pub(super) fn gauge(value: u64) -> ConstGauge<f64> {
    // Values above 2^53 lose precision, as all numbers of Prometheus do.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus has no other number type")]
    ConstGauge::new(value as f64)
}

/// A histogram of durations. All clones share one histogram.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedHistogram(Arc<DurationHistogram>);

impl SharedHistogram {
    pub(crate) fn observe(&self, duration: Duration) {
        self.0.observe(duration);
    }
}

impl TypedMetric for SharedHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for SharedHistogram {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        ConstHistogram(self.0.snapshot()).encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// A snapshot of a histogram.
pub(crate) struct ConstHistogram(pub(crate) HistogramSnapshot);

impl TypedMetric for ConstHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for ConstHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let HistogramSnapshot { count, sum, buckets } = &self.0;
        encoder.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        encoding::prometheus_text,
        metrics::{
            counter::{ConstCounter, Counter},
            family::Family,
        },
        registry::Registry,
    };

    use super::*;

    #[test]
    fn names_labels_and_buckets_follow_the_prometheus_text_format() {
        let mut registry = Registry::with_prefix("osproxy");
        registry.register_collector(Box::new(FnCollector(|encoder: &mut DescriptorEncoder<'_>| {
            let samples =
                [([("by", "a\"\n")], ConstCounter::new(1_u64)), ([("by", "b")], ConstCounter::new(2))];
            encoder.encode_samples("seen_bytes", "Bytes", samples)?;
            encoder.encode_metric("now", "Now", &gauge(3))?;
            let buckets = vec![(0.5, 1), (f64::INFINITY, 2)];
            let histogram = ConstHistogram(HistogramSnapshot { count: 3, sum: 1.5, buckets });
            encoder.encode_metric("took_seconds", "Time", &histogram)?;
            let empty = Family::<[(&'static str, &'static str); 1], Counter>::default();
            encoder.encode_metric("unseen", "Nothing", &empty)
        })));
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
            osproxy_took_seconds_count 3\n\
            # HELP osproxy_unseen_total Nothing\n\
            # TYPE osproxy_unseen_total counter\n";
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).unwrap();
        assert_eq!(text, expected);
    }
}
