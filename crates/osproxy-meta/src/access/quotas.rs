//! Quotas: the maximum number of bytes that the files of a tenant may use together.
//!
//! The row of a file records the bytes charged for the file. Whenever a charge changes, the same
//! transaction changes the tenant's sum by one conditional UPDATE. So no charge takes the sum above
//! the quota, even with concurrent transactions on several nodes. That UPDATE comes last in the
//! transaction, because all transactions of the tenant have to lock the tenant's row.
//!
//! The bytes of a tenant that was never given a quota are not summed up. Each node only checks
//! every few seconds whether such a tenant has been given a quota.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use osproxy_types::{tenant::Tenant, uid::Uid};
use quick_cache::sync::Cache;
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, QueryFilter,
    QueryOrder, QuerySelect, QueryTrait,
    sea_query::{Expr, OnConflict},
};

use crate::MetaError;
use crate::{
    TenantDb, boxed_future,
    db::{
        dialect,
        entities::{blob, file, tenant},
        write_batcher::TxEnd,
    },
};

/// How long to cache that a tenant has no quota.
const NO_QUOTA_TTL: Duration = Duration::from_secs(5);
/// Maximum number of tenants in each cache.
const MAX_CACHED_TENANTS: usize = 10_000;
/// How long a tenant that has exceeded its quota is not reported again.
const EXCEEDED_INTERVAL: Duration = Duration::from_hours(1);

/// Estimated size of a file's row with its indexes in the database, in bytes, excluding name and
/// metadata.
const ROW_OVERHEAD: usize = 512;

/// Bytes that a tenant is charged for the row of a file.
pub(crate) fn record_bytes(name: &str, metadata: Option<&str>) -> i64 {
    let bytes = ROW_OVERHEAD + name.len() + metadata.map_or(0, str::len);
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Bytes that a tenant is charged for the key and the attributes of an object, as a part of the
/// charge for the row of its file.
pub(crate) fn object_bytes(key: &str, attributes: Option<&str>) -> i64 {
    let bytes = key.len() + attributes.map_or(0, str::len);
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Which tenants have no quota, and which have exceeded theirs.
pub(crate) struct Quotas {
    /// Tenants without a quota, and when this node found that out.
    no_quota: Cache<String, Instant>,
    /// Tenants whose quota has refused a request, and when that was last noted in `to_report`.
    exceeded: Cache<String, Instant>,
    /// Tenants that have exceeded their quota since the last call of [`Quotas::take_exceeded`].
    to_report: Mutex<Vec<String>>,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            no_quota: Cache::new(MAX_CACHED_TENANTS),
            exceeded: Cache::new(MAX_CACHED_TENANTS),
            to_report: Mutex::default(),
        }
    }
}

/// Whether a quota allows a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChargeOutcome {
    Allowed,
    /// The charge would exceed the quota.
    OverQuota,
}

impl ChargeOutcome {
    /// Commits with `allowed` if the charge is allowed; otherwise rolls back with `refused`.
    pub(crate) fn commit_or_roll_back<T>(self, allowed: T, refused: T) -> TxEnd<T> {
        match self {
            Self::Allowed => TxEnd::Commit(allowed),
            Self::OverQuota => TxEnd::Rollback(refused),
        }
    }
}

/// A tenant's quota and its use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaUsage {
    /// The tenant.
    pub tenant: Tenant,
    /// Maximum number of bytes charged; `None`: unlimited.
    pub max_bytes: Option<u64>,
    /// Bytes charged: for stored, received or announced content, and for the database rows of
    /// files.
    pub used: u64,
}

impl Quotas {
    /// Whether a query of this node in the last 5 seconds has found no quota for the tenant.
    pub(crate) fn has_no_quota(&self, tenant: &str) -> bool {
        self.no_quota.get(tenant).is_some_and(|found_at| found_at.elapsed() < NO_QUOTA_TTL)
    }

