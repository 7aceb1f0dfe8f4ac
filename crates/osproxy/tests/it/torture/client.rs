//! A client that runs random operations until the service goes away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::{join, join_all};
use osproxy_api::{
    v0::{DownloadLink, InstantUploadResult, UploadLinks},
    v1::File,
};
use serde_json::json;

use super::{
    appends::Appending,
    content::{Known, Ledger, Piece, Recipe, Sent, Upload, bytes_of},
};
use crate::support::{Random, Service, md5_hex};

pub struct Client {
    service: Arc<Service>,
    /// Whether the service was killed: before that, no request may fail.
    killed: Arc<AtomicBool>,
    random: Random,
    /// Content that all clients of a round send, so that they share blobs and race.
    shared: Vec<Piece>,
    ledger: Ledger,
}

impl Client {
    pub fn new(service: Arc<Service>, killed: Arc<AtomicBool>, seed: u64, shared: Vec<Piece>) -> Self {
        Self { service, killed, random: Random::new(seed), shared, ledger: Ledger::default() }
    }

    /// Counts completed actions in `done`.
    pub async fn run(mut self, done: Arc<AtomicU64>) -> Ledger {
        while self.act().await.is_some() {
            done.fetch_add(1, Ordering::Relaxed);
        }
        assert!(self.killed.load(Ordering::SeqCst), "a request failed while the service was running");
        self.ledger
    }

    async fn act(&mut self) -> Option<()> {
        match self.random.below(100) {
            0..10 => self.store_file().await,
            10..22 => self.single().await,
            22..42 => self.parts().await,
            42..62 => self.appends().await,
            62..70 => self.race_parts_and_whole().await,
            70..80 => self.download().await,
            80..92 => self.instant().await,
            _ => self.abort_upload().await,
        }
    }

    fn piece(&mut self) -> Piece {
        if self.random.percent(40) {
            self.shared[self.random.index(self.shared.len())].clone()
        } else {
            Piece::random(&mut self.random)
        }
    }

    async fn link(&self) -> Option<UploadLinks> {
        let asked = json!({"filePath": ["x.bin"], "expire": 86_400});
        let mut links = self.service.try_post::<Vec<UploadLinks>>("/link/upload", &asked).await?;
        Some(links.remove(0))
    }

    async fn single(&mut self) -> Option<()> {
        let (link, piece) = (self.link().await?, self.piece());
        let mut sent = Sent::new(&link.uid, vec![piece.clone()]);
        sent.retry = Some((link.url.single.clone(), vec![piece.clone()]));
        let status = self.service.try_put(&link.url.single, &piece.bytes()).await;
        assert!(status.is_none_or(|status| status == 200), "{status:?}");
        if status.is_some() {
            sent.known = Known::Verified;
        }
        self.ledger.sent.push(sent);
        status.map(|_| ())
    }

    /// Creates and stores a file in one request. If the response is lost, the uid is unknown, and
    /// the file is not checked.
    async fn store_file(&mut self) -> Option<()> {
        let piece = self.piece();
        let url = self.service.url("/api/v1/files?name=x.bin");
        let answer = self.service.client().post(url).body(piece.bytes()).send().await.ok()?;
        assert_eq!(answer.status(), 201);
        let file = answer.json::<File>().await.ok()?;
        // Without an MD5, it is not found by one.
        self.ledger.sent.push(Sent::known(&file.uid, vec![piece], Known::Stored));
        Some(())
    }

    /// An upload in parts: some are replaced, some stay incomplete, some have a false md5.
    async fn parts(&mut self) -> Option<()> {
        let mut upload = Upload::new(self.link().await?);
        let count = 1 + self.random.index(5);
        let recipe = if self.random.percent(30) {
            Piece::in_equal_parts(count, &mut self.random)
        } else {
            self.piece().cut(count, &mut self.random)
        };
        let mut going = self.send(&mut upload, recipe.into_iter().zip(1..).collect()).await;
        while going.is_some() && self.random.percent(30) {
            let number = 1 + u32::try_from(self.random.index(count)).unwrap();
            let other = upload.parts[&number].candidates[0].other(&mut self.random);
            going = self.send(&mut upload, vec![(other, number)]).await;
        }
        if going.is_none() || self.random.percent(20) {
            self.ledger.uploads.push(upload);
            return going;
        }
        self.merge(&upload).await
    }

