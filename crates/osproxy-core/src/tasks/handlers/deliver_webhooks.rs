//! Delivers events to webhooks, as long as there are any that are enabled.

use std::time::Duration;

use osproxy_meta::TaskKind;

use crate::{
    tasks::{TaskContext, TaskError, TaskHandler},
    webhooks,
};

/// Handler of the task `deliver_webhooks`. One node of the cluster runs it, for all webhooks. It runs
/// until the node stops, or until no webhook is enabled; enabling one makes it due again.
pub(super) struct DeliverWebhooks;

impl TaskHandler for DeliverWebhooks {
    const KIND: TaskKind = TaskKind::DeliverWebhooks;
    const INTERVAL: Option<Duration> = Some(Duration::from_mins(10));
    type Payload = ();

    async fn run(&self, context: &TaskContext, (): ()) -> Result<(), TaskError> {
        webhooks::deliver(&context.app.webhooks, &context.stop).await
    }
}
