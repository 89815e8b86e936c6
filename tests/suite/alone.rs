//! What runs alone: these tests keep all processors busy, or measure. tests/run.sh has a part for them,
//! and .config/nextest.toml a profile.

mod chaos;
mod crowd;
mod failover;
mod flood;
mod load;
mod queue;
mod rows;
mod stale;
