use crate::support::spawn_failing;

#[tokio::test]
async fn a_good_configuration_is_fine() {
    let folder = tempfile::tempdir().unwrap();
    let (status, said, _) = spawn_failing(folder.path(), &[], &["check-config"]).await;
    assert_eq!((status.code(), said.as_str()), (Some(0), "the configuration is valid\n"));

    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/config.yaml");
    let (status, said, _) = spawn_failing(folder.path(), &[], &["check-config", "--config", example]).await;
    assert_eq!((status.code(), said.as_str()), (Some(0), "the configuration is valid\n"));
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.yaml"), "log: {levle: info}\nserver: {listen: here}\n").unwrap();
    let (status, said, complaint) =
        spawn_failing(folder.path(), &[], &["check-config", "--config", "bad.yaml"]).await;
    assert_eq!((status.code(), said.as_str()), (Some(1), ""));
    assert!(complaint.contains("did you mean `level`?"), "{complaint}");
    assert!(complaint.contains("server.listen: must be an address"), "{complaint}");

    let (status, _, complaint) =
        spawn_failing(folder.path(), &[], &["check-config", "--config", "none.yaml"]).await;
    assert_eq!(status.code(), Some(1));
    assert!(complaint.contains("none.yaml"), "{complaint}");
}

#[tokio::test]
async fn what_does_not_go_together_about_stores_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("local: {enabled: false}", "local.enabled: must be true"),
        ("stores: {upload_to: cos}", "stores.upload_to: cos is not enabled"),
        ("stores: {upload_to: tape}", "stores.upload_to: must be one of local, s3, cos, oss"),
        ("stores: {max_transfers: 7}", "stores.max_transfers: must be 8 to"),
        ("{s3: {enabled: true}, minio: {enabled: true}}", "minio.enabled: `s3` is enabled already"),
        ("minio: {enabled: true, endpoint: 'ftp://x'}", "minio: `endpoint` must begin with http"),
        ("s3: {enabled: true, endpoint: 'host/path'}", "s3: `endpoint` must be a host"),
        ("s3: {enabled: true, bucket: Up}", "s3: `bucket` must be 3 to 63"),
        ("s3: {enabled: true, access_key_id: x}", "s3: `secret_access_key` is missing"),
        ("s3: {enabled: true, secret_access_key: hidden}", "s3: `access_key_id` is missing"),
        ("s3: {enabled: true, access_key_id: x, secret_access_key_file: none}", "s3: none: No such file"),
        ("{s3: {enabled: true}, stores: {ca_file: none.pem}}", "s3: s3 set up"),
        ("cos: {enabled: true, region: ap-nanjing}", "cos: `appid` is missing"),
        ("cos: {enabled: true, appid: 1}", "cos: `region` is missing"),
        ("oss: {enabled: true}", "oss: `endpoint` is missing"),
        ("oss: {enabled: true, endpoint: 'store.example.net'}", "oss: `region` is missing"),
    ];
    for (text, problem) in cases {
        std::fs::write(folder.path().join("bad.yaml"), text).unwrap();
        let (status, _, complaint) =
            spawn_failing(folder.path(), &[], &["check-config", "--config", "bad.yaml"]).await;
        assert_eq!(status.code(), Some(1), "{text}");
        assert!(complaint.contains(problem), "{text}: {complaint}");
        assert!(!complaint.contains("hidden"), "{complaint}");
    }
    // As in the Go program's example, including keys that osproxy ignores.
    let theirs = "minio: {enabled: true, endpoint: '127.0.0.1:9000', access_key_id: minio, secret_access_key: minio123,\n  use_ssl: false}\n\
         cos: {enabled: true, appid: 1250000000, region: ap-nanjing, secret_id: a, secret_key: b}\n\
         oss: {enabled: true, endpoint: oss-cn-beijing.aliyuncs.com, access_key_id: a, access_key_secret: b}\n\
         local: {enabled: false}\n";
    std::fs::write(folder.path().join("theirs.yaml"), theirs).unwrap();
    let (status, _, complaint) =
        spawn_failing(folder.path(), &[], &["check-config", "--config", "theirs.yaml"]).await;
    assert!(status.success(), "{complaint}");
}
