//! Files that another program has stored, and whose objects stay where they are.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use osproxy_storage::Key;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, PaginatorTrait,
    QueryFilter, QuerySelect, TransactionTrait,
};

use super::{
    Announced, Here, Meta, NewFile, NewTask,
    blobs::{self, to_record},
    entities::{blob, file, part},
    files, tasks,
    write_queue::Verdict,
};
use crate::{tenant::Tenant, uid::Uid};

/// A file that is taken over.
#[derive(Clone, Debug)]
pub struct ImportedFile {
    /// What clients know it by.
    pub uid: Uid,
    /// What clients call it.
    pub name: String,
    /// MIME type.
    pub content_type: String,
    /// Its content.
    pub content: ImportedContent,
    /// Objects that are of no use any more, for the sweep to remove; only of files that are not `pending`.
    pub leftovers: Vec<ImportedPart>,
}

/// What there is of the content of a file that is taken over.
#[derive(Clone, Debug)]
pub enum ImportedContent {
    /// All of it, in one object, which several files may share.
    Whole {
        /// Number of the blob that the object is.
        blob_id: i64,
        /// The object.
        key: Key,
        /// Bytes.
        size: u64,
        /// What the other program says the md5 is.
        md5: Option<[u8; 16]>,
        /// Reads it once, so that the content can be recognised; if that is wanted.
        verify: Option<NewTask>,
    },
    /// All of it, in parts.
    Parts {
        /// The parts, by number.
        parts: Vec<ImportedPart>,
        /// What the client said the md5 is.
        md5: Option<[u8; 16]>,
        /// Makes one object of them.
        merge: NewTask,
    },
    /// The parts that have come, or nothing; more may come until a moment, in milliseconds since the Unix epoch.
    Unfinished(Vec<ImportedPart>, i64),
}

/// An object that holds a part.
#[derive(Clone, Debug)]
pub struct ImportedPart {
    /// A number that nobody has.
    pub id: i64,
    /// Its place among the pieces, from 1 on.
    pub number: u32,
    /// The object.
    pub key: Key,
    /// Bytes.
    pub size: u64,
    /// Of these bytes, as the other program computed it when they came.
    pub md5: Option<[u8; 16]>,
}

/// What became of a file that was to be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    /// It is here now.
    Taken,
    /// It was not complete when it was taken over before, and was taken as it is now.
    Renewed,
    /// It was here before; nothing changed about it.
    Known,
    /// Its number names an object that is not the same.
    Conflict,
}

/// Where what is taken over lies, and whose it is.
#[derive(Clone, Debug)]
pub struct ImportInto {
    /// The owner from now on.
    pub tenant: Tenant,
    /// The store of all objects.
    pub store: String,
    /// Nothing stays: what would become of the files is found out and undone.
    pub is_dry_run: bool,
}

/// What every step of one transaction needs.
struct Importing<'a> {
    transaction: &'a DatabaseTransaction,
    into: &'a ImportInto,
    here: &'a Here,
    now: i64,
}

impl Meta {
    /// Those of these uids whose files are here, whatever became of them, but for uploads that may still go on.
    pub async fn settled(&self, uids: &[i64]) -> Result<HashSet<i64>, DbErr> {
        let mut settled = HashSet::with_capacity(uids.len());
        for uids in uids.chunks(super::parts::CHUNK) {
            let here = file::Entity::find()
                .select_only()
                .column(file::Column::Uid)
                .filter(file::Column::Uid.is_in(uids.iter().copied()))
                .filter(file::Column::State.is_not_in([file::State::Pending, file::State::Receiving]));
            settled.extend(here.into_tuple::<i64>().all(&self.reader).await?);
        }
        Ok(settled)
    }

