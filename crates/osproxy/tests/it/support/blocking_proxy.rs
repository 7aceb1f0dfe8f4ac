use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What happens to a blocked request.
#[derive(Clone, Copy)]
pub enum BlockMode {
    /// The proxy answers 403, like a store if the access key lacks the permission.
    Refuse,
    /// The proxy never answers.
    Ignore,
}

/// Starts a proxy that forwards all requests except those that have this method, and this text in
/// the first line. Returns the address of the proxy.
pub async fn start_blocking_proxy(
    target: String,
    method: &'static str,
    text: &'static str,
    how: BlockMode,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&target).await.unwrap();
            tokio::spawn(forward(client, server, method, text, how));
        }
    });
    address
}

async fn forward(mut client: TcpStream, server: TcpStream, method: &str, text: &str, how: BlockMode) {
    let (mut from_server, mut to_server) = server.into_split();
    let mut request = vec![0; 64 * 1024];
    let mut answer = request.clone();
    loop {
        tokio::select! {
            // Assumes that a client sends each head in one write, and never in the same write as
            // the end of the previous body.
            count = client.read(&mut request) => {
                let Ok(count @ 1..) = count else { return };
                let line = request[..count].split(|byte| *byte == b'\r').next().unwrap_or_default();
                let line = String::from_utf8_lossy(line);
                if line.starts_with(method) && line.contains(text) {
                    return block(client, how).await;
                }
                if to_server.write_all(&request[..count]).await.is_err() {
                    return;
                }
            }
            count = from_server.read(&mut answer) => {
                let Ok(count @ 1..) = count else { return };
                if client.write_all(&answer[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn block(mut client: TcpStream, how: BlockMode) {
    match how {
        BlockMode::Refuse => {
            let text = "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
            let head =
                format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\nConnection: close", text.len());
            let _ = client.write_all(format!("{head}\r\n\r\n{text}").as_bytes()).await;
            let _ = client.shutdown().await;
            // Read the rest of the request: unread bytes would reset the connection and destroy the
            // answer.
            let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
        }
        BlockMode::Ignore => {
            let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
        }
    }
}
