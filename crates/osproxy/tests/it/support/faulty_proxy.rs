use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::Random;

/// A fault of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Resets the connection after this many bytes of the request body.
    ResetRequest(u64),
    /// Forwards only this many bytes of the request body. Still forwards the answer.
    StallRequest(u64),
    /// Answers 503 without forwarding the request.
    Unavailable,
    /// Forwards the request, waits for the answer of the store, and then answers 500 instead.
    ErrorAfterSuccess,
    /// Forwards the request after this many milliseconds, even if the client no longer waits.
    Delay(u64),
    /// Forwards this many bytes of the answer, and then stalls forever.
    Stall(u64),
    /// Forwards this many bytes of the answer, and then closes the connection.
    Truncate(u64),
    /// Forwards this many bytes of the answer, and then resets the connection.
    Reset(u64),
    /// Forwards slowly in both directions.
    Slow,
    /// Flips one bit of the request body, in the byte at this offset. Has no effect on shorter
    /// bodies.
    FlipBit(u64),
    /// Flips one bit of the answer, in the byte at this offset. Has no effect on shorter answers.
    FlipAnswerBit(u64),
}

/// A TCP proxy in front of a store, with one request per connection. It injects faults and counts
/// the bytes it forwards.
pub struct FaultyProxy {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    target: String,
    one_in: AtomicU64,
    silent: AtomicBool,
    random: Mutex<Random>,
    /// Faults of the next requests with these methods.
    planned: Mutex<Vec<(&'static str, Fault)>>,
    sent: AtomicU64,
    received: AtomicU64,
    request_lines: Mutex<Vec<String>>,
    faults: Mutex<Vec<Fault>>,
}

impl FaultyProxy {
    /// Starts a proxy in front of a server.
    pub async fn start(target: String, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            target,
            one_in: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            random: Mutex::new(Random::new(seed)),
            planned: Mutex::default(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            request_lines: Mutex::default(),
            faults: Mutex::default(),
        });
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = shared.clone();
                // Errors are expected here.
                tokio::spawn(async move {
                    let _ = state.pass(client).await;
                });
            }
        });
        Self { address, state }
    }

    /// Injects random faults into one in `one_in` requests on average. 0 stops this.
    pub fn set_fault_rate(&self, one_in: u64) {
        self.state.one_in.store(one_in, Ordering::SeqCst);
    }

    /// While `silent` is set, new requests wait without an answer.
    pub fn set_silent(&self, silent: bool) {
        self.state.silent.store(silent, Ordering::SeqCst);
    }

    /// Injects a fault into the next request with this method.
    pub fn plan_fault(&self, method: &'static str, trouble: Fault) {
        self.state.planned.lock().unwrap().push((method, trouble));
    }

    /// Bytes sent to the store so far.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }

    /// Bytes received from the store so far.
    pub fn received(&self) -> u64 {
        self.state.received.load(Ordering::SeqCst)
    }

    /// The first lines of all requests.
    pub fn request_lines(&self) -> Vec<String> {
        self.state.request_lines.lock().unwrap().clone()
    }

    /// The numbers of the parts of API v1 sent so far, once for each time they were sent.
    pub fn parts_sent(&self) -> Vec<u32> {
        let lines = self.request_lines();
        let paths =
            lines.iter().filter_map(|line| line.strip_prefix("PUT /api/v1/uploads/")?.split_once("/parts/"));
        paths.map(|(_, rest)| rest.split_once('?').unwrap().0.parse().unwrap()).collect()
    }

    /// The number of requests, and the faults so far.
    pub fn faults(&self) -> (u64, Vec<Fault>) {
        (self.request_lines().len() as u64, self.state.faults.lock().unwrap().clone())
    }
}

impl State {
    fn draw(&self, method: &str) -> Option<Fault> {
        let mut planned = self.planned.lock().unwrap();
        if let Some(at) = planned.iter().position(|(of, _)| *of == method) {
            return Some(planned.remove(at).1);
        }
        let one_in = self.one_in.load(Ordering::SeqCst);
        let mut random = self.random.lock().unwrap();
        if one_in == 0 || random.below(one_in) != 0 {
            return None;
        }
        let kind = random.below(8);
        // In the first 2,000 bytes, or anywhere in the first 6 MiB.
        let most = if random.percent(50) { 2_000 } else { 6 << 20 };
        let at = random.below(most);
        Some(match kind {
            0 => Fault::ResetRequest(at),
            1 => Fault::Unavailable,
            2 => Fault::ErrorAfterSuccess,
            3 => Fault::Stall(at),
            4 | 5 => Fault::Truncate(at),
            6 => Fault::Reset(at),
            _ => Fault::Slow,
        })
    }

