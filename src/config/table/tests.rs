use std::{env, fmt::Write, fs, path::PathBuf};

use crate::config::{EndpointName, Setting, cli::heading, table};

const START: &str = "<!-- made from the table of settings: `UPDATE_DOCS=1 cargo test --lib docs` -->\n";
const END: &str = "<!-- end of the table -->\n";

/// One section for each concern; the endpoints', which all have the same settings, in one.
fn markdown() -> String {
    let mut out = String::new();
    let mut last = String::new();
    for setting in table() {
        let path = match setting.path.strip_prefix("endpoints.build_logs.") {
            Some(leaf) => format!("endpoints.&lt;name&gt;.{leaf}"),
            None if setting.path.starts_with("endpoints.") => continue,
            None => setting.path.clone(),
        };
        let section = if path.starts_with("endpoints.") {
            "Endpoints".into()
        } else {
            heading(&setting.path)
        };
        if section != last {
            write!(
                out,
                "\n### {section}\n\n| setting | value | default | what it is for |\n|---|---|---|---|\n"
            )
            .unwrap();
            last = section;
        }
        let path = if path.contains('&') {
            format!("<code>{path}</code>")
        } else {
            format!("`{path}`")
        };
        let several = if setting.list { "list of " } else { "" };
        writeln!(
            out,
            "| {path} | {several}{} | {} | {} |",
            setting.want,
            default(setting),
            setting.help
        )
        .unwrap();
    }
    out.push('\n');
    out
}

fn default(setting: &Setting) -> String {
    let Some(leaf) = setting.path.strip_prefix("endpoints.build_logs.") else {
        return setting
            .default
            .map(|default| format!("`{default}`"))
            .unwrap_or_default();
    };
    let all: Vec<(&str, &str)> = EndpointName::ALL
        .into_iter()
        .filter_map(|name| {
            let path = format!("endpoints.{}.{leaf}", name.as_str());
            Some((name.as_str(), table().iter().find(|s| s.path == path)?.default?))
        })
        .collect();
    match all.as_slice() {
        [] => String::new(),
        [(_, first), rest @ ..] if rest.iter().all(|(_, default)| default == first) => format!("`{first}`"),
        all => all
            .iter()
            .map(|(name, default)| format!("{name} `{default}`"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

#[test]
fn the_documentation_lists_exactly_the_table() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(START).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let made = markdown();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{START}{made}{END}{after}")).unwrap();
    } else {
        assert!(
            found == made,
            "{} is out of date; `UPDATE_DOCS=1 cargo test --lib docs` rewrites it",
            path.display()
        );
    }
}
