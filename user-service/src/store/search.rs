//! Where a page of users begins that are in the order of what they are called.

use uuid::Uuid;

use crate::page::{Cursor, Search};

/// What a page comes behind: a key, and the id of whose it is. No user has the nil id, so that with it a page begins with
/// the key itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Begin {
    pub(super) key: String,
    pub(super) id: Uuid,
}

impl Begin {
    pub(super) fn of(search: &Search, after: Option<&Cursor>) -> Self {
        match after {
            Some(Cursor::Key(_, key, id)) if *key >= search.prefix => {
                Self { key: key.clone(), id: id.uuid() }
            }
            _ => Self { key: search.prefix.clone(), id: Uuid::nil() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Sort;

    #[test]
    fn a_page_never_begins_before_what_is_searched_for() {
        let search = Search { sort: Sort::Name, prefix: "b".into() };
        let id = Uuid::from_u128(7);
        let begin = |key: &str| Begin::of(&search, Some(&Cursor::Key(Sort::Name, key.into(), id.into())));
        assert_eq!(begin("bob"), Begin { key: "bob".into(), id });
        assert_eq!(begin("ada"), Begin { key: "b".into(), id: Uuid::nil() });
        assert_eq!(Begin::of(&search, None), Begin { key: "b".into(), id: Uuid::nil() });
    }
}
