//! Buckets, and the objects in them.

use sea_orm::{
    DbErr, DeriveIden,
    sea_query::{ColumnDef, Index, Table},
};

use super::{
    super::dialect,
    steps::{Schema, add_column, create_index, create_table},
};

#[derive(DeriveIden)]
enum Buckets {
    Table,
    Id,
    Name,
    Tenant,
    CreatedAt,
    IsPublic,
    Cors,
    Lifecycle,
}

#[derive(DeriveIden)]
enum Objects {
    Table,
    BucketId,
    ObjectKey,
    Uid,
    Size,
    Etag,
    ModifiedAt,
    Attributes,
    OwnsFile,
}

#[derive(DeriveIden)]
enum ObjectUploads {
    Table,
    Uid,
    BucketId,
    ObjectKey,
    Condition,
    Attributes,
    Etag,
    IsMultipart,
    TaskId,
    CreatedAt,
}

#[derive(DeriveIden)]
enum Files {
    BucketId,
}

/// Maximum length of a key in bytes.
const MAX_KEY: u32 = 1024;

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let buckets = Table::create()
        .table(Buckets::Table)
        .col(ColumnDef::new(Buckets::Id).big_integer().not_null().primary_key())
        .col(ColumnDef::new(Buckets::Name).string_len(63).not_null())
        .col(ColumnDef::new(Buckets::Tenant).string_len(64).not_null())
        .col(ColumnDef::new(Buckets::CreatedAt).big_integer().not_null())
        .col(ColumnDef::new(Buckets::IsPublic).integer().not_null())
        .col(dialect::long_text(schema.backend(), &mut ColumnDef::new(Buckets::Cors)))
        .col(dialect::long_text(schema.backend(), &mut ColumnDef::new(Buckets::Lifecycle)))
        .to_owned();
    create_table(schema, buckets).await?;
    let by_name = Index::create().col(Buckets::Name).unique().to_owned();
    create_index(schema, "buckets", "ux_buckets_name", by_name).await?;
    let of_tenant = Index::create().col(Buckets::Tenant).col(Buckets::Name).to_owned();
    create_index(schema, "buckets", "ix_buckets_tenant", of_tenant).await?;

    let objects = Table::create()
        .table(Objects::Table)
        .col(ColumnDef::new(Objects::BucketId).big_integer().not_null())
        .col(ColumnDef::new(Objects::ObjectKey).var_binary(MAX_KEY).not_null())
        .col(ColumnDef::new(Objects::Uid).big_integer().not_null())
        .col(ColumnDef::new(Objects::Size).big_integer().not_null())
        .col(ColumnDef::new(Objects::Etag).string_len(64).not_null())
        .col(ColumnDef::new(Objects::ModifiedAt).big_integer().not_null())
        .col(dialect::long_text(schema.backend(), &mut ColumnDef::new(Objects::Attributes)))
        .col(ColumnDef::new(Objects::OwnsFile).integer().not_null())
        .primary_key(Index::create().col(Objects::BucketId).col(Objects::ObjectKey))
        .to_owned();
    create_table(schema, objects).await?;
    let of_file = Index::create().col(Objects::Uid).unique().to_owned();
    create_index(schema, "objects", "ux_objects_uid", of_file).await?;

    let uploads = Table::create()
        .table(ObjectUploads::Table)
        .col(ColumnDef::new(ObjectUploads::Uid).big_integer().not_null().primary_key())
        .col(ColumnDef::new(ObjectUploads::BucketId).big_integer().not_null())
        .col(ColumnDef::new(ObjectUploads::ObjectKey).var_binary(MAX_KEY).not_null())
        .col(ColumnDef::new(ObjectUploads::Condition).string_len(80))
        .col(dialect::long_text(schema.backend(), &mut ColumnDef::new(ObjectUploads::Attributes)))
        .col(ColumnDef::new(ObjectUploads::Etag).string_len(64))
        .col(ColumnDef::new(ObjectUploads::IsMultipart).integer().not_null())
        .col(ColumnDef::new(ObjectUploads::TaskId).big_integer().not_null())
        .col(ColumnDef::new(ObjectUploads::CreatedAt).big_integer().not_null())
        .to_owned();
    create_table(schema, uploads).await?;
    let of_key = Index::create()
        .col(ObjectUploads::BucketId)
        .col(ObjectUploads::ObjectKey)
        .col(ObjectUploads::Uid)
        .to_owned();
    create_index(schema, "object_uploads", "ix_object_uploads_key", of_key).await?;
    add_column(schema, "files", "bucket_id", ColumnDef::new(Files::BucketId).big_integer()).await
}
