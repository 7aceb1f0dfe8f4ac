use sea_orm::entity::prelude::*;

/// One attempt to send a part of an upload. Of the attempts for one number at most one is stored.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "parts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    /// The blob that the part is a piece of.
    pub blob_id: i64,
    /// Its place among the pieces, from 1 on.
    pub number: i32,
    pub state: State,
    pub object_key: String,
    /// Bytes; set once stored.
    pub size: i64,
    /// Computed by osproxy, where somebody asked for it; set once stored.
    pub md5: Option<Vec<u8>>,
    /// MIME type that the first bytes speak of; of use with the first part alone.
    pub sniffed: Option<String>,
    pub created_at: i64,
    /// The process that writes it, as long as it is being written.
    pub written_by: Option<String>,
    /// Of a part that the store has in its upload, and not as an object: what the store calls it, or empty as long as
    /// it is being written.
    pub tag: Option<String>,
    /// Its BLAKE3, set once stored; of one of several parts whose places are known before they come, that of the piece,
    /// of which the BLAKE3 of the whole is combined.
    pub piece: Option<Vec<u8>>,
    /// In milliseconds since the Unix epoch; set once stored.
    pub stored_at: Option<i64>,
    #[sea_orm(belongs_to, from = "blob_id", to = "id")]
    pub blob: HasOne<super::blob::Entity>,
}

/// Where an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum State {
    /// An object may be under the key, whole or not; nobody reads it.
    #[sea_orm(string_value = "writing")]
    Writing,
    /// The object is whole, durable and verified.
    #[sea_orm(string_value = "stored")]
    Stored,
    /// The object is being removed, then the row.
    #[sea_orm(string_value = "deleting")]
    Deleting,
    /// There is no object any more, and there will be none under this key.
    #[sea_orm(string_value = "gone")]
    Gone,
}

impl ActiveModelBehavior for ActiveModel {}
