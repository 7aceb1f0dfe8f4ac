//! The session between this node and Redis: heartbeats, lease renewals and messages, with
//! reconnects.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use redis::{RedisError, RedisResult};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::{
    Shared,
    connection::{self, CommandConnection, with_timeout},
};
use crate::{Event, Message};

/// Pause after a working connection was lost. It doubles with each failed attempt to connect.
const FIRST_RECONNECT_PAUSE: Duration = Duration::from_millis(10);
/// Maximum pause between two attempts to connect.
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Minimum number of renewals within one lease period.
const RENEWALS_PER_LEASE: u32 = 3;

/// The published form of a message: the message, and the id of the node that sent it.
#[derive(Serialize, Deserialize)]
struct MessageEnvelope<M> {
    from: String,
    message: M,
}

/// Runs sessions, one after the other, until the task is aborted.
pub(super) async fn run(shared: Arc<Shared>, mut outgoing: mpsc::Receiver<Message>) {
    let mut pause = FIRST_RECONNECT_PAUSE;
    let mut is_reported = false;
    loop {
        let Err(error) = session(&shared, &mut outgoing, &mut is_reported).await;
        let was_up = shared.is_connected.swap(false, Ordering::AcqRel);
        shared.session_connection.send_replace(None);
        if was_up {
            pause = FIRST_RECONNECT_PAUSE;
            let _ = shared.events.send(Event::MayHaveMissed);
        }
        if !std::mem::replace(&mut is_reported, true) {
            tracing::warn!(
                %error,
                redis = connection::display_address(&shared.redis),
                "lost the connection to Redis; reconnecting"
            );
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_RECONNECT_PAUSE);
        // Drop the messages queued so far: they are outdated.
        while outgoing.try_recv().is_ok() {}
    }
}

async fn session(
    shared: &Shared,
    outgoing: &mut mpsc::Receiver<Message>,
    is_reported: &mut bool,
) -> RedisResult<std::convert::Infallible> {
    let (mut commands, mut messages) = connection::connect(&shared.redis).await?;
    with_timeout(messages.subscribe(&shared.keys.events)).await?;
    shared.renew_or_acquire(&mut commands).await?;
    shared.is_connected.store(true, Ordering::Release);
    *shared.connected_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    // Messages published before the subscription were missed.
    let _ = shared.events.send(Event::MayHaveMissed);
    shared.session_connection.send_replace(Some(commands.clone()));
    if std::mem::replace(is_reported, false) {
        tracing::info!("reconnected to Redis");
    }
    let mut ticks = tokio::time::interval(shared.heartbeat.min(shared.lease / RENEWALS_PER_LEASE));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sink, mut incoming) = messages.split();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                shared.renew_or_acquire(&mut commands).await?;
                if let Some(heartbeat) = shared.heartbeat_command() {
                    commands.query::<()>(&heartbeat).await?;
                }
                // The subscription is mostly idle. Only a ping shows whether its connection works.
                with_timeout(sink.ping::<redis::Value>()).await?;
            }
            Some(message) = outgoing.recv() => publish(shared, &mut commands, message).await?,
            message = incoming.next() => {
                let message = message.ok_or((redis::ErrorKind::Io, "the subscription ended"))?;
                receive(shared, message.get_payload_bytes());
            }
        }
    }
}

async fn publish(
    shared: &Shared,
    commands: &mut CommandConnection,
    message: Message,
) -> Result<(), RedisError> {
    let envelope = MessageEnvelope { from: shared.id.clone(), message };
    if let Ok(text) = serde_json::to_string(&envelope) {
        commands.query::<()>(&shared.keys.publish(&text)).await?;
    }
    Ok(())
}

/// Passes a message of another node to the subscribers. Ignores kinds that this version does not
/// know.
fn receive(shared: &Shared, payload: &[u8]) {
    if let Ok(MessageEnvelope { from, message }) = serde_json::from_slice::<MessageEnvelope<Message>>(payload)
        && from != shared.id
    {
        let _ = shared.events.send(Event::Message(message));
    }
}
