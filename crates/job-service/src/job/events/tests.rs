use super::*;

async fn all(events: &Arc<JobEvents>) -> Vec<Event> {
    let mut cursor = events.cursor();
    let mut all = Vec::new();
    while let Some(event) = cursor.next().await {
        all.push(event);
    }
    all
}

fn describe(events: &[Event]) -> Vec<String> {
    let describe = |event: &Event| match event {
        Event::State(state) => state.state().as_str_name().to_owned(),
        Event::Message(message) => message.message_text.clone(),
    };
    events.iter().map(describe).collect()
}

#[tokio::test]
async fn the_error_comes_before_the_terminal_state_and_nothing_after() {
    let events = Arc::new(JobEvents::new(None));
    events.move_to(JobState::Starting);
    events.move_to(JobState::Running);
    events.message(Importance::Error, "of a bundle".into());
    events.end(JobState::Failed, Some((Importance::Error, "the user's".into())));
    events.message(Importance::Error, "too late".into());
    events.end(JobState::Done, None);
    assert_eq!(events.move_to(JobState::Cancelling), JobState::Failed);
    assert_eq!(
        describe(&all(&events).await),
        ["STOPPED", "STARTING", "RUNNING", "of a bundle", "the user's", "FAILED"]
    );
}

#[tokio::test]
async fn an_end_passes_through_the_state_before_it() {
    let events = Arc::new(JobEvents::new(None));
    events.move_to(JobState::Starting);
    events.end(JobState::Done, None);
    assert_eq!(describe(&all(&events).await), ["STOPPED", "STARTING", "RUNNING", "DONE"]);
}

#[tokio::test]
async fn dropped_messages_are_counted_and_states_and_the_last_error_stay() {
    let events = Arc::new(JobEvents::new(None));
    events.message(Importance::Error, "first error".into());
    events.message(Importance::Error, "last error".into());
    events.move_to(JobState::Starting);
    for number in 0..MOST_MESSAGES + 5 {
        events.message(Importance::Basic, number.to_string());
    }
    events.end(JobState::Failed, None);
    let seen = describe(&all(&events).await);
    assert_eq!(seen[0], "STOPPED");
    assert!(seen[1].starts_with("1 messages are missing"), "{}", seen[1]);
    assert_eq!(seen[2..4], ["last error", "STARTING"]);
    assert!(seen[4].starts_with("5 messages are missing"), "{}", seen[4]);
    assert_eq!(seen[5], "5");
    assert_eq!(seen.len(), 5 + MOST_MESSAGES + 1);
}

#[tokio::test]
async fn the_text_of_a_job_is_bounded() {
    let events = Arc::new(JobEvents::new(None));
    let text = "ü".repeat(LONGEST_MESSAGE);
    for _ in 0..40 {
        events.message(Importance::Basic, text.clone());
    }
    events.end(JobState::Failed, None);
    let seen = describe(&all(&events).await);
    let size: usize = seen.iter().map(String::len).sum();
    assert!(size <= MOST_TEXT + 1000, "{size}");
    assert!(seen.iter().all(|text| text.len() <= LONGEST_MESSAGE + 100));
}

#[tokio::test]
async fn a_stream_that_waits_is_woken() {
    let events = Arc::new(JobEvents::new(None));
    let reader = tokio::spawn({
        let events = Arc::clone(&events);
        async move { all(&events).await }
    });
    tokio::task::yield_now().await;
    for number in 0..1000 {
        events.message(Importance::Basic, number.to_string());
        if number % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    events.end(JobState::Failed, None);
    assert_eq!(reader.await.unwrap().len(), 1002);
}
