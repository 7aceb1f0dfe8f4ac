//! One upload over tus and API v1, and partial uploads of tus, compared with a model: for any sequence
//! of operations, every answer and the content must be what the model says.

use std::collections::BTreeMap;

use osproxy_api::v1::CreatedUpload;
use proptest::{prelude::*, test_runner::Config};
use reqwest::{Method, Response};
use serde_json::json;

use crate::support::{RawConnection, TestNode, content, eventually, tus};

/// Part size in bytes.
const PART: usize = 64 << 10;

#[derive(Clone, Debug)]
enum Op {
    /// Appends this many bytes.
    Append {
        length: usize,
        checksum: Checksum,
    },
    /// Appends, but the connection breaks after some of the bytes.
    Break {
        length: usize,
        sent: usize,
    },
    /// Appends at an offset that is this far behind.
    Behind(usize),
    /// Sends a part over API v1.
    Part(u32),
    /// Creates a partial upload of this size.
    CreatePartial(usize),
    /// Appends to the partial upload with this index; without a length, all that is missing.
    AppendPartial {
        index: usize,
        length: Option<usize>,
    },
    /// Concatenates all partial uploads.
    Concatenate,
    Status,
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Checksum {
    None,
    Right,
    Wrong,
}

fn op() -> impl Strategy<Value = Op> {
    let length = || prop_oneof![0..=10_usize, 0..=3 * PART, Just(PART), Just(2 * PART)];
    let checksum =
        prop_oneof![4 => Just(Checksum::None), 1 => Just(Checksum::Right), 1 => Just(Checksum::Wrong)];
    prop_oneof![
        8 => (length(), checksum).prop_map(|(length, checksum)| Op::Append { length, checksum }),
        4 => (1..=3 * PART, 0..=3 * PART)
            .prop_map(|(length, sent)| Op::Break { length, sent: sent.min(length - 1) }),
        1 => (1..=PART).prop_map(Op::Behind),
        3 => (1..=6_u32).prop_map(Op::Part),
        2 => (0..=2 * PART).prop_map(Op::CreatePartial),
        4 => (0..2_usize, prop::option::of(length()))
            .prop_map(|(index, length)| Op::AppendPartial { index, length }),
        2 => Just(Op::Concatenate),
        2 => Just(Op::Status),
        1 => Just(Op::Restart),
    ]
}

/// A partial upload of tus.
struct Partial {
    url: String,
    size: usize,
    received: Vec<u8>,
}

struct World {
    node: TestNode,
    upload: CreatedUpload,
    size: usize,
    /// The stored parts.
    parts: BTreeMap<u32, Vec<u8>>,
    /// The first bytes of the first part that is missing.
    incomplete: Vec<u8>,
    /// The partial uploads that are not used yet.
    partial: Vec<Partial>,
    /// The uids and the content of concatenated files.
    concatenated: Vec<(String, Vec<u8>)>,
    /// Each write sends other bytes, so that the content shows which of them count.
    writes: u64,
}

impl World {
    async fn start(size: usize) -> Self {
        let node = TestNode::start().await;
        let wish = json!({"name": "x.bin", "size": size, "part_size": PART, "expires_in": 600});
        let upload = node.create_upload(&wish).await;
        Self {
            node,
            upload,
            size,
            parts: BTreeMap::new(),
            incomplete: Vec::new(),
            partial: Vec::new(),
            concatenated: Vec::new(),
            writes: 0,
        }
    }

    fn url(&self) -> &str {
        &self.upload.links.as_ref().unwrap().tus
    }

    fn new_bytes(&mut self, length: usize) -> Vec<u8> {
        self.writes += 1;
        content(self.writes, length)
    }

    fn first_missing(&self) -> u32 {
        (1..=u32::MAX).find(|number| !self.parts.contains_key(number)).unwrap()
    }

    fn length(&self, number: u32) -> usize {
        self.size.saturating_sub(PART * (number as usize - 1)).min(PART)
    }

    fn offset(&self) -> usize {
        let start = PART * (self.first_missing() as usize - 1);
        (start + self.incomplete.len()).min(self.size)
    }

    fn is_complete(&self) -> bool {
        self.offset() == self.size
    }

