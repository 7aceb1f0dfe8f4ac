//! What a process does to itself before it handles untrusted content.
//!
//! The restrictions survive `exec` and hold for all descendants. None of them needs privileges.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use nix::{
    libc,
    sys::resource::{Resource, setrlimit},
    unistd::{alarm, getpid},
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Exit code of a process that could not restrict itself, or not run the program.
pub const FAILURE: i32 = 125;
/// Maximum number of open files.
const MAX_FILES: u64 = 64;
/// Files and folders that every program may read: programs and libraries.
const SYSTEM: [&str; 12] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/dev/null",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
];
/// System calls of the x32 ABI have this bit. A filter has to name them too.
const X32: i64 = 0x4000_0000;

/// Restrictions of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// Maximum time of the process. Its parent kills it at that time; if the parent is dead, an alarm
    /// does, a little later.
    pub timeout: Duration,
    /// Maximum address space, in bytes.
    pub max_memory: u64,
    /// Whether to fail if Landlock cannot restrict the access to files.
    pub require_landlock: bool,
    /// Files and folders that it may read, besides the system's programs and libraries.
    pub readable: Vec<PathBuf>,
}

impl Confinement {
    /// The arguments of the hidden subcommands from which this value is made again.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![
            format!("--timeout-secs={}", self.timeout.as_secs()).into(),
            format!("--max-memory={}", self.max_memory).into(),
        ];
        if !self.require_landlock {
            arguments.push("--without-landlock".into());
        }
        for path in &self.readable {
            arguments.push("--readable".into());
            arguments.push(path.into());
        }
        arguments
    }

    /// Restricts this process, and replaces it by a program. Returns only if that fails.
    pub fn exec(mut self, argv: &[OsString]) -> String {
        let Some((program, arguments)) = argv.split_first() else {
            return "no program is named".to_owned();
        };
        self.readable.push(program.into());
        match self.apply() {
            Ok(()) => {
                let error = Command::new(program).args(arguments).exec();
                format!("cannot run {}: {error}", Path::new(program).display())
            }
            Err(error) => error,
        }
    }

    /// Restricts this process, which must have only one thread. The error says what failed; the
    /// process must then end.
    pub fn apply(&self) -> Result<(), String> {
        close_files().map_err(|error| format!("cannot close inherited files: {error}"))?;
        let seconds = self.timeout.as_secs().max(1);
        // The parent is faster, so that it knows the reason.
        alarm::set(u32::try_from(seconds.saturating_add(5)).unwrap_or(u32::MAX));
        for (resource, limit) in [
            (Resource::RLIMIT_AS, self.max_memory),
            (Resource::RLIMIT_CPU, seconds.saturating_add(5)),
            (Resource::RLIMIT_CORE, 0),
            (Resource::RLIMIT_FSIZE, 0),
            (Resource::RLIMIT_NOFILE, MAX_FILES),
        ] {
            setrlimit(resource, limit, limit)
                .map_err(|error| format!("cannot set the limit {resource:?}: {error}"))?;
        }
        self.restrict_files().map_err(|error| format!("cannot restrict the access to files: {error}"))?;
        restrict_system_calls().map_err(|error| format!("cannot restrict system calls: {error}"))
    }

    /// Allows to read the listed files only, and to write none. Kernels without Landlock cannot
    /// restrict this.
    fn restrict_files(&self) -> Result<(), Box<dyn std::error::Error>> {
        let abi = ABI::V6;
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .add_rules(path_beneath_rules(SYSTEM, AccessFs::from_read(abi)))?
            .add_rules(path_beneath_rules(&self.readable, AccessFs::from_read(abi)))?
            .add_rules(path_beneath_rules(["/dev/null"], AccessFs::WriteFile))?;
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        if std::fs::File::from(stdin.try_clone()?).metadata()?.is_file() {
            rules = rules.add_rule(PathBeneath::new(stdin, AccessFs::ReadFile))?;
        }
        let status = rules.restrict_self()?;
        if self.require_landlock && status.ruleset == RulesetStatus::NotEnforced {
            return Err("this system has no Landlock".into());
        }
        Ok(())
    }
}

/// Whether this system has Landlock, which restricts the access of programs to files.
pub fn has_landlock() -> bool {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1));
    rules.and_then(Ruleset::create).is_ok()
}

