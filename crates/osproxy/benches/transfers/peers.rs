//! Other programs that store files over HTTP. `.ci/peers` installs them and tells by environment
//! variables where they are.

use std::{
    env,
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use osproxy_api::{tus, v1};

use crate::{
    client::{Connection, field, get, head},
    content::Variant,
    measure,
    nginx::Nginx,
    s3::Store,
    server::{Process, Server},
};

/// Argument with which the benchmark runs as a server that only answers.
pub(crate) const ANSWER: &str = "--answer";
/// Files of this size, in bytes, are removed when they were measured.
const LARGE: u64 = 1 << 20;
/// Time for a program to listen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Validity of links, in seconds.
const EXPIRE: i64 = 24 * 60 * 60;
const ONLY_AN_ANSWER: &str = "only an answer";
const KEY_ID: &str = "benchmark";
const SECRET: &str = "benchmark-secret";

/// How a client stores a file.
pub(crate) enum Protocol {
    /// osproxy: `POST /api/v1/files` with an API key.
    StoreFile { authorization: String },
    /// osproxy: creates an upload with an API key, and sends the content to its link.
    Link { authorization: String },
    /// osproxy by tus, with an API key: the content is in the request that creates the upload.
    OwnTus { authorization: String },
    /// PUT to a path.
    Put,
    /// tus: the content is in the request that creates the upload.
    Tus,
    /// tus: creates an upload, and sends the content with PATCH.
    TusPatch,
    /// PUT with a signature of S3.
    S3(Store),
}

/// A running program, and one way to use it.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Whether the program syncs to the disk before it answers.
    pub(crate) syncs: bool,
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
    /// The folder of the program and its files.
    place: PathBuf,
    /// Set when a request has failed. The peer then does nothing more.
    pub(crate) failed: AtomicBool,
    running: Arc<Running>,
}

enum Running {
    Osproxy(Server),
    Nginx(Nginx),
    Other(Process),
}

impl Peer {
    fn new(
        name: &'static str,
        syncs: bool,
        protocol: Protocol,
        address: SocketAddr,
        place: PathBuf,
        running: Arc<Running>,
    ) -> Self {
        Self { name, syncs, protocol, address, place, failed: AtomicBool::new(false), running }
    }

