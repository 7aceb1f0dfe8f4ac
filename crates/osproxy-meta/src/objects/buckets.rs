//! Buckets.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect, sea_query::Expr,
};

use super::{ObjectDb, bind};
use crate::{
    MetaError, boxed_future,
    db::entities::{bucket, object, object_upload},
};

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketRecord {
    /// Id.
    pub id: Uid,
    /// Name, unique among all tenants.
    pub name: String,
    /// Owner.
    pub tenant: Tenant,
    /// In milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Whether everybody may read the objects.
    pub is_public: bool,
    /// CORS rules, in a format of the caller.
    pub cors: Option<String>,
    /// Lifecycle rules, in a format of the caller.
    pub lifecycle: Option<String>,
}

impl BucketRecord {
    fn from_row(row: bucket::Model) -> Self {
        Self {
            id: Uid::from_db(row.id),
            name: row.name,
            tenant: Tenant::from_db(&row.tenant),
            created_at: row.created_at,
            is_public: row.is_public != 0,
            cors: row.cors,
            lifecycle: row.lifecycle,
        }
    }
}

/// A bucket in a list, without its rules, which may be long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSummary {
    /// Name.
    pub name: String,
    /// In milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Whether everybody may read the objects.
    pub is_public: bool,
}

/// Changes of a bucket. The outer `None` keeps a value.
#[derive(Clone, Debug, Default)]
pub struct BucketChanges {
    /// Whether everybody may read the objects.
    pub is_public: Option<bool>,
    /// CORS rules.
    pub cors: Option<Option<String>>,
    /// Lifecycle rules.
    pub lifecycle: Option<Option<String>>,
}

/// Outcome of creating a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateBucketOutcome {
    /// Created.
    Created,
    /// The tenant has a bucket with this name.
    AlreadyOwned,
    /// Another tenant has a bucket with this name.
    Taken,
    /// The tenant has the maximum number of buckets.
    TooMany,
}

/// Outcome of deleting a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteBucketOutcome {
    /// Deleted.
    Deleted,
    /// It has objects, or will have some when files are processed.
    NotEmpty,
    /// No such bucket of this tenant.
    Unknown,
}

impl ObjectDb {
    /// Creates a bucket, unless the tenant has `max` of them. Without a lock: requests that run at the
    /// same moment can exceed `max` by their number, which is harmless for a limit that only keeps
    /// lists of buckets short.
    #[boxed_future]
    pub async fn create_bucket(
        &self,
        id: Uid,
        tenant: Tenant,
        name: String,
        max: u64,
    ) -> Result<CreateBucketOutcome, MetaError> {
        let now = self.db.clock.now_ms();
        let (owner, wanted) = (tenant.clone(), name.clone());
        let created = self.db.write(move |transaction| {
            let (tenant, name) = (tenant.clone(), name.clone());
            Box::pin(async move {
                // Not locked: the bucket may belong to another tenant, whose writes must not wait.
                let named = bucket::Entity::find().filter(bucket::Column::Name.eq(name.as_str()));
                if let Some(row) = named.one(transaction).await? {
                    return Ok(if row.tenant == tenant.as_str() {
                        CreateBucketOutcome::AlreadyOwned
                    } else {
                        CreateBucketOutcome::Taken
                    });
                }
                let of_tenant = bucket::Entity::find().filter(bucket::Column::Tenant.eq(tenant.as_str()));
                if of_tenant.count(transaction).await? >= max {
                    return Ok(CreateBucketOutcome::TooMany);
                }
                let row = bucket::ActiveModel {
                    id: Set(id.get()),
                    name: Set(name),
                    tenant: Set(tenant.to_string()),
                    created_at: Set(now),
                    is_public: Set(0),
                    cors: Set(None),
                    lifecycle: Set(None),
                    lifecycle_due_at: Set(None),
                    lifecycle_position: Set(None),
                };
                bucket::Entity::insert(row).exec_without_returning(transaction).await?;
                Ok(CreateBucketOutcome::Created)
            })
        });
        match created.await {
            // Another transaction created it at the same moment.
            Err(MetaError::Conflict(_)) => Ok(match self.bucket(&wanted).await? {
                Some(found) if found.tenant == owner => CreateBucketOutcome::AlreadyOwned,
                _ => CreateBucketOutcome::Taken,
            }),
            outcome => outcome,
        }
    }

