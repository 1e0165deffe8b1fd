//! The time, for whoever waits. Tests let it pass without waiting, and set the wall clock.
//!
//! What tests do to it holds for their own thread.

use std::time::{Duration, Instant, SystemTime};

#[cfg(any(test, feature = "testing"))]
mod played {
    use std::cell::Cell;
    use std::time::Duration;

    thread_local! {
        /// How far ahead of the machine's clock; none where nobody plays.
        pub(super) static AHEAD: Cell<Option<Duration>> = const { Cell::new(None) };
        /// Waiting that is shorter is real.
        pub(super) static REAL: Cell<Duration> = const { Cell::new(Duration::ZERO) };
        /// What was done to the wall clock alone, seconds.
        pub(super) static WALL: Cell<i64> = const { Cell::new(0) };
    }
}

/// Now; never set back.
pub fn now() -> Instant {
    #[cfg(any(test, feature = "testing"))]
    if let Some(ahead) = played::AHEAD.get() {
        return Instant::now() + ahead;
    }
    Instant::now()
}

/// What the wall clock says; anybody may set it.
pub fn wall() -> SystemTime {
    #[cfg(any(test, feature = "testing"))]
    if let Some(ahead) = played::AHEAD.get() {
        let jumped = Duration::from_secs(played::WALL.get().unsigned_abs());
        let now = SystemTime::now() + ahead;
        return if played::WALL.get() < 0 { now - jumped } else { now + jumped };
    }
    SystemTime::now()
}

/// Waits.
pub fn sleep(time: Duration) {
    #[cfg(any(test, feature = "testing"))]
    if let Some(ahead) = played::AHEAD.get().filter(|_| time >= played::REAL.get()) {
        return played::AHEAD.set(Some(ahead + time));
    }
    std::thread::sleep(time);
}

/// From now on waiting takes no time in this thread: the time just passes. Both clocks are right.
#[cfg(any(test, feature = "testing"))]
pub fn play() {
    play_from(Duration::ZERO);
}

/// The same for waiting that is not shorter than this: a kernel that runs has to be waited for.
#[cfg(any(test, feature = "testing"))]
pub fn play_from(real: Duration) {
    played::AHEAD.set(Some(Duration::ZERO));
    played::REAL.set(real);
    played::WALL.set(0);
}

/// Somebody sets the wall clock, by seconds; `None` is right.
#[cfg(any(test, feature = "testing"))]
pub fn set_wall(by: Option<i64>) {
    played::WALL.set(by.map_or(0, |by| played::WALL.get() + by));
}
