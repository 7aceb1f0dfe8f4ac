//! Backup and restore by the scripts of the guide, while the service is written to, followed by a
//! total loss.

use std::path::Path;

use reqwest::Method;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::{Api, Database, Service, Store, StoreServer, content};

const GUIDE: &str = include_str!("../../../../docs/guides/operations.md");

/// The scripts of a section in order: the second-last makes a backup, the last restores it.
fn scripts(heading: &str) -> Vec<&'static str> {
    let (_, section) = GUIDE.split_once(heading).unwrap();
    let section = section.split("\n### ").next().unwrap();
    section.split("```sh\n").skip(1).map(|script| script.split("```").next().unwrap()).collect()
}

/// Where a service keeps its data.
struct Place<'a> {
    folder: &'a Path,
    database: &'a Database,
    /// `None`: the folder has the objects, too.
    store: Option<&'a Store>,
}

impl Place<'_> {
    /// Settings that name database and store, in the environment's spelling.
    fn settings(&self) -> Vec<(String, String)> {
        let mut settings = self.database.settings();
        settings.extend(self.store.iter().flat_map(|store| store.settings()));
        settings
    }
}

/// Starts a script of the guide with the paths of this test: the data of a service and a folder for
/// backups. The command that dumps the database creates a file before and after the dump, and
/// continues when the test creates the matching files.
fn start_script(place: &Place<'_>, backups: &Path, script: &str, dumper: &str) -> Child {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let data = place.folder.join("osproxy-data").display().to_string();
    let url = place.database.url().unwrap_or_default();
    let (host, port) =
        if url.is_empty() { ("", "") } else { url.rsplit('@').next().unwrap().split_once(':').unwrap() };
    let (port, name) = port.split_once('/').unwrap_or_default();
    let bucket = place.store.map_or("", Store::bucket);
    let script = script
        .replace("store:osproxy", &format!("store:{bucket}"))
        .replace("--config /etc/osproxy/config.yaml", &format!("--data-dir {data}"))
        .replace("/usr/share/osproxy/", &format!("{root}/deploy/"))
        .replace("/var/lib/osproxy", &data)
        .replace("/backup/", &format!("{}/", backups.display()))
        .replace("apt-get install", "true")
        .replace("--host=db.example.net --port=3306", &format!("--host={host} --port={port}"))
        .replace("--user=osproxy osproxy", &format!("--user=osproxy {name}"));
    let wait = |sign: &str| format!("until test -e {}/{sign}; do sleep 0.01; done", backups.display());
    let tell = |sign: &str| format!("touch {}/{sign}", backups.display());
    let waiting = format!(
        "{dumper}() {{ {}; {}; command {dumper} \"$@\"; {}; {}; }}\nexport -f {dumper}\n",
        tell("copied"),
        wait("dump"),
        tell("dumped"),
        wait("go"),
    );
    // rclone is installed beside the Python of the tests.
    let python = std::env::var("OSPROXY_TEST_PYTHON").unwrap_or_default();
    let tools = [env!("CARGO_BIN_EXE_osproxy"), python.as_str()].map(|tool| Path::new(tool).parent());
    let tools = tools.into_iter().flatten().map(|folder| format!("{}:", folder.display()));
    let path = tools.collect::<String>() + &std::env::var("PATH").unwrap();
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &(waiting + &script)]).env("PATH", path).kill_on_drop(true);
    let settings = place.settings().into_iter().map(|(name, value)| (format!("OSPROXY__{name}"), value));
    bash.envs(place.store.iter().flat_map(|store| store.rclone()));
    bash.env("MYSQL_PWD", "secret").env("DATABASE_URL", url).envs(settings).spawn().unwrap()
}

/// Uids with their content.
type Files = Vec<(String, Vec<u8>)>;

/// A client that keeps storing files.
struct Writer<'a> {
    service: &'a Service,
    seed: u64,
}

