//! Link keys: the secrets that sign links. The newest key signs; older keys only verify.

use std::{fmt, time::Duration};

use sea_orm::{ActiveValue::Set, ConnectionTrait, DbErr, EntityTrait, QueryOrder};

use crate::MetaError;
use crate::{
    AccessDb, boxed_future,
    db::{database_lock::DatabaseLock, entities::link_key},
    now_ms,
};

/// How long to wait while another node creates the first key.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// A link key as stored.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkKeyRecord {
    /// Public identifier, part of every link that the key signs.
    pub id: String,
    /// Secret.
    pub secret: Vec<u8>,
}

impl fmt::Debug for LinkKeyRecord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LinkKeyRecord").field("id", &self.id).finish_non_exhaustive()
    }
}

/// All keys, newest first.
async fn all_keys(connection: &impl ConnectionTrait) -> Result<Vec<LinkKeyRecord>, DbErr> {
    let newest_first = link_key::Entity::find().order_by_desc(link_key::Column::CreatedAt);
    let keys = newest_first.all(connection).await?;
    Ok(keys.into_iter().map(|key| LinkKeyRecord { id: key.id, secret: key.secret }).collect())
}

impl AccessDb {
    /// Returns every link key in the database, newest first.
    #[boxed_future]
    pub async fn link_keys(&self) -> Result<Vec<LinkKeyRecord>, MetaError> {
        Ok(all_keys(&self.db.reader).await?)
    }

    /// Returns id and creation time (milliseconds since the Unix epoch) of every link key in the
    /// database, newest first.
    #[boxed_future]
    pub async fn link_key_creation_times(&self) -> Result<Vec<(String, i64)>, MetaError> {
        let rows = link_key::Entity::find().order_by_desc(link_key::Column::CreatedAt);
        Ok(rows.all(&self.db.reader).await?.into_iter().map(|key| (key.id, key.created_at)).collect())
    }

    /// Adds a key as the newest one, which signs new links.
    #[boxed_future]
    pub async fn add_link_key(&self, id: String, secret: Vec<u8>) -> Result<(), MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                let (id, secret) = (id.clone(), secret.clone());
                Box::pin(async move {
                    // Give the new key the latest creation time, even if the clock was ahead when
                    // the previous key was created.
                    let newest = link_key::Entity::find().order_by_desc(link_key::Column::CreatedAt);
                    let newest = newest.one(transaction).await?.map_or(0, |key| key.created_at + 1);
                    let row = link_key::ActiveModel {
                        id: Set(id),
                        secret: Set(secret),
                        created_at: Set(now.max(newest)),
                    };
                    link_key::Entity::insert(row).exec_without_returning(transaction).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Deletes a key that no longer signs. Returns `false` if the key does not exist or is the
    /// newest one.
    #[boxed_future]
    pub async fn remove_link_key(&self, id: &str) -> Result<bool, MetaError> {
        let id = id.to_owned();
        self.db
            .write(move |transaction| {
                let id = id.clone();
                Box::pin(async move {
                    let keys = all_keys(transaction).await?;
                    if !keys.iter().skip(1).any(|key| key.id == id) {
                        return Ok(false);
                    }
                    Ok(link_key::Entity::delete_by_id(id).exec(transaction).await?.rows_affected == 1)
                })
            })
            .await
    }

    /// Returns every link key in the database, newest first. If there is none, stores `new_key` as
    /// the first one.
    #[boxed_future]
    pub async fn link_keys_or_create(&self, new_key: LinkKeyRecord) -> Result<Vec<LinkKeyRecord>, MetaError> {
        let keys = all_keys(&self.db.reader).await?;
        if !keys.is_empty() {
            return Ok(keys);
        }
        // Nodes that start at the same time must agree on one key.
        let _lock = self.db.lock(DatabaseLock::Migrate, LOCK_TIMEOUT).await?;
        self.db
            .write(move |transaction| {
                let new_key = new_key.clone();
                Box::pin(async move {
                    let keys = all_keys(transaction).await?;
                    if !keys.is_empty() {
                        return Ok(keys);
                    }
                    let row = link_key::ActiveModel {
                        id: Set(new_key.id.clone()),
                        secret: Set(new_key.secret.clone()),
                        created_at: Set(now_ms()),
                    };
                    link_key::Entity::insert(row).exec_without_returning(transaction).await?;
                    Ok(vec![new_key])
                })
            })
            .await
    }
}
