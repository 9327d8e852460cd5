//! What the disk keeps, loses and refuses.

use super::*;
use crate::rng::Rng;

/// A disk with `/m/log`; neither directory is durable.
fn files() -> SimFiles {
    let files = SimFiles::new("disk", &Trace::discard());
    files.make_directory(Path::new("/m")).unwrap();
    files.make_directory(Path::new("/m/log")).unwrap();
    files
}

fn write(files: &SimFiles, path: &str, text: &'static str) {
    files
        .write(Path::new(path), 0, &[Bytes::from_static(text.as_bytes())])
        .unwrap();
}

fn read(files: &SimFiles, path: &str) -> Option<Bytes> {
    files.files().remove(Path::new(path))
}

/// Write, sync, link, remove the first name, sync all directories from the top.
fn commit(files: &SimFiles, path: &str, text: &'static str) {
    write(files, "/m/log/tmp", text);
    files.sync(Path::new("/m/log/tmp")).unwrap();
    files
        .link(Path::new("/m/log/tmp"), Path::new(path))
        .unwrap();
    files.remove(Path::new("/m/log/tmp")).unwrap();
    for directory in ["/", "/m", "/m/log"] {
        files.sync_directory(Path::new(directory)).unwrap();
    }
}

#[test]
fn what_was_synced_with_its_directories_survives_every_cut() {
    for seed in 0..300 {
        let files = files();
        commit(&files, "/m/log/0", "zero");
        write(&files, "/m/log/1", "never synced");
        files.power_cut(&mut Rng::new(seed));
        assert_eq!(
            read(&files, "/m/log/0"),
            Some(Bytes::from_static(b"zero")),
            "seed {seed}"
        );
        assert_eq!(read(&files, "/m/log/tmp"), None);
    }
}

#[test]
fn what_was_not_synced_is_lost_torn_or_kept_in_some_cuts() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let files = files();
        commit(&files, "/m/log/0", "zero");
        write(&files, "/m/log/1", "one\ntwo\nthree");
        files.power_cut(&mut Rng::new(seed));
        seen.insert(match read(&files, "/m/log/1").as_deref() {
            None => "no name",
            Some(b"one\ntwo\nthree") => "kept",
            Some(b"") => "empty",
            Some(b"one\n" | b"one\ntwo\n") => "line",
            Some([.., 0]) => "zeros",
            Some(_) => "prefix",
        });
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
}

#[test]
fn a_name_in_a_directory_that_was_never_synced_can_be_lost() {
    let lost = (0..100)
        .filter(|seed| {
            let files = files();
            write(&files, "/m/log/0", "zero");
            files.sync(Path::new("/m/log/0")).unwrap();
            files.sync_directory(Path::new("/m/log")).unwrap(); // but neither /m nor /
            files.power_cut(&mut Rng::new(*seed));
            read(&files, "/m/log/0").is_none()
        })
        .count();
    assert!(lost > 0 && lost < 100, "{lost}");
}

#[test]
fn a_rename_is_there_wholly_or_not_at_all() {
    for seed in 0..200 {
        let files = files();
        commit(&files, "/m/log/hint", "old");
        write(&files, "/m/log/tmp", "new");
        files.sync(Path::new("/m/log/tmp")).unwrap();
        files.sync_directory(Path::new("/m/log")).unwrap();
        files
            .rename(Path::new("/m/log/tmp"), Path::new("/m/log/hint"))
            .unwrap();
        files.power_cut(&mut Rng::new(seed));
        let both = (read(&files, "/m/log/hint"), read(&files, "/m/log/tmp"));
        let (old, new) = (Bytes::from_static(b"old"), Bytes::from_static(b"new"));
        assert!(
            both == (Some(new.clone()), None) || both == (Some(old), Some(new)),
            "{both:?}"
        );
    }
}

#[test]
fn the_fuse_lets_the_last_call_take_effect_and_hides_its_reply() {
    let files = files();
    write(&files, "/m/a", "a");
    files.cut_after(1);
    files.sync(Path::new("/m/a")).unwrap();
    let error = files
        .write(Path::new("/m/b"), 0, &[Bytes::from_static(b"b")])
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Other);
    assert!(files.is_dark() && read(&files, "/m/b").is_some());
    assert!(files.status(Path::new("/m/a")).is_err());
    files.power_cut(&mut Rng::new(1));
    assert!(!files.is_dark());
}

#[test]
fn a_full_disk_refuses_the_rest_of_a_write() {
    let files = files();
    files.limit_free_bytes(Some(3));
    let error = files
        .write(Path::new("/m/a"), 0, &[Bytes::from_static(b"abcde")])
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(read(&files, "/m/a"), Some(Bytes::from_static(b"abc")));
}

#[test]
fn bytes_synced_before_an_append_survive_it() {
    for seed in 0..200 {
        let files = files();
        commit(&files, "/m/log/0", "zero\n");
        files
            .write(
                Path::new("/m/log/0"),
                5,
                &[Bytes::from_static(b"one\ntwo\n")],
            )
            .unwrap();
        files.power_cut(&mut Rng::new(seed));
        let left = read(&files, "/m/log/0").unwrap();
        assert!(left.starts_with(b"zero\n"), "{left:?}");
    }
}

#[test]
fn an_open_file_keeps_its_content_when_its_name_goes_to_another() {
    let files = files();
    write(&files, "/m/a", "old");
    write(&files, "/m/b", "new");
    let open = files.open(Path::new("/m/a")).unwrap();
    files.rename(Path::new("/m/b"), Path::new("/m/a")).unwrap();
    assert_eq!(open.read(0..3).unwrap(), Bytes::from_static(b"old"));
    assert_eq!(
        open.read(0..4).unwrap_err().kind(),
        ErrorKind::UnexpectedEof
    );
    let identity = files.status(Path::new("/m/a")).unwrap().identity;
    assert_ne!(open.status().unwrap().identity, identity);
}

#[test]
fn lists_give_one_directory_in_name_order() {
    let files = files();
    for path in ["/m/b", "/m/a", "/m/log/d", "/mm"] {
        write(&files, path, "");
    }
    let names: Vec<String> = files
        .list(Path::new("/m"))
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert_eq!(names, ["a", "b", "log"]);
    let error = files.list(Path::new("/x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