    /// Adds bytes that were appended at the offset.
    fn add(&mut self, mut bytes: &[u8]) {
        let mut number = self.first_missing();
        let mut part = std::mem::take(&mut self.incomplete);
        while !bytes.is_empty() {
            let taken = bytes.len().min(self.length(number) - part.len());
            part.extend(&bytes[..taken]);
            bytes = &bytes[taken..];
            if part.len() == self.length(number) {
                self.parts.insert(number, std::mem::take(&mut part));
                number += 1;
            }
        }
        // The first bytes of a part that is stored already do not count.
        if !self.parts.contains_key(&number) {
            self.incomplete = part;
        }
    }

    async fn patch(&self, offset: usize, bytes: &[u8], checksum: Option<[u8; 32]>) -> Response {
        use base64::prelude::{BASE64_STANDARD, Engine};
        let mut patch = tus::patch(&self.node, self.url(), offset, bytes.len());
        if let Some(checksum) = checksum {
            patch = patch.header("upload-checksum", format!("blake3 {}", BASE64_STANDARD.encode(checksum)));
        }
        patch.body(bytes.to_vec()).send().await.unwrap()
    }

    async fn server_offset(&self) -> usize {
        tus::offset(&self.node, self.url()).await
    }

    async fn append(&mut self, length: usize, checksum: Checksum) {
        let bytes = self.new_bytes(length);
        let digest = match checksum {
            Checksum::None => None,
            Checksum::Right => Some(*blake3::hash(&bytes).as_bytes()),
            Checksum::Wrong => Some([7; 32]),
        };
        let (offset, was_complete) = (self.offset(), self.is_complete());
        let answer = self.patch(offset, &bytes, digest).await;
        let expected = if was_complete {
            if length == 0 { 204 } else { 409 }
        } else if offset + length > self.size {
            413
        } else if checksum == Checksum::Wrong {
            460
        } else {
            self.add(&bytes);
            204
        };
        assert_eq!(answer.status(), expected, "{length} bytes at {offset} of {}", self.size);
        if expected == 204 {
            assert_eq!(answer.headers()["upload-offset"], self.offset().to_string());
        }
    }

    async fn break_off(&mut self, length: usize, sent: usize) {
        let length = length.min(self.size - self.offset());
        if length == 0 || self.is_complete() {
            return;
        }
        let (bytes, offset) = (self.new_bytes(length), self.offset());
        // Small content is stored in one step, so nothing of it stays.
        if length == self.size && length <= PART {
            return;
        }
        let sent = sent.min(length - 1);
        let mut connection = RawConnection::open(self.node.address).await;
        let fields = format!(
            "Tus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream\r\n\
             Upload-Offset: {offset}\r\nContent-Length: {length}\r\n"
        );
        connection.send_head("PATCH", self.url(), &fields).await;
        connection.send(&bytes[..sent]).await;
        connection.shutdown_write().await;

        let answer = connection.read_to_end().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 503 "), "{answer}");
        self.add(&bytes[..sent]);
        let expected = self.offset();
        eventually("the bytes are recorded", async || (self.server_offset().await == expected).then_some(()))
            .await;
    }

    async fn create_partial(&mut self, size: usize) {
        if self.partial.len() == 2 {
            return;
        }
        let creation = tus::request(&self.node, Method::POST, "/tus").header("upload-concat", "partial");
        let answer = creation.header("upload-length", size).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let url = answer.headers()["location"].to_str().unwrap().to_owned();
        self.partial.push(Partial { url, size, received: Vec::new() });
    }

    async fn append_partial(&mut self, index: usize, length: Option<usize>) {
        let Some(partial) = self.partial.get(index) else {
            return;
        };
        let length = length.unwrap_or(partial.size - partial.received.len());
        let bytes = self.new_bytes(length);
        let Partial { url, size, received } = &mut self.partial[index];
        let patch = tus::patch(&self.node, url, received.len(), length);
        let answer = patch.body(bytes.clone()).send().await.unwrap();
        if received.len() + length > *size {
            assert_eq!(answer.status(), 413, "{length} bytes at {} of {size}", received.len());
        } else {
            received.extend(bytes);
            tus::assert_appended(answer, received.len()).await;
        }
        assert_eq!(tus::offset(&self.node, url).await, received.len());
    }

