//! What the engine is at.

use std::{collections::HashMap, time::Duration};

use tokio::task::JoinSet;

/// What runs, and how many of each kind.
#[derive(Default)]
pub(super) struct Running {
    pub(super) set: JoinSet<&'static str>,
    pub(super) kinds: HashMap<&'static str, usize>,
}

impl Running {
    pub(super) fn count(&self, kind: &str) -> usize {
        self.kinds.get(kind).copied().unwrap_or(0)
    }

    pub(super) fn ended(&mut self, kind: Option<&'static str>) {
        if let Some(count) = kind.and_then(|kind| self.kinds.get_mut(kind)) {
            *count = count.saturating_sub(1);
        }
    }
}

pub(super) fn millis(duration: Duration) -> i64 {
    duration.as_millis().try_into().unwrap_or(i64::MAX)
}
