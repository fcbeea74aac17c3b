//! The certificate authorities that are derived from the cluster's keys, and what a node makes of them: a certificate for itself,
//! issued by the first, and the TLS configurations of both sides of a connection, which trust them all.

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
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerMisbehaved, RootCertStore, ServerConfig,
    SignatureScheme,
};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::{Zeroize, Zeroizing};

use super::{ClusterKey, Fingerprint, derive};

/// A node's certificate names it below this domain.
const DOMAIN: &str = ".migrate";
/// PKCS #8 (RFC 8410) around an Ed25519 seed: version 0, algorithm 1.3.101.112, an octet string in an octet string.
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why there are no certificates.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// There is no key to begin with.
    #[error("there is no key to issue a certificate with")]
    NoKey,
    /// An authority that was just made cannot be read.
    #[error("the cluster's own certificate cannot be read")]
    OddRoot,
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

/// What a node proves itself with, and how it checks others. The keys themselves are not in it: once the certificate is
/// issued nobody needs them.
pub struct NodeIdentity {
    node: NodeName,
    own: Arc<SingleCertAndKey>,
    roots: Arc<RootCertStore>,
    trusted: Vec<Trusted>,
    server: Arc<ServerConfig>,
    provider: Arc<CryptoProvider>,
}

/// The authority of one key.
pub(super) struct Trusted {
    pub(super) key: Fingerprint,
    /// Its distinguished name, in DER, as certificates name their issuer.
    subject: Vec<u8>,
    /// Cancelled when the key is trusted no longer.
    pub(super) retired: CancellationToken,
}

impl NodeIdentity {
    /// Issues a certificate for `node` by the first of the keys, with a fresh key of its own. All of them are trusted.
    pub fn issue(keys: &(impl AsRef<[ClusterKey]> + ?Sized), node: NodeName) -> Result<NodeIdentity, AuthorityError> {
        NodeIdentity::issue_with_name(keys.as_ref(), &format!("{node}{DOMAIN}"), node)
    }

    fn issue_with_name(keys: &[ClusterKey], dns_name: &str, node: NodeName) -> Result<NodeIdentity, AuthorityError> {
        let provider = Arc::new(provider());
        let mut roots = RootCertStore::empty();
        let mut trusted = Vec::with_capacity(keys.len());
        for key in keys {
            let root = Authority::of(key)?.root()?;
            let subject = subject_of(&root).ok_or(AuthorityError::OddRoot)?;
            roots.add(root)?;
            trusted.push(Trusted { key: key.fingerprint(), subject, retired: CancellationToken::new() });
        }
        let first = keys.first().ok_or(AuthorityError::NoKey)?;
        let own = Arc::new(SingleCertAndKey::from(Authority::of(first)?.certify(dns_name, &provider)?));
        let roots = Arc::new(roots);
        let server = server_config(own.clone(), roots.clone(), provider.clone())?;
        Ok(NodeIdentity { node, own, roots, trusted, server: Arc::new(server), provider })
    }

    /// The node that this is.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// The keys that are trusted; the first one issued this node's certificate.
    pub fn keys(&self) -> Vec<Fingerprint> {
        self.trusted.iter().map(|trusted| trusted.key.clone()).collect()
    }

    pub(super) fn trusted_mut(&mut self) -> &mut [Trusted] {
        &mut self.trusted
    }

    pub(super) fn trusted(&self) -> &[Trusted] {
        &self.trusted
    }

    /// For connections to `peer`: only its certificate is good enough.
    pub fn client_config(&self, peer: &NodeName) -> Result<ClientConfig, AuthorityError> {
        let verifier = NodeVerifier { peer: peer.clone(), roots: self.roots.clone(), provider: self.provider.clone() };
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.own.clone());
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// For connections from peers: any node of the cluster is good enough; [`name_in`] tells which it is.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// What is cancelled when the key that issued these certificates, which TLS has verified, is trusted no longer. `None`
    /// where they are not the one certificate that a node presents: an authority in between could call itself anything.
    pub fn retirement(&self, presented: Option<&[CertificateDer<'_>]>) -> Option<CancellationToken> {
        let [certificate] = presented? else { return None };
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let issuer = certificate.tbs_certificate.issuer.as_raw();
        self.trusted.iter().find(|trusted| trusted.subject == issuer).map(|trusted| trusted.retired.clone())
    }
}

fn server_config(
    own: Arc<SingleCertAndKey>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
) -> Result<ServerConfig, AuthorityError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(own);
    // Nothing is resumed; and a peer that closes with unread tickets in its buffer would reset the connection.
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn subject_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate.subject.as_raw().to_vec())
}

