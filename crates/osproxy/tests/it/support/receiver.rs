use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use super::{Certificate, eventually};

/// What a receiver of webhooks does with a message.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Answers with this status and these additional header lines, each with its line end.
    Status(u16, &'static str),
    /// Never answers.
    Hang,
    /// Closes the connection without an answer.
    Close,
    /// Sends these bytes and closes the connection.
    Raw(&'static [u8]),
    /// Answers with this status when the test adds a permit.
    Wait(Arc<Semaphore>, u16),
}

/// A message that a receiver has got.
#[derive(Clone, Debug)]
pub struct Received {
    /// Names are in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// The answer.
    pub answer: u16,
}

impl Received {
    pub fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }

    pub fn uid(&self) -> String {
        self.json()["data"]["uid"].as_str().unwrap_or_default().to_owned()
    }

    pub fn sequence(&self) -> i64 {
        self.json()["data"]["sequence"].as_i64().unwrap()
    }
}

#[derive(Default)]
struct Log {
    received: Mutex<Vec<Received>>,
    answer: Mutex<Option<Answer>>,
}

/// A receiver of webhooks on a real socket. Answers 204 unless it is told otherwise.
pub struct Receiver {
    pub address: SocketAddr,
    log: Arc<Log>,
    serving: Option<JoinHandle<()>>,
    tls: Option<TlsAcceptor>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Receiver {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts a receiver with TLS.
    pub async fn start_tls(certificate: &Certificate) -> Self {
        Self::start_with(Some(certificate.acceptor())).await
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let address = "127.0.0.1:0".parse().unwrap();
        let mut receiver = Self { address, log: Arc::default(), serving: None, tls };
        receiver.restart().await;
        receiver
    }

    /// Listens again at the same address.
    pub async fn restart(&mut self) {
        let listener =
            eventually("the port is free", async || TcpListener::bind(self.address).await.ok()).await;
        self.address = listener.local_addr().unwrap();
        let (log, tls) = (self.log.clone(), self.tls.clone());
        self.serving = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, tls) = (log.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, log).await,
                        // The client may not trust the certificate.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, log).await;
                            }
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        }));
    }

    /// Closes all sockets at once, as when the process is killed.
    pub fn kill(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/hook?token=hush", self.address)
    }

    pub fn set_answer(&self, answer: Answer) {
        *self.log.answer.lock().unwrap() = Some(answer);
    }

    /// All messages so far, also those that were not answered with 2xx.
    pub fn received(&self) -> Vec<Received> {
        self.log.received.lock().unwrap().clone()
    }

    /// The messages that were accepted, except tests.
    pub fn accepted(&self) -> Vec<Received> {
        let mut received = self.received();
        received.retain(|message| (200..300).contains(&message.answer));
        received
    }

    /// Waits until a number of messages were received.
    pub async fn wait_for(&self, number: usize) -> Vec<Received> {
        let what = format!("{number} messages are received");
        eventually(&what, async || Some(self.received()).filter(|all| all.len() >= number)).await
    }

    /// Waits until a message about a file was accepted.
    pub async fn wait_for_event(&self, kind: &str, uid: &str) -> Received {
        eventually(&format!("there is {kind} of {uid}"), async || {
            self.accepted().into_iter().find(|message| message.kind() == kind && message.uid() == uid)
        })
        .await
    }
}

/// Reads messages of a connection and answers them.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, log: Arc<Log>) {
    let mut buffer = Vec::new();
    while let Some((headers, body)) = read_message(&mut stream, &mut buffer).await {
        let answer = log.answer.lock().unwrap().clone().unwrap_or(Answer::Status(204, ""));
        let note = |answer| log.received.lock().unwrap().push(Received { headers, body, answer });
        match answer {
            Answer::Status(status, more) => {
                note(status);
                let head = format!("HTTP/1.1 {status} Status\r\n{more}content-length: 0\r\n\r\n");
                if stream.write_all(head.as_bytes()).await.is_err() {
                    return;
                }
            }
            Answer::Wait(permits, status) => {
                note(status);
                permits.acquire().await.unwrap().forget();
                let head = format!("HTTP/1.1 {status} Status\r\ncontent-length: 0\r\n\r\n");
                if stream.write_all(head.as_bytes()).await.is_err() {
                    return;
                }
            }
            Answer::Hang => {
                note(0);
                // Until the other side gives up.
                let _ = stream.read(&mut [0]).await;
                return;
            }
            Answer::Close => return note(0),
            Answer::Raw(bytes) => {
                note(0);
                let _ = stream.write_all(bytes).await;
                return;
            }
        }
    }
}

/// Reads a request with a body of known length. Returns `None` at the end of the connection.
async fn read_message(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> Option<(BTreeMap<String, String>, Vec<u8>)> {
    loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
            assert!(head.starts_with("POST /hook?token=hush HTTP/1.1\r\n"), "{head}");
            let headers: BTreeMap<_, _> = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let length: usize = headers["content-length"].parse().unwrap();
            if buffer.len() >= end + 4 + length {
                let body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                return Some((headers, body));
            }
        }
        let mut chunk = vec![0; 16 * 1024];
        let read = stream.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
        buffer.extend_from_slice(&chunk[..read]);
    }
}
