use std::{
    net::SocketAddr,
    ops::Deref,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Resource, Rlimit, Signal};
use sea_orm::{ConnectOptions, ConnectionTrait, DatabaseConnection};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{Api, Database, FaultyProxy, PATIENCE, RawConnection, Store, connect, objects};

/// Number of periodic tasks, which all run at every start.
const STARTUP_TASKS: u32 = 6;

/// A running service in its own folder. Dropping it kills the service and removes the folder.
pub struct Service {
    process: Child,
    api: Api,
    database: Database,
    store: Option<Store>,
    folder: TempDir,
    settings: Vec<(String, String)>,
    listen: String,
    ready: String,
}

/// The number of lines of its log that a service prints if its test fails.
const LAST_LINES: usize = 40;

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let skipped = log.lines().count().saturating_sub(LAST_LINES);
            println!("the log of the service ends with:");
            log.lines().skip(skipped).for_each(|line| println!("{line}"));
        }
    }
}

/// Any free port.
const ANYWHERE: &str = "127.0.0.1:0";

/// Creates a command that runs the binary in `folder`. The environment contains only `settings`,
/// named as environment variables without the prefix `OSPROXY__`, such as `LOG__LEVEL`. If
/// `wrapper` is not empty, this command with arguments starts the binary.
pub fn command(folder: &Path, settings: &[(String, String)], wrapper: &[&str]) -> Command {
    let mut command = Command::new("/bin/sh");
    // A write beyond the limit of file sizes must fail as on a full disk, instead of killing the
    // process.
    command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).args(wrapper).arg(env!("CARGO_BIN_EXE_osproxy"));
    command.env_clear().current_dir(folder).kill_on_drop(true).stdin(Stdio::null());
    // Most tests look at the objects of small files, so small files are packed only if a test says
    // so, or in a round with `OSPROXY_TEST_PACKS`.
    let pack_below = if std::env::var("OSPROXY_TEST_PACKS").is_ok() { "64KiB" } else { "0" };
    command.env("OSPROXY__LOCAL__PACK_BELOW", pack_below);
    command.envs(settings.iter().map(|(name, value)| (format!("OSPROXY__{name}"), value)));
    command
}

/// Runs the binary, and waits until it fails or ends by itself. Returns exit status, stdout and
/// stderr.
pub async fn spawn_failing(
    folder: &Path,
    settings: &[(String, String)],
    arguments: &[&str],
) -> (ExitStatus, String, String) {
    let running = command(folder, settings, &[]).args(arguments).output();
    let output = tokio::time::timeout(PATIENCE, running).await.expect("the process does not end").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status, text(output.stdout), text(output.stderr))
}

async fn spawn(
    folder: &Path,
    settings: &[(String, String)],
    listen: &str,
    more: &[&str],
    wrapper: &[&str],
) -> (Child, SocketAddr, String) {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let mut process = command(folder, settings, wrapper)
        .args(["serve", "--listen", listen])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it is not ready").unwrap();
    let Some(line) = line else {
        panic!("the service did not start: {}", std::fs::read_to_string(folder.join("log")).unwrap());
    };
    let url = line.strip_prefix("osproxy is ready on ").and_then(|url| url.split(' ').next());
    let (scheme, address) = url.and_then(|url| url.split_once("://")).expect(&line);
    let is_secure = settings.iter().any(|(name, _)| name == "TLS__CERT");
    assert_eq!(scheme, if is_secure { "https" } else { "http" });
    let address = address.parse().unwrap();
    (process, address, line)
}

/// A client of the service in this folder. Uses the bootstrap key if the service created one.
fn open_api(address: SocketAddr, folder: &Path) -> Api {
    let api = Api::new(address);
    match std::fs::read_to_string(folder.join("osproxy-data/bootstrap-key")) {
        Ok(key) => api.with_key(key.trim_end()),
        Err(_) => api,
    }
}

impl Deref for Service {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Service {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a service, and uses it so that all metrics have samples: stores a file in parts that
    /// are then merged, stores another file, and downloads the first file. A step processes the files
    /// after they have become readable.
    pub async fn start_with_traffic() -> Self {
        let service = Self::start_configured("processing: [{step: type, blocking: false}]").await;
        let uid = service.store_in_parts("x.bin", &super::content(1, 50_000), 20_000).await;
        service.wait_until_merged(&uid).await;
        service.store("y.bin", &super::content(1, 50_000)).await;
        service.read(&uid).await;
        service.database().wait_until_idle().await;
        service
    }

    /// Starts with strace, which writes system calls to the file `trace` in the folder. `calls`
    /// selects the system calls, such as `trace=unlink,unlinkat`.
    pub async fn start_traced(calls: &str) -> Self {
        Self::start_traced_with(calls, &[]).await
    }

