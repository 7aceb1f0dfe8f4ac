//! The task queue.

use crate::{
    AttemptOutcome, AttemptResult, ClaimedTask, Meta, NewTask, TaskKind::Other, TaskRecord, TaskState,
};

/// A lease that lasts longer than the test.
const LONG: i64 = 3_600_000;

pub(super) async fn run(meta: &Meta) {
    a_task_is_claimed_once(meta).await;
    an_expired_lease_is_taken_over(meta).await;
    a_task_is_dead_after_its_last_attempt(meta).await;
    a_handed_back_attempt_does_not_count(meta).await;
    a_recurring_task_exists_once(meta).await;
    done_tasks_are_purged(meta).await;
    old_attempts_are_purged_in_batches(meta).await;
}

fn new(id: i64, kind: &'static str, max_attempts: u32) -> NewTask {
    NewTask { id, kind: Other(kind), payload: "{}".to_owned(), max_attempts }
}

async fn claim(meta: &Meta, id: i64, owner: &str, lease: i64) -> Option<ClaimedTask> {
    meta.tasks.claim(id, owner, lease).await.unwrap()
}

async fn task(meta: &Meta, id: i64) -> TaskRecord {
    meta.tasks.find(id).await.unwrap().unwrap().0
}

async fn attempt_numbers(meta: &Meta, id: i64) -> Vec<i32> {
    let (_, attempts) = meta.tasks.find(id).await.unwrap().unwrap();
    attempts.iter().map(|attempt| attempt.number).collect()
}

async fn outcomes(meta: &Meta, id: i64) -> Vec<Option<AttemptOutcome>> {
    let (_, attempts) = meta.tasks.find(id).await.unwrap().unwrap();
    assert_eq!(
        attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(),
        (1..).take(attempts.len()).collect::<Vec<_>>()
    );
    attempts.iter().map(|attempt| attempt.outcome).collect()
}

async fn a_task_is_claimed_once(meta: &Meta) {
    meta.tasks.enqueue(new(300, "a", 5), None).await.unwrap();
    assert!(meta.tasks.enqueue(new(300, "a", 5), None).await.is_err());
    assert_eq!(meta.tasks.due(&[Other("b")], 10).await.unwrap(), []);
    assert_eq!(meta.tasks.due(&[Other("a"), Other("b")], 10).await.unwrap(), [(300, Other("a"))]);
    assert_eq!(meta.tasks.next_due(&[Other("a")]).await.unwrap(), Some(0));
    let claimed = claim(meta, 300, "one", LONG).await.unwrap();
    assert_eq!((claimed.attempt, claimed.kind.as_str(), claimed.payload.as_str()), (1, "a", "{}"));
    assert!(claim(meta, 300, "two", LONG).await.is_none());
    assert_eq!(meta.tasks.due(&[Other("a")], 10).await.unwrap(), []);
    assert!(meta.tasks.next_due(&[Other("a")]).await.unwrap().unwrap() > LONG / 2);
    assert_eq!(outcomes(meta, 300).await, [None]);
    assert!(meta.tasks.renew(&claimed, "one", LONG).await.unwrap());
    assert!(!meta.tasks.renew(&claimed, "two", LONG).await.unwrap());
    assert!(!meta.tasks.end(&claimed, "two", AttemptResult::Done).await.unwrap());
    assert!(meta.tasks.end(&claimed, "one", AttemptResult::Done).await.unwrap());
    assert!(!meta.tasks.end(&claimed, "one", AttemptResult::Done).await.unwrap());
    let done = task(meta, 300).await;
    assert_eq!((done.state, done.lease_owner, done.lease_until), (TaskState::Done, None, None));
    assert!(done.ended_at.is_some());
    assert_eq!(outcomes(meta, 300).await, [Some(AttemptOutcome::Done)]);
    assert!(claim(meta, 300, "two", LONG).await.is_none());
    assert!(!meta.tasks.retry(300, 5).await.unwrap(), "a done task cannot be retried");
}

