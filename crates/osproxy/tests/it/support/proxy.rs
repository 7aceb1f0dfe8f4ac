use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// The mode of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// Forwards everything.
    Forward,
    /// Closes all connections. Closes new connections immediately.
    Close,
    /// Forwards nothing and closes nothing, like an unplugged network cable.
    Stall,
}

/// A TCP proxy that a test can break.
pub struct Proxy {
    pub address: SocketAddr,
    line: Arc<watch::Sender<ProxyMode>>,
}

impl Proxy {
    /// Starts a proxy in front of a server.
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let line = Arc::new(watch::Sender::new(ProxyMode::Forward));
        let state = line.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target.clone(), state.subscribe()));
            }
        });
        Self { address, line }
    }

    pub fn set(&self, line: ProxyMode) {
        self.line.send_replace(line);
    }
}

async fn pass(mut client: TcpStream, target: String, mut line: watch::Receiver<ProxyMode>) {
    // While the proxy stalls, it does not open connections to the server.
    if line.wait_for(|line| *line != ProxyMode::Stall).await.is_err() || *line.borrow() == ProxyMode::Close {
        return;
    }
    let Ok(mut server) = TcpStream::connect(&target).await else {
        return;
    };
    let broken = async {
        line.wait_for(|line| *line != ProxyMode::Forward).await.map_or(ProxyMode::Close, |line| *line)
    };
    let became = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => ProxyMode::Close,
        became = broken => became,
    };
    if became == ProxyMode::Stall {
        // The connection stays open, and is never used again.
        std::future::pending::<()>().await;
    }
}
