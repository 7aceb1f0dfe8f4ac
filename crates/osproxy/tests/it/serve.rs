use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::support::{Database, HangingCalls, RawConnection, Service, content, eventually, spawn_failing};

#[tokio::test]
async fn a_signal_lets_running_requests_end_and_exits_with_0() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut service = Service::start().await;
        let link = service.upload_link("x.bin").await;
        let bytes = content(1, 1_000_000);
        let mut connection = service.connect().await;
        connection.send_head("PUT", &link.url.single, "Content-Length: 1000000\r\n").await;
        connection.send(&bytes[..400_000]).await;
        eventually("the upload has begun", async || (!service.objects().is_empty()).then_some(())).await;

        service.signal(signal);
        service.wait_for_log("stopping").await;
        eventually("no connection is accepted", async || {
            tokio::net::TcpStream::connect(service.address).await.is_err().then_some(())
        })
        .await;
        connection.send(&bytes[400_000..]).await;
        let answer = connection.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(service.exit_status().await.code(), Some(0));

        service.restart().await;
        assert!(service.read(&link.uid).await == bytes);
    }
}

/// An upload of 1,000,000 bytes that stops after 400,000.
async fn start_upload(service: &Service) -> RawConnection {
    let link = service.upload_link("x.bin").await;
    let mut connection = service.connect().await;
    connection.send_head("PUT", &link.url.single, "Content-Length: 1000000\r\n").await;
    connection.send(&content(1, 400_000)).await;
    eventually("the upload has begun", async || (!service.objects().is_empty()).then_some(())).await;
    connection
}

#[tokio::test]
async fn who_does_not_end_in_time_is_cut_and_leaves_nothing() {
    let mut service = Service::start_with(&[("SERVER__SHUTDOWN_GRACE", "1")]).await;
    let connection = start_upload(&service).await;
    service.signal(Signal::TERM);
    assert_eq!(service.exit_status().await.code(), Some(0));
    assert_eq!(service.objects(), [""; 0]);
    assert_eq!(service.sql("SELECT count(*) FROM blobs").await, ["0"]);
    drop(connection);
}

#[tokio::test]
async fn who_sends_nothing_in_the_middle_of_a_body_is_dropped() {
    let service = Service::start_with(&[("SERVER__BODY_TIMEOUT", "1")]).await;
    let answer = start_upload(&service).await.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let mut connection = service.connect().await;
    let fields = service.authorization() + "Content-Length: 1000\r\n";
    connection.send_head("POST", "/api/storage/v0/resume", &fields).await;
    connection.send(b"{").await;
    assert!(connection.read_to_end().await.starts_with("HTTP/1.1 408"));
    eventually("nothing is left behind", async || service.objects().is_empty().then_some(())).await;
}

#[tokio::test]
async fn beyond_the_limit_connections_wait() {
    let service = Service::start_with(&[("SERVER__MAX_CONNECTIONS", "1")]).await;
    let ping = "GET /api/storage/v0/health HTTP/1.1\r\nHost: x\r\n\r\n".as_bytes();
    let mut first = service.connect().await;
    first.send(ping).await;
    assert!(first.read_some().await.starts_with(b"HTTP/1.1 200"));
    let mut second = service.connect().await;
    second.send(ping).await;
    let waited = tokio::time::timeout(std::time::Duration::from_millis(300), second.read_some()).await;
    assert!(waited.is_err(), "the second connection was served");
    drop(first);
    assert!(second.read_some().await.starts_with(b"HTTP/1.1 200"));
}

/// Sends a request from this address, and returns the start of the answer; empty if the connection
/// was closed.
async fn ask_from(address: &str, service: SocketAddr) -> (TcpStream, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    let mut stream = socket.connect(service).await.unwrap();
    let mut answer = vec![0; 1000];
    // The service may have closed the connection already.
    let _ = stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let count = stream.read(&mut answer).await.unwrap_or(0);
    (stream, String::from_utf8_lossy(&answer[..count]).into_owned())
}

