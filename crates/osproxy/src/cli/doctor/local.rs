use osproxy_storage::{ErrorKind, backends::Local};

use super::report::Report;
use crate::{config::Config, error};

/// Looks at the folder of objects, which a service may be using.
pub(super) async fn examine(config: &Config, report: &mut Report) {
    let root = config.objects_root();
    report.line(&format!("local: {}", root.display()));
    match Local::probe(&root).await {
        Ok(probed) => {
            let there = if probed.exists {
                "objects can be written, moved and read"
            } else {
                "it does not exist yet, and can be made"
            };
            report.ok("folder", &format!("{there}; {} are free", bytes(probed.free)));
        }
        Err(problem) => {
            let advice = if problem.kind == ErrorKind::Full {
                "there is no room left, or no more than quotas and limits allow"
            } else {
                "objects cannot be written; is the folder right, and this user its owner? See `local.root` and `data_dir`"
            };
            report.wrong("folder", &format!("{advice} ({})", error::chain(&problem)));
        }
    }
}

/// Bytes in the largest unit that leaves a number before the point.
fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let power = (count.max(1).ilog2() / 10).clamp(1, 5);
    let tenths = count.saturating_mul(10) >> (10 * power);
    let unit = units.get(power as usize - 1).copied().unwrap_or_default();
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_told_in_fitting_units() {
        for (count, told) in [
            (0, "0.0 KiB"),
            (1023, "0.9 KiB"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (3 << 29, "1.5 GiB"),
            (5 << 40, "5.0 TiB"),
        ] {
            assert_eq!(bytes(count), told);
        }
    }
}
