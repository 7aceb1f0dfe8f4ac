//! Checks the object folder on the local disk.

use std::{os::unix::fs::PermissionsExt, path::Path};

use osproxy_meta::DatabaseLocation;
use osproxy_storage::{ErrorKind, backends::Local};
use osproxy_types::error_chain;

use super::report::DoctorReport;
use crate::config::Config;

/// Checks the object folder, even while a service uses it.
pub(super) async fn check(config: &Config, report: &mut DoctorReport) {
    let root = config.object_folder();
    report.line(&format!("local: {}", root.display()));
    match Local::probe(&root).await {
        Ok(probe) => {
            let state = if probe.exists {
                "objects can be written, moved and read"
            } else {
                "does not exist yet, but can be created"
            };
            report.ok("folder", &format!("{state}; {} free", format_bytes(probe.free)));
            check_permissions(config, &root, report).await;
        }
        Err(problem) => {
            let advice = if problem.kind == ErrorKind::Full {
                "the disk is full, or a quota or limit is reached"
            } else {
                "objects cannot be written; check `local.root`, `data_dir` and the owner of the folder"
            };
            report.wrong("folder", &format!("{advice} ({})", error_chain(&problem)));
        }
    }
}

/// Warns about folders and files that other users can access. Skips paths inside the data folder if
/// other users cannot access that folder.
async fn check_permissions(config: &Config, root: &Path, report: &DoctorReport) {
    let mut open = Vec::new();
    let database = match config.database_location() {
        Ok(DatabaseLocation::File(database)) => Some(database),
        _ => None,
    };
    for path in [Some(config.data_dir.clone()), Some(root.to_owned()), database].into_iter().flatten() {
        let is_below_closed =
            path.starts_with(&config.data_dir) && path != config.data_dir && open.is_empty();
        if is_below_closed {
            continue;
        }
        // osproxy creates missing folders and files with the right permissions.
        let Ok(metadata) = tokio::fs::metadata(&path).await else {
            continue;
        };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            open.push(format!("{} (mode {mode:04o})", path.display()));
        }
    }
    if open.is_empty() {
        report.ok("permissions", "only this user can read stored data");
    } else {
        let open = open.join(", ");
        report.warning(
            "permissions",
            &format!("other users can read {open}; to deny access, run `chmod go= PATH`"),
        );
    }
}

/// Formats a size in the largest unit in which it is at least 1; below 1 KiB, in KiB.
fn format_bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let power = (bytes.max(1).ilog2() / 10).clamp(1, 5);
    let tenths = bytes.saturating_mul(10) >> (10 * power);
    let unit = units.get(power as usize - 1).copied().unwrap_or_default();
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::format_bytes;

    #[test]
    fn sizes_have_fitting_units() {
        for (bytes, text) in [
            (0, "0.0 KiB"),
            (1023, "0.9 KiB"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (3 << 29, "1.5 GiB"),
            (5 << 40, "5.0 TiB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }
}
