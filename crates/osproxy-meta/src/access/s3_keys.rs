//! Keys of the S3 API: creation, lookup and revocation.

use osproxy_types::tenant::Tenant;
use sea_orm::{ActiveValue::Set, ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, sea_query::Expr};

use crate::{AccessDb, MetaError, boxed_future, db::entities::s3_key};

/// A key of the S3 API as stored, without its secret.
#[derive(Clone, Debug)]
pub struct S3KeyRecord {
    /// The access key id.
    pub id: String,
    /// Human-readable label.
    pub label: String,
    /// The tenant whose files the key gives access to.
    pub tenant: Tenant,
    /// The buckets that the key gives access to; `None`: all buckets of the tenant.
    pub buckets: Option<Vec<String>>,
    /// Whether the key permits no changes.
    pub read_only: bool,
    /// Fingerprint of the master key from which the secret is derived.
    pub master_key: String,
    /// When the key was created, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When the key was revoked, in milliseconds since the Unix epoch; `None` if it is not revoked.
    pub revoked_at: Option<i64>,
}

impl AccessDb {
    /// Stores a new key.
    #[boxed_future]
    pub async fn create_s3_key(&self, key: S3KeyRecord) -> Result<(), MetaError> {
        self.db
            .write(move |transaction| {
                let row = to_row(&key);
                Box::pin(async move {
                    s3_key::Entity::insert(row?).exec_without_returning(transaction).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Returns the key with this access key id, even if it is revoked.
    #[boxed_future]
    pub async fn s3_key(&self, id: &str) -> Result<Option<S3KeyRecord>, MetaError> {
        let row = s3_key::Entity::find_by_id(id.to_owned()).one(&self.db.lookups).await?;
        Ok(row.map(from_row).transpose()?)
    }

    /// Returns all keys, oldest first.
    #[boxed_future]
    pub async fn s3_keys(&self) -> Result<Vec<S3KeyRecord>, MetaError> {
        let rows =
            s3_key::Entity::find().order_by_asc(s3_key::Column::CreatedAt).order_by_asc(s3_key::Column::Id);
        rows.all(&self.db.reader).await?.into_iter().map(|row| Ok(from_row(row)?)).collect()
    }

    /// Revokes a key. Returns `false` if the key does not exist or is already revoked.
    #[boxed_future]
    pub async fn revoke_s3_key(&self, id: &str) -> Result<bool, MetaError> {
        let (id, now) = (id.to_owned(), self.db.clock.now_ms());
        self.db
            .write(move |transaction| {
                let id = id.clone();
                Box::pin(async move {
                    let revoked = s3_key::Entity::update_many()
                        .col_expr(s3_key::Column::RevokedAt, Expr::value(now))
                        .filter(s3_key::Column::Id.eq(id))
                        .filter(s3_key::Column::RevokedAt.is_null());
                    Ok(revoked.exec(transaction).await?.rows_affected == 1)
                })
            })
            .await
    }
}

fn to_row(key: &S3KeyRecord) -> Result<s3_key::ActiveModel, DbErr> {
    let to_error = |error: serde_json::Error| DbErr::Json(error.to_string());
    Ok(s3_key::ActiveModel {
        id: Set(key.id.clone()),
        label: Set(key.label.clone()),
        tenant: Set(key.tenant.to_string()),
        buckets: Set(key.buckets.as_ref().map(serde_json::to_string).transpose().map_err(to_error)?),
        read_only: Set(key.read_only),
        master_key: Set(key.master_key.clone()),
        created_at: Set(key.created_at),
        revoked_at: Set(key.revoked_at),
    })
}

fn from_row(row: s3_key::Model) -> Result<S3KeyRecord, DbErr> {
    let buckets = row.buckets.as_deref().map(serde_json::from_str).transpose();
    Ok(S3KeyRecord {
        buckets: buckets.map_err(|_| DbErr::Custom(format!("the row of S3 key {} is corrupt", row.id)))?,
        tenant: Tenant::from_db(&row.tenant),
        id: row.id,
        label: row.label,
        read_only: row.read_only,
        master_key: row.master_key,
        created_at: row.created_at,
        revoked_at: row.revoked_at,
    })
}