    /// Records files of another program, all in one transaction, and says of each what became of it. Can be done again: what is
    /// here stays, but for uploads that nothing was sent to since. `None`: the tenant's quota has not so much left, and
    /// nothing was recorded.
    pub async fn import_files(
        &self,
        files: Vec<ImportedFile>,
        into: &ImportInto,
    ) -> Result<Option<Vec<Imported>>, DbErr> {
        let (files, into, here) = (Arc::new(files), into.clone(), self.here.clone());
        let (quotas, now) = (self.quotas.clone(), self.clock.now_ms());
        self.write_or_undo(move |transaction| {
            let (files, into, quotas, here) = (files.clone(), into.clone(), quotas.clone(), here.clone());
            Box::pin(async move {
                let importing = Importing { transaction, into: &into, here: &here, now };
                let (imported, Charges { charge, released }) = importing.all(&files).await?;
                for (tenant, released) in released {
                    quotas.charge(transaction, &tenant, -released).await?;
                }
                let charged = quotas.charge(transaction, into.tenant.as_str(), charge).await?;
                Ok(match charged.commit_or(Some(imported), None) {
                    Verdict::Commit(imported) if into.is_dry_run => Verdict::Rollback(imported),
                    verdict => verdict,
                })
            })
        })
        .await
    }
}

/// What tenants are charged with for files that are taken over.
#[derive(Default)]
struct Charges {
    /// Bytes more, or fewer, of the tenant that gets the files.
    charge: i64,
    /// Bytes that other tenants had uploads of.
    released: BTreeMap<String, i64>,
}

