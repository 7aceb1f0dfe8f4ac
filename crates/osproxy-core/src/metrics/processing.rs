use std::{fmt, time::Duration};

use prometheus_client::{
    encoding::DescriptorEncoder,
    metrics::{counter::Counter, family::Family},
};

use super::{
    Labels,
    encode::{EncodeMetrics, SharedHistogram},
};
use crate::processing::{Conclusion, Held};

/// Outcome of a step that gives no verdict, so that its file waits.
const HELD: &str = "held";

/// Metrics of the steps of processing, by step. The number of steps is fixed.
#[derive(Debug, Default)]
pub struct ProcessingMetrics {
    runs: Family<Labels<2>, Counter>,
    durations: Family<Labels<1>, SharedHistogram>,
}

impl ProcessingMetrics {
    /// Counts the steps that ran on a file.
    pub fn count_steps(&self, result: &Result<Conclusion, Held>) {
        match result {
            Ok(conclusion) => {
                for run in &conclusion.runs {
                    self.runs.get_or_create(&[("step", run.step), ("outcome", run.outcome)]).inc();
                    let duration = Duration::from_millis(run.took_ms);
                    self.durations.get_or_create(&[("step", run.step)]).observe(duration);
                }
            }
            Err(held) => {
                self.runs.get_or_create(&[("step", held.step), ("outcome", HELD)]).inc();
            }
        }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        encoder.encode_metric(
            "processing_runs",
            "Runs of processing steps on this node, by their outcome",
            &self.runs,
        )?;
        encoder.encode_metric(
            "processing_run_seconds",
            "Duration of runs of processing steps that gave a verdict or were passed",
            &self.durations,
        )
    }
}
