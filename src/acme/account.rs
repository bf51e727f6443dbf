//! The account at the authority: made once, stored, and used for every order.

use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};

use super::Settings;
use super::https::Https;
use super::order::Failure;
use super::store::{Record, Store};

/// The version of what is stored. Another one is not read: an account of its own is made.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    credentials: AccountCredentials,
}

/// The account that is stored, or a new one, which is stored before it is used.
pub(super) async fn open(settings: &Settings, store: &Store) -> Result<Account, Failure> {
    let https = Https::trusting(settings.roots.as_deref()).map_err(Failure::passing)?;
    let builder = || Account::builder_with_http(Box::new(https.clone()));
    let stored = store.read(Record::Account).await?;
    let stored = stored.and_then(|text| serde_json::from_slice::<Stored>(&text).ok());
    if let Some(Stored { version: VERSION, credentials }) = stored {
        return Ok(builder().from_credentials(credentials).await?);
    }

    let contact = format!("mailto:{}", settings.email);
    let new = NewAccount {
        contact: &[&contact],
        // Who writes `tls.acme` agrees; its documentation says so.
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let eab = settings.eab.as_ref().map(|eab| ExternalAccountKey::new(eab.key_id.clone(), &eab.key));
    let (account, credentials) = builder().create(&new, settings.directory.clone(), eab.as_ref()).await?;
    let text = serde_json::to_vec(&Stored { version: VERSION, credentials }).map_err(Failure::passing)?;
    store.write(Record::Account, text).await?;
    tracing::info!(directory = settings.directory, "account made at the authority");
    Ok(account)
}
