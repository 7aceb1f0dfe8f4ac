//! Judges how fast somebody is.

use std::time::Duration;

use crate::config::ServerSection;

/// How far somebody is behind a rate, in time in which nobody else was waited for. Starts with a window's lead, and never
/// has more. One long wait uses up the lead and no more: afterwards the rate must be kept. For long waits there are
/// time-outs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// In bytes per second; 0: anything will do.
    rate: u64,
    window: Duration,
    lead: Duration,
}

impl Pace {
    /// What the settings demand.
    pub(super) fn of(config: &ServerSection) -> Self {
        Self::new(config.min_rate, Duration::from_secs(config.rate_window))
    }

    /// Demands so many bytes per second, over this time.
    pub(super) const fn new(rate: u64, window: Duration) -> Self {
        Self { rate, window, lead: window }
    }

    /// Whether who was waited for so long, and moved so many bytes then, is still fast enough.
    pub(super) fn keeps(&mut self, waited: Duration, bytes: u64) -> bool {
        if self.rate == 0 {
            return true;
        }
        let Some(lead) = (self.lead + self.time(bytes)).checked_sub(waited.min(self.window)) else {
            return false;
        };
        self.lead = lead.min(self.window);
        true
    }

    /// How long so many bytes take at the rate; none if anything will do.
    pub(super) fn time(&self, bytes: u64) -> Duration {
        let micros = bytes.saturating_mul(1_000_000).checked_div(self.rate);
        micros.map_or(Duration::ZERO, Duration::from_micros)
    }

    /// How long somebody may take for so many bytes, with the lead that is left.
    pub(super) fn longest(&self, bytes: u64) -> Option<Duration> {
        (self.rate > 0).then(|| self.lead + self.time(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace() -> Pace {
        Pace::new(1000, 10 * SECOND)
    }

    #[test]
    fn who_trickles_is_found_out_after_a_window() {
        let mut pace = pace();
        let kept = (0..100).take_while(|_| pace.keeps(SECOND, 10)).count();
        assert_eq!(kept, 10);
    }

    #[test]
    fn who_keeps_the_rate_goes_on_for_ever() {
        let mut pace = pace();
        assert!((0..10_000).all(|_| pace.keeps(SECOND, 1000)));
        // In pieces of a window's size too.
        assert!((0..10_000).all(|_| pace.keeps(10 * SECOND, 10_000)));
    }

    #[test]
    fn one_long_pause_is_forgiven_and_a_second_one_is_not() {
        let mut pace = pace();
        assert!(pace.keeps(1000 * SECOND, 1));
        assert!(!pace.keeps(1000 * SECOND, 1));
    }

    #[test]
    fn speed_gives_no_lead_beyond_a_window() {
        let mut pace = pace();
        assert!(pace.keeps(SECOND, 1_000_000_000));
        assert!(pace.keeps(10 * SECOND, 0));
        assert!(!pace.keeps(SECOND, 0));
    }

    #[test]
    fn without_a_rate_anything_will_do() {
        let mut pace = Pace::new(0, SECOND);
        assert!((0..100).all(|_| pace.keeps(SECOND, 0)));
    }
}
