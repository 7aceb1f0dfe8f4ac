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
    let completed = uploads.complete(&key("unknown/1"), "id", &[]).await.unwrap_err();
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

#[tokio::test]
async fn an_object_that_is_not_deleted_with_others_is_an_error() {
    let failed = |code: &str| {
        let deleted = "<Error><Key>unknown/1</Key><Code>NoSuchKey</Code><Message>none</Message></Error>";
        let failed = format!("<Error><Key>unknown/2</Key><Code>{code}</Code><Message>why</Message></Error>");
        format!("<DeleteResult>{deleted}{failed}</DeleteResult>")
    };
    let keys = [key("unknown/1"), key("unknown/2")];
    for (body, is_retryable) in [
        (failed("AccessDenied"), Some(false)),
        (failed("InternalError"), Some(true)),
        (failed("SlowDown"), Some(true)),
        ("<html>".to_owned(), Some(false)),
        ("<DeleteResult/>".to_owned(), None),
        (String::new(), None),
    ] {
        let (store, requests) = store_that_answers(200, body.clone()).await;
        let deleted = store.delete(&keys).await;
        assert_eq!(deleted.err().map(|error| error.retryable), is_retryable, "{body}");
        assert_eq!(requests.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn a_store_without_batches_deletes_objects_one_by_one() {
    let keys: Vec<_> = (0..5).map(|number| key(&format!("unknown/{number}"))).collect();
    let error = |code: &str| format!("<Error><Code>{code}</Code></Error>");
    for (status, code, requests_of_calls) in [
        (501, "NotImplemented", [6, 11]),
        (405, "MethodNotAllowed", [6, 11]),
        (400, "InvalidArgument", [6, 11]),
        (403, "AccessDenied", [6, 11]),
        (403, "RequestTimeTooSkewed", [1, 2]),
        (503, "SlowDown", [1, 2]),
    ] {
        let (store, requests) = store_that_answers(status, error(code)).await;
        for total in requests_of_calls {
            assert_eq!(ErrorResponse::status_of(&store.delete(&keys).await.unwrap_err()), Some(status));
            assert_eq!(requests.load(Ordering::Relaxed), total, "{status}");
        }
    }
    // A single object needs no batch, and more than 1,000 need two.
    let (store, requests) = store_that_answers(200, String::new()).await;
    store.delete(&keys[..1]).await.unwrap();
    assert_eq!(requests.load(Ordering::Relaxed), 1);
    let many: Vec<_> = (0..1500).map(|number| key(&format!("unknown/{number}"))).collect();
    store.delete(&many).await.unwrap();
    assert_eq!(requests.load(Ordering::Relaxed), 3);
}
