use super::*;

const TIMEOUT: Duration = Duration::from_secs(60);

fn pool(port: u16) -> WorkerPool {
    WorkerPool::at(&format!("127.0.0.1:{port}"))
}

fn ids(standbys: &[Arc<Standby>]) -> Vec<&str> {
    standbys.iter().filter_map(|it| it.id.rsplit('-').next()).collect()
}

fn take(standbys: &Standbys, pool: &WorkerPool) -> Option<String> {
    standbys.take(pool, |it| ids(std::slice::from_ref(it)).join(""))
}

#[tokio::test]
async fn what_is_missing_is_started() {
    let (standbys, one, other) = (Standbys::default(), pool(1), pool(2));
    assert_eq!(ids(&standbys.fill_up(&one, 2, TIMEOUT)), ["1", "2"]);
    assert_eq!(ids(&standbys.fill_up(&one, 3, TIMEOUT)), ["3"]);
    assert!(standbys.fill_up(&one, 2, TIMEOUT).is_empty());
    assert_eq!(ids(&standbys.fill_up(&other, 1, TIMEOUT)), ["4"]);
    assert_eq!(take(&standbys, &one).as_deref(), Some("1"));
    assert_eq!(ids(&standbys.fill_up(&one, 3, TIMEOUT)), ["5"]);
}

#[tokio::test]
async fn who_is_connected_is_taken_first_and_nobody_twice() {
    let (standbys, one) = (Standbys::default(), pool(1));
    let started = standbys.fill_up(&one, 3, TIMEOUT);
    assert!(!standbys.is_ready(&one));
    assert!(started[1].connect().is_some());
    assert!(started[1].connect().is_none(), "it has its stream already");
    assert!(standbys.is_ready(&one) && !standbys.is_ready(&pool(2)));
    assert_eq!(take(&standbys, &pool(2)), None);
    assert_eq!(take(&standbys, &one).as_deref(), Some("2"));
    assert!(!standbys.is_ready(&one));
    assert!(!standbys.forget(&started[1]), "it has a job");
    assert_eq!(take(&standbys, &one).as_deref(), Some("1"));
    assert!(standbys.forget(&started[2]));
    assert_eq!(take(&standbys, &one), None);
}

#[tokio::test]
async fn the_dead_are_neither_taken_nor_counted() {
    let (standbys, one) = (Standbys::default(), pool(1));
    let started = standbys.fill_up(&one, 2, TIMEOUT);
    assert!(started[0].connect().is_some());
    started[0].end("was killed");
    assert!(!standbys.is_ready(&one));
    assert_eq!(ids(&standbys.fill_up(&one, 2, TIMEOUT)), ["3"]);
    assert_eq!(take(&standbys, &one).as_deref(), Some("2"));
    assert_eq!(take(&standbys, &one).as_deref(), Some("3"));
    assert_eq!(take(&standbys, &one), None);
}

#[tokio::test]
async fn they_are_known_by_ids_that_no_other_server_has() {
    let (standbys, other) = (Standbys::default(), Standbys::default());
    let started = standbys.fill_up(&pool(1), 1, TIMEOUT);
    other.fill_up(&pool(1), 1, TIMEOUT);
    assert!(standbys.get(&started[0].id).is_some_and(|it| Arc::ptr_eq(&it, &started[0])));
    assert!(other.get(&started[0].id).is_none());
    assert!(standbys.get("job-0-1").is_none());
}

#[tokio::test]
async fn a_pool_whose_workers_ask_first_has_none_any_more() {
    let (standbys, one) = (Standbys::default(), pool(1));
    let started = standbys.fill_up(&one, 2, TIMEOUT);
    standbys.exclude(&one);
    assert!(started.iter().all(|it| it.is_gone()));
    assert!(standbys.fill_up(&one, 2, TIMEOUT).is_empty());
    assert_eq!(standbys.fill_up(&pool(2), 1, TIMEOUT).len(), 1);
    (0..MOST_UNFIT).for_each(|port| standbys.exclude(&pool(100 + port as u16)));
    assert_eq!(standbys.inner().unfit.len(), MOST_UNFIT);
    assert_eq!(standbys.fill_up(&one, 1, TIMEOUT).len(), 1, "so many are remembered");
}

#[tokio::test]
async fn there_are_none_when_the_server_ends() {
    let (standbys, one) = (Standbys::default(), pool(1));
    standbys.close();
    assert!(standbys.fill_up(&one, 2, TIMEOUT).is_empty());
}
