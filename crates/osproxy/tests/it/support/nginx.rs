use std::{net::SocketAddr, path::Path, process::Stdio};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use super::eventually;

/// An nginx of its own with the configuration that is shipped, in front of nodes. Dropped, it is killed.
pub struct Nginx {
    pub address: SocketAddr,
    /// Its master; the workers end with it.
    process: Child,
    folder: TempDir,
}

const SHIPPED: &str = include_str!("../../../../../deploy/nginx/osproxy.conf");

impl Nginx {
    pub async fn start(address: &str, nodes: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("nginx.conf"), configuration(folder.path(), address, nodes))
            .unwrap();
        let process = Command::new("nginx")
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap()))
            .arg("-p")
            .arg(folder.path())
            .args(["-c", "nginx.conf", "-e", "error.log"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("nginx is missing: run this by `just test-servers`");
        let nginx = Self { address: address.parse().unwrap(), process, folder };
        let there = async || TcpStream::connect(nginx.address).await.ok();
        eventually("nginx listens", there).await;
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Killed outright, the master would leave its workers behind.
        if let Some(id) = self.process.id().and_then(|id| i32::try_from(id).ok())
            && let Some(id) = rustix::process::Pid::from_raw(id)
        {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        if std::thread::panicking() {
            // Why it told a client that it cannot reach a node.
            println!("{}", std::fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default());
        }
    }
}

/// What is shipped, with these nodes and this listener, and with everything that nginx writes in the folder.
fn configuration(folder: &Path, address: &str, nodes: &[SocketAddr]) -> String {
    let mut nodes = nodes.iter();
    let mut replaced = |line: &str| {
        let trimmed = line.trim();
        if trimmed.starts_with("server 127.0.0.1:") {
            let rest = trimmed.splitn(3, ' ').nth(2).unwrap();
            nodes.next().map_or_else(String::new, |node| format!("server {node} {rest}\n"))
        } else if trimmed.starts_with("listen ") {
            format!("listen {address};\n")
        } else {
            format!("{line}\n")
        }
    };
    let http: String = SHIPPED.lines().map(&mut replaced).collect();
    assert!(nodes.next().is_none(), "the configuration has fewer nodes");
    // Workers give up root's rights, and with them the way into the folder, unless they are told not to.
    let user = if rustix::process::geteuid().is_root() { "user root root;" } else { "" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|module| format!("{module}_temp_path {}/{module};\n", folder.display()))
        .concat();
    format!(
        "daemon off;\n{user}\nworker_processes 1;\npid nginx.pid;\nevents {{ worker_connections 1024; }}\n\
         http {{\naccess_log off;\n{temporary}{http}}}\n"
    )
}
