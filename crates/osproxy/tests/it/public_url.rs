//! `Location` is right behind proxies.

use reqwest::{Method, RequestBuilder};

use crate::{
    cluster::stack::host,
    support::{Api, Certificate, Nginx, Service, spawn_failing, tus},
};

fn creation(api: &Api, prefix: &str) -> RequestBuilder {
    tus::request(api, Method::POST, &format!("{prefix}/tus")).header("upload-length", 3)
}

/// Sends a creation with these headers, and returns `Location` up to the uid.
async fn location(api: &Api, headers: &[(&str, &str)]) -> String {
    let mut creation = creation(api, "");
    for (name, value) in headers {
        creation = creation.header(*name, *value);
    }
    let answer = creation.send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let (uid, location) = (answer.headers()["osproxy-uid"].clone(), answer.headers()["location"].clone());
    let (before, _) = location.to_str().unwrap().split_once(uid.to_str().unwrap()).unwrap();
    before.to_owned()
}

/// Creates an upload, and sends its content to the `Location`. Returns that.
async fn upload_to_location(api: &Api, prefix: &str) -> String {
    let answer = creation(api, prefix).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let url = answer.headers()["location"].to_str().unwrap().to_owned();
    // The link needs no key.
    let patch = api.without_key().client().patch(&url).header("tus-resumable", "1.0.0");
    let patch = patch.header("content-type", "application/offset+octet-stream").header("upload-offset", 0);
    tus::assert_appended(patch.body("abc").send().await.unwrap(), 3).await;
    url
}

const FORWARDED: [(&str, &str); 3] =
    [("x-forwarded-proto", "https"), ("x-forwarded-host", "files.example.org"), ("x-forwarded-port", "8443")];

#[tokio::test]
async fn headers_of_a_client_do_not_change_the_location() {
    let service = Service::start().await;
    for headers in [&[][..], &FORWARDED, &[("host", "evil.example")]] {
        assert_eq!(location(&service, headers).await, "/tus/", "{headers:?}");
    }
    // Nor does a host that the proxy passes on, but does not report.
    let service = Service::start_configured("server: {trusted_proxies: [127.0.0.0/8]}").await;
    for headers in [&[("host", "evil.example")][..], &[("host", "evil.example"), FORWARDED[0]]] {
        assert_eq!(location(&service, headers).await, "/tus/", "{headers:?}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_reports_the_location() {
    let service = Service::start_configured("server: {trusted_proxies: [127.0.0.0/8]}").await;
    assert_eq!(location(&service, &FORWARDED).await, "https://files.example.org:8443/tus/");
    assert_eq!(location(&service, &FORWARDED[..2]).await, "https://files.example.org/tus/");
    // Content of an upload of API v1 that is resumable by the IETF draft.
    let upload = service.create_upload(&serde_json::json!({"name": "x", "expires_in": 600})).await;
    let mut put = service.client().put(service.url(&upload.links.unwrap().content)).body("abc");
    for (name, value) in
        [&FORWARDED[..], &[("upload-draft-interop-version", "8"), ("upload-complete", "?0")]].concat()
    {
        put = put.header(name, value);
    }
    let answer = put.send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let url = answer.headers()["location"].to_str().unwrap();
    assert!(url.starts_with(&format!("https://files.example.org:8443/tus/{}?", upload.uid)), "{url}");
    let inner = [("x-forwarded-proto", "https, http"), ("x-forwarded-host", "a.example, b.example")];
    assert_eq!(location(&service, &inner).await, "/tus/");
}

#[tokio::test]
async fn the_configured_url_takes_precedence() {
    let config = "server: {trusted_proxies: [127.0.0.0/8], public_url: 'https://osproxy.example/store/'}";
    let service = Service::start_configured(config).await;
    for headers in [&[][..], &FORWARDED] {
        assert_eq!(location(&service, headers).await, "https://osproxy.example/store/tus/");
    }
    // Links of API v1 stay relative.
    let wish = serde_json::json!({"name": "x", "expires_in": 600});
    assert!(service.create_upload(&wish).await.links.unwrap().tus.starts_with("/tus/"));
}

#[tokio::test]
async fn an_invalid_url_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["files.example.org", "ftp://files.example.org", "https://files.example.org?a=b"] {
        std::fs::write(folder.path().join("bad.yaml"), format!("server: {{public_url: '{url}'}}")).unwrap();
        let arguments = ["check-config", "--config", "bad.yaml"];
        let (_, _, complaint) = spawn_failing(folder.path(), &[], &arguments).await;
        assert!(complaint.contains("server.public_url: ") && complaint.contains(url), "{complaint}");
    }
}

/// With the shipped configurations of nginx.
#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn the_location_leads_through_nginx() {
    let service = Service::start_configured("server: {trusted_proxies: [127.0.0.0/8]}").await;
    let nodes = [service.address; 3];
    let nginx = Nginx::start(&host(), &nodes).await;
    let api = Api::new(nginx.address).with_key(service.key().unwrap());
    let url = upload_to_location(&api, "").await;
    assert!(url.starts_with(&format!("http://{}/tus/", nginx.address)), "{url}");

    let (host, folder) = (host(), tempfile::tempdir().unwrap());
    let certificate = Certificate::from_script(folder.path(), &["localhost", &host]);
    let nginx = Nginx::start_secured(folder.path(), &host, &nodes).await;
    let api = Api::new(nginx.address).with_certificate(&certificate.cert).with_key(service.key().unwrap());
    // What a client claims is replaced.
    assert_eq!(location(&api, &FORWARDED).await, format!("https://{}/tus/", nginx.address));
    let url = upload_to_location(&api, "").await;
    assert!(url.starts_with(&format!("https://{}/tus/", nginx.address)), "{url}");
    assert_eq!(service.read(tus::uid(&url)).await, b"abc");
}

/// A proxy that removes a path prefix.
#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn the_location_has_the_prefix_of_the_proxy() {
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!("server: {{public_url: 'http://{listen}/store'}}");
    let service = Service::start_configured(&config).await;
    let http = format!(
        "access_log off; server {{ listen {listen}; location /store/ {{ proxy_pass http://{}/; }} }}",
        service.address
    );
    let nginx = Nginx::start_with_config(listen, &http).await;
    let api = Api::new(nginx.address).with_key(service.key().unwrap());
    let url = upload_to_location(&api, "/store").await;
    assert!(url.starts_with(&format!("http://{listen}/store/tus/")), "{url}");
}
