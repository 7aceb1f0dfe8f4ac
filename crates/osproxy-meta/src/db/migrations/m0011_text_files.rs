//! The category of plain text files.

use osproxy_storage::Category;
use sea_orm::{ConnectionTrait, DbErr, DeriveIden, sea_query::{Expr, ExprTrait, Order, Query}};

use super::steps::Schema;

#[derive(DeriveIden)]
enum Files {
    Table,
    Uid,
    Name,
    Category,
}

/// Number of files read per statement.
const BATCH: u64 = 1000;

/// Moves plain text files from the category `Unknown` to `Doc`.
pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let connection = schema.connection();
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
