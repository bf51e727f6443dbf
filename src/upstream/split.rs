//! Sending parts of a route's requests to different upstreams, as their weights say.

use thiserror::Error;

/// A weighted choice, most often among `Arc<Upstream>`s.
#[derive(Clone, Debug)]
pub struct Split<T> {
    /// Each choice with the sum of the weights up to and including its own.
    choices: Box<[(u64, T)]>,
}

/// A split in which nothing can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a split needs at least one choice with a weight above 0")]
pub struct NothingToChoose;

impl<T> Split<T> {
    /// Everything to one.
    pub fn one(only: T) -> Self {
        Self { choices: Box::new([(1, only)]) }
    }

    /// Parts by weight; what has weight 0 is never chosen.
    pub fn new(weighted: impl IntoIterator<Item = (T, u32)>) -> Result<Self, NothingToChoose> {
        let mut sum = 0;
        let choices: Box<[_]> = weighted
            .into_iter()
            .filter(|(_, weight)| *weight > 0)
            .map(|(choice, weight)| {
                sum += u64::from(weight);
                (sum, choice)
            })
            .collect();
        if choices.is_empty() { Err(NothingToChoose) } else { Ok(Self { choices }) }
    }

    /// One of the choices, by chance.
    pub fn choose(&self) -> &T {
        if let [(_, only)] = &*self.choices { only } else { self.choose_with(&mut fastrand::Rng::new()) }
    }

    /// One of the choices, by this source of chance.
    pub fn choose_with(&self, rng: &mut fastrand::Rng) -> &T {
        let sum = self.choices.last().map_or(1, |(sum, _)| *sum);
        let drawn = rng.u64(..sum);
        let index = self.choices.partition_point(|(sum, _)| *sum <= drawn);
        &self.choices[index].1
    }

    /// The choices, in the order given.
    pub fn choices(&self) -> impl Iterator<Item = &T> {
        self.choices.iter().map(|(_, choice)| choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_out_as_their_weights_say() {
        let split = Split::new([("web", 95), ("never", 0), ("next", 5)]).unwrap();
        let mut rng = fastrand::Rng::with_seed(1);
        let next = (0..100_000).filter(|_| *split.choose_with(&mut rng) == "next").count();
        assert!((4_500..5_500).contains(&next), "{next}");
        assert_eq!(split.choices().count(), 2);
    }

    #[test]
    fn a_split_of_nothing_is_refused() {
        assert_eq!(Split::<()>::new([]).unwrap_err(), NothingToChoose);
        assert_eq!(Split::new([("web", 0)]).unwrap_err(), NothingToChoose);
        assert_eq!(*Split::one("web").choose(), "web");
    }
}
