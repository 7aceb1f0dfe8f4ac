//! gRPC compared with HTTP on one server, and the effect of the message size.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::stream;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use osproxy_api::grpc::v1::{
    CreateUploadRequest, DownloadFileRequest, UploadFileHeader, UploadFileRequest,
    download_file_response::Part as Downloaded, file_service_client::FileServiceClient,
    upload_file_request::Part,
};
use tokio::runtime::{Builder, Runtime};
use tonic::body::Body;

use super::{GIB, Scale, alternate, alternate_all};
use crate::{
    client::{Connection, get},
    content::{Content, Variant},
    measure::{self, Sample},
    report::{Report, Target},
    server::Server,
};

const KIB: usize = 1 << 10;

/// Message size of most measurements, in bytes.
const MESSAGE: usize = 256 * KIB;

/// Message sizes to compare, in bytes.
const SIZES: [usize; 5] = [16 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, 1024 * KIB];

/// A client on one thread.
struct Grpc {
    runtime: Runtime,
    files: FileServiceClient<Client<HttpConnector, Body>>,
    /// The content without its first bytes, which differ between variants.
    rest: Bytes,
}

impl Grpc {
    fn open(address: SocketAddr, content: &Content) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build(connector);
        let files = FileServiceClient::with_origin(client, format!("http://{address}").parse()?);
        Ok(Self { runtime, files, rest: Bytes::copy_from_slice(content.variant(0).rest()) })
    }

    /// Stores content in messages of `message` bytes, and returns the uid of the file.
    fn upload(&mut self, content: &Variant<'_>, message: usize) -> Result<String> {
        let size = content.len() as u64;
        let first = Bytes::copy_from_slice(content.first());
        let rest = self.rest.clone();
        let files = &mut self.files;
        self.runtime.block_on(async {
            let wish = CreateUploadRequest { name: "file.bin".to_owned(), ..CreateUploadRequest::default() };
            let uid = files.create_upload(wish).await?.into_inner().uid;
            let header = UploadFileHeader { uid: uid.clone(), size: Some(size), digests: None };
            let data = (0..rest.len()).step_by(message).map(move |start| {
                let end = (start + message).min(rest.len());
                Part::Data(rest.slice(start..end))
            });
            let parts = [Part::Header(header), Part::Data(first)].into_iter().chain(data);
            let messages = parts.map(|part| UploadFileRequest { part: Some(part) });
            let stored = files.upload_file(stream::iter(messages)).await?.into_inner();
            ensure!(stored.size == Some(size), "{:?} bytes are stored", stored.size);
            Ok(uid)
        })
    }

    /// Reads a file, and passes its chunks to `take`.
    fn read(&mut self, uid: &str, mut take: impl FnMut(&[u8])) -> Result<()> {
        let files = &mut self.files;
        self.runtime.block_on(async {
            let request = DownloadFileRequest { uid: uid.to_owned(), ..DownloadFileRequest::default() };
            let mut messages = files.download_file(request).await?.into_inner();
            let first = messages.message().await?.and_then(|message| message.part);
            let Some(Downloaded::File(file)) = first else { anyhow::bail!("the answer describes no file") };
            let mut left = file.size.context("the file has no size")?;
            while let Some(message) = messages.message().await? {
                if let Some(Downloaded::Data(data)) = message.part {
                    left = left.checked_sub(data.len() as u64).context("received too many bytes")?;
                    take(&data);
                }
            }
            ensure!(left == 0, "{left} bytes are missing");
            Ok(())
        })
    }
}

/// A server with one client for each protocol.
struct Both {
    server: Server,
    http: Connection,
    grpc: Grpc,
}

impl Both {
    fn start(folder: &Path, content: &Content) -> Result<Self> {
        let server = Server::start(folder)?;
        let http = Connection::open(server.address())?;
        let grpc = Grpc::open(server.address(), content)?;
        Ok(Self { server, http, grpc })
    }

    fn upload_over_grpc(&mut self, content: &Variant<'_>, message: usize) -> Result<Sample> {
        rustix::fs::sync();
        let (grpc, mut uid) = (&mut self.grpc, String::new());
        let sample = measure::sample(&[self.server.id()], || {
            uid = grpc.upload(content, message)?;
            Ok(())
        })?;
        self.clear(&uid, content)?;
        Ok(sample)
    }

