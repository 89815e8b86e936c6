//! Decides only who is asking: a client, a super-server or a person.

use std::process::ExitCode;

use cmonhachk::by_hand::by_hand;
use cmonhachk::connection::{Connection, Input};
use cmonhachk::listener::serve_stdin;
use cmonhachk::moment::Moment;
use cmonhachk::serve::serve;

/// musl's allocator returns each freed page to the kernel, which costs a short-lived process most.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let started = Moment::now();
    // First of all, so that nothing but the answer can reach a client.
    match Connection::on_stdin() {
        Input::Client(connection) => {
            serve(connection, started);
            ExitCode::SUCCESS
        }
        Input::Listener => serve_stdin(),
        Input::Other => by_hand(started),
    }
}
