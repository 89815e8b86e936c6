//! `cmonhachk` answers one health check: is this node's ClusterControl controller the leader?
//!
//! It is a *health-check responder* with a *single-flight cached result*. Each connection has a process of its
//! own, which a super-server or the [`listener`] starts; it answers once and exits.
//!
//! # The way of a check
//!
//! ```text
//!  client ──▶ connection ──▶ request ─────────────────────────────┐
//!                                                                 ▼
//!             key ──▶ cache ──── hit ─────────────▶ verdict ──▶ answer ──▶ client
//!                       │ miss, and the lock           ▲
//!                       ▼                              │
//!             defaults, s9s ──▶ list ──▶ evaluation ───┤
//!                       │ what fails                   │
//!                       ▼                              │
//!                     reason ──────────────────────────┘
//! ```
//!
//! Data goes one way. No step depends on how the next one works, and a step that fails gives a [`reason`].
//!
//! # Which file answers which question
//!
//! | file | question |
//! |---|---|
//! | [`listener`] | Who accepts, and how many checks run at once? |
//! | [`connection`] | Is there a client, what did it send, and did it get the answer? |
//! | [`request`] | What does the client ask for? |
//! | [`serve`], [`by_hand`] | In which order, for a client and for a person? |
//! | [`check`] | How does a check come to its verdict, and what does it publish? |
//! | [`pause`] | When must s9s not be run again? |
//! | [`key`], [`entry`], [`cache`] | Which checks can share a verdict, how is it written, and for how long? |
//! | [`defaults`], [`settings`] | Who is this node; what do shell-style files say, and what can only a shell tell? |
//! | [`s9s`], [`conf`] | How is s9s run, what does each way to end mean, what does it read? |
//! | [`process`] | How is a program run for a limited time, and killed with its process group? |
//! | [`list`], [`evaluation`] | What does the list say, and what does it say about this node? |
//! | [`verdict`], [`reason`] | In which words is the result given? |
//! | [`answer`], [`log`], [`explain`] | What do the client, syslog and a person read? |
//! | [`told`] | What were the clients told last, and is that a change? |
//! | [`guard`], [`moment`] | What if something blocks? How much time is left? |
//! | [`options`], [`machine`] | What did the operator ask for? What does the machine say of itself? |
//!
//! [`request`], [`settings`], [`defaults`], [`list`], [`evaluation`], [`verdict`], [`entry`] and [`answer`]
//! are pure: they touch no clock, file or process. All but [`answer`] are fuzzed with millions of inputs.
//!
//! # What must always hold
//!
//! 1. **Never a 200 that the list did not say.** A cut, old, unclear or contradictory list means unknown.
//! 2. **One answer.** Either the guard or the check gives it, never both, even after a panic.
//! 3. **In time.** The guard answers at most 200 ms after the deadline if the check has not.
//! 4. **Nothing left.** No s9s, no lock, and no file that disturbs the next check.
//!
//! # Why the state is in files
//!
//! A check is a process that answers once, so a hang, a leak or a crash ends with it. The checks share no more
//! than a lock, which the kernel frees when its holder ends, and two links beside it: the last verdict of s9s,
//! and what clients were told last. Each can be deleted at any moment.

#![warn(missing_docs)]

pub mod cache;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod net;
pub mod options;
pub mod os;
pub mod s9s;
pub mod verdict;