    /// Adds `change` bytes to a tenant's sum. Returns `OverQuota` if the new sum would exceed the
    /// quota; a negative change is always allowed. Does nothing for a tenant that was never given a
    /// quota.
    pub(crate) async fn charge(
        &self,
        transaction: &DatabaseTransaction,
        tenant: &str,
        change: i64,
    ) -> Result<ChargeOutcome, DbErr> {
        if change == 0 || self.has_no_quota(tenant) {
            return Ok(ChargeOutcome::Allowed);
        }
        let queried_at = Instant::now();
        let used = || Expr::col(tenant::Column::Used).add(change);
        let mut update = tenant::Entity::update_many()
            .col_expr(tenant::Column::Used, used())
            .filter(tenant::Column::Name.eq(tenant));
        if change > 0 {
            // Compare with the remaining bytes, not with the new sum: the sum could overflow.
            let remaining = Expr::col(tenant::Column::MaxBytes).sub(Expr::col(tenant::Column::Used));
            update = update.filter(tenant::Column::MaxBytes.is_null().or(remaining.gte(change)));
        }
        if update.exec(transaction).await?.rows_affected == 1 {
            return Ok(ChargeOutcome::Allowed);
        }
        if change > 0 && tenant::Entity::find_by_id(tenant).one(transaction).await?.is_some() {
            self.note_exceeded(tenant);
            return Ok(ChargeOutcome::OverQuota);
        }
        self.no_quota.insert(tenant.to_owned(), queried_at);
        Ok(ChargeOutcome::Allowed)
    }

    /// Notes that the quota of a tenant has refused a request; at most once per tenant and hour.
    fn note_exceeded(&self, tenant: &str) {
        let mut to_report = self.to_report.lock().unwrap_or_else(PoisonError::into_inner);
        if self.exceeded.get(tenant).is_some_and(|noted_at| noted_at.elapsed() < EXCEEDED_INTERVAL) {
            return;
        }
        if to_report.len() < MAX_CACHED_TENANTS {
            self.exceeded.insert(tenant.to_owned(), Instant::now());
            to_report.push(tenant.to_owned());
        }
    }

