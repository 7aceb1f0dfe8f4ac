use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connection on which a test controls every byte and pause.
pub struct RawConnection(TcpStream);

impl RawConnection {
    pub async fn open(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Returns `None` if nobody listens.
    pub async fn try_open(address: SocketAddr) -> Option<Self> {
        TcpStream::connect(address).await.ok().map(Self)
    }

    /// Sends the head of a request. Each line of `fields` must end with CRLF.
    pub async fn send_head(&mut self, method: &str, url: &str, fields: &str) {
        let head = format!("{method} {url} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        self.send(head.as_bytes()).await;
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Sends bytes. Returns `false` if the connection broke before all bytes were written.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }

    /// Shuts down the sending side.
    pub async fn shutdown_write(&mut self) {
        self.0.shutdown().await.unwrap();
    }

    /// Reads until the other side closes or resets the connection.
    pub async fn read_to_end(self) -> String {
        String::from_utf8_lossy(&self.read_all().await).into_owned()
    }

    /// All bytes until the connection ends.
    pub async fn read_all(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.0.read_to_end(&mut bytes).await;
        bytes
    }

    /// The next bytes that arrive.
    pub async fn read_some(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 64 * 1024];
        let count = self.0.read(&mut bytes).await.unwrap();
        bytes.truncate(count);
        bytes
    }
}
