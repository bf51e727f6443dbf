//! Example users: the same ones every time, so that the lines of a tour work as printed.

use uuid::Builder;

use crate::audit::{Act, Actor};
use crate::email::Email;
use crate::name::Name;
use crate::profile::Profile;
use crate::store::{Store, StoreError};
use crate::user::{Timestamp, User};

/// Most users that are added in one transaction; others get their turn in between.
const BATCH: u32 = 500;

/// 2025-01-01T00:00:00Z, when the first example user came; the others followed by the minute.
const FIRST_AT: u64 = 1_735_689_600_000;

/// Adds the first `count` example users, where they are missing; answers how many those were.
pub async fn seed(store: &Store, count: u32) -> Result<u64, StoreError> {
    let act = Act::now(Actor::Command("seed"));
    let mut created = 0;
    for first in (0..count).step_by(BATCH as usize) {
        let batch: Vec<_> = (first..count.min(first.saturating_add(BATCH))).filter_map(example).collect();
        created += store.insert_missing(&batch, &act).await?;
    }
    Ok(created)
}

/// The example user of this number. Always the same, and never `None`: the tables below hold plain names.
fn example(number: u32) -> Option<User> {
    let index = number as usize;
    let given = GIVEN[index % GIVEN.len()];
    let family = FAMILY[(index / GIVEN.len() + index) % FAMILY.len()];
    // As many pairs as both tables give; later users are told apart by a number.
    let round = index / (GIVEN.len() * FAMILY.len());
    let suffix = if round == 0 { String::new() } else { (round + 1).to_string() };

    let address = format!("{given}.{family}{suffix}@example.com").to_ascii_lowercase();
    let profile = Profile {
        email: Email::parse(&address).ok()?,
        name: Name::parse(&format!("{given} {family}")).ok()?,
    };
    let millis = FIRST_AT + u64::from(number) * 60_000;
    let mut tail = [0; 10];
    tail[6..].copy_from_slice(&(number + 1).to_be_bytes());
    let id = Builder::from_unix_timestamp_millis(millis, &tail).into_uuid().into();
    Some(User::created(id, profile, Timestamp::from(i64::try_from(millis).ok()?)))
}

const GIVEN: [&str; 32] = [
    "Ada",
    "Alan",
    "Barbara",
    "Bjarne",
    "Claude",
    "Donald",
    "Edith",
    "Edsger",
    "Elena",
    "Frances",
    "Grace",
    "Hedy",
    "Ines",
    "John",
    "Joan",
    "Katherine",
    "Ken",
    "Leslie",
    "Lin",
    "Margaret",
    "Maryam",
    "Niklaus",
    "Olga",
    "Priya",
    "Radia",
    "Robin",
    "Sofia",
    "Tim",
    "Tony",
    "Ursula",
    "Vint",
    "Yukihiro",
];

const FAMILY: [&str; 31] = [
    "Abara",
    "Almeida",
    "Andersson",
    "Bauer",
    "Chen",
    "Costa",
    "Dubois",
    "Eriksen",
    "Fischer",
    "Garcia",
    "Haddad",
    "Ito",
    "Jansen",
    "Kaya",
    "Kim",
    "Kowalski",
    "Larsen",
    "Lopez",
    "Meyer",
    "Moreau",
    "Nagy",
    "Novak",
    "Okafor",
    "Patel",
    "Rossi",
    "Santos",
    "Schmidt",
    "Silva",
    "Tanaka",
    "Vargas",
    "Weber",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn example_users_differ_in_id_and_email_and_sort_by_number() {
        let users: Vec<_> = (0..5_000).filter_map(example).collect();
        assert_eq!(users.len(), 5_000);
        assert!(users.is_sorted_by(|a, b| a.id < b.id));
        let emails: HashSet<_> = users.iter().map(|user| user.email.as_str()).collect();
        assert_eq!(emails.len(), users.len());
    }

    #[test]
    fn example_users_are_the_same_every_time() {
        let ada = example(0).unwrap();
        assert_eq!(ada.id.to_string(), "01941f29-7c00-7000-8000-000000000001");
        assert_eq!((ada.email.as_str(), ada.name.as_str()), ("ada.abara@example.com", "Ada Abara"));
    }
}