    /// Like [`start_traced`](Self::start_traced), with settings.
    pub async fn start_traced_with(calls: &str, settings: &[(&str, &str)]) -> Self {
        Self::start_wrapped(
            settings,
            &["strace", "-D", "-f", "-y", "-s", "16", "--seccomp-bpf", "-o", "trace", "-e", calls],
        )
        .await
    }

    /// Starts with these settings. They are named as environment variables without the prefix
    /// `OSPROXY__`, such as `LOG__LEVEL`.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_wrapped(settings, &[]).await
    }

    /// Starts with an additional disk of `bytes` bytes in memory. The disk is mounted as `disk` in
    /// the folder of the service, and only the service sees it.
    pub async fn start_on_small_disk(bytes: u64, settings: &[(&str, &str)]) -> Self {
        let script = format!("mkdir -p disk && mount -t tmpfs -o size={bytes} tmpfs disk && exec \"$@\"");
        Self::start_wrapped(settings, &["unshare", "--mount", "sh", "-c", &script, "sh"]).await
    }

    /// Starts as the current user or, if this is root, as a user without privileges.
    pub async fn start_unprivileged() -> Self {
        // Copy the binary: other users cannot access the folder in which it was built.
        let script = "test $(id -u) != 0 && exec \"$@\"; cp \"$1\" osproxy && shift && chown -R 65534 . && \
                      exec setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all \
                      --no-new-privs ./osproxy \"$@\"";
        Self::start_wrapped(&[], &["sh", "-c", script, "sh"]).await
    }

    /// Starts with these settings. `wrapper`, a command with arguments, starts the binary.
    pub async fn start_wrapped(settings: &[(&str, &str)], wrapper: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::create(folder.path()).await;
        let mut known = database.settings();
        let store = Store::from_environment();
        known.extend(store.iter().flat_map(Store::settings));
        let mut service = Self::start_at(folder, database, known, settings, wrapper).await;
        service.store = store;
        service
    }

    /// Starts a service that keeps objects in `store`. The service reaches the store through
    /// `proxy`, if there is one.
    pub async fn start_on_store(
        store: &Store,
        proxy: Option<&FaultyProxy>,
        settings: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::create(folder.path()).await;
        let mut known = database.settings();
        known.extend(proxy.map_or_else(|| store.settings(), |proxy| store.settings_through(proxy)));
        let store = Some(store.clone());
        let mut service = Self::start_at(folder, database, known, settings, &[]).await;
        service.store = store;
        service
    }

    /// Starts in a new folder, with a new database on a server. The environment variable `admin`
    /// contains the URL of the server.
    pub async fn start_on(admin: &str, more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::create_on(admin, folder.path()).await;
        let settings = database.settings();
        Self::start_at(folder, database, settings, more, &[]).await
    }

    /// Starts another node on the same database. The client of the node uses the same API key.
    pub async fn start_second_node(&self, more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = self.database.shared_with_folder(folder.path());
        let settings = database.settings();
        Self::start_at(folder, database, settings, more, &[]).await.with_key_of(self)
    }

    /// Uses the API key of another node on the same database. Only the first node on a database has
    /// the file with the bootstrap key.
    pub fn with_key_of(mut self, other: &Api) -> Self {
        if let Some(key) = other.key() {
            self.api = self.api.with_key(key);
        }
        self
    }

    /// Starts in a folder, on a database.
    pub async fn start_at(
        folder: TempDir,
        database: Database,
        mut settings: Vec<(String, String)>,
        more: &[(&str, &str)],
        wrapper: &[&str],
    ) -> Self {
        settings.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let (process, address, ready) = spawn(folder.path(), &settings, ANYWHERE, &[], wrapper).await;
        let listen = ANYWHERE.to_owned();
        let cert = settings.iter().find(|(name, _)| name == "TLS__CERT").map(|(_, path)| path);
        let mut api = open_api(address, folder.path());
        if let Some(cert) = cert {
            api = api.with_certificate(&std::fs::read_to_string(cert).unwrap());
        }
        Self { process, api, database, store: None, folder, settings, listen, ready }
    }

    /// Starts at a fixed address, in a folder, on a database. `store` is the store in which
    /// `settings` keep objects, or `None` if the objects are in the folder.
    pub async fn start_listening(
        listen: &str,
        folder: TempDir,
        database: Database,
        store: Option<Store>,
        settings: Vec<(String, String)>,
    ) -> Self {
        let (process, address, ready) = spawn(folder.path(), &settings, listen, &[], &[]).await;
        let listen = listen.to_owned();
        let api = open_api(address, folder.path());
        Self { process, api, database, store, folder, settings, listen, ready }
    }

