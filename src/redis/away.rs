//! Why there is no answer from Redis.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why a call has no answer. To whoever calls it is all one: go on without. The reason is for logs and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Away {
    /// Not asked: Redis failed lately and has not come back yet.
    #[error("not asked, as it failed lately")]
    Open,
    /// Not asked: as many calls as may be are waiting for their answers already.
    #[error("not asked, as too many calls wait")]
    Busy,
    /// No answer within the patience. Whether the call took effect is not known.
    #[error("no answer in time")]
    Late,
    /// The connection could not be had, or broke.
    #[error("no connection")]
    Lost,
    /// An answer that is none to this question.
    #[error("an answer that makes no sense")]
    Nonsense,
    /// The server said no.
    #[error("refused: {0}")]
    Refused(No),
}

/// What a server says no for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum No {
    /// It is a replica and takes no writes (`READONLY`).
    #[error("it is a replica")]
    ReadOnly,
    /// Its memory is full (`OOM`), or it cannot save what it has (`MISCONF`).
    #[error("it is full")]
    Full,
    /// It loads its data, runs a long script, or its cluster is not whole (`LOADING`, `BUSY`, `CLUSTERDOWN`, …).
    #[error("it is not ready")]
    NotReady,
    /// User, password or permissions (`NOAUTH`, `WRONGPASS`, `NOPERM`).
    #[error("not permitted to this user")]
    Forbidden,
    /// A key of ours holds something else (`WRONGTYPE`).
    #[error("a key holds something else")]
    WrongType,
    /// Anything else.
    #[error("an error")]
    Other,
}

impl Away {
    /// What an error of the crate comes to.
    pub(super) fn of(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::Io if error.is_timeout() => Self::Late,
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType | ErrorKind::RESP3NotSupported => {
                Self::Nonsense
            }
            ErrorKind::AuthenticationFailed => Self::Refused(No::Forbidden),
            ErrorKind::Server(kind) => Self::Refused(No::of(kind, error.code())),
            ErrorKind::Extension => Self::Refused(No::of_code(error.code())),
            _ => Self::Lost,
        }
    }

    /// Whether the server, or the way to it, is to blame; otherwise it is well and only this call is not for it.
    pub(super) fn is_ill(self) -> bool {
        match self {
            Self::Open | Self::Busy => false,
            Self::Late | Self::Lost | Self::Nonsense => true,
            Self::Refused(no) => matches!(no, No::ReadOnly | No::NotReady),
        }
    }
}

impl No {
    fn of(kind: ServerErrorKind, code: Option<&str>) -> Self {
        match kind {
            ServerErrorKind::ReadOnly => Self::ReadOnly,
            ServerErrorKind::NoPerm => Self::Forbidden,
            ServerErrorKind::BusyLoading
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask => Self::NotReady,
            _ => Self::of_code(code),
        }
    }

    fn of_code(code: Option<&str>) -> Self {
        match code.unwrap_or_default() {
            "OOM" | "MISCONF" | "NOREPLICAS" => Self::Full,
            "BUSY" | "UNBLOCKED" => Self::NotReady,
            "NOAUTH" | "WRONGPASS" | "NOPERM" => Self::Forbidden,
            "WRONGTYPE" => Self::WrongType,
            _ => Self::Other,
        }
    }
}