impl Importing<'_> {
    /// Records all of them, and adds up what they are charged with.
    async fn all(&self, files: &[ImportedFile]) -> Result<(Vec<Imported>, Charges), DbErr> {
        let uids = files.iter().map(|file| file.uid.get());
        let known = file::Entity::find().filter(file::Column::Uid.is_in(uids)).all(self.transaction).await?;
        let mut known: HashMap<_, _> = known.into_iter().map(|row| (row.uid, row)).collect();
        let (mut seen, mut charges) = (HashSet::with_capacity(files.len()), Charges::default());
        let mut imported = Vec::with_capacity(files.len());
        for file in files {
            let before = known.remove(&file.uid.get());
            imported.push(match before {
                // Of several rows of a uid the first one counts.
                _ if !seen.insert(file.uid) => Imported::Known,
                Some(before) => self.again(file, &before, &mut charges).await?,
                None => match self.one(file).await? {
                    Some(size) => {
                        charges.charge = charges.charge.saturating_add_unsigned(size);
                        Imported::Taken
                    }
                    None => Imported::Conflict,
                },
            });
        }
        Ok((imported, charges))
    }

    /// Records a file anew that is here, if it is an upload that may make way; else it stays as it is.
    async fn again(
        &self,
        file: &ImportedFile,
        before: &file::Model,
        charges: &mut Charges,
    ) -> Result<Imported, DbErr> {
        let step = self.transaction.begin().await?;
        let renewing = Importing { transaction: &step, ..*self };
        if !renewing.make_way(before, &file.content).await? {
            renewing.leave_of_known(before, &file.leftovers).await?;
            step.commit().await?;
            return Ok(Imported::Known);
        }
        let Some(size) = renewing.one(file).await? else {
            step.rollback().await?;
            return Ok(Imported::Conflict);
        };
        step.commit().await?;
        charges.charge = charges.charge.saturating_add_unsigned(size);
        if before.tenant == self.into.tenant.as_str() {
            charges.charge = charges.charge.saturating_sub(before.charged + before.record_bytes);
        } else {
            *charges.released.entry(before.tenant.clone()).or_default() +=
                before.charged + before.record_bytes;
        }
        Ok(Imported::Renewed)
    }

    /// Removes the rows of an upload that was taken over unfinished, for whichever tenant, and that nobody has sent anything
    /// to here. `false`: there is none, and nothing has changed.
    async fn make_way(&self, before: &file::Model, content: &ImportedContent) -> Result<bool, DbErr> {
        let is_untouched = match (before.state, before.blob_id) {
            (file::State::Pending, None) => before.announced_size.is_none(),
            // Every part that came here has a BLAKE3.
            (file::State::Receiving, Some(blob_id)) if blob_id == before.uid => {
                let blob = blob::Entity::find_by_id(blob_id).one(self.transaction).await?;
                // What has come to another node's disk is not for this one to judge, unless it is complete here.
                let is_judged = !matches!(content, ImportedContent::Unfinished(..))
                    || blob.is_some_and(|blob| blob.backend == self.into.store);
                let ours = part::Entity::find().filter(part::Column::BlobId.eq(blob_id)).filter(
                    part::Column::Piece.is_not_null().or(part::Column::State.ne(part::State::Stored)),
                );
                is_judged && ours.count(self.transaction).await? == 0
            }
            _ => false,
        };
        if !is_untouched {
            return Ok(false);
        }
        let gone = file::Entity::delete_many()
            .filter(file::Column::Uid.eq(before.uid))
            .filter(file::Column::State.eq(before.state))
            .exec(self.transaction)
            .await?;
        if gone.rows_affected == 0 {
            return Ok(false);
        }
        if let Some(blob_id) = before.blob_id {
            part::Entity::delete_many()
                .filter(part::Column::BlobId.eq(blob_id))
                .exec(self.transaction)
                .await?;
            blob::Entity::delete_by_id(blob_id).exec(self.transaction).await?;
        }
        Ok(true)
    }

    /// Records a file that is not here, and says how many bytes it is charged with. `None`: a blob of another object has the
    /// number of its own.
    async fn one(&self, imported: &ImportedFile) -> Result<Option<u64>, DbErr> {
        let new = NewFile {
            uid: imported.uid,
            tenant: self.into.tenant.clone(),
            name: imported.name.clone(),
            announced: Announced::default(),
        };
        let uid = imported.uid.get();
        let issued = imported.uid.issued_ms().cast_signed();
        let (blob_id, size, part_count) = match &imported.content {
            ImportedContent::Whole { blob_id, key, size, md5, verify } => {
                if !self.whole((*blob_id, *size), key, *md5, verify.as_ref()).await? {
                    return Ok(None);
                }
                (*blob_id, *size, None)
            }
            ImportedContent::Parts { parts, md5, merge } => {
                let size = parts.iter().map(|part| part.size).sum();
                let blob = blob::ActiveModel {
                    state: Set(blob::State::Stored),
                    refs: Set(1),
                    size: Set(i64::try_from(size).unwrap_or(i64::MAX)),
                    claimed_md5: Set(to_record(*md5)),
                    ..self.blob(uid, String::new())
                };
                if !self.in_parts(uid, blob, parts).await? {
                    return Ok(None);
                }
                let store = Some(self.into.store.clone());
                tasks::enqueue(self.transaction, merge.clone(), store, self.now).await?;
                (uid, size, Some(i32::try_from(parts.len()).unwrap_or(i32::MAX)))
            }
            ImportedContent::Unfinished(parts, expires_at) => {
                let row = file::ActiveModel {
                    created_at: Set(issued),
                    record_bytes: Set(0),
                    ..files::row(&new, *expires_at)
                };
                let blob =
                    blob::ActiveModel { state: Set(blob::State::Receiving), ..self.blob(uid, String::new()) };
                if parts.is_empty() {
                    file::Entity::insert(row).exec_without_returning(self.transaction).await?;
                    return Ok(Some(0));
                }
                if !self.in_parts(uid, blob, parts).await? {
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
                self.leave(uid, &imported.leftovers).await?;
                return Ok(Some(size));
            }
        };
        let row = file::ActiveModel {
            created_at: Set(issued),
            stored_at: Set(Some(issued)),
            record_bytes: Set(0),
            part_count: Set(part_count),
            ..files::stored_row(&new, (blob_id, size.cast_signed()), &imported.content_type)
        };
        file::Entity::insert(row).exec_without_returning(self.transaction).await?;
        self.leave(blob_id, &imported.leftovers).await?;
        Ok(Some(size))
    }

    /// Records one object, or one more file of it.
    async fn whole(
        &self,
        (id, size): (i64, u64),
        key: &Key,
        md5: Option<[u8; 16]>,
        verify: Option<&NewTask>,
    ) -> Result<bool, DbErr> {
        let known = blob::Entity::find_by_id(id).one(self.transaction).await?;
        let Some(known) = known else {
            let row = blob::ActiveModel {
                state: Set(blob::State::Stored),
                layout: Set(blob::Layout::Whole),
                refs: Set(1),
                size: Set(size.cast_signed()),
                claimed_md5: Set(to_record(md5)),
                ..self.blob(id, key.to_string())
            };
            blob::Entity::insert(row).exec_without_returning(self.transaction).await?;
            if let Some(verify) = verify {
                let store = Some(self.into.store.clone());
                tasks::enqueue(self.transaction, verify.clone(), store, self.now).await?;
            }
            return Ok(true);
        };
        let is_same = match known.layout {
            blob::Layout::Whole => known.object_key == key.as_str(),
            // It was taken over in parts, and merged since: whoever shares it shares the parts until they are merged here.
            blob::Layout::Parts => md5.is_some() && known.claimed_md5 == to_record(md5),
        };
        let is_same = is_same
            && known.size == size.cast_signed()
            && known.backend == self.into.store
            && known.tenant == self.into.tenant.as_str();
        Ok(is_same && blobs::take_references(self.transaction, id, 1, None).await?)
    }

    /// Records a blob that lies in parts. `false`: there is one of this number.
    async fn in_parts(
        &self,
        blob_id: i64,
        blob: blob::ActiveModel,
        parts: &[ImportedPart],
    ) -> Result<bool, DbErr> {
        if blob::Entity::find_by_id(blob_id).one(self.transaction).await?.is_some() {
            return Ok(false);
        }
        blob::Entity::insert(blob).exec_without_returning(self.transaction).await?;
        self.parts(blob_id, parts, part::State::Stored).await?;
        Ok(true)
    }

    /// Leaves to the sweep what is of no use.
    async fn leave(&self, blob_id: i64, leftovers: &[ImportedPart]) -> Result<(), DbErr> {
        self.parts(blob_id, leftovers, part::State::Deleting).await
    }

    /// The same, of a file that is here, but for what is recorded: those may be the parts that it lies in.
    async fn leave_of_known(&self, known: &file::Model, leftovers: &[ImportedPart]) -> Result<(), DbErr> {
        let (Some(blob_id), false) = (known.blob_id, leftovers.is_empty()) else {
            return Ok(());
        };
        let blob = blob::Entity::find_by_id(blob_id)
            .filter(blob::Column::State.eq(blob::State::Stored))
            .filter(blob::Column::Backend.eq(&self.into.store));
        if blob.one(self.transaction).await?.is_none() {
            return Ok(());
        }
        let recorded =
            part::Entity::find().filter(part::Column::BlobId.eq(blob_id)).all(self.transaction).await?;
        let recorded: HashSet<_> = recorded.into_iter().map(|part| part.object_key).collect();
        let mut leftovers = leftovers.to_vec();
        leftovers.retain(|part| !recorded.contains(part.key.as_str()));
        self.leave(blob_id, &leftovers).await
    }

    async fn parts(&self, blob_id: i64, parts: &[ImportedPart], state: part::State) -> Result<(), DbErr> {
        for chunk in parts.chunks(super::parts::CHUNK) {
            let rows = chunk.iter().map(|imported| part::ActiveModel {
                id: Set(imported.id),
                blob_id: Set(blob_id),
                number: Set(imported.number.cast_signed()),
                state: Set(state),
                object_key: Set(imported.key.to_string()),
                size: Set(imported.size.cast_signed()),
                md5: Set(to_record(imported.md5)),
                sniffed: Set(None),
                created_at: Set(self.now),
                written_by: Set(None),
                tag: Set(None),
                piece: Set(None),
                stored_at: Set(Some(self.now)),
            });
            part::Entity::insert_many(rows).exec_without_returning(self.transaction).await?;
        }
        Ok(())
    }

    /// What is alike of all blobs that are taken over.
    fn blob(&self, id: i64, object_key: String) -> blob::ActiveModel {
        blob::ActiveModel {
            layout: Set(blob::Layout::Parts),
            created_at: Set(Uid::from_recorded(id).issued_ms().cast_signed()),
            written_by: Set(None),
            ..blobs::writing_row((id, self.into.tenant.as_str()), &self.into.store, object_key, self.here)
        }
    }
}
