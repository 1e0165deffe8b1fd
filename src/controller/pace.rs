//! When the next round is due: short after a change, later after an error, later again in a fight. Pure.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// The controller's times.
#[derive(Debug, Clone)]
pub struct Settings {
    /// From the first event to the round that looks at it: a wipe of eight slices is one round.
    pub debounce: Duration,
    /// Wait after the first error; doubles with each.
    pub backoff_min: Duration,
    /// The longest wait after an error, and between rounds of a fight.
    pub backoff_max: Duration,
    /// Budget of one API call.
    pub call_timeout: Duration,
    /// Repairs within [`Settings::fight_window`] that are done at full speed. More of them look like two writers that
    /// undo each other's work, such as the old and the new agent of an upgrade.
    pub free_repairs: usize,
    /// See [`Settings::free_repairs`].
    pub fight_window: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(150),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            call_timeout: Duration::from_secs(15),
            free_repairs: 8,
            fight_window: Duration::from_secs(60),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Pace {
    settings: Settings,
    due: Option<Instant>,
    failures: u32,
    not_before: Option<Instant>,
    repairs: VecDeque<Instant>,
}

impl Pace {
    /// Nothing is due.
    pub fn new(settings: Settings) -> Self {
        Self { settings, due: None, failures: 0, not_before: None, repairs: VecDeque::new() }
    }

    /// When the next round is due.
    pub fn due(&self) -> Option<Instant> {
        self.due.map(|due| self.not_before.map_or(due, |limit| due.max(limit)))
    }

    /// Something changed; more changes until the round don't put it off.
    pub fn changed(&mut self, now: Instant) {
        if self.due.is_none() {
            self.due = Some(now + self.fight_delay(now));
        }
    }

    /// The watch brought something after errors: the server is back.
    pub fn server_is_back(&mut self) {
        self.failures = 0;
        self.not_before = None;
    }

    /// A round begins.
    pub fn begins(&mut self) {
        self.due = None;
    }

    /// A round ended well; `repair` means that it wrote although nothing new was offered.
    pub fn ended(&mut self, now: Instant, repair: bool) {
        self.server_is_back();
        if repair {
            self.repairs.push_back(now);
        }
    }

    /// A round failed; the next one is due after a wait.
    pub fn failed(&mut self, now: Instant) {
        let wait = doubled(self.settings.backoff_min, self.failures, self.settings.backoff_max);
        self.failures = self.failures.saturating_add(1);
        let at = now + jitter(wait);
        self.due = Some(at);
        self.not_before = Some(at);
    }

    fn fight_delay(&mut self, now: Instant) -> Duration {
        let window = self.settings.fight_window;
        self.repairs.retain(|at| now.duration_since(*at) < window);
        let over = self.repairs.len().saturating_sub(self.settings.free_repairs);
        doubled(
            self.settings.debounce,
            u32::try_from(over).unwrap_or(u32::MAX),
            self.settings.backoff_max.max(self.settings.debounce),
        )
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(2u32.saturating_pow(times)).min(most)
}

/// Between half and all of it: a thousand nodes that lost the server together shall not come back together.
pub fn jitter(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8) % 1024;
    wait / 2 + wait.mul_f64(random as f64 / 2048.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_changes_are_one_round_after_the_first() {
        let mut pace = Pace::new(Settings::default());
        let start = Instant::now();
        pace.changed(start);
        pace.changed(start + Duration::from_millis(100));
        assert_eq!(pace.due(), Some(start + Duration::from_millis(150)));
    }

    #[test]
    fn waits_after_errors_double_up_to_thirty_seconds_and_a_change_does_not_shorten_them() {
        let mut pace = Pace::new(Settings::default());
        let start = Instant::now();
        for expected in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            pace.begins();
            pace.failed(start);
            pace.changed(start);
            let wait = pace.due().unwrap().duration_since(start).as_secs_f64();
            assert!((expected / 2.0..=expected).contains(&wait), "{wait} for {expected}");
        }
        pace.server_is_back();
        pace.begins();
        pace.changed(start);
        assert_eq!(pace.due(), Some(start + Duration::from_millis(150)));
    }

    #[test]
    fn a_fight_slows_down_and_is_forgotten_after_a_quiet_minute() {
        let mut pace = Pace::new(Settings::default());
        let start = Instant::now();
        for _ in 0..20 {
            pace.begins();
            pace.ended(start, true);
        }
        pace.changed(start);
        assert_eq!(pace.due(), Some(start + Duration::from_secs(30)));
        pace.begins();
        let later = start + Duration::from_secs(61);
        pace.changed(later);
        assert_eq!(pace.due(), Some(later + Duration::from_millis(150)));
    }
}
