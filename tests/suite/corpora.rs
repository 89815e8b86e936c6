//! The inputs that fuzzing found worth keeping, once more: tests/fuzz/corpus/TARGET/.

use std::fs;
use std::path::PathBuf;

use crate::cluster::project;

#[path = "../fuzz/properties.rs"]
mod properties;

fn replay(target: &str, property: fn(&[u8])) {
    let corpus = project().join("tests/fuzz/corpus").join(target);
    let inputs: Vec<PathBuf> = fs::read_dir(&corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(!inputs.is_empty(), "{} is empty", corpus.display());
    for input in inputs {
        // Shown if the property panics.
        println!("{}", input.display());
        property(&fs::read(&input).unwrap());
    }
}

#[test]
fn the_kept_lists_are_judged_as_they_read() {
    replay("list", properties::list);
}

#[test]
fn the_kept_defaults_files_give_the_entries_they_assign() {
    replay("defaults", properties::defaults);
}

#[test]
fn the_kept_requests_are_complete_where_they_end() {
    replay("request", properties::request);
}

#[test]
fn the_kept_cache_entries_are_believed_only_as_they_are_written() {
    replay("entry", properties::entry);
}
