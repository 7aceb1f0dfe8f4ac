use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connection on which a test says exactly what it wants, and stops when it wants.
pub struct RawConnection(TcpStream);

impl RawConnection {
    pub async fn open(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Sends the head of a request; `fields` are lines that end in CRLF.
    pub async fn head(&mut self, method: &str, url: &str, fields: &str) {
        let head = format!("{method} {url} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        self.send(head.as_bytes()).await;
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Sends as much as the other side takes; whether it took everything.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }

    /// Closes the side that sends.
    pub async fn finish(&mut self) {
        self.0.shutdown().await.unwrap();
    }

    /// Everything that comes until the other side closes or resets; asks it to close first.
    pub async fn rest(mut self) -> String {
        let mut text = Vec::new();
        let _ = self.0.read_to_end(&mut text).await;
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The next bytes that come.
    pub async fn some(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 64 * 1024];
        let count = self.0.read(&mut bytes).await.unwrap();
        bytes.truncate(count);
        bytes
    }
}
