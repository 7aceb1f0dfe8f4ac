use std::{collections::HashSet, ffi::OsString, fs::DirEntry, process::Stdio, time::Duration};

use tokio::process::{Child, Command};

use super::{Service, eventually};

/// System calls of a service that hang, as on a disk that does not answer. Dropping this lets the
/// calls continue.
pub struct HangingCalls {
    tracer: Child,
    tasks: String,
}

impl HangingCalls {
    /// Lets all calls hang that open `path`. `path` must be written as in the calls of the service.
    pub async fn on_open(service: &Service, path: &str) -> Self {
        let (process, tasks) =
            (service.pid().as_raw_pid(), format!("/proc/{}/task", service.pid().as_raw_pid()));
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-p", &process.to_string(), "-P", path, "-o", "hung", "-e"]).args([
            "trace=?open,openat",
            "-e",
            "inject=?open,openat:delay_enter=3600000000",
        ]);
        strace.current_dir(service.folder()).stdin(Stdio::null()).kill_on_drop(true);
        let hang = Self { tracer: strace.spawn().unwrap(), tasks };
        let is_traced = |(_, status): &(OsString, String)| !status.contains("TracerPid:\t0\n");
        let attached = async || hang.statuses().iter().all(is_traced).then_some(());
        eventually("the service is traced", attached).await;
        hang
    }

    /// The threads of the service, each with its status in `/proc`.
    fn statuses(&self) -> Vec<(OsString, String)> {
        let tasks = std::fs::read_dir(&self.tasks).unwrap().map(Result::unwrap);
        // A thread may end meanwhile.
        let status = |task: DirEntry| {
            Some((task.file_name(), std::fs::read_to_string(task.path().join("status")).ok()?))
        };
        tasks.filter_map(status).collect()
    }

    /// The number of hanging threads. The tracer stops every thread for short times. Threads that
    /// are stopped in ten checks within 200 ms count as hanging.
    pub async fn count_threads(&self) -> usize {
        let mut stopped: Option<HashSet<OsString>> = None;
        for _ in 0..10 {
            let now = self.statuses().into_iter().filter(|(_, status)| status.contains("State:\tt"));
            let now: HashSet<_> = now.map(|(task, _)| task).collect();
            stopped = Some(match stopped {
                Some(before) => before.intersection(&now).cloned().collect(),
                None => now,
            });
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stopped.unwrap_or_default().len()
    }

    /// Lets the calls continue.
    pub async fn release(mut self) {
        self.tracer.kill().await.unwrap();
    }
}
