//! Revocation of links, and use counts of links with `max_uses`.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, EntityTrait, ExprTrait, QueryFilter, QuerySelect, sea_query::Expr,
};

use crate::MetaError;
use crate::{
    AccessDb, Invalidation, boxed_future,
    db::{
        entities::{file, link_use},
        retry::retry_conflicts,
    },
    files::stored::stored_among,
};

/// Maximum number of attempts to count a use. If two first uses of a link are concurrent, one of
/// them fails to insert the row. Its second attempt updates the row.
const MAX_COUNT_ATTEMPTS: u32 = 2;

impl AccessDb {
    /// Returns the start of link validity of a file, in seconds since the Unix epoch: links issued
    /// before this time are revoked. Returns 0 if no link is revoked or there is no such file. Set
    /// `cache_file` if the caller needs the [`StoredFile`](crate::StoredFile) next: this call then
    /// reads the whole `StoredFile`, and caches it if its content is verified.
    #[boxed_future]
    pub async fn links_valid_from(&self, uid: Uid, cache_file: bool) -> Result<i64, MetaError> {
        if let Some(from) = self.db.file_cache.links_from(uid) {
            return Ok(from);
        }
        if cache_file && let Some(file) = stored_among(&self.db, &[uid]).await?.pop() {
            return Ok(file.links_valid_from.unwrap_or(0));
        }
        let generation = self.db.file_cache.generation();
        let from = file::Entity::find_by_id(uid.get()).select_only().column(file::Column::LinksFrom);
        let from: Option<Option<i64>> = from.into_tuple().one(&self.db.lookups).await?;
        let from = from.flatten().unwrap_or(0);
        self.db.file_cache.insert_links_from(uid, from, generation);
        Ok(from)
    }

    /// Revokes all links to a tenant's file that have been issued so far. Returns `false` if the
    /// tenant has no such file, or the file is deleted or expired.
    #[boxed_future]
    pub async fn revoke_links(&self, tenant: Tenant, uid: Uid) -> Result<bool, MetaError> {
        // The issue date of a link is a whole second. This revokes all links whose date is the
        // current second or earlier. A link issued later in this second gets the next second as its
        // date.
        let from = self.db.clock.now_ms() / 1000 + 1;
        let revoked = self
            .db
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
        self.db.invalidate_everywhere(Invalidation::File(uid));
        revoked
    }

    /// Returns the use count of a link.
    #[boxed_future]
    pub async fn link_uses(&self, id: &str) -> Result<u32, MetaError> {
        let uses = link_use::Entity::find_by_id(id).select_only().column(link_use::Column::Uses);
        let uses: Option<i32> = uses.into_tuple().one(&self.db.lookups).await?;
        Ok(uses.map_or(0, i32::cast_unsigned))
    }

    /// Counts a use of a link that allows `max` uses and expires at `expires_at` (milliseconds
    /// since the Unix epoch). Returns `false` if the limit was reached before.
    #[boxed_future]
    pub async fn count_link_use(&self, id: &str, max: u32, expires_at: i64) -> Result<bool, MetaError> {
        if max == 0 {
            return Ok(false);
        }
        let id = id.to_owned();
        let max = i32::try_from(max).unwrap_or(i32::MAX);
        retry_conflicts(MAX_COUNT_ATTEMPTS, || {
            let id = id.clone();
            self.db.write(move |transaction| {
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
                        link_use::ActiveModel { id: Set(id), uses: Set(1), expires_at: Set(expires_at) };
                    link_use::Entity::insert(row).exec_without_returning(transaction).await?;
                    Ok(true)
                })
            })
        })
        .await
    }

    /// Deletes the use counts of up to `limit` expired links; returns the number of deleted counts.
    #[boxed_future]
    pub async fn purge_link_uses(&self, limit: u64) -> Result<u64, MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let expired = link_use::Entity::find()
                        .select_only()
                        .column(link_use::Column::Id)
                        .filter(link_use::Column::ExpiresAt.lt(now))
                        .limit(limit);
                    let expired: Vec<String> = expired.into_tuple().all(transaction).await?;
                    let purged = link_use::Entity::delete_many().filter(link_use::Column::Id.is_in(expired));
                    Ok(purged.exec(transaction).await?.rows_affected)
                })
            })
            .await
    }
}
