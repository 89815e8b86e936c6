//! What does a check say to a program that asks it?
//!
//! For the two programs that are clients of a check: `src/front` and `src/leads.rs`.

pub mod http;
pub mod state;
