//! Queries for the rows that refer to the objects of a store.

use std::collections::{HashMap, HashSet};

use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, ExprTrait, QueryFilter, QuerySelect, QueryTrait,
    sea_query::{Alias, CaseStatement, Condition, Expr, Query, UnionType},
};

use crate::MetaError;
use crate::{
    AdminDb, BlobRecord, boxed_future,
    db::{
        dialect,
        entities::{blob, part},
    },
};

impl AdminDb {
    /// Returns the keys in a store that more than one row refers to. Maps each key to the number of
    /// these rows that are stored content: stored whole blobs, and stored parts that have their own
    /// object. Omits the keys without stored content.
    #[boxed_future]
    pub async fn shared_objects(&self, store: &str) -> Result<HashMap<String, i64>, MetaError> {
        let (key, content) = (Alias::new("object_key"), Alias::new("content"));
        let one_if =
            |condition: Condition| -> Expr { CaseStatement::new().case(condition, 1).finally(0).into() };
        let whole = Condition::all()
            .add(blob::Column::State.is_in([blob::State::Stored, blob::State::Quarantined]))
            .add(blob::Column::Layout.eq(blob::BlobLayout::Whole));
        let blobs = blob::Entity::find()
            .select_only()
            .column(blob::Column::ObjectKey)
            .column_as(one_if(whole), "content")
            .filter(blob::Column::Backend.eq(store))
            .filter(blob::Column::ObjectKey.ne(""));
        let stored = Condition::all()
            .add(part::Column::State.eq(part::State::Stored))
            .add(part::Column::Tag.is_null());
        let parts = part::Entity::find()
            .inner_join(blob::Entity)
            .select_only()
            .column(part::Column::ObjectKey)
            .column_as(one_if(stored), "content")
            .filter(blob::Column::Backend.eq(store))
            .filter(part::Column::State.ne(part::State::Gone));
        let mut references = blobs.into_query();
        references.union(UnionType::All, parts.into_query());
        let sum =
            || dialect::integer_sum_of(self.db.reader.get_database_backend(), Expr::col(content.clone()));
        let shared = Query::select()
            .column(key.clone())
            .expr_as(sum(), content.clone())
            .from_subquery(references, Alias::new("object_rows"))
            .group_by_col(key)
            .and_having(Expr::val(1).count().gt(1))
            .and_having(sum().gt(0))
            .to_owned();
        let rows = self.db.reader.query_all(&shared).await?;
        rows.iter().map(|row| Ok((row.try_get("", "object_key")?, row.try_get("", "content")?))).collect()
    }

    /// Returns the keys among `names` that a blob or part in this store refers to. Ignores parts in
    /// state `gone`. Pass a few thousand keys at most. Finds most keys by the blob id in the key;
    /// scans whole tables for the others.
    #[boxed_future]
    pub async fn referenced_objects(
        &self,
        store: &str,
        names: &[String],
    ) -> Result<HashSet<String>, MetaError> {
        let ids = blob_ids_of_keys(names);
        let mut referenced = self.referenced_keys(store, names, Some(&ids)).await?;
        let remaining: Vec<_> = names.iter().filter(|name| !referenced.contains(*name)).cloned().collect();
        if !remaining.is_empty() {
            referenced.extend(self.referenced_keys(store, &remaining, None).await?);
        }
        Ok(referenced)
    }

    async fn referenced_keys(
        &self,
        store: &str,
        names: &[String],
        ids: Option<&[i64]>,
    ) -> Result<HashSet<String>, DbErr> {
        let blobs = blob::Entity::find()
            .select_only()
            .column(blob::Column::ObjectKey)
            .filter(blob::Column::Backend.eq(store))
            .filter(blob::Column::ObjectKey.is_in(names))
            .apply_if(ids, |query, ids| query.filter(blob::Column::Id.is_in(ids.iter().copied())));
        let parts = part::Entity::find()
            .inner_join(blob::Entity)
            .select_only()
            .column(part::Column::ObjectKey)
            .filter(blob::Column::Backend.eq(store))
            .filter(part::Column::State.ne(part::State::Gone))
            .filter(part::Column::ObjectKey.is_in(names))
            .apply_if(ids, |query, ids| query.filter(part::Column::BlobId.is_in(ids.iter().copied())));
        let mut referenced: HashSet<String> =
            blobs.into_tuple::<String>().all(&self.db.reader).await?.into_iter().collect();
        referenced.extend(parts.into_tuple::<String>().all(&self.db.reader).await?);
        Ok(referenced)
    }

    /// Returns the blobs in a store whose object key is one of `names`, grouped by key. Pass a few
    /// thousand keys at most.
    #[boxed_future]
    pub async fn blobs_by_key(
        &self,
        store: &str,
        names: &[String],
    ) -> Result<HashMap<String, Vec<BlobRecord>>, MetaError> {
        let with_keys = |names: &[String]| {
            blob::Entity::find()
                .filter(blob::Column::Backend.eq(store))
                .filter(blob::Column::ObjectKey.is_in(names))
        };
        let by_id = with_keys(names).filter(blob::Column::Id.is_in(blob_ids_of_keys(names)));
        let mut rows = by_id.all(&self.db.reader).await?;
        let found_keys: HashSet<_> = rows.iter().map(|row| row.object_key.clone()).collect();
        let remaining: Vec<_> = names.iter().filter(|name| !found_keys.contains(*name)).cloned().collect();
        if !remaining.is_empty() {
            rows.extend(with_keys(&remaining).all(&self.db.reader).await?);
        }
        let mut blobs: HashMap<String, Vec<BlobRecord>> = HashMap::new();
        for blob in self.with_file_counts(rows).await? {
            blobs.entry(blob.object_key.clone()).or_default().push(blob);
        }
        Ok(blobs)
    }
}

/// Returns the blob ids in these keys. The names of most objects begin with the blob id. Parts
/// stored by the Go program lie in a folder named after the blob id.
fn blob_ids_of_keys(names: &[String]) -> Vec<i64> {
    let of_name = |name: &String| {
        let (folder, name) = name.split_once('/')?;
        let digits = name.split(|character: char| !character.is_ascii_digit()).next()?;
        folder.parse().or_else(|_| digits.parse()).ok()
    };
    names.iter().filter_map(of_name).collect()
}
