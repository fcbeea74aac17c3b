//! The agent's configuration: a file, variables and flags. Whatever is wrong is said with its place.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use migrate_agent::config::{Config, ConfigError, settings::SETTINGS};

use crate::script::Script;

/// Whether words follow; how many settings are said by flags or variables, and which; then the file.
pub(crate) fn run(input: &[u8], scratch: &Path) {
    let mut script = Script::new(input);
    let (mut args, mut environment) = (vec![OsString::from("migrate-agent")], Vec::new());
    for _ in 0..script.byte() % 4 {
        let setting = &SETTINGS[usize::from(script.byte()) % SETTINGS.len()];
        let word = OsString::from_vec(script.piece().to_vec());
        match script.byte() % 2 {
            0 => args.extend([format!("--{}", setting.flag).into(), word]),
            _ => environment.extend(setting.env.first().map(|name| (OsString::from(name), word))),
        }
    }
    let (path, file) = (scratch.join("agent.toml"), script.rest());
    std::fs::write(&path, file).expect("the scratch directory can be written to");
    args.extend(["--config".into(), path.clone().into()]);
    let config = Config::from(args.clone(), environment.clone(), "Host.example".into());
    if let Ok(config) = &config {
        assert!(config.peers.iter().all(|peer| peer.node != config.node));
        assert!([&config.state, &config.run, &config.socket, &config.key].iter().all(|path| path.is_absolute()));
        let again = Config::from(args, environment, "Host.example".into()).expect("the same words mean the same");
        assert_eq!(again, *config);
    }
    if let Err(error) = config {
        let lines = file.split(|byte| *byte == b'\n').count();
        if let ConfigError::Syntax { line, .. }
        | ConfigError::UnknownKey { line, .. }
        | ConfigError::WrongType { line, .. } = &error
        {
            assert!((1..=lines).contains(line), "line {line} of {lines}");
        }
        assert!(!error.to_string().is_empty());
    }
    std::fs::remove_file(&path).expect("it was written");
}
