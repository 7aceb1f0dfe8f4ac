//! Conformance tests against real S3 servers and against stand-ins for COS and OSS, all started by
//! the test script; and tests of responses that these servers never send.

mod responses;
mod servers;

use std::{error::Error as _, iter, sync::Arc};

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::Method;

use self::servers::{TestedVendor, WrongSigner, bucket, s3_that_keeps_parts, temporary_credentials};
use super::{client::Request, *};
use crate::{
    backends::{Cos, Oss, S3},
    conformance,
    layers::{Layered, Retry, fault::Fault},
};

macro_rules! tests_of {
    ($vendor:ident, $module:ident: $($test:ident)+) => {
        mod $module {
            $(
                #[tokio::test]
                #[ignore = "needs servers: just test-servers"]
                async fn $test() {
                    super::$test::<super::$vendor>().await;
                }
            )+
        }
    };
}

tests_of! {
    S3, s3:
    conforms_with_one_bucket
    conforms_with_a_bucket_for_each_category
    a_bucket_is_created_only_if_allowed
    a_bucket_that_another_node_created_is_used
    a_wrong_secret_is_rejected_and_not_in_the_error
    a_request_that_differs_from_the_signed_one_is_rejected
    retries_hide_transient_failures
    names_of_other_programs_are_listed_unchanged
    many_objects_are_deleted_with_one_request
    a_range_beyond_the_end_is_truncated
}

tests_of! {
    Cos, cos:
    conforms_with_one_bucket
    conforms_with_a_bucket_for_each_category
    a_bucket_is_created_only_if_allowed
    a_bucket_that_another_node_created_is_used
    a_wrong_secret_is_rejected_and_not_in_the_error
    a_request_that_differs_from_the_signed_one_is_rejected
    retries_hide_transient_failures
    names_of_other_programs_are_listed_unchanged
    many_objects_are_deleted_with_one_request
    a_range_beyond_the_end_is_truncated
    a_temporary_key_needs_its_token
    lists_of_several_pages_are_read_to_the_end
}

tests_of! {
    Oss, oss:
    conforms_with_one_bucket
    conforms_with_a_bucket_for_each_category
    a_bucket_is_created_only_if_allowed
    a_bucket_that_another_node_created_is_used
    a_wrong_secret_is_rejected_and_not_in_the_error
    a_request_that_differs_from_the_signed_one_is_rejected
    retries_hide_transient_failures
    names_of_other_programs_are_listed_unchanged
    many_objects_are_deleted_with_one_request
    a_range_beyond_the_end_is_truncated
    a_temporary_key_needs_its_token
    lists_of_several_pages_are_read_to_the_end
}

async fn run_conformance<V: TestedVendor>(store: &HttpStore<V>) {
    store.prepare(true).await.unwrap();
    store.prepare(false).await.unwrap();
    conformance::run(store).await;
    conformance::multipart::run_without_replacing(store).await;
    if V::KEEPS_PARTS {
        conformance::multipart::run_replacing(store).await;
    }
}

async fn conforms_with_one_bucket<V: TestedVendor>() {
    run_conformance(&V::open(Some("contract"))).await;
}

