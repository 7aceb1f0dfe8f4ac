mod servers;

use std::{fs::Permissions, os::unix::fs::PermissionsExt as _, path::Path};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{Proxy, ProxyMode, Service, content, spawn_failing};

type Settings = Vec<(String, String)>;

fn settings(list: &[(&str, &str)]) -> Settings {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const SECRET: &str = "a-secret-that-nobody-must-see";

/// Settings of an S3 store that need not exist.
fn s3_at(endpoint: &str) -> Settings {
    settings(&[
        ("S3__ENABLED", "true"),
        ("S3__ENDPOINT", endpoint),
        ("S3__BUCKET", "files"),
        ("S3__ACCESS_KEY_ID", "some-key-id"),
        ("S3__SECRET_ACCESS_KEY", SECRET),
        ("STORES__TIMEOUT", "10"),
    ])
}

async fn doctor_in(folder: &Path, settings: &[(String, String)]) -> (i32, String) {
    let (status, said, complaint) = spawn_failing(folder, settings, &["doctor"]).await;
    let said = said + &complaint;
    println!("{said}");
    for (name, value) in settings {
        let is_secret = ["SECRET", "TOKEN", "KEY_ID"].iter().any(|word| name.contains(word));
        assert!(!is_secret || !said.contains(value), "{name} is shown: {said}");
    }
    (status.code().unwrap(), said)
}

async fn doctor(settings: &[(String, String)]) -> (i32, String) {
    doctor_in(tempfile::tempdir().unwrap().path(), settings).await
}

/// The result line of a probe, without its prefix.
fn line<'a>(said: &'a str, verdict: &str, probe: &str) -> &'a str {
    let beginning = format!("  {verdict:<8} {probe:<12} ");
    let found = said.lines().find_map(|line| line.strip_prefix(&beginning));
    found.unwrap_or_else(|| panic!("no line `{beginning}` in:\n{said}"))
}

/// Asserts that exactly one probe fails, with this text in its result.
async fn assert_one_problem(settings: &[(String, String)], probe: &str, told: &str) -> String {
    let (code, said) = doctor(settings).await;
    let what = line(&said, "wrong", probe);
    assert!(what.contains(told), "`{told}` is not in: {what}");
    assert_eq!((code, said.lines().last()), (1, Some("1 problem found")), "{said}");
    said
}

/// A server that reads the head of each request and sends the same answer to all.
async fn start_canned_server(answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let _ = client.read(&mut [0; 16 * 1024]).await;
                let _ = client.write_all(answer.as_bytes()).await;
                let _ = client.shutdown().await;
            });
        }
    });
    endpoint
}

fn http(status: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{fields}\r\n{body}")
}

fn error_document(code: &str, message: &str) -> String {
    format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>")
}

/// The paths of everything below a folder.
fn all_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.display().to_string());
        if path.is_dir() {
            found.extend(all_below(&path));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_folder_that_can_be_made_is_well_and_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = doctor_in(folder.path(), &[]).await;
    assert!(line(&said, "ok", "folder").starts_with("does not exist yet, but can be created; "), "{said}");
    assert_eq!((code, said.lines().last()), (0, Some("no problem found")));
    assert_eq!(all_below(folder.path()), [""; 0]);
}

#[tokio::test]
async fn a_folder_that_a_service_uses_is_well_and_stays_as_it_is() {
    let service = Service::start().await;
    let uid = service.store("x.bin", &content(1, 100_000)).await;
    let before = all_below(&service.objects_folder());
    assert!(before.iter().any(|file| file.contains(&uid)));
    let (code, said) = service.cli(&["doctor"]).await;
    assert!(line(&said, "ok", "folder").contains("written, moved and read; "), "{said}");
    assert_eq!(code, 0);
    assert_eq!(all_below(&service.objects_folder()), before);
}

