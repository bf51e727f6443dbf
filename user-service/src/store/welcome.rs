//! What both databases say in the same words of welcomes: who has begun with a user, and who has one.

use uuid::Uuid;

pub(super) const WELCOMED: &str = "SELECT sent_at IS NOT NULL FROM welcomes WHERE user_id = $1";
pub(super) const END_WELCOME: &str =
    "UPDATE welcomes SET sent_at = $2, until = 0 WHERE user_id = $1 AND sent_at IS NULL";
pub(super) const FAIL_WELCOME: &str =
    "UPDATE welcomes SET until = 0 WHERE user_id = $1 AND holder = $2 AND sent_at IS NULL";

/// Whether a user can be welcomed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// By whoever asked, under this name.
    Now(Holder),
    /// No: the user has a welcome.
    Sent,
    /// No: another one has begun, and has not ended yet.
    ByAnother,
}

/// Names one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder(pub(super) Uuid);

/// What is left of a try that found a row: whether its user has a welcome.
pub(super) fn begun_before(sent: Option<bool>) -> Begun {
    if sent == Some(true) { Begun::Sent } else { Begun::ByAnother }
}
