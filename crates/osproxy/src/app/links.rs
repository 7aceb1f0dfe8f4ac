//! Keys that sign links, which change while a node runs, and what has become of links that were signed.

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

/// How often keys are looked for that were made elsewhere.
const LOOK: Duration = Duration::from_secs(10);
/// How often at most because of a link that is signed by one that is not known.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where the keys come from.
pub(super) struct Renewal {
    /// They stand in the configuration, and stay what they are.
    pub(super) is_configured: bool,
    /// What nodes know each other by comes from them.
    pub(super) is_for_cluster: bool,
    pub(super) looked: Mutex<Instant>,
}

impl App {
    /// Whether a link says what was signed, and holds now; gives the terms that were signed with it.
    pub async fn verify_link(
        &self,
        claims: &Claims<'_>,
        signature: &str,
    ) -> Result<std::result::Result<Terms, LinkError>> {
        if !self.links.know(signature) {
            // Another node may have been told of a key a moment ago.
            self.renew_link_keys(LOOK_AGAIN).await?;
        }
        Ok(self.links.verify(claims, signature, OffsetDateTime::now_utc()))
    }

    /// Reads the keys anew, unless that was done lately.
    async fn renew_link_keys(&self, lately: Duration) -> Result<()> {
        if self.renewal.is_configured {
            return Ok(());
        }
        {
            let mut looked = self.renewal.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.elapsed() < lately {
                return Ok(());
            }
            *looked = Instant::now();
        }
        let Some(keys) = link_keys(&self.meta.known_link_keys().await?)? else {
            // A node without any could not serve a link.
            return Ok(());
        };
        if self.links.are(&keys) {
            return Ok(());
        }
        self.links.replace(&keys);
        if self.renewal.is_for_cluster {
            self.cluster.replace(&cluster_secrets(&self.links)).map_err(Error::internal)?;
        }
        tracing::info!("the keys that sign links have changed");
        Ok(())
    }

    /// Looks for keys that were made elsewhere, as long as the node runs.
    pub(super) fn keep_link_keys(self: &Arc<Self>) {
        if self.renewal.is_configured {
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
                    tracing::warn!(error, "cannot look for keys that sign links");
                }
            }
        });
    }

    /// Whether links to `uid` that were issued then, in seconds since the Unix epoch, were revoked.
    pub async fn is_revoked(&self, uid: Uid, action: Action, issued: i64) -> Result<bool> {
        Ok(issued < self.meta.links_from(uid, action == Action::Download).await?)
    }

    /// Whether a link was used as often as it may be.
    pub async fn is_used_up(&self, uses: &Limit) -> Result<bool> {
        Ok(self.meta.link_uses(&uses.id).await? >= uses.max)
    }

    /// Counts one more use of a link that ends then, in seconds since the Unix epoch. `false`: it was used up.
    pub async fn use_link(&self, uses: &Limit, end: i64) -> Result<bool> {
        Ok(self.meta.use_link(&uses.id, uses.max, end.saturating_mul(1000)).await?)
    }
}

/// The keys of these ids and secrets, the first of which signs; `None`: there are none.
pub(super) fn link_keys(secrets: &[(String, Vec<u8>)]) -> Result<Option<LinkKeys>> {
    let keys: std::result::Result<Vec<_>, _> =
        secrets.iter().map(|(id, secret)| LinkKey::new(id, secret)).collect();
    let mut keys = keys.map_err(Error::internal)?.into_iter();
    Ok(keys.next().map(|signing| LinkKeys::new(signing, keys.collect())))
}

/// What nodes know each other by, where no secret is configured. The oldest key comes first: every node knows it, also one
/// that has not heard of the newest.
pub(super) fn cluster_secrets(links: &LinkKeys) -> Vec<Vec<u8>> {
    let mut secrets = links.derived("osproxy nodes v1");
    secrets.reverse();
    secrets
}
