//! What becomes of the effects that a process has: tests let the k-th of them fail, or the process end at it.
//!
//! Every change of the kernel, of a PCI function and of the disk asks here first. On a node the answer is always yes, and
//! costs nothing. In a test the answer is that of the `Fate` that the thread lives under: a process that was killed is
//! one whose stack is unwound at an effect, so that nothing of it is done any more but what the kernel does too: its locks
//! are let go.

use std::fmt;
use std::io;

/// What an effect changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Links, addresses, routes, rules, sysctls, RDMA devices.
    Kernel,
    /// Drivers and settings of PCI functions.
    Function,
    /// Content or names that need room on the disk.
    Room,
    /// Removals and waiting for the disk.
    Disk,
}

/// Asks whether an effect may be had.
///
/// # Errors
/// What a test wants to go wrong.
pub fn effect(kind: Kind, what: fmt::Arguments<'_>) -> io::Result<()> {
    #[cfg(any(test, feature = "testing"))]
    return played::ask(kind, what).map_err(io::Error::from);
    #[cfg(not(any(test, feature = "testing")))]
    {
        let _ = (kind, what);
        Ok(())
    }
}

#[cfg(any(test, feature = "testing"))]
pub use played::{Fate, Turn, dies_half_way};

#[cfg(any(test, feature = "testing"))]
mod played {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::fmt;
    use std::panic::{self, AssertUnwindSafe};
    use std::rc::Rc;

    use nix::errno::Errno;

    use super::Kind;

    thread_local! {
        static LIVES: RefCell<Vec<Fate>> = const { RefCell::new(Vec::new()) };
    }

    /// What happens at one effect.
    pub enum Turn {
        /// It is refused; later ones work.
        Fails(Errno),
        /// The process ends before it. After the k-th is before the next: between them it only looks.
        Dies,
        /// The process ends in the middle of it, if it is a file that is written; else before it.
        Tears,
        /// Somebody else does something just before it.
        Meanwhile(Box<dyn FnOnce()>),
    }

    impl fmt::Debug for Turn {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Self::Fails(errno) => write!(f, "fails with {errno:?}"),
                Self::Dies => f.write_str("dies before"),
                Self::Tears => f.write_str("dies in the middle of"),
                Self::Meanwhile(_) => f.write_str("somebody else, before"),
            }
        }
    }

    #[derive(Debug, Default)]
    struct State {
        effects: Vec<String>,
        turns: BTreeMap<usize, Turn>,
        /// Until further notice.
        refused: BTreeMap<Kind, Errno>,
        tears: bool,
        dead: bool,
    }

    /// One process, as far as its effects go; clones are the same.
    #[derive(Debug, Clone, Default)]
    pub struct Fate(Rc<RefCell<State>>);

    /// What is thrown where a process ends.
    struct Ended;

    impl Fate {
        /// What happens at the k-th effect from the beginning; 0 is the first.
        pub fn at(self, k: usize, turn: Turn) -> Self {
            self.0.borrow_mut().turns.insert(k, turn);
            self
        }

        /// Every effect of this kind is refused until [`Fate::allow`].
        pub fn refuse(&self, kind: Kind, errno: Errno) {
            self.0.borrow_mut().refused.insert(kind, errno);
        }

        /// Nothing is refused any more.
        pub fn allow(&self) {
            self.0.borrow_mut().refused.clear();
        }

        /// Effects so far, those that were refused among them.
        pub fn effects(&self) -> Vec<String> {
            self.0.borrow().effects.clone()
        }

        /// Whether some turn did not come yet.
        pub fn is_open(&self) -> bool {
            !self.0.borrow().turns.is_empty()
        }

        /// Does something as this process; `None` when it ended at that.
        pub fn live<T>(&self, deed: impl FnOnce() -> T) -> Option<T> {
            if self.0.borrow().dead {
                return None;
            }
            LIVES.with_borrow_mut(|lives| lives.push(self.clone()));
            let done = panic::catch_unwind(AssertUnwindSafe(deed));
            LIVES.with_borrow_mut(|lives| lives.pop());
            match done {
                Ok(done) => Some(done),
                Err(ended) if ended.is::<Ended>() => None,
                Err(failure) => panic::resume_unwind(failure),
            }
        }

        fn end(&self) -> ! {
            self.0.borrow_mut().dead = true;
            // Not `panic!`: nothing is told, nothing has gone wrong.
            panic::resume_unwind(Box::new(Ended))
        }
    }

    fn now() -> Option<Fate> {
        LIVES.with_borrow(|lives| lives.last().cloned())
    }

    pub(super) fn ask(kind: Kind, what: fmt::Arguments<'_>) -> Result<(), Errno> {
        let Some(fate) = now() else { return Ok(()) };
        let (turn, refused) = {
            let mut state = fate.0.borrow_mut();
            // What a destructor still does.
            if state.dead {
                return Err(Errno::ESRCH);
            }
            let number = state.effects.len();
            state.effects.push(what.to_string());
            (state.turns.remove(&number), state.refused.get(&kind).copied())
        };
        match turn {
            Some(Turn::Fails(errno)) => return Err(errno),
            Some(Turn::Dies) => fate.end(),
            Some(Turn::Tears) if kind == Kind::Room => fate.0.borrow_mut().tears = true,
            Some(Turn::Tears) => fate.end(),
            Some(Turn::Meanwhile(deed)) => {
                // Not as this process.
                let lives = LIVES.take();
                deed();
                LIVES.set(lives);
            }
            None => {}
        }
        refused.map_or(Ok(()), Err)
    }

    /// Whether the file that is being written is to be left half written; the process ends then.
    pub fn dies_half_way(half: impl FnOnce()) {
        let Some(fate) = now() else { return };
        if std::mem::take(&mut fate.0.borrow_mut().tears) {
            half();
            fate.end();
        }
    }
}