async fn conforms_with_a_bucket_for_each_category<V: TestedVendor>() {
    run_conformance(&V::open(None)).await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn s3_that_keeps_parts_conforms() {
    let store = s3_that_keeps_parts("parts");
    store.prepare(true).await.unwrap();
    conformance::run(&store).await;
    conformance::multipart::run_replacing(&store).await;
}

async fn a_bucket_is_created_only_if_allowed<V: TestedVendor>() {
    let store = V::open(Some("missing"));
    for _ in 0..2 {
        assert_eq!(store.prepare(false).await.unwrap_err().kind, ErrorKind::NotFound);
    }
    store.prepare(true).await.unwrap();
    store.prepare(false).await.unwrap();
}

async fn a_bucket_that_another_node_created_is_used<V: TestedVendor>() {
    let store = V::open(Some("made-twice"));
    store.create_bucket(&bucket("made-twice")).await.unwrap();
    store.create_bucket(&bucket("made-twice")).await.unwrap();
}

fn key(name: &str) -> Key {
    Key::parse(name).unwrap()
}

async fn put<V: Vendor>(store: &HttpStore<V>, name: &str, content: Bytes) -> Result<()> {
    let mut writer = store.create(&key(name), SizeHint::Exact(content.len() as u64)).await?;
    for chunk in content.chunks(100_000) {
        writer.write(content.slice_ref(chunk)).await?;
    }
    writer.finish().await?;
    writer.publish().await.map(|_| ())
}

async fn names<V: Vendor>(store: &HttpStore<V>) -> Result<Vec<String>> {
    store.list().await?.map_ok(|listed| listed.name).try_collect().await
}

/// The user-facing and debug text of an error and all its causes.
fn full_text(error: &Error) -> String {
    let causes = iter::successors(error.source(), |&cause| cause.source());
    let causes: Vec<_> = causes.map(|cause| format!("{cause} {cause:?}")).collect();
    format!("{error} {error:?} {}", causes.join(" "))
}

async fn a_wrong_secret_is_rejected_and_not_in_the_error<V: TestedVendor>() {
    let (id, secret, _) = V::credentials();
    V::open(Some("refused")).prepare(true).await.unwrap();
    for (id, wrong, code) in [
        (id.as_str(), "not-the-secret", "SignatureDoesNotMatch"),
        ("nobody", secret.as_str(), "InvalidAccessKeyId"),
    ] {
        let store = V::open_as(Some("refused"), (id.to_owned(), wrong.to_owned(), None));
        let refused = [
            store.prepare(true).await.unwrap_err(),
            names(&store).await.unwrap_err(),
            store.open(&key("unknown/refused"), 0..1).await.err().unwrap(),
            put(&store, "unknown/refused", Bytes::from_static(b"small")).await.unwrap_err(),
            // Refused during the upload.
            put(&store, "unknown/refused", Bytes::from(vec![b'x'; 30_000_000])).await.unwrap_err(),
        ];
        for error in &refused {
            assert_eq!(ErrorResponse::status_of(error), Some(403), "{error:?}");
            assert_eq!(error.kind, ErrorKind::Other);
            assert!(!error.retryable);
            assert!(!full_text(error).contains(wrong));
            assert_eq!(ErrorResponse::of(error).unwrap().code, code);
        }
    }
}

/// Lists a store and reads an object. Each request is signed for the address that `signed_as`
/// derives from the real address.
async fn send_signed_as<V: TestedVendor>(signed_as: fn(&str) -> String) -> [Result<()>; 2] {
    let client = Arc::into_inner(V::open(Some("signed")).client).unwrap();
    let client = client.with_vendor(|vendor| WrongSigner { vendor, signed_as });
    let store = HttpStore { client: Arc::new(client) };
    let read = store.open(&key("unknown/signed"), 0..1).await;
    [names(&store).await.map(|_| ()), read.map(|_| ())]
}

/// Proves that the test servers verify signatures.
async fn a_request_that_differs_from_the_signed_one_is_rejected<V: TestedVendor>() {
    let store = V::open(Some("signed"));
    store.prepare(true).await.unwrap();
    put(&store, "unknown/signed", Bytes::from_static(b"content")).await.unwrap();
    assert!(send_signed_as::<V>(str::to_owned).await.iter().all(Result::is_ok));
    let [listed, read] = send_signed_as::<V>(|uri| uri.replace("&max-keys=1000", "")).await;
    assert!(read.is_ok());
    let [_, of_another] = send_signed_as::<V>(|uri| uri.replace("/unknown/", "/image/")).await;
    let elsewhere = send_signed_as::<V>(|uri| uri.replace("signed-", "others-")).await;
    for refused in elsewhere.into_iter().chain([listed, of_another]) {
        let error = refused.unwrap_err();
        let response = ErrorResponse::of(&error).unwrap();
        assert_eq!((response.status, response.code.as_str()), (403, "SignatureDoesNotMatch"));
    }
}

async fn retries_hide_transient_failures<V: TestedVendor>() {
    let store = V::open(Some("faults"));
    store.prepare(true).await.unwrap();
    let content: Bytes = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    put(&store, "unknown/faults", content.clone()).await.unwrap();
    let store: Arc<dyn Backend> = Arc::new(store);
    let faulty = Arc::new(Layered::new(Fault::new(3, 7), store.clone()));
    let store = Layered::new(Retry { attempts: 8 }, faulty);
    let key = key("unknown/faults");
    for start in [0, 1, 999_999] {
        let read: Vec<Bytes> = store.open(&key, start..3_000_000).await.unwrap().try_collect().await.unwrap();
        assert!(read.concat() == content[usize::try_from(start).unwrap()..], "{start}");
    }
    store.delete(&[key]).await.unwrap();
}

async fn many_objects_are_deleted_with_one_request<V: TestedVendor>() {
    let store = V::open(Some("many"));
    store.prepare(true).await.unwrap();
    // One of them does not exist, and one is kept.
    let keys: Vec<_> = (0..20).map(|number| key(&format!("unknown/{number}"))).collect();
    for key in &keys[1..] {
        put(&store, &key.to_string(), Bytes::from_static(b"content")).await.unwrap();
    }
    store.delete(&keys[..19]).await.unwrap();
    assert_eq!(names(&store).await.unwrap(), ["unknown/19"]);
    store.delete(&keys).await.unwrap();
    assert!(names(&store).await.unwrap().is_empty());
    assert!(!store.client.batch_deletes.is_refused(), "the objects were deleted one by one");
    V::open(Some("nowhere")).delete(&keys).await.unwrap();
}

/// Other programs may have put objects with arbitrary names into the bucket.
async fn names_of_other_programs_are_listed_unchanged<V: TestedVendor>() {
    let store = V::open(Some("names"));
    store.prepare(true).await.unwrap();
    let names = [
        "image/a b+c&d.jpg",
        "doc/\u{e9}\u{4e2d}.txt",
        "unknown/per%20cent",
        "top",
        "x/y/z'\"<>",
        "unknown/ a=b?c#d;e ",
    ];
    for name in names {
        let mut put = Request::to_bucket(Method::PUT, &bucket("names"), "write").named(name);
        put.body = name.to_owned().into();
        store.client.send(put).await.unwrap();
    }
    let mut listed: Vec<_> = store.list().await.unwrap().try_collect().await.unwrap();
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    let mut expected = names.map(|name| (name, name.len() as u64));
    expected.sort_unstable();
    let listed: Vec<_> = listed.iter().map(|listed| (listed.name.as_str(), listed.size)).collect();
    assert_eq!(listed, expected);
}

/// Unless a request asks OSS for standard behavior, OSS sends the whole object with status 200.
async fn a_range_beyond_the_end_is_truncated<V: TestedVendor>() {
    let store = V::open(Some("ranges"));
    store.prepare(true).await.unwrap();
    put(&store, "unknown/ranges", Bytes::from(vec![b'x'; 100])).await.unwrap();
    for range in [0..101, 50..150, 99..199, 100..200, 99..101, 1000..1001] {
        let read = match store.open(&key("unknown/ranges"), range.clone()).await {
            Err(error) => Err(error),
            Ok(reader) => reader.try_collect::<Vec<_>>().await,
        };
        assert_eq!(read.unwrap_err().kind, ErrorKind::Truncated, "{range:?}");
    }
}

async fn a_temporary_key_needs_its_token<V: TestedVendor>() {
    let store = V::open_as(Some("temporary"), temporary_credentials());
    store.prepare(true).await.unwrap();
    put(&store, "unknown/temporary", Bytes::from(vec![b'x'; 3_000_000])).await.unwrap();
    assert_eq!(names(&store).await.unwrap(), ["unknown/temporary"]);
    let (id, secret, _) = temporary_credentials();
    for token in [None, Some("not-the-token".to_owned())] {
        let store = V::open_as(Some("temporary"), (id.clone(), secret.clone(), token));
        let error = names(&store).await.unwrap_err();
        assert_eq!(ErrorResponse::status_of(&error), Some(403), "{error:?}");
        assert!(!error.retryable);
        assert!(!full_text(&error).contains("not-the-token"));
    }
}

/// The stand-ins return two entries per page in all lists, also in lists of objects.
async fn lists_of_several_pages_are_read_to_the_end<V: TestedVendor>() {
    let store = V::open(Some("pages"));
    store.prepare(true).await.unwrap();
    let uploads = store.multipart().unwrap();
    let mut uploads_begun = Vec::new();
    for name in ["unknown/b", "unknown/a", "unknown/b", "image/c", "unknown/b", "unknown/a"] {
        uploads_begun.push((name.to_owned(), uploads.begin(&key(name), None).await.unwrap()));
    }
    let (name, upload) = uploads_begun[0].clone();
    let mut parts = Vec::new();
    for number in [1, 2, 3, 7, 10_000] {
        let mut part = uploads.create_part(&key(&name), &upload, number, 3).await.unwrap();
        part.write(Bytes::from(format!("{:3}", number % 1000))).await.unwrap();
        part.finish().await.unwrap();
        parts.push((number, part.publish().await.unwrap()));
    }
    assert_eq!(uploads.list_parts(&key(&name), &upload).await.unwrap(), parts);
    let listed = async || -> Vec<(String, String)> {
        let listed = uploads.list_uploads(None).await.unwrap();
        let mut listed: Vec<_> =
            listed.map_ok(|upload| (upload.name, upload.id)).try_collect().await.unwrap();
        listed.sort_unstable();
        listed
    };
    uploads_begun.sort_unstable();
    assert_eq!(listed().await, uploads_begun);
    for (name, upload) in uploads_begun {
        uploads.abort(&key(&name), &upload).await.unwrap();
    }
    assert_eq!(listed().await, []);
}