    /// Sends parts concurrently, in random order.
    async fn send(&mut self, upload: &mut Upload, mut parts: Vec<(Piece, u32)>) -> Option<()> {
        parts.sort_by_cached_key(|_| self.random.below(100));
        let requests: Vec<_> = parts
            .iter()
            .map(|(piece, number)| (upload.record_sending(*number, piece), piece.bytes()))
            .collect();
        let answers = requests.iter().map(|(url, bytes)| self.service.try_put(url, bytes));
        let answers = join_all(answers).await;
        for ((_, number), status) in parts.iter().zip(&answers) {
            assert!(status.is_none_or(|status| status == 200), "{status:?}");
            if status.is_some() {
                upload.record_acknowledged(*number);
            }
        }
        answers.iter().all(Option::is_some).then_some(())
    }

    async fn merge(&mut self, upload: &Upload) -> Option<()> {
        let recipe = upload.recipe();
        let right = md5_hex(&bytes_of(&recipe));
        let (md5, is_false) = match self.random.below(10) {
            0..6 => (Some(right), false),
            6..8 => (None, false),
            _ => (Some(md5_hex(right.as_bytes())), true),
        };
        let url = upload.merge_url(md5.as_deref());
        let status = self.service.try_put(&url, &[]).await;
        assert!(status.is_none_or(|status| status == 200), "{status:?}");
        let retry = Some((url, Recipe::new()));
        let known = if status.is_some() { Known::Stored } else { Known::Nothing };
        let sent = Sent { is_false, retry, ..Sent::known(&upload.link.uid, recipe, known) };
        self.ledger.sent.push(sent);
        status.map(|_| ())
    }

    /// Completes an upload in parts, and sends it whole at the same time. One of them wins.
    async fn race_parts_and_whole(&mut self) -> Option<()> {
        let mut upload = Upload::new(self.link().await?);
        let part = self.piece();
        let whole = if self.random.percent(30) { part.clone() } else { self.piece() };
        if self.send(&mut upload, vec![(part.clone(), 1)]).await.is_none() {
            self.ledger.uploads.push(upload);
            return None;
        }
        let (part_bytes, whole_bytes) = (part.bytes(), whole.bytes());
        let merge = upload.merge_url(Some(&md5_hex(&part_bytes)));
        let both = join(
            self.service.try_put(&merge, &[]),
            self.service.try_put(&upload.link.url.single, &whole_bytes),
        );
        let statuses = both.await;
        let mut sent = Sent::new(&upload.link.uid, vec![part.clone()]);
        match statuses {
            // Both succeed, since the content is the same.
            _ if part_bytes == whole_bytes => {
                // Unmerged parts cannot be compared with whole content: 422 is possible.
                let right =
                    |status: Option<u16>, or| status.is_none_or(|status| status == 200 || status == or);
                assert!(right(statuses.0, 200) && right(statuses.1, 422), "{statuses:?}");
                if statuses != (None, None) {
                    sent.mark_stored();
                }
            }
            // 503 while the store has not completed the multipart upload.
            (Some(200), None | Some(422 | 503)) | (None, Some(422)) => sent.mark_stored(),
            (None | Some(422), Some(200)) | (Some(422), None) => {
                sent.mark_stored();
                sent.candidates = vec![vec![whole]];
            }
            (None, None) => sent.candidates.push(vec![whole]),
            other => panic!("{other:?} of {}", upload.link.uid),
        }
        self.ledger.sent.push(sent);
        statuses.0.and(statuses.1).map(|_| ())
    }

