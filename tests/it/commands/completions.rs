//! What a shell and `man` make of what is printed for them.

use std::{fs, path::Path, process::Command};

use super::run;

/// What a program prints about a file.
fn says(program: &str, args: &[&str], file: &Path) -> (bool, String) {
    let output = Command::new(program).args(args).arg(file).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; `.ci/need {program}` installs it"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

async fn printed(args: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let ran = run(&[args], &[]).await;
    assert!(ran.code == Some(0) && ran.err.is_empty(), "{ran}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("printed");
    fs::write(&file, ran.out).unwrap();
    (folder, file)
}

#[tokio::test]
async fn bash_completes_commands_and_their_flags() {
    let (_folder, script) = printed("completions bash").await;
    let complete = r#"source "$0"; f=$(complete -p redis-gateway | sed 's/.*-F \([^ ]*\).*/\1/')
        COMP_WORDS=(redis-gateway doc); COMP_CWORD=1; $f redis-gateway doc redis-gateway; echo "${COMPREPLY[@]}"
        COMP_WORDS=(redis-gateway doctor --js); COMP_CWORD=2; $f redis-gateway --js doctor; echo "${COMPREPLY[@]}""#;
    let (loaded, text) = says("bash", &["-c", complete], &script);
    assert!(loaded && text == "doctor\n--json\n", "{text}");
}

#[tokio::test]
async fn zsh_and_fish_load_theirs() {
    let (_folder, file) = printed("completions zsh").await;
    let load = r#"autoload -U compinit; compinit -u -d "$0.dump"; source "$0"; [[ $_comps[redis-gateway] == _redis-gateway ]]"#;
    let (loaded, text) = says("zsh", &["-f", "-c", load], &file);
    assert!(loaded && text.is_empty(), "{text}");
    let (_folder, file) = printed("completions fish").await;
    let load = r#"source $argv[1]; complete -C "redis-gateway doc""#;
    let (loaded, text) = says("fish", &["--no-config", "-c", load], &file);
    assert!(loaded && text.starts_with("doctor\t"), "{text}");
    let ran = run(&["completions tcsh"], &[]).await;
    assert!(ran.code == Some(64) && ran.err.contains("bash"), "{ran}");
}

#[tokio::test]
async fn the_manual_page_is_one() {
    for (args, title) in [
        ("man", "redis-gateway"),
        ("man doctor", "redis-gateway-doctor"),
        ("man locks release", "redis-gateway-locks-release"),
    ] {
        let (_folder, file) = printed(args).await;
        let roff = fs::read_to_string(&file).unwrap();
        assert!(roff.contains(&format!(".TH {title} ")), "{roff}");
        // Warnings of all kinds: a wrong request is one.
        let (loaded, text) = says("groff", &["-man", "-Tascii", "-P-cbou", "-ww"], &file);
        assert!(
            loaded && !text.contains("warning:") && text.contains("--holder") == args.contains("release"),
            "{text}"
        );
    }
    let ran = run(&["man nothing"], &[]).await;
    assert!(ran.code == Some(64) && ran.err.contains("doctor"), "{ran}");
}

#[tokio::test]
async fn whoever_reads_the_first_lines_alone_hears_of_nothing() {
    for args in ["completions bash", "man", "check --endpoints-cache-host=h"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = crate::cli::gateway()
            .args(args.split(' '))
            .stdout(writer)
            .output()
            .unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.success() && err.is_empty(),
            "{args}: {:?} {err}",
            output.status
        );
    }
}
