//! What an end of a stream, or of its connection, says of the server (RFC 9113 section 7).

use std::io;

use h2::{Error, Reason};

use crate::refusal::Fault;

/// What this error is called.
pub(super) fn fault(error: &Error) -> Fault {
    let Some(reason) = error.reason() else {
        let is_late = error.get_io().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
        return if is_late { Fault::Timeout } else { Fault::BrokeOff };
    };
    if !error.is_remote() {
        return Fault::Invalid; // found here: what came breaks the rules
    }
    if error.is_go_away() {
        return Fault::Left; // of streams beyond the last that the server has looked at, alone
    }
    match reason {
        Reason::REFUSED_STREAM => Fault::Refused,
        Reason::NO_ERROR
        | Reason::CANCEL
        | Reason::INTERNAL_ERROR
        | Reason::STREAM_CLOSED
        | Reason::CONNECT_ERROR
        | Reason::ENHANCE_YOUR_CALM => Fault::BrokeOff,
        _ => Fault::Invalid, // it says that we break the rules, or that it wants another protocol
    }
}
