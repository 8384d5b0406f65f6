//! `hugewalk check` in parts: on several machines, and across a kill.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

fn check(directory: &Path, arguments: &str) -> Command {
    // Who runs the tests in the background has SIGINT ignored, and what is started by them keeps to that unless told otherwise.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_hugewalk"), "check"]);
    command.current_dir(directory).args(arguments.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(directory: &Path, arguments: &str) -> Output {
    check(directory, arguments).output().expect("it ran")
}

fn json(output: &Output) -> Value {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Everything that a check finds, without the time that it took, and in how many parts.
fn found(output: &Output) -> Value {
    let mut report = json(output);
    for field in ["milliseconds", "jobs", "parts"] {
        assert!(report.as_object_mut().expect("an object").remove(field).is_some());
    }
    for verdict in report["verdicts"].as_array_mut().expect("a list") {
        if let Some(explored) = verdict["explored"].as_object_mut() {
            explored.remove("milliseconds");
        }
    }
    report
}

/// Refused: one line, exit code 2, nothing printed.
fn complaint(directory: &Path, arguments: &str) -> String {
    let output = run(directory, arguments);
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments}: {error}");
    assert_eq!(error.lines().count(), 1, "{arguments}: {error}");
    error.trim_end().to_owned()
}

fn names(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = fs::read_dir(directory).unwrap().map(name).collect();
    names.sort();
    names
}

/// Runs the parts at the same time, as processes, and joins what they found.
fn merged(directory: &Path, arguments: &str, parts: u32) -> Output {
    let file = |number| format!("part-{number}");
    let children: Vec<_> = (1..=parts)
        .map(|number| {
            let part = format!("{arguments} --shard {number}/{parts} --checkpoint {}", file(number));
            check(directory, &part).spawn().expect("it runs")
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().expect("it ran");
        assert!(output.status.code() < Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // In any order.
    let files: Vec<String> = (1..=parts).rev().map(file).collect();
    run(directory, &format!("merge {} --format json", files.join(" ")))
}

#[test]
fn parts_joined_are_the_whole() {
    for (arguments, parts) in [
        ("S1 S2 S8 S14/*", 3),
        ("S1 S8 --without revalidate", 2),
        ("S1 S8 --random 50000 --seed 7", 4),
        ("S8 --protocol rfc --pct 45000 --changes 2 --seed 7", 2),
        ("S1 --protocol legacy", 3),
        ("S1 --protocol legacy --preemptions 0", 1),
    ] {
        let directory = TempDir::new().expect("a directory");
        let whole = run(directory.path(), &format!("{arguments} --format json"));
        let merged = merged(directory.path(), arguments, parts);
        assert_eq!(found(&merged), found(&whole), "{arguments}");
        assert_eq!(merged.status.code(), whole.status.code(), "{arguments}");
    }
}

#[test]
fn the_steps_left_out_in_turn_are_a_part_of_the_campaign_too() {
    // Little effort: which cases there are is what counts.
    let (directory, arguments) = (TempDir::new().expect("a directory"), "--random 20");
    let whole = found(&run(directory.path(), &format!("{arguments} --format json")));
    let merged = found(&merged(directory.path(), arguments, 3));
    let left_out = |report: &Value| {
        report["verdicts"].as_array().expect("a list").iter().filter(|one| !one["left_out"].is_null()).count()
    };
    assert!(left_out(&whole) > 0);
    assert_eq!(merged, whole);
}

fn done(file: &Path) -> BTreeMap<String, Value> {
    let text = fs::read(file).expect("a checkpoint");
    let checkpoint: Value = serde_json::from_slice(&text).expect("a checkpoint is whole at any moment");
    serde_json::from_value(checkpoint["done"].clone()).expect("units by number")
}

/// More than can be done before it is stopped, however fast the machine and however slow its disk.
const LONG: &str = "S8 --protocol hugewalk --random 400000000 --seed 5 --jobs 1 --checkpoint kept";
const UNITS: usize = 20_000;

/// Starts a long check, and waits until it has kept more than so many units.
fn started(directory: &Path, more_than: usize) -> std::process::Child {
    let file = directory.join("kept");
    let child = check(directory, LONG).spawn().expect("it runs");
    let start = Instant::now();
    while !file.exists() || done(&file).len() <= more_than {
        assert!(start.elapsed() < Duration::from_secs(120), "nothing was kept");
        thread::sleep(Duration::from_millis(5));
    }
    child
}

/// SIGKILL.
fn kill(mut child: std::process::Child) {
    child.kill().expect("killed");
    assert_eq!(child.wait().expect("it ended").code(), None, "it had finished before it was killed");
}

/// With the time that it took: a second run of it would have taken another.
fn is_kept(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) {
    assert!(before.len() < after.len(), "{} of {}", before.len(), after.len());
    for (number, outcome) in before {
        assert_eq!(after.get(number), Some(outcome), "unit {number}");
    }
}

#[test]
fn what_is_done_before_a_kill_is_not_done_again() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("kept");
    kill(started(directory.path(), 0));
    let before = done(&file);
    kill(started(directory.path(), before.len()));
    is_kept(&before, &done(&file));
}

#[test]
fn who_goes_on_finds_what_is_found_at_once() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("kept");
    let work = "S8 --protocol hugewalk --random 160000 --seed 5 --jobs 1 --format json";
    let whole = run(directory.path(), work);
    let arguments = format!("{work} --checkpoint kept");
    assert_eq!(found(&run(directory.path(), &arguments)), found(&whole));
    // As a kill leaves it.
    let mut checkpoint: Value =
        serde_json::from_slice(&fs::read(&file).expect("a checkpoint")).expect("JSON");
    checkpoint["done"].as_object_mut().expect("units by number").retain(|number, _| "135".contains(number));
    fs::write(&file, checkpoint.to_string()).expect("written");
    let before = done(&file);
    assert_eq!(before.len(), 3);
    assert_eq!(found(&run(directory.path(), &arguments)), found(&whole));
    let after = done(&file);
    is_kept(&before, &after);
    // A third time there is nothing to do.
    assert_eq!((found(&run(directory.path(), &arguments)), done(&file)), (found(&whole), after));
    assert_eq!(names(directory.path()), ["kept"]);
}

#[test]
fn two_processes_do_not_work_on_one_checkpoint() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("kept");
    let mut first = started(directory.path(), 0);
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&file, link).expect("a link");
    let in_use = ": is in use by another `hugewalk check`; wait for it, or name another file";
    for _ in 0..20 {
        // At any moment: while the other one replaces the file, too.
        assert_eq!(complaint(directory.path(), LONG), format!("hugewalk: kept{in_use}"));
    }
    let by_link = LONG.replace("checkpoint kept", "checkpoint link");
    assert_eq!(complaint(directory.path(), &by_link), format!("hugewalk: link{in_use}"));
    let before = done(&file).len();
    let start = Instant::now();
    while done(&file).len() == before {
        assert!(start.elapsed() < Duration::from_secs(60), "the first goes on");
        thread::sleep(Duration::from_millis(5));
    }
    first.kill().expect("killed");
    first.wait().expect("it ended");
    // A kill lets it go.
    let mut second = check(directory.path(), LONG).spawn().expect("it runs");
    thread::sleep(Duration::from_millis(300));
    assert!(second.try_wait().expect("its state").is_none(), "it is at work");
    second.kill().expect("killed");
    second.wait().expect("it ended");
    assert_eq!(names(directory.path()), ["kept", "link"]);
}

#[test]
fn of_processes_that_begin_together_one_gets_the_checkpoint() {
    let directory = TempDir::new().expect("a directory");
    for _ in 0..5 {
        let mut all: Vec<_> =
            (0..4).map(|_| check(directory.path(), LONG).spawn().expect("it runs")).collect();
        let start = Instant::now();
        let is_running = |child: &mut std::process::Child| child.try_wait().expect("its state").is_none();
        while all.iter_mut().map(is_running).filter(|&running| running).count() > 1 {
            assert!(start.elapsed() < Duration::from_secs(60), "more than one");
            thread::sleep(Duration::from_millis(5));
        }
        let all: Vec<_> = all.into_iter().map(|mut child| (is_running(&mut child), child)).collect();
        let (running, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(|(running, _)| *running);
        assert_eq!((running.len(), refused.len()), (1, 3));
        for (_, child) in refused {
            let output = child.wait_with_output().expect("it ended");
            let error = String::from_utf8(output.stderr).expect("text");
            assert!(error.contains("is in use by another `hugewalk check`"), "{error}");
        }
        for (_, mut child) in running {
            child.kill().expect("killed");
            child.wait().expect("it ended");
        }
        done(&directory.path().join("kept"));
        fs::remove_file(directory.path().join("kept")).expect("removed");
    }
}

#[test]
fn who_is_asked_to_stop_keeps_what_is_done_says_so_and_ends_by_the_signal() {
    use std::os::unix::process::ExitStatusExt;
    for (signal, number) in [("INT", 2), ("TERM", 15)] {
        let directory = TempDir::new().expect("a directory");
        let file = directory.path().join("kept");
        let child = started(directory.path(), 0);
        let start = Instant::now();
        let kill = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        let output = child.wait_with_output().expect("it ended");
        // Long before the unit at hand could be done with all the others.
        assert!(start.elapsed() < Duration::from_secs(60));
        let error = String::from_utf8(output.stderr).expect("text");
        let done = done(&file).len();
        let expected = format!(
            "hugewalk: stopped by SIG{signal} with {done} of {UNITS} units done; they are kept in kept: the same command goes on from there\n"
        );
        assert_eq!((output.status.signal(), error, output.stdout.len()), (Some(number), expected, 0));
    }
}

#[test]
fn parts_have_taken_together_what_they_take_one_after_the_other() {
    let directory = TempDir::new().expect("a directory");
    let part = |arguments: &str| json(&run(directory.path(), &format!("{arguments} --format json")));
    let one = part("S1 S8 --shard 1/2 --jobs 1 --checkpoint one");
    let two = part("S1 S8 --shard 2/2 --jobs 3 --checkpoint two");
    let kept = |name: &str| {
        let text = fs::read(directory.path().join(name)).expect("a checkpoint");
        let checkpoint: Value = serde_json::from_slice(&text).expect("JSON");
        checkpoint["spent"]["milliseconds"].as_u64().expect("a number")
    };
    let together = part("merge one two");
    assert_eq!([&one["jobs"], &two["jobs"], &together["jobs"]], [1, 3, 3]);
    assert_eq!([&one["parts"], &together["parts"]], [1, 2]);
    assert_eq!(together["milliseconds"].as_u64(), Some(kept("one") + kept("two")));
    // What was spent before is not forgotten by who finds nothing left to do.
    let before = kept("one");
    let again = part("S1 S8 --shard 1/2 --jobs 1 --checkpoint one");
    assert!(again["milliseconds"].as_u64() >= Some(before) && kept("one") >= before);
    let text = String::from_utf8(run(directory.path(), "merge one two").stdout).expect("text");
    assert!(text.contains(" in 2 parts, together ") && text.contains(" s, 3 threads each at most"), "{text}");
}

#[test]
fn a_place_that_cannot_hold_a_checkpoint_is_refused_at_once() {
    let directory = TempDir::new().expect("a directory");
    let complaint = |arguments: &str| complaint(directory.path(), arguments);
    for device in ["/dev/full", "/dev/null", "/dev/zero"] {
        let line = complaint(&format!("S8 --checkpoint {device}"));
        assert_eq!(line, format!("hugewalk: {device}: cannot be read: is not a regular file"));
    }
    assert!(complaint("merge /dev/zero").starts_with("hugewalk: /dev/zero: is not a checkpoint of"));
    std::os::unix::fs::symlink("nowhere", directory.path().join("link")).expect("a link");
    assert_eq!(
        complaint("S8 --checkpoint link"),
        "hugewalk: link: cannot be written: is a link that leads nowhere"
    );
    assert_eq!(
        complaint("S8 --html same --checkpoint ./same"),
        "hugewalk: same: --html and --checkpoint would be the same file; give each its own"
    );
    assert!(run(directory.path(), "S8 --protocol rfc --checkpoint kept").status.success());
    let before = fs::read(directory.path().join("kept")).expect("a checkpoint");
    assert_eq!(
        complaint("merge kept --html kept"),
        "hugewalk: kept: --html and a checkpoint to join would be the same file; give each its own"
    );
    assert_eq!(fs::read(directory.path().join("kept")).expect("a checkpoint"), before);
    assert_eq!(names(directory.path()), ["kept", "link"]);
}

#[test]
fn a_checkpoint_may_come_through_a_pipe() {
    let directory = TempDir::new().expect("a directory");
    assert!(run(directory.path(), "S8 --protocol rfc --checkpoint kept").status.success());
    let merged = check(directory.path(), "merge /dev/stdin --format json")
        .stdin(fs::File::open(directory.path().join("kept")).expect("a checkpoint"))
        .output()
        .expect("it ran");
    assert_eq!(found(&merged), found(&run(directory.path(), "S8 --protocol rfc --format json")));
}

#[test]
fn a_checkpoint_that_does_not_belong_is_refused_and_stays_as_it_is() {
    let directory = TempDir::new().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    assert!(run(directory.path(), "S8 --protocol rfc --checkpoint kept").status.success());
    assert!(
        run(directory.path(), "S8 --protocol rfc --random 5 --seed 7 --checkpoint dice").status.success()
    );
    let kept = fs::read_to_string(at("kept")).expect("a checkpoint");
    let changed = |from: &str, to: &str| {
        assert!(kept.contains(from), "{from}: {kept}");
        kept.replacen(from, to, 1)
    };
    fs::write(at("cut"), &kept[..kept.len() / 2]).expect("written");
    fs::write(at("empty"), "").expect("written");
    fs::write(at("bytes"), b"\xff\xfe").expect("written");
    fs::write(at("newer"), changed("campaign/2", "campaign/3")).expect("written");
    fs::write(at("version"), changed(env!("CARGO_PKG_VERSION"), "99.0.0")).expect("written");
    fs::write(at("stray"), changed("\"done\":{\"0\"", "\"done\":{\"7\"")).expect("written");
    fs::write(at("shard"), changed("\"number\":1", "\"number\":0")).expect("written");
    let report = run(directory.path(), "S8 --protocol rfc --format json").stdout;
    assert!(report.starts_with(b"{\"schema\":\"hugewalk-check/"));
    fs::write(at("report"), report).expect("written");
    fs::write(at("nothing"), "{}").expect("written");
    fs::write(at("units"), changed("\"units\":1", "\"units\":2")).expect("written");
    let before: BTreeMap<_, _> = names(directory.path())
        .into_iter()
        .map(|name| (name.clone(), fs::read(at(&name)).unwrap()))
        .collect();
    let report_not_checkpoint = "report: is a document of another kind, `hugewalk-check/2`, and no checkpoint; \
                                 name a file that --checkpoint made, or a new one";
    let none = |name: &str| format!("{name}: is not a checkpoint of `hugewalk check`: ");
    for (options, expected) in [
        ("S8 --protocol rfc --checkpoint cut", none("cut")),
        ("S8 --protocol rfc --checkpoint empty", none("empty")),
        ("S8 --protocol rfc --checkpoint bytes", none("bytes")),
        ("S8 --protocol rfc --checkpoint .", ".: cannot be read: ".to_owned()),
        ("S8 --protocol rfc --checkpoint newer", none("newer")),
        (
            "S8 --protocol rfc --checkpoint version",
            "version: was made by version 99.0.0, and this is ".to_owned(),
        ),
        ("S8 --protocol rfc --checkpoint stray", none("stray")),
        ("S8 --protocol rfc --checkpoint shard", none("shard")),
        ("S8 --protocol rfc --checkpoint units", none("units")),
        ("S9 --protocol rfc --checkpoint kept", "kept: was made with the scenarios S8, not S9".to_owned()),
        (
            "S8 --protocol legacy --checkpoint kept",
            "kept: was made with the protocols rfc, not legacy".to_owned(),
        ),
        (
            "S8 --protocol rfc --freed-at-once --checkpoint kept",
            "kept: was made with no --freed-at-once, not --freed-at-once given".to_owned(),
        ),
        (
            "S8 --protocol rfc --preemptions 1 --checkpoint kept",
            "kept: was made with no --preemptions, not --preemptions 1; give ".to_owned(),
        ),
        (
            "S8 --protocol rfc --random 5 --checkpoint kept",
            "kept: was made with no --random, not --random 5; give ".to_owned(),
        ),
        (
            "S8 --protocol rfc --executions 7 --checkpoint kept",
            "kept: was made with --executions 5000000, not 7; give ".to_owned(),
        ),
        (
            "S8 --protocol rfc --random 5 --seed 8 --checkpoint dice",
            "dice: was made with --seed 7, not 8; give ".to_owned(),
        ),
        (
            "S8 --protocol rfc --shard 1/2 --checkpoint kept",
            "kept: was made with --shard 1/1, not 1/2".to_owned(),
        ),
        ("S8 --protocol rfc --checkpoint report", report_not_checkpoint.to_owned()),
        ("status report", report_not_checkpoint.to_owned()),
        ("merge kept report", report_not_checkpoint.to_owned()),
        ("status nothing", format!("{}it has no schema; ", none("nothing"))),
        ("merge cut", none("cut")),
        ("merge stray", none("stray")),
        ("merge version", "version: was made by version 99.0.0, and this is ".to_owned()),
        ("merge kept units", none("units")),
        ("merge kept kept", "kept: is shard 1/1 again; name each once".to_owned()),
    ] {
        let line = complaint(directory.path(), options);
        assert!(line.starts_with(&format!("hugewalk: {expected}")), "{options}: {line}");
    }
    let after: BTreeMap<_, _> = names(directory.path())
        .into_iter()
        .map(|name| (name.clone(), fs::read(at(&name)).unwrap()))
        .collect();
    assert_eq!(after, before, "nothing half written");
}

/// What was not done in them is what is missing of a campaign: the rest is shown.
#[test]
fn parts_that_are_no_whole_show_what_there_is_and_what_is_missing() {
    let directory = TempDir::new().expect("a directory");
    let done = |arguments: &str| assert!(run(directory.path(), arguments).status.code() < Some(2));
    let complaint = |arguments: &str| complaint(directory.path(), arguments);
    done("S8 --shard 1/2 --checkpoint one");
    done("S8 --shard 2/2 --checkpoint two");
    done("S8 --shard 2/3 --checkpoint third");
    done("S9 --shard 2/2 --checkpoint other");
    let text = |arguments: &str, code: i32| {
        let output = run(directory.path(), arguments);
        assert_eq!((output.status.code(), output.stderr.len()), (Some(code), 0), "{arguments}");
        String::from_utf8(output.stdout).expect("text")
    };
    let merged = text("merge one", 3);
    assert!(merged.contains("shard 2/2 is unfinished: nothing of it is in these files"), "{merged}");
    assert!(merged.contains("6 verdicts, all as expected so far;"), "{merged}");
    let report: Value = serde_json::from_str(&text("merge two --format json", 3)).expect("JSON");
    assert_eq!(report["missing"], serde_json::json!([{"shard": "1/2", "done": 0, "of": 6}]));
    assert_eq!(report["verdicts"].as_array().map(Vec::len), Some(5));

    let kept = fs::read_to_string(directory.path().join("two")).expect("a checkpoint");
    let mut half: Value = serde_json::from_str(&kept).expect("JSON");
    half["done"].as_object_mut().expect("units").retain(|number, _| number == "1");
    fs::write(directory.path().join("half"), half.to_string()).expect("written");
    let merged = text("merge one half --html page.html", 3);
    assert!(merged.contains("shard 2/2 is unfinished: 1 of 5 units is in these files"), "{merged}");
    let page = fs::read_to_string(directory.path().join("page.html")).expect("a page");
    assert!(page.contains(r#""missing":[{"shard":"2/2","done":1,"of":5}]"#), "the page says it, too");
    assert!(!text("merge one two", 0).contains("unfinished"));

    let status = text("status one half", 3);
    assert!(status.starts_with("hugewalk check S8\n"), "{status}");
    assert!(
        status.contains("one   shard 1/2  6 of 6 units, 100 %\nhalf  shard 2/2  1 of 5 units, 20 %\n"),
        "{status}"
    );
    assert!(
        status.contains("\n7 of 11 units, 63 %, in ") && status.contains(" left if all parts run at once"),
        "{status}"
    );
    let status = text("status one", 3);
    assert!(status.contains("no file of shard 2/2\n"), "{status}");
    assert!(text("status two one", 0).contains("11 of 11 units, 100 %"));
    let status: Value = serde_json::from_str(&text("status one --format json", 3)).expect("JSON");
    assert_eq!(
        (&status["done"], &status["units"], &status["missing"][0]),
        (&6.into(), &11.into(), &"2/2".into())
    );

    assert_eq!(complaint("merge one two two"), "hugewalk: two: is shard 2/2 again; name each once");
    assert_eq!(complaint("status one two two"), "hugewalk: two: is shard 2/2 again; name each once");
    assert!(
        complaint("merge one third").starts_with("hugewalk: third: was made with --shard K/3, not K/2; ")
    );
    assert!(
        complaint("merge one other").starts_with("hugewalk: other: was made with the scenarios S9, not S8")
    );
}

#[test]
fn a_part_with_nothing_to_do_says_so() {
    let directory = TempDir::new().expect("a directory");
    let output = run(directory.path(), "S8 --shard 12/12 --checkpoint kept");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "nothing to do in part 12 of 12 (11 cases)\n");
    assert!(
        json(&run(directory.path(), "S8 --shard 12/12 --format json"))["verdicts"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );
}

/// As `timeout` does, which signals the process and then its group; and whatever else comes until all is kept.
#[test]
fn signals_that_follow_each_other_lose_nothing() {
    use std::os::unix::process::ExitStatusExt;
    for (first, then) in [("TERM", "TERM"), ("TERM", "INT"), ("INT", "INT"), ("INT", "TERM")] {
        for _ in 0..5 {
            let directory = TempDir::new().expect("a directory");
            let child = started(directory.path(), 0);
            let script = format!("kill -{first} {0}; kill -{then} {0}; kill -{then} {0}; true", child.id());
            assert!(
                Command::new("sh")
                    .args(["-c", &script])
                    .stderr(Stdio::null())
                    .status()
                    .expect("it runs")
                    .success()
            );
            let output = child.wait_with_output().expect("it ended");
            let error = String::from_utf8(output.stderr).expect("text");
            let done = done(&directory.path().join("kept")).len();
            assert!(
                error.contains(&format!(" with {done} of {UNITS} units done; they are kept")),
                "{first}, {then}: {error}"
            );
            assert!(output.status.signal().is_some(), "{first}, {then}");
            assert_eq!(names(directory.path()), ["kept"], "{first}, {then}");
        }
    }
}

#[test]
fn what_a_kill_left_half_written_is_cleared_away() {
    let directory = TempDir::new().expect("a directory");
    fs::write(directory.path().join("kept.new"), "{\"schema\": \"half").expect("written");
    assert!(run(directory.path(), "S8 --protocol rfc --checkpoint kept").status.success());
    assert_eq!(names(directory.path()), ["kept"]);
}

#[test]
fn a_pipe_gets_no_progress_bar_and_no_colour() {
    let directory = TempDir::new().expect("a directory");
    let output = run(directory.path(), "S1 S8");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    assert!(!output.stdout.contains(&b'\x1b') && !output.stdout.contains(&b'\r'));
}
