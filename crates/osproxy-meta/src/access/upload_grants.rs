//! Upload grants: creation, lookup, revocation, and the number of uploads under each.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, QueryFilter,
    QueryOrder, QuerySelect, sea_query::Expr,
};

use crate::{AccessDb, MetaError, boxed_future, db::entities::upload_grant};

/// How long a grant is kept after it has expired, in milliseconds. Uploads that were created under
/// it may still run, and applications may want to see how often it was used.
const RETENTION_MS: i64 = 30 * 24 * 3_600_000;

/// A grant with a maximum number of uploads may create so many files for each of them, and
/// [`MIN_ATTEMPTS`] more. So uploads that are aborted again and again do not fill the database.
const ATTEMPTS_PER_UPLOAD: i32 = 10;
const MIN_ATTEMPTS: i32 = 100;

/// An upload grant as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRecord {
    /// Id.
    pub id: Uid,
    /// Owner of the files that are created under the grant.
    pub tenant: Tenant,
    /// When the grant was created, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When the grant expires, in milliseconds since the Unix epoch.
    pub expires_at: i64,
    /// When the grant was revoked, in milliseconds since the Unix epoch; `None` if it is not revoked.
    pub revoked_at: Option<i64>,
    /// Maximum value of `uploads`; `None`: no limit.
    pub max_uploads: Option<u32>,
    /// Number of files that were created under the grant, without aborted and expired uploads.
    pub uploads: u32,
    /// Id of the API key that created the grant.
    pub api_key: Option<String>,
    /// What the uploads may be, in a format of the caller.
    pub terms: String,
}

impl GrantRecord {
    /// Why the grant allows no upload at `now`, in milliseconds since the Unix epoch. `None` if it
    /// does.
    pub fn ended(&self, now: i64) -> Option<GrantRefusal> {
        if self.revoked_at.is_some() {
            Some(GrantRefusal::Revoked)
        } else if self.expires_at <= now {
            Some(GrantRefusal::Expired)
        } else if self.max_uploads.is_some_and(|max| self.uploads >= max) {
            Some(GrantRefusal::UsedUp)
        } else {
            None
        }
    }
}

/// Why an upload grant does not allow an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantRefusal {
    /// The grant is revoked, or unknown.
    Revoked,
    /// The grant has expired.
    Expired,
    /// The maximum number of uploads would be exceeded.
    UsedUp,
}

impl AccessDb {
    /// Stores a new grant. Returns `false`, and stores nothing, if the tenant already has `max_active`
    /// grants that are neither expired nor revoked. On a database server, grants that are created at
    /// the same time do not see each other, so they may exceed the maximum.
    #[boxed_future]
    pub async fn create_grant(&self, grant: GrantRecord, max_active: u64) -> Result<bool, MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                let row = to_row(&grant);
                // Reads at most `max_active` entries of an index. A revoked grant has expired.
                let last_allowed = upload_grant::Entity::find()
                    .select_only()
                    .column(upload_grant::Column::Id)
                    .filter(upload_grant::Column::Tenant.eq(grant.tenant.as_str()))
                    .filter(upload_grant::Column::ExpiresAt.gt(now))
                    .order_by_asc(upload_grant::Column::ExpiresAt)
                    .limit(1)
                    .offset(max_active.saturating_sub(1));
                Box::pin(async move {
                    let last_allowed: Option<i64> = last_allowed.into_tuple().one(transaction).await?;
                    if last_allowed.is_some() {
                        return Ok(false);
                    }
                    upload_grant::Entity::insert(row).exec_without_returning(transaction).await?;
                    Ok(true)
                })
            })
            .await
    }

    /// Returns a grant, even if it has expired or is revoked.
    #[boxed_future]
    pub async fn grant(&self, id: Uid) -> Result<Option<GrantRecord>, MetaError> {
        let row = upload_grant::Entity::find_by_id(id.get()).one(&self.db.lookups).await?;
        Ok(row.map(from_row))
    }

    /// Returns up to `limit` grants of a tenant, newest first; with `before`, those created before
    /// that grant.
    #[boxed_future]
    pub async fn grants(
        &self,
        tenant: &Tenant,
        before: Option<Uid>,
        limit: u64,
    ) -> Result<Vec<GrantRecord>, MetaError> {
        let mut page = upload_grant::Entity::find()
            .filter(upload_grant::Column::Tenant.eq(tenant.as_str()))
            .order_by_desc(upload_grant::Column::Id)
            .limit(limit);
        if let Some(before) = before {
            page = page.filter(upload_grant::Column::Id.lt(before.get()));
        }
        Ok(page.all(&self.db.reader).await?.into_iter().map(from_row).collect())
    }

    /// Revokes a grant, which also ends its time. Returns `false` if the tenant has no such grant. Has no effect on a grant
    /// that is already revoked.
    #[boxed_future]
    pub async fn revoke_grant(&self, tenant: Tenant, id: Uid) -> Result<bool, MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                let tenant = tenant.clone();
                Box::pin(async move {
                    let revoked_at = Expr::col(upload_grant::Column::RevokedAt).if_null(Expr::value(now));
                    let expires_at = Expr::case(Expr::col(upload_grant::Column::ExpiresAt).gt(now), now)
                        .finally(Expr::col(upload_grant::Column::ExpiresAt));
                    let revoked = upload_grant::Entity::update_many()
                        .col_expr(upload_grant::Column::RevokedAt, revoked_at)
                        .col_expr(upload_grant::Column::ExpiresAt, expires_at.into())
                        .filter(upload_grant::Column::Id.eq(id.get()))
                        .filter(upload_grant::Column::Tenant.eq(tenant.as_str()));
                    Ok(revoked.exec(transaction).await?.rows_affected == 1)
                })
            })
            .await
    }

    /// Counts an upload of a grant less, because it was undone after it was stored.
    #[boxed_future]
    pub async fn release_granted_upload(&self, id: Uid) -> Result<(), MetaError> {
        self.db.write(move |transaction| Box::pin(release_upload(transaction, id.get()))).await
    }

    /// Deletes up to `limit` grants that expired or were revoked more than 30 days ago. Returns the number of
    /// deleted grants.
    #[boxed_future]
    pub async fn purge_grants(&self, limit: u64) -> Result<u64, MetaError> {
        let expired_before = self.db.clock.now_ms().saturating_sub(RETENTION_MS);
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let old = upload_grant::Entity::find()
                        .select_only()
                        .column(upload_grant::Column::Id)
                        .filter(upload_grant::Column::ExpiresAt.lt(expired_before))
                        .limit(limit);
                    let old: Vec<i64> = old.into_tuple().all(transaction).await?;
                    let purged =
                        upload_grant::Entity::delete_many().filter(upload_grant::Column::Id.is_in(old));
                    Ok(purged.exec(transaction).await?.rows_affected)
                })
            })
            .await
    }
}

