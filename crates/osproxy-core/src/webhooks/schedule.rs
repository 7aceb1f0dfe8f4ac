//! When failed deliveries are repeated, and when an endpoint rests.

use std::time::Duration;

use super::client::SendOutcome;

/// Delays after the failed attempts of one delivery. After the last one, the delivery is dead.
const RETRY_DELAYS: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];
/// Failures in a row after which an endpoint backs off: if it answers, and if it does not.
const MAX_REFUSALS: u32 = 10;
const MAX_UNREACHABLE: u32 = 3;
/// Shortest and longest pause of an endpoint that backs off.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_mins(5);

/// Returns the delay before the next attempt of a delivery, after `attempts` failed attempts. `None`
/// if there are no attempts left. With jitter, so that deliveries that failed together are not
/// repeated together.
pub(super) fn retry_delay(attempts: u32) -> Option<Duration> {
    let index = usize::try_from(attempts.checked_sub(1)?).ok()?;
    RETRY_DELAYS.get(index).map(|delay| with_jitter(*delay))
}

/// Returns how long an endpoint backs off after `failures` failures in a row, of which the last had
/// this outcome. `None` if it does not back off. The pause doubles with each failure.
pub(super) fn backoff(failures: u32, outcome: SendOutcome) -> Option<Duration> {
    let tolerated = if outcome == SendOutcome::Unreachable { MAX_UNREACHABLE } else { MAX_REFUSALS };
    let further = failures.checked_sub(tolerated)?;
    let pause = MIN_BACKOFF.saturating_mul(2_u32.saturating_pow(further)).min(MAX_BACKOFF);
    Some(with_jitter(pause))
}

/// Adds up to a tenth.
fn with_jitter(delay: Duration) -> Duration {
    let mut random = [0; 2];
    // Without random numbers, there is no jitter.
    let share = getrandom::fill(&mut random).map_or(0, |()| u16::from_be_bytes(random));
    delay + delay.mul_f64(f64::from(share) / f64::from(u16::MAX) / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_repeated_for_three_days() {
        assert_eq!(retry_delay(0), None);
        assert_eq!(retry_delay(10), None);
        let delays: Vec<_> = (1..10).map(|attempts| retry_delay(attempts).unwrap()).collect();
        let total: Duration = delays.iter().sum();
        let days = total.as_secs_f64() / 86_400.0;
        assert!((3.1..3.5).contains(&days), "{days}");
        assert!(
            delays
                .iter()
                .zip(RETRY_DELAYS)
                .all(|(delay, least)| (least..=least.mul_f64(1.1)).contains(delay))
        );
        let spread: Vec<_> = (0..100).map(|_| retry_delay(1).unwrap()).collect();
        assert!(spread.iter().max().unwrap().as_millis() > spread.iter().min().unwrap().as_millis() + 100);
    }

    #[test]
    fn an_endpoint_backs_off_after_failures_in_a_row() {
        for (tolerated, outcome) in [(3, SendOutcome::Unreachable), (10, SendOutcome::Refused)] {
            for failures in 0..tolerated {
                assert_eq!(backoff(failures, outcome), None);
            }
            for (further, least) in [(0, 1), (1, 2), (4, 16), (9, 300), (1000, 300)] {
                let pause = backoff(tolerated + further, outcome).unwrap().as_secs_f64();
                let least = f64::from(least);
                assert!((least..=least * 1.1).contains(&pause), "{further}: {pause}");
            }
        }
    }
}
