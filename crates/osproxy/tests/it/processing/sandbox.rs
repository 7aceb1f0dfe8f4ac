//! What programs can do in the sandbox.

use std::collections::BTreeMap;

use osproxy_api::v1::FileState;
use rustix::io::Errno;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde_json::{Value, json};

use super::{said, start, wait_for};
use crate::support::{Service, spawn_failing};

/// Tries what is forbidden, and reports what has worked.
const PROGRAM: &str = r#"
import ctypes, errno, json, os, resource, socket, sys, threading

worked = {}
libc = ctypes.CDLL(None, use_errno=True)
CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
NEW_NAMESPACES = [
    ("mount", 0x20000), ("cgroup", 0x2000000), ("uts", 0x4000000), ("ipc", 0x8000000),
    ("user", 0x10000000), ("pid", 0x20000000), ("net", 0x40000000),
]

def attempt(name, call):
    try:
        call()
        worked[name] = True
    except (OSError, ValueError):
        worked[name] = False

def fork_and_leave():
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os._exit(0)
        except OSError:
            os._exit(1)
    if os.waitpid(pid, 0)[1] != 0:
        raise OSError("it cannot leave")

def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    if result == 0 and number == CLONE:
        os._exit(0)
    if result < 0:
        raise OSError(ctypes.get_errno(), "it failed")

def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "it failed")

def run_thread():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()

for name, flag in NEW_NAMESPACES:
    attempt("clone " + name, lambda: call(CLONE, flag | 17, 0, 0, 0, 0))
    attempt("unshare " + name, lambda: check(libc.unshare(flag)))
attempt("setns", lambda: check(libc.setns(0, 0)))
try:
    call(435, 0, 0)
except OSError as error:
    worked["clone3"] = errno.errorcode[error.errno]
attempt("thread", run_thread)
attempt("process", lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0))

attempt("inet", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
attempt("inet6", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
attempt("unix", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
attempt("kill", lambda: os.kill(os.getppid(), 0))
attempt("leave", fork_and_leave)
attempt("other", lambda: open(sys.argv[1], "rb"))
attempt("secrets", lambda: open("/etc/shadow", "rb"))
attempt("environment", lambda: open("/proc/%d/environ" % os.getppid(), "rb").read())
attempt("write", lambda: open("/tmp/osproxy-sandbox-test", "wb"))
attempt("programs", lambda: open("/usr/bin/env", "rb"))
attempt("limits", lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
open_files = []
for number in range(3, 256):
    try:
        os.fstat(number)
        open_files.append(number)
    except OSError:
        pass
try:
    bytearray(2 << 30)
    worked["memory"] = True
except MemoryError:
    worked["memory"] = False
read = len(sys.stdin.buffer.read())
json.dump({"verdict": "accept", "media": {
    "worked": worked, "read": read, "files": open_files, "environment": dict(os.environ),
}}, sys.stdout)
"#;

#[tokio::test]
async fn a_program_reaches_nothing_but_its_input() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program.py");
    std::fs::write(&program, PROGRAM).unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let step = json!({
        "step": "command",
        "command": ["/usr/bin/python3", "-I", "-S", program, secret],
        "readable": [program],
    });
    let service = start(&[step]).await;
    let uid = service.store("a name.txt", b"twelve bytes").await;
    let stored = wait_for(&service, &uid, FileState::Stored).await;
    let media = Value::from(stored.media.unwrap());
    let expected = json!({
        "inet": false, "inet6": false, "unix": false, "kill": false, "leave": false, "other": false,
        "secrets": false, "environment": false, "write": false, "programs": true, "limits": false,
        "memory": false, "setns": false, "clone3": "ENOSYS", "thread": true, "process": true,
    });
    let mut worked = media["worked"].clone();
    let worked_object = worked.as_object_mut().unwrap();
    for namespace in ["mount", "cgroup", "uts", "ipc", "user", "pid", "net"] {
        for call in ["clone", "unshare"] {
            assert_eq!(worked_object.remove(&format!("{call} {namespace}")), Some(false.into()), "{media}");
        }
    }
    assert_eq!(worked, expected);
    assert_eq!((&media["read"], &media["files"]), (&json!(12), &json!([])));
    let mut environment = media["environment"].clone();
    // Python sets this one itself, where there is no locale.
    environment.as_object_mut().unwrap().remove("LC_CTYPE");
    let expected = json!({
        "OSPROXY_UID": uid, "OSPROXY_TENANT": "default", "OSPROXY_NAME": "a name.txt", "OSPROXY_SIZE": "12",
        "OSPROXY_CONTENT_TYPE": "text/plain",
    });
    assert_eq!(environment, expected);
}

#[tokio::test]
async fn the_configuration_names_missing_programs() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"processing": [
        {"step": "command", "command": ["/nowhere/program"]},
        {"step": "scan", "clamd": "localhost"},
        {"step": "type", "allow": ["image"]},
    ]});
    std::fs::write(folder.path().join("bad.yaml"), config.to_string()).unwrap();
    for command in ["check-config", "serve"] {
        let (status, _, said) =
            crate::support::spawn_failing(folder.path(), &[], &[command, "--config", "bad.yaml"]).await;
        assert_eq!(status.code(), Some(1));
        for problem in [
            "processing[0].command: there is no program /nowhere/program",
            "processing[1].clamd: must be an address",
            "processing[2].allow: \"image\" is no MIME type",
        ] {
            assert!(said.contains(problem), "{said}");
        }
    }
}

