//! nginx with sendfile: the peer of downloads, and of uploads if nginx was built with its module
//! for uploads.

use std::{
    fs::{self, File},
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    content::Variant,
    measure,
    server::{Process, drop_page_cache},
};

/// Where the binary may be. `/usr/sbin` is often missing in the `PATH` of ordinary users.
const PLACES: [&str; 2] = ["nginx", "/usr/sbin/nginx"];
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Nginx {
    process: Process,
    address: SocketAddr,
    files: PathBuf,
}

impl Nginx {
    /// Starts an nginx that serves `<folder>/nginx/files`.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let prefix = folder.join("nginx");
        let files = prefix.join("files");
        fs::create_dir_all(&files)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = prefix.join("nginx.conf");
        fs::write(&config, configuration(&prefix, address))?;
        let spawn = |place| {
            let mut command = Command::new(place);
            command.arg("-p").arg(&prefix).arg("-c").arg(&config).arg("-e").arg(prefix.join("error.log"));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        };
        let child = PLACES.into_iter().find_map(|place| spawn(place).ok());
        let process = Process(child.context("nginx is missing: apt-get install nginx")?);
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            ensure!(
                start.elapsed() < PATIENCE,
                "nginx does not start: {}",
                fs::read_to_string(prefix.join("error.log")).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { process, address, files })
    }

    /// Ids of the master process and of its workers.
    pub(crate) fn ids(&self) -> Result<Vec<u32>> {
        let master = self.process.0.id();
        let mut ids = measure::children(master)?;
        ids.push(master);
        Ok(ids)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds a file, and returns its URL path.
    pub(crate) fn add(&self, name: &str, content: &Variant<'_>) -> Result<String> {
        let mut file = File::create(self.files.join(name))?;
        file.write_all(content.first())?;
        file.write_all(content.rest())?;
        file.sync_all()?;
        Ok(format!("/{name}"))
    }

    /// Whether the nginx of this machine accepts files by PUT.
    pub(crate) fn accepts_uploads() -> bool {
        let said = PLACES.into_iter().find_map(|place| Command::new(place).arg("-V").output().ok());
        said.is_some_and(|said| String::from_utf8_lossy(&said.stderr).contains("http_dav_module"))
    }

    /// Drops the content of every file from the page cache.
    pub(crate) fn drop_page_cache(&self) -> Result<()> {
        drop_page_cache(&self.files)
    }
}

/// Matches Debian's defaults where it matters. nginx logs requests to a file, because osproxy logs
/// them too.
fn configuration(prefix: &Path, address: SocketAddr) -> String {
    // If root starts nginx, workers change to another user by default, who cannot read the folder.
    let user = if rustix::process::geteuid().is_root() { "user root root;" } else { "" };
    // Like osproxy, nginx writes a file under a temporary name and renames it.
    let put = if Nginx::accepts_uploads() { "dav_methods PUT; client_max_body_size 0;" } else { "" };
    let prefix = prefix.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|module| format!("    {module}_temp_path {prefix}/{module};\n"))
        .concat();
    format!(
        "daemon off;
{user}
worker_processes 2;
pid {prefix}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
{temporary}    access_log {prefix}/access.log;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    server {{
        listen {address};
        root {prefix}/files;
        {put}
    }}
}}
"
    )
}