impl Writer<'_> {
    async fn write(&mut self) -> (String, Vec<u8>) {
        self.seed += 1;
        let bytes = content(self.seed, 20_000);
        (self.service.store("meanwhile.bin", &bytes).await, bytes)
    }

    /// Stores files until the backup creates the file `sign` or, without `sign`, exits
    /// successfully. Returns the files.
    async fn write_until(&mut self, backup: &mut Child, sign: Option<&Path>) -> Files {
        let mut files = Files::new();
        loop {
            match (backup.try_wait().unwrap(), sign) {
                (Some(status), None) if status.success() => return files,
                (Some(status), _) => panic!("the backup ended: {status}"),
                (None, Some(sign)) if sign.exists() => return files,
                (None, _) => files.push(self.write().await),
            }
        }
    }
}

/// Backs up a service that is written to continuously; after the database dump, parts are merged
/// and a file is deleted. Returns the files that were complete before the dump and must survive.
async fn back_up(
    service: &Service,
    store: Option<&Store>,
    backups: &Path,
    script: &str,
    dumper: &str,
) -> Files {
    service.database().hold_merges().await;
    let mut writer = Writer { service, seed: 1000 };
    let mut files = vec![writer.write().await];
    for seed in 0..4 {
        let bytes = content(seed, 90_000);
        files.push((service.store_in_parts("parts.bin", &bytes, 30_000).await, bytes));
    }
    let gone = service.store("gone.bin", &content(200, 1000)).await;
    let place = Place { folder: service.folder(), database: service.database(), store };
    let mut backup = start_script(&place, backups, script, dumper);
    files.extend(writer.write_until(&mut backup, Some(&backups.join("copied"))).await);
    // A file that is too late for the first copy but is in the database dump: the second copy has
    // it.
    files.push(writer.write().await);
    std::fs::write(backups.join("dump"), "").unwrap();
    writer.write_until(&mut backup, Some(&backups.join("dumped"))).await;
    service.database().release_merges().await;
    for (uid, _) in &files {
        service.wait_until_merged(uid).await;
    }
    assert_eq!(service.v1(Method::DELETE, &format!("/files/{gone}"), None).await.status(), 204);
    service.database().wait_until_idle().await;
    std::fs::write(backups.join("go"), "").unwrap();
    writer.write_until(&mut backup, None).await;
    files
}

