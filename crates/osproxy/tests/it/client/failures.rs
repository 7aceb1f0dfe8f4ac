use std::{net::SocketAddr, time::Duration};

use osproxy_client::{Client, ErrorCode, ErrorKind, RetryPolicy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{client, client_at, client_through, names};
use crate::support::{Proxy, ProxyMode, Service, content, eventually};

const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\nConnection: close\r\n\r\n\
                    <html>Log in</html>\n";

const REDIRECT: &str = "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/login\r\nContent-Length: 0\r\n\
                        Connection: close\r\n\r\n";

/// A server that gives the same answer to every request.
async fn start_portal(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = vec![0; 64 << 10];
                let _ = client.read(&mut request).await;
                let _ = client.write_all(answer.as_bytes()).await;
                let _ = client.shutdown().await;
                let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_captive_portal_is_recognised() {
    let folder = tempfile::tempdir().unwrap();
    for answer in [PAGE, REDIRECT] {
        let client = client_at(start_portal(answer).await, "osk_x");
        let path = folder.path().join("x.bin");
        let errors = [
            client.file("1").await.map(drop).unwrap_err(),
            client.delete_file("1").await.unwrap_err(),
            client.upload(content(1, 5000)).name("x").send().await.map(drop).unwrap_err(),
            client.upload(content(1, 9 << 20)).name("x").send().await.map(drop).unwrap_err(),
            client.download("1").to_path(&path).await.map(drop).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::NotOsproxy, "{error}");
            assert!(error.to_string().contains("captive portal"), "{error}");
        }
    }
    assert!(names(folder.path()).is_empty());
}

#[tokio::test]
async fn wrong_and_revoked_keys_are_refused_with_the_request_id() {
    let service = Service::start().await;
    let wrong = client_at(service.address, "osk_wrong").file("1").await.unwrap_err();
    assert_eq!((wrong.kind(), wrong.code()), (ErrorKind::Api, Some(ErrorCode::Unauthenticated)));
    assert_eq!(wrong.status(), Some(401));
    service.wait_for_log(wrong.request_id().unwrap()).await;
    assert!(wrong.to_string().contains("unauthenticated"), "{wrong}");
    let key = service.create_key(&["--tenant", "shop", "--label", "phone"]).await;
    let client = client_at(service.address, &key);
    client.upload(content(1, 5000)).name("x").send().await.unwrap();
    let (code, said) = service.cli(&["key", "revoke", &key]).await;
    assert_eq!(code, 0, "{said}");
    // Other nodes, and this one, learn of it within five seconds.
    let refused = async || client.upload(content(1, 5000)).name("x").send().await.err();
    let error = eventually("the key is refused", refused).await;
    assert_eq!(error.code(), Some(ErrorCode::Unauthenticated), "{error}");
}

#[tokio::test]
async fn a_server_that_is_away_or_silent_is_said_to_be() {
    let service = Service::start().await;
    let proxy = Proxy::start(service.address.to_string()).await;
    let hasty = Client::builder(format!("http://{}", proxy.address)).api_key(service.key().unwrap());
    let hasty = hasty.retry(RetryPolicy::none()).idle_timeout(Duration::from_millis(300)).build().unwrap();
    for mode in [ProxyMode::Close, ProxyMode::Stall] {
        proxy.set(mode);
        for error in [
            hasty.stats().await.map(drop).unwrap_err(),
            hasty.upload(content(1, 5000)).name("x").send().await.map(drop).unwrap_err(),
        ] {
            assert!(error.kind() == ErrorKind::Transport && error.is_retryable(), "{mode:?} {error}");
        }
    }
    // With retries, it waits until the server is back.
    let patient = client_through(proxy.address, &service);
    proxy.set(ProxyMode::Close);
    let upload = tokio::spawn(patient.upload(content(1, 5000)).name("x").send());
    tokio::time::sleep(Duration::from_millis(100)).await;
    proxy.set(ProxyMode::Forward);
    upload.await.unwrap().unwrap();
    client(&service).stats().await.unwrap();
}

#[test]
fn invalid_arguments_are_refused_before_anything_is_sent() {
    for url in ["files.example.org", "ftp://files.example.org", "http://files.example.org/osproxy"] {
        assert_eq!(Client::builder(url).build().unwrap_err().kind(), ErrorKind::InvalidInput, "{url}");
    }
    let error = Client::builder("http://files.example.org").api_key("a\nb").build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}
