use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::support::{Service, content, eventually};

/// An OTLP collector that keeps the traces it receives.
struct Collector {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, bodies) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let kept = bodies.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, kept.clone()));
            }
        });
        Self { address, bodies }
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn text(&self) -> String {
        self.bodies.lock().unwrap().concat()
    }

    /// All received spans.
    fn spans(&self) -> Vec<Value> {
        let all = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
        let mut spans = Vec::new();
        for body in self.bodies.lock().unwrap().iter() {
            let body: Value = serde_json::from_str(body).unwrap();
            for resource in all(&body, "resourceSpans") {
                let name = attribute(&resource["resource"], "service.name");
                assert_eq!(name.as_deref(), Some("osproxy"), "{resource}");
                spans.extend(all(&resource, "scopeSpans").iter().flat_map(|scope| all(scope, "spans")));
            }
        }
        spans
    }

    /// The only span of this name.
    fn span(&self, name: &str) -> Value {
        let spans = self.spans();
        let named: Vec<_> = spans.iter().filter(|span| span["name"] == name).collect();
        assert_eq!(
            named.len(),
            1,
            "{name} among {:?}",
            spans.iter().map(|span| &span["name"]).collect::<Vec<_>>()
        );
        named[0].clone()
    }
}

async fn serve(stream: TcpStream, kept: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut line) = (String::new(), String::new());
        while stream.read_line(&mut line).await.is_ok_and(|read| read > 2) {
            head += &std::mem::take(&mut line).to_lowercase();
        }
        if head.is_empty() {
            return;
        }
        assert!(head.starts_with("post /v1/traces "), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        let length = head.split("content-length:").nth(1).unwrap().lines().next().unwrap();
        let mut body = vec![0; length.trim().parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        kept.lock().unwrap().push(String::from_utf8(body).unwrap());
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
    }
}

/// An attribute as text.
fn attribute(of: &Value, name: &str) -> Option<String> {
    let found = of["attributes"].as_array()?.iter().find(|attribute| attribute["key"] == name)?;
    let value = found["value"].as_object()?.values().next()?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// As another service would send it.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

async fn traced(service: &Service, url: &str) {
    let request = service.client().get(service.url(url)).header("x-request-id", "of-the-trace");
    let answer = request.header("traceparent", format!("00-{TRACE}-{PARENT}-01")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap();
}

#[tokio::test]
async fn requests_and_tasks_are_spans_that_belong_to_the_trace_of_their_client() {
    let collector = Collector::start().await;
    let mut service = Service::start_with(&[("TELEMETRY__OTLP_ENDPOINT", &collector.endpoint())]).await;
    let link = service.upload_link("x.bin").await;
    let bytes = content(1, 50_000);
    service.put_parts(&link, &[&bytes[..20_000], &bytes[20_000..]]).await;
    service.merge(&link, 2, &bytes).await;
    service.wait_until_merged(&link.uid).await;
    let download = service.download_link(&link.uid).await.unwrap().url;
    traced(&service, &download).await;
    service.get(&download.replace("signature=", "signature=0")).await;
    eventually("all requests are logged", async || {
        (service.log().matches("served").count() >= 7).then_some(())
    })
    .await;
    // The remaining spans are exported at shutdown.
    service.signal(Signal::TERM);
    assert_eq!(service.exit_status().await.code(), Some(0));

    let route = "/api/storage/v0/download";
    let spans = collector.spans();
    let downloads: Vec<_> = spans.iter().filter(|span| span["name"] == format!("GET {route}")).collect();
    assert_eq!(downloads.len(), 2);
    let of_trace = downloads.iter().find(|span| span["traceId"] == TRACE).expect("the trace is cut");
    assert_eq!(of_trace["parentSpanId"], PARENT);
    assert_eq!(of_trace["kind"], 2, "{of_trace}");
    for (name, value) in [
        ("request_id", "of-the-trace"),
        ("http.request.method", "GET"),
        ("http.route", route),
        ("http.response.status_code", "200"),
        ("osproxy.uid", &link.uid),
    ] {
        assert_eq!(attribute(of_trace, name).as_deref(), Some(value), "{name} of {of_trace}");
    }
    let refused = downloads.iter().find(|span| span["traceId"] != TRACE).unwrap();
    assert_eq!(attribute(refused, "error.type").as_deref(), Some("invalid_signature"), "{refused}");
    let merge = collector.span("task merge_parts");
    assert_eq!(attribute(&merge, "attempt").as_deref(), Some("1"), "{merge}");
    let nanos = |name: &str| merge[name].as_str().unwrap().parse::<u64>().unwrap();
    assert!(nanos("startTimeUnixNano") < nanos("endTimeUnixNano"));
    collector.span(&format!("PUT {}", "/api/storage/v0/upload/merge"));

    let sent = collector.text();
    let signature = download.split("signature=").nth(1).unwrap().split('&').next().unwrap();
    for secret in [signature, signature.split('.').nth(1).unwrap(), "signature=", "expire=", "x.bin"] {
        assert!(!sent.contains(secret), "{secret} was exported");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nothing_up() {
    // No collector listens there.
    let away = [("TELEMETRY__OTLP_ENDPOINT", "http://127.0.0.1:1")];
    let mut service = Service::start_with(&away).await;
    let uid = service.store("x.bin", b"x").await;
    assert_eq!(service.read(&uid).await, b"x");
    let start = std::time::Instant::now();
    service.signal(Signal::TERM);
    assert_eq!(service.exit_status().await.code(), Some(0));
    assert!(start.elapsed().as_secs() < 10, "the shutdown took {:?}", start.elapsed());
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_request_that_is_forwarded_stays_one_trace() {
    let collector = Collector::start().await;
    let settings = [("TELEMETRY__OTLP_ENDPOINT", &*collector.endpoint())];
    let mut one = Service::start_on("OSPROXY_TEST_POSTGRES", &settings).await;
    let mut two = one.start_second_node(&settings).await;
    let uid = one.store("x.bin", b"x").await;
    let download = two.download_link(&uid).await.unwrap().url;
    traced(&two, &download).await;
    for service in [&mut one, &mut two] {
        service.signal(Signal::TERM);
        assert_eq!(service.exit_status().await.code(), Some(0));
    }
    let spans = collector.spans();
    let of_trace: Vec<_> = spans.iter().filter(|span| span["traceId"] == TRACE).collect();
    assert_eq!(of_trace.len(), 2, "{of_trace:#?}");
    let first = of_trace.iter().find(|span| span["parentSpanId"] == PARENT).expect("no span is the client's");
    assert!(of_trace.iter().any(|span| span["parentSpanId"] == first["spanId"]), "{of_trace:#?}");
    assert!(of_trace.iter().all(|span| attribute(span, "request_id").as_deref() == Some("of-the-trace")));
}