#[tokio::test]
async fn one_address_cannot_have_all_connections() {
    let settings = [("SERVER__MAX_CONNECTIONS", "4"), ("ADMIN__LISTEN", "127.0.0.1:0")];
    let service = Service::start_with(&settings).await;
    let admin = service.logged_address("admin listener started").await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let (connection, answer) = ask_from("127.0.0.1", service.address).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        held.push(connection);
    }
    assert_eq!(ask_from("127.0.0.1", service.address).await.1, "", "the connection was not served");
    let (other, answer) = ask_from("127.0.0.2", service.address).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_admin, answer) = ask_from("127.0.0.1", admin).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "the probe got no answer: {answer}");
    drop((held.pop(), other));
    let served =
        async || ask_from("127.0.0.1", service.address).await.1.starts_with("HTTP/1.1 200").then_some(());
    eventually("a connection is served again", served).await;
    let told = async || service.log().contains("max_connections_per_address").then_some(());
    eventually("the log says why", told).await;
}

#[tokio::test]
async fn who_has_sent_everything_may_close_that_side() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    let mut connection = service.connect().await;
    connection.send_head("PUT", &link.url.single, "Content-Length: 5\r\n").await;
    connection.send(b"hello").await;
    connection.shutdown_write().await;
    assert!(connection.read_to_end().await.starts_with("HTTP/1.1 200"));
    assert_eq!(service.read(&link.uid).await, b"hello");
}

