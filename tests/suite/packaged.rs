//! What is in the packages, seen without installing them.

use std::path::Path;
use std::process::Command;

use insta::assert_snapshot;

use crate::built;
use crate::cluster::project;
use crate::portable::kind;

/// What a shell prints; its `$1` is the file.
fn printed(script: &str, file: &Path) -> Vec<u8> {
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-euc", script, "bash"]).arg(file);
    let output = shell.current_dir(project()).output().unwrap();
    assert!(output.status.success(), "{}: {output:?}", file.display());
    output.stdout
}

/// Rights, owner and path of each file, and the scripts.
const FILES_OF_DEB: &str = r#"
    dpkg-deb --contents "$1" | sed -E 's/ +[0-9]+ [-0-9]+ [0-9:]+ / /'
    dpkg-deb --ctrl-tarfile "$1" | tar --list | sort"#;
const FILES_OF_RPM: &str = r#"
    rpm --query --package --queryformat '[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES} %{FILELINKTOS}\n]' "$1" | sed 's/ $//'
    rpm --query --package --queryformat '[%{PREINPROG} preinst\n][%{POSTINPROG} postinst\n][%{PREUNPROG} prerm\n][%{POSTUNPROG} postrm\n]' "$1""#;

/// `INSTA_UPDATE=always cargo test -- packaged` writes the lists in `snapshots/` again.
#[test]
fn each_package_holds_the_files_of_its_list() {
    for package in built::packages() {
        let name = package.file_name().unwrap().to_str().unwrap();
        let kind = package.extension().unwrap().to_str().unwrap();
        let files = printed(if kind == "deb" { FILES_OF_DEB } else { FILES_OF_RPM }, package);
        let of = if name.starts_with("cmonhachk-xinetd") {
            "cmonhachk-xinetd"
        } else {
            "cmonhachk"
        };
        assert_snapshot!(format!("{of}.{kind}"), String::from_utf8(files).unwrap());
    }
}

/// Those that are built.
const PROGRAMS: [&str; 2] = ["usr/sbin/cmonhachk", "usr/libexec/keepalived/cmonhachk-leads"];

#[test]
fn the_programs_of_each_package_are_static_and_position_independent() {
    for package in built::packages() {
        let name = package.file_name().unwrap().to_str().unwrap();
        if !name.ends_with(".deb") || name.ends_with("_all.deb") {
            continue;
        }
        for program in PROGRAMS {
            let unpack = format!(r#"dpkg-deb --fsys-tarfile "$1" | tar --extract --to-stdout ./{program}"#);
            assert_eq!(kind(&printed(&unpack, package)), (true, false), "{name}: {program}");
        }
    }
}

#[test]
fn what_describes_the_packages_is_yaml() {
    for name in ["cmonhachk.yaml", "cmonhachk-xinetd.yaml"] {
        let file = project().join("deploy/package").join(name);
        // lintian needs this module, too.
        printed(
            r#"perl -MYAML::XS -e '$YAML::XS::ForbidDuplicateKeys = 1; YAML::XS::LoadFile($ARGV[0])' "$1""#,
            &file,
        );
    }
}