    /// The line that the service printed when it was ready.
    pub fn ready_line(&self) -> &str {
        &self.ready
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Starts the binary again in the same folder.
    pub async fn restart(&mut self) {
        (self.process, self.api.address, self.ready) =
            spawn(self.folder.path(), &self.settings, &self.listen, &[], &[]).await;
    }

    /// Kills the service, and starts it again with the configuration file `config.yaml` in the
    /// folder.
    pub async fn restart_configured(&mut self) {
        self.kill().await;
        self.resume_configured().await;
    }

    /// Starts the service, which was killed, with the configuration file `config.yaml` in the folder.
    pub async fn resume_configured(&mut self) {
        (self.process, self.api.address, self.ready) =
            spawn(self.folder.path(), &self.settings, &self.listen, &["--config", "config.yaml"], &[]).await;
    }

    /// Like [`restart_configured`](Self::restart_configured), but the service resolves names by this
    /// file, which only the service sees as `/etc/resolv.conf`.
    pub async fn restart_configured_with_names(&mut self, resolv_conf: &str) {
        self.kill().await;
        std::fs::write(self.folder().join("resolv.conf"), resolv_conf).unwrap();
        let script = "mount --bind resolv.conf /etc/resolv.conf && exec \"$@\"";
        let wrapper = ["unshare", "--mount", "sh", "-c", script, "sh"];
        let more = ["--config", "config.yaml"];
        (self.process, self.api.address, self.ready) =
            spawn(self.folder.path(), &self.settings, &self.listen, &more, &wrapper).await;
    }

    /// Kills the service with SIGKILL.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.process.wait().await.unwrap();
    }