/// The certificate authority that a key makes. Its private key is wiped when it is dropped.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn of(key: &ClusterKey) -> Result<Authority, AuthorityError> {
        let key = authority_key(key)?;
        Ok(Authority { params: authority_params(&key)?, key })
    }

    fn root(&self) -> Result<CertificateDer<'static>, AuthorityError> {
        Ok(self.params.self_signed(&self.key)?.der().clone())
    }

    fn certify(&self, dns_name: &str, provider: &CryptoProvider) -> Result<CertifiedKey, AuthorityError> {
        let mut node_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![dns_name.to_owned()])?;
        params.distinguished_name = common_name("migrate agent");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&node_key, &Issuer::from_params(&self.params, &self.key))?;
        let private = PrivatePkcs8KeyDer::from(node_key.serialize_der());
        node_key.zeroize();
        // What is loaded is the library's, which wipes it; this copy is ours.
        let mut private = PrivateKeyDer::from(private);
        let chain = vec![certificate.der().clone()];
        let loaded = provider.key_provider.load_private_key(private.clone_key());
        private.zeroize();
        Ok(CertifiedKey::new(chain, loaded?))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.key.zeroize();
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
    let seed = derive(cluster, "certificate authority, Ed25519");
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
        // Nodes are certified by the authority itself.
        if !intermediates.is_empty() {
            return Err(CertificateError::UnknownIssuer.into());
        }
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
    use migrate_proto::key::KEY_BYTES;
    use rustls::client::ResolvesClientCert;

    use super::*;

    fn key(byte: u8) -> ClusterKey {
        ClusterKey::copied(&[byte; KEY_BYTES])
    }

    /// A ring.
    fn keys(bytes: &[u8]) -> Vec<ClusterKey> {
        bytes.iter().map(|byte| key(*byte)).collect()
    }

    fn certificate(identity: &NodeIdentity) -> CertificateDer<'static> {
        identity.own.resolve(&[], &[]).unwrap().cert[0].clone()
    }

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    /// What the dialler's check says about a certificate made by `theirs`, when `wanted` was dialled with key 1.
    fn verdict(theirs: &NodeIdentity, wanted: &str) -> Result<(), Error> {
        verdict_of(&NodeIdentity::issue(&key(1), node("mine")).unwrap(), theirs, wanted)
    }

    fn verdict_of(mine: &NodeIdentity, theirs: &NodeIdentity, wanted: &str) -> Result<(), Error> {
        let verifier = NodeVerifier { peer: node(wanted), roots: mine.roots.clone(), provider: mine.provider.clone() };
        verifier.verify_server_cert(&certificate(theirs), &[], &server_name(), &[], UnixTime::now()).map(|_| ())
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
    fn nodes_a_step_of_a_rotation_apart_trust_each_other() {
        let steps = [&[1][..], &[1, 2], &[2, 1], &[2]].map(|ring| NodeIdentity::issue(&keys(ring), node("n")).unwrap());
        for pair in steps.windows(2) {
            assert_eq!(verdict_of(&pair[0], &pair[1], "n"), Ok(()));
            assert_eq!(verdict_of(&pair[1], &pair[0], "n"), Ok(()));
        }
        let unknown: Error = CertificateError::UnknownIssuer.into();
        assert_eq!(verdict_of(&steps[3], &steps[1], "n"), Err(unknown.clone()), "retired before all had promoted");
        assert_eq!(verdict_of(&steps[0], &steps[2], "n"), Err(unknown), "promoted before all had added");
    }

    #[test]
    fn who_issued_a_certificate_is_known() {
        let mine = NodeIdentity::issue(&keys(&[2, 1]), node("mine")).unwrap();
        let [two, one] = mine.trusted() else { panic!() };
        let old = NodeIdentity::issue(&keys(&[1, 2]), node("b")).unwrap();
        let presented = [certificate(&old)];
        let retirement = mine.retirement(Some(&presented)).unwrap();
        two.retired.cancel();
        assert!(!retirement.is_cancelled());
        one.retired.cancel();
        assert!(retirement.is_cancelled());
        let stranger = NodeIdentity::issue(&key(3), node("b")).unwrap();
        assert!(mine.retirement(Some(&[certificate(&stranger)])).is_none());
        assert!(mine.retirement(Some(&[presented[0].clone(), certificate(&stranger)])).is_none());
        assert!(mine.retirement(None).is_none());
    }

    /// Whoever has a key can make an authority of any name below its own; what that issues is not taken.
    #[test]
    fn an_authority_in_between_is_not_trusted() {
        let above = Authority::of(&key(1)).unwrap();
        let between_key = KeyPair::generate().unwrap();
        let mut between = authority_params(&authority_key(&key(2)).unwrap()).unwrap();
        between.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Issuer::from_params(&above.params, &above.key);
        let between_certificate = between.signed_by(&between_key, &issuer).unwrap();
        let lower = Authority { params: between, key: between_key };
        let leaf = lower.certify("b.migrate", &provider()).unwrap().cert[0].clone();
        let mine = NodeIdentity::issue(&keys(&[1, 2]), node("mine")).unwrap();
        let chain = [leaf.clone(), between_certificate.der().clone()];
        assert!(mine.retirement(Some(&chain)).is_none());
        let verifier = NodeVerifier { peer: node("b"), roots: mine.roots, provider: mine.provider };
        let verified = verifier.verify_server_cert(&leaf, &chain[1..], &server_name(), &[], UnixTime::now());
        assert_eq!(verified.unwrap_err(), CertificateError::UnknownIssuer.into());
    }

    #[test]
    fn the_node_is_read_from_the_certificate() {
        for name in ["b", "0", "a--", &"x".repeat(63)] {
            let identity = NodeIdentity::issue(&key(1), node(name)).unwrap();
            assert_eq!(name_in(&certificate(&identity)), Some(node(name)));
        }
        for odd in ["b.example", "B.migrate", ".migrate", "a.b.migrate"] {
            let identity = NodeIdentity::issue_with_name(&keys(&[1]), odd, node("b")).unwrap();
            assert_eq!(name_in(&certificate(&identity)), None, "{odd}");
        }
        assert_eq!(name_in(&CertificateDer::from(vec![0; 10])), None);
    }
}
