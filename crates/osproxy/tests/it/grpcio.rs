//! An independent gRPC client: Python's grpcio, with code generated from our proto files.

use std::{path::Path, process::Stdio, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::{Service, eventually};

/// Timeout of scenarios that move several GiB.
const LONG: Duration = Duration::from_mins(5);

/// A certificate authority with a server and a client certificate, as files `NAME.pem` and
/// `NAME.key` in a folder.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let (folder, key) = (tempfile::tempdir().unwrap(), KeyPair::generate().unwrap());
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let authority = Self { folder, issuer: Issuer::new(params, key) };
        authority.certify("server");
        authority.certify("client");
        authority
    }

    /// Creates a new certificate and key of this name.
    fn certify(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.file(name, "key"), key.serialize_pem()).unwrap();
        std::fs::write(self.file(name, "pem"), certificate.pem()).unwrap();
    }

    fn file(&self, name: &str, extension: &str) -> String {
        self.folder.path().join(format!("{name}.{extension}")).to_str().unwrap().to_owned()
    }

    fn ca(&self) -> String {
        self.file("ca", "pem")
    }

    /// What a client needs: the trusted authority, its own certificate and key.
    fn client(&self, trusted: &Self) -> [String; 3] {
        [trusted.ca(), self.file("client", "pem"), self.file("client", "key")]
    }
}

fn python() -> String {
    std::env::var("OSPROXY_TEST_PYTHON").expect("run this by `just test-servers`")
}

/// Runs a scenario of the script, which must succeed.
async fn run(scenario: &str, address: &str, key: &str, files: &[String]) {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut script = Command::new(python());
    script.arg(tests.join("tests/it/grpcio.py")).arg(tests.join("../osproxy-api/proto"));
    script.args([scenario, address, key]).args(files).kill_on_drop(true);
    let output = script.stdin(Stdio::null()).output();
    let output = tokio::time::timeout(LONG, output).await.expect("the script does not end").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{scenario}: {said}");
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_gigabyte_is_sent_cut_resumed_and_read_over_tls() {
    let authority = Authority::new();
    let (cert, tls_key) = (authority.file("server", "pem"), authority.file("server", "key"));
    let mut service = Service::start_with(&[("TLS__CERT", &cert), ("TLS__KEY", &tls_key)]).await;
    let key = service.create_key(&[]).await;
    let before = service.peak_memory();
    run("transfer", &service.address.to_string(), &key, &[authority.ca()]).await;
    let grown = service.peak_memory() - before;
    assert!(grown < 96 << 20, "{grown}");
    service.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn errors_health_and_reflection_are_those_of_the_standards() {
    let service = Service::start().await;
    let (key, address) = (service.create_key(&[]).await, service.address.to_string());
    run("errors", &address, &key, &[]).await;
    run("standards", &address, &key, &[]).await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn the_guide_does_what_it_says() {
    let service = Service::start().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let guide = std::fs::read_to_string(root.join("docs/guides/grpc.md")).unwrap();
    let block = |language: &str| {
        guide.split(&format!("```{language}\n")).nth(1).unwrap().split("```").next().unwrap()
    };
    let compile = block("sh").lines().skip(1).collect::<Vec<_>>().join("\n");
    let compile = compile
        .replace("python ", &format!("{} ", python()))
        .replace("_out=.", &format!("_out={}", service.folder().display()));
    let program = block("python").replace("127.0.0.1:8888", &service.address.to_string());
    let program = program.replace("Bearer KEY", &format!("Bearer {}", service.create_key(&[]).await));
    std::fs::write(service.folder().join("guide.py"), program).unwrap();
    let script = format!("set -e\n{compile}\nexec {} {}/guide.py", python(), service.folder().display());
    let output = Command::new("sh").args(["-c", &script]).current_dir(root).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "4\n", "the file is not stored");
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn only_clients_with_a_certificate_are_let_in_where_one_is_asked_for() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let [cert, tls_key] = ["pem", "key"].map(|extension| ours.file("server", extension));
    let ca = ours.ca();
    let settings = [
        ("GRPC__LISTEN", "127.0.0.1:0"),
        ("GRPC__TLS__CERT", &cert),
        ("GRPC__TLS__KEY", &tls_key),
        ("GRPC__TLS__CLIENT_CA", &ca),
    ];
    let service = Service::start_with(&settings).await;
    let key = service.create_key(&[]).await;
    let address = service.logged_address("gRPC listener started").await.to_string();
    run("errors", &address, &key, &ours.client(&ours)).await;
    // Without TLS, without a client certificate, with one of another authority, and by a client
    // that does not trust the service.
    run("refused", &address, &key, &[]).await;
    run("refused", &address, &key, &[ours.ca()]).await;
    run("refused", &address, &key, &theirs.client(&ours)).await;
    run("refused", &address, &key, &ours.client(&theirs)).await;
    // HTTP is served without TLS, as configured.
    assert_eq!(service.get("/health/live").await.status(), 200);
    // The trusted authority and the certificate are reloaded while the service runs.
    std::fs::copy(theirs.ca(), ours.ca()).unwrap();
    for extension in ["key", "pem"] {
        std::fs::copy(theirs.file("server", extension), ours.file("server", extension)).unwrap();
    }
    let exchanged = async || service.log().contains("reloaded the TLS certificate").then_some(());
    eventually("the certificates are reloaded", exchanged).await;
    run("errors", &address, &key, &theirs.client(&theirs)).await;
    run("refused", &address, &key, &ours.client(&theirs)).await;
}