    /// Returns the tenants that have exceeded their quota since the last call.
    pub(crate) fn take_exceeded(&self) -> Vec<String> {
        std::mem::take(&mut *self.to_report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts back tenants of [`take_exceeded`](Self::take_exceeded) that could not be reported.
    pub(crate) fn put_back_exceeded(&self, tenants: Vec<String>) {
        self.to_report.lock().unwrap_or_else(PoisonError::into_inner).extend(tenants);
    }

    /// Locks the row of a file before the charge for the file changes. Returns the current charge
    /// in bytes. Returns 0, without a lock, if the tenant is cached as one without a quota.
    pub(crate) async fn lock_charge(
        &self,
        transaction: &DatabaseTransaction,
        tenant: &str,
        uid: Uid,
    ) -> Result<i64, DbErr> {
        if self.has_no_quota(tenant) {
            return Ok(0);
        }
        let charged =
            file::Entity::find_by_id(uid.get()).select_only().column(file::Column::Charged).lock_exclusive();
        Ok(charged.into_tuple().one(transaction).await?.unwrap_or(0))
    }
}

impl TenantDb {
    /// Whether the tenant's quota has `bytes` left at this moment.
    #[boxed_future]
    pub async fn has_quota_left(&self, tenant: &Tenant, bytes: u64) -> Result<bool, MetaError> {
        if self.db.quotas.has_no_quota(tenant.as_str()) {
            return Ok(true);
        }
        let queried_at = Instant::now();
        let Some(row) = tenant::Entity::find_by_id(tenant.as_str()).one(&self.db.lookups).await? else {
            self.db.quotas.no_quota.insert(tenant.to_string(), queried_at);
            return Ok(true);
        };
        let remaining = row.max_bytes.map(|max| u64::try_from(max.saturating_sub(row.used)).unwrap_or(0));
        let has_left = remaining.is_none_or(|remaining| bytes <= remaining);
        if !has_left {
            self.db.quotas.note_exceeded(tenant.as_str());
        }
        Ok(has_left)
    }

    /// Sets the quota of a tenant and counts the bytes of its files; `None` removes the limit. A
    /// tenant above its new quota keeps its files, but cannot add any. The first call for a tenant
    /// takes some seconds: it waits until no node has the tenant in the cache of tenants without a
    /// quota.
    #[boxed_future]
    pub async fn set_quota(&self, tenant: &Tenant, max_bytes: Option<u64>) -> Result<QuotaUsage, MetaError> {
        let max_bytes = max_bytes.map(|max| i64::try_from(max).unwrap_or(i64::MAX));
        let name = tenant.to_string();
        let is_new = tenant::Entity::find_by_id(&name).one(&self.db.reader).await?.is_none();
        self.db
            .write({
                let name = name.clone();
                move |transaction| {
                    let row = tenant::ActiveModel {
                        name: Set(name.clone()),
                        max_bytes: Set(max_bytes),
                        used: Set(0),
                    };
                    let set_max_bytes = OnConflict::column(tenant::Column::Name)
                        .update_column(tenant::Column::MaxBytes)
                        .to_owned();
                    Box::pin(async move {
                        let upsert = tenant::Entity::insert(row).on_conflict(set_max_bytes);
                        upsert.exec_without_returning(transaction).await?;
                        Ok(())
                    })
                }
            })
            .await?;
        if is_new {
            tokio::time::sleep(NO_QUOTA_TTL + Duration::from_secs(1)).await;
        }
        self.backfill_charges(&name).await?;
        self.recount_usage(name).await?;
        let usage = self.quota_usage().await?.into_iter().find(|usage| usage.tenant == *tenant);
        Ok(usage.ok_or_else(|| DbErr::RecordNotFound(tenant.to_string()))?)
    }

    /// Charges stored files whose charge is missing: older versions of osproxy did not record
    /// charges.
    async fn backfill_charges(&self, name: &str) -> Result<(), MetaError> {
        let name = name.to_owned();
        self.db
            .write(move |transaction| {
                let size = blob::Entity::find()
                    .select_only()
                    .column(blob::Column::Size)
                    .filter(
                        Expr::col((blob::Entity, blob::Column::Id))
                            .equals((file::Entity, file::Column::BlobId)),
                    )
                    .into_query();
                let update = file::Entity::update_many()
                    .col_expr(file::Column::Charged, Expr::SubQuery(None, Box::new(size.into())))
                    .filter(file::Column::Tenant.eq(&name))
                    .filter(file::Column::State.eq(file::State::Stored))
                    .filter(file::Column::BlobId.is_not_null())
                    .filter(file::Column::Charged.eq(0));
                Box::pin(async move {
                    update.exec(transaction).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Sets the tenant's sum to the total of the charges in the rows of its files.
    async fn recount_usage(&self, name: String) -> Result<(), MetaError> {
        let database = self.db.reader.get_database_backend();
        self.db
            .write(move |transaction| {
                let name = name.clone();
                Box::pin(async move {
                    // Lock the tenant's row before counting. Then there are two cases for a
                    // concurrent transaction that changes a charge. Either it has committed and is
                    // counted here, or it changes the sum after this transaction.
                    tenant::Entity::find_by_id(&name).lock_exclusive().one(transaction).await?;
                    let sum = file::Entity::find()
                        .select_only()
                        .column_as(
                            dialect::integer_sum_of(
                                database,
                                Expr::col(file::Column::Charged).add(Expr::col(file::Column::RecordBytes)),
                            ),
                            "sum",
                        )
                        .filter(file::Column::Tenant.eq(&name));
                    let sum: Option<Option<i64>> = sum.into_tuple().one(transaction).await?;
                    tenant::Entity::update_many()
                        .col_expr(tenant::Column::Used, Expr::value(sum.flatten().unwrap_or(0)))
                        .filter(tenant::Column::Name.eq(&name))
                        .exec(transaction)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Returns the usage of all tenants that were ever given a quota, ordered by name.
    #[boxed_future]
    pub async fn quota_usage(&self) -> Result<Vec<QuotaUsage>, MetaError> {
        let rows = tenant::Entity::find().order_by_asc(tenant::Column::Name).all(&self.db.reader).await?;
        let usage = rows.into_iter().map(|row| QuotaUsage {
            tenant: Tenant::from_db(&row.name),
            max_bytes: row.max_bytes.map(i64::unsigned_abs),
            used: u64::try_from(row.used).unwrap_or(0),
        });
        Ok(usage.collect())
    }
}
