//! Bytes that change on the way to a store are noticed before the client gets its answer.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::{Body, Response};
use serde_json::json;

use crate::support::{Fault, FaultyProxy, Service, Store, StoreServer, content};

const PART: usize = 8 << 20;
const SERVERS: [StoreServer; 4] = [StoreServer::S3, StoreServer::S3Parts, StoreServer::Cos, StoreServer::Oss];

/// How content arrives, and where one bit is flipped on its way to the store.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// With a known length, in one request.
    Whole,
    /// The same over API v0, which always computes an MD5.
    OverV0,
    /// In parts of a multipart upload.
    Parts,
    /// With an unknown length.
    Chunked,
}

struct Upload {
    way: Way,
    size: usize,
    flip: u64,
    /// Whether osproxy still has the damaged bytes, and repeats the request on its own.
    is_healed: bool,
}

const UPLOADS: [Upload; 6] = [
    Upload { way: Way::Whole, size: 100_000, flip: 99_999, is_healed: true },
    Upload { way: Way::Whole, size: 3_000_000, flip: 2_000_000, is_healed: false },
    Upload { way: Way::OverV0, size: 3_000_001, flip: 3_000_000, is_healed: false },
    Upload { way: Way::Parts, size: PART + 1_000, flip: 4_000_000, is_healed: false },
    Upload { way: Way::Chunked, size: 300_000, flip: 0, is_healed: true },
    Upload { way: Way::Chunked, size: 20_000_000, flip: 8_000_000, is_healed: true },
];

fn chunked(bytes: &[u8]) -> Body {
    let chunks: Vec<_> =
        bytes.chunks(70_000).map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk))).collect();
    Body::wrap_stream(stream::iter(chunks).boxed())
}

/// Returns the uid of an upload and the URL of its content or first part.
async fn begin(service: &Service, way: Way, size: usize) -> (String, String) {
    if matches!(way, Way::OverV0) {
        let link = service.upload_link("x.bin").await;
        return (link.uid, link.url.single);
    }
    let wish = match way {
        Way::Parts => json!({"name": "x.bin", "size": size, "part_size": PART}),
        _ => json!({"name": "x.bin"}),
    };
    let upload = service.create_upload(&wish).await;
    let links = upload.links.unwrap();
    let url = if matches!(way, Way::Parts) { links.part.replace("{number}", "1") } else { links.content };
    (upload.uid, url)
}

async fn send(service: &Service, way: Way, url: &str, bytes: &[u8]) -> Response {
    let body = match way {
        Way::Chunked => chunked(bytes),
        Way::Parts => Body::from(bytes[..PART].to_vec()),
        Way::Whole | Way::OverV0 => Body::from(bytes.to_vec()),
    };
    service.client().put(service.url(url)).body(body).send().await.unwrap()
}

async fn a_flipped_bit_is_noticed(server: StoreServer) {
    let store = Store::new(server);
    let wire = FaultyProxy::start(store.address(), 1).await;
    let mut service = Service::start_on_store(&store, Some(&wire), &[]).await;
    // In the second round, the store has already shown which checksums its answers carry.
    for round in 0..2 {
        for (number, Upload { way, size, flip, is_healed }) in (0..).zip(UPLOADS) {
            let case = format!("{server:?}, round {round}: {way:?} of {size}");
            let bytes = content(100 * round + number, size);
            let (uid, url) = begin(&service, way, size).await;
            wire.plan_fault("PUT", Fault::FlipBit(flip));
            let answer = send(&service, way, &url, &bytes).await;
            let expected = if is_healed { [200, 201] } else { [503, 503] };
            assert!(expected.contains(&answer.status().as_u16()), "{case}: {}", answer.status());
            if !is_healed {
                assert!(answer.headers().contains_key("retry-after"), "{case}");
                assert!(send(&service, way, &url, &bytes).await.status().is_success(), "{case}: repeated");
            }
            assert!(wire.faults().1.contains(&Fault::FlipBit(flip)), "{case}: nothing was flipped");
            if !matches!(way, Way::Parts) {
                assert!(service.read(&uid).await == bytes, "{case}");
            }
        }
    }
    service.wait_for_log("the store received different bytes than were sent").await;
    service.kill().await;
    service.restart().await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_bit_that_flips_on_the_way_to_a_store_is_noticed_before_the_client_is_told() {
    futures_util::future::join_all(SERVERS.map(a_flipped_bit_is_noticed)).await;
}