#[tokio::test]
async fn folders_that_others_can_read_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("osproxy-data");
    let mode = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    std::fs::create_dir_all(data.join("objects")).unwrap();
    mode(&data, 0o750);
    mode(&data.join("objects"), 0o755);
    let (code, said) = doctor_in(folder.path(), &[]).await;
    let warning = line(&said, "warning", "permissions");
    assert!(warning.contains("osproxy-data (mode 0750), osproxy-data/objects (mode 0755)"), "{said}");
    assert_eq!(code, 0, "{said}");
    mode(&data, 0o700);
    let (_, said) = doctor_in(folder.path(), &[]).await;
    assert!(line(&said, "ok", "permissions").contains("only this user"), "{said}");
    // A folder elsewhere is judged by its own mode.
    let elsewhere = settings(&[("LOCAL__ROOT", "elsewhere")]);
    std::fs::create_dir(folder.path().join("elsewhere")).unwrap();
    mode(&folder.path().join("elsewhere"), 0o755);
    let (_, said) = doctor_in(folder.path(), &elsewhere).await;
    assert!(line(&said, "warning", "permissions").contains("elsewhere (mode 0755)"), "{said}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "no folder").unwrap();
    for root in ["file", "file/objects", "/proc/objects"] {
        let said = is_wrong_in(folder.path(), &settings(&[("LOCAL__ROOT", root)])).await;
        assert!(line(&said, "wrong", "folder").contains("`local.root`"), "{said}");
    }
    let objects = folder.path().join("objects");
    std::fs::create_dir(&objects).unwrap();
    std::fs::write(objects.join("video"), "no folder").unwrap();
    let said = is_wrong_in(folder.path(), &settings(&[("LOCAL__ROOT", "objects")])).await;
    assert!(line(&said, "wrong", "folder").contains("video"), "{said}");
    assert_eq!(all_below(&objects).len(), 1);
}

async fn is_wrong_in(folder: &Path, settings: &[(String, String)]) -> String {
    let (code, said) = doctor_in(folder, settings).await;
    assert_eq!((code, said.lines().last()), (1, Some("1 problem found")), "{said}");
    said
}

