//! Responses that the servers of the test script never send: responses that are too large, and an
//! error in response to every request.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    ClientSettings,
    backends::{S3Settings, open_s3},
};

/// Returns a store whose server answers every request with the same status and body, and a counter
/// of the requests.
async fn store_that_answers(status: u16, body: String) -> (HttpStore<S3>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = S3Settings {
        endpoint: format!("http://{}", listener.local_addr().unwrap()),
        region: "us-east-1".to_owned(),
        bucket: Some("bucket".to_owned()),
        path_style: true,
        credentials: Some(("id".to_owned(), "secret".to_owned(), None)),
        http: ClientSettings::default(),
    };
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let (response, requests) = (Bytes::from(head + &body), Arc::new(AtomicUsize::new(0)));
    let counter = requests.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(answer(connection, response.clone()));
        }
    });
    (open_s3(settings).unwrap(), requests)
}

/// Reads one request and sends the response.
async fn answer(mut connection: TcpStream, response: Bytes) {
    let mut request = Vec::new();
    let missing = loop {
        if connection.read_buf(&mut request).await.unwrap() == 0 {
            return;
        }
        let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        break (end + 4 + length.unwrap_or(0)).saturating_sub(request.len());
    };
    let mut body = vec![0; missing];
    if connection.read_exact(&mut body).await.is_ok() {
        // The client may close the connection before it has read the whole response.
        let _ = connection.write_all(&response).await;
    }
}

#[tokio::test]
async fn a_document_that_is_too_large_is_an_error() {
    let part = "<Part><PartNumber>7</PartNumber><ETag>x</ETag></Part>";
    let document = |comment: usize| {
        let comment = "x".repeat(comment);
        format!("<ListPartsResult>{part}<!--{comment}--><IsTruncated>false</IsTruncated></ListPartsResult>")
    };
    let (store, _) = store_that_answers(200, document(7 << 20)).await;
    let uploads = store.multipart().unwrap();
    assert_eq!(uploads.list_parts(&key("unknown/1"), "id").await.unwrap(), [(7, "x".to_owned())]);

    let (store, _) = store_that_answers(200, document(8 << 20)).await;
    let uploads = store.multipart().unwrap();
    let listed = uploads.list_parts(&key("unknown/1"), "id").await.unwrap_err();
    assert!(full_text(&listed).contains("too large"), "{listed:?}");
    assert!(!listed.retryable);
    // The result comes first, so that the beginning of the response looks complete.
    let result = format!("<CompleteMultipartUploadResult/>{}", " ".repeat(9 << 20));
    let (store, _) = store_that_answers(200, result).await;
    let uploads = store.multipart().unwrap();
    let completed = uploads.complete(&key("unknown/1"), "id", &[], 0).await.unwrap_err();
    assert!(full_text(&completed).contains("too large"), "{completed:?}");
}

#[tokio::test]
async fn only_the_beginning_of_an_error_response_is_read() {
    let document = |message: usize| {
        format!("<Error><Code>AccessDenied</Code><Message>{}</Message></Error>", "x".repeat(message))
    };
    for (size, code) in [(50_000, "AccessDenied"), (70_000, "")] {
        let (store, _) = store_that_answers(403, document(size)).await;
        let error = names(&store).await.unwrap_err();
        let response = ErrorResponse::of(&error).unwrap();
        assert_eq!((response.status, response.code.as_str()), (403, code));
    }
}

#[tokio::test]
async fn only_content_that_is_buffered_is_sent_again() {
    for (size, attempts) in [(1000, 4), (2 << 20, 1)] {
        let (store, requests) = store_that_answers(503, String::new()).await;
        let error = put(&store, "unknown/1", Bytes::from(vec![b'x'; size])).await.unwrap_err();
        assert_eq!(ErrorResponse::status_of(&error), Some(503));
        assert_eq!(requests.load(Ordering::Relaxed), attempts, "{size} bytes");
    }
}

fn deletion_result(deleted: &[Key], code: &str, failed: &[Key]) -> String {
    let deleted = deleted.iter().map(|key| format!("<Deleted><Key>{key}</Key></Deleted>"));
    let failed = failed.iter().map(|key| format!("<Error><Key>{key}</Key><Code>{code}</Code></Error>"));
    format!("<DeleteResult>{}</DeleteResult>", failed.chain(deleted).collect::<String>())
}

#[tokio::test]
async fn an_object_counts_as_deleted_only_if_the_store_says_so() {
    let keys: Vec<_> = (0..5).map(|number| key(&format!("unknown/{number}"))).collect();
    // The server answers requests for single objects in the same way.
    for (body, requests_for_single_objects) in [
        (deletion_result(&keys, "", &[]), 0),
        (deletion_result(&keys[1..], "NoSuchKey", &keys[..1]), 0),
        (deletion_result(&keys[1..], "SlowDown", &keys[..1]), 1),
        (deletion_result(&keys[2..], "", &[]), 2),
        ("<DeleteResult/>".to_owned(), 5),
        ("<html></html>".to_owned(), 5),
        ("<Error><Code>InternalError</Code></Error>".to_owned(), 5),
        ("not a document".to_owned(), 5),
        (String::new(), 5),
    ] {
        let (store, requests) = store_that_answers(200, body.clone()).await;
        store.delete(&keys).await.unwrap();
        assert_eq!(requests.load(Ordering::Relaxed), 1 + requests_for_single_objects, "{body}");
        assert_eq!(store.client.batch_deletes.is_refused(), requests_for_single_objects == 5, "{body}");
    }
    // Requests have at most 1,000 objects.
    let many: Vec<_> = (0..1500).map(|number| key(&format!("unknown/{number}"))).collect();
    let (store, requests) = store_that_answers(200, deletion_result(&many, "", &[])).await;
    store.delete(&many).await.unwrap();
    store.delete(&many[..1]).await.unwrap();
    assert_eq!(requests.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_store_that_refuses_to_delete_many_objects_deletes_single_ones() {
    let keys: Vec<_> = (0..5).map(|number| key(&format!("unknown/{number}"))).collect();
    let error = |code: &str| format!("<Error><Code>{code}</Code></Error>");
    for (status, code, requests_of_calls) in [
        // A server that answers each request with 404 has none of the objects.
        (404, "", [6, 11]),
        (404, "NoSuchBucket", [1, 2]),
        // All are refused, for whatever reason: the next call tries both again.
        (501, "NotImplemented", [6, 12]),
        (400, "ExpiredToken", [6, 12]),
        (403, "AccessDenied", [6, 12]),
        // The layer above retries.
        (503, "SlowDown", [1, 2]),
    ] {
        let (store, requests) = store_that_answers(status, error(code)).await;
        for total in requests_of_calls {
            let refused = store.delete(&keys).await.err();
            let expected = Some(status).filter(|status| *status != 404);
            assert_eq!(refused.as_ref().and_then(ErrorResponse::status_of), expected);
            assert_eq!(requests.load(Ordering::Relaxed), total, "{status} {code}");
        }
    }
}
