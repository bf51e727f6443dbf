//! The development issuer: a key of this machine's own, and tokens by it. For demonstrations and tests, as is `"dev"` among
//! certificates.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::Claims;
use super::jwk::KeySet;

/// The file of its key.
const KEY: &str = "issuer.key";

/// An issuer whose key is on this machine.
pub struct DevIssuer {
    pair: EcdsaKeyPair,
    file: PathBuf,
}

/// Why there is no development issuer.
#[derive(Debug, thiserror::Error)]
pub enum NoDevIssuer {
    /// Its key cannot be read or written.
    #[error("the development issuer needs {}, which cannot be read or written: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no key of P-256; remove it, and another is made", .0.display())]
    Key(PathBuf),
    /// A key could not be made.
    #[error("the key of the development issuer could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

impl DevIssuer {
    /// The issuer of this directory. Its key is made on first use; several processes may come at once.
    ///
    /// # Errors
    /// There is no key, and none can be made.
    pub fn at(directory: &Path) -> Result<Self, NoDevIssuer> {
        let file = directory.join(KEY);
        let at = |path: &Path, source| NoDevIssuer::File { path: path.to_owned(), source };
        fs::create_dir_all(directory).map_err(|error| at(directory, error))?;
        if !file.exists() {
            make(&file)?;
        }
        let text = fs::read_to_string(&file).map_err(|error| at(&file, error))?;
        let der = KeyPair::from_pem(&text).map_err(|_| NoDevIssuer::Key(file.clone()))?.serialize_der();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der);
        Ok(Self { pair: pair.map_err(|_| NoDevIssuer::Key(file.clone()))?, file })
    }

    /// The keys that verify its tokens: one.
    ///
    /// # Errors
    /// They cannot be understood by ourselves.
    pub fn keys(&self) -> Result<KeySet, NoDevIssuer> {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
        let set = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": self.id(), "x": x, "y": y }] });
        KeySet::read(set.to_string().as_bytes()).map_err(|_| NoDevIssuer::Key(self.file.clone()))
    }

    /// A token with these claims.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn sign(&self, claims: &Claims) -> Result<String, NoDevIssuer> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = json!({ "alg": "ES256", "kid": self.id(), "typ": "at+jwt" });
        let message = format!("{}.{}", part(&head), part(&Value::Object(claims.clone())));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes());
        let signature = signature.map_err(|_| NoDevIssuer::Key(self.file.clone()))?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    /// The name of its key: another key has another.
    fn id(&self) -> String {
        blake3::hash(self.pair.public_key().as_ref()).to_hex().as_str()[..16].to_owned()
    }
}

/// Puts a new key into the file, unless another process has put one there meanwhile. Nobody sees half of it.
fn make(file: &Path) -> Result<(), NoDevIssuer> {
    let draft = file.with_extension(format!("{}.new", std::process::id()));
    let text = KeyPair::generate()?.serialize_pem();
    let put = || {
        let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        new.write_all(text.as_bytes())?;
        match fs::hard_link(&draft, file) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    };
    let done = put();
    // What is left of it says nothing to anybody else.
    let _ = fs::remove_file(&draft);
    done.map_err(|source| NoDevIssuer::File { path: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::auth::Algorithm;
    use crate::auth::token::Token;

    #[test]
    fn its_key_is_made_once_and_verifies_its_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("certs");
        let issuer = DevIssuer::at(&directory).unwrap();
        let again = DevIssuer::at(&directory).unwrap();
        assert_eq!(issuer.keys().unwrap(), again.keys().unwrap());
        let mode = fs::metadata(directory.join(KEY)).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, fs::read_dir(&directory).unwrap().count()), (0o600, 1));

        let mut claims = Claims::new();
        claims.insert("sub".into(), "ada".into());
        let text = issuer.sign(&claims).unwrap();
        let token = Token::read(&text).unwrap();
        let signed = |issuer: &DevIssuer| {
            let id = token.key_id.as_deref();
            issuer.keys().unwrap().has_signed(id, Algorithm::Es256, token.message, &token.signature)
        };
        assert!(signed(&again) && token.claims["sub"] == "ada");
        assert!(!signed(&DevIssuer::at(&folder.path().join("others")).unwrap()));
    }

    #[test]
    fn a_file_that_holds_no_key_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(KEY), "nothing").unwrap();
        assert!(matches!(DevIssuer::at(folder.path()), Err(NoDevIssuer::Key(_))));
        let blocked = folder.path().join(KEY).join("below");
        assert!(matches!(DevIssuer::at(&blocked), Err(NoDevIssuer::File { .. })));
    }
}
