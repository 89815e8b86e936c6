//! `cmonhachk` answers one health check: is this node's ClusterControl controller the leader?
//!
//! It is a *health-check responder* with a *single-flight cached result*. Each connection has a process of its
//! own, which a super-server or the [`net::listener`] starts; it answers once and exits.
//!
//! # How a check works
//!
//! ```text
//!  client ──▶ connection ──▶ request ──────────────────────────────┐
//!                                                                  ▼
//!             cache ────────── hit ─────────────▶ verdict ──▶ response ──▶ client
//!               │ miss, and the lock                 ▲
//!               ▼                                    │
//!             s9s ──▶ list ──▶ this node's row ──────┤
//!               │ what fails                         │
//!               ▼                                    │
//!             reason ────────────────────────────────┘
//! ```
//!
//! Data goes one way. No step depends on how the next one works, and a step that fails gives a reason.
//!
//! # Which room answers which question
//!
//! A room uses only rooms below it. The first file of each begins with its question and its answer.
//!
//! | room | question |
//! |---|---|
//! | [`cli`] | What does a person get? |
//! | [`net`] | What does a client get? |
//! | [`check`] | In which order does a question come to a verdict? |
//! | [`cache`] | What do checks share? |
//! | [`s9s`] | How is the client s9s run, and what do its ends mean? |
//! | [`cluster`] | What does the list say of this node? |
//! | [`options`] | What did the operator ask for? |
//! | [`verdict`] | In which words is the result given? |
//! | [`client`] | What does a check say to a program that asks it? |
//! | [`os`] | What does the machine offer? |
//!
//! [`client`] is for two programs of their own, which ask a check as every client does: `src/leads.rs`, which keepalived
//! runs, and `src/front`, which sets up HAProxy and keepalived. The check does not use it.
//!
//! [`os`], [`client`] and [`verdict`] use nothing of ours. [`cluster`], [`net::request`], [`net::response`], [`net::metrics`], [`verdict`],
//! [`cache::entry`] and [`os::env_file`] are pure: they touch no clock, file or process. What they read is fuzzed with
//! millions of inputs. [`cli`] uses [`net`] for `--listen` and for the response that it prints.
//!
//! # What must always hold
//!
//! 1. **Never a 200 that the list did not say.** A cut, old, unclear or contradictory list means unknown. Two paths are
//!    for monitoring: `/health` is 200 for a follower, too, and `/metrics` for each verdict.
//! 2. **One response.** Either the watchdog or the check gives it, never both, even after a panic.
//! 3. **In time.** The watchdog answers at most 200 ms after the deadline if the check has not.
//! 4. **No leftovers.** No s9s process, lock or file remains that disturbs the next check.
//!
//! Why it is built like this: `src/decisions.md`.

#![warn(missing_docs)]

pub mod cache;
pub mod check;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod net;
pub mod options;
pub mod os;
pub mod s9s;
pub mod verdict;
