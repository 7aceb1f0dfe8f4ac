//! Keeps the accept queue empty while the listener is about to close. ADR 28 has the measurements.

use tokio::net::TcpListener;

/// Drops new SYNs, so that the accept queue is empty when the listener closes. Otherwise the kernel
/// would reset the connections in the queue, and a proxy that has already sent part of a body could
/// not retry the request on another node. A client whose SYN was dropped sends it again and is
/// refused cleanly.
#[cfg(target_os = "linux")]
pub(super) fn drop_new_handshakes(listener: &TcpListener) {
    use socket2::{SockFilter, SockRef};

    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const FLAGS: u32 = 13;
    const SYN: u32 = 2;
    // Classic BPF: drops segments with the SYN flag, accepts all others.
    let filter = [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    if let Err(error) = SockRef::from(listener).attach_filter(&filter) {
        tracing::debug!(%error, "cannot block new handshakes; connections that arrive during shutdown may be reset");
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn drop_new_handshakes(_listener: &TcpListener) {}