    /// Runs one step of the benchmark, unless an earlier step has failed. Returns `None` after a
    /// failure, which is an error only for osproxy.
    pub(crate) fn attempt<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        if self.failed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match step() {
            Ok(done) => Ok(Some(done)),
            Err(error) if matches!(*self.running, Running::Osproxy(_)) => Err(error),
            Err(error) => {
                eprintln!("  {} has failed: {error:#}", self.name);
                self.failed.store(true, Ordering::Relaxed);
                Ok(None)
            }
        }
    }

    /// Ids of the program's processes.
    pub(crate) fn ids(&self) -> Result<Vec<u32>> {
        match &*self.running {
            Running::Osproxy(server) => Ok(vec![server.id()]),
            Running::Nginx(nginx) => nginx.ids(),
            Running::Other(process) => {
                let mut ids = measure::children(process.0.id())?;
                ids.push(process.0.id());
                Ok(ids)
            }
        }
    }

    /// Whether the program keeps what it gets.
    pub(crate) fn stores(&self) -> bool {
        self.name != ONLY_AN_ANSWER
    }

    /// Peak of the resident memory of all processes, in MiB.
    pub(crate) fn peak_rss(&self) -> Result<f64> {
        self.ids()?.into_iter().map(measure::peak_rss).sum()
    }

    /// Stores a file. Returns what [`download`](Self::download) needs.
    pub(crate) fn store(
        &self,
        connection: &mut Connection,
        name: &str,
        content: &Variant<'_>,
    ) -> Result<String> {
        let octets = "content-type: application/octet-stream\r\n";
        let (method, target, fields) = match &self.protocol {
            Protocol::StoreFile { authorization } => {
                let target = format!("{}/files?name={name}", v1::PREFIX);
                ("POST", target, format!("{authorization}{octets}"))
            }
            Protocol::Link { authorization } => {
                let wanted = v1::CreateUploadRequest {
                    name: name.to_owned(),
                    size: Some(content.len() as u64),
                    expires_in: EXPIRE,
                    ..Default::default()
                };
                let created: v1::CreatedUpload =
                    connection.post_json(&format!("{}/uploads", v1::PREFIX), authorization, &wanted)?;
                let links = created.links.context("the answer has no links")?;
                connection.put(&links.content, content, false)?;
                return Ok(created.uid);
            }
            Protocol::OwnTus { authorization } => {
                let fields = format!("{authorization}upload-length: {}\r\n", content.len());
                ("POST", tus::PREFIX.to_owned(), tus_fields(&fields, true))
            }
            Protocol::Put => ("PUT", format!("/{name}"), String::new()),
            Protocol::Tus => {
                let fields = tus_fields(&format!("upload-length: {}\r\n", content.len()), true);
                ("POST", "/files/".to_owned(), fields)
            }
            Protocol::TusPatch => {
                let fields = tus_fields(&format!("upload-length: {}\r\n", content.len()), false);
                let request = head("POST", "/files/", &fields, 0);
                let target = connection.exchange_for_location(&[&request])?;
                ("PATCH", path_of(&target), tus_fields("upload-offset: 0\r\n", true))
            }
            Protocol::S3(store) => {
                let request = store.put(name, content.len())?;
                connection.exchange(&[&join(request, content.first()), content.rest()], |_| {})?;
                return Ok(name.to_owned());
            }
        };
        let request = join(head(method, &target, &fields, content.len()), content.first());
        let request: [&[u8]; 2] = [&request, content.rest()];
        match &self.protocol {
            Protocol::StoreFile { .. } => {
                let location = connection.exchange_for_location(&request)?;
                let uid = location.rsplit('/').next().context("the location has no uid")?;
                Ok(uid.to_owned())
            }
            Protocol::OwnTus { .. } => {
                let location = connection.exchange_for_location(&request)?;
                let uid = location.strip_prefix(tus::PREFIX).and_then(|rest| rest.split('?').next());
                let uid = uid.context("the location has no uid")?;
                Ok(uid.trim_start_matches('/').to_owned())
            }
            Protocol::Tus => Ok(path_of(&connection.exchange_for_location(&request)?)),
            _ => {
                connection.exchange(&request, |_| {})?;
                Ok(target)
            }
        }
    }

    /// The request that downloads what [`store`](Self::store) stored.
    pub(crate) fn download(&self, connection: &mut Connection, stored: &str) -> Result<Vec<u8>> {
        match &self.protocol {
            Protocol::StoreFile { authorization }
            | Protocol::Link { authorization }
            | Protocol::OwnTus { authorization } => {
                let wanted = v1::CreateLinkRequest {
                    expires_in: EXPIRE,
                    disposition: v1::Disposition::Inline,
                    filename: None,
                    networks: Vec::new(),
                    max_uses: None,
                };
                let target = format!("{}/files/{stored}/links", v1::PREFIX);
                let link: v1::CreatedLink = connection.post_json(&target, authorization, &wanted)?;
                Ok(get(&link.url))
            }
            Protocol::S3(store) => store.get(stored),
            _ => Ok(get(stored)),
        }
    }

    /// The store that this peer is, if its protocol is S3.
    pub(crate) fn s3(&self) -> Result<&Store> {
        match &self.protocol {
            Protocol::S3(store) => Ok(store),
            _ => bail!("{} is no S3 store", self.name),
        }
    }

    /// Removes a large file, so that the disk does not fill up.
    pub(crate) fn remove(&self, connection: &mut Connection, stored: &str) -> Result<()> {
        match &self.protocol {
            Protocol::StoreFile { authorization }
            | Protocol::Link { authorization }
            | Protocol::OwnTus { authorization } => {
                let request = head("DELETE", &format!("{}/files/{stored}", v1::PREFIX), authorization, 0);
                connection.exchange(&[&request], |_| {}).map(drop)
            }
            Protocol::Tus | Protocol::TusPatch => {
                let request = head("DELETE", stored, "tus-resumable: 1.0.0\r\n", 0);
                connection.exchange(&[&request], |_| {}).map(drop)
            }
            Protocol::S3(store) => connection.exchange(&[&store.delete(stored)?], |_| {}).map(drop),
            Protocol::Put => remove_larger(&self.place, LARGE),
        }
    }
}

fn tus_fields(further: &str, content: bool) -> String {
    let kind = if content { "content-type: application/offset+octet-stream\r\n" } else { "" };
    format!("tus-resumable: 1.0.0\r\n{kind}{further}")
}

fn join(mut head: Vec<u8>, content: &[u8]) -> Vec<u8> {
    head.extend_from_slice(content);
    head
}

/// The path of an absolute URL, or of one without an authority.
fn path_of(url: &str) -> String {
    match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |start| rest.get(start..).unwrap_or("/")),
        None => url
            .strip_prefix("//")
            .and_then(|rest| rest.find('/').and_then(|at| rest.get(at..)))
            .unwrap_or(url),
    }
    .to_owned()
}

