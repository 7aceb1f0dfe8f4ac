//! Import of files that another program has stored. Their objects stay where they are.

pub(crate) mod go_database;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use osproxy_storage::Key;
use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, PaginatorTrait,
    QueryFilter, QuerySelect, TransactionTrait,
};

use crate::MetaError;
use crate::{
    AnnouncedContent, KnownContent, NewFile, NewTask, NodeStores,
    blobs::{self, encode_digest},
    boxed_future,
    db::{
        database::Database,
        entities::{blob, file, part},
        write_batcher::TxEnd,
    },
    files,
    tasks::queue,
};

/// Import of files that another program has stored.
#[derive(Clone)]
pub struct ImportDb {
    pub(crate) db: Arc<Database>,
}

/// A file to import.
#[derive(Clone, Debug)]
pub struct ImportFile {
    /// Uid, as clients know it.
    pub uid: Uid,
    /// File name.
    pub name: String,
    /// MIME type.
    pub content_type: String,
    /// Content.
    pub content: ImportContent,
    /// Superseded objects for the sweep to remove. Ignored for an unfinished upload without parts.
    pub leftovers: Vec<ImportPart>,
}

/// Content of a file to import.
#[derive(Clone, Debug)]
pub enum ImportContent {
    /// Complete, in one object, which several files may share.
    Whole {
        /// Id for the object's blob.
        blob_id: i64,
        /// Key of the object.
        key: Key,
        /// Size in bytes.
        size: u64,
        /// MD5 according to the other program.
        md5: Option<[u8; 16]>,
        /// Task that computes the digests. `None`: the content gets no digests and is not
        /// deduplicated.
        verify: Option<NewTask>,
    },
    /// Complete, in parts.
    Parts {
        /// The parts, ordered by number.
        parts: Vec<ImportPart>,
        /// MD5 that the client claimed.
        md5: Option<[u8; 16]>,
        /// Task that merges the parts.
        merge: NewTask,
    },
    /// An unfinished upload: its parts so far, if any, and when it expires, in milliseconds since
    /// the Unix epoch.
    Unfinished(Vec<ImportPart>, i64),
}

/// An object that holds a part.
#[derive(Clone, Debug)]
pub struct ImportPart {
    /// New unique id for the row.
    pub id: i64,
    /// Part number, 1-based.
    pub number: u32,
    /// Key of the object.
    pub key: Key,
    /// Size in bytes.
    pub size: u64,
    /// MD5 that the other program computed when it received the part.
    pub md5: Option<[u8; 16]>,
}

/// Outcome of importing a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// Imported.
    Imported,
    /// The file was an unfinished upload from an earlier import, and was imported again.
    Replaced,
    /// The file exists already and was not changed.
    Unchanged,
    /// Not imported: the blob id for the content belongs to another blob.
    Conflict,
}

/// Tenant and store that imported files are assigned to.
#[derive(Clone, Debug)]
pub struct ImportTarget {
    /// Owner of the imported files.
    pub tenant: Tenant,
    /// The store that holds the objects.
    pub store: String,
    /// Whether to roll everything back after the outcomes are determined.
    pub is_dry_run: bool,
}

/// Shared state of the steps of one import transaction.
struct ImportTransaction<'a> {
    transaction: &'a DatabaseTransaction,
    target: &'a ImportTarget,
    node_stores: &'a NodeStores,
    now: i64,
}

impl ImportDb {
    /// Returns those of `uids` that need no further import: their files exist and are neither
    /// pending nor receiving content.
    #[boxed_future]
    pub async fn already_imported(&self, uids: &[i64]) -> Result<HashSet<i64>, MetaError> {
        let mut imported_uids = HashSet::with_capacity(uids.len());
        for uids in uids.chunks(crate::blobs::stored_parts::MAX_ROWS) {
            let settled = file::Entity::find()
                .select_only()
                .column(file::Column::Uid)
                .filter(file::Column::Uid.is_in(uids.iter().copied()))
                .filter(file::Column::State.is_not_in([file::State::Pending, file::State::Receiving]));
            imported_uids.extend(settled.into_tuple::<i64>().all(&self.db.reader).await?);
        }
        Ok(imported_uids)
    }