/// Makes this system look like one without Landlock, to this thread and the processes that it starts.
fn hide_landlock() {
    /// The number on all architectures.
    const LANDLOCK_CREATE_RULESET: i64 = 444;
    let missing = SeccompAction::Errno(Errno::NOSYS.raw_os_error().cast_unsigned());
    let rules = BTreeMap::from([(LANDLOCK_CREATE_RULESET, Vec::new())]);
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

#[tokio::test]
async fn without_landlock_no_program_runs_unless_that_is_accepted() {
    let script = |accepted: &str| format!(r#"[/bin/sh, -c, 'echo "{{\"verdict\": \"accept\"}}"']{accepted}"#);
    let config = |accepted| format!("processing: [{{step: command, command: {}}}]", script(accepted));
    let doctor = async |service: &Service| service.cli(&["doctor", "--config", "config.yaml"]).await.1;
    let mut service = Service::start_configured(&config("")).await;
    assert!(doctor(&service).await.contains("ok       sandbox"));
    hide_landlock();
    assert!(doctor(&service).await.contains("wrong    sandbox"));
    // The node that runs already may judge files. Another one does not start.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.yaml"), config("")).unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--config", "config.yaml"];
    let (status, _, said) = spawn_failing(folder.path(), &[], &serve).await;
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("processing[0]: the program of the step command"), "{said}");
    assert!(said.contains("set `require_landlock: false` to accept this"), "{said}");

    std::fs::write(service.folder().join("config.yaml"), config(", require_landlock: false")).unwrap();
    service.restart_configured().await;
    service.wait_for_log("this system has no Landlock").await;
    assert!(doctor(&service).await.contains("warning  sandbox"));
    let uid = service.store("x.bin", b"x").await;
    wait_for(&service, &uid, FileState::Stored).await;
}

/// The process ids of the children of `parent`, and whether they are zombies.
fn children(parent: u32) -> Vec<(u32, bool)> {
    let children = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let id = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let (state, found) = (fields.next()?, fields.next()?);
        (found.parse() == Ok(parent)).then_some((id, state == "Z"))
    });
    children.collect()
}

/// In a container, the service often has the process id 1: orphans become its children.
#[tokio::test]
async fn orphans_of_a_program_are_killed_and_reaped() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"(sleep 1013 < /dev/null > /dev/null 2>&1 &); echo '{"verdict": "accept"}'"#;
    let sleeps = "(sleep 1013 < /dev/null > /dev/null 2>&1 &); sleep 1013";
    let config = json!({"processing": [
        {"step": "command", "command": ["/bin/sh", "-c", script]},
        {"step": "command", "command": ["/bin/sh", "-c", sleeps], "timeout": 1, "on_error": "pass"},
    ]});
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, config.to_string()).unwrap();
    let setting = format!("OSPROXY_CONFIG={}", path.display());
    let wrapper = ["env", &setting, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let service = Service::start_wrapped(&[], &wrapper).await;
    let unshare = service.pid().as_raw_nonzero().get().cast_unsigned();
    let (osproxy, _) = children(unshare)[0];
    let status = std::fs::read_to_string(format!("/proc/{osproxy}/status")).unwrap();
    assert!(status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{status}");
    let uid = service.store("x.bin", b"x").await;
    wait_for(&service, &uid, FileState::Stored).await;
    let said = said(&service, &uid).await;
    let outcomes: Vec<_> = said["steps"].as_array().unwrap().iter().map(|step| &step["outcome"]).collect();
    assert_eq!(outcomes, ["accepted", "passed"]);
    assert_eq!(children(osproxy), []);
}