    async fn concatenate(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        let urls: Vec<_> = self.partial.iter().map(|partial| partial.url.as_str()).collect();
        let list = format!("final;{}", urls.join(" "));
        let concatenate = async || {
            let creation = tus::request(&self.node, Method::POST, "/tus");
            creation.header("upload-concat", &list).send().await.unwrap()
        };
        let answer = concatenate().await;
        if self.partial.iter().any(|partial| partial.received.len() < partial.size) {
            assert_eq!(answer.status(), 409);
            return;
        }
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
        // The same list is the same file.
        let again = concatenate().await;
        assert_eq!(again.headers()["osproxy-uid"], answer.headers()["osproxy-uid"]);
        let uid = answer.headers()["osproxy-uid"].to_str().unwrap().to_owned();
        let content = self.partial.drain(..).flat_map(|partial| partial.received).collect::<Vec<_>>();
        assert!(self.node.read(&uid).await == content);
        self.concatenated.push((uid, content));
    }

    async fn run(&mut self, op: Op) {
        match op {
            Op::Append { length, checksum } => self.append(length, checksum).await,
            Op::Break { length, sent } => self.break_off(length, sent).await,
            Op::Behind(distance) => {
                let offset = self.offset();
                let wrong = offset.checked_sub(distance).unwrap_or(offset + distance);
                let answer = self.patch(wrong, b"x", None).await;
                assert_eq!(answer.status(), 409, "{wrong} instead of {offset}");
                assert_eq!(answer.headers()["upload-offset"], offset.to_string());
            }
            Op::Part(number) => {
                let (length, was_complete) = (self.length(number), self.is_complete());
                let bytes = self.new_bytes(length.max(1));
                let answer = self.node.v1_put_part(&self.upload, number as usize, &bytes).await;
                let expected = match length {
                    _ if was_complete => 409,
                    0 => 422,
                    _ => 204,
                };
                assert_eq!(answer.status(), expected, "part {number} of {} bytes", self.size);
                if expected == 204 {
                    if number == self.first_missing() {
                        self.incomplete.clear();
                    }
                    self.parts.insert(number, bytes);
                }
            }
            Op::CreatePartial(size) => self.create_partial(size).await,
            Op::AppendPartial { index, length } => self.append_partial(index, length).await,
            Op::Concatenate => self.concatenate().await,
            Op::Status if !self.is_complete() => {
                let status = self.node.v1_status(&self.upload).await;
                assert_eq!(status.parts, self.parts.keys().copied().collect::<Vec<_>>());
            }
            Op::Status => {}
            Op::Restart => self.node.restart(true).await,
        }
        // Asking for the offset also completes an upload that has all parts.
        assert_eq!(self.server_offset().await, self.offset());
    }

    async fn finish(mut self) {
        while !self.is_complete() {
            let length = (self.size - self.offset()).min(PART + 1);
            self.append(length, Checksum::None).await;
        }
        assert_eq!(self.server_offset().await, self.size);
        let expected: Vec<u8> = self.parts.values().flatten().copied().collect();
        assert!(self.node.read(&self.upload.uid).await == expected);
        self.node.database().wait_until_idle().await;
        assert!(self.node.read(&self.upload.uid).await == expected, "after the background work");
        for (uid, content) in &self.concatenated {
            assert!(self.node.read(uid).await == *content, "{uid} after the background work");
        }
        self.node.assert_consistent().await;
    }
}

#[test]
fn appends_and_parts_in_any_order() {
    let cases = std::env::var("PROPTEST_CASES").map_or(24, |cases| cases.parse().unwrap());
    let config = Config {
        cases,
        max_shrink_iters: 100,
        max_shrink_time: 60_000,
        source_file: Some(file!()),
        ..Config::default()
    };
    let size = prop_oneof![1..=10_usize, 1..=5 * PART, Just(PART), Just(3 * PART)];
    proptest!(config, |(size in size, ops in prop::collection::vec(op(), 1..=15))| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut world = World::start(size).await;
            for op in ops {
                world.run(op).await;
            }
            world.finish().await;
        });
    });
}