    fn upload_over_http(&mut self, content: &Variant<'_>) -> Result<Sample> {
        rustix::fs::sync();
        let (http, mut uid) = (&mut self.http, String::new());
        let sample = measure::sample(&[self.server.id()], || {
            let (created, links) = http.create_upload(content.len(), 8 << 20)?;
            http.put(&links.content, content, false)?;
            uid = created;
            Ok(())
        })?;
        self.clear(&uid, content)?;
        Ok(sample)
    }

    /// Verifies stored content, and deletes it.
    fn clear(&mut self, uid: &str, content: &Variant<'_>) -> Result<()> {
        self.http.verify_stored(uid, content)?;
        self.http.delete(uid)?;
        self.server.wait_until_gone(uid)
    }
}

fn throughput(size: usize) -> impl Fn(&Sample) -> f64 {
    move |sample| size as f64 / 1e6 / sample.wall
}

fn cpu(size: usize) -> impl Fn(&Sample) -> f64 {
    move |sample| sample.server_cpu * GIB / size as f64
}

fn client_cpu(size: usize) -> impl Fn(&Sample) -> f64 {
    move |sample| sample.client_cpu * GIB / size as f64
}

/// Durable uploads of a whole file.
pub(super) fn upload(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let content = Content::new(scale.large);
    let mut both = Both::start(folder, &content)?;
    let names = ["gRPC", "HTTP"];
    let [grpc, http] = alternate_all(scale, names, |which, round| {
        let variant = content.variant(2 * round + which);
        if which == 0 { both.upload_over_grpc(&variant, MESSAGE) } else { both.upload_over_http(&variant) }
    })?;
    report_figures(report, "grpc-upload", scale.large, (&grpc, &http));
    Ok(())
}

/// Downloads from the page cache.
pub(super) fn download(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let content = Content::new(scale.large);
    let mut both = Both::start(folder, &content)?;
    let variant = content.variant(1);
    let uid = both.http.store(&variant)?;
    let link = both.http.v1_links(std::slice::from_ref(&uid))?;
    let request = get(link.first().context("the answer has no link")?);
    let mut md5 = crate::content::Digester::default();
    both.grpc.read(&uid, |bytes| md5.update(bytes))?;
    ensure!(md5.finish() == variant.md5(), "received other bytes");
    both.http.verify(&request, &variant)?;
    let (id, size) = ([both.server.id()], scale.large as u64);
    let (grpc, http) = alternate(
        scale,
        |_| measure::sample(&id, || both.grpc.read(&uid, |_| {})),
        |_| measure::sample(&id, || both.http.get(&request, size)),
    )?;
    report_figures(report, "grpc-download", scale.large, (&grpc, &http));
    Ok(())
}

fn report_figures(report: &mut Report, case: &str, size: usize, both: (&measure::Rounds, &measure::Rounds)) {
    report.against(case, "MB/s (peer: HTTP)", both, throughput(size), Target::None);
    report.against(case, "CPU s/GiB (peer: HTTP)", both, cpu(size), Target::None);
    report.against(case, "client's CPU s/GiB (peer: HTTP)", both, client_cpu(size), Target::None);
}

/// Uploads in messages of several sizes.
pub(super) fn messages(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let content = Content::new(scale.large);
    let mut both = Both::start(folder, &content)?;
    let names = ["16 KiB", "64 KiB", "128 KiB", "256 KiB", "1 MiB"];
    let rounds = alternate_all(scale, names, |which, round| {
        let size = SIZES.get(which).copied().unwrap_or(MESSAGE);
        both.upload_over_grpc(&content.variant(SIZES.len() * round + which), size)
    })?;
    for (name, rounds) in names.iter().zip(&rounds) {
        report.figure(
            "grpc-messages",
            &format!("{name}, MB/s"),
            rounds.median(throughput(scale.large)),
            Target::None,
        );
        report.figure(
            "grpc-messages",
            &format!("{name}, CPU s/GiB"),
            rounds.median(cpu(scale.large)),
            Target::None,
        );
    }
    Ok(())
}
