//! A RabbitMQ that is killed and comes back.

use super::stage::{Server, Stage};
use crate::Outcome;
use crate::rabbit::{Rabbit, STARTED_WITHIN};

/// A broker that runs, killed when dropped.
pub(crate) struct Broker {
    rabbit: Rabbit,
    server: Server,
    _names: Server,
}

impl Broker {
    /// One with nothing in it.
    pub(crate) fn start(stage: &Stage) -> Outcome<Self> {
        let rabbit = Rabbit::prepare(stage.room("rabbitmq")?)?;
        let names = Server::start("epmd", &stage.room("epmd")?, &mut rabbit.names())?;
        let server = Server::start("rabbitmq", &rabbit.room, &mut rabbit.broker())?;
        let mut broker = Self { rabbit, server, _names: names };
        broker.wait(stage)?;
        Ok(broker)
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again with what it had on its disk.
    pub(crate) fn start_again(&mut self, stage: &Stage) -> Outcome {
        self.server = Server::start("rabbitmq", &self.rabbit.room, &mut self.rabbit.broker())?;
        self.wait(stage)
    }

    fn wait(&mut self, stage: &Stage) -> Outcome {
        self.server.wait_for(STARTED_WITHIN, stage, "is there", || self.rabbit.listens())
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        self.rabbit.url()
    }
}
