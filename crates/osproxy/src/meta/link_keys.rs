use std::time::Duration;

use sea_orm::{ActiveValue::Set, ConnectionTrait, DbErr, EntityTrait, QueryOrder};

use super::{Meta, dialect::Lock, entities::link_key, now_ms};

/// How long another node that makes the first key is waited for.
const WAIT: Duration = Duration::from_secs(30);

/// Every key, newest first.
async fn known(connection: &impl ConnectionTrait) -> Result<Vec<(String, Vec<u8>)>, DbErr> {
    let newest_first = link_key::Entity::find().order_by_desc(link_key::Column::CreatedAt);
    let keys = newest_first.all(connection).await?;
    Ok(keys.into_iter().map(|key| (key.id, key.secret)).collect())
}

impl Meta {
    /// The id and secret of every link key kept in the database, newest first. If there is none, `fresh`
    /// becomes the first.
    pub async fn link_keys(&self, fresh: (String, Vec<u8>)) -> Result<Vec<(String, Vec<u8>)>, DbErr> {
        let keys = known(&self.reader).await?;
        if !keys.is_empty() {
            return Ok(keys);
        }
        // Nodes that start at once must not each make one that the others do not know.
        let _locked = self.lock(Lock::Migrate, WAIT).await?;
        self.write(move |transaction| {
            let (id, secret) = fresh.clone();
            Box::pin(async move {
                let keys = known(transaction).await?;
                if !keys.is_empty() {
                    return Ok(keys);
                }
                let row = link_key::ActiveModel {
                    id: Set(id.clone()),
                    secret: Set(secret.clone()),
                    created_at: Set(now_ms()),
                };
                link_key::Entity::insert(row).exec_without_returning(transaction).await?;
                Ok(vec![(id, secret)])
            })
        })
        .await
    }
}
