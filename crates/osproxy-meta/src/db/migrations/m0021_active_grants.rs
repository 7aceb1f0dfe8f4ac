//! The active upload grants of a tenant.

use sea_orm::{DbErr, DeriveIden, sea_query::Index};

use super::steps::{Schema, create_index};

#[derive(DeriveIden)]
enum UploadGrants {
    Tenant,
    ExpiresAt,
}

/// Adds an index for counting the grants of a tenant that have not expired.
pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let active = Index::create().col(UploadGrants::Tenant).col(UploadGrants::ExpiresAt).to_owned();
    create_index(schema, "upload_grants", "ix_upload_grants_active", active).await
}
