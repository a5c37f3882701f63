//! TLS towards receivers, and its errors in words for the developer whose server it is.

use std::path::Path;
use std::sync::Arc;

use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, InvalidMessage, PeerIncompatible, RootCertStore,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::client::EgressError;

/// TLS 1.2 and 1.3 with ring; servers are verified against the platform's roots, or those of a file.
pub(crate) fn config(ca_file: Option<&Path>) -> Result<ClientConfig, EgressError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let unusable = |reason: String| EgressError::Roots(format!("{}: {reason}", path.display()));
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
                roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(EgressError::Roots(
            "install the system's CA certificates or set egress.ca_file".to_owned(),
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| EgressError::Setup(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// What is wrong, and with it what to mend.
pub(crate) fn describe(error: &Error) -> String {
    let words = match error {
        Error::InvalidCertificate(certificate) => return describe_certificate(certificate),
        Error::NoCertificatesPresented => "the server sent no certificate",
        Error::AlertReceived(AlertDescription::ProtocolVersion)
        | Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => "the server speaks neither TLS 1.2 nor TLS 1.3",
        Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity)
        | Error::PeerIncompatible(
            PeerIncompatible::NoCipherSuitesInCommon | PeerIncompatible::NoKxGroupsInCommon,
        ) => {
            "no cipher suite or key exchange in common, or the server wants a client certificate; TLS 1.2 takes ECDHE \
             with AES-GCM or ChaCha20-Poly1305"
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a client certificate; there is none"
        }
        Error::AlertReceived(AlertDescription::UnrecognisedName) => "the server does not know this host name",
        Error::AlertReceived(alert) => return format!("the server ended the handshake: {alert:?}"),
        Error::InvalidMessage(
            InvalidMessage::CertificatePayloadTooLarge | InvalidMessage::HandshakePayloadTooLarge,
        ) => "the server's certificates are longer than 64 KiB",
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => "the server does not speak TLS on this port",
        other => return other.to_string(),
    };
    words.to_owned()
}

fn describe_certificate(error: &CertificateError) -> String {
    let words = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet"
        }
        CertificateError::UnknownIssuer => {
            "the certificate's issuer is unknown: is the chain complete, or the certificate self-signed?"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another host name"
        }
        CertificateError::BadSignature => "the certificate's signature is wrong",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the certificate is not for servers"
        }
        // What `openssl req -x509` makes.
        CertificateError::Other(other) if is_authority(other) => {
            "the certificate is self-signed, or an authority's own"
        }
        other => return format!("the certificate is not valid: {other}"),
    };
    words.to_owned()
}

fn is_authority(error: &rustls::OtherError) -> bool {
    matches!(error.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}
