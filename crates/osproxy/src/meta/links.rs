//! What has become of links that are out.

use sea_orm::{
    ActiveValue::Set, ColumnTrait, DbErr, EntityTrait, ExprTrait, QueryFilter, QuerySelect, SqlErr,
    sea_query::Expr,
};

use super::{
    Change, Meta,
    entities::{file, link_use},
};
use crate::{tenant::Tenant, uid::Uid};

impl Meta {
    /// Links to a file that were issued before this moment, in seconds since the Unix epoch, are revoked; 0: none
    /// are.
    /// Whoever is about to read the file has it remembered.
    pub async fn links_from(&self, uid: Uid, is_to_read: bool) -> Result<i64, DbErr> {
        if let Some(from) = self.stored.links_from(uid) {
            return Ok(from);
        }
        if is_to_read && let Some(file) = self.stored_file(uid).await? {
            return Ok(file.links_from.unwrap_or(0));
        }
        let generation = self.stored.generation();
        let from = file::Entity::find_by_id(uid.get()).select_only().column(file::Column::LinksFrom);
        let from: Option<Option<i64>> = from.into_tuple().one(&self.reader).await?;
        let from = from.flatten().unwrap_or(0);
        self.stored.insert_links_from(uid, from, generation);
        Ok(from)
    }

    /// Revokes all links to a file of a tenant that were issued until now. `false`: there is no such file.
    pub async fn revoke_links(&self, tenant: Tenant, uid: Uid) -> Result<bool, DbErr> {
        // Links are dated in whole seconds: later ones get the next.
        let from = self.clock.now_ms() / 1000 + 1;
        let revoked = self
            .write(move |transaction| {
                let tenant = tenant.clone();
                Box::pin(async move {
                    let revoked = file::Entity::update_many()
                        .col_expr(file::Column::LinksFrom, Expr::value(from))
                        .filter(file::Column::Uid.eq(uid.get()))
                        .filter(file::Column::Tenant.eq(tenant.as_str()))
                        .filter(file::Column::Listed.eq(1));
                    Ok(revoked.exec(transaction).await?.rows_affected == 1)
                })
            })
            .await;
        self.changed(Change::File(uid));
        revoked
    }

    /// How often a link was used.
    pub async fn link_uses(&self, id: &str) -> Result<u32, DbErr> {
        let uses = link_use::Entity::find_by_id(id).select_only().column(link_use::Column::Uses);
        let uses: Option<i32> = uses.into_tuple().one(&self.reader).await?;
        Ok(uses.map_or(0, i32::cast_unsigned))
    }

    /// Counts one more use of a link, which may be used `max` times and ends at a moment in milliseconds since the Unix
    /// epoch. `false`: it was used up.
    pub async fn use_link(&self, id: &str, max: u32, end_ms: i64) -> Result<bool, DbErr> {
        if max == 0 {
            return Ok(false);
        }
        let id = id.to_owned();
        let max = i32::try_from(max).unwrap_or(i32::MAX);
        // Whoever comes second at the first use counts the second one.
        for _ in 0..2 {
            let id = id.clone();
            let counted = self
                .write(move |transaction| {
                    let id = id.clone();
                    Box::pin(async move {
                        let counted = link_use::Entity::update_many()
                            .col_expr(link_use::Column::Uses, Expr::col(link_use::Column::Uses).add(1))
                            .filter(link_use::Column::Id.eq(&id))
                            .filter(link_use::Column::Uses.lt(max));
                        if counted.exec(transaction).await?.rows_affected == 1 {
                            return Ok(true);
                        }
                        if link_use::Entity::find_by_id(id.clone()).one(transaction).await?.is_some() {
                            return Ok(false);
                        }
                        let row =
                            link_use::ActiveModel { id: Set(id), uses: Set(1), expires_at: Set(end_ms) };
                        link_use::Entity::insert(row).exec_without_returning(transaction).await?;
                        Ok(true)
                    })
                })
                .await;
            match counted {
                Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {}
                counted => return counted,
            }
        }
        Err(DbErr::Custom("the uses of a link cannot be counted".to_owned()))
    }

    /// Forgets the uses of up to `limit` links that have expired, and says of how many.
    pub async fn purge_link_uses(&self, limit: u64) -> Result<u64, DbErr> {
        let now = self.clock.now_ms();
        self.write(move |transaction| {
            Box::pin(async move {
                let old = link_use::Entity::find()
                    .select_only()
                    .column(link_use::Column::Id)
                    .filter(link_use::Column::ExpiresAt.lt(now))
                    .limit(limit);
                let old: Vec<String> = old.into_tuple().all(transaction).await?;
                let purged = link_use::Entity::delete_many().filter(link_use::Column::Id.is_in(old));
                Ok(purged.exec(transaction).await?.rows_affected)
            })
        })
        .await
    }
}
