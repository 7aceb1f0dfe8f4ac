use sea_orm::{ActiveValue::Set, EntityTrait, QueryOrder};

use super::{Meta, entities::link_key, now_ms};
use sea_orm::DbErr;

impl Meta {
    /// The id and secret of every link key kept in the database, newest first. If there is none, `fresh`
    /// becomes the first.
    pub async fn link_keys(&self, fresh: (String, Vec<u8>)) -> Result<Vec<(String, Vec<u8>)>, DbErr> {
        self.write(move |transaction| {
            let (id, secret) = fresh.clone();
            Box::pin(async move {
                let newest_first = link_key::Entity::find().order_by_desc(link_key::Column::CreatedAt);
                let keys = newest_first.all(transaction).await?;
                if !keys.is_empty() {
                    return Ok(keys.into_iter().map(|key| (key.id, key.secret)).collect());
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