async fn an_expired_lease_is_taken_over(meta: &Meta) {
    meta.tasks.enqueue(new(310, "a", 2), None).await.unwrap();
    let expired = claim(meta, 310, "one", 0).await.unwrap();
    let claimed = claim(meta, 310, "two", 0).await.unwrap();
    assert_eq!(claimed.attempt, 2);
    assert_eq!(outcomes(meta, 310).await, [Some(AttemptOutcome::Lost), None]);
    // After another process has claimed the task, the first claim gives no rights any more.
    assert!(!meta.tasks.renew(&expired, "one", LONG).await.unwrap());
    assert!(!meta.tasks.end(&expired, "one", AttemptResult::Done).await.unwrap());
    // The claim of an earlier attempt gives no rights either, even to the current owner.
    assert!(!meta.tasks.renew(&expired, "two", LONG).await.unwrap());
    // A task whose process dies at every attempt becomes dead, too.
    assert!(claim(meta, 310, "three", LONG).await.is_none());
    assert_eq!(task(meta, 310).await.state, TaskState::Dead);
    assert_eq!(outcomes(meta, 310).await, [Some(AttemptOutcome::Lost); 2]);
    assert!(claim(meta, 310, "three", LONG).await.is_none());

    // The only process need not wait until the leases of dead processes expire.
    meta.tasks.enqueue(new(311, "a", 5), None).await.unwrap();
    claim(meta, 311, "dead", LONG).await.unwrap();
    meta.tasks.enqueue(new(312, "a", 5), None).await.unwrap();
    claim(meta, 312, "alive", LONG).await.unwrap();
    assert_eq!(meta.tasks.expire_other_leases("alive", Vec::new(), true).await.unwrap(), 1);
    assert_eq!(meta.tasks.due(&[Other("a")], 10).await.unwrap(), [(311, Other("a"))]);
    for (id, attempt) in [(311, 2), (312, 1)] {
        let owner = if id == 311 { "alive-too" } else { "alive" };
        let claimed = claim(meta, id, owner, LONG).await.unwrap_or(ClaimedTask {
            store: None,
            id,
            kind: "a".to_owned(),
            payload: "{}".to_owned(),
            attempt,
            max_attempts: 5,
        });
        assert!(meta.tasks.end(&claimed, owner, AttemptResult::Done).await.unwrap(), "{id}");
    }
}

async fn a_task_is_dead_after_its_last_attempt(meta: &Meta) {
    meta.tasks.enqueue(new(320, "a", 2), None).await.unwrap();
    let first = claim(meta, 320, "one", LONG).await.unwrap();
    assert!(meta.tasks.end(&first, "one", AttemptResult::Retry("oh".repeat(2000), LONG)).await.unwrap());
    let waiting = task(meta, 320).await;
    assert_eq!(waiting.state, TaskState::Queued);
    assert_eq!(waiting.last_error.unwrap().len(), 2000);
    assert!(claim(meta, 320, "one", LONG).await.is_none(), "the backoff has not passed");
    // An operator can retry the task immediately.
    assert!(meta.tasks.retry(320, 1).await.unwrap());
    let second = claim(meta, 320, "one", LONG).await.unwrap();
    assert!(meta.tasks.end(&second, "one", AttemptResult::Retry("no".to_owned(), 0)).await.unwrap());
    let dead = task(meta, 320).await;
    assert_eq!((dead.state, dead.attempts, dead.last_error.as_deref()), (TaskState::Dead, 2, Some("no")));
    assert!(meta.tasks.has_unfinished(Other("a"), "{}").await.unwrap());
    assert_eq!(meta.tasks.newest(Some(TaskState::Dead), 10).await.unwrap().len(), 2);
    assert!(meta.tasks.retry(320, 3).await.unwrap());
    let third = claim(meta, 320, "one", LONG).await.unwrap();
    assert_eq!((third.attempt, third.max_attempts), (3, 5));
    assert!(!meta.tasks.retry(320, 3).await.unwrap(), "the task is running");
    assert!(meta.tasks.end(&third, "one", AttemptResult::Fail("never".to_owned())).await.unwrap());
    let dead = task(meta, 320).await;
    assert_eq!((dead.state, dead.attempts), (TaskState::Dead, 3));
    assert_eq!(outcomes(meta, 320).await, [Some(AttemptOutcome::Failed); 3]);
    assert!(!meta.tasks.retry(329, 1).await.unwrap(), "there is no such task");
}

