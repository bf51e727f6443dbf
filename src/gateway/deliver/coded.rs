//! Answers in a content coding: what their heads say, and the bytes that go with them.

use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_LENGTH;

use super::{Plan, Send};
use crate::cache::stored::Stored;
use crate::exchange::Exchange;
use crate::forward::compress::{self, Choice, Encoder};
use crate::gateway::encode::{self, Form};
use crate::listen::ReadyHead;

/// The form of all of a stored answer that its client likes best, if there is one that is at hand; the head says so.
pub(super) fn at_hand(
    choice: Choice,
    exchange: &Exchange,
    stored: &Stored,
    head: &mut ReadyHead,
) -> Option<Bytes> {
    match choice {
        Choice::Untouched => None,
        Choice::In(coding) if let Some(Form::Smaller(form)) = encode::known(stored, coding) => {
            compress::mark(head, &stored.headers, coding);
            encode::count(exchange, choice);
            Some(form)
        }
        Choice::Plain | Choice::In(_) => {
            compress::vary(head, &stored.headers);
            None
        }
    }
}

impl Plan {
    /// Says in the head what was chosen for an answer with this status; whether its content is to be put in a coding, which
    /// `can` be had.
    fn say(&mut self, choice: Choice, status: StatusCode, can: bool) -> bool {
        if choice == Choice::Untouched {
            return false;
        }
        let fields = self.head.headers.clone();
        match choice {
            Choice::In(coding) if can && self.head.status == status => {
                compress::mark(&mut self.head, &fields, coding);
                return true;
            }
            Choice::In(_) if can && self.head.status == StatusCode::NOT_MODIFIED => {
                compress::weaken(&mut self.head, &fields);
                compress::vary(&mut self.head, &fields);
            }
            _ => compress::vary(&mut self.head, &fields),
        }
        false
    }

    /// Puts a stored answer in the form that was chosen, unless that is known to be no smaller.
    pub(super) fn put_in(
        &mut self,
        choice: Choice,
        form: Option<Form>,
        exchange: &Exchange,
        stored: &Stored,
    ) {
        if !self.say(choice, stored.status, !matches!(form, Some(Form::Useless))) {
            return;
        }
        encode::count(exchange, choice);
        if let Some(Form::Smaller(form)) = form {
            self.head.headers.insert(CONTENT_LENGTH, form.len().into());
            if matches!(self.send, Send::All) {
                self.send = Send::Form(form);
            }
        }
    }

    /// Begins to put an answer that comes in the coding that was chosen.
    pub(super) fn begin(
        &mut self,
        choice: Choice,
        exchange: &Exchange,
        status: StatusCode,
        length: Option<u64>,
    ) -> Option<Encoder> {
        let has_body = matches!(self.send, Send::All);
        let encoder = match choice {
            Choice::In(coding) if has_body => Encoder::start(coding, length),
            _ => None,
        };
        if self.say(choice, status, !has_body || encoder.is_some()) {
            encode::count(exchange, choice);
        }
        encoder
    }
}