    /// Sends content over tus, in pieces that may break off. Some uploads stay incomplete.
    async fn appends(&mut self) -> Option<()> {
        let piece = if self.random.percent(50) {
            Piece::new(self.random.below(u64::MAX), self.random.index(300_000))
        } else {
            self.piece()
        };
        let api = self.service.clone();
        let mut upload = Appending::create(&api, piece, &mut self.random).await?;
        let mut going = Some(());
        for _ in 0..self.random.below(6) {
            going = upload.go_on(&api, &mut self.random).await;
            if going.is_none() || upload.is_complete {
                break;
            }
        }
        if going.is_some() && !upload.is_complete {
            going = upload.stall(&api, &mut self.random).await;
        }
        if upload.is_complete {
            let sent = Sent::known(upload.uid(), vec![upload.piece.clone()], Known::Stored);
            self.ledger.sent.push(sent);
        } else {
            self.ledger.appends.push(upload);
        }
        going
    }

    fn some_sent(&mut self) -> Option<usize> {
        let count = self.ledger.sent.len();
        (count > 0).then(|| self.random.index(count))
    }

    async fn download(&mut self) -> Option<()> {
        let Some(at) = self.some_sent() else {
            return Some(());
        };
        let asked = json!({"uid": [self.ledger.sent[at].uid], "expire": 600});
        let links = self.service.try_post::<Option<Vec<DownloadLink>>>("/link/download", &asked).await?;
        let sent = &mut self.ledger.sent[at];
        let Some(link) = links.map(|mut links| links.remove(0)) else {
            if sent.is_known_stored() {
                sent.check_gone();
            }
            return Some(());
        };
        let url = self.service.url(&link.url);
        // A false digest may be found during the download, which is then cut.
        let Ok(answer) = self.service.client().get(url).send().await else {
            return sent.is_false.then_some(());
        };
        match answer.status().as_u16() {
            200 => match answer.bytes().await {
                Ok(bytes) => sent.check(&bytes),
                Err(_) => return sent.is_false.then_some(()),
            },
            404 => sent.check_gone(),
            other => panic!("{other} for {}", sent.uid),
        }
        Some(())
    }

    async fn instant(&mut self) -> Option<()> {
        let Some(at) = self.some_sent().filter(|at| !self.ledger.sent[*at].is_false) else {
            return Some(());
        };
        let sent = &self.ledger.sent[at];
        if !sent.is_known_stored() {
            return Some(());
        }
        let recipe = sent.candidates[0].clone();
        let asked = json!({"data": [{"md5": md5_hex(&bytes_of(&recipe)), "path": "y.bin"}]});
        let found = self.service.try_post::<Vec<InstantUploadResult>>("/resume", &asked).await?.remove(0).uid;
        if found.is_empty() {
            assert!(sent.known != Known::Verified, "the content of {} was verified, and not found", sent.uid);
        } else {
            self.ledger.sent.push(Sent::known(&found, recipe, Known::Verified));
        }
        Some(())
    }

    /// A client that gives up in the middle.
    async fn abort_upload(&mut self) -> Option<()> {
        let (link, piece) = (self.link().await?, self.piece());
        let patience = Duration::from_micros(200 + self.random.below(8_000));
        let bytes = piece.bytes();
        if self.random.percent(50) {
            let mut upload = Upload::new(link);
            let url = upload.record_sending(1, &piece);
            _ = tokio::time::timeout(patience, self.service.try_put(&url, &bytes)).await;
            self.ledger.uploads.push(upload);
        } else {
            let mut sent = Sent::new(&link.uid, vec![piece.clone()]);
            _ = tokio::time::timeout(patience, self.service.try_put(&link.url.single, &bytes)).await;
            sent.retry = Some((link.url.single, vec![piece]));
            self.ledger.sent.push(sent);
        }
        Some(())
    }
}
