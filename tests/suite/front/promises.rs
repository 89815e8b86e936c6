//! A boot and a set-up of three nodes take a quarter of a minute, so several promises are tried on one site.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use super::site::Site;

/// Its name, which is a sentence, and how it is tried.
pub type Promise = (&'static str, fn(&Site));

/// The promises that these functions try.
macro_rules! promises {
    ($($promise:path),+ $(,)?) => {
        &[$((stringify!($promise), $promise as fn(&$crate::front::site::Site))),+]
    };
}
pub(crate) use promises;

/// Tries one after the other. Each leaves the site as it has found it, but the last one need not. The first one
/// that is broken ends the test, which says its name.
///
/// `CMONHACHK_PROMISE` is a part of the names of those to try.
pub fn try_each(site: &Site, promises: &[Promise]) {
    let chosen = env::var("CMONHACHK_PROMISE").unwrap_or_default();
    for (name, promise) in promises.iter().filter(|(name, _)| name.contains(&chosen)) {
        let start = Instant::now();
        let kept = catch_unwind(AssertUnwindSafe(|| promise(site)));
        let time = start.elapsed();
        if let Err(panic) = kept {
            eprintln!("BROKEN after {time:.1?}: {name}");
            resume_unwind(panic);
        }
        eprintln!("kept, {time:.1?}: {name}");
    }
}
