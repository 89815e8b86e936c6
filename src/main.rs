//! Decides only who is asking: a client, a super-server or a person.

use std::process::ExitCode;

use cmonhachk::cli::command_line;
use cmonhachk::net::connection::{Connection, Input};
use cmonhachk::net::listener::serve_stdin;
use cmonhachk::net::serve;
use cmonhachk::os::clock::Instant;

/// musl's allocator returns each freed page to the kernel, which costs a short-lived process most.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let started = Instant::now();
    // First of all, so that nothing but the response can reach a client.
    match Connection::on_stdin() {
        Input::Client(connection) => {
            serve(connection, started);
            ExitCode::SUCCESS
        }
        Input::Listener => serve_stdin(),
        Input::Other => command_line(started),
    }
}
