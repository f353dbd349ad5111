use beam_model::job_management::job_state;
use tempfile::TempDir;

use super::*;

fn description(id: &str) -> Description {
    Description { job_id: id.to_owned(), backend: "b".to_owned(), ..Description::default() }
}

fn state(state: job_state::Enum) -> Event {
    Event::State(JobStateEvent { state: state.into(), timestamp: None })
}

fn message(text: &str) -> Event {
    Event::Message(JobMessage { message_text: text.to_owned(), ..JobMessage::default() })
}

fn only(journals: &Journals) -> WrittenDown {
    let mut all = journals.read_all().unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn a_record_that_was_cut_short_is_left_out_and_others_follow() {
    let folder = TempDir::new().unwrap();
    let journals = Journals::open(folder.path()).unwrap();
    let mut journal = journals.begin(&description("a")).unwrap();
    journal.event(&state(job_state::Enum::Starting));
    journal.note("one".to_owned());
    let whole = std::fs::metadata(&journal.path).unwrap().len();
    journal.event(&message("the last words"));
    let path = journal.path.clone();
    drop(journal);
    let all = std::fs::read(&path).unwrap();
    for length in usize::try_from(whole).unwrap()..all.len() {
        std::fs::write(&path, &all[..length]).unwrap();
        let mut found = only(&journals);
        assert_eq!((found.events.len(), found.note.as_deref()), (1, Some("one")), "{length}");
        found.journal.event(&message("after all"));
        assert_eq!(only(&journals).events, [state(job_state::Enum::Starting), message("after all")]);
    }
}

#[test]
fn what_is_no_journal_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let journals = Journals::open(folder.path()).unwrap();
    journals.begin(&description("good")).unwrap();
    for (name, text) in [("empty.journal", &b""[..]), ("odd.journal", b"\x05hello"), ("other", b"x")] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    std::fs::write(folder.path().join("incoming-1"), "half").unwrap();
    assert_eq!(only(&journals).description, description("good"));
    assert!(folder.path().join("odd.journal").exists() && !folder.path().join("incoming-1").exists());
}

#[test]
fn a_long_one_is_shortened_to_what_the_job_keeps() {
    let folder = TempDir::new().unwrap();
    let journals = Journals::open(folder.path()).unwrap();
    let mut journal = journals.begin(&description("a")).unwrap();
    journal.note("note".to_owned());
    for _ in 0..100 {
        journal.event(&message("of little worth"));
    }
    assert!(!journal.is_long());
    let before = journal.length;
    let kept = [state(job_state::Enum::Running), message("kept")];
    journal.shorten(kept.iter());
    assert!(journal.length < before / 10);
    journal.event(&message("new"));
    assert_eq!(journal.length, std::fs::metadata(&journal.path).unwrap().len());
    let found = only(&journals);
    assert_eq!((found.description, found.note.as_deref()), (description("a"), Some("note")));
    assert_eq!(found.events, [&kept[..], &[message("new")]].concat());
    journal.remove();
    assert!(journals.read_all().unwrap().is_empty());
}

#[test]
fn a_folder_has_one_server() {
    let folder = TempDir::new().unwrap();
    let first = Journals::open(folder.path()).unwrap();
    assert_eq!(Journals::open(folder.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(first);
    Journals::open(folder.path()).unwrap();
}
