//! How much of a drill is played.

/// The variable that asks for minutes in place of seconds.
pub(crate) const LONG: &str = "USER_SERVICE_DRILL";

/// The one or the other.
pub(crate) fn pick<T>(short: T, long: T) -> T {
    if std::env::var_os(LONG).is_some_and(|value| value == "long") { long } else { short }
}
