use crate::support::spawn_failing;

#[tokio::test]
async fn a_good_configuration_is_fine() {
    let folder = tempfile::tempdir().unwrap();
    let (status, said, _) = spawn_failing(folder.path(), &[], &["check-config"]).await;
    assert_eq!((status.code(), said.as_str()), (Some(0), "the configuration is fine\n"));

    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/config.yaml");
    let (status, said, _) = spawn_failing(folder.path(), &[], &["check-config", "--config", example]).await;
    assert_eq!((status.code(), said.as_str()), (Some(0), "the configuration is fine\n"));
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
