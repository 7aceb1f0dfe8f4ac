//! The S3 API. Requests are signed by hand, except those of clients that others wrote.

mod buckets;
mod clients;
mod keys;
mod listener;
mod objects;
mod signatures;
mod uppy;

use std::net::SocketAddr;

use crate::support::{S3Key, S3Request, Service, eventually};

/// A service with the S3 API, a key of the tenant `shop`, and the address of the S3 listener.
struct Scene {
    service: Service,
    address: SocketAddr,
    key: S3Key,
}

impl Scene {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(more: &[(&str, &str)]) -> Self {
        let mut settings = vec![("S3_API__LISTEN", "127.0.0.1:0")];
        if std::env::var_os("OSPROXY_TEST_DATABASE").is_some() {
            settings.push(("S3_API__MASTER_KEY", "a-master-key-for-all-nodes-of-a-test"));
        }
        settings.extend(more);
        Self::around(Service::start_with(&settings).await).await
    }

    async fn around(service: Service) -> Self {
        let address = listener_address(&service, 1).await;
        let key = S3Key::create(&service, &["--tenant", "shop"]).await;
        Self { service, address, key }
    }

    fn get(&self, path: &str) -> S3Request {
        S3Request::get(self.address, path)
    }

    /// Sends `GET /`, which lists buckets.
    async fn list_buckets(&self, key: &S3Key) -> (u16, String) {
        let answer = self.get("/").send(self.address, key).await;
        (answer.status, answer.element("Code").to_owned())
    }
}

/// The address of the S3 listener of a service that has started `starts` times. The log can be in
/// any format.
pub async fn listener_address(service: &Service, starts: usize) -> SocketAddr {
    let line = eventually("the listener is started", async || {
        let log = service.log();
        log.lines().filter(|line| line.contains("S3 listener started")).nth(starts - 1).map(str::to_owned)
    })
    .await;
    let (_, rest) = line.split_once("127.0.0.1:").unwrap();
    let port = rest.split(|letter: char| !letter.is_ascii_digit()).next().unwrap();
    format!("127.0.0.1:{port}").parse().unwrap()
}
