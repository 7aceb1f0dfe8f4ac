//! API keys: creation, lookup and revocation.

use std::time::Duration;

use osproxy_types::{scope::Scopes, tenant::Tenant};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr,
};

use crate::MetaError;
use crate::{
    AccessDb,
    blobs::decode_digest,
    boxed_future,
    db::{database_lock::DatabaseLock, entities::api_key},
};

/// An API key as stored, with a hash in place of the secret.
#[derive(Clone, Debug)]
pub struct ApiKeyRecord {
    /// Public identifier.
    pub id: String,
    /// Hash of the secret.
    pub hash: [u8; 32],
    /// Human-readable label.
    pub label: String,
    /// The tenant whose files the key gives access to.
    pub tenant: Tenant,
    /// Granted scopes.
    pub scopes: Scopes,
    /// Maximum requests per second; `None`: no limit for this key.
    pub max_rate: Option<u32>,
    /// Maximum size of a file created with the key, in bytes; `None`: no limit for this key.
    pub max_size: Option<u64>,
    /// Maximum number of concurrent transfers on each node. Includes transfers through links that
    /// were issued with the key. `None`: no limit for this key.
    pub max_transfers: Option<u32>,
    /// When the key was created, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When the key expires, in milliseconds since the Unix epoch; `None`: never.
    pub expires_at: Option<i64>,
    /// When the key was revoked, in milliseconds since the Unix epoch; `None` if it is not revoked.
    pub revoked_at: Option<i64>,
}

impl ApiKeyRecord {
    /// Whether the key is valid at `now_ms`: neither revoked nor expired.
    pub fn is_valid(&self, now_ms: i64) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|expires_at| now_ms < expires_at)
    }
}

/// How long a starting node waits while another node creates the first key.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

impl AccessDb {
    /// Stores a new key.
    #[boxed_future]
    pub async fn create_api_key(&self, key: ApiKeyRecord) -> Result<(), MetaError> {
        self.db
            .write(move |transaction| {
                let row = to_row(&key);
                Box::pin(async move {
                    api_key::Entity::insert(row).exec_without_returning(transaction).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Returns the key with this id, even if it is expired or revoked.
    #[boxed_future]
    pub async fn api_key(&self, id: &str) -> Result<Option<ApiKeyRecord>, MetaError> {
        let row = api_key::Entity::find_by_id(id.to_owned()).one(&self.db.lookups).await?;
        Ok(row.map(from_row).transpose()?)
    }

    /// Whether the key is valid now, according to the database's clock.
    pub fn is_api_key_valid(&self, key: &ApiKeyRecord) -> bool {
        key.is_valid(self.db.clock.now_ms())
    }

    /// Returns all keys, oldest first.
    #[boxed_future]
    pub async fn api_keys(&self) -> Result<Vec<ApiKeyRecord>, MetaError> {
        let rows = api_key::Entity::find()
            .order_by_asc(api_key::Column::CreatedAt)
            .order_by_asc(api_key::Column::Id);
        rows.all(&self.db.reader).await?.into_iter().map(|row| Ok(from_row(row)?)).collect()
    }

    /// Whether any key exists, including expired and revoked ones.
    async fn has_api_keys(&self) -> Result<bool, MetaError> {
        let first = api_key::Entity::find().select_only().column(api_key::Column::Id).limit(1);
        Ok(first.into_tuple::<String>().one(&self.db.reader).await?.is_some())
    }

    /// Creates the first API key. Nodes that start at the same time create only one. Returns
    /// `false` if any key exists, even an expired or revoked one.
    pub async fn create_first_api_key<E: From<MetaError>>(
        &self,
        new_key: impl FnOnce() -> Result<ApiKeyRecord, E>,
    ) -> Result<bool, E> {
        if self.has_api_keys().await? {
            return Ok(false);
        }
        let _lock = self.db.lock(DatabaseLock::Migrate, LOCK_TIMEOUT).await?;
        if self.has_api_keys().await? {
            return Ok(false);
        }
        self.create_api_key(new_key()?).await?;
        Ok(true)
    }

    /// Revokes a key. Returns `false` if the key does not exist or is already revoked.
    #[boxed_future]
    pub async fn revoke_api_key(&self, id: &str) -> Result<bool, MetaError> {
        let (id, now) = (id.to_owned(), self.db.clock.now_ms());
        self.db
            .write(move |transaction| {
                let id = id.clone();
                Box::pin(async move {
                    let revoked = api_key::Entity::update_many()
                        .col_expr(api_key::Column::RevokedAt, Expr::value(now))
                        .filter(api_key::Column::Id.eq(id))
                        .filter(api_key::Column::RevokedAt.is_null());
                    Ok(revoked.exec(transaction).await?.rows_affected == 1)
                })
            })
            .await
    }
}

fn to_row(key: &ApiKeyRecord) -> api_key::ActiveModel {
    api_key::ActiveModel {
        id: Set(key.id.clone()),
        hash: Set(key.hash.to_vec()),
        label: Set(key.label.clone()),
        tenant: Set(key.tenant.to_string()),
        scopes: Set(key.scopes.to_string()),
        max_rate: Set(key.max_rate.map(|rate| i32::try_from(rate).unwrap_or(i32::MAX))),
        max_size: Set(key.max_size.map(|size| i64::try_from(size).unwrap_or(i64::MAX))),
        max_transfers: Set(key.max_transfers.map(|max| i32::try_from(max).unwrap_or(i32::MAX))),
        created_at: Set(key.created_at),
        expires_at: Set(key.expires_at),
        revoked_at: Set(key.revoked_at),
    }
}

fn from_row(row: api_key::Model) -> Result<ApiKeyRecord, DbErr> {
    let corrupt = || DbErr::Custom(format!("the row of API key {} is corrupt", row.id));
    Ok(ApiKeyRecord {
        hash: decode_digest(Some(&row.hash)).ok_or_else(corrupt)?,
        scopes: row.scopes.parse().map_err(|_| corrupt())?,
        tenant: Tenant::from_db(&row.tenant),
        max_rate: row.max_rate.and_then(|rate| u32::try_from(rate).ok()),
        max_size: row.max_size.and_then(|size| u64::try_from(size).ok()),
        max_transfers: row.max_transfers.and_then(|max| u32::try_from(max).ok()),
        id: row.id,
        label: row.label,
        created_at: row.created_at,
        expires_at: row.expires_at,
        revoked_at: row.revoked_at,
    })
}
