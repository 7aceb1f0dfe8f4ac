//! TLS, and HTTP/2 with and without it.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use hyper::Version;
use tempfile::TempDir;

use crate::{
    health::run_health,
    support::{Certificate, Http2Client, Service, content, eventually, spawn_failing},
};

/// A service with a certificate, and the folder of the certificate.
async fn start_secured(more: &[(&str, &str)]) -> (Service, Certificate, TempDir) {
    let (certificate, folder) = (Certificate::new(), tempfile::tempdir().unwrap());
    let files = certificate.write(folder.path()).map(|path| path.to_str().unwrap().to_owned());
    let mut settings = vec![("TLS__CERT", &*files[0]), ("TLS__KEY", &*files[1])];
    settings.extend(more);
    (Service::start_with(&settings).await, certificate, folder)
}

#[tokio::test]
async fn clients_are_served_over_tls_with_http_1_and_2() {
    let (service, certificate, _folder) = start_secured(&[]).await;
    let bytes = content(1, 3_000_000);
    let uid = service.store("x.bin", &bytes).await;
    assert!(service.read(&uid).await == bytes);
    let answer = service.get("/health/ready").await;
    assert_eq!(answer.version(), Version::HTTP_11);
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=31536000");

    let stream = certificate.connect(service.address, b"h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut client = Http2Client::over(stream).await;
    let link = service.download_link(&uid).await.unwrap().url;
    let answer = client.get(&link).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
    assert!(answer.into_body().collect().await.unwrap().to_bytes() == bytes);
    // A plain HTTP request is not served.
    let mut plain = service.connect().await;
    plain.send_head("GET", "/health/live", "").await;
    assert!(!plain.read_to_end().await.contains("200"));
}

#[tokio::test]
async fn http_2_is_spoken_in_clear_by_those_who_know() {
    let service = Service::start().await;
    let bytes = content(1, 3_000_000);
    let uid = service.store("x.bin", &bytes).await;
    let link = service.download_link(&uid).await.unwrap().url;
    let client = Http2Client::connect(service.address).await;
    let reads = (0..20).map(|_| {
        let (mut client, link) = (client.clone(), link.clone());
        async move { client.get(&link).await.unwrap().into_body().collect().await.unwrap().to_bytes() }
    });
    for read in futures_util::future::join_all(reads).await {
        assert!(read == bytes);
    }
    assert!(!service.get("/health/live").await.headers().contains_key("strict-transport-security"));
}

#[tokio::test]
async fn a_pair_that_is_none_is_told_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (Certificate::new(), Certificate::new());
    one.write(folder.path());
    std::fs::write(folder.path().join("other.pem"), &other.key).unwrap();
    std::fs::write(folder.path().join("empty.pem"), "").unwrap();
    for (cert, key, problem) in [
        ("cert.pem", "none.pem", "tls: none.pem: No such file"),
        ("cert.pem", "other.pem", "tls: `cert` and `key` do not match"),
        ("cert.pem", "empty.pem", "tls: `key` contains no private key"),
        ("empty.pem", "key.pem", "tls: `cert` contains no certificate"),
        ("cert.pem", "", "tls: `key` is missing"),
        ("", "key.pem", "tls: `cert` is missing"),
    ] {
        let settings =
            [("TLS__CERT", cert), ("TLS__KEY", key)].map(|(name, file)| (name.to_owned(), file.to_owned()));
        let settings: Vec<_> = settings.into_iter().filter(|(_, file)| !file.is_empty()).collect();
        let (status, _, complaint) = spawn_failing(folder.path(), &settings, &["check-config"]).await;
        assert_eq!(status.code(), Some(1), "{problem}");
        assert!(complaint.contains(problem), "{complaint}");
    }
    let cluster = "tls: {cert: cert.pem, key: key.pem}\ndatabase: {url: 'postgres://a@127.0.0.1/a'}\nredis: {host: 127.0.0.1}";
    std::fs::write(folder.path().join("cluster.yaml"), cluster).unwrap();
    let arguments = ["check-config", "--config", "cluster.yaml"];
    let (_, _, complaint) = spawn_failing(folder.path(), &[], &arguments).await;
    assert!(complaint.contains("terminate TLS at the load balancer"), "{complaint}");
}

#[tokio::test]
async fn a_node_is_asked_for_its_health_on_its_own_machine_whatever_its_certificate_says() {
    let plain = Service::start().await;
    let (service, certificate, _folder) = start_secured(&[]).await;
    certificate.write(plain.folder());
    let (own, other) = (service.address.to_string(), plain.address.to_string());
    let tls = [("TLS__CERT", "cert.pem"), ("TLS__KEY", "key.pem"), ("SERVER__LISTEN", &*own)];
    let ready = (Some(0), "ready\n".to_owned());
    assert_eq!(run_health(&plain, &tls, &[]).await, ready);
    // At any other address the certificate is checked, and a server without TLS is rejected.
    for (settings, options) in
        [(&[][..], &["--url", &*service.url("")][..]), (&[tls[0], tls[1], ("SERVER__LISTEN", &*other)], &[])]
    {
        let (code, said) = run_health(&plain, settings, options).await;
        assert!(code == Some(1) && said.contains("does not answer"), "{said}");
    }
    // A service that requires client certificates is checked through its admin listener.
    let mutual = [&tls[..], &[("TLS__CLIENT_CA", "cert.pem")]].concat();
    assert!(run_health(&plain, &mutual, &[]).await.1.contains("admin.listen"));
    let admin = [&mutual[..], &[("ADMIN__LISTEN", &*other)]].concat();
    assert_eq!(run_health(&plain, &admin, &[]).await, ready);
}

#[tokio::test]
async fn who_never_ends_the_handshake_holds_up_nobody_and_is_dropped() {
    let (service, ..) = start_secured(&[("SERVER__HEADER_TIMEOUT", "2")]).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(service.connect().await);
    }
    assert_eq!(service.get("/health/live").await.status(), 200);
    let start = Instant::now();
    for connection in silent {
        assert_eq!(connection.read_to_end().await, "");
    }
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_certificate_is_replaced_while_requests_run() {
    let (service, old, folder) = start_secured(&[]).await;
    let uid = service.store("x.bin", &content(1, 2_000_000)).await;
    let (stop, served) = (AtomicBool::new(false), AtomicU32::new(0));
    // Open connections keep their certificate and continue.
    let reads = async {
        while !stop.load(Ordering::Relaxed) {
            service.read(&uid).await;
            served.fetch_add(1, Ordering::Relaxed);
        }
    };
    let exchange = async {
        let new = Certificate::new();
        new.write(folder.path());
        eventually("the new certificate is served", async || {
            new.connect(service.address, b"http/1.1").await.map(drop)
        })
        .await;
        assert!(old.connect(service.address, b"http/1.1").await.is_none());
        // A certificate and key that do not match change nothing.
        std::fs::write(folder.path().join("key.pem"), &old.key).unwrap();
        let complaints = || service.log().matches("keeping the old one").count();
        eventually("the failed reload is logged", async || (complaints() > 0).then_some(())).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(complaints(), 1);
        assert!(new.connect(service.address, b"http/1.1").await.is_some());
        let before = served.load(Ordering::Relaxed);
        eventually("clients go on", async || (served.load(Ordering::Relaxed) > before).then_some(())).await;
        stop.store(true, Ordering::Relaxed);
    };
    futures_util::future::join(reads, exchange).await;
    assert!(served.load(Ordering::Relaxed) > 1);
}
