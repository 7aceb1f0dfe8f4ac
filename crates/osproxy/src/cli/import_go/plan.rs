//! Decides how a file of the Go program is imported, from its rows and the objects in the store.

use std::{collections::HashMap, sync::Arc};

use osproxy_core::{App, Result, ops};
use osproxy_meta::{GoFile, GoPart, ImportContent, ImportFile, ImportPart, NewTask, TaskKind, now_ms};
use osproxy_storage::{DigestSelection, ErrorKind, Key};
use osproxy_types::uid::Uid;

use super::file_name;

/// Time for clients to finish uploads that they had begun, in milliseconds. The Go program does not
/// record when its links expire.
const TIME_TO_FINISH_MS: i64 = 24 * 60 * 60 * 1000;

/// The plan of the import of one file.
pub(super) struct FilePlan {
    pub(super) uid: i64,
    /// The file to import, or why it is skipped.
    pub(super) outcome: std::result::Result<ImportFile, String>,
    /// Notes for the operator.
    pub(super) notes: Vec<String>,
}

/// Groups parts by file.
pub(super) fn group_parts(
    files: Vec<GoFile>,
    parts: Vec<GoPart>,
) -> impl Iterator<Item = (GoFile, Vec<GoPart>)> {
    let mut by_uid: HashMap<i64, Vec<GoPart>> = HashMap::new();
    for part in parts {
        by_uid.entry(part.uid).or_default().push(part);
    }
    files.into_iter().map(move |file| {
        // If several rows have the same uid, the oldest row wins: the other rows get no parts, and
        // their uid is in use when they are recorded.
        let parts = by_uid.remove(&file.uid).unwrap_or_default();
        (file, parts)
    })
}

/// Plans the import of files.
pub(super) struct ImportPlanner<'a> {
    app: &'a Arc<App>,
    store: &'a str,
    /// Whether the store is a disk, on which the Go program also has a folder for each upload.
    has_folders: bool,
    verifies: bool,
}

/// Why planning the import of a file gave nothing to import.
enum PlanError {
    /// The file is skipped for this reason.
    Skipped(String),
    /// The database or the store returned an error.
    Failed(osproxy_core::Error),
}

impl From<osproxy_core::Error> for PlanError {
    fn from(error: osproxy_core::Error) -> Self {
        Self::Failed(error)
    }
}

type PlanResult<T> = std::result::Result<T, PlanError>;

/// A part whose object exists with the recorded size.
struct FoundPart {
    row: GoPart,
    key: Key,
}

impl<'a> ImportPlanner<'a> {
    pub(super) fn new(app: &'a Arc<App>, store: &'a str, verifies: bool) -> Self {
        Self { app, store, has_folders: !app.stores.is_remote(store), verifies }
    }

    /// Plans the import of a file. Fails if the database or the store returns an error.
    pub(super) async fn plan(&self, file: GoFile, parts: Vec<GoPart>) -> Result<FilePlan> {
        let mut notes = Vec::new();
        let outcome = match self.plan_file(&file, parts, &mut notes).await {
            Ok(import) => Ok(import),
            Err(PlanError::Skipped(reason)) => Err(reason),
            Err(PlanError::Failed(error)) => return Err(error),
        };
        Ok(FilePlan { uid: file.uid, outcome, notes })
    }

