//! The words after `cargo xtask`, taken one by one; what nobody took is an error.

use std::str::FromStr;

use crate::{Failure, Outcome};

/// Words not yet understood.
pub(crate) struct Arguments(Vec<String>);

impl Arguments {
    /// The words this process was started with, its own name left out.
    pub(crate) fn of_this_process() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    /// Takes the first word, if there is one.
    pub(crate) fn word(&mut self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    /// Takes `--name`, and says whether it was there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let place = self.0.iter().position(|word| word == name);
        place.inspect(|&index| drop(self.0.remove(index))).is_some()
    }

    /// Takes `--name VALUE`, or gives `default` where it is absent.
    pub(crate) fn value<T: FromStr>(&mut self, name: &str, default: T) -> Outcome<T> {
        let Some(index) = self.0.iter().position(|word| word == name) else {
            return Ok(default);
        };
        self.0.remove(index);
        if index >= self.0.len() {
            return Err(Failure(format!("{name} needs a value")));
        }
        let value = self.0.remove(index);
        value.parse().map_err(|_| Failure(format!("{name} cannot be `{value}`")))
    }

    /// Ends the reading: words left over are an error.
    pub(crate) fn end(self) -> Outcome {
        match self.0.first() {
            None => Ok(()),
            Some(word) => Err(Failure(format!("`{word}` means nothing here"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &str) -> Arguments {
        Arguments(words.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn flags_and_values_are_found_wherever_they_stand() {
        let mut given = arguments("bench --secs 5 --quiet");
        assert_eq!(given.word().as_deref(), Some("bench"));
        assert!(given.flag("--quiet"));
        assert_eq!(given.value("--secs", 3).unwrap(), 5);
        assert_eq!(given.value("--rounds", 3).unwrap(), 3);
        assert!(given.end().is_ok());
    }

    #[test]
    fn what_nobody_understood_is_an_error() {
        assert!(arguments("--fast").end().is_err());
        assert!(arguments("--secs").value("--secs", 3).is_err());
        assert!(arguments("--secs soon").value("--secs", 3).is_err());
    }
}
