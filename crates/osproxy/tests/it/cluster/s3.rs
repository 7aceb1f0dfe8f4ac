//! The S3 API of nodes with local disks: any node can be asked.

use std::net::SocketAddr;

use super::forwarding::{QUICK, SERVER};
use crate::{
    s3_api::listener_address,
    support::{S3Answer, S3Key, S3Request, Service, content},
};

const MIB: usize = 1 << 20;

/// A client that sends each request to the node that it names.
struct Client {
    nodes: [SocketAddr; 2],
    key: S3Key,
}

impl Client {
    async fn send(
        &self,
        node: usize,
        method: &'static str,
        path: &str,
        query: &str,
        body: &[u8],
    ) -> S3Answer {
        let mut request = S3Request::get(self.nodes[node], path);
        (request.method, request.query, request.body) = (method, query.to_owned(), body.to_vec());
        request.send(self.nodes[node], &self.key).await
    }

    async fn read(&self, node: usize, path: &str) -> Vec<u8> {
        let answer = self.send(node, "GET", path, "", b"").await;
        assert_eq!(answer.status, 200, "{}", answer.element("Code"));
        answer.body().to_vec()
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn any_node_can_be_asked() {
    let settings = [
        ("S3_API__LISTEN", "127.0.0.1:0"),
        ("S3_API__MASTER_KEY", "a-master-key-for-both-nodes-of-this-test"),
    ];
    let settings = [&settings[..], &QUICK].concat();
    let mut one = Service::start_on(SERVER, &settings).await;
    let mut two = one.start_second_node(&settings).await;
    let nodes = [listener_address(&one, 1).await, listener_address(&two, 1).await];
    let client = Client { nodes, key: S3Key::create(&one, &["--tenant", "shop"]).await };
    assert_eq!(client.send(0, "PUT", "/films", "", b"").await.status, 200);

    let bytes = content(1, 300_000);
    assert_eq!(client.send(0, "PUT", "/films/whole", "", &bytes).await.status, 200);
    for node in [0, 1] {
        assert!(client.read(node, "/films/whole").await == bytes, "node {node}");
        let mut request = S3Request::get(nodes[node], "/films/whole").header("range", "bytes=100-199");
        let part = request.send(nodes[node], &client.key).await;
        assert_eq!((part.status, part.body()), (206, &bytes[100..200]), "node {node}");
        // The signature is checked by the node with the bytes too.
        request.path = "/films/other".to_owned();
        let (head, body) = request.sign(&client.key);
        let forged =
            crate::support::send_s3(nodes[node], head.replace("other", "whole").as_bytes(), &body).await;
        assert_eq!(forged.outcome(), (403, "SignatureDoesNotMatch"));
    }

    // The node that receives the first part has all of them.
    let begun = client.send(1, "POST", "/films/parts", "uploads=", b"").await;
    let id = begun.element("UploadId");
    let parts = [content(2, 5 * MIB), content(3, 5 * MIB), content(4, 1000)];
    let mut list = Vec::new();
    for (number, part) in (1..).zip(&parts) {
        let query = format!("partNumber={number}&uploadId={id}");
        let sent = client.send(number % 2, "PUT", "/films/parts", &query, part).await;
        assert_eq!(sent.status, 200, "{}", sent.text);
        let etag = sent.header("etag");
        list.push(format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"));
    }
    let list = format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", list.concat());
    let query = format!("uploadId={id}");
    let completed = client.send(0, "POST", "/films/parts", &query, list.as_bytes()).await;
    assert_eq!(completed.status, 200, "{}", completed.text);
    for node in [0, 1] {
        assert!(client.read(node, "/films/parts").await == parts.concat(), "node {node}");
    }
    // A node that is gone cannot be asked.
    one.kill().await;
    let answer = client.send(1, "GET", "/films/whole", "", b"").await;
    assert_eq!(answer.outcome(), (503, "ServiceUnavailable"));
    one.restart().await;
    for node in [&mut one, &mut two] {
        node.assert_consistent().await;
    }
}
