//! No two builds that differ have the same version, once that version is given to users: `deploy/release/changelog.sh`.

use std::fs;
use std::process::{Command, Output};

use crate::cluster::{Folder, project};

/// A project with version 1.0, which is released, and its history.
struct Project {
    folder: Folder,
}

impl Project {
    fn new() -> Project {
        let project = Project { folder: Folder::new() };
        project.git(&["init", "--quiet"]);
        for folder in ["src", "deploy/package", "tests"] {
            fs::create_dir_all(project.folder.join(folder)).unwrap();
        }
        project.folder.write("src/main.rs", "fn main() {}\n");
        project.folder.write("tests/run.sh", "true\n");
        project.changelog(&["1.0) UNRELEASED", "0.9) stable"]);
        project.commit();
        project.changelog(&["1.0) stable", "0.9) stable"]);
        project.commit();
        project
    }

    fn changelog(&self, entries: &[&str]) {
        let entry = |start: &&str| format!("cmonhachk ({start}; urgency=medium\n\n  * A change.\n\n");
        let text: String = entries.iter().map(entry).collect();
        self.folder.write("deploy/package/changelog", text);
    }

    fn git(&self, words: &[&str]) {
        let who = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"];
        let output = self.command("git").args(who).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", "A change"]);
    }

    /// A command in the project that knows no other history and no settings of the one who runs the tests.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path());
        command.env("GIT_CEILING_DIRECTORIES", self.folder.path().parent().unwrap());
        command.env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.env_remove("GIT_DIR");
        command
    }

    fn compare(&self) -> Output {
        let script = project().join("deploy/release/changelog.sh");
        self.command("bash").arg(script).arg(".").output().unwrap()
    }

    fn passes(&self, saying: &str) {
        let output = self.compare();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.contains(saying), "{saying}: {said}");
        assert!(!saying.is_empty() || said.is_empty(), "{said}");
    }

    fn fails(&self, saying: &str) {
        let output = self.compare();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(saying), "{saying}: {said}");
    }
}

#[test]
fn what_is_packaged_may_change_only_below_a_new_entry() {
    let project = Project::new();
    project.passes("");
    project.folder.write("tests/run.sh", "false\n");
    project.folder.write("deploy/demo.sh", "true\n");
    project.commit();
    project.passes("");

    project.folder.write("src/new.rs", "");
    project.fails("src/new.rs\nBegin a new entry in deploy/package/changelog");
    project.commit();
    project.folder.write("src/main.rs", "fn main() { }\n");
    project.fails("src/main.rs\nsrc/new.rs\nBegin a new entry");

    let entries = |newest| project.changelog(&[newest, "1.0) stable", "0.9) stable"]);
    entries("1.1) UNRELEASED");
    project.passes("");
    project.commit();
    project.passes("");
    entries("1.1) stable");
    project.passes("released by the next commit");
    project.commit();
    project.passes("");
    project.folder.write("README.md", "A word.\n");
    project.fails("README.md\nBegin a new entry");
}

#[test]
fn the_version_of_a_new_entry_is_greater_and_its_state_is_one_of_two() {
    let project = Project::new();
    for (version, is_greater) in [("1.0", false), ("0.10", false), ("1.0.1", true), ("1.10", true)] {
        project.changelog(&[&format!("{version}) UNRELEASED"), "1.0) stable"]);
        if is_greater {
            project.passes("");
        } else {
            project.fails("must be greater than 1.0");
        }
    }
    project.changelog(&["1.1) testing", "1.0) stable"]);
    project.fails("an entry begins with");
}

#[test]
fn without_the_history_it_says_that_it_cannot_compare() {
    let project = Project::new();
    project.folder.write("src/main.rs", "fn main() { }\n");
    project.commit();
    project.fails("Begin a new entry");
    fs::create_dir(project.folder.join("clones")).unwrap();
    let source = format!("file://{}", project.folder.path().display());
    project.git(&["clone", "--quiet", "--depth", "1", &source, "clones/shallow"]);
    fs::rename(
        project.folder.join("clones/shallow/.git"),
        project.folder.join("shallow"),
    )
    .unwrap();
    fs::remove_dir_all(project.folder.join(".git")).unwrap();
    project.passes("there is no history to compare with");
    fs::rename(project.folder.join("shallow"), project.folder.join(".git")).unwrap();
    project.passes("the history does not go back to version 1.0");
}
