//! Rotation of link keys while a node runs.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use osproxy_meta::LinkKeyRecord;
use osproxy_types::error_chain;

use crate::{
    Error, Result,
    links::{LinkKey, LinkKeys, Links},
};

/// How often a node looks for new link keys.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// Minimum time between two reads of the keys, even if links with unknown keys arrive.
pub(super) const MIN_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Where the link keys come from, and when they were last read.
pub(crate) struct KeyRotation {
    /// Whether the keys are configured. Configured keys do not change while the node runs.
    pub(crate) is_configured: bool,
    /// Whether the secrets that authenticate nodes to each other are derived from the link keys.
    pub(crate) is_for_cluster: bool,
    pub(crate) last_read: Mutex<Instant>,
}

impl Links {
    /// Reads the keys in the database again, unless they were read less than `min_age` ago. Does
    /// nothing if the keys are configured.
    pub(super) async fn reload_keys(&self, min_age: Duration) -> Result<()> {
        if self.rotation.is_configured {
            return Ok(());
        }
        {
            let mut looked = self.rotation.last_read.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.elapsed() < min_age {
                return Ok(());
            }
            *looked = Instant::now();
        }
        let Some(keys) = parse_link_keys(&self.db.link_keys().await?)? else {
            // Keep the old keys: without any key, the node could not serve links.
            return Ok(());
        };
        if self.keys.has_same_ids(&keys) {
            return Ok(());
        }
        self.keys.replace(&keys);
        if self.rotation.is_for_cluster {
            self.forwarder.replace_secrets(&cluster_secrets(&self.keys)).map_err(Error::internal)?;
        }
        tracing::info!("the link keys have changed");
        Ok(())
    }

    /// Spawns a task that looks for new link keys while the node runs.
    pub(crate) fn spawn_polling(self: &Arc<Self>) {
        if self.rotation.is_configured {
            return;
        }
        let links = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(POLL_INTERVAL).await;
                let Some(links) = links.upgrade() else {
                    return;
                };
                if let Err(error) = links.reload_keys(MIN_POLL_INTERVAL).await {
                    let error = error_chain(&error);
                    tracing::warn!(error, "cannot read the link keys");
                }
            }
        });
    }
}

/// Generates the id and the secret of a link key.
pub fn generate_link_key() -> std::result::Result<(String, Vec<u8>), getrandom::Error> {
    let (mut id, mut secret) = ([0; 4], vec![0; 32]);
    getrandom::fill(&mut id)?;
    getrandom::fill(&mut secret)?;
    Ok((hex::encode(id), secret))
}

/// Creates link keys from records. The first record becomes the key that signs. Returns `None` if
/// there are no records.
pub(crate) fn parse_link_keys(records: &[LinkKeyRecord]) -> Result<Option<LinkKeys>> {
    let keys: std::result::Result<Vec<_>, _> =
        records.iter().map(|key| LinkKey::new(&key.id, &key.secret)).collect();
    let mut keys = keys.map_err(Error::internal)?.into_iter();
    Ok(keys.next().map(|signing| LinkKeys::new(signing, keys.collect())))
}

/// Derives the secrets that authenticate nodes to each other if no secret is configured. The first
/// secret signs. The first secret is derived from the oldest key, because every node knows that
/// key, while some nodes may not have read the newest key yet.
pub(crate) fn cluster_secrets(links: &LinkKeys) -> Vec<Vec<u8>> {
    let mut secrets = links.derive_secrets("osproxy nodes v1");
    secrets.reverse();
    secrets
}
