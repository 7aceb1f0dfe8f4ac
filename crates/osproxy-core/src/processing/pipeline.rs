//! Runs the configured steps on a file, one after the other.

use std::time::{Duration, Instant};

use osproxy_meta::ProcessingPolicy;
use osproxy_types::{content_type, error_chain};
use serde::Serialize;

use super::{
    AnyStep, Findings, OpenContent, ProcessingSettings, StepError, StepFile, Verdict, answer, build,
    settings::OnError,
};
use crate::metadata;

/// The configured steps, in the order in which they run.
pub struct Pipeline {
    steps: Vec<ConfiguredStep>,
}

/// A step and its settings.
#[derive(Clone)]
pub struct ConfiguredStep {
    /// The step.
    pub step: AnyStep,
    /// Whether files become readable only when this step has accepted them.
    pub blocking: bool,
    /// MIME types and families of the files that the step is for. If empty, it is for all files.
    pub types: Vec<String>,
    /// Maximum time of a run.
    pub timeout: Duration,
    /// What happens to a file about which the step cannot give a verdict.
    pub on_error: OnError,
}

/// How a step has ended, for the record of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepRun {
    /// Name of the step.
    pub step: &'static str,
    /// The outcome: `accepted`, `rejected`, `quarantined`, or `passed` after an error.
    pub outcome: &'static str,
    /// Reason or error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the verdict rests on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis: Option<String>,
    /// How long the step took, in milliseconds.
    pub took_ms: u64,
}

/// The result of all steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Conclusion {
    /// The verdict, with the findings of all steps.
    pub verdict: Verdict,
    /// The steps that ran.
    pub runs: Vec<StepRun>,
}

/// A file must wait: a step cannot give a verdict now.
#[derive(Debug, thiserror::Error)]
#[error("the step {step} gives no verdict")]
pub struct Held {
    /// Name of the step.
    pub step: &'static str,
    /// Why.
    #[source]
    pub error: StepError,
}

impl Pipeline {
    /// Creates the configured steps.
    pub fn new(settings: ProcessingSettings) -> Self {
        let configured = |step: super::StepSettings| ConfiguredStep {
            step: build(step.kind),
            blocking: step.blocking,
            types: step.types,
            timeout: step.timeout,
            on_error: step.on_error,
        };
        Self { steps: settings.steps.into_iter().map(configured).collect() }
    }

    /// Creates a pipeline of these steps.
    pub fn of(steps: Vec<ConfiguredStep>) -> Self {
        Self { steps }
    }

    /// The names of the steps.
    pub fn policy(&self) -> ProcessingPolicy {
        let names = |blocking| {
            let steps = self.steps.iter().filter(move |step| step.blocking == blocking);
            steps.map(|step| step.step.name().to_owned()).collect()
        };
        ProcessingPolicy { blocking: names(true), beside: names(false) }
    }

    /// Runs the blocking steps on a file, or the others, until one does not accept it.
    pub async fn run(
        &self,
        blocking: bool,
        file: &StepFile,
        content: &dyn OpenContent,
    ) -> Result<Conclusion, Held> {
        let mut file = file.clone();
        let (mut findings, mut runs) = (Findings::default(), Vec::new());
        for configured in self.steps.iter().filter(|step| step.blocking == blocking) {
            if !configured.is_for(&file) {
                continue;
            }
            let began = Instant::now();
            let verdict = configured.run(&mut file, content).await;
            let step = configured.step.name();
            let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let run = |outcome, reason, basis| StepRun { step, outcome, reason, basis, took_ms };
            match verdict {
                Ok(Verdict::Accept(found)) => {
                    runs.push(run("accepted", None, found.basis.clone()));
                    findings.merge(found);
                }
                Ok(verdict @ (Verdict::Reject { .. } | Verdict::Quarantine { .. })) => {
                    let (outcome, reason) = match &verdict {
                        Verdict::Quarantine { reason } => ("quarantined", reason),
                        Verdict::Reject { reason } => ("rejected", reason),
                        Verdict::Accept(_) => continue,
                    };
                    runs.push(run(outcome, Some(reason.clone()), None));
                    return Ok(Conclusion { verdict, runs });
                }
                Err(error @ StepError::Content(_)) => return Err(Held { step, error }),
                Err(error) => {
                    let message = answer::shorten(&error_chain(&error), "unknown error");
                    match configured.on_error {
                        OnError::Hold => return Err(Held { step, error }),
                        OnError::Pass => runs.push(run("passed", Some(message), None)),
                        OnError::Reject => {
                            runs.push(run("rejected", Some(message), None));
                            let reason = format!("the step {step} could not check the file");
                            return Ok(Conclusion { verdict: Verdict::Reject { reason }, runs });
                        }
                    }
                }
            }
        }
        Ok(Conclusion { verdict: Verdict::Accept(findings), runs })
    }
}

impl ConfiguredStep {
    fn is_for(&self, file: &StepFile) -> bool {
        let has_type = |pattern: &String| content_type::matches_pattern(pattern, &file.content_type);
        (self.types.is_empty() || self.types.iter().any(has_type)) && self.step.applies(file)
    }

    /// Runs the step, and applies what it has found to `file`, so that later steps see it.
    async fn run(&self, file: &mut StepFile, content: &dyn OpenContent) -> Result<Verdict, StepError> {
        let run = tokio::time::timeout(self.timeout, self.step.run(file, content)).await;
        let verdict = run.unwrap_or_else(|_| {
            let seconds = self.timeout.as_secs();
            Err(StepError::failed(format!("there was no verdict within {seconds} seconds")))
        })?;
        if let Verdict::Accept(findings) = &verdict {
            let mut merged = file.metadata.clone();
            apply_patch(&mut merged, findings);
            if metadata::check_metadata(&merged).is_err() {
                return Err(StepError::failed("the metadata would exceed its limits"));
            }
            file.metadata = merged;
            if let Some(content_type) = &findings.content_type {
                file.content_type.clone_from(content_type);
            }
        }
        Ok(verdict)
    }
}

fn apply_patch(metadata: &mut std::collections::BTreeMap<String, String>, findings: &Findings) {
    for (key, value) in &findings.metadata {
        match value {
            Some(value) => metadata.insert(key.clone(), value.clone()),
            None => metadata.remove(key),
        };
    }
}
