//! Where the record is kept: `etcd://HOST:PORT[,HOST:PORT…]/PREFIX`.

use std::fmt;
use std::str::FromStr;

use migrate_proto::cluster::command::EntryKey;
use migrate_proto::name::NodeName;
use thiserror::Error;

const SCHEME: &str = "etcd://";

/// Servers of one etcd, and below what its keys begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdAddress {
    servers: Vec<String>,
    /// `/PREFIX/`
    root: String,
}

/// Why something is no such address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadAddress {
    /// Another scheme.
    #[error("it must begin with 'etcd://'")]
    Scheme,
    /// The connection would not be protected, and somebody asked that it be.
    #[error(
        "TLS to etcd is not there yet: 'etcd://' is plain HTTP; put a TLS proxy on this machine, or a network of its own, between them"
    )]
    Tls,
    /// It would have to be sent in the clear.
    #[error("a user and a password cannot be given: etcd's authentication is not spoken yet")]
    Credentials,
    /// Nobody to ask.
    #[error("'{0}' is not HOST:PORT")]
    Server(String),
    /// Two clusters in one etcd would be one.
    #[error("it must end with a prefix for this cluster's keys, such as '/migrate/prod'")]
    Prefix,
    /// Keys are compared byte by byte.
    #[error("the prefix '{0}' has characters other than letters, digits, '-', '_', '.' and single '/'")]
    Characters(String),
}

impl EtcdAddress {
    /// HOST:PORT of each.
    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// What all keys begin with.
    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// What the keys of the record's entries begin with.
    pub(super) fn record(&self) -> String {
        format!("{}record/", self.root)
    }

    pub(super) fn entry(&self, entry: &EntryKey) -> String {
        format!("{}{entry}", self.record())
    }

    /// What the keys of the nodes' beats begin with.
    pub(super) fn beats(&self) -> String {
        format!("{}beat/", self.root)
    }

    pub(super) fn beat(&self, node: &NodeName) -> String {
        format!("{}{node}", self.beats())
    }

    /// Who leads.
    pub(super) fn seat(&self) -> String {
        format!("{}leader", self.root)
    }

    /// Which etcd this is.
    pub(super) fn etcd(&self) -> String {
        format!("{}etcd", self.root)
    }
}

impl FromStr for EtcdAddress {
    type Err = BadAddress;
    fn from_str(text: &str) -> Result<EtcdAddress, BadAddress> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            let tls = text.starts_with("etcds://") || text.starts_with("https://");
            return Err(if tls { BadAddress::Tls } else { BadAddress::Scheme });
        };
        let (servers, prefix) = rest.split_once('/').ok_or(BadAddress::Prefix)?;
        if servers.contains('@') {
            return Err(BadAddress::Credentials);
        }
        let is_server = |server: &&str| {
            let parts = server.rsplit_once(':');
            parts.is_some_and(|(host, port)| {
                let plain = host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#".contains(&byte));
                !host.is_empty() && plain && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        if let Some(bad) = servers.split(',').find(|server| !is_server(server)) {
            return Err(BadAddress::Server(bad.to_owned()));
        }
        let prefix = prefix.trim_end_matches('/');
        if prefix.is_empty() {
            return Err(BadAddress::Prefix);
        }
        let plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if !prefix.split('/').all(plain) {
            return Err(BadAddress::Characters(prefix.to_owned()));
        }
        Ok(EtcdAddress { servers: servers.split(',').map(str::to_owned).collect(), root: format!("/{prefix}/") })
    }
}

impl fmt::Display for EtcdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.servers.join(","), self.root.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_address_is_servers_and_a_prefix() {
        for (text, servers, root) in [
            ("etcd://a:2379/migrate", &["a:2379"][..], "/migrate/"),
            ("etcd://a:1,10.0.0.1:2,[::1]:3/m/prod_1.x", &["a:1", "10.0.0.1:2", "[::1]:3"], "/m/prod_1.x/"),
        ] {
            let address: EtcdAddress = text.parse().unwrap();
            assert_eq!((address.servers(), address.root()), (servers.map_to_owned().as_slice(), root));
            assert_eq!(address.to_string(), text);
        }
        assert_eq!("etcd://a:1/m/".parse::<EtcdAddress>().unwrap().to_string(), "etcd://a:1/m");
    }

    #[test]
    fn what_is_none_is_refused_with_a_reason() {
        for (text, why) in [
            ("http://a:1/m", BadAddress::Scheme),
            ("etcds://a:1/m", BadAddress::Tls),
            ("https://a:1/m", BadAddress::Tls),
            ("etcd://u:p@a:1/m", BadAddress::Credentials),
            ("etcd://a/m", BadAddress::Server("a".to_owned())),
            ("etcd://a:0/m", BadAddress::Server("a:0".to_owned())),
            ("etcd://a:1,/m", BadAddress::Server(String::new())),
            ("etcd://:1/m", BadAddress::Server(":1".to_owned())),
            ("etcd://a:1", BadAddress::Prefix),
            ("etcd://a:1/", BadAddress::Prefix),
            ("etcd://a:1/a//b", BadAddress::Characters("a//b".to_owned())),
            ("etcd://a:1/ä", BadAddress::Characters("ä".to_owned())),
        ] {
            assert_eq!(text.parse::<EtcdAddress>(), Err(why), "{text}");
        }
    }

    trait ToOwnedAll {
        fn map_to_owned(&self) -> Vec<String>;
    }

    impl ToOwnedAll for [&str] {
        fn map_to_owned(&self) -> Vec<String> {
            self.iter().map(|text| (*text).to_owned()).collect()
        }
    }
}
