//! The category of plain text files.

use osproxy_storage::Category;
use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{ConnectionTrait, DbErr, DeriveIden},
    sea_query::{Expr, ExprTrait, Order, Query},
};

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0011_text_files"
    }
}

#[derive(DeriveIden)]
enum Files {
    Table,
    Uid,
    Name,
    Category,
}

/// Number of files read per statement.
const BATCH: u64 = 1000;

#[async_trait]
impl MigrationTrait for Migration {
    /// Atomic on databases with transactional DDL.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    /// Moves plain text files from the category `Unknown` to `Doc`.
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        let mut after = 0_i64;
        loop {
            let page = Query::select()
                .columns([Files::Uid, Files::Name])
                .from(Files::Table)
                .and_where(Expr::col(Files::Uid).gt(after))
                .and_where(Expr::col(Files::Category).eq(Category::Unknown.as_str()))
                .order_by(Files::Uid, Order::Asc)
                .limit(BATCH)
                .to_owned();
            let mut text = Vec::new();
            let rows = connection.query_all(&page).await?;
            for row in &rows {
                let (uid, name): (i64, String) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
                if Category::of_name(&name) == Category::Doc {
                    text.push(uid);
                }
                after = uid;
            }
            if rows.is_empty() {
                return Ok(());
            }
            if !text.is_empty() {
                let documents = Query::update()
                    .table(Files::Table)
                    .value(Files::Category, Category::Doc.as_str())
                    .and_where(Expr::col(Files::Uid).is_in(text))
                    .to_owned();
                connection.execute(&documents).await?;
            }
        }
    }
}
