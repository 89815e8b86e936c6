//! What is tested: the program and the packages as users get them, never one that is older than its sources.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::SystemTime;

use crate::cluster::{Folder, project};

/// What the program is built from.
const PROGRAM: &[&str] = &["src", "Cargo.toml", "Cargo.lock", "deploy/build.sh"];

/// What the packages are made from.
const PACKAGES: &[&str] = &["src", "Cargo.toml", "Cargo.lock", "deploy", "README.md", "LICENSE"];

/// What lies among these, and is in neither.
const NEITHER: &[&str] = &[
    "src/decisions.md",
    "deploy/demo.sh",
    "deploy/failover.svg",
    "deploy/container/Dockerfile",
    "deploy/container/compose.yaml",
    "deploy/package/rpmlint.toml",
    "deploy/release",
    "deploy/release.sh",
];

/// The program under test: the one that `TESTED_BINARY` names, else that of deploy/build.sh. Cargo's own has
/// additional features of our dependencies, because the tests need these, and is not static.
pub fn binary() -> &'static str {
    static BINARY: LazyLock<String> = LazyLock::new(|| {
        let named = env::var_os("TESTED_BINARY").map(PathBuf::from);
        let program = named.unwrap_or_else(|| project().join("target/dist/cmonhachk"));
        expect_current(std::slice::from_ref(&program), PROGRAM, "deploy/build.sh");
        program.into_os_string().into_string().unwrap()
    });
    &BINARY
}

/// The program that keepalived runs, which is beside that one.
pub fn leads() -> PathBuf {
    beside("cmonhachk-leads")
}

/// The program that sets a front up.
pub fn front() -> PathBuf {
    beside("cmonhachk-front")
}

fn beside(name: &str) -> PathBuf {
    let program = Path::new(binary()).with_file_name(name);
    expect_current(std::slice::from_ref(&program), PROGRAM, "deploy/build.sh");
    program
}

/// The packages of deploy/package.sh.
pub fn packages() -> &'static [PathBuf] {
    static FILES: LazyLock<Vec<PathBuf>> = LazyLock::new(|| {
        let files = fs::read_dir(project().join("target/dist")).into_iter().flatten();
        let paths = files.map(|file| file.unwrap().path());
        let is_package = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "deb" || kind == "rpm");
        let packages: Vec<PathBuf> = paths.filter(is_package).collect();
        assert!(!packages.is_empty(), "there are no packages: run deploy/package.sh");
        expect_current(&packages, PACKAGES, "deploy/package.sh");
        packages
    });
    &FILES
}

/// Refuses to test what is missing, or older than one of the sources, and says which command builds it.
fn expect_current(built: &[PathBuf], sources: &[&str], command: &str) {
    for file in built {
        if let Err(why) = is_current(file, project(), sources) {
            panic!("{why}: run {command}");
        }
    }
}

/// deploy/build.sh and deploy/package.sh give what they make the time at which they began: what is edited while
/// they run is newer.
fn is_current(built: &Path, project: &Path, sources: &[&str]) -> Result<(), String> {
    let Ok(time) = time(built) else {
        return Err(format!("there is no {}", built.display()));
    };
    let mut files = Vec::new();
    for source in sources {
        collect(&project.join(source), &mut files);
    }
    files.retain(|file| !NEITHER.iter().any(|other| file.starts_with(project.join(other))));
    match files.iter().find(|file| self::time(file).unwrap() > time) {
        Some(newer) => Err(format!("{} is older than {}", built.display(), newer.display())),
        None => Ok(()),
    }
}

fn time(file: &Path) -> std::io::Result<SystemTime> {
    fs::metadata(file)?.modified()
}

/// The file, or all files in the folder. Neither a folder's own time nor a hidden file counts: an editor's draft
/// changes both.
fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    let name = path.file_name().unwrap().to_string_lossy();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), files);
        }
    } else if !name.starts_with('.') && !name.ends_with('~') {
        files.push(path.to_path_buf());
    }
}

#[test]
fn what_is_older_than_one_of_its_sources_is_refused() {
    let project = Folder::new();
    fs::create_dir(project.join("src")).unwrap();
    let source = project.write("src/a.rs", "");
    let other = project.write("README.md", "");
    let built = project.write("built", "");
    let set = |file: &Path, seconds| {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        fs::File::open(file).unwrap().set_modified(time).unwrap();
    };
    let told = || is_current(&built, project.path(), &["src"]);

    // A clone gives all files the same time.
    for file in [&source, &other, &built] {
        set(file, 1000);
    }
    assert_eq!(told(), Ok(()));

    set(&other, 1001);
    assert_eq!(told(), Ok(()), "it is no source");

    set(&source, 1001);
    let why = format!("{} is older than {}", built.display(), source.display());
    assert_eq!(told(), Err(why));

    set(&built, 1002);
    assert_eq!(told(), Ok(()));

    fs::remove_file(&built).unwrap();
    assert_eq!(told(), Err(format!("there is no {}", built.display())));
}