/// Counts new uploads under a grant. Returns why the grant does not allow them, if it does not. The
/// caller must not create the uploads then.
pub(crate) async fn count_uploads(
    transaction: &DatabaseTransaction,
    id: Uid,
    uploads: usize,
    now: i64,
) -> Result<Option<GrantRefusal>, DbErr> {
    let added = i32::try_from(uploads).unwrap_or(i32::MAX);
    let max = || Expr::col(upload_grant::Column::MaxUploads);
    let has_room = upload_grant::Column::MaxUploads.is_null().or(Expr::col(upload_grant::Column::Uploads)
        .lte(max().sub(added))
        .and(
            Expr::col(upload_grant::Column::Attempts)
                .lte(max().mul(ATTEMPTS_PER_UPLOAD).add(MIN_ATTEMPTS - added)),
        ));
    let counted = upload_grant::Entity::update_many()
        .col_expr(upload_grant::Column::Uploads, Expr::col(upload_grant::Column::Uploads).add(added))
        .col_expr(upload_grant::Column::Attempts, Expr::col(upload_grant::Column::Attempts).add(added))
        .filter(upload_grant::Column::Id.eq(id.get()))
        .filter(upload_grant::Column::RevokedAt.is_null())
        .filter(upload_grant::Column::ExpiresAt.gt(now))
        .filter(has_room);
    if counted.exec(transaction).await?.rows_affected == 1 {
        return Ok(None);
    }
    let grant = upload_grant::Entity::find_by_id(id.get()).one(transaction).await?;
    Ok(Some(match grant {
        Some(grant) => from_row(grant).ended(now).unwrap_or(GrantRefusal::UsedUp),
        None => GrantRefusal::Revoked,
    }))
}

/// Counts an upload less, because it was aborted or has expired.
pub(crate) async fn release_upload(transaction: &DatabaseTransaction, id: i64) -> Result<(), DbErr> {
    upload_grant::Entity::update_many()
        .col_expr(upload_grant::Column::Uploads, Expr::col(upload_grant::Column::Uploads).sub(1))
        .filter(upload_grant::Column::Id.eq(id))
        .exec(transaction)
        .await?;
    Ok(())
}

fn to_row(grant: &GrantRecord) -> upload_grant::ActiveModel {
    upload_grant::ActiveModel {
        id: Set(grant.id.get()),
        tenant: Set(grant.tenant.to_string()),
        created_at: Set(grant.created_at),
        expires_at: Set(grant.expires_at),
        revoked_at: Set(grant.revoked_at),
        max_uploads: Set(grant.max_uploads.map(|max| i32::try_from(max).unwrap_or(i32::MAX))),
        uploads: Set(grant.uploads.cast_signed()),
        attempts: Set(0),
        api_key: Set(grant.api_key.clone()),
        terms: Set(grant.terms.clone()),
    }
}

fn from_row(row: upload_grant::Model) -> GrantRecord {
    GrantRecord {
        id: Uid::from_db(row.id),
        tenant: Tenant::from_db(&row.tenant),
        created_at: row.created_at,
        expires_at: row.expires_at,
        revoked_at: row.revoked_at,
        max_uploads: row.max_uploads.map(i32::cast_unsigned),
        uploads: u32::try_from(row.uploads).unwrap_or(0),
        api_key: row.api_key,
        terms: row.terms,
    }
}
