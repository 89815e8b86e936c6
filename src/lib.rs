//! `cmonhachk` answers one health check: is this node's ClusterControl controller the leader?
//!
//! Data goes one way, and each step is a file named after what it knows:
//! [`connection`] → [`request`] → [`lock`] → [`s9s`] → [`verdict`] → [`answer`]. [`serve`] walks it
//! for a client, [`by_hand`] for a person, [`check`] is the part that both share. What fails gives
//! a [`reason`], the one place that knows codes and words.

#![warn(missing_docs)]

pub mod answer;
pub mod by_hand;
pub mod check;
pub mod connection;
pub mod deadline;
pub mod defaults;
pub mod explain;
pub mod list;
pub mod lock;
pub mod log;
pub mod machine;
pub mod options;
pub mod reason;
pub mod record;
pub mod request;
pub mod s9s;
pub mod serve;
pub mod verdict;