    /// Imports files in one transaction and returns the outcome for each. Can be repeated: files
    /// that exist are not changed, with one exception. An unfinished upload from an earlier import
    /// is imported again if osproxy has received nothing for it since that import. Returns `None`
    /// and imports nothing if the tenant's quota would be exceeded.
    #[boxed_future]
    pub async fn add_files(
        &self,
        files: Vec<ImportFile>,
        target: &ImportTarget,
    ) -> Result<Option<Vec<ImportOutcome>>, MetaError> {
        let (files, target, node_stores) = (Arc::new(files), target.clone(), self.db.node_stores.clone());
        let (quotas, now) = (self.db.quotas.clone(), self.db.clock.now_ms());
        self.db
            .write_or_rollback(move |transaction| {
                let (files, target, quotas, node_stores) =
                    (files.clone(), target.clone(), quotas.clone(), node_stores.clone());
                Box::pin(async move {
                    let import =
                        ImportTransaction { transaction, target: &target, node_stores: &node_stores, now };
                    let (outcomes, Charges { charge, released }) = import.import_all(&files).await?;
                    for (tenant, released) in released {
                        quotas.charge(transaction, &tenant, -released).await?;
                    }
                    let charged = quotas.charge(transaction, target.tenant.as_str(), charge).await?;
                    Ok(match charged.commit_or_roll_back(Some(outcomes), None) {
                        TxEnd::Commit(outcomes) if target.is_dry_run => TxEnd::Rollback(outcomes),
                        end => end,
                    })
                })
            })
            .await
    }
}

/// Changes to the usage of tenants.
#[derive(Default)]
struct Charges {
    /// Change for the importing tenant, in bytes.
    charge: i64,
    /// Bytes to release for replaced uploads of other tenants, by tenant.
    released: BTreeMap<String, i64>,
}

