//! Work that goes on beside the requests for as long as the proxy runs. Should it panic, the log says
//! so and it is begun again: without it certificates end and activity is lost, long after the cause.

use std::{future::Future, time::Duration};

use tokio::{task::JoinSet, time::Instant};

/// The pauses before something is begun again: the first, and the longest. Each is twice as long as
/// the one before, so that what panics each time does no harm.
#[derive(Clone, Copy)]
pub(crate) struct Pauses {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

pub(crate) const PAUSES: Pauses = Pauses {
    first: Duration::from_secs(1),
    longest: Duration::from_mins(5),
};

/// Runs a task until it returns, and begins it again when it panics. When this is dropped, so is the
/// task; while it waits to be begun again, `closed` ends it too.
pub(crate) async fn keep_running<T, C>(
    what: &str,
    pauses: Pauses,
    mut begin: impl FnMut() -> T,
    closed: impl Fn() -> C,
) where
    T: Future<Output = ()> + Send + 'static,
    C: Future<Output = ()>,
{
    let mut pause = pauses.first;
    loop {
        let begun = Instant::now();
        // A set, because it takes its task along when it is dropped.
        let mut task = JoinSet::new();
        task.spawn(begin());
        let Some(Err(error)) = task.join_next().await else {
            return;
        };
        if error.is_cancelled() {
            return;
        }
        if begun.elapsed() > pauses.longest {
            pause = pauses.first;
        }
        tracing::error!(
            "internal: {what} has failed and is begun again in {} s: {error}",
            pause.as_secs_f32()
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = closed() => return,
        }
        pause = (pause * 2).min(pauses.longest);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use tokio::time::timeout;

    use super::*;

    const SHORT: Pauses = Pauses {
        first: Duration::from_millis(10),
        longest: Duration::from_millis(40),
    };
    const DEADLINE: Duration = Duration::from_secs(20);

    /// Counts how often it was begun, and panics as often as it is told to.
    fn panicking(times: u32) -> (Arc<AtomicU32>, impl FnMut() -> Task) {
        let begun = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&begun);
        let begin = move || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            let task: Task = Box::pin(async move {
                assert!(number >= times, "on purpose");
            });
            task
        };
        (begun, begin)
    }

    type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

    #[tokio::test]
    async fn what_panics_is_begun_again_until_it_returns_and_ever_later() {
        let (begun, begin) = panicking(5);
        let start = Instant::now();
        let running = keep_running("a test's task", SHORT, begin, pending);
        timeout(DEADLINE, running).await.expect("it returns");
        assert_eq!(begun.load(Ordering::SeqCst), 6);
        let waited = start.elapsed();
        assert!(
            waited >= Duration::from_millis(10 + 20 + 40 + 40 + 40),
            "{waited:?}"
        );
    }

    #[tokio::test]
    async fn nothing_is_begun_again_when_the_proxy_stops() {
        let (begun, begin) = panicking(u32::MAX);
        let running = keep_running("a test's task", PAUSES, begin, || async {});
        timeout(DEADLINE, running).await.expect("it ends");
        assert_eq!(begun.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_task_ends_with_what_watches_it() {
        let (held, is_dropped) = tokio::sync::oneshot::channel::<()>();
        let mut held = Some(held);
        let begin = move || {
            let held = held.take();
            async move {
                let _held = held;
                pending::<()>().await;
            }
        };
        let mut running = Box::pin(keep_running("a test's task", PAUSES, begin, pending));
        assert!(
            timeout(Duration::from_millis(20), &mut running)
                .await
                .is_err()
        );
        drop(running);
        let dropped = timeout(DEADLINE, is_dropped).await.expect("it is dropped");
        assert!(dropped.is_err());
    }
}
