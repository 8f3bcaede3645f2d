//! Files and folders are whole or absent.

use std::fs;
use std::io;
use std::path::Path;

use twinspan_sdk::file::{FileError, settle, write_folder, write_whole};

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn fails<T>() -> io::Result<T> {
    Err(io::Error::other("out of ideas"))
}

#[test]
fn a_file_is_written_or_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scores.json");
    write_whole(&path, |out| out.write_all(b"one")).unwrap();
    write_whole(&path, |out| out.write_all(b"two")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");

    let error = write_whole(&path, |out| out.write_all(b"three").and(fails())).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot write {}: out of ideas", path.display())
    );
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(entries(folder.path()), ["scores.json"]);
}

#[test]
fn a_file_needs_a_folder_and_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent").join("f");
    let text = write_whole(&absent, |_| Ok(())).unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("cannot write {}: ", absent.display())),
        "{text}"
    );
    let error = write_whole(Path::new("/"), |_| Ok(())).unwrap_err();
    assert!(matches!(error, FileError::NoName { .. }), "{error}");
    // A folder in the way stays, and so does nothing else.
    let way = folder.path().join("way");
    fs::create_dir(&way).unwrap();
    assert!(write_whole(&way, |_| Ok(())).is_err());
    assert_eq!(entries(folder.path()), ["way"]);
}

#[cfg(unix)]
#[test]
fn what_is_written_can_be_read_by_whom_the_umask_allows() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (plain, whole) = (folder.path().join("plain"), folder.path().join("whole"));
    fs::write(&plain, "").unwrap();
    write_whole(&whole, |_| Ok(())).unwrap();
    assert_eq!(mode(&whole), mode(&plain));
    let (plain, whole) = (folder.path().join("plain.d"), folder.path().join("whole.d"));
    fs::create_dir(&plain).unwrap();
    write_folder(&whole, "mark", |dir| fs::write(dir.join("mark"), "")).unwrap();
    assert_eq!(mode(&whole), mode(&plain));
}

#[test]
fn a_folder_is_written_replaced_or_left_as_it_was() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("artifact");
    let write = |names: &'static [&str]| {
        move |dir: &Path| {
            fs::create_dir(dir.join("inner"))?;
            names
                .iter()
                .try_for_each(|name| fs::write(dir.join(name), name))
        }
    };
    write_folder(&path, "recipe.toml", write(&["recipe.toml", "old"])).unwrap();
    write_folder(&path, "recipe.toml", write(&["recipe.toml", "inner/new"])).unwrap();
    assert_eq!(entries(&path), ["inner", "recipe.toml"]);
    assert_eq!(entries(&path.join("inner")), ["new"]);

    let error = write_folder(&path, "recipe.toml", |dir| {
        fs::write(dir.join("recipe.toml"), "half").and(fails())
    });
    assert!(error.unwrap_err().to_string().ends_with("out of ideas"));
    let unmarked = write_folder(&path, "recipe.toml", write(&["other"])).unwrap_err();
    assert_eq!(
        unmarked.to_string(),
        format!(
            "{} was not written: its content lacks recipe.toml",
            path.display()
        )
    );
    assert_eq!(fs::read(path.join("recipe.toml")).unwrap(), b"recipe.toml");
    assert_eq!(entries(parent.path()), ["artifact"]);
}

#[test]
fn a_folder_that_is_not_ours_is_never_replaced() {
    let parent = tempfile::tempdir().unwrap();
    let write = |dir: &Path| fs::write(dir.join("recipe.toml"), "");
    let pictures = parent.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    write_folder(&pictures, "recipe.toml", write).unwrap();
    fs::remove_file(pictures.join("recipe.toml")).unwrap();
    fs::write(pictures.join("cat.png"), "").unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [&pictures, &file] {
        let error = write_folder(path, "recipe.toml", |_| panic!("written for nothing"));
        assert_eq!(
            error.unwrap_err().to_string(),
            format!(
                "will not replace {}: it holds no recipe.toml, so it was not written by this \
                 program; choose another folder or remove it",
                path.display()
            )
        );
    }
    assert_eq!(entries(&pictures), ["cat.png"]);
    assert_eq!(entries(parent.path()), ["file", "pictures"]);
}

#[test]
fn what_a_killed_writer_began_is_cleared_up() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("last");
    let folder = |name: &str| {
        let folder = parent.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("recipe.toml"), name).unwrap();
    };
    folder(".last.AbC123.tmp");
    fs::write(parent.path().join(".last.xYz789.tmp"), "half").unwrap();
    // Killed between two renames: the old folder is put back.
    folder(".last.AbC124.old");
    // Not ours.
    for name in [".last.mine.tmp", ".other.AbC123.tmp", "last.AbC123.tmp"] {
        folder(name);
    }
    settle(&path).unwrap();
    let kept = [
        ".last.mine.tmp",
        ".other.AbC123.tmp",
        "last",
        "last.AbC123.tmp",
    ];
    assert_eq!(entries(parent.path()), kept);
    assert_eq!(
        fs::read(path.join("recipe.toml")).unwrap(),
        b".last.AbC124.old"
    );
    // Where the folder is there, the old one goes.
    folder(".last.AbC125.old");
    settle(&path).unwrap();
    assert_eq!(entries(parent.path()), kept);
    settle(&parent.path().join("absent/last")).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_reader_finds_a_folder_at_every_moment() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("last");
    let write = |dir: &Path| fs::write(dir.join("mark"), "whole");
    write_folder(&path, "mark", write).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..200).try_for_each(|_| write_folder(&path, "mark", write)));
        let mut looks = 0;
        while !writer.is_finished() {
            assert!(path.is_dir(), "gone at look {looks}");
            looks += 1;
        }
        writer.join().unwrap().unwrap();
        assert!(looks > 100);
    });
}