impl ImportTransaction<'_> {
    /// Imports all files and sums up their charges.
    async fn import_all(&self, files: &[ImportFile]) -> Result<(Vec<ImportOutcome>, Charges), DbErr> {
        let uids = files.iter().map(|file| file.uid.get());
        let existing =
            file::Entity::find().filter(file::Column::Uid.is_in(uids)).all(self.transaction).await?;
        let mut existing: HashMap<_, _> = existing.into_iter().map(|row| (row.uid, row)).collect();
        let (mut seen_uids, mut charges) = (HashSet::with_capacity(files.len()), Charges::default());
        let mut outcomes = Vec::with_capacity(files.len());
        for file in files {
            let existing_file = existing.remove(&file.uid.get());
            outcomes.push(match existing_file {
                // If several files have the same uid, only the first one is imported.
                _ if !seen_uids.insert(file.uid) => ImportOutcome::Unchanged,
                Some(existing_file) => self.reimport(file, &existing_file, &mut charges).await?,
                None => match self.insert_file(file).await? {
                    Some(size) => {
                        charges.charge = charges.charge.saturating_add_unsigned(size);
                        ImportOutcome::Imported
                    }
                    None => ImportOutcome::Conflict,
                },
            });
        }
        Ok((outcomes, charges))
    }

    /// Imports a file whose uid exists already. Replaces an unfinished upload from an earlier
    /// import if osproxy has received nothing for this upload since that import. For any other
    /// file, only records its leftovers.
    async fn reimport(
        &self,
        file: &ImportFile,
        existing: &file::Model,
        charges: &mut Charges,
    ) -> Result<ImportOutcome, DbErr> {
        let savepoint = self.transaction.begin().await?;
        let in_savepoint = ImportTransaction { transaction: &savepoint, ..*self };
        if !in_savepoint.remove_untouched(existing, &file.content).await? {
            in_savepoint.insert_leftovers_of_existing(existing, &file.leftovers).await?;
            savepoint.commit().await?;
            return Ok(ImportOutcome::Unchanged);
        }
        let Some(size) = in_savepoint.insert_file(file).await? else {
            savepoint.rollback().await?;
            return Ok(ImportOutcome::Conflict);
        };
        savepoint.commit().await?;
        charges.charge = charges.charge.saturating_add_unsigned(size);
        if existing.tenant == self.target.tenant.as_str() {
            charges.charge = charges.charge.saturating_sub(existing.charged + existing.record_bytes);
        } else {
            *charges.released.entry(existing.tenant.clone()).or_default() +=
                existing.charged + existing.record_bytes;
        }
        Ok(ImportOutcome::Replaced)
    }

    /// Deletes the rows of an unfinished upload from an earlier import, if osproxy has received
    /// nothing for this upload since that import. The upload can belong to any tenant. Returns
    /// `false` and changes nothing for any other file.
    async fn remove_untouched(&self, existing: &file::Model, content: &ImportContent) -> Result<bool, DbErr> {
        let is_untouched = match (existing.state, existing.blob_id) {
            (file::State::Pending, None) => existing.announced_size.is_none(),
            // Parts received by osproxy have a BLAKE3, imported ones do not.
            (file::State::Receiving, Some(blob_id)) if blob_id == existing.uid => {
                let blob = blob::Entity::find_by_id(blob_id).one(self.transaction).await?;
                // If the upload is in another store, this import may not see all of its parts. So
                // it replaces the upload only with complete content.
                let may_replace = !matches!(content, ImportContent::Unfinished(..))
                    || blob.is_some_and(|blob| blob.backend == self.target.store);
                let received_here = part::Entity::find().filter(part::Column::BlobId.eq(blob_id)).filter(
                    part::Column::Piece.is_not_null().or(part::Column::State.ne(part::State::Stored)),
                );
                may_replace && received_here.count(self.transaction).await? == 0
            }
            _ => false,
        };
        if !is_untouched {
            return Ok(false);
        }
        let deleted = file::Entity::delete_many()
            .filter(file::Column::Uid.eq(existing.uid))
            .filter(file::Column::State.eq(existing.state))
            .exec(self.transaction)
            .await?;
        if deleted.rows_affected == 0 {
            return Ok(false);
        }
        if let Some(blob_id) = existing.blob_id {
            part::Entity::delete_many()
                .filter(part::Column::BlobId.eq(blob_id))
                .exec(self.transaction)
                .await?;
            blob::Entity::delete_by_id(blob_id).exec(self.transaction).await?;
        }
        Ok(true)
    }

    /// Imports a file whose uid does not exist yet; returns the bytes to charge. Returns `None` if
    /// the blob id for the content belongs to another blob.
    async fn insert_file(&self, imported: &ImportFile) -> Result<Option<u64>, DbErr> {
        let new_file = NewFile {
            uid: imported.uid,
            tenant: self.target.tenant.clone(),
            name: imported.name.clone(),
            announced: AnnouncedContent::default(),
            grant: None,
        };
        let uid = imported.uid.get();
        let issued_at = imported.uid.timestamp_ms().cast_signed();
        let (blob_id, size, part_count) = match &imported.content {
            ImportContent::Whole { blob_id, key, size, md5, verify } => {
                if !self.insert_or_share_object(*blob_id, *size, key, *md5, verify.as_ref()).await? {
                    return Ok(None);
                }
                (*blob_id, *size, None)
            }
            ImportContent::Parts { parts, md5, merge } => {
                let size = parts.iter().map(|part| part.size).sum();
                let blob = blob::ActiveModel {
                    state: Set(blob::State::Stored),
                    refs: Set(1),
                    size: Set(i64::try_from(size).unwrap_or(i64::MAX)),
                    claimed_md5: Set(encode_digest(*md5)),
                    ..self.blob_row(uid, String::new())
                };
                if !self.insert_parts_blob(uid, blob, parts).await? {
                    return Ok(None);
                }
                let store = Some(self.target.store.clone());
                queue::enqueue(self.transaction, merge.clone(), store, self.now).await?;
                (uid, size, Some(i32::try_from(parts.len()).unwrap_or(i32::MAX)))
            }
            ImportContent::Unfinished(parts, expires_at) => {
                let row = file::ActiveModel {
                    created_at: Set(issued_at),
                    record_bytes: Set(0),
                    ..files::create::pending_row(&new_file, *expires_at)
                };
                let blob = blob::ActiveModel {
                    state: Set(blob::State::Receiving),
                    ..self.blob_row(uid, String::new())
                };
                if parts.is_empty() {
                    file::Entity::insert(row).exec_without_returning(self.transaction).await?;
                    return Ok(Some(0));
                }
                if !self.insert_parts_blob(uid, blob, parts).await? {
                    return Ok(None);
                }
                let size = parts.iter().map(|part| part.size).sum::<u64>();
                let row = file::ActiveModel {
                    state: Set(file::State::Receiving),
                    blob_id: Set(Some(uid)),
                    charged: Set(size.cast_signed()),
                    received: Set(size.cast_signed()),
                    ..row
                };
                file::Entity::insert(row).exec_without_returning(self.transaction).await?;
                self.insert_leftovers(uid, &imported.leftovers).await?;
                return Ok(Some(size));
            }
        };
        let content_type = imported.content_type.clone();
        let row = file::ActiveModel {
            created_at: Set(issued_at),
            stored_at: Set(Some(issued_at)),
            record_bytes: Set(0),
            part_count: Set(part_count),
            ..files::create::stored_row(
                &new_file,
                &KnownContent { blob_id, size, content_type },
                file::State::Stored,
            )
        };
        file::Entity::insert(row).exec_without_returning(self.transaction).await?;
        self.insert_leftovers(blob_id, &imported.leftovers).await?;
        Ok(Some(size))
    }

    /// Inserts a blob for a whole object, or adds a reference if the object was imported before.
    /// Returns `false` if the blob `id` exists, but has different content or is not stored.
    async fn insert_or_share_object(
        &self,
        id: i64,
        size: u64,
        key: &Key,
        md5: Option<[u8; 16]>,
        verify: Option<&NewTask>,
    ) -> Result<bool, DbErr> {
        let existing = blob::Entity::find_by_id(id).one(self.transaction).await?;
        let Some(existing) = existing else {
            let row = blob::ActiveModel {
                state: Set(blob::State::Stored),
                layout: Set(blob::BlobLayout::Whole),
                refs: Set(1),
                size: Set(size.cast_signed()),
                claimed_md5: Set(encode_digest(md5)),
                ..self.blob_row(id, key.to_string())
            };
            blob::Entity::insert(row).exec_without_returning(self.transaction).await?;
            if let Some(verify) = verify {
                let store = Some(self.target.store.clone());
                queue::enqueue(self.transaction, verify.clone(), store, self.now).await?;
            }
            return Ok(true);
        };
        let is_same_object = match existing.layout {
            blob::BlobLayout::Whole => existing.object_key == key.as_str(),
            // The blob was imported in parts, and the other program has merged them since. The
            // imported file reads the parts until osproxy has merged them, too.
            blob::BlobLayout::Parts => md5.is_some() && existing.claimed_md5 == encode_digest(md5),
        };
        let is_same_object = is_same_object
            && existing.size == size.cast_signed()
            && existing.backend == self.target.store
            && existing.tenant == self.target.tenant.as_str();
        Ok(is_same_object && blobs::add_references(self.transaction, id, 1, None).await?)
    }

    /// Inserts a blob that consists of parts. Returns `false` if `blob_id` is in use.
    async fn insert_parts_blob(
        &self,
        blob_id: i64,
        blob: blob::ActiveModel,
        parts: &[ImportPart],
    ) -> Result<bool, DbErr> {
        if blob::Entity::find_by_id(blob_id).one(self.transaction).await?.is_some() {
            return Ok(false);
        }
        blob::Entity::insert(blob).exec_without_returning(self.transaction).await?;
        self.insert_parts(blob_id, parts, part::State::Stored).await?;
        Ok(true)
    }

    /// Records superseded objects, for the sweep to remove.
    async fn insert_leftovers(&self, blob_id: i64, leftovers: &[ImportPart]) -> Result<(), DbErr> {
        self.insert_parts(blob_id, leftovers, part::State::Deleting).await
    }

    /// Like [`Self::insert_leftovers`], for a file that exists. Does nothing unless the file has a
    /// stored blob in the target store. Skips objects that have a part row, because the file may
    /// still consist of them.
    async fn insert_leftovers_of_existing(
        &self,
        existing: &file::Model,
        leftovers: &[ImportPart],
    ) -> Result<(), DbErr> {
        let (Some(blob_id), false) = (existing.blob_id, leftovers.is_empty()) else {
            return Ok(());
        };
        let blob = blob::Entity::find_by_id(blob_id)
            .filter(blob::Column::State.eq(blob::State::Stored))
            .filter(blob::Column::Backend.eq(&self.target.store));
        if blob.one(self.transaction).await?.is_none() {
            return Ok(());
        }
        let recorded_keys =
            part::Entity::find().filter(part::Column::BlobId.eq(blob_id)).all(self.transaction).await?;
        let recorded_keys: HashSet<_> = recorded_keys.into_iter().map(|part| part.object_key).collect();
        let mut leftovers = leftovers.to_vec();
        leftovers.retain(|part| !recorded_keys.contains(part.key.as_str()));
        self.insert_leftovers(blob_id, &leftovers).await
    }

    async fn insert_parts(
        &self,
        blob_id: i64,
        parts: &[ImportPart],
        state: part::State,
    ) -> Result<(), DbErr> {
        for chunk in parts.chunks(crate::blobs::stored_parts::MAX_ROWS) {
            let rows = chunk.iter().map(|imported| part::ActiveModel {
                id: Set(imported.id),
                blob_id: Set(blob_id),
                number: Set(imported.number.cast_signed()),
                state: Set(state),
                object_key: Set(imported.key.to_string()),
                size: Set(imported.size.cast_signed()),
                md5: Set(encode_digest(imported.md5)),
                sniffed: Set(None),
                created_at: Set(self.now),
                written_by: Set(None),
                tag: Set(None),
                piece: Set(None),
                stored_at: Set(Some(self.now)),
                checksums: Set(None),
            });
            part::Entity::insert_many(rows).exec_without_returning(self.transaction).await?;
        }
        Ok(())
    }

    /// Common columns of imported blobs.
    fn blob_row(&self, id: i64, object_key: String) -> blob::ActiveModel {
        blob::ActiveModel {
            layout: Set(blob::BlobLayout::Parts),
            created_at: Set(Uid::from_db(id).timestamp_ms().cast_signed()),
            written_by: Set(None),
            ..blobs::intent_row(
                id,
                self.target.tenant.as_str(),
                &self.target.store,
                object_key,
                self.node_stores,
            )
        }
    }
}