fn remove_larger(folder: &Path, size: u64) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            remove_larger(&entry.path(), size)?;
        } else if meta.len() > size {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// How a client uses a program.
enum Way {
    Put,
    Tus,
    TusPatch,
    S3,
}

/// A program that `.ci/peers` may have installed.
struct Program {
    /// Name of its folder.
    name: &'static str,
    /// Environment variable with its path.
    variable: &'static str,
    /// The ways to use it, each with a name for the table.
    ways: &'static [(&'static str, Way)],
    /// With `{port}` and `{files}`.
    arguments: &'static [&'static str],
}

const PROGRAMS: [Program; 6] = [
    Program {
        name: "tusd",
        variable: "OSPROXY_PEER_TUSD",
        ways: &[("tusd", Way::Tus), ("tusd: POST, PATCH", Way::TusPatch)],
        arguments: &["-host", "127.0.0.1", "-port", "{port}", "-upload-dir", "{files}"],
    },
    Program {
        name: "tus-node",
        variable: "OSPROXY_PEER_TUS_NODE",
        ways: &[("@tus/server", Way::Tus)],
        arguments: &["{port}", "{files}"],
    },
    Program {
        name: "rustus",
        variable: "OSPROXY_PEER_RUSTUS",
        ways: &[("rustus", Way::Tus)],
        arguments: &[
            "--host",
            "127.0.0.1",
            "--port",
            "{port}",
            "--url",
            "/files",
            "--data-dir",
            "{files}",
            "--info-dir",
            "{files}/info",
            "--max-body-size",
            "1073741824",
            "--log-level",
            "ERROR",
        ],
    },
    Program {
        name: "dufs",
        variable: "OSPROXY_PEER_DUFS",
        ways: &[("dufs", Way::Put)],
        arguments: &["--allow-all", "--bind", "127.0.0.1", "--port", "{port}", "{files}"],
    },
    Program {
        name: "rclone",
        variable: "OSPROXY_PEER_RCLONE",
        ways: &[("rclone serve s3", Way::S3)],
        arguments: &[
            "serve",
            "s3",
            "--auth-key",
            "benchmark,benchmark-secret",
            "--addr",
            "127.0.0.1:{port}",
            "--config",
            "/dev/null",
            "--log-level",
            "ERROR",
            "{files}",
        ],
    },
    Program {
        name: "s3s-fs",
        variable: "OSPROXY_PEER_S3S_FS",
        ways: &[("s3s-fs", Way::S3)],
        arguments: &[
            "--access-key",
            KEY_ID,
            "--secret-key",
            SECRET,
            "--host",
            "127.0.0.1",
            "--port",
            "{port}",
            "{files}",
        ],
    },
];

/// Starts osproxy, a server that only answers, and every peer that is installed, each in a folder of
/// its own under `folder` that has its name.
pub(crate) fn start_all(folder: &Path) -> Result<Vec<Peer>> {
    let own = |name: &str| create_folder(folder, name);
    let mut peers = Vec::new();
    let place = own("osproxy")?;
    let server = Server::start_with(&place, &[("AUTH__MODE".to_owned(), "keys".to_owned())])?;
    let key = fs::read_to_string(place.join("data/bootstrap-key"))?;
    let authorization = format!("authorization: Bearer {}\r\n", key.trim());
    let (address, running) = (server.address(), Arc::new(Running::Osproxy(server)));
    for (name, protocol) in [
        ("osproxy", Protocol::StoreFile { authorization: authorization.clone() }),
        ("osproxy: link, PUT", Protocol::Link { authorization: authorization.clone() }),
        ("osproxy: tus", Protocol::OwnTus { authorization }),
    ] {
        peers.push(Peer::new(name, true, protocol, address, place.clone(), Arc::clone(&running)));
    }
    let place = own("nginx")?;
    let nginx = Nginx::start(&place)?;
    let (address, running) = (nginx.address(), Arc::new(Running::Nginx(nginx)));
    peers.push(Peer::new("nginx", false, Protocol::Put, address, place, running));
    peers.extend(start_programs(folder, |_| true)?);
    let place = own("answer")?;
    let (process, address) = spawn(Command::new(env::current_exe()?), &place, &[ANSWER, "{port}"])?;
    let running = Arc::new(Running::Other(process));
    peers.push(Peer::new(ONLY_AN_ANSWER, false, Protocol::Put, address, place, running));
    Ok(peers)
}

