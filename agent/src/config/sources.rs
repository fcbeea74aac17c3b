//! Reads the file, the environment and the command line into words, whatever they mean, and remembers where each
//! setting was said.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::ConfigError;
use super::settings::{self, DEFAULT_FILE, Default, FILE_VARIABLE, SETTINGS, Setting};

/// Where a setting was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere.
    Default,
    /// In a file.
    File {
        /// Which.
        path: PathBuf,
        /// Where in it.
        line: usize,
    },
    /// In the environment.
    Variable(&'static str),
    /// On the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "the default"),
            Origin::File { path, line } => write!(f, "line {line} of {}", path.display()),
            Origin::Variable(name) => write!(f, "the variable {name}"),
            Origin::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

/// What was said, by key.
#[derive(Debug)]
pub(super) struct Given(BTreeMap<&'static str, (Origin, Vec<OsString>)>);

impl Given {
    /// Whether anybody said anything about it.
    pub(super) fn said(&self, setting: &Setting) -> bool {
        self.0.contains_key(setting.key)
    }

    /// Its words; those of the default where nobody said any.
    pub(super) fn words(&self, setting: &Setting) -> Vec<OsString> {
        match (self.0.get(setting.key), setting.default) {
            (Some((_, words)), _) => words.clone(),
            (None, Default::Value(word)) => vec![word.into()],
            (None, Default::Derived(_) | Default::Nothing) => Vec::new(),
        }
    }

    pub(super) fn origin(&self, setting: &Setting) -> Origin {
        self.0.get(setting.key).map_or(Origin::Default, |(origin, _)| origin.clone())
    }
}

/// Everything that was said: the environment overrides the file, and flags override both.
pub(super) fn gather(
    args: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Given, ConfigError> {
    let flags = command().try_get_matches_from(args)?;
    // An empty variable is an unset one: that is how they are cleared in compose files.
    let environment: BTreeMap<OsString, OsString> =
        environment.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let named = flags.get_one::<OsString>("config").or(environment.get(OsStr::new(FILE_VARIABLE)));
    let mut given = match named {
        Some(path) => from_file(Path::new(path))?,
        None => match from_file(Path::new(DEFAULT_FILE)) {
            Err(ConfigError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            given => given?,
        },
    };
    given.extend(from_environment(&environment));
    given.extend(from_flags(&flags));
    Ok(Given(given))
}

type Said = (&'static str, (Origin, Vec<OsString>));

/// The command line, made from the table.
fn command() -> Command {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(OsString))
        .help(format!("The configuration file [env: {FILE_VARIABLE}] [default: {DEFAULT_FILE}, where it exists]"));
    Command::new("migrate-agent")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The agent of migrate: one per node, runs workloads and moves them between machines")
        .after_help(
            "Flags override the environment, which overrides the file. Exit code 2: the configuration is wrong.",
        )
        .arg(file)
        .args(SETTINGS.map(flag))
}

fn flag(setting: &'static Setting) -> Arg {
    let repeated = if setting.list.is_some() { "; may be repeated" } else { "" };
    let (variables, default) = (setting.env.join(", "), setting.default.shown());
    Arg::new(setting.key)
        .long(setting.flag)
        .value_name(setting.value)
        .value_parser(value_parser!(OsString))
        .action(if setting.list.is_some() { ArgAction::Append } else { ArgAction::Set })
        .help(format!("{}{repeated} [env: {variables}] [default: {default}]", setting.help))
}

fn from_flags(flags: &ArgMatches) -> impl Iterator<Item = Said> {
    let typed = |setting: &&Setting| flags.value_source(setting.key) == Some(ValueSource::CommandLine);
    SETTINGS.into_iter().filter(typed).map(|setting| {
        let words = flags.get_many::<OsString>(setting.key).into_iter().flatten().cloned().collect();
        (setting.key, (Origin::Flag(setting.flag), words))
    })
}

fn from_environment(environment: &BTreeMap<OsString, OsString>) -> impl Iterator<Item = Said> {
    let find = |name: &&'static str| Some((*name, environment.get(OsStr::new(name))?));
    SETTINGS.into_iter().filter_map(move |setting| {
        let (name, value) = setting.env.iter().find_map(find)?;
        let words = match setting.list {
            Some(separator) => split(value, separator),
            None => vec![value.clone()],
        };
        Some((setting.key, (Origin::Variable(name), words)))
    })
}

fn split(value: &OsStr, separator: char) -> Vec<OsString> {
    let is_separator = |byte: &u8| char::from(*byte) == separator;
    let parts = value.as_bytes().split(is_separator).map(<[u8]>::trim_ascii);
    parts.filter(|part| !part.is_empty()).map(|part| OsString::from_vec(part.to_vec())).collect()
}

fn from_file(path: &Path) -> Result<BTreeMap<&'static str, (Origin, Vec<OsString>)>, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let file = File { path, text: &text };
    let table = DeTable::parse(&text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: file.line(error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;
    table.get_ref().iter().map(|(key, value)| file.said(key, value)).collect()
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn said(&self, key: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>) -> Result<Said, ConfigError> {
        let (path, line) = (self.path.to_owned(), self.line(key.span().start));
        let Some(setting) = settings::by_key(key.get_ref()) else {
            return Err(ConfigError::UnknownKey { path, line, key: key.get_ref().to_string() });
        };
        Ok((setting.key, (Origin::File { path, line }, self.words(setting, value)?)))
    }

    fn words(&self, setting: &Setting, value: &Spanned<DeValue<'_>>) -> Result<Vec<OsString>, ConfigError> {
        let wanted = if setting.list.is_some() { "an array of strings" } else { "a string" };
        let word = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
            DeValue::String(text) => Ok(OsString::from(text.as_ref())),
            other => Err(ConfigError::WrongType {
                path: self.path.to_owned(),
                line: self.line(value.span().start),
                key: setting.key,
                wanted,
                found: with_article(other.type_str()),
            }),
        };
        match (setting.list, value.get_ref()) {
            (Some(_), DeValue::Array(values)) => values.iter().map(word).collect(),
            (Some(_), DeValue::String(_)) => Err(ConfigError::WrongType {
                path: self.path.to_owned(),
                line: self.line(value.span().start),
                key: setting.key,
                wanted,
                found: "a string",
            }),
            _ => word(value).map(|word| vec![word]),
        }
    }

    /// The number of the line in which the byte at `offset` is.
    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }
}

fn with_article(toml_type: &str) -> &'static str {
    match toml_type {
        "array" => "an array",
        "integer" => "an integer",
        "float" => "a number",
        "boolean" => "a boolean",
        "datetime" => "a date",
        _ => "a table",
    }
}
