//! What is behind an address: a directory, or a client of S3; and its credentials, which nobody is told.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use crate::address::Address;

/// How long one request to S3 may take: a segment is at most a MiB.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a request that failed is tried again.
const RETRY: Duration = Duration::from_secs(15);
const RETRIES: usize = 5;
/// The longest file of credentials.
const MOST_SECRETS: u64 = 16 << 10;
/// Where credentials are in the environment.
const SECRET_VARIABLES: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// A store that can be asked.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// What all names begin with.
    pub(crate) root: Path,
}

/// Opens a store whenever that is needed: what is away when the agent begins may be there later.
pub(crate) struct Service {
    address: Address,
    credentials: Option<PathBuf>,
    client: Mutex<Option<Opened>>,
}

impl Service {
    pub(crate) fn new(address: Address, credentials: Option<PathBuf>) -> Service {
        Service { address, credentials, client: Mutex::default() }
    }

    /// The store; a reason in words where there is none. Blocks, for as long as the file system likes.
    pub(crate) fn open(&self) -> Result<Opened, String> {
        match &self.address {
            // Looked for each time, and never made: below a mount that is away nothing must be written.
            Address::Dir(path) => {
                let store = LocalFileSystem::new_with_prefix(path).map_err(|error| error.to_string())?;
                Ok(Opened {
                    store: Arc::new(store.with_fsync(true).with_automatic_cleanup(true)),
                    root: Path::default(),
                })
            }
            Address::S3 { .. } => {
                let known = lock(&self.client).clone();
                if let Some(known) = known {
                    return Ok(known);
                }
                let opened = self.client()?;
                *lock(&self.client) = Some(opened.clone());
                Ok(opened)
            }
        }
    }

    /// The credentials were no good: they are read anew next time.
    pub(crate) fn forget_credentials(&self) {
        *lock(&self.client) = None;
    }

    fn client(&self) -> Result<Opened, String> {
        let Address::S3 { bucket, prefix, endpoint, region, allow_http } = &self.address else {
            return Err("it is a directory".to_owned());
        };
        let options = ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(CONNECT);
        let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES, retry_timeout: RETRY };
        let mut builder = AmazonS3Builder::from_env();
        for (key, value) in secrets(self.credentials.as_deref())? {
            let key: AmazonS3ConfigKey =
                key.to_ascii_lowercase().parse().map_err(|_| "there is an unknown name among its credentials")?;
            builder = builder.with_config(key, value);
        }
        builder = builder
            .with_bucket_name(bucket)
            .with_client_options(options.with_allow_http(*allow_http))
            .with_retry(retry);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = region {
            builder = builder.with_region(region);
        }
        let store = builder.build().map_err(|error| self.without_secrets(&error.to_string()))?;
        let root = Path::parse(prefix).map_err(|error| error.to_string())?;
        Ok(Opened { store: Arc::new(store), root })
    }

    /// A text of the store's, which may have said anything: without credentials, on one line, and not too long.
    pub(crate) fn without_secrets(&self, text: &str) -> String {
        let of_file = secrets(self.credentials.as_deref()).unwrap_or_default().into_iter().map(|(_, value)| value);
        let of_environment = SECRET_VARIABLES.iter().filter_map(|name| std::env::var(name).ok());
        let mut text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for secret in of_file.chain(of_environment).filter(|secret| secret.len() > 3) {
            text = text.replace(&secret, "…");
        }
        text.chars().take(400).collect()
    }
}

/// `KEY=VALUE`, one a line, in a file that nobody else can read. What is wrong with it is said without its text.
fn secrets(file: Option<&FilePath>) -> Result<Vec<(String, String)>, String> {
    let Some(path) = file else { return Ok(Vec::new()) };
    let failed = |what: String| format!("the credentials in {}: {what}", path.display());
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    // Of the open file: the name may mean another one in a moment.
    let metadata = file.metadata().map_err(|error| failed(error.to_string()))?;
    let is_ours = metadata.uid() == 0 || metadata.uid() == nix::unistd::geteuid().as_raw();
    if metadata.mode() & 0o077 != 0 || !is_ours {
        return Err(failed("others can read them; it must be a file of the agent's user with mode 0600".to_owned()));
    }
    let mut text = String::new();
    file.take(MOST_SECRETS).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let pairs = lines.map(|(number, line)| {
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| failed(format!("line {} is not KEY=VALUE, as in AWS_ACCESS_KEY_ID=…", number + 1)))?;
        Ok((key.trim().to_owned(), value.trim().to_owned()))
    });
    pairs.collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_of_credentials_is_read_and_never_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# mine\nAWS_ACCESS_KEY_ID = akey\nAWS_SECRET_ACCESS_KEY=b=cd\n").unwrap();
        let read = secrets(Some(file.path())).unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(read, [pair("AWS_ACCESS_KEY_ID", "akey"), pair("AWS_SECRET_ACCESS_KEY", "b=cd")]);
        let service = Service::new("s3://bucket".parse().unwrap(), Some(file.path().to_owned()));
        assert_eq!(service.without_secrets("x b=cd\n y akey"), "x … y …");

        std::fs::write(file.path(), "\nsecretsecret").unwrap();
        let why = secrets(Some(file.path())).unwrap_err();
        assert!(why.contains("line 2 is not") && !why.contains("secretsecret"), "{why}");
    }

    #[test]
    fn credentials_that_others_can_read_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::set_permissions(file.path(), Permissions::from_mode(0o640)).unwrap();
        assert!(secrets(Some(file.path())).unwrap_err().contains("others can read them"));
    }

    #[test]
    fn a_directory_that_is_not_there_is_not_made() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("mount/migrate");
        let service = Service::new(Address::Dir(path.clone()), None);
        assert!(service.open().is_err() && !path.exists());
        std::fs::create_dir_all(&path).unwrap();
        assert!(service.open().is_ok(), "it is looked for again");
    }
}
