//! `docs/configuration.md`, written from the table of settings. `MIGRATE_WRITE_DOCS=1 cargo test -p migrate-agent
//! configuration_md` writes it anew.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use super::settings::{DEFAULT_FILE, FILE_VARIABLE, SETTINGS, Setting};

fn markdown() -> String {
    let mut text = format!(
        "# Configuration of the agent\n\n\
         <!-- Written by a test of the agent (agent/src/config/docs.rs) from its table of settings. -->\n\n\
         `migrate-agent` takes its settings from a file, from the environment and from flags. Flags override the\n\
         environment, and the environment overrides the file, setting by setting; a list is replaced as a whole.\n\n\
         The file is the one that `--config FILE` or `{FILE_VARIABLE}` names, else `{DEFAULT_FILE}` where it exists.\n\
         It is TOML: every value is a string, and lists are arrays of strings. A key that the agent does not know is\n\
         an error. A variable that is set but empty counts as not set. With a wrong configuration the agent does not\n\
         start: it says where the mistake is and exits with 2.\n\n\
         Durations: `250ms`, `10s`, `5m`, `1h`.\n\n\
         | key in the file | flag | variables | default |\n|---|---|---|---|\n"
    );
    SETTINGS.iter().for_each(|setting| row(&mut text, setting));
    text.push_str("\n## What they are for\n\n");
    SETTINGS.iter().for_each(|setting| explanation(&mut text, setting));
    text.push_str("\n## Example\n\n```toml\n");
    text.push_str(EXAMPLE);
    text.push_str("```\n");
    text
}

fn row(text: &mut String, setting: &Setting) {
    let value = setting.value.replace('|', "\\|");
    let variables = format!("`{}`", setting.env.join("`, `"));
    writeln!(text, "| `{}` | `--{} {value}` | {variables} | {} |", setting.key, setting.flag, setting.default.shown())
        .unwrap();
}

fn explanation(text: &mut String, setting: &Setting) {
    let list = match setting.list {
        Some(separator) => format!(" A list: the flag is repeated, a variable parts its values by `{separator}`."),
        None => String::new(),
    };
    writeln!(text, "- `{}`: {}.{list}", setting.key, setting.help).unwrap();
}

/// Checked by a test: it is a configuration.
pub(super) const EXAMPLE: &str = r#"node = "node1"
listen = "10.0.0.1:7700"
peers = ["node2=10.0.0.2:7700", "node3=node3.example:7700"]
hide = ["/root", "/srv/secrets"]
stop_timeout = "30s"
log_format = "json"
"#;

#[test]
fn configuration_md_says_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    if std::env::var_os("MIGRATE_WRITE_DOCS").is_some() {
        std::fs::write(path, markdown()).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap();
    assert!(
        found == markdown(),
        "docs/configuration.md is out of date: MIGRATE_WRITE_DOCS=1 cargo test writes it anew"
    );
}