    async fn pass(&self, mut client: TcpStream) -> std::io::Result<()> {
        while self.silent.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let head = read_head(&mut client).await?;
        let method = head.split(|byte| *byte == b' ').next().unwrap_or_default();
        let trouble = self.draw(&String::from_utf8_lossy(method));
        let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
        self.request_lines.lock().unwrap().push(line);
        if let Some(trouble) = trouble {
            self.faults.lock().unwrap().push(trouble);
        }
        if trouble == Some(Fault::Unavailable) {
            return answer(client, "503 Service Unavailable", "SlowDown").await;
        }
        if let Some(Fault::Delay(pause)) = trouble {
            return self.deliver_late(client, &head, pause).await;
        }
        let mut server = TcpStream::connect(&self.target).await?;
        server.write_all(&only_request(&head)).await?;
        self.sent.fetch_add(head.len() as u64, Ordering::SeqCst);
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let request = self.forward(from_client, to_server, trouble);
        if trouble == Some(Fault::ErrorAfterSuccess) {
            let mut from_server = from_server;
            let (_, all) = tokio::join!(request, async {
                let mut all = Vec::new();
                from_server.read_to_end(&mut all).await.map(|_| all)
            });
            all?;
            return answer_half(to_client, "500 Internal Server Error", "InternalError").await;
        }
        let response = self.back(from_server, to_client, trouble);
        tokio::select! {
            // The connection ends with the answer, or when the request breaks.
            ended = response => ended,
            broken = async { match request.await { Ok(()) => std::future::pending().await, broken => broken } } => broken,
        }
    }

    async fn deliver_late(&self, mut client: TcpStream, head: &[u8], pause: u64) -> std::io::Result<()> {
        let text = String::from_utf8_lossy(head).to_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        client.read_exact(&mut body).await?;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let mut server = TcpStream::connect(&self.target).await?;
        server.write_all(&[only_request(head), body].concat()).await?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await?;
        client.write_all(&answer).await
    }

    async fn forward(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        trouble: Option<Fault>,
    ) -> std::io::Result<()> {
        let mut left = match trouble {
            Some(Fault::ResetRequest(at) | Fault::StallRequest(at)) => at,
            _ => u64::MAX,
        };
        let mut before_flip = if let Some(Fault::FlipBit(at)) = trouble { at } else { u64::MAX };
        let mut buffer = vec![0; chunk(trouble)];
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                return to.shutdown().await;
            }
            let read = usize::try_from(left.min(read as u64)).unwrap();
            if let Some(byte) = usize::try_from(before_flip).ok().and_then(|at| buffer[..read].get_mut(at)) {
                *byte ^= 1;
                before_flip = u64::MAX;
            }
            before_flip = before_flip.saturating_sub(read as u64);
            to.write_all(&buffer[..read]).await?;
            self.sent.fetch_add(read as u64, Ordering::SeqCst);
            left -= read as u64;
            if left == 0 && matches!(trouble, Some(Fault::StallRequest(_))) {
                tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
                // Dropping the write half would end the request.
                return std::future::pending().await;
            }
            if left == 0 {
                from.as_ref().set_zero_linger()?;
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            pause(trouble).await;
        }
    }

    async fn back(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        trouble: Option<Fault>,
    ) -> std::io::Result<()> {
        let mut left = match trouble {
            Some(Fault::Stall(at) | Fault::Truncate(at) | Fault::Reset(at)) => at,
            _ => u64::MAX,
        };
        let mut before_flip = if let Some(Fault::FlipAnswerBit(at)) = trouble { at } else { u64::MAX };
        let mut buffer = vec![0; chunk(trouble)];
        loop {
            if left == 0 {
                match trouble {
                    Some(Fault::Stall(_)) => std::future::pending::<()>().await,
                    Some(Fault::Reset(_)) => to.as_ref().set_zero_linger()?,
                    _ => {}
                }
                return Ok(());
            }
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                return to.shutdown().await;
            }
            let read = usize::try_from(left.min(read as u64)).unwrap();
            if let Some(byte) = usize::try_from(before_flip).ok().and_then(|at| buffer[..read].get_mut(at)) {
                *byte ^= 1;
                before_flip = u64::MAX;
            }
            before_flip = before_flip.saturating_sub(read as u64);
            to.write_all(&buffer[..read]).await?;
            self.received.fetch_add(read as u64, Ordering::SeqCst);
            left -= read as u64;
            pause(trouble).await;
        }
    }
}

fn chunk(trouble: Option<Fault>) -> usize {
    if trouble == Some(Fault::Slow) { 16 << 10 } else { 256 << 10 }
}

async fn pause(trouble: Option<Fault>) {
    if trouble == Some(Fault::Slow) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn read_head(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    Ok(head)
}

/// Adds `Connection: close` to the head of a request.
fn only_request(head: &[u8]) -> Vec<u8> {
    let mut only = head[..head.len() - 2].to_vec();
    only.extend_from_slice(b"Connection: close\r\n\r\n");
    only
}

fn refusal(status: &str, code: &str) -> String {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>on purpose</Message></Error>");
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

async fn answer(client: TcpStream, status: &str, code: &str) -> std::io::Result<()> {
    let (_from, to) = client.into_split();
    answer_half(to, status, code).await
}

async fn answer_half(mut to: OwnedWriteHalf, status: &str, code: &str) -> std::io::Result<()> {
    to.write_all(refusal(status, code).as_bytes()).await?;
    to.shutdown().await?;
    // Wait before the connection is closed. If unread bytes of the request remain, closing resets
    // the connection, and the client can lose the answer.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}
