use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What a proxy does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Passes everything on.
    Whole,
    /// Breaks connections, and new ones as soon as they are made.
    Cut,
    /// Passes nothing on, and tells nobody: a pulled cable.
    Silent,
}

/// A TCP proxy that a test can break.
pub struct Proxy {
    pub address: SocketAddr,
    line: Arc<watch::Sender<Line>>,
}

impl Proxy {
    /// Stands in front of a server.
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let line = Arc::new(watch::Sender::new(Line::Whole));
        let state = line.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target.clone(), state.subscribe()));
            }
        });
        Self { address, line }
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

async fn pass(mut client: TcpStream, target: String, mut line: watch::Receiver<Line>) {
    // While it is silent nothing is even accepted by the server behind.
    if line.wait_for(|line| *line != Line::Silent).await.is_err() || *line.borrow() == Line::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(&target).await else {
        return;
    };
    let broken = async { line.wait_for(|line| *line != Line::Whole).await.map_or(Line::Cut, |line| *line) };
    let became = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => Line::Cut,
        became = broken => became,
    };
    if became == Line::Silent {
        // Held open, and never of use again.
        std::future::pending::<()>().await;
    }
}
