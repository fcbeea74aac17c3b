//! Opens connections to the doors of peers.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, Error as TlsError};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};

use super::{HANDSHAKE, enlarge_buffers};
use crate::keys::authority::{NodeIdentity, server_name};
use crate::link::{PeerAddress, TransportError};

/// A connection to the peer's door, with the peer proven to be who it should be.
pub async fn connect(identity: &NodeIdentity, peer: &PeerAddress) -> Result<TlsStream<TcpStream>, TransportError> {
    let config = identity.client_config(&peer.node).map_err(|error| TransportError::Local {
        doing: "set up TLS for",
        object: peer.node.to_string(),
        source: Arc::new(io::Error::other(error)),
    })?;
    let connector = TlsConnector::from(Arc::new(config));
    let handshake = async {
        let tcp = dial(&peer.address).await.map_err(|error| unreachable(peer, error))?;
        connector.connect(server_name(), tcp).await.map_err(|error| failed(peer, error))
    };
    let timed_out = |_| TransportError::TimedOut { node: peer.node.clone(), address: peer.address.clone() };
    Ok(TlsStream::from(timeout(HANDSHAKE, handshake).await.map_err(timed_out)??))
}

async fn dial(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host(address).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        enlarge_buffers(&socket);
        match socket.connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Why there is no connection, or no longer one: what TLS says tells strangers from broken cables.
pub fn failed(peer: &PeerAddress, error: io::Error) -> TransportError {
    let (node, address) = (peer.node.clone(), peer.address.clone());
    match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
        Some(TlsError::InvalidCertificate(CertificateError::NotValidForName)) => {
            TransportError::WrongNode { node, address }
        }
        Some(TlsError::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            TransportError::Untrusted { node, address, reason: "it has another cluster key".to_owned() }
        }
        Some(TlsError::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied,
        )) => TransportError::Untrusted { node, address, reason: "it does not accept our cluster key".to_owned() },
        // An agent that is going down, or whose door is full, breaks off; that passes.
        Some(tls @ TlsError::AlertReceived(AlertDescription::CloseNotify | AlertDescription::InternalError)) => {
            TransportError::Unreachable { node, address, source: Arc::new(io::Error::other(tls.clone())) }
        }
        Some(tls) => TransportError::Untrusted { node, address, reason: tls.to_string() },
        None => unreachable(peer, error),
    }
}

fn unreachable(peer: &PeerAddress, error: io::Error) -> TransportError {
    TransportError::Unreachable { node: peer.node.clone(), address: peer.address.clone(), source: Arc::new(error) }
}