    /// Kills the service, and starts it again.
    pub async fn kill_and_restart(&mut self) {
        self.kill().await;
        self.restart().await;
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid().as_raw_nonzero())).unwrap();
        stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id().unwrap()).unwrap()).unwrap()
    }

    /// The number of objects that the service has open, without folders and lock files.
    pub fn open_objects(&self) -> usize {
        self.open_files().len()
    }

    /// The total size of the objects that the service has open, in bytes.
    pub fn open_bytes(&self) -> u64 {
        self.open_files().iter().filter_map(|file| Some(std::fs::metadata(file).ok()?.len())).sum()
    }

    fn open_files(&self) -> Vec<PathBuf> {
        let root = self.objects_folder().canonicalize().unwrap();
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid().as_raw_pid())).unwrap();
        let files = open.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
        files
            .filter(|file| file.starts_with(&root) && file.is_file() && !file.ends_with(".tmp/lock"))
            .collect()
    }

    pub fn process_id(&self) -> u32 {
        self.process.id().unwrap()
    }

    /// The peak memory of the service so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        super::peak_memory(self.process.id().unwrap())
    }

    /// Limits the size of files that the service writes. Writes beyond the limit fail as on a full
    /// disk. `None` removes the limit.
    pub fn limit_file_size(&self, bytes: Option<u64>) {
        let limit = Rlimit { current: bytes, maximum: None };
        rustix::process::prlimit(Some(self.pid()), Resource::Fsize, limit).unwrap();
    }

    /// Changes a setting for the next start.
    pub fn set_setting(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    pub async fn exit_status(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.process.wait()).await.expect("the process does not end").unwrap()
    }

    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Runs SQL on the service's database, and returns the first column of the rows as text, with
    /// bytes in hexadecimal.
    /// Locks the file of SQLite for writing, until the connection executes `ROLLBACK`.
    pub async fn lock_database(&self) -> DatabaseConnection {
        let path = self.folder.path().join("osproxy-data/osproxy.db");
        let mut options = ConnectOptions::new(format!("sqlite://{}", path.display()));
        options.max_connections(1);
        let connection = connect(options).await;
        connection.execute_unprepared("BEGIN IMMEDIATE").await.unwrap();
        connection
    }

    pub async fn sql(&self, sql: &str) -> Vec<String> {
        self.database.sql(sql).await
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Waits for the tasks that run at every start.
    pub async fn wait_until_started(&self) {
        let done = "SELECT count(*) FROM task_attempts WHERE outcome = 'done'";
        let are_done = async || (self.sql(done).await == [STARTUP_TASKS.to_string()]).then_some(());
        super::eventually("the service is idle", are_done).await;
    }

    /// Waits until the log contains `text`. Lines are written by a thread, so they may be late.
    pub async fn wait_for_log(&self, text: &str) {
        super::eventually(text, async || self.log().contains(text).then_some(())).await;
    }

    pub fn objects_folder(&self) -> PathBuf {
        self.folder.path().join("osproxy-data/objects")
    }

    /// All objects, whether published or not, as `<category>/<name>` without the shard folder. If
    /// the service uses a [`Store`], see [`Store::objects`].
    pub fn objects(&self) -> Vec<String> {
        self.store.as_ref().map_or_else(|| objects::list_objects(&self.objects_folder()), Store::objects)
    }

    pub async fn connect(&self) -> RawConnection {
        RawConnection::open(self.address).await
    }

    /// Waits until the content of a file is one object, and its parts are removed.
    pub async fn wait_until_merged(&self, uid: &str) {
        let sql = format!(
            "SELECT layout FROM blobs JOIN files ON blob_id = id WHERE uid = {uid} AND blobs.state = 'stored' \
             AND NOT EXISTS (SELECT 1 FROM parts WHERE parts.blob_id = blobs.id)"
        );
        super::eventually("the parts are merged", async || (self.sql(&sql).await == ["whole"]).then_some(()))
            .await;
    }

    /// Runs another command of the binary in the same folder. Returns the exit code, and stdout
    /// followed by stderr.
    pub async fn cli(&self, arguments: &[&str]) -> (i32, String) {
        self.cli_wrapped(&[], arguments).await
    }

    /// Like [`cli`](Self::cli), but the binary is started by `wrapper`, a command with arguments.
    pub async fn cli_wrapped(&self, wrapper: &[&str], arguments: &[&str]) -> (i32, String) {
        let mut command = command(self.folder.path(), &self.settings, wrapper);
        let output = command.args(arguments).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), text)
    }

    /// Creates a shell command that runs `script` in `folder`, with `osproxy` in the PATH. Replaces
    /// the address in the examples of the documentation with the address of this service.
    pub fn shell(&self, folder: &Path, script: &str) -> Command {
        let binaries = folder.join(".bin");
        std::fs::create_dir_all(&binaries).unwrap();
        // The script expects the folder `osproxy-data` of the service in the current folder.
        std::os::unix::fs::symlink(self.folder.path().join("osproxy-data"), folder.join("osproxy-data"))
            .unwrap();
        let osproxy = binaries.join("osproxy");
        let (home, binary) = (self.folder.path().display(), env!("CARGO_BIN_EXE_osproxy"));
        std::fs::write(&osproxy, format!("#!/bin/sh\ncd {home} && exec {binary} \"$@\"\n")).unwrap();
        std::fs::set_permissions(&osproxy, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &script.replace("127.0.0.1:8888", &self.address.to_string())]);
        bash.env("PATH", path).current_dir(folder).kill_on_drop(true).stdin(Stdio::null());
        bash.envs(self.settings.iter().map(|(name, value)| (format!("OSPROXY__{name}"), value)));
        bash
    }

    /// Creates an API key by `osproxy key create` with these options, and returns the key.
    pub async fn create_key(&self, options: &[&str]) -> String {
        let (code, said) = self.cli(&[&["key", "create"], options].concat()).await;
        assert_eq!(code, 0, "{said}");
        said.trim_end().to_owned()
    }

    /// Starts with a configuration file that has this content.
    pub async fn start_configured(config: &str) -> Self {
        let mut service = Self::start().await;
        std::fs::write(service.folder().join("config.yaml"), config).unwrap();
        service.restart_configured().await;
        service
    }

    /// Waits for a log line that contains this text, and returns the address in the first such
    /// line.
    pub async fn logged_address(&self, line: &str) -> SocketAddr {
        let said = async || self.log().lines().find(|found| found.contains(line)).map(str::to_owned);
        let line = super::eventually("the line is written", said).await;
        line.rsplit_once("address=").unwrap().1.split(' ').next().unwrap().parse().unwrap()
    }

    /// Starts another command of the binary in the same folder.
    pub fn spawn_cli(&self, arguments: &[&str]) -> Child {
        let mut command = command(self.folder.path(), &self.settings, &[]);
        command.args(arguments).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Waits until no blob or part is being written or deleted, and no task has parts of a merged
    /// blob left to delete. Then kills the service, and asserts that metadata and objects agree.
    pub async fn assert_consistent(&mut self) {
        let unfinished = "SELECT id FROM blobs WHERE state IN ('writing', 'deleting') \
                          UNION ALL SELECT id FROM parts WHERE state IN ('writing', 'deleting') \
                          UNION ALL SELECT parts.id FROM parts JOIN blobs ON blobs.id = blob_id \
                              WHERE blobs.layout = 'whole' AND blake3 IS NOT NULL";
        let is_finished = async || self.sql(unfinished).await.is_empty();
        let stopped = async || {
            if !is_finished().await {
                return None;
            }
            // A task may have started meanwhile. Once the process is stopped, none starts.
            self.signal(Signal::STOP);
            super::eventually("the process is stopped", async || self.is_stopped().then_some(())).await;
            if is_finished().await {
                return Some(());
            }
            self.signal(Signal::CONT);
            None
        };
        super::eventually("nothing is being written or removed", stopped).await;
        self.kill().await;
        let (code, said) = self.cli(&["fsck", "--deep"]).await;
        assert_eq!(code, 0, "{said}");
    }
}
