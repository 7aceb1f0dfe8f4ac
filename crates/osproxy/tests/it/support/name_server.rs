use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{net::UdpSocket, task::JoinHandle};

use super::Random;

/// Length of the header of a message, in bytes.
const HEADER: usize = 12;
const TYPE_A: u16 = 1;

/// A name server. Never answers questions about names that begin with `dead`.
pub struct NameServer {
    address: Ipv4Addr,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    serving: JoinHandle<()>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl NameServer {
    /// Starts a server that knows the addresses of these names, and no others.
    pub async fn start(names: &'static [(&'static str, Ipv4Addr)]) -> Self {
        // Clients always use this port, so each test has another address.
        let bytes = Random::new(std::process::id().into()).below(1 << 16).to_be_bytes();
        let address = Ipv4Addr::new(127, 53, bytes[6], bytes[7]);
        let socket = UdpSocket::bind(SocketAddr::from((address, 53))).await.unwrap();
        let asked: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let log = asked.clone();
        let serving = tokio::spawn(async move {
            let mut question = [0; 512];
            loop {
                let (length, client) = socket.recv_from(&mut question).await.unwrap();
                let (name, answer) = answer(&question[..length], names);
                *log.lock().unwrap().entry(name.clone()).or_default() += 1;
                if !name.starts_with("dead") {
                    socket.send_to(&answer, client).await.unwrap();
                }
            }
        });
        Self { address, asked, serving }
    }

    /// A file `resolv.conf` by which clients wait half a minute for this server.
    pub fn resolv_conf(&self) -> String {
        format!("nameserver {}\noptions timeout:30 attempts:1\n", self.address)
    }

    /// How often each name was asked for, by the beginning of the names. Clients ask twice at once:
    /// for addresses of IPv4 and of IPv6.
    pub fn asked(&self, beginning: &str) -> Vec<usize> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(name, _)| name.starts_with(beginning)).map(|(_, times)| *times).collect()
    }
}

/// Returns the name in a question, and the answer.
fn answer(question: &[u8], names: &[(&str, Ipv4Addr)]) -> (String, Vec<u8>) {
    let (mut labels, mut at) = (Vec::new(), HEADER);
    while question[at] > 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8(question[at + 1..end].to_vec()).unwrap());
        at = end;
    }
    let (name, end) = (labels.join("."), at + 5);
    let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
    let known = names.iter().find(|(known, _)| *known == name);
    let address = known.filter(|_| kind == TYPE_A).map(|(_, address)| address.octets());
    // A response with recursion; without such a name, the code 3.
    let code = if known.is_some() { 0 } else { 3 };
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    answer.extend(&question[HEADER..end]);
    if let Some(address) = address {
        // The name in the question, type and class, a minute, and the address.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address);
    }
    (name, answer)
}