    /// Returns the bucket with this name.
    #[boxed_future]
    pub async fn bucket(&self, name: &str) -> Result<Option<BucketRecord>, MetaError> {
        let row = bucket::Entity::find().filter(bucket::Column::Name.eq(name));
        Ok(row.one(&self.db.lookups).await?.map(BucketRecord::from_row))
    }

    /// Returns up to `limit` buckets of a tenant in the order of their names; with `after`, those
    /// behind this name.
    #[boxed_future]
    pub async fn buckets(
        &self,
        tenant: &Tenant,
        after: Option<&str>,
        limit: u64,
    ) -> Result<Vec<BucketSummary>, MetaError> {
        let mut page = bucket::Entity::find()
            .select_only()
            .columns([bucket::Column::Name, bucket::Column::CreatedAt, bucket::Column::IsPublic])
            .filter(bucket::Column::Tenant.eq(tenant.as_str()))
            .order_by_asc(bucket::Column::Name)
            .limit(limit);
        if let Some(after) = after {
            page = page.filter(bucket::Column::Name.gt(after));
        }
        let rows: Vec<(String, i64, i32)> = page.into_tuple().all(&self.db.lookups).await?;
        let summary =
            |(name, created_at, is_public)| BucketSummary { name, created_at, is_public: is_public != 0 };
        Ok(rows.into_iter().map(summary).collect())
    }

    /// Changes a bucket. Returns whether the tenant has it.
    #[boxed_future]
    pub async fn update_bucket(
        &self,
        tenant: Tenant,
        name: String,
        changes: BucketChanges,
    ) -> Result<bool, MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                let (tenant, name, changes) = (tenant.clone(), name.clone(), changes.clone());
                Box::pin(async move {
                    // MySQL needs a column in every update.
                    let mut update = bucket::Entity::update_many()
                        .col_expr(bucket::Column::Name, Expr::value(name.as_str()));
                    if let Some(is_public) = changes.is_public {
                        let is_public = Expr::value(i32::from(is_public));
                        update = update.col_expr(bucket::Column::IsPublic, is_public);
                    }
                    if let Some(cors) = changes.cors {
                        update = update.col_expr(bucket::Column::Cors, Expr::value(cors));
                    }
                    if let Some(lifecycle) = changes.lifecycle {
                        // New rules apply to all objects at once.
                        let due_at = lifecycle.is_some().then_some(now);
                        update = update
                            .col_expr(bucket::Column::Lifecycle, Expr::value(lifecycle))
                            .col_expr(bucket::Column::LifecycleDueAt, Expr::value(due_at))
                            .col_expr(bucket::Column::LifecyclePosition, Expr::value(None::<String>));
                    }
                    let update = update
                        .filter(bucket::Column::Name.eq(name.as_str()))
                        .filter(bucket::Column::Tenant.eq(tenant.as_str()));
                    Ok(update.exec(transaction).await?.rows_affected == 1)
                })
            })
            .await
    }

    /// Deletes a bucket of the tenant that has no objects. Uploads that are to become objects of it
    /// fail when they complete.
    #[boxed_future]
    pub async fn delete_bucket(
        &self,
        tenant: Tenant,
        name: String,
    ) -> Result<DeleteBucketOutcome, MetaError> {
        self.db
            .write(move |transaction| {
                let (tenant, name) = (tenant.clone(), name.clone());
                Box::pin(async move { delete(transaction, &tenant, &name).await })
            })
            .await
    }
}

async fn delete(
    transaction: &DatabaseTransaction,
    tenant: &Tenant,
    name: &str,
) -> Result<DeleteBucketOutcome, DbErr> {
    // Locked, so that no object is bound to it meanwhile.
    let bucket = bucket::Entity::find()
        .filter(bucket::Column::Name.eq(name))
        .filter(bucket::Column::Tenant.eq(tenant.as_str()))
        .lock_exclusive();
    let Some(bucket) = bucket.one(transaction).await? else {
        return Ok(DeleteBucketOutcome::Unknown);
    };
    let object = object::Entity::find()
        .select_only()
        .column(object::Column::Uid)
        .filter(object::Column::BucketId.eq(bucket.id))
        .limit(1);
    let in_process = bind::in_process(bucket.id).select_only().column(object_upload::Column::Uid).limit(1);
    if object.into_tuple::<i64>().one(transaction).await?.is_some()
        || in_process.into_tuple::<i64>().one(transaction).await?.is_some()
    {
        return Ok(DeleteBucketOutcome::NotEmpty);
    }
    bucket::Entity::delete_by_id(bucket.id).exec(transaction).await?;
    Ok(DeleteBucketOutcome::Deleted)
}