async fn a_handed_back_attempt_does_not_count(meta: &Meta) {
    meta.tasks.enqueue(new(330, "b", 1), None).await.unwrap();
    let first = claim(meta, 330, "one", LONG).await.unwrap();
    assert!(meta.tasks.end(&first, "one", AttemptResult::HandedBack).await.unwrap());
    let second = claim(meta, 330, "two", LONG).await.unwrap();
    assert_eq!((second.attempt, second.max_attempts), (2, 2));
    assert!(meta.tasks.end(&second, "two", AttemptResult::Done).await.unwrap());
    assert_eq!(outcomes(meta, 330).await, [Some(AttemptOutcome::HandedBack), Some(AttemptOutcome::Done)]);
    assert!(!meta.tasks.has_unfinished(Other("b"), "{}").await.unwrap());
}

async fn a_recurring_task_exists_once(meta: &Meta) {
    for id in [340, 341] {
        meta.tasks.ensure_recurring(new(id, "again", 1000), None).await.unwrap();
    }
    assert_eq!(meta.tasks.due(&[Other("again")], 10).await.unwrap(), [(340, Other("again"))]);
    let first = claim(meta, 340, "one", LONG).await.unwrap();
    assert!(meta.tasks.end(&first, "one", AttemptResult::Repeat(LONG)).await.unwrap());
    assert_eq!(meta.tasks.due(&[Other("again")], 10).await.unwrap(), []);
    // Every start makes the task due, unless it is running.
    meta.tasks.ensure_recurring(new(342, "again", 1000), None).await.unwrap();
    claim(meta, 340, "one", LONG).await.unwrap();
    meta.tasks.ensure_recurring(new(343, "again", 1000), None).await.unwrap();
    assert_eq!(task(meta, 340).await.state, TaskState::Running);
}

async fn done_tasks_are_purged(meta: &Meta) {
    assert_eq!(meta.tasks.purge(0, 10).await.unwrap(), 0);
    assert!(meta.tasks.purge(i64::MAX, 10).await.unwrap() > 0);
    assert!(meta.tasks.find(300).await.unwrap().is_none());
    // Dead, queued and running tasks stay. Recurring tasks lose their ended attempts.
    for id in [310, 320, 340] {
        assert!(meta.tasks.find(id).await.unwrap().is_some(), "{id}");
    }
    assert_eq!(attempt_numbers(meta, 340).await, [2]);
}

/// Runs after [`done_tasks_are_purged`], which has purged all other old rows.
async fn old_attempts_are_purged_in_batches(meta: &Meta) {
    meta.tasks.ensure_recurring(new(350, "often", 1000), None).await.unwrap();
    meta.tasks.ensure_recurring(new(351, "rarely", 1000), None).await.unwrap();
    for id in [350, 350, 350, 351, 351] {
        let claimed = claim(meta, id, "one", LONG).await.unwrap();
        assert!(meta.tasks.end(&claimed, "one", AttemptResult::Repeat(0)).await.unwrap());
    }
    claim(meta, 351, "one", LONG).await.unwrap();
    for batch in [2, 2, 1, 0] {
        assert_eq!(meta.tasks.purge(i64::MAX, 2).await.unwrap(), batch);
    }
    assert_eq!(attempt_numbers(meta, 350).await, [0; 0]);
    assert_eq!(attempt_numbers(meta, 351).await, [3], "a running attempt stays");
}
