//! Replays the inputs that fuzzing kept: those that people wrote are in tests/fuzz/corpus/TARGET/, the
//! others in tests/fuzz/corpus/TARGET.hex, one on a line.

use std::fs;

use crate::cluster::project;

#[path = "../fuzz/oracle.rs"]
mod oracle;

fn replay(target: &str, property: fn(&[u8])) {
    let corpus = project().join("tests/fuzz/corpus");
    let named = fs::read_dir(corpus.join(target)).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.display().to_string(), fs::read(&path).unwrap())
    });
    let packed = fs::read_to_string(corpus.join(target).with_extension("hex")).unwrap();
    let packed = packed.lines().map(|line| (line.to_string(), bytes(line)));
    let inputs: Vec<(String, Vec<u8>)> = named.chain(packed).collect();
    // Named and packed ones.
    assert!(inputs.len() > 20, "only {} inputs for {target}", inputs.len());
    for (name, input) in inputs {
        // Shown if the property panics.
        println!("{name}");
        property(&input);
    }
}

/// What hexadecimal digits stand for.
fn bytes(digits: &str) -> Vec<u8> {
    assert_eq!(digits.len() % 2, 0, "half a byte in {digits}");
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[test]
fn the_kept_lists_are_judged_as_they_read() {
    replay("list", oracle::list);
}

#[test]
fn the_kept_defaults_files_give_the_entries_they_assign() {
    replay("defaults", oracle::defaults);
}

#[test]
fn the_kept_requests_are_complete_where_they_end() {
    replay("request", oracle::request);
}

#[test]
fn the_kept_cache_entries_are_believed_only_as_they_are_written() {
    replay("entry", oracle::entry);
}