/// Closes all files but standard input, output and error.
fn close_files() -> io::Result<()> {
    let mut open = Vec::new();
    #[expect(clippy::disallowed_methods, reason = "this process has no reactor")]
    for entry in std::fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    for number in open.into_iter().filter(|number| *number > 2) {
        // Fails for the folder that was read above, which is closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

/// Forbids system calls by which a process could reach the network or other processes, change its
/// limits, or escape from its process group or namespaces. They fail with `EPERM`.
fn restrict_system_calls() -> Result<(), Box<dyn std::error::Error>> {
    let pid = u64::from(getpid().as_raw().cast_unsigned());
    let argument = |index, op, value| SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value);
    let not_own_process = || SeccompRule::new(vec![argument(0, SeccompCmpOp::Ne, pid)?]);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        FORBIDDEN.iter().map(|number| (*number, Vec::new())).collect();
    // A process may send signals to itself and to its group.
    rules.insert(
        libc::SYS_kill,
        vec![SeccompRule::new(vec![argument(0, SeccompCmpOp::Ne, pid)?, argument(0, SeccompCmpOp::Ne, 0)?])?],
    );
    rules.insert(libc::SYS_tgkill, vec![not_own_process()?]);
    // A pair of datagram sockets could send to sockets in the file system.
    let is_datagram = argument(1, SeccompCmpOp::MaskedEq(0xf), 2)?;
    rules.insert(libc::SYS_socketpair, vec![SeccompRule::new(vec![is_datagram])?]);
    // New processes and threads stay in the namespaces of this process.
    let has_flag = |flag: &i32| {
        argument(0, SeccompCmpOp::MaskedEq(u64::from(flag.cast_unsigned())), u64::from(flag.cast_unsigned()))
    };
    let in_namespace = NAMESPACES.iter().map(|flag| SeccompRule::new(vec![has_flag(flag)?]));
    rules.insert(libc::SYS_clone, in_namespace.collect::<Result<_, _>>()?);
    rules.extend(OLD_FORBIDDEN.iter().map(|number| (*number, Vec::new())));
    // Limits can be read, not set.
    let sets_limit = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![sets_limit])?]);
    // The flags of `clone3` are in memory, where a filter cannot look. Libraries use `clone` on
    // kernels without it.
    apply_filter(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)?;
    apply_filter(rules, libc::EPERM)
}

/// Makes system calls that match the rules fail with `error`.
fn apply_filter(
    mut rules: BTreeMap<i64, Vec<SeccompRule>>,
    error: i32,
) -> Result<(), Box<dyn std::error::Error>> {
    if cfg!(target_arch = "x86_64") {
        let same: Vec<_> = rules.iter().map(|(number, rules)| (number | X32, rules.clone())).collect();
        rules.extend(same);
    }
    let forbidden = SeccompAction::Errno(error.cast_unsigned());
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, forbidden, architecture)?;
    let program: BpfProgram = filter.try_into()?;
    // This also sets `no_new_privs`.
    seccompiler::apply_filter(&program)?;
    Ok(())
}

/// Flags of `clone` that create namespaces.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// The number of `fchmodat2` on all architectures.
const FCHMODAT2: i64 = 452;

/// Forbidden system calls that new architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLD_FORBIDDEN: [i64; 8] = [
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_mknod,
    libc::SYS_inotify_init,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_FORBIDDEN: [i64; 0] = [];

/// System calls that are forbidden with all arguments.
const FORBIDDEN: [i64; 69] = [
    // Changes of files that Landlock does not restrict, or not on all kernels.
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_mknodat,
    libc::SYS_inotify_init1,
    libc::SYS_fanotify_init,
    // Network. `io_uring` could open sockets too.
    libc::SYS_socket,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_shmget,
    libc::SYS_semget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
    // The process group and the limits.
    libc::SYS_setsid,
    libc::SYS_setpgid,
    libc::SYS_setrlimit,
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_open_by_handle_at,
    // The kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_syslog,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_texts() {
        let confinement = Confinement {
            timeout: Duration::from_secs(7),
            max_memory: 1 << 30,
            require_landlock: true,
            readable: vec!["/opt/a b".into()],
        };
        let expected = ["--timeout-secs=7", "--max-memory=1073741824", "--readable", "/opt/a b"];
        assert_eq!(confinement.arguments(), expected.map(OsString::from));
        let without = Confinement { require_landlock: false, readable: Vec::new(), ..confinement };
        let expected = ["--timeout-secs=7", "--max-memory=1073741824", "--without-landlock"];
        assert_eq!(without.arguments(), expected.map(OsString::from));
    }
}
