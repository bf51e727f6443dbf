//! The account at the authority: made once, stored, and used for every order.

use instant_acme::{Account, AccountBuilder, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};

use super::Settings;
use super::order::Failure;
use super::store::{Record, Store};
use crate::https::Https;

/// The version of what is stored. Another one is not read: an account of its own is made.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    credentials: AccountCredentials,
    /// Whom the authority writes to, as it was told last.
    #[serde(default)]
    email: Option<String>,
}

impl Stored {
    fn is_told(&self, settings: &Settings) -> bool {
        self.email.as_ref() == Some(&settings.email)
    }
}

/// The account that is stored, or a new one, which is stored before it is used.
pub(super) async fn open(settings: &Settings, store: &Store) -> Result<Account, Failure> {
    if let Some(Stored { credentials, .. }) = read(store).await? {
        return Ok(builder(settings)?.from_credentials(credentials).await?);
    }

    let new = NewAccount {
        contact: &[&contact(settings)],
        // Who writes `tls.acme` agrees; its documentation says so.
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let eab = settings.eab.as_ref().map(|eab| ExternalAccountKey::new(eab.key_id.clone(), &eab.key));
    let made = builder(settings)?.create(&new, settings.directory.clone(), eab.as_ref()).await?;
    let (account, credentials) = made;
    write(store, settings, credentials).await?;
    tracing::info!(directory = settings.directory, "account made at the authority");
    Ok(account)
}

/// Whether the authority was told last whom to write to. An account that is not there yet will be made so.
pub(super) async fn knows_contact(settings: &Settings, store: &Store) -> Result<bool, Failure> {
    Ok(read(store).await?.is_none_or(|stored| stored.is_told(settings)))
}

/// Tells the authority whom to write to from now on, where it was told another (RFC 8555 section 7.3.2).
pub(super) async fn keep_contact(settings: &Settings, store: &Store) -> Result<(), Failure> {
    let Some(stored) = read(store).await? else { return Ok(()) };
    if stored.is_told(settings) {
        return Ok(());
    }
    let credentials = stored.credentials;
    let text = serde_json::to_vec(&credentials).map_err(Failure::passing)?;
    let account = builder(settings)?.from_credentials(credentials).await?;
    account.update_contacts(&[&contact(settings)]).await?;
    write(store, settings, serde_json::from_slice(&text).map_err(Failure::passing)?).await?;
    tracing::info!(email = settings.email, "the authority was told whom to write to");
    Ok(())
}

fn contact(settings: &Settings) -> String {
    format!("mailto:{}", settings.email)
}

fn builder(settings: &Settings) -> Result<AccountBuilder, Failure> {
    let https = Https::trusting(settings.roots.as_deref()).map_err(Failure::passing)?;
    Ok(Account::builder_with_http(Box::new(https)))
}

async fn read(store: &Store) -> Result<Option<Stored>, Failure> {
    let text = store.read(Record::Account).await?;
    let stored = text.and_then(|text| serde_json::from_slice::<Stored>(&text).ok());
    Ok(stored.filter(|stored| stored.version == VERSION))
}

async fn write(store: &Store, settings: &Settings, credentials: AccountCredentials) -> Result<(), Failure> {
    let stored = Stored { version: VERSION, credentials, email: Some(settings.email.clone()) };
    let text = serde_json::to_vec(&stored).map_err(Failure::passing)?;
    Ok(store.write(Record::Account, text).await?)
}
