//! Wakes the task of a connection, but not while it is at work anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use parking_lot::Mutex;

/// The waker that a connection is driven with.
///
/// Requests that are answered in the connection's own task would wake that task for each frame they leave. While it is
/// muted, nobody is woken: the connection is looked at once more after that in any case.
#[derive(Debug)]
pub(super) struct Alarm {
    task: Mutex<Waker>,
    muted: AtomicBool,
}

impl Alarm {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { task: Mutex::new(Waker::noop().clone()), muted: AtomicBool::new(false) })
    }

    /// From now on wakes this task.
    pub(super) fn wakes(&self, task: &Waker) {
        self.task.lock().clone_from(task);
    }

    /// While `work` runs, wakes are dropped: the caller polls again after it whatever could have caused one.
    pub(super) fn muted(&self, work: impl FnOnce()) {
        self.muted.store(true, Ordering::SeqCst);
        work();
        self.muted.store(false, Ordering::SeqCst);
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.muted.load(Ordering::SeqCst) {
            self.task.lock().wake_by_ref();
        }
    }
}
