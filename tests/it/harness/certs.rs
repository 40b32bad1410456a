//! Certificates for one test: an authority, and one certificate that serves both sides.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use redis_gateway::config::Tls;

/// PEM files in a folder of their own, gone with it. The certificate is for `localhost` and 127.0.0.1.
pub(crate) struct Certs {
    folder: TempDir,
}

impl Certs {
    /// Makes an authority and a certificate signed by it.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // A certificate that bears its issuer's name would pass for self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);

        let leaf_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "localhost");
        let leaf = params.signed_by(&leaf_key, &issuer).unwrap();

        let certs = Certs {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(certs.ca(), ca.pem()).unwrap();
        fs::write(certs.cert(), leaf.pem()).unwrap();
        fs::write(certs.key(), leaf_key.serialize_pem()).unwrap();
        certs
    }

    /// The authority's certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The certificate.
    pub(crate) fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// The certificate's key.
    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// A client's settings: trust this authority, show this certificate.
    pub(crate) fn client(&self) -> Tls {
        Tls {
            ca_file: Some(self.ca()),
            cert_file: Some(self.cert()),
            key_file: Some(self.key()),
            insecure: false,
        }
    }
}
