//! Where a depot is: `dir:/path`, or `s3://bucket/prefix?endpoint=URL&region=NAME&allow-http=true`.

use std::fmt;
use std::path::{Path as FilePath, PathBuf};
use std::str::FromStr;

use object_store::path::Path;
use thiserror::Error;

/// Where a depot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A directory, such as one on shared storage.
    Dir(PathBuf),
    /// A bucket of S3, or of something that speaks it.
    S3 {
        /// The bucket.
        bucket: String,
        /// What the names of its objects begin with.
        prefix: String,
        /// Where the service is; Amazon's where absent.
        endpoint: Option<String>,
        /// Its region.
        region: Option<String>,
        /// Whether it may be spoken to without encryption.
        allow_http: bool,
    },
}

/// Why an address is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidAddress {
    /// Neither of the two kinds.
    #[error("must be dir:/PATH or s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&allow-http=true]")]
    Kind,
    /// A directory must be named in full.
    #[error("the directory must be an absolute path")]
    NotAbsolute,
    /// Credentials are for the environment, or a file.
    #[error("must not hold credentials: these come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a file")]
    Credentials,
    /// Not a bucket's name.
    #[error("'{0}' is no name of a bucket")]
    Bucket(String),
    /// Not a prefix.
    #[error("'{0}' is no prefix of objects' names")]
    Prefix(String),
    /// An option that there is not.
    #[error("there is no option '{0}': endpoint, region and allow-http are known")]
    Option(String),
    /// Not where a service can be.
    #[error("the endpoint must begin with https://, or with http:// and allow-http=true")]
    Endpoint,
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Address, InvalidAddress> {
        if let Some(path) = text.strip_prefix("dir:") {
            let path = PathBuf::from(path);
            let plain = path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir);
            return if plain { Ok(Address::Dir(path)) } else { Err(InvalidAddress::NotAbsolute) };
        }
        let rest = text.strip_prefix("s3://").ok_or(InvalidAddress::Kind)?;
        if rest.contains('@') {
            return Err(InvalidAddress::Credentials);
        }
        let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let may_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(may_name) {
            return Err(InvalidAddress::Bucket(bucket.to_owned()));
        }
        let prefix = prefix.trim_matches('/');
        if Path::parse(prefix).is_err() {
            return Err(InvalidAddress::Prefix(prefix.to_owned()));
        }
        let (mut endpoint, mut region, mut allow_http) = (None, None, false);
        for option in options.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("endpoint", url)) => endpoint = Some(url.trim_end_matches('/').to_owned()),
                Some(("region", name)) => region = Some(name.to_owned()),
                Some(("allow-http", "true")) => allow_http = true,
                Some(("allow-http", "false")) => allow_http = false,
                _ => return Err(InvalidAddress::Option(option.split('=').next().unwrap_or_default().to_owned())),
            }
        }
        let safe = |url: &String| url.starts_with("https://") || allow_http && url.starts_with("http://");
        if endpoint.as_ref().is_some_and(|url| !safe(url)) {
            return Err(InvalidAddress::Endpoint);
        }
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        Ok(Address::S3 { bucket, prefix, endpoint, region, allow_http })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Dir(path) => write!(f, "dir:{}", path.display()),
            Address::S3 { bucket, prefix, endpoint, .. } => {
                write!(f, "s3://{bucket}")?;
                if !prefix.is_empty() {
                    write!(f, "/{prefix}")?;
                }
                endpoint.as_ref().map_or(Ok(()), |url| write!(f, "?endpoint={url}"))
            }
        }
    }
}

impl Address {
    /// The directory, where it is one.
    pub fn dir(&self) -> Option<&FilePath> {
        match self {
            Address::Dir(path) => Some(path),
            Address::S3 { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_meant() {
        assert_eq!("dir:/srv/migrate".parse(), Ok(Address::Dir("/srv/migrate".into())));
        let text = "s3://backups/site/a?endpoint=http://10.0.0.1:9000&region=eu&allow-http=true";
        let Address::S3 { bucket, prefix, endpoint, region, allow_http } = text.parse().unwrap() else {
            panic!("not S3")
        };
        assert_eq!((bucket.as_str(), prefix.as_str(), allow_http), ("backups", "site/a", true));
        assert_eq!((endpoint.as_deref(), region.as_deref()), (Some("http://10.0.0.1:9000"), Some("eu")));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let refused = |text: &str| text.parse::<Address>().unwrap_err();
        assert_eq!(refused("http://backups"), InvalidAddress::Kind);
        assert_eq!(refused("dir:relative"), InvalidAddress::NotAbsolute);
        assert_eq!(refused("dir:/a/../b"), InvalidAddress::NotAbsolute);
        assert_eq!(refused("s3://key:secret@backups"), InvalidAddress::Credentials);
        assert_eq!(refused("s3://B"), InvalidAddress::Bucket("B".to_owned()));
        assert_eq!(refused("s3://backups?secret=x"), InvalidAddress::Option("secret".to_owned()));
        assert_eq!(refused("s3://backups?endpoint=http://a"), InvalidAddress::Endpoint, "only when asked");
    }
}