    async fn plan_file(
        &self,
        file: &GoFile,
        parts: Vec<GoPart>,
        notes: &mut Vec<String>,
    ) -> PlanResult<ImportFile> {
        if file.uid <= 0 {
            return Err(PlanError::Skipped("its uid is not a positive number".to_owned()));
        }
        let (name, was_escaped_twice) = file_name::decode_name(&file.name);
        let Ok(name) = ops::file_name(&name).map(str::to_owned) else {
            return Err(PlanError::Skipped(format!("its name is not allowed: {:?}", file.name)));
        };
        if was_escaped_twice {
            notes.push(format!("its name was URL-encoded twice; imported as {name:?}"));
        }
        let (newest, older) = newest_rows(parts);
        if older > 0 {
            notes.push(format!("{older} older rows of its parts are ignored"));
        }
        let (found, missing) = self.find_parts(newest).await?;
        let (content, leftovers) = if !file.is_complete {
            (self.plan_incomplete(found, &missing, notes).await?, Vec::new())
        } else if !file.in_parts {
            (self.plan_whole(file, notes).await?, found)
        } else if !found.is_empty() && i64::try_from(found.len()) == Ok(file.part_count) {
            (self.plan_in_parts(file, found, notes).await?, Vec::new())
        } else {
            match self.plan_whole(file, notes).await {
                Ok(content) => {
                    notes.push("it was merged just before the Go program stopped".to_owned());
                    (content, found)
                }
                Err(PlanError::Skipped(_)) => {
                    return Err(PlanError::Skipped(missing_parts(file, &found, &missing)));
                }
                Err(error) => return Err(error),
            }
        };
        let leftovers = self.to_imported_parts(leftovers, false).await?;
        let uid = Uid::from_db(file.uid);
        Ok(ImportFile { uid, name, content_type: file.content_type.clone(), content, leftovers })
    }

    /// Plans a complete file that is a single object. Compares the MD5 of the object if its size is
    /// not the recorded one, or if the file was uploaded in parts.
    async fn plan_whole(&self, file: &GoFile, notes: &mut Vec<String>) -> PlanResult<ImportContent> {
        let Ok(key) = Key::parse(&format!("{}/{}", file.bucket, file.storage_name)) else {
            let name = format!("{}/{}", file.bucket, file.storage_name);
            return Err(PlanError::Skipped(format!("the name of its object is not allowed: {name:?}")));
        };
        // The Go program names an object after the uid of the first file with this content.
        let number = key.name().split('.').next().and_then(|number| number.parse().ok());
        let Some(blob_id) = number.filter(|number: &i64| *number > 0) else {
            return Err(PlanError::Skipped(format!(
                "its object is not named as the Go program names objects: {key}"
            )));
        };
        let Some(size) = self.object_size(&key).await? else {
            return Err(PlanError::Skipped(format!("its object is missing: {key}")));
        };
        let md5 = parse_md5(&file.md5);
        if i64::try_from(size) != Ok(file.size) || file.in_parts {
            // For merged content, the Go program compared the MD5 with the client's MD5, but never
            // compared the size.
            let read = self.app.stores.digest(self.store, &key, 0..size, DigestSelection::MD5).await?;
            if md5.is_none() || read.md5 != md5 {
                let expected = file.size;
                return Err(PlanError::Skipped(format!(
                    "its object is damaged: {key} does not match the recorded MD5; it has {size} bytes, \
                     recorded are {expected}"
                )));
            }
            if i64::try_from(size) != Ok(file.size) {
                notes.push(format!("it has {size} bytes; its row in the Go database has {}", file.size));
            }
        }
        let verify = match md5 {
            Some(_) if self.verifies => Some(self.task(TaskKind::VerifyBlob, blob_id).await?),
            _ => None,
        };
        Ok(ImportContent::Whole { blob_id, key, size, md5, verify })
    }

    async fn plan_in_parts(
        &self,
        file: &GoFile,
        found: Vec<FoundPart>,
        notes: &mut Vec<String>,
    ) -> Result<ImportContent> {
        let size: i64 = found.iter().map(|part| part.row.size).sum();
        if size != file.size {
            notes.push(format!(
                "its parts have {size} bytes in total; its row in the Go database has {}",
                file.size
            ));
        }
        let parts = self.to_imported_parts(found, true).await?;
        let merge = self.task(TaskKind::MergeParts, file.uid).await?;
        Ok(ImportContent::Parts { parts, md5: parse_md5(&file.md5), merge })
    }

