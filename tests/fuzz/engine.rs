//! Replays the corpus, then makes inputs of it for two seconds a target; with libFuzzer for as long as wanted.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::allocations::largest_of;
use crate::mutants::{Mutant, Mutants};

/// For each target, on inputs that nobody chose. Some 20 targets, at least two at a time.
const BOUND: Duration = Duration::from_secs(2);
/// For one input, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Folder of its corpus.
    pub name: &'static str,
    /// What it may ask for in one piece beside some bytes for each of the input's.
    pub memory: usize,
    /// Asserts what holds.
    pub hold: fn(&[u8]),
}

/// Bytes asked for in one piece for each byte of the input: a node of a parsed tree is some hundred bytes.
const FOR_EACH_BYTE: usize = 1024;

impl Target {
    fn check(&self, input: &[u8]) {
        let largest = largest_of(|| (self.hold)(input));
        let bound = self.memory + FOR_EACH_BYTE * input.len();
        assert!(largest <= bound, "{largest} bytes in one piece for an input of {}", input.len());
    }
}

/// Inputs of the corpus with the names of their files.
pub fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    let read = |path: PathBuf| (path.display().to_string(), std::fs::read(&path).unwrap());
    files.into_iter().map(read).collect()
}

/// Ends the process if an input takes for ever: a thread can't be ended.
#[derive(Clone)]
struct Watch(Arc<Mutex<Option<Running>>>);

/// Since when, and the input.
type Running = (Instant, Vec<u8>);

impl Watch {
    fn of(target: &'static str) -> Self {
        let watch = Self(Arc::default());
        let seen = Arc::downgrade(&watch.0);
        std::thread::spawn(move || {
            while let Some(now) = seen.upgrade() {
                if let Some((since, input)) = &*now.lock().unwrap_or_else(PoisonError::into_inner)
                    && since.elapsed() > PATIENCE
                {
                    eprintln!("{target}: no end after {PATIENCE:?} of {:?}", Mutant(input.clone()));
                    std::process::abort();
                }
                drop(now);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        watch
    }

    fn begin(&self, input: &[u8]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), input.to_vec()));
    }

    fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The corpus as it is, and then inputs made of it.
pub fn run(target: Target) {
    // libFuzzer has its own corpus, mutations and limits (`tests/fuzz/long`).
    if std::env::var_os("BOLERO_LIBFUZZER_ARGS").is_some() {
        return bolero::check!(name = target.name).for_each(move |input: &[u8]| target.check(input));
    }
    let watch = Watch::of(target.name);
    let check = move |input: &[u8]| {
        watch.begin(input);
        target.check(input);
        watch.end();
    };
    let corpus = corpus(target.name);
    for (name, input) in &corpus {
        println!("{name}");
        check(input);
    }
    let mutants = Mutants::of(corpus.into_iter().map(|(_, input)| input).collect());
    bolero::check!(name = target.name)
        .with_generator(mutants)
        .with_test_time(BOUND)
        .for_each(move |mutant: &Mutant| check(&mutant.0));
}

/// A test for each target, called like its folder.
macro_rules! targets {
    ($($name:ident, $memory:expr;)*) => {
        $(
            #[test]
            fn $name() {
                let target = $crate::engine::Target { name: stringify!($name), memory: $memory, hold: hold::$name };
                $crate::engine::run(target);
            }
        )*
    };
}
pub(crate) use targets;
