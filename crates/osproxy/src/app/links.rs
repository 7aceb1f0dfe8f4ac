//! Key rotation while a node runs, and the revocation and use limits of links.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::App;
use crate::{
    Error, Result, error,
    link::{Action, Claims, Limit, LinkError, LinkKey, LinkKeys, Terms},
    uid::Uid,
};

/// How often a node looks for new link keys.
const LOOK: Duration = Duration::from_secs(10);
/// Minimum time between two lookups caused by links with an unknown key.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where the link keys come from.
pub(super) struct Renewal {
    /// The keys are configured, so they never change.
    pub(super) is_configured: bool,
    /// The secret that nodes share is derived from the keys.
    pub(super) is_for_cluster: bool,
    pub(super) last_read: Mutex<Instant>,
}

impl App {
    /// Checks the signature and the lifetime of a link, and returns its constraints.
    pub async fn verify_link(
        &self,
        claims: &Claims<'_>,
        signature: &str,
    ) -> Result<std::result::Result<Terms, LinkError>> {
        if !self.links.know(signature) {
            // Another node may sign with a key that was created a moment ago.
            self.renew_link_keys(LOOK_AGAIN).await?;
        }
        Ok(self.links.verify(claims, signature, OffsetDateTime::now_utc()))
    }

    /// Reads the keys again, unless that was done within `lately`.
    async fn renew_link_keys(&self, min_age: Duration) -> Result<()> {
        if self.key_rotation.is_configured {
            return Ok(());
        }
        {
            let mut looked = self.key_rotation.last_read.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.elapsed() < min_age {
                return Ok(());
            }
            *looked = Instant::now();
        }
        let Some(keys) = link_keys(&self.meta.known_link_keys().await?)? else {
            // Keep the old keys: a node without any cannot serve links.
            return Ok(());
        };
        if self.links.are(&keys) {
            return Ok(());
        }
        self.links.replace(&keys);
        if self.key_rotation.is_for_cluster {
            self.cluster.replace(&cluster_secrets(&self.links)).map_err(Error::internal)?;
        }
        tracing::info!("the link keys have changed");
        Ok(())
    }

    /// Spawns a task that looks for new link keys while the node runs.
    pub(super) fn keep_link_keys(self: &Arc<Self>) {
        if self.key_rotation.is_configured {
            return;
        }
        let app = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(app) = app.upgrade() else {
                    return;
                };
                if let Err(error) = app.renew_link_keys(LOOK_AGAIN).await {
                    let error = error::chain(&error);
                    tracing::warn!(error, "cannot read the link keys");
                }
            }
        });
    }

    /// Returns whether links to `uid` that were issued at `issued`, in seconds since the Unix
    /// epoch, are revoked.
    pub async fn is_revoked(&self, uid: Uid, action: Action, issued: i64) -> Result<bool> {
        Ok(issued < self.meta.links_from(uid, action == Action::Download).await?)
    }

    /// Returns whether a link has no uses left.
    pub async fn is_used_up(&self, uses: &Limit) -> Result<bool> {
        Ok(self.meta.link_uses(&uses.id).await? >= uses.max)
    }

    /// Counts one use of a link that expires at `end`, in seconds since the Unix epoch. Returns
    /// `false` if it had no uses left.
    pub async fn use_link(&self, uses: &Limit, end: i64) -> Result<bool> {
        Ok(self.meta.use_link(&uses.id, uses.max, end.saturating_mul(1000)).await?)
    }
}

/// Creates link keys from ids and secrets. The first one signs. Returns `None` if there are none.
pub(super) fn link_keys(secrets: &[(String, Vec<u8>)]) -> Result<Option<LinkKeys>> {
    let keys: std::result::Result<Vec<_>, _> =
        secrets.iter().map(|(id, secret)| LinkKey::new(id, secret)).collect();
    let mut keys = keys.map_err(Error::internal)?.into_iter();
    Ok(keys.next().map(|signing| LinkKeys::new(signing, keys.collect())))
}

/// Derives the secrets that nodes share when none is configured. The oldest comes first: every node
/// has it, also one that has not read the newest yet.
pub(super) fn cluster_secrets(links: &LinkKeys) -> Vec<Vec<u8>> {
    let mut secrets = links.derived("osproxy nodes v1");
    secrets.reverse();
    secrets
}
