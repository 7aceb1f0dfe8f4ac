//! Upload grants, and the files that were created under them.

use sea_orm::{ConnectionTrait, DbErr, DeriveIden, sea_query::{ColumnDef, Index, Table}};

use super::{
    super::dialect,
    steps::{Schema, add_column, create_index, create_table},
};

#[derive(DeriveIden)]
enum UploadGrants {
    Table,
    Id,
    Tenant,
    CreatedAt,
    ExpiresAt,
    RevokedAt,
    MaxUploads,
    Uploads,
    Attempts,
    ApiKey,
    Terms,
}

#[derive(DeriveIden)]
enum Files {
    GrantId,
    RequiredTypes,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let grants = Table::create()
        .table(UploadGrants::Table)
        .col(ColumnDef::new(UploadGrants::Id).big_integer().not_null().primary_key())
        .col(ColumnDef::new(UploadGrants::Tenant).string_len(64).not_null())
        .col(ColumnDef::new(UploadGrants::CreatedAt).big_integer().not_null())
        .col(ColumnDef::new(UploadGrants::ExpiresAt).big_integer().not_null())
        .col(ColumnDef::new(UploadGrants::RevokedAt).big_integer())
        .col(ColumnDef::new(UploadGrants::MaxUploads).integer())
        .col(ColumnDef::new(UploadGrants::Uploads).integer().not_null())
        .col(ColumnDef::new(UploadGrants::Attempts).integer().not_null())
        .col(ColumnDef::new(UploadGrants::ApiKey).string_len(16))
        .col(dialect::long_text(schema.backend(), ColumnDef::new(UploadGrants::Terms).not_null()))
        .to_owned();
    create_table(schema, grants).await?;
    let of_tenant = Index::create().col(UploadGrants::Tenant).col(UploadGrants::Id).to_owned();
    create_index(schema, "upload_grants", "ix_upload_grants_tenant", of_tenant).await?;
    // For purging old grants.
    let old = Index::create().col(UploadGrants::ExpiresAt).to_owned();
    create_index(schema, "upload_grants", "ix_upload_grants_expires", old).await?;
    add_column(schema, "files", "grant_id", ColumnDef::new(Files::GrantId).big_integer()).await?;
    // Wider than `required_type`. The type of a column must not change while nodes of the previous
    // version run: PostgreSQL would reject their prepared statements.
    let mut types = ColumnDef::new(Files::RequiredTypes);
    add_column(schema, "files", "required_types", types.string_len(1024)).await?;
    if !schema.has_index("files", "ix_files_grant").await? {
        let sql = dialect::listing_index_where_set(schema.backend(), "ix_files_grant", "grant_id", "listed");
        schema.connection().execute_unprepared(&sql).await?;
    }
    Ok(())
}
