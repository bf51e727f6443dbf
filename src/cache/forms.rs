//! Other forms of a stored body, such as a compressed one: each is made once, when it is first wanted, and kept beside it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::OnceCell;

/// How many other forms a body may have.
pub const FORMS: usize = 3;

/// The other forms of one body. Clones that are made once a form was wanted share them.
#[derive(Clone, Debug, Default)]
pub struct Forms(OnceLock<Arc<[OnceCell<Bytes>; FORMS]>>);

impl Forms {
    /// The form at this place, if it has been made.
    pub fn get(&self, place: usize) -> Option<&Bytes> {
        self.0.get()?.get(place)?.get()
    }

    /// The form at this place; whoever wants it first makes it, the others wait. With it, whether it was made now.
    pub async fn get_or_make<E>(
        &self,
        place: usize,
        make: impl AsyncFnOnce() -> Result<Bytes, E>,
    ) -> Result<(Bytes, bool), E> {
        let forms = self.0.get_or_init(Arc::default);
        let Some(form) = forms.get(place) else { return make().await.map(|bytes| (bytes, false)) };
        let mut is_new = false;
        let bytes = form
            .get_or_try_init(async || {
                is_new = true;
                make().await
            })
            .await?;
        Ok((bytes.clone(), is_new))
    }

    /// Bytes that they hold, but for the structure itself; 0 where none was wanted.
    pub(super) fn held(&self) -> u64 {
        let Some(forms) = self.0.get() else { return 0 };
        let bytes: u64 = forms.iter().filter_map(|form| Some(form.get()?.len() as u64 + 48)).sum();
        size_of_val(&**forms) as u64 + 32 + bytes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_form_is_made_once_and_counted() {
        let (forms, made) = (Forms::default(), AtomicU32::new(0));
        assert_eq!((forms.held(), forms.get(1)), (0, None));
        let want = || {
            forms.get_or_make(1, async || {
                made.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok::<_, ()>(Bytes::from_static(b"form"))
            })
        };
        let (one, other) = tokio::join!(want(), want());
        assert_eq!((one.unwrap().0, other.unwrap().0), ("form".into(), "form".into()));
        assert_eq!(made.load(Ordering::Relaxed), 1);
        assert_eq!(forms.clone().get(1).unwrap(), "form");
        assert!(forms.held() > 4 && forms.get(0).is_none());
    }

    #[tokio::test]
    async fn what_could_not_be_made_is_tried_again() {
        let forms = Forms::default();
        assert_eq!(forms.get_or_make(0, async || Err(7)).await, Err(7));
        assert_eq!(forms.get_or_make(0, async || Ok::<_, u8>("x".into())).await, Ok(("x".into(), true)));
    }
}
