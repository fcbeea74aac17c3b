//! The cluster's certificate authority, derived from the cluster key, and what a node makes of it: a certificate for itself,
//! valid for as long as its agent runs, and the TLS configurations of both sides of a connection.

use std::sync::Arc;

use migrate_proto::name::NodeName;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerMisbehaved, RootCertStore, ServerConfig,
    SignatureScheme,
};
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::ClusterKey;

/// A node's certificate names it below this domain.
const DOMAIN: &str = ".migrate";
/// PKCS #8 (RFC 8410) around an Ed25519 seed: version 0, algorithm 1.3.101.112, an octet string in an octet string.
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why there are no certificates.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The certificates could not be made.
    #[error("cannot make the node's certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS does not take them.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] Error),
    /// TLS does not take the authority.
    #[error("cannot set up the verification of peers: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// What a node proves itself with, and how it checks others.
pub struct NodeIdentity {
    node: NodeName,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl NodeIdentity {
    /// Issues a certificate for `node`, with a fresh key.
    pub fn issue(cluster: &ClusterKey, node: NodeName) -> Result<NodeIdentity, AuthorityError> {
        NodeIdentity::issue_with_name(cluster, &format!("{node}{DOMAIN}"), node)
    }

    fn issue_with_name(cluster: &ClusterKey, dns_name: &str, node: NodeName) -> Result<NodeIdentity, AuthorityError> {
        let authority_key = authority_key(cluster)?;
        let authority = authority_params(&authority_key)?;
        let root = authority.self_signed(&authority_key)?;
        let node_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![dns_name.to_owned()])?;
        params.distinguished_name = common_name("migrate agent");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&node_key, &Issuer::new(authority, authority_key))?;
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone())?;
        Ok(NodeIdentity {
            node,
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(node_key.serialize_der()).into(),
            roots: Arc::new(roots),
            provider: Arc::new(provider()),
        })
    }

    /// The node that this is.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// For connections to `peer`: only its certificate is good enough.
    pub fn client_config(&self, peer: &NodeName) -> Result<ClientConfig, AuthorityError> {
        let verifier = NodeVerifier { peer: peer.clone(), roots: self.roots.clone(), provider: self.provider.clone() };
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// For connections from peers: any node of the cluster is good enough; [`name_in`] tells which it is.
    pub fn server_config(&self) -> Result<ServerConfig, AuthorityError> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone()).build()?;
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        // Nothing is resumed; and a peer that closes with unread tickets in its buffer would reset the connection.
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

/// The name to hand to TLS, which wants one: who the peer is, is checked by [`NodeVerifier`].
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// The node that a certificate names. It has to be exactly one.
pub fn name_in(certificate: &CertificateDer<'_>) -> Option<NodeName> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    match names.value.general_names.as_slice() {
        [GeneralName::DNSName(name)] => name.strip_suffix(DOMAIN)?.parse().ok(),
        _ => None,
    }
}

fn authority_key(cluster: &ClusterKey) -> Result<KeyPair, rcgen::Error> {
    let seed = cluster.derive("certificate authority, Ed25519");
    let mut pkcs8 = Zeroizing::new([0; 48]);
    pkcs8[..16].copy_from_slice(&PKCS8_ED25519);
    pkcs8[16..].copy_from_slice(&*seed);
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()), &PKCS_ED25519)
}

fn authority_params(key: &KeyPair) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    // The name tells clusters apart, so that a foreign certificate fails as such and not as a bad signature.
    let fingerprint: String = key.public_key_raw().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = common_name(&format!("migrate cluster {fingerprint}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// AES-128-GCM first: where there is AES hardware it is the fastest by far.
fn provider() -> CryptoProvider {
    use aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    let cipher_suites = vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() }
}

/// Accepts the certificate of one node of the cluster.
#[derive(Debug)]
struct NodeVerifier {
    peer: NodeName,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        match name_in(end_entity) {
            Some(name) if name == self.peer => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(byte: u8) -> ClusterKey {
        ClusterKey([byte; 32])
    }

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    /// What the dialler's check says about a certificate made by `theirs`, when `wanted` was dialled with key 1.
    fn verdict(theirs: &NodeIdentity, wanted: &str) -> Result<(), Error> {
        let mine = NodeIdentity::issue(&key(1), node("mine")).unwrap();
        let verifier = NodeVerifier { peer: node(wanted), roots: mine.roots, provider: mine.provider };
        verifier.verify_server_cert(&theirs.chain[0], &[], &server_name(), &[], UnixTime::now()).map(|_| ())
    }

    #[test]
    fn the_authority_is_the_same_on_every_node() {
        let public = |byte| authority_key(&key(byte)).unwrap().public_key_raw().to_vec();
        assert_eq!(public(1), public(1));
        assert_ne!(public(1), public(2));
    }

    #[test]
    fn a_certificate_is_good_for_its_node_only() {
        let theirs = NodeIdentity::issue(&key(1), node("b")).unwrap();
        assert_eq!(verdict(&theirs, "b"), Ok(()));
        assert_eq!(verdict(&theirs, "c"), Err(CertificateError::NotValidForName.into()));
    }

    #[test]
    fn a_certificate_of_another_cluster_is_no_good() {
        let theirs = NodeIdentity::issue(&key(2), node("b")).unwrap();
        assert_eq!(verdict(&theirs, "b"), Err(CertificateError::UnknownIssuer.into()));
    }

    #[test]
    fn the_node_is_read_from_the_certificate() {
        for name in ["b", "0", "a--", &"x".repeat(63)] {
            let identity = NodeIdentity::issue(&key(1), node(name)).unwrap();
            assert_eq!(name_in(&identity.chain[0]), Some(node(name)));
        }
        for odd in ["b.example", "B.migrate", ".migrate", "a.b.migrate"] {
            let identity = NodeIdentity::issue_with_name(&key(1), odd, node("b")).unwrap();
            assert_eq!(name_in(&identity.chain[0]), None, "{odd}");
        }
        assert_eq!(name_in(&CertificateDer::from(vec![0; 10])), None);
    }
}