#[tokio::test]
async fn where_nothing_listens_that_is_told() {
    // Bound, but not listening: no other process gets the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = format!("http://{}", socket.local_addr().unwrap());
    let said =
        assert_one_problem(&s3_at(&endpoint), "reach", "connection refused; check that the store").await;
    assert!(said.contains("skipped  credentials, clock\n"), "{said}");
    assert!(said.contains("skipped  buckets, put, get, range, parts, abort, list, delete\n"), "{said}");
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_told() {
    let mut unknown = s3_at("http://no-such-host.invalid:9000");
    assert_one_problem(&unknown, "reach", "the host name cannot be resolved; check `s3.endpoint`").await;
    unknown.extend(settings(&[("STORES__PROXY", "http://no-such-proxy.invalid:3128")]));
    assert_one_problem(&unknown, "reach", "the host name cannot be resolved; check `stores.proxy`").await;
}

#[tokio::test]
async fn what_speaks_something_else_is_told() {
    let endpoint = start_canned_server("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_owned()).await;
    assert_one_problem(&s3_at(&endpoint), "reach", "does not speak HTTP").await;
    // With TLS the handshake fails first.
    assert_one_problem(&s3_at(&endpoint.replace("http:", "https:")), "reach", "does not use TLS").await;
    let endpoint = start_canned_server(String::new()).await;
    assert_one_problem(&s3_at(&endpoint), "reach", "closes connections without an answer").await;
    let endpoint = start_canned_server(http("200 OK", "", "<html>Welcome to the console</html>")).await;
    assert_one_problem(&s3_at(&endpoint), "reach", "the server is not an object store").await;
    let endpoint = start_canned_server(http("502 Bad Gateway", "", "<html>Bad gateway</html>")).await;
    assert_one_problem(&s3_at(&endpoint), "reach", "or a service behind it, is unavailable").await;
}

#[tokio::test]
async fn what_does_not_answer_is_not_waited_for_without_end() {
    let proxy = Proxy::start("127.0.0.1:9".to_owned()).await;
    proxy.set(ProxyMode::Stall);
    let mut silent = s3_at(&format!("http://{}", proxy.address));
    silent.extend(settings(&[("STORES__TIMEOUT", "1")]));
    assert_one_problem(&silent, "reach", "(not finished within 1 s; see `stores.timeout`)").await;
}

#[tokio::test]
async fn without_credentials_that_is_told() {
    let endpoint =
        start_canned_server(http("403 Forbidden", "", &error_document("AccessDenied", "No signature.")))
            .await;
    let nobody = settings(&[
        ("COS__ENABLED", "true"),
        ("COS__REGION", "ap-test"),
        ("COS__ENDPOINT", "http://cos.ap-test.myqcloud.com"),
        ("COS__APPID", "1250000000"),
        ("STORES__PROXY", &endpoint),
    ]);
    let said = assert_one_problem(&nobody, "credentials", "set `cos.secret_id` and `cos.secret_key`").await;
    assert!(said.contains("http://cos.ap-test.myqcloud.com, through `stores.proxy`\n"), "{said}");
}

/// A test cannot set this machine's clock, but it can run a store that is behind.
#[tokio::test]
async fn a_clock_that_is_wrong_is_told() {
    let date = |behind: u64| {
        let then = std::time::SystemTime::now() - std::time::Duration::from_secs(behind);
        format!("Date: {}\r\n", httpdate::fmt_http_date(then))
    };
    let skewed = error_document("RequestTimeTooSkewed", "The difference is too large.");
    let endpoint = start_canned_server(http("403 Forbidden", &date(3600 + 5), &skewed)).await;
    let (code, said) = doctor(&s3_at(&endpoint)).await;
    assert!(
        line(&said, "wrong", "credentials").contains("the clock of the store; synchronise it with NTP"),
        "{said}"
    );
    let clock = line(&said, "wrong", "clock");
    assert!(clock.starts_with("this machine is 60 min ahead of the store; use NTP"), "{clock}");
    assert!(clock.ends_with("(RequestTimeTooSkewed)"), "{clock}");
    assert_eq!((code, said.lines().last()), (1, Some("2 problems found")));

    let gone = error_document("NoSuchBucket", "No such bucket.");
    for (behind, verdict, told) in [
        (0, "ok", "matches the store"),
        (30, "ok", "30 s ahead of the store"),
        (300, "warning", "5 min ahead of the store; use NTP"),
        (1000, "wrong", "16 min ahead of the store; use NTP"),
    ] {
        let endpoint = start_canned_server(http("404 Not Found", &date(behind), &gone)).await;
        let (code, said) = doctor(&s3_at(&endpoint)).await;
        let clock = line(&said, verdict, "clock");
        // Some seconds pass before the command compares the clocks.
        let seconds = clock.split(' ').find_map(|word| word.parse::<u64>().ok());
        let is_later = behind < 60 && seconds.is_some_and(|ahead| (behind..behind + 30).contains(&ahead));
        assert!(clock.contains(told) || is_later && clock.contains("s ahead of the store"), "{clock}");
        // The missing bucket is only a warning.
        assert_eq!(code, i32::from(verdict == "wrong"));
    }
    let endpoint = start_canned_server(http("404 Not Found", "", &gone)).await;
    let (_, said) = doctor(&s3_at(&endpoint)).await;
    assert!(line(&said, "ok", "clock").contains("does not report"), "{said}");
}

#[tokio::test]
async fn what_a_store_repeats_of_secrets_is_not_told() {
    let token = "a-token\u{20}that-nobody-must-see";
    let said = error_document("ExpiredToken", &format!("{token} of some-key-id with {SECRET}\nhas ended."));
    let endpoint = start_canned_server(http("400 Bad Request", "", &said)).await;
    let mut expired = s3_at(&endpoint);
    expired.extend(settings(&[("S3__SESSION_TOKEN", token)]));
    let said = assert_one_problem(&expired, "credentials", "the temporary access key has expired").await;
    assert!(line(&said, "wrong", "credentials").ends_with("*** of *** with *** has ended.)"), "{said}");
}