/// Loses the service and restores it elsewhere: every file that was complete must be there. With
/// `stores`, the service has its objects in the first one, and gets the second one.
async fn lose_and_restore(
    service: Service,
    database: Database,
    folder: TempDir,
    stores: Option<[Store; 2]>,
    heading: &str,
    dumper: &str,
) {
    let backups = tempfile::tempdir().unwrap();
    let scripts = scripts(heading);
    let [before @ .., script, restore] = scripts.as_slice() else { panic!("{heading} has no scripts") };
    let [store, other_store] = stores.map_or([None, None], |stores| stores.map(Some));
    for script in before {
        let place = Place { folder: service.folder(), database: service.database(), store: store.as_ref() };
        let mut backup = start_script(&place, backups.path(), script, "nothing");
        assert!(backup.wait().await.unwrap().success());
    }
    let files = back_up(&service, store.as_ref(), backups.path(), script, dumper).await;
    let link = service.download_link(&files[0].0).await.unwrap();
    let owner = Api::clone(&service);
    drop(service);

    std::fs::create_dir_all(folder.path().join("osproxy-data")).unwrap();
    let place = Place { folder: folder.path(), database: &database, store: other_store.as_ref() };
    let mut restoring = start_script(&place, backups.path(), restore, dumper);
    assert!(restoring.wait().await.unwrap().success());
    let settings = place.settings();
    let service = Service::start_listening("127.0.0.1:0", folder, database, other_store, settings).await;
    let mut service = service.with_key_of(&owner);
    service.database().release_merges().await;
    for (uid, bytes) in &files {
        assert!(service.read(uid).await == *bytes, "{uid} has other content");
        // The restored database has the parts and their merge task.
        service.wait_until_merged(uid).await;
        assert!(service.read(uid).await == *bytes, "{uid} has other content");
    }
    assert!(service.get(&link.url).await.bytes().await.unwrap() == files[0].1, "the old link is not valid");
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn sqlite_and_local_disk_are_backed_up_and_restored_as_the_guide_says() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::create(folder.path()).await;
    let service = Service::start().await;
    lose_and_restore(service, database, folder, None, "\n### One node: SQLite", "sqlite3").await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn postgres_and_local_disk_are_backed_up_and_restored_as_the_guide_says() {
    on_server("OSPROXY_TEST_POSTGRES", "\n### PostgreSQL", "pg_dump").await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn mysql_and_local_disk_are_backed_up_and_restored_as_the_guide_says() {
    on_server("OSPROXY_TEST_MYSQL", "\n### MySQL, MariaDB", "mariadb-dump").await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn postgres_and_a_store_are_backed_up_and_restored_as_the_guide_says() {
    let admin = "OSPROXY_TEST_POSTGRES";
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let stores = [Store::new(StoreServer::S3), Store::new(StoreServer::S3)];
    let [database, other_database] = [
        Database::create_on(admin, folders[0].path()).await,
        Database::create_empty_on(admin, folders[1].path()).await,
    ];
    let [folder, other_folder] = folders;
    let place = Place { folder: folder.path(), database: &database, store: Some(&stores[0]) };
    let settings = place.settings();
    let store = Some(stores[0].clone());
    let service = Service::start_listening("127.0.0.1:0", folder, database, store, settings).await;
    let heading = "\n### Object store";
    lose_and_restore(service, other_database, other_folder, Some(stores), heading, "pg_dump").await;
}

async fn on_server(admin: &str, heading: &str, dumper: &str) {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::create_empty_on(admin, folder.path()).await;
    let service = Service::start_on(admin, &[]).await;
    lose_and_restore(service, database, folder, None, heading, dumper).await;
}

#[tokio::test]
async fn sqlite_backups_link_what_they_have_in_common_and_are_never_written_over() {
    use std::os::unix::fs::MetadataExt as _;
    let service = Service::start().await;
    let uid = service.store("x.bin", b"the same").await;
    let folder = service.folder();
    let run = async |script: &str, arguments: &[&str]| {
        let path = format!("{}/../../deploy/{script}", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new(path).args(arguments).current_dir(folder).output().await.unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run("backup", &["osproxy-data", "one"]).await, (0, String::new()));
    assert_eq!(run("backup", &["--since", "one", "osproxy-data", "it's two"]).await, (0, String::new()));
    let object = Service::object_key(&format!("unknown/{uid}.bin"));
    let inode =
        |backup: &str| std::fs::metadata(folder.join(backup).join("objects").join(&object)).unwrap().ino();
    assert_eq!(inode("one"), inode("it's two"));
    assert_ne!(inode("one"), inode("osproxy-data"));
    let mode = std::fs::metadata(folder.join("one/osproxy.db")).unwrap().mode();
    assert_eq!(mode & 0o077, 0, "the backup is readable by others");

    for (script, arguments, complaint) in [
        ("backup", &["osproxy-data", "one"][..], "one already exists\n"),
        ("backup", &["nowhere", "three"], "nowhere/osproxy.db does not exist\n"),
        ("backup", &["osproxy-data"], "backup [--since OLDER_BACKUP] DATA_DIR NEW_BACKUP\n"),
        ("restore", &["osproxy-data/objects", "three"], "osproxy-data/objects is not a backup\n"),
        ("restore", &["one", "osproxy-data"], "osproxy-data is not empty\n"),
        ("restore", &["one"], "restore BACKUP DATA_DIR\n"),
    ] {
        let (code, said) = run(script, arguments).await;
        assert!(code != 0 && said == complaint, "{script} {arguments:?}: {code} {said}");
    }
    std::fs::write(folder.join("it's two/osproxy.db"), "damaged").unwrap();
    assert_ne!(run("restore", &["it's two", "three"]).await.0, 0);
    assert!(!folder.join("three").exists());
}
