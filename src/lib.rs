//! `cmonhachk` answers one health check: is this node's ClusterControl controller the leader?
//!
//! Data goes one way, and each step is a file named after what it knows:
//! [`connection`] → [`request`] → [`cache`] → [`s9s`] → [`evaluation`] → [`answer`]. [`serve`] walks it
//! for a client, [`by_hand`] for a person; [`check`] is the part that both share. [`guard`] ends what
//! comes to no end. What fails gives a [`reason`], the one place that knows codes and words.

#![warn(missing_docs)]

pub mod answer;
pub mod by_hand;
pub mod cache;
pub mod check;
pub mod conf;
pub mod connection;
pub mod deadline;
pub mod defaults;
pub mod entry;
pub mod evaluation;
pub mod explain;
pub mod guard;
pub mod key;
pub mod list;
pub mod log;
pub mod machine;
pub mod options;
pub mod process;
pub mod reason;
pub mod request;
pub mod s9s;
pub mod serve;
pub mod settings;
pub mod verdict;
