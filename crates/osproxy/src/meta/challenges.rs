//! What is asked of those who say that they have content which is stored.

use std::time::Duration;

use sea_orm::{
    ActiveValue::Set, ColumnTrait, DbErr, EntityTrait, QueryFilter, QuerySelect, sea_query::OnConflict,
};

use super::{Meta, blobs::recorded_digest, entities::challenge};
use crate::uid::Uid;

/// A question about content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Number of the blob.
    pub blob_id: i64,
    /// What was drawn for it alone.
    pub nonce: [u8; 32],
    /// From when on it cannot be answered, in milliseconds since the Unix epoch.
    pub expires_at: i64,
}

impl Meta {
    /// Records the question that decides whether the file `uid`, which waits for its content, gets that of a blob, and that
    /// can be answered for as long as `holds` says. It replaces the one before, if there was one.
    pub async fn create_challenge(
        &self,
        uid: Uid,
        blob_id: i64,
        nonce: [u8; 32],
        holds: Duration,
    ) -> Result<Challenge, DbErr> {
        let holds = holds.as_millis().try_into().unwrap_or(i64::MAX);
        let challenge = Challenge { blob_id, nonce, expires_at: self.clock.now_ms().saturating_add(holds) };
        self.write(move |transaction| {
            let row = challenge::ActiveModel {
                uid: Set(uid.get()),
                blob_id: Set(blob_id),
                nonce: Set(nonce.to_vec()),
                expires_at: Set(challenge.expires_at),
            };
            let columns = [challenge::Column::BlobId, challenge::Column::Nonce, challenge::Column::ExpiresAt];
            let replaced = OnConflict::column(challenge::Column::Uid).update_columns(columns).to_owned();
            let asking = challenge::Entity::insert(row).on_conflict(replaced);
            Box::pin(async move {
                asking.exec_without_returning(transaction).await?;
                Ok(())
            })
        })
        .await?;
        Ok(challenge)
    }

    /// The question of a file that can be answered now.
    pub async fn challenge(&self, uid: Uid) -> Result<Option<Challenge>, DbErr> {
        let found = challenge::Entity::find_by_id(uid.get())
            .filter(challenge::Column::ExpiresAt.gt(self.clock.now_ms()))
            .one(&self.reader)
            .await?;
        found.as_ref().map(recorded).transpose()
    }

    /// Removes the question of a file that can be answered now: whoever gets it may answer, and nobody else.
    pub async fn take_challenge(&self, uid: Uid) -> Result<Option<Challenge>, DbErr> {
        let now = self.clock.now_ms();
        self.write(move |transaction| {
            Box::pin(async move {
                let row = challenge::Entity::find_by_id(uid.get())
                    .filter(challenge::Column::ExpiresAt.gt(now))
                    .lock_exclusive()
                    .one(transaction)
                    .await?;
                let Some(row) = row else {
                    return Ok(None);
                };
                let taken = challenge::Entity::delete_by_id(uid.get()).exec(transaction).await?;
                Some(&row).filter(|_| taken.rows_affected == 1).map(recorded).transpose()
            })
        })
        .await
    }

    /// Forgets up to `limit` questions that can no longer be answered, and says how many.
    pub async fn purge_challenges(&self, limit: u64) -> Result<u64, DbErr> {
        let now = self.clock.now_ms();
        self.write(move |transaction| {
            Box::pin(async move {
                let old = challenge::Entity::find()
                    .select_only()
                    .column(challenge::Column::Uid)
                    .filter(challenge::Column::ExpiresAt.lte(now))
                    .limit(limit);
                let old: Vec<i64> = old.into_tuple().all(transaction).await?;
                let purged = challenge::Entity::delete_many().filter(challenge::Column::Uid.is_in(old));
                Ok(purged.exec(transaction).await?.rows_affected)
            })
        })
        .await
    }
}

fn recorded(row: &challenge::Model) -> Result<Challenge, DbErr> {
    let nonce = recorded_digest(Some(&row.nonce));
    let nonce =
        nonce.ok_or_else(|| DbErr::Custom(format!("the challenge of file {} is damaged", row.uid)))?;
    Ok(Challenge { blob_id: row.blob_id, nonce, expires_at: row.expires_at })
}
