//! Tenants and what they use, for operators. A tenant exists as soon as an API key, a file or a
//! quota names it.

use std::collections::BTreeMap;

use osproxy_types::tenant::Tenant;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, JoinType, QueryFilter, QuerySelect, RelationTrait,
};

use crate::MetaError;
use crate::{
    QuotaUsage, TenantDb, boxed_future,
    db::{
        dialect,
        entities::{api_key, blob, file, tenant},
    },
};

/// Usage of a tenant: logical bytes, and bytes in the stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantUsage {
    /// Quota and logical bytes. Content shared by several files counts once per file; the database
    /// rows of the files count, too.
    pub usage: QuotaUsage,
    /// Bytes of the blobs in the stores. Content shared by several files counts once. `None` if not
    /// requested.
    pub stored: Option<u64>,
}

impl TenantDb {
    /// Whether the tenant is the default tenant, or an API key, a file or a quota names it. This
    /// can scan all files, so call it from the command line only.
    #[boxed_future]
    pub async fn exists(&self, name: &Tenant) -> Result<bool, MetaError> {
        if *name == Tenant::default() {
            return Ok(true);
        }
        let name = name.as_str();
        if tenant::Entity::find_by_id(name).one(&self.db.reader).await?.is_some() {
            return Ok(true);
        }
        let keys = api_key::Entity::find().filter(api_key::Column::Tenant.eq(name));
        if keys.one(&self.db.reader).await?.is_some() {
            return Ok(true);
        }
        let files = file::Entity::find().filter(file::Column::Tenant.eq(name));
        Ok(files.one(&self.db.reader).await?.is_some())
    }

    /// Returns all tenants, ordered by name, with logical and stored bytes. Scans all files and
    /// blobs: call this from the command line only.
    #[boxed_future]
    pub async fn usage(&self) -> Result<Vec<TenantUsage>, MetaError> {
        let mut tenants: BTreeMap<String, TenantUsage> = BTreeMap::new();
        for name in self.tenant_names().await? {
            let usage = QuotaUsage { tenant: Tenant::from_db(&name), max_bytes: None, used: 0 };
            tenants.insert(name, TenantUsage { usage, stored: Some(0) });
        }
        for (name, bytes) in self.logical_bytes().await?.into_iter().chain(self.record_bytes().await?) {
            tenants.entry(name).and_modify(|entry| entry.usage.used += bytes);
        }
        for (name, bytes) in self.stored_bytes().await? {
            tenants.entry(name).and_modify(|entry| entry.stored = Some(bytes));
        }
        for usage in self.quota_usage().await? {
            tenants.entry(usage.tenant.to_string()).and_modify(|entry| entry.usage = usage);
        }
        Ok(tenants.into_values().collect())
    }

    async fn tenant_names(&self) -> Result<Vec<String>, DbErr> {
        let quotas = tenant::Entity::find().select_only().column(tenant::Column::Name);
        let keys = api_key::Entity::find().select_only().column(api_key::Column::Tenant).distinct();
        let files = file::Entity::find().select_only().column(file::Column::Tenant).distinct();
        let mut names: Vec<String> = quotas.into_tuple().all(&self.db.reader).await?;
        names.extend(keys.into_tuple::<String>().all(&self.db.reader).await?);
        names.extend(files.into_tuple::<String>().all(&self.db.reader).await?);
        Ok(names)
    }

    async fn logical_bytes(&self) -> Result<Vec<(String, u64)>, DbErr> {
        let backend = self.db.reader.get_database_backend();
        let sums = file::Entity::find()
            .select_only()
            .column(file::Column::Tenant)
            .column_as(dialect::integer_sum(backend, blob::Column::Size), "bytes")
            .join(JoinType::InnerJoin, file::Relation::Blob.def())
            .filter(file::Column::State.is_in(file::State::WITH_CONTENT))
            .group_by(file::Column::Tenant);
        Ok(unsigned_sums(sums.into_tuple().all(&self.db.reader).await?))
    }

    async fn record_bytes(&self) -> Result<Vec<(String, u64)>, DbErr> {
        let backend = self.db.reader.get_database_backend();
        let sums = file::Entity::find()
            .select_only()
            .column(file::Column::Tenant)
            .column_as(dialect::integer_sum(backend, file::Column::RecordBytes), "bytes")
            .group_by(file::Column::Tenant);
        Ok(unsigned_sums(sums.into_tuple().all(&self.db.reader).await?))
    }

    async fn stored_bytes(&self) -> Result<Vec<(String, u64)>, DbErr> {
        let backend = self.db.reader.get_database_backend();
        let sums = blob::Entity::find()
            .select_only()
            .column(blob::Column::Tenant)
            .column_as(dialect::integer_sum(backend, blob::Column::Size), "bytes")
            .filter(blob::Column::State.is_in([blob::State::Stored, blob::State::Quarantined]))
            .group_by(blob::Column::Tenant);
        Ok(unsigned_sums(sums.into_tuple().all(&self.db.reader).await?))
    }
}

fn unsigned_sums(sums: Vec<(String, Option<i64>)>) -> Vec<(String, u64)> {
    let unsigned = |bytes: Option<i64>| u64::try_from(bytes.unwrap_or(0)).unwrap_or(0);
    sums.into_iter().map(|(name, bytes)| (name, unsigned(bytes))).collect()
}