    async fn task(&self, kind: TaskKind, blob_id: i64) -> Result<NewTask> {
        let id = self.app.uids.next().await?;
        Ok(NewTask::for_blob(kind, id, blob_id, self.app.limits.max_task_attempts))
    }

    async fn plan_incomplete(
        &self,
        found: Vec<FoundPart>,
        missing: &[i64],
        notes: &mut Vec<String>,
    ) -> Result<ImportContent> {
        let max = i64::from(self.app.limits.max_parts);
        let (valid, invalid): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|part| (1..=max).contains(&part.row.number));
        for number in invalid.iter().map(|part| part.row.number).chain(missing.iter().copied()) {
            notes.push(format!("its part {number} is not imported; the client must send it again"));
        }
        let parts = self.to_imported_parts(valid, false).await?;
        Ok(ImportContent::Unfinished(parts, now_ms() + TIME_TO_FINISH_MS))
    }

    /// Converts parts to rows. With `renumber`, numbers them from 1 and ignores the client's
    /// numbers.
    async fn to_imported_parts(&self, found: Vec<FoundPart>, renumber: bool) -> Result<Vec<ImportPart>> {
        let mut imported = Vec::with_capacity(found.len());
        for (position, part) in (1..).zip(found) {
            imported.push(ImportPart {
                id: self.app.uids.next().await?.get(),
                number: if renumber { position } else { u32::try_from(part.row.number).unwrap_or(position) },
                key: part.key,
                size: part.row.size.unsigned_abs(),
                md5: parse_md5(&part.row.md5),
            });
        }
        Ok(imported)
    }

    /// Returns the parts that have an MD5 and an object of the recorded size, and the numbers of
    /// the other parts. Looks for the object of a part under the recorded name and, on a disk, also
    /// in the folder of the upload.
    async fn find_parts(&self, parts: Vec<GoPart>) -> Result<(Vec<FoundPart>, Vec<i64>)> {
        let (mut found, mut missing) = (Vec::with_capacity(parts.len()), Vec::new());
        'parts: for row in parts {
            let own_name = Some(format!("{}/{}", row.bucket, row.storage_name));
            let folder_name = self.has_folders.then(|| format!("{}/{}", row.uid, row.file_name));
            let names = [own_name, folder_name];
            if parse_md5(&row.md5).is_some() {
                for key in names.iter().flatten().filter_map(|name| Key::parse(name).ok()) {
                    let size = self.object_size(&key).await?;
                    if size.is_some_and(|size| i64::try_from(size) == Ok(row.size)) {
                        found.push(FoundPart { row, key });
                        continue 'parts;
                    }
                }
            }
            missing.push(row.number);
        }
        Ok((found, missing))
    }

    /// Size of an object in bytes; `None` if the object does not exist.
    async fn object_size(&self, key: &Key) -> Result<Option<u64>> {
        match self.app.stores.get(self.store)?.size(key).await {
            Ok(size) => Ok(Some(size)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Keeps the newest row of each part. Expects rows sorted by part number, then from old to new.
/// Also returns how many rows were dropped.
fn newest_rows(parts: Vec<GoPart>) -> (Vec<GoPart>, usize) {
    let total = parts.len();
    let mut newest: Vec<GoPart> = Vec::with_capacity(total);
    for part in parts {
        match newest.last_mut().filter(|last| last.number == part.number) {
            Some(last) => *last = part,
            None => newest.push(part),
        }
    }
    let older = total - newest.len();
    (newest, older)
}

fn missing_parts(file: &GoFile, found: &[FoundPart], missing: &[i64]) -> String {
    let (available, expected) = (found.len(), file.part_count);
    match missing {
        [] => format!("its parts are missing: {available} of {expected} are recorded"),
        missing => format!(
            "its parts are missing: {available} of {expected} found; missing part numbers: {missing:?}"
        ),
    }
}

fn parse_md5(text: &str) -> Option<[u8; 16]> {
    let mut md5 = [0; 16];
    hex::decode_to_slice(text.trim(), &mut md5).ok()?;
    Some(md5)
}