/// Starts the S3 API of osproxy, and every S3 server that is installed.
pub(crate) fn start_s3(folder: &Path) -> Result<Vec<Peer>> {
    let place = create_folder(folder, "osproxy")?;
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let server = Server::start_with(&place, &[("S3_API__LISTEN".to_owned(), address.to_string())])?;
    let (key_id, secret) = server.create_s3_key()?;
    let store = Store::at(address, &key_id, &secret);
    Connection::open(address)?.exchange(&[&store.create_bucket()?], |_| {})?;
    let running = Arc::new(Running::Osproxy(server));
    let mut peers = vec![Peer::new("osproxy", true, Protocol::S3(store), address, place, running)];
    peers.extend(start_programs(folder, |way| matches!(way, Way::S3))?);
    Ok(peers)
}

fn create_folder(folder: &Path, name: &str) -> Result<PathBuf> {
    let own = folder.join(name);
    fs::create_dir_all(&own)?;
    Ok(own)
}

/// Starts the installed programs that are used in a way that `is_wanted`.
fn start_programs(folder: &Path, is_wanted: impl Fn(&Way) -> bool) -> Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for Program { name, variable, ways, arguments } in PROGRAMS {
        if !ways.iter().any(|(_, way)| is_wanted(way)) {
            continue;
        }
        let Some(program) = env::var_os(variable) else {
            eprintln!("  {name} is not installed");
            continue;
        };
        let place = create_folder(folder, name)?;
        let started = spawn(Command::new(program), &place, arguments);
        let (process, address) = started.with_context(|| format!("{name} does not start"))?;
        let running = Arc::new(Running::Other(process));
        for (name, way) in ways {
            let protocol = match way {
                Way::Put => Protocol::Put,
                Way::Tus => Protocol::Tus,
                Way::TusPatch => Protocol::TusPatch,
                Way::S3 => Protocol::S3(Store::at(address, KEY_ID, SECRET)),
            };
            peers.push(Peer::new(name, false, protocol, address, place.clone(), Arc::clone(&running)));
        }
    }
    Ok(peers)
}

/// Starts a program, with `{port}` and `{files}` replaced in its arguments, and waits until it
/// listens.
fn spawn(mut command: Command, place: &Path, arguments: &[&str]) -> Result<(Process, SocketAddr)> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let files = place.join("files");
    // The bucket of stores.
    fs::create_dir_all(files.join(crate::s3::BUCKET))?;
    let files = files.display().to_string();
    let port = address.port().to_string();
    command
        .args(arguments.iter().map(|argument| argument.replace("{port}", &port).replace("{files}", &files)));
    let log = File::create(place.join("log"))?;
    command.current_dir(place).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut process = Process(command.spawn()?);
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        let log = || fs::read_to_string(place.join("log")).unwrap_or_default();
        if let Some(status) = process.0.try_wait()? {
            bail!("it ended, {status}: {}", log());
        }
        ensure!(start.elapsed() < PATIENCE, "it does not listen: {}", log());
        thread::sleep(Duration::from_millis(10));
    }
    Ok((process, address))
}

/// Answers every request, without storing anything: `PUT` with 201, other requests with the content
/// that was sent last. Shows how much the client can do.
pub(crate) fn answer(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    for stream in listener.incoming() {
        let stream = stream?;
        stream.set_nodelay(true)?;
        // A connection that fails is closed.
        thread::spawn(move || answer_all(stream));
    }
    Ok(())
}

fn answer_all(mut stream: TcpStream) -> Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let mut filled = 0;
        let (end, length) = loop {
            let count = stream.read(buffer.get_mut(filled..).unwrap_or_default())?;
            ensure!(count > 0, "the connection was closed");
            filled += count;
            let read = buffer.get(..filled).unwrap_or_default();
            if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = read.get(..end + 4).unwrap_or_default();
                let length = field(head, "content-length").map_or(Ok(0), str::parse::<usize>)?;
                break (end + 4, length);
            }
        };
        let is_upload = buffer.starts_with(b"PUT");
        let size = buffer.starts_with(b"GET ").then(|| {
            // `/SIZE.NUMBER`: the name tells how much to answer.
            let name = buffer.get(5..end)?.split(|byte| *byte == b'.').next()?;
            std::str::from_utf8(name).ok()?.parse::<usize>().ok()
        });
        let mut left = (end + length).saturating_sub(filled);
        while left > 0 {
            let count = stream.read(&mut buffer)?;
            ensure!(count > 0, "the connection was closed");
            left = left.saturating_sub(count);
        }
        if is_upload {
            stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n")?;
            continue;
        }
        let mut left = size.flatten().unwrap_or(0);
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {left}\r\n\r\n").into_bytes();
        let first = left.min(buffer.len());
        answer.extend_from_slice(buffer.get(..first).unwrap_or_default());
        stream.write_all(&answer)?;
        left -= first;
        while left > 0 {
            let piece = left.min(buffer.len());
            stream.write_all(buffer.get(..piece).unwrap_or_default())?;
            left -= piece;
        }
    }
}
