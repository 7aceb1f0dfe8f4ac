//! Challenges for the proof of possession: a client proves that it has content that is already
//! stored.

use std::time::Duration;

use osproxy_types::uid::Uid;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DbErr, EntityTrait, QueryFilter, QuerySelect, sea_query::OnConflict,
};

use crate::MetaError;
use crate::{UploadDb, blobs::decode_digest, boxed_future, db::entities::challenge};

/// A challenge for the content of one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChallengeRecord {
    /// Blob id.
    pub blob_id: i64,
    /// Random value of this challenge.
    pub nonce: [u8; 32],
    /// When the challenge expires, in milliseconds since the Unix epoch.
    pub expires_at: i64,
}

impl UploadDb {
    /// Creates a challenge, valid for `ttl`, that decides whether the pending file `uid` gets the
    /// content of a blob. Replaces an earlier challenge for the same file.
    #[boxed_future]
    pub async fn create_challenge(
        &self,
        uid: Uid,
        blob_id: i64,
        nonce: [u8; 32],
        ttl: Duration,
    ) -> Result<ChallengeRecord, MetaError> {
        let ttl_ms = ttl.as_millis().try_into().unwrap_or(i64::MAX);
        let challenge =
            ChallengeRecord { blob_id, nonce, expires_at: self.db.clock.now_ms().saturating_add(ttl_ms) };
        self.db
            .write(move |transaction| {
                let row = challenge::ActiveModel {
                    uid: Set(uid.get()),
                    blob_id: Set(blob_id),
                    nonce: Set(nonce.to_vec()),
                    expires_at: Set(challenge.expires_at),
                };
                let columns =
                    [challenge::Column::BlobId, challenge::Column::Nonce, challenge::Column::ExpiresAt];
                let replace = OnConflict::column(challenge::Column::Uid).update_columns(columns).to_owned();
                let insert = challenge::Entity::insert(row).on_conflict(replace);
                Box::pin(async move {
                    insert.exec_without_returning(transaction).await?;
                    Ok(())
                })
            })
            .await?;
        Ok(challenge)
    }

    /// Returns the challenge for a file; `None` if there is none or it has expired.
    #[boxed_future]
    pub async fn challenge(&self, uid: Uid) -> Result<Option<ChallengeRecord>, MetaError> {
        let row = challenge::Entity::find_by_id(uid.get())
            .filter(challenge::Column::ExpiresAt.gt(self.db.clock.now_ms()))
            .one(&self.db.lookups)
            .await?;
        Ok(row.as_ref().map(from_row).transpose()?)
    }

    /// Deletes and returns the challenge for a file; `None` if there is none or it has expired.
    /// Only one caller gets the challenge, so it can be answered only once.
    #[boxed_future]
    pub async fn take_challenge(&self, uid: Uid) -> Result<Option<ChallengeRecord>, MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let row = challenge::Entity::find_by_id(uid.get())
                        .filter(challenge::Column::ExpiresAt.gt(now))
                        .lock_exclusive()
                        .one(transaction)
                        .await?;
                    let Some(row) = row else {
                        return Ok(None);
                    };
                    let deleted = challenge::Entity::delete_by_id(uid.get()).exec(transaction).await?;
                    Some(&row).filter(|_| deleted.rows_affected == 1).map(from_row).transpose()
                })
            })
            .await
    }

    /// Deletes up to `limit` expired challenges, and returns the number of deleted challenges.
    #[boxed_future]
    pub async fn purge_challenges(&self, limit: u64) -> Result<u64, MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let expired = challenge::Entity::find()
                        .select_only()
                        .column(challenge::Column::Uid)
                        .filter(challenge::Column::ExpiresAt.lte(now))
                        .limit(limit);
                    let expired: Vec<i64> = expired.into_tuple().all(transaction).await?;
                    let purged =
                        challenge::Entity::delete_many().filter(challenge::Column::Uid.is_in(expired));
                    Ok(purged.exec(transaction).await?.rows_affected)
                })
            })
            .await
    }
}

fn from_row(row: &challenge::Model) -> Result<ChallengeRecord, DbErr> {
    let nonce = decode_digest(Some(&row.nonce));
    let nonce =
        nonce.ok_or_else(|| DbErr::Custom(format!("the challenge of file {} is corrupt", row.uid)))?;
    Ok(ChallengeRecord { blob_id: row.blob_id, nonce, expires_at: row.expires_at })
}
