use sea_orm::entity::prelude::*;

/// A tenant whose bytes are counted.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "tenants")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// How many bytes its files may have together; `None`: as many as they like.
    pub max_bytes: Option<i64>,
    /// How many they have: what their rows are charged with, together.
    pub used: i64,
}

impl ActiveModelBehavior for ActiveModel {}