#[tokio::test]
async fn who_was_started_to_outlive_its_terminal_does() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::create(folder.path()).await;
    let settings = database.settings();
    let nohup = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"];
    let mut service = Service::start_at(folder, database, settings, &[], &nohup).await;
    service.signal(Signal::HUP);
    service.store("x.bin", b"x").await;
    assert!(!service.log().contains("stopping"));
    service.signal(Signal::TERM);
    assert_eq!(service.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn a_disk_that_hangs_keeps_nobody_from_stopping() {
    let mut service = Service::start().await;
    let hang = HangingCalls::on_open(&service, "osproxy-data").await;
    let hangs = async || {
        service.get("/health/ready").await;
        (hang.count_threads().await > 0).then_some(())
    };
    eventually("a thread hangs", hangs).await;
    service.signal(Signal::TERM);
    // The process has ended except for the thread that the tracer holds.
    let status = format!("/proc/{}/status", service.pid().as_raw_pid());
    let ended = async || std::fs::read_to_string(&status).unwrap().contains("State:\tZ").then_some(());
    eventually("the process has ended", ended).await;
    hang.release().await;
    assert_eq!(service.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut service = Service::start().await;
    let connection = start_upload(&service).await;
    service.signal(Signal::TERM);
    service.wait_for_log("stopping").await;
    service.signal(Signal::TERM);
    assert_eq!(service.exit_status().await.code(), Some(0));
    drop(connection);
}

#[tokio::test]
async fn everything_lies_under_the_data_folder_of_its_owner_alone_with_sqlite() {
    use std::os::unix::fs::PermissionsExt;
    let service = Service::start().await;
    service.store("x.bin", b"x").await;
    service.create_upload(&json!({"name": "y.bin", "size": 100_000, "part_size": 65536})).await;
    let mut entries: Vec<_> =
        std::fs::read_dir(service.folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    entries.sort();
    assert_eq!(entries, ["log", "osproxy-data"]);
    let mode =
        |path: &str| std::fs::metadata(service.folder().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("osproxy-data"), 0o700);
    let (mut folders, mut files) = (vec![service.objects_folder()], 0);
    while let Some(folder) = folders.pop() {
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700, "{folder:?}");
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files += 1;
                assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
            }
        }
    }
    assert_eq!(files, 4, "expected an object, a preallocated file, the lock and the store id");
    for file in ["osproxy.db", "osproxy.db-wal", "osproxy.db-shm"] {
        assert_eq!(mode(&format!("osproxy-data/{file}")), 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_data_folder_is_served_once() {
    let service = Service::start().await;
    let arguments = ["serve", "--listen", "127.0.0.1:0"];
    let (status, ready, complaint) = spawn_failing(service.folder(), &[], &arguments).await;
    assert_eq!((status.code(), ready.as_str()), (Some(1), ""));
    assert!(complaint.contains("another osproxy process uses"), "{complaint}");
}

#[tokio::test]
async fn a_sqlite_database_is_served_once() {
    let service = Service::start().await;
    let config = service.folder().join("other.yaml");
    let database = service.folder().join("osproxy-data/osproxy.db");
    std::fs::write(&config, format!("data_dir: other\ndatabase: {{path: {}}}\n", database.display()))
        .unwrap();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--config", config.to_str().unwrap()];
    let (status, _, complaint) = spawn_failing(service.folder(), &[], &arguments).await;
    assert_eq!(status.code(), Some(1));
    assert!(complaint.contains("another osproxy process uses the database"), "{complaint}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let service = Service::start().await;
    let folder = tempfile::tempdir().unwrap();
    let listen = service.address.to_string();
    let (status, _, complaint) = spawn_failing(folder.path(), &[], &["serve", "--listen", &listen]).await;
    assert_eq!(status.code(), Some(1));
    assert!(complaint.contains(&format!("cannot listen on {listen}")), "{complaint}");
}

#[tokio::test]
async fn every_request_has_an_id_and_one_line_without_secrets() {
    let service = Service::start_with(&[("LOG__FORMAT", "json"), ("LOG__LEVEL", "debug")]).await;
    let uid = service.store("x.bin", b"x").await;
    let url = service.download_link(&uid).await.unwrap().url;
    let signature = url.split_once("signature=").unwrap().1;
    for (name, id) in [("request-id", "theirs-1"), ("x-request-id", "theirs-2")] {
        let answer = service.client().get(service.url(&url)).header(name, id).send().await.unwrap();
        assert_eq!(answer.headers()["x-request-id"], id);
        answer.bytes().await.unwrap();
    }
    let answer = service.client().get(service.url(&url)).header("request-id", "bad id").send().await.unwrap();
    let made = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(made.len(), 24);
    answer.bytes().await.unwrap();

    let lines = eventually("all lines are logged", async || {
        let log = service.log();
        (log.matches("\"served\"").count() == 6).then_some(log)
    })
    .await;
    for id in ["theirs-1", "theirs-2", &made] {
        let line = lines.lines().find(|line| line.contains(&format!("\"{id}\""))).expect(id);
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["message"], "served");
        assert_eq!((&line["method"], &line["status"]), (&"GET".into(), &200.into()));
        assert_eq!((&line["path"], &line["bytes_sent"]), (&"/api/storage/v0/download".into(), &1.into()));
        assert_eq!(line["complete"], true);
    }
    assert!(!lines.contains(signature) && !lines.contains("signature"), "{lines}");
}

#[tokio::test]
async fn keys_rotate_and_a_key_made_at_the_first_start_stays() {
    let mut service = Service::start().await;
    let uid = service.store("x.txt", b"x").await;
    let made = service.download_link(&uid).await.unwrap().url;
    service.kill().await;
    service.restart().await;
    assert_eq!(service.get(&made).await.status(), 200);

    let config = |keys: &str| format!("links:\n  keys:\n{keys}");
    let (old, new) =
        ("    - {id: old, secret: old-old-old-old-old}\n", "    - {id: new, secret_file: new.key}\n");
    std::fs::write(service.folder().join("new.key"), "new-new-new-new-new\n").unwrap();
    let write = |text: String| std::fs::write(service.folder().join("config.yaml"), text).unwrap();
    write(config(old));
    service.restart_configured().await;
    assert_eq!(service.get(&made).await.status(), 422);
    let signed_by_old = service.download_link(&uid).await.unwrap().url;
    assert!(signed_by_old.contains("signature=old."));

    std::fs::write(service.folder().join("config.yaml"), config(&format!("{new}{old}"))).unwrap();
    service.restart_configured().await;
    assert_eq!(service.get(&signed_by_old).await.status(), 200);
    assert!(service.download_link(&uid).await.unwrap().url.contains("signature=new."));

    std::fs::write(service.folder().join("config.yaml"), config(new)).unwrap();
    service.restart_configured().await;
    assert_eq!(service.get(&signed_by_old).await.status(), 422);
}

#[tokio::test]
async fn no_root_and_no_capability_is_needed() {
    let service = Service::start_unprivileged().await;
    let status = format!("/proc/{}/status", service.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(status).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_ne!(field("Uid:"), "0");
    assert_eq!(field("CapEff:").trim_start_matches('0'), "");
    let bytes = content(1, 3_000_000);
    let uid = service.store_in_parts("x.bin", &bytes, 1 << 20).await;
    service.wait_until_merged(&uid).await;
    assert!(service.read(&uid).await == bytes);
    assert_eq!(service.get("/health/ready").await.status(), 200);
}
