use std::{net::SocketAddr, path::Path, process::Stdio};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use super::eventually;

/// An nginx in front of nodes, with a shipped configuration or one of the test. Stopped on drop.
pub struct Nginx {
    pub address: SocketAddr,
    /// The address at which nginx accepts gRPC.
    pub grpc: SocketAddr,
    /// The master process.
    process: Child,
    folder: TempDir,
}

/// Ports in the shipped configurations.
const PORTS: [&str; 3] = ["8880", "8890", "8443"];

impl Nginx {
    /// Starts nginx without TLS. `host` is the address on which nginx listens.
    pub async fn start(host: &str, nodes: &[SocketAddr]) -> Self {
        Self::start_with("osproxy.conf", None, host, nodes).await
    }

    /// Starts nginx with TLS. `certificate` is the folder with the certificate and the key. `host`
    /// is the address on which nginx listens.
    pub async fn start_secured(certificate: &Path, host: &str, nodes: &[SocketAddr]) -> Self {
        Self::start_with("osproxy-https.conf", Some(certificate), host, nodes).await
    }

    /// Starts nginx with this content of `http {}`, on a free port. `LISTEN` is replaced with the
    /// address of nginx.
    pub async fn start_configured(http: &str) -> Self {
        // A port that was free a moment ago.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let http = http.replace("LISTEN", &address.to_string());
        Self::start_with_config(address, &format!("access_log off;\n{http}")).await
    }

    /// The folder to which relative paths in the configuration of nginx refer.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    async fn start_with(file: &str, certificate: Option<&Path>, host: &str, nodes: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        configure(folder.path(), file, certificate, host, nodes);
        let at = |port: &str| format!("{host}:{port}").parse().unwrap();
        let (address, grpc) =
            if certificate.is_some() { (at("8443"), at("8443")) } else { (at("8880"), at("8890")) };
        Self::run(folder, address, grpc).await
    }

    /// Starts nginx with this content of `http {}`, which must listen at `address`.
    pub async fn start_with_config(address: SocketAddr, text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("written.conf"), text).unwrap();
        write_main(folder.path(), "written.conf");
        Self::run(folder, address, address).await
    }

    async fn run(folder: TempDir, address: SocketAddr, grpc: SocketAddr) -> Self {
        let process = Command::new("nginx")
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap()))
            .arg("-p")
            .arg(folder.path())
            .args(["-c", "nginx.conf", "-e", "error.log"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("nginx is missing: run this by `just test-servers`");
        let nginx = Self { address, grpc, process, folder };
        let there = async || TcpStream::connect(nginx.address).await.ok();
        eventually("nginx listens", there).await;
        nginx
    }

    /// The access log of nginx.
    pub fn access_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap()
    }

    /// The error log of nginx. It also contains warnings, such as about bodies that nginx buffered
    /// in files.
    pub fn error_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("error.log")).unwrap()
    }

    /// The peak memory of the worker process of nginx so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let master = self.process.id().unwrap();
        let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
        super::peak_memory(children.split_whitespace().next().unwrap().parse().unwrap())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Use SIGTERM: after SIGKILL of the master process, the workers would continue to run.
        if let Some(id) = self.process.id().and_then(|id| i32::try_from(id).ok())
            && let Some(id) = rustix::process::Pid::from_raw(id)
        {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        if std::thread::panicking() {
            // The error log shows why a node could not be reached.
            println!("{}", self.error_log());
        }
    }
}

/// Copies the shipped configuration into the folder. In the copy, nginx forwards to `nodes`,
/// listens at `host`, and writes its logs into the folder.
fn configure(folder: &Path, file: &str, certificate: Option<&Path>, host: &str, nodes: &[SocketAddr]) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nginx");
    std::fs::create_dir(folder.join("osproxy")).unwrap();
    for name in ["osproxy/nodes.conf", "osproxy/upstreams.conf", "osproxy/server.conf", file] {
        let mut text = std::fs::read_to_string(shipped.join(name)).unwrap();
        for (number, node) in (1..).zip(nodes) {
            text = text.replace(&format!("osproxy{number}:8888"), &node.to_string());
        }
        for port in PORTS {
            text = text.replace(&format!("listen {port}"), &format!("listen {host}:{port}"));
        }
        text = text.replace("/var/log/nginx/", "");
        if let Some(certificate) = certificate {
            text = text.replace("/etc/osproxy/tls", certificate.to_str().unwrap());
        }
        std::fs::write(folder.join(name), text).unwrap();
    }
    write_main(folder, file);
}

/// Writes the main configuration, which includes `file`.
fn write_main(folder: &Path, file: &str) {
    // By default, workers give up the rights of root, and could not read the folder.
    let user = if rustix::process::geteuid().is_root() { "user root root;" } else { "" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|module| format!("{module}_temp_path {}/{module};\n", folder.display()))
        .concat();
    let main = format!(
        "daemon off;\n{user}\nworker_processes 1;\nerror_log error.log warn;\npid nginx.pid;\nevents {{ worker_connections 1024; }}\n\
         http {{\n{temporary}include {file};\n}}\n"
    );
    std::fs::write(folder.join("nginx.conf"), main).unwrap();
}
