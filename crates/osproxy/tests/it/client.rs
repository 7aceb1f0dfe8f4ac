//! The Rust client against the real service, through proxies that break.

mod api;
mod downloads;
mod failures;
mod guide;
mod uploads;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use osproxy_client::{Client, Progress, RetryPolicy};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use crate::support::{Page, Service, content};

const MIB: usize = 1 << 20;

fn client_at(address: SocketAddr, key: &str) -> Client {
    let retry = RetryPolicy::default().min_pause(Duration::from_millis(20));
    Client::builder(format!("http://{address}")).api_key(key).retry(retry).build().unwrap()
}

/// A client of the service, through a proxy.
fn client_through(address: SocketAddr, service: &Service) -> Client {
    client_at(address, service.key().unwrap())
}

fn client(service: &Service) -> Client {
    client_through(service.address, service)
}

/// The names of all files in a folder, with hidden ones.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Notifies once `bytes` bytes are transferred.
fn after(bytes: usize) -> (Arc<Notify>, impl Fn(Progress) + Send + Sync + 'static) {
    let notify = Arc::new(Notify::new());
    let notified = notify.clone();
    (notify, move |progress: Progress| {
        if progress.transferred >= bytes as u64 {
            notified.notify_one();
        }
    })
}

/// A slow TCP proxy whose server can be replaced.
struct Relay {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
}

impl Relay {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(target));
        let current = target.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let target = *current.lock().unwrap();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = copy_slowly(from_client, to_server) => {}
                        () = copy_slowly(from_server, to_client) => {}
                    }
                });
            }
        });
        Self { address, target }
    }

    fn set_target(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
    }
}

async fn copy_slowly(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut block = vec![0; 32 << 10];
    while let Ok(read @ 1..) = from.read(&mut block).await {
        if to.write_all(&block[..read]).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn the_program_of_the_guide_works() {
    let blocks = Page::read("docs/guides/rust-client.md").blocks_in("rust");
    let program = include_str!("client/guide.rs");
    assert!(blocks.len() == 1 && blocks[0].trim() == program.trim(), "guide.rs is the program of the guide");
    let service = Service::start().await;
    let client = guide::connect(&service.url(""), service.key().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("film.mp4");
    for seed in [1, 2] {
        let bytes = content(seed, 20 * MIB);
        std::fs::write(&film, &bytes).unwrap();
        let uid = guide::back_up(&client, &film).await.unwrap();
        assert_eq!(client.file(&uid).await.unwrap().metadata["from"], "backup");
        let restored = folder.path().join("restored.mp4");
        assert!(guide::restore(&client, "film.mp4", &restored).await.unwrap());
        assert!(std::fs::read(&restored).unwrap() == bytes);
        // The state of an upload that has ended is removed.
        assert_eq!(names(folder.path()), ["film.mp4", "restored.mp4"]);
    }
    assert!(!guide::restore(&client, "other.mp4", &film).await.unwrap());
}
